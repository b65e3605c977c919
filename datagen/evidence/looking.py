"""Looking at the pictures of captures, and writing what they say beside them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from datagen.common.errors import CanonfaceError, InputError
from datagen.common.files import make_folders, storage_errors, write_owned_bytes
from datagen.common.ownership import listed, refuse_strangers, strangers
from datagen.common.seen_points import SUFFIX, seen_points_bytes
from datagen.evidence.contract import Maker, Seen
from datagen.sources.capture_file import read_capture_file
from datagen.sources.frame import Captures, Frame, Image, SequenceInfo

FOLDER = "evidence"


@dataclass(frozen=True)
class Told:
    """What one picture said."""

    sequence: str
    frame: int
    camera: str
    points: int
    faces: int
    note: str

    def __str__(self) -> str:
        return f"{self.sequence}/{self.frame:06d} {self.camera}: {self.note}"

    def to_json(self) -> dict[str, object]:
        """Return it as JSON data."""
        return dict(self.__dict__)


@dataclass
class Looked:
    """What all pictures said.

    Attributes
    ----------
    told : list of Told
        Picture by picture.
    unread : list of str
        Frames and pictures that could not be read, and why.
    """

    told: list[Told] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    @property
    def found(self) -> int:
        """In how many pictures something was found."""
        return sum(one.points > 0 for one in self.told)

    def counted(self) -> str:
        """Return it in a line."""
        faces = Counter("none" if one.faces == 0 else "one" if one.faces == 1 else "several" for one in self.told)
        parts = ", ".join(f"{name} in {faces[name]}" for name in ("one", "several", "none") if faces[name])
        return f"evidence of {self.found} of {len(self.told)} pictures; faces: {parts or 'no pictures'}"


def pattern_of(maker: str) -> str:
    """Return what a capture.json names as ``evidence``, to have what a maker saw used."""
    return f"{FOLDER}/{maker}/{{camera}}/{{frame:06d}}{SUFFIX}"


def unnamed(root: Path, wanted: list[tuple[SequenceInfo, tuple[int, ...]]], maker: str) -> list[str]:
    """Return the sequences that have files of a maker which their capture.json does not name."""
    found = []
    for info, _ in wanted:
        folder = root / info.key.subject / info.key.sequence
        named = read_capture_file(folder).evidence or ()
        patterns = (named,) if isinstance(named, str) else tuple(named)
        if pattern_of(maker) not in patterns and (folder / FOLDER / maker).is_dir():
            found.append(str(info.key))
    return found


def evidence_file(folder: Path, maker: str, camera: str, frame: int) -> Path:
    """Return where a sequence's folder holds what a maker saw in a picture."""
    return folder / FOLDER / maker / camera / f"{frame:06d}{SUFFIX}"


def chosen(captures: Captures, only: str | None, every: int) -> list[tuple[SequenceInfo, tuple[int, ...]]]:
    """Return the sequences and frames that are wanted.

    Raises
    ------
    InputError
        If there are none.
    """
    wanted = [info for info in captures.sequences() if only is None or fnmatchcase(str(info.key), only)]
    if not wanted:
        raise InputError(f"no sequence is called {only!r}", "subject/sequence, such as 'anna/*'", "Change --only")
    return [(info, info.frames[::every]) for info in wanted]


def look_at(
    captures: Captures,
    wanted: list[tuple[SequenceInfo, tuple[int, ...]]],
    root: Path,
    maker: Maker,
    step: Callable[[int], object] = lambda _: None,
) -> Looked:
    """Look at frames, and write a file for each picture that says something; one of an earlier run goes otherwise.

    Raises
    ------
    StorageError
        If something that is not ours lies where a file would be, or the disk refuses.
    """
    looked = Looked()
    for info, frames in wanted:
        folder = root / info.key.subject / info.key.sequence
        for index in frames:
            try:
                frame = captures.frame(info.key, index)
            except CanonfaceError as error:
                looked.unread.append(f"{info.key}/{index:06d}: {error}")
            else:
                for camera, seen in _looked_at(frame, maker, looked):
                    _write(evidence_file(folder, maker.name, camera, index), seen)
                    count = len(seen.points) if seen.points is not None else 0
                    looked.told.append(Told(str(info.key), index, camera, count, seen.faces, seen.note))
            step(1)
    return looked


def _looked_at(frame: Frame, maker: Maker, looked: Looked) -> Iterator[tuple[str, Seen]]:
    pictures: dict[str, Image] = {}
    for name, read in frame.images.items():
        try:
            pictures[name] = read()
        except CanonfaceError as error:
            looked.unread.append(f"{frame.key}/{frame.index:06d} {name}: {error}")
    cameras = {camera.name: camera for camera in frame.cameras if camera.name in pictures}
    yield from maker.look({name: pictures[name] for name in cameras}, cameras).items()


def _write(path: Path, seen: Seen) -> None:
    if seen.points is not None:
        with storage_errors(f"writing {path}"):
            make_folders(path.parent)
        write_owned_bytes(path, seen_points_bytes(seen.points))
    elif os.path.lexists(path):
        with storage_errors(f"removing {path}"):
            refuse_strangers(strangers(path.parent, [path.name]))
            if path.name in (listed(path.parent) or {}):
                path.unlink()
