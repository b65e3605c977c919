"""Reading every frame of a capture folder once, to find what is wrong before a long build does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from datagen.common.errors import CanonfaceError
from datagen.common.progress import Progress
from datagen.flows.views import NO_IMAGE, look_at_views
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
        ``where`` (subject/sequence, and frame or camera) and ``problem``.
    notes : list of dict
        Of what is allowed but leaves something out, alike.
    """

    sequences: int = 0
    frames: int = 0
    problems: list[dict[str, str]] = field(default_factory=list)
    notes: list[dict[str, str]] = field(default_factory=list)

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
    for folder in sorted(root.glob("*/*")):
        key = SequenceKey(folder.parent.name, folder.name)
        if not folder.is_dir() or key.subject.startswith(".") or key.sequence.startswith("."):
            continue
        result.sequences += 1
        capture = result.attempt(str(key), partial(read_capture_file, folder))
        if capture is not None:
            _check_sequence(source, key, tuple(capture.frames), result, progress)
    return result


def _check_sequence(
    source: FolderCaptures, key: SequenceKey, frames: tuple[int, ...], result: CheckResult, progress: Progress
) -> None:
    progress.expect(len(frames))
    found: dict[str, list[str]] = {}
    blind: dict[str, list[str]] = {}
    read = 0
    for index in frames:
        where = f"{key}/{index:06d}"
        frame = result.attempt(where, partial(source.frame, key, index))
        result.frames += 1
        if frame is not None:
            read += 1
            views = look_at_views(frame)
            for camera, reason in views.wrong.items():
                found.setdefault(camera, []).append(f"frame {index}: {reason}")
            for camera, reason in views.blind.items():
                blind.setdefault(camera, []).append(reason)
        progress.advance(1)
    for camera, reasons in found.items():
        more = f" ({len(reasons)} of {len(frames)} frames have such a problem)" if len(reasons) > 1 else ""
        result.problems.append({"where": f"{key} camera {camera}", "problem": reasons[0] + more})
    for camera, reasons in blind.items():
        # Seen from aside, some frames of a moving head may be outside an image.
        if len(reasons) < read:
            continue
        without_image = all(reason == NO_IMAGE for reason in reasons)
        listed = result.notes if without_image else result.problems
        problem = next(reason for reason in reasons if without_image or reason != NO_IMAGE)
        listed.append({"where": f"{key} camera {camera}", "problem": f"{problem}, so that it gives no samples"})
