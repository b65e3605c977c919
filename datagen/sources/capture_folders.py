"""Finding the sequences of a folder, and writing a commented ``capture.json`` into each that has none."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from datagen.common.documents import parse_json, read_text
from datagen.common.errors import CanonfaceError, InputError
from datagen.common.files import atomic_write_bytes, storage_errors
from datagen.common.ownership import check_output_file
from datagen.common.settings import parse
from datagen.geometry.mesh_io import MESH_KINDS, SUFFIXES
from datagen.sources.capture_draft import PICTURES_READ, Answers, Survey, survey
from datagen.sources.capture_file import CAPTURE_FILE, OPEN, CaptureFile, open_places, without_notes
from datagen.sources.draft_text import Missing, capture_text, is_untouched, missing_of
from datagen.sources.topology import FOLDER as TOPOLOGIES
from datagen.sources.video_patterns import VIDEOS

DEPTH = 2  # of a sequence below the root of captures
_PICTURES = (*PICTURES_READ, *VIDEOS)
_ASKED = ("unit", "camera_unit", "fps", "pixel_center")

# None: there is a capture.json already, of which nothing needs to be found out.
Found = Survey | CanonfaceError | None


@dataclass(frozen=True)
class Drafted:
    """What became of one sequence folder.

    Attributes
    ----------
    folder : Path
    written : bool
        Whether its capture.json was written now.
    found : Survey or None
        None where nothing could be written, or a capture.json of somebody else's is there.
    missing : tuple of Missing
        What is still to be filled in.
    problem : str
        Why nothing was written; empty if something was, or nothing needed to be.
    """

    folder: Path
    written: bool = False
    found: Survey | None = None
    missing: tuple[Missing, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Drafts:
    """All sequence folders below a folder.

    Attributes
    ----------
    depth : int
        How far below it they lie: 2 in the layout that is read.
    sequences : tuple of Drafted
    """

    depth: int
    sequences: tuple[Drafted, ...]


def draft_captures(root: Path, answers: Answers) -> Drafts:
    """Write a ``capture.json`` into each sequence folder at or below ``root`` that has none.

    One that was written here is written again, with what is known by then, as long as nobody changed it; any other is
    left as it is.

    Raises
    ------
    InputError
        If the folder is missing, or holds nothing that is a sequence: with what was looked for.
    StorageError
        If the disk refuses.
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder", "a folder with pictures and scans", "Check the path")
    with storage_errors(f"reading {root}"):
        files = list(_files(root, root))
    depth, looked = _sequences(root, files, answers)
    return Drafts(depth, tuple(_settled(folder, found, answers) for folder, found in looked.items()))


def _files(root: Path, folder: Path) -> Iterator[str]:
    """Yield all files below a folder, relative; links are followed where the reader follows them: to whole folders."""
    depth = len(folder.relative_to(root).parts)
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if entry.is_file():
            yield Path(entry.path).relative_to(root).as_posix()
        elif entry.is_dir(follow_symlinks=depth < DEPTH) and not (depth == 0 and entry.name == TOPOLOGIES):
            yield from _files(root, Path(entry.path))


def _sequences(root: Path, files: Sequence[str], answers: Answers) -> tuple[int, dict[Path, Found]]:
    """Return how deep the sequences lie and what each is: the deepest level at which at least one can be read.

    Where no folder has scans, those with pictures of several cameras are looked for.
    """
    declared = [path.count("/") for path in files if path.rpartition("/")[2] == CAPTURE_FILE]
    levels = [max(level for level in declared if level <= DEPTH)] if min(declared, default=9) <= DEPTH else [2, 1, 0]
    refused: CanonfaceError | None = None
    kinds = SUFFIXES if any(path.lower().endswith(SUFFIXES) for path in files) or answers.scan else _PICTURES
    for depth in levels:
        looked = _looked_at(root, files, depth, answers, kinds)
        if any(not isinstance(found, CanonfaceError) for found in looked.values()):
            around = _looked_at(root, files, depth - 1, answers, kinds) if _are_frames(looked) else {}
            if len(around) == 1 and isinstance(next(iter(around.values())), Survey):
                return depth - 1, around
            return depth, looked
        problem = next((found for found in looked.values() if isinstance(found, CanonfaceError)), None)
        # A folder of pictures may be one camera's: then the folder around it is what was meant.
        refused = (problem or refused) if kinds is _PICTURES else (refused or problem)
    if refused is None:
        raise InputError(
            f"{root} holds neither scans nor pictures that are read: {len(files)} files",
            f"for each recording a folder with scans ({', '.join(MESH_KINDS)}) and pictures "
            f"({', '.join(PICTURES_READ)}), or pictures alone, a frame number in their names",
            "Check the path",
        )
    raise refused


