"""Reading every frame of a capture folder once, to find what is wrong before a long build does, and mending it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from datagen.common.errors import CanonfaceError, InputError
from datagen.common.progress import Progress
from datagen.flows.check_fit import fit_findings
from datagen.flows.check_page import SequencePictures, picture_views
from datagen.flows.diagnose import Fit
from datagen.flows.mend import Mended, mend, settle_fits
from datagen.flows.views import NO_IMAGE, Examined, examine
from datagen.sources.capture_file import UNKNOWN_UNIT, read_capture_file
from datagen.sources.folder import FolderCaptures
from datagen.sources.frame import Captures, Frame, SequenceKey
from datagen.sources.scale import ScaledCaptures

LONG_STEP_S = 10.0  # between neighbouring frames: nobody performs so slowly
EXPLAINED_FRAMES = 3  # of each camera: a convention that was meant is the same in all
PICTURED_SEQUENCES = 60


@dataclass(frozen=True)
class Explained:
    """What fits cameras of a sequence that contradict their pictures.

    Attributes
    ----------
    key : SequenceKey
    fits : mapping of camera name to Fit
    wrong : frozenset of str
        Those of them that contradict their pictures; the others fit as well as they are.
    frames : tuple of int
        In which that was found.
    unexplained : frozenset of str
        Cameras that contradict their pictures, and nothing fits.
    """

    key: SequenceKey
    fits: Mapping[str, Fit]
    wrong: frozenset[str]
    frames: tuple[int, ...]
    unexplained: frozenset[str] = frozenset()

    @property
    def sure(self) -> bool:
        """Whether all of it is sure enough to be written."""
        return not self.unexplained and all(fit.sure for fit in self.fits.values())

    def to_json(self) -> dict[str, object]:
        """Return what fits each camera, as JSON data."""
        cameras = {
            name: {
                "convention": fit.convention.key,
                "words": fit.convention.words,
                "score": round(fit.score, 4),
                "given": round(fit.given, 4),
                "figure": fit.figure,
                "sure": fit.sure,
                "contradicts": name in self.wrong,
            }
            for name, fit in self.fits.items()
        }
        return {"where": str(self.key), "cameras": cameras}

    def __str__(self) -> str:
        by_words = dict[str, list[str]]()
        for name, fit in self.fits.items():
            if name in self.wrong:
                by_words.setdefault(fit.convention.words, []).append(name)
        told = [
            f"{words} fits camera{'s' if len(names) > 1 else ''} {', '.join(names)}"
            for words, names in by_words.items()
        ]
        return f"{self.key}: {'; '.join(told)}"


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
    unscaled : bool
        Whether the unit of a sequence is not known.
    explained : list of Explained
        The conventions that fit, by sequence.
    pictured : list of SequencePictures
        One frame of each sequence, where pictures were asked for.
    """

    sequences: int = 0
    frames: int = 0
    problems: list[dict[str, str]] = field(default_factory=list)
    notes: list[dict[str, str]] = field(default_factory=list)
    unscaled: bool = False
    explained: list[Explained] = field(default_factory=list)
    pictured: list[SequencePictures] = field(default_factory=list)

    def holds_surface(self, frame: Frame, where: str) -> bool:
        """Whether there is a surface to hold cameras against; evidence is read in any case."""
        self.attempt(where, partial(getattr, frame, "evidence"))
        return frame.surface is not None

    def attempt(self, where: str, read: Callable[[], Any]) -> Any:
        """Call ``read``; note the error if it raises one that a user can mend, and return None."""
        try:
            return read()
        except CanonfaceError as error:
            self.problems.append({"where": where, "problem": str(error)})
            return None


