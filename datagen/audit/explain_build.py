"""Why the frames of a build have their verdicts: all of them by reason, with what to do next."""

from __future__ import annotations

import math
import re
import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datagen.audit.results import SEVERITY, FrameResult, read_results, verdict_counts
from datagen.common.errors import CanonfaceError
from datagen.layout import BuildLayout
from datagen.manifest import Manifest, VerdictLimits
from datagen.warp.result import Status
from datagen.warp.verdict import MetricLimits, metric_limits

NAMED_FRAMES = 3
_NO_WARP = "no warp could be made: "
# What differs between frames with one reason: numbers, and the paths of their files.
_VARYING = ((r"\S*/\S+", "…"), (r"(?<![\w.])-?\d+(?:\.\d+)?(?:e-?\d+)?\b", "…"))


@dataclass(frozen=True)
class Group:
    """The frames that share a reason.

    Attributes
    ----------
    reason : str
        What they have in common; "…" stands for what differs.
    status : ``fail``, ``review`` or ``pass``
        What the reason does to a frame; of a pass it is a note.
    frames : tuple of str
        Names, the worst first.
    values : tuple of float
        Of the metric that the reason is about, of the same frames; empty if it is about none.
    next : tuple of str
        Commands that can be pasted into a shell, each with what it is for behind a ``#``.
    """

    reason: str
    status: Status
    frames: tuple[str, ...]
    values: tuple[float, ...]
    next: tuple[str, ...]

    def text(self) -> str:
        """Return it in lines."""
        count = len(self.frames)
        lines = [f"{self.status}, {count} {'frame' if count == 1 else 'frames'}: {self.reason}"]
        if self.values:
            lines[0] += f" ({self.values[0]:.3g} at worst)"
        more = f" and {count - NAMED_FRAMES} more" if count > NAMED_FRAMES else ""
        lines.append(f"  {', '.join(self.frames[:NAMED_FRAMES])}{more}")
        lines = [textwrap.fill(line, 80, subsequent_indent="  ", break_long_words=False) for line in lines]
        # Commands stay whole, to be pasted.
        return "\n".join([*lines, *(f"    {command}" for command in self.next)])


