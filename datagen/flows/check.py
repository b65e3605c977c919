"""Reading every frame of a capture folder once, to find what is wrong before a long build does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from datagen.common.errors import CanonfaceError
from datagen.common.progress import Progress
from datagen.sources.capture_file import read_capture_file
from datagen.sources.folder import FolderCaptures
from datagen.sources.frame import SequenceKey


@dataclass
class CheckResult:
    """What a check looked at and found.

    Attributes
    ----------
    sequences, frames : int
        Looked at.
    problems : list of dict
        ``where`` (subject/sequence/frame, and the camera where an image is meant) and ``problem``.
    """

    sequences: int = 0
    frames: int = 0
    problems: list[dict[str, str]] = field(default_factory=list)

    def attempt(self, where: str, read: Callable[[], Any]) -> Any:
        """Call ``read``; note the error if it raises one that a user can mend, and return None."""
        try:
            return read()
        except CanonfaceError as error:
            self.problems.append({"where": where, "problem": str(error)})
            return None


def check_captures(root: Path, progress: Progress) -> CheckResult:
    """Read everything under a capture root.

    Parameters
    ----------
    progress : Progress
        Advanced by one for each frame.

    Raises
    ------
    InputError
        If ``root`` is not a folder of captures.
    """
    source, result = FolderCaptures(root), CheckResult()
    sequences: list[tuple[SequenceKey, tuple[int, ...]]] = []
    for folder in sorted(root.glob("*/*")):
        key = SequenceKey(folder.parent.name, folder.name)
        if not folder.is_dir() or key.subject.startswith(".") or key.sequence.startswith("."):
            continue
        result.sequences += 1
        capture = result.attempt(str(key), partial(read_capture_file, folder))
        if capture is not None:
            sequences.append((key, tuple(capture.frames)))
    # Counted before the first is read, so that what is shown is a share of all.
    progress.expect(sum(len(frames) for _, frames in sequences))
    for key, frames in sequences:
        _check_sequence(source, key, frames, result, progress)
    result.problems.sort(key=lambda problem: problem["where"])
    return result


def _check_sequence(
    source: FolderCaptures, key: SequenceKey, frames: tuple[int, ...], result: CheckResult, progress: Progress
) -> None:
    for index in frames:
        where = f"{key}/{index:06d}"
        frame = result.attempt(where, partial(source.frame, key, index))
        result.frames += 1
        if frame is not None:
            for kind, readers in (("image", frame.images), ("mask", frame.masks)):
                for camera, read in readers.items():
                    result.attempt(f"{where} {kind} of camera {camera}", read)
        progress.advance(1)