def check_captures(
    root: Path,
    progress: Progress,
    head_root: Path | None = None,
    *,
    pictures: bool = False,
    only: Collection[SequenceKey] | None = None,
) -> CheckResult:
    """Read everything under a capture root.

    Parameters
    ----------
    progress : Progress
        Advanced by one for each frame.
    head_root : Path, optional
        Folder with FLAME's files, where registrations are parameters of it.
    pictures : bool
        Whether one frame of each sequence is drawn.
    only : collection of SequenceKey, optional
        All others are passed over.

    Raises
    ------
    InputError
        If ``root`` is not a folder of captures.
    """
    source, result = FolderCaptures(root, head_root=head_root), CheckResult()
    sequences: list[tuple[SequenceKey, tuple[int, ...]]] = []
    unknown = set[SequenceKey]()
    for folder in sorted(root.glob("*/*")):
        if not folder.is_dir() or folder.parent.name.startswith(".") or folder.name.startswith("."):
            continue
        key = SequenceKey(folder.parent.name, folder.name)
        if only is not None and key not in only:
            continue
        result.sequences += 1
        capture = result.attempt(str(key), partial(read_capture_file, folder))
        if capture is not None:
            sequences.append((key, tuple(capture.frames)))
            if capture.unit == UNKNOWN_UNIT:
                unknown.add(key)
                result.unscaled = True
            step = capture.shortest_step_s
            if capture.times_s is None and LONG_STEP_S < step < math.inf:
                problem = f"no two frames are nearer than {step:.4g} s in time: if the frame numbers are time stamps, "
                result.notes.append({"where": str(key), "problem": problem + "give `times_s` in place of `fps`"})
    # Counted before the first is read, so that what is shown is a share of all.
    progress.expect(sum(len(frames) for _, frames in sequences))
    for key, frames in sequences:
        captures: Captures = source
        if key in unknown:
            scaled = ScaledCaptures(FolderCaptures(root, head_root=head_root, unscaled=True))
            scale = result.attempt(str(key), partial(scaled.scale, key))
            if scale is None:
                progress.advance(len(frames))
                continue
            problem = (
                f"its unit is not known; from its landmarks its scale is {scale}: build with source.scale=landmarks"
            )
            result.notes.append({"where": str(key), "problem": problem})
            captures = scaled
        _check_sequence(captures, key, frames, result, progress, pictures=pictures)
    result.problems.sort(key=lambda problem: problem["where"])
    return result


def fix_captures(
    root: Path, found: CheckResult, progress: Progress, head_root: Path | None = None
) -> tuple[list[Mended], CheckResult]:
    """Write the capture.json of sequences anew whose cameras a convention explains, and check these again.

    Returns
    -------
    mended : list of Mended
        One for each sequence of which something was found.
    after : CheckResult
        What is found now.

    Raises
    ------
    datagen.common.errors.CanonfaceError
        If a file cannot be written.
    """
    source, mended, fixed = FolderCaptures(root, head_root=head_root), list[Mended](), set[SequenceKey]()
    for one in found.explained:
        try:
            frames = [source.frame(one.key, index) for index in one.frames]
            done = mend(
                str(one.key), root / one.key.subject / one.key.sequence, frames, one.fits, sorted(one.unexplained)
            )
        except InputError as error:
            done = Mended(str(one.key), refused=str(error))
        mended.append(done)
        if done.changes:
            fixed.add(one.key)
    if not fixed:
        return mended, found
    again = check_captures(root, progress, head_root, only=fixed)
    names = {str(key) for key in fixed}
    for earlier, later in ((found.problems, again.problems), (found.notes, again.notes)):
        later += [entry for entry in earlier if _sequence_of(entry["where"]) not in names]
        later.sort(key=lambda entry: entry["where"])
    again.sequences, again.frames, again.unscaled = found.sequences, found.frames, found.unscaled
    again.explained += [one for one in found.explained if one.key not in fixed]
    return mended, again


def _sequence_of(where: str) -> str:
    """Return subject and sequence of what :class:`CheckResult` calls a place."""
    return "/".join(where.partition(" camera ")[0].split("/")[:2])