@dataclass(frozen=True)
class Explanation:
    """What became of a build's frames.

    Attributes
    ----------
    frames : int
        With a verdict.
    verdicts : dict
        How many have each.
    notes : tuple of str
        What else there is to know, in sentences.
    groups : tuple of Group
        Reasons, those that fail frames first, and of these the commonest.
    least_sure : str
        Command that explains the frame of the least mean confidence.
    """

    frames: int
    verdicts: dict[str, int]
    notes: tuple[str, ...]
    groups: tuple[Group, ...]
    least_sure: str

    def text(self) -> str:
        """Return it for people."""
        counts = ", ".join(f"{count} {status}" for status, count in self.verdicts.items() if count)
        head = [f"{self.frames} {'frame' if self.frames == 1 else 'frames'}: {counts}", *self.notes]
        parts = ["\n".join(head), *(group.text() for group in self.groups)]
        if not any(group.status != "pass" for group in self.groups):
            parts.append("every metric of every frame is within its limits; the least sure frame:")
            parts[-1] += f"\n  {self.least_sure}"
        return "\n\n".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON data."""
        return asdict(self)


def explain_build(build: Path) -> Explanation:
    """Group the frames of a build by the reasons of their verdicts.

    Raises
    ------
    InputError
        If there is no build, or a verdict is broken.
    """
    return explain_results(build, read_results(build))


def explain_results(build: Path, results: Sequence[FrameResult]) -> Explanation:
    """Group frames that were read by the reasons of their verdicts."""
    layout = BuildLayout(build)
    try:
        manifest = layout.read_manifest()
    except CanonfaceError:  # warps alone can be explained too
        manifest = None
    limits = {limit.label: limit for limit in metric_limits(manifest.warp.verdict if manifest else VerdictLimits())}
    found: dict[tuple[Status, str], list[tuple[float, FrameResult]]] = {}
    about: dict[tuple[Status, str], MetricLimits] = {}
    for result in results:
        for reason in result.verdict.reasons:
            limit = limits.get(reason.partition(" is ")[0])
            key = _kind(reason.replace(str(build.resolve()), "…").replace(str(build), "…"), result, limit)
            if limit is not None:
                about[key] = limit
            value = result.metric(limit.name) if limit else math.nan
            found.setdefault(key, []).append((value, result))
    groups = [_group(build, key, frames, about.get(key), manifest) for key, frames in found.items()]
    groups.sort(key=lambda group: (SEVERITY[group.status], -len(group.frames), group.reason))
    least = min(results, key=lambda r: (math.isnan(r.metric("face_confidence")), r.metric("face_confidence")))
    notes = []
    if manifest is not None and any(result.verdict.status == "review" for result in results):
        kept = "are in the dataset" if manifest.shards.include_review else "are left out of the dataset"
        notes.append(f"frames to review {kept} (shards.include_review)")
    if not (layout.dataset / "zarr.json").is_file():
        notes.append(f"the dataset is not finished: datagen status {shlex.quote(str(build))}")
    return Explanation(len(results), dict(verdict_counts(results)), tuple(notes), tuple(groups), _explain(build, least))


def _kind(reason: str, result: FrameResult, limit: MetricLimits | None) -> tuple[Status, str]:
    """Return what a reason does to a frame, and the reason without what differs from frame to frame."""
    status: Status = result.verdict.status
    if limit is not None:
        words = re.fullmatch(r".*, (above|below) the (review|fail) limit of (\S+)", reason)
        if words:
            status = "fail" if words[2] == "fail" else "review"
            return status, f"{limit.label} is {words[1]} {words[3]} {limit.unit}".rstrip()
    if reason.startswith("note: "):
        status = "pass"
    elif status == "fail" and result.has_warp:
        status = "review"  # only a limit fails a frame that was warped
    for pattern, stand_in in _VARYING:
        reason = re.sub(pattern, stand_in, reason)
    return status, reason if result.has_warp else _NO_WARP + reason


def _group(
    build: Path,
    key: tuple[Status, str],
    frames: Sequence[tuple[float, FrameResult]],
    limit: MetricLimits | None,
    manifest: Manifest | None,
) -> Group:
    status, reason = key
    sign = limit.sign if limit else 1
    ordered = sorted(frames, key=lambda pair: (0.0 if math.isnan(pair[0]) else -sign * pair[0], pair[1].name))
    commands = [f"{_explain(build, ordered[0][1])}  # all that was measured"]
    values = tuple(value for value, _ in ordered) if limit else ()
    if reason.startswith(_NO_WARP):
        captures = BuildLayout(build).captures
        root = getattr(manifest.source, "root", None) if manifest and manifest.source.kind != "simulated" else None
        commands = [f"datagen check {shlex.quote(str(root or captures))}  # what is wrong with the files"]
    elif status == "review" and limit is not None and manifest is not None:
        # The stored recipe is one that can be built again.
        recipe, out = (shlex.quote(str(path)) for path in (BuildLayout(build).manifest, build))
        override = f"--set warp.verdict.pass_{limit.quantity}={_beyond(values[0], sign)}"
        commands.append(f"datagen build {recipe} --out {out} {override}  # to let them pass, if they look right")
    return Group(reason, status, tuple(result.name for _, result in ordered), values, tuple(commands))


def _explain(build: Path, result: FrameResult) -> str:
    return f"datagen explain {shlex.quote(str(build))} {result.name}"


def _beyond(value: float, sign: int) -> str:
    """Return a limit of two digits that a value just keeps."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    step = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    return f"{(math.ceil if sign > 0 else math.floor)(value / step) * step:.6g}"
