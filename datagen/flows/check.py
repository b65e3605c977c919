"""Reading every frame of a capture folder once, to find what is wrong before a long build does."""

from __future__ import annotations

import math
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

LONG_STEP_S = 10.0  # between neighbouring frames: nobody performs so slowly


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


def check_captures(root: Path, progress: Progress, head_root: Path | None = None) -> CheckResult:
    """Read everything under a capture root.

    Parameters
    ----------
    progress : Progress
        Advanced by one for each frame.
    head_root : Path, optional
        Folder with FLAME's files, where registrations are parameters of it.

    Raises
    ------
    InputError
        If ``root`` is not a folder of captures.
    """
    source, result = FolderCaptures(root, head_root=head_root), CheckResult()
    sequences: list[tuple[SequenceKey, tuple[int, ...]]] = []
    for folder in sorted(root.glob("*/*")):
        key = SequenceKey(folder.parent.name, folder.name)
        if not folder.is_dir() or key.subject.startswith(".") or key.sequence.startswith("."):
            continue
        result.sequences += 1
        capture = result.attempt(str(key), partial(read_capture_file, folder))
        if capture is not None:
            sequences.append((key, tuple(capture.frames)))
            step = capture.shortest_step_s
            if capture.times_s is None and LONG_STEP_S < step < math.inf:
                problem = f"no two frames are nearer than {step:.4g} s in time: if the frame numbers are time stamps, "
                result.notes.append({"where": str(key), "problem": problem + "give `times_s` in place of `fps`"})
    # Counted before the first is read, so that what is shown is a share of all.
    progress.expect(sum(len(frames) for _, frames in sequences))
    for key, frames in sequences:
        _check_sequence(source, key, frames, result, progress)
    result.problems.sort(key=lambda problem: problem["where"])
    return result


def _check_sequence(
    source: FolderCaptures, key: SequenceKey, frames: tuple[int, ...], result: CheckResult, progress: Progress
) -> None:
    earlier = len(result.problems)
    found: dict[str, list[tuple[str, str]]] = {}
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
                found.setdefault(camera, []).append((where, reason))
            for camera, reason in views.blind.items():
                blind.setdefault(camera, []).append(reason)
        progress.advance(1)
    _say_once(result.problems, earlier)
    for camera, listed in found.items():
        where, reason = listed[0]
        more = f" ({len(listed)} of {len(frames)} frames have such a problem)" if len(listed) > 1 else ""
        result.problems.append({"where": f"{where} camera {camera}", "problem": reason + more})
    for camera, reasons in blind.items():
        # Seen from aside, some frames of a moving head may be outside an image.
        if len(reasons) < read:
            continue
        without_image = all(reason == NO_IMAGE for reason in reasons)
        problem = next(reason for reason in reasons if without_image or reason != NO_IMAGE)
        entry = {"where": f"{key} camera {camera}", "problem": f"{problem}, so that it gives no samples"}
        (result.notes if without_image else result.problems).append(entry)


def _say_once(problems: list[dict[str, str]], start: int) -> None:
    """Join problems from ``start`` on that say the same of several frames."""
    same: dict[str, list[str]] = {}
    for problem in problems[start:]:
        same.setdefault(problem["problem"], []).append(problem["where"])
    problems[start:] = [
        {"where": where[0], "problem": problem + (f" ({len(where)} frames)" if len(where) > 1 else "")}
        for problem, where in same.items()
    ]