@dataclass
class _Found:
    """What is found of one sequence, frame by frame."""

    wrong: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    blind: dict[str, list[str]] = field(default_factory=dict)
    wide: dict[str, list[float]] = field(default_factory=dict)
    unsure: dict[str, list[float]] = field(default_factory=dict)
    fits: dict[str, list[Fit]] = field(default_factory=dict)
    explained: Counter[str] = field(default_factory=Counter)
    frames: list[int] = field(default_factory=list)
    read: int = 0

    def examine(self, frame: Frame, where: str) -> Examined:
        """Look at a frame, and for what fits as long as few frames told."""
        found = examine(frame, lambda camera: self.explained[camera] < EXPLAINED_FRAMES)
        self.read += 1
        for camera, reason in found.views.wrong.items():
            self.wrong.setdefault(camera, []).append((where, reason))
        for camera, reason in found.views.blind.items():
            self.blind.setdefault(camera, []).append(reason)
        for camera, share in found.wide.items():
            self.wide.setdefault(camera, []).append(share)
        for camera in sorted(found.unsure):
            self.unsure.setdefault(camera, []).append(found.scores[camera])
        self.explained.update({*found.views.wrong, *found.views.blind, *found.unsure})
        for camera, fit in found.fits.items():
            self.fits.setdefault(camera, []).append(fit)
        if found.fits:
            self.frames.append(frame.index)
        return found


def _check_sequence(
    source: Captures,
    key: SequenceKey,
    frames: tuple[int, ...],
    result: CheckResult,
    progress: Progress,
    *,
    pictures: bool = False,
) -> None:
    earlier, found, bare = len(result.problems), _Found(), list[int]()
    drawn: SequencePictures | None = None
    for index in frames:
        where = f"{key}/{index:06d}"
        frame = result.attempt(where, partial(source.frame, key, index))
        result.frames += 1
        if frame is not None and not result.holds_surface(frame, where):
            bare.append(index)
        elif frame is not None:
            examined = found.examine(frame, where)
            # The first, or the first with something to see.
            if pictures and (drawn is None or (not drawn.poor and examined.views.wrong)):
                drawn = picture_views(frame, examined)
        progress.advance(1)
    if drawn is not None:
        result.pictured.append(drawn)
    _check_fit(source, key, bare, result)
    _say_once(result.problems, earlier)
    for camera, listed in found.wrong.items():
        where, reason = listed[0]
        more = f" ({len(listed)} of {len(frames)} frames have such a problem)" if len(listed) > 1 else ""
        result.problems.append({"where": f"{where} camera {camera}", "problem": reason + more})
    for camera, reasons in found.blind.items():
        # Seen from aside, some frames of a moving head may be outside an image.
        if len(reasons) < found.read:
            continue
        without_image = all(reason == NO_IMAGE for reason in reasons)
        problem = next(reason for reason in reasons if without_image or reason != NO_IMAGE)
        entry = {"where": f"{key} camera {camera}", "problem": f"{problem}, so that it gives no samples"}
        (result.notes if without_image else result.problems).append(entry)
    if found.wide:
        share = max(max(shares) for shares in found.wide.values())
        problem = f"up to {share:.0%} of the scan lies outside the masks, beyond where the person ends: it is left out"
        result.notes.append({"where": f"{key} camera {', '.join(found.wide)}", "problem": problem})
    for camera, scores in found.unsure.items():
        if len(scores) == found.read:
            problem = (
                f"its pictures do not tell whether it is right ({min(scores):.2f}): look at `datagen check --page`"
            )
            result.notes.append({"where": f"{key} camera {camera}", "problem": problem})
    bad = frozenset(found.wrong) | {c for c, told in found.blind.items() if any(one != NO_IMAGE for one in told)}
    wrong = bad & frozenset(found.fits)
    if wrong:
        explained = Explained(key, settle_fits(found.fits), wrong, tuple(found.frames), bad - wrong)
        result.explained.append(explained)


def _check_fit(source: Captures, key: SequenceKey, bare: Sequence[int], result: CheckResult) -> None:
    if bare:
        problems, notes = fit_findings(source, key, bare)
        result.problems += [{"where": str(key), "problem": problem} for problem in problems]
        result.notes += [{"where": str(key), "problem": note} for note in notes]


def _say_once(problems: list[dict[str, str]], start: int) -> None:
    """Join problems from ``start`` on that say the same of several frames."""
    same: dict[str, list[str]] = {}
    for problem in problems[start:]:
        same.setdefault(problem["problem"], []).append(problem["where"])
    problems[start:] = [
        {"where": where[0], "problem": problem + (f" ({len(where)} frames)" if len(where) > 1 else "")}
        for problem, where in same.items()
    ]