def _looked_at(
    root: Path, files: Sequence[str], depth: int, answers: Answers, kinds: tuple[str, ...]
) -> dict[Path, Found]:
    """Survey the folders at a depth that hold files of one of these kinds."""
    groups: dict[str, list[str]] = {}
    for path in files:
        parts = path.split("/", depth)
        if len(parts) == depth + 1:
            groups.setdefault("/".join(parts[:depth]), []).append(parts[depth])
    looked: dict[Path, Found] = {}
    for name, inside in sorted(groups.items()):
        folder = root / name if name else root
        pictures = any(path.lower().endswith(_PICTURES) for path in inside)
        if CAPTURE_FILE in inside and not _is_draft(folder):
            looked[folder] = None
        elif any(path.lower().endswith(kinds) for path in inside) and (pictures or not depth):
            around = [parent for parent in folder.parents if parent == root or root in parent.parents]
            above = [path for parent in around for path in sorted(parent.glob("*.json"))]
            try:
                looked[folder] = survey(folder, inside, above, answers)
            except CanonfaceError as error:
                looked[folder] = None if CAPTURE_FILE in inside else error
    return looked


def _are_frames(looked: Mapping[Path, Found]) -> bool:
    """Whether folders are the frames of one sequence: each holds one, another one, which is in the folder's name."""
    surveys = {folder: found for folder, found in looked.items() if isinstance(found, Survey)}
    numbers = [found.frames for found in surveys.values()]
    return (
        len(surveys) == len(looked) > 1
        and all(len(frames) == 1 for frames in numbers)
        and len(set(numbers)) == len(numbers)
        and all(str(found.frames[0]) in folder.name for folder, found in surveys.items())
    )


def _is_draft(folder: Path) -> bool:
    try:
        return is_untouched(read_text(folder / CAPTURE_FILE))
    except (OSError, ValueError):
        return False


def _settled(folder: Path, found: Found, answers: Answers) -> Drafted:
    """Write what can be written of one sequence."""
    path = folder / CAPTURE_FILE
    if isinstance(found, CanonfaceError):
        return Drafted(folder, problem=str(found))
    there = os.path.lexists(path)
    if found is None:
        return Drafted(folder, missing=_open_in(folder))
    if there:
        # What an earlier call was told stays, unless this one is told otherwise.
        before = parse_json(read_text(path))
        kept = {key: before.get(key, OPEN) for key in _ASKED if getattr(answers, key) is None}
        answers = replace(answers, **{key: value for key, value in kept.items() if value != OPEN})
    text, missing = capture_text(found, answers), tuple(missing_of(found, answers))
    content = without_notes(parse_json(text))
    if not open_places(content):
        # What is wrong is said before anything is written: a camera that is none, a rate of zero.
        try:
            parse(CaptureFile, content, str(path), "Check what was found and given", error=InputError).recorded(
                str(path)
            )
        except CanonfaceError as error:
            return Drafted(folder, problem=str(error))
    check_output_file(path, overwrite=there)
    atomic_write_bytes(path, text.encode())
    return Drafted(folder, True, found, missing)


def _open_in(folder: Path) -> tuple[Missing, ...]:
    try:
        content = parse_json(read_text(folder / CAPTURE_FILE))
    except (OSError, ValueError) as error:
        return (Missing(CAPTURE_FILE, f"cannot be read ({error})"),)
    return tuple(Missing(place, "to be filled in") for place in open_places(without_notes(content)))
