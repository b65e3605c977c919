"""The results of a build, gathered from its folder for the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen.audit.measure import FrameMeasure, measure_warp
from datagen.audit.truth import calibration, true_error_mm
from datagen.common.documents import read_json
from datagen.common.errors import CanonfaceError, InputError
from datagen.heads.base import HeadTemplate
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.layout import BuildLayout
from datagen.sources.frame import SequenceKey
from datagen.sources.truth import read_truth, truth_path
from datagen.warp.result import WARP_FILE, Verdict, Warp
from datagen.warp.storage import read_verdict, read_warp
from datagen.warp.verdict import MetricLimits


def head_sizes(results: Sequence[FrameResult]) -> dict[str, float]:
    """Return each subject's head size as a multiple of the template's: the median over its frames."""
    sizes: dict[str, list[float]] = {}
    for result in results:
        if np.isfinite(size := result.metric("head_size")):
            sizes.setdefault(result.key.subject, []).append(size)
    return {subject: float(np.median(found)) for subject, found in sizes.items()}


def build_metrics(results: Sequence[FrameResult], measures: Mapping[str, FrameMeasure]) -> dict[str, float]:
    """Return flat metrics over all frames, as stored in ``report/summary.json``.

    Correspondence errors are pooled over the face's measured scan vertices whose truth is known, and left out where
    none is, as is the gap between stated confidence and truth, over all of the head. The residual is the median over
    frames of each frame's median, a head's size of each subject's.

    Parameters
    ----------
    results : sequence of FrameResult
    measures : mapping of frame name to FrameMeasure
    """
    metrics: dict[str, float] = {f"frames_{status}": float(n) for status, n in verdict_counts(results).items()}
    metrics["frames"] = float(len(results))
    residual = np.array([result.metric("residual_median_mm") for result in results])
    if np.isfinite(residual).any():
        metrics["residual_median_mm"] = float(np.nanmedian(residual))
    metrics |= {f"head_size.{subject}": size for subject, size in head_sizes(results).items()}
    errors = [m.error_mm[mask_of(m.region, FACE_REGIONS) & np.isfinite(m.error_mm)] for m in measures.values()]
    known = np.concatenate(errors) if errors else np.zeros(0)
    if len(known):
        metrics["true_error_median_mm"] = float(np.median(known))
        metrics["true_error_p95_mm"] = float(np.percentile(known, 95))
        metrics["true_error_points"] = float(len(known))
        stated = np.concatenate([m.confidence for m in measures.values()])
        error_mm = np.concatenate([m.error_mm for m in measures.values()])
        # Points without a counterpart state no confidence.
        metrics["confidence_gap"] = calibration(stated, np.where(stated > 0, error_mm, np.nan)).expected_error
    return metrics


SEVERITY = {"fail": 0, "review": 1, "pass": 2}


@dataclass(frozen=True)
class FrameResult:
    """One frame's verdict.

    Attributes
    ----------
    key : SequenceKey
    frame : int
    folder : Path
        Holds ``verdict.json``, and ``warp.npz`` unless the warp could not be made.
    verdict : Verdict
    """

    key: SequenceKey
    frame: int
    folder: Path
    verdict: Verdict

    @property
    def name(self) -> str:
        """``subject/sequence/frame``, as the folders are named."""
        return f"{self.key}/{self.frame:06d}"

    @property
    def has_warp(self) -> bool:
        """Whether there is a warp to look at."""
        return (self.folder / WARP_FILE).is_file()

    def metric(self, name: str) -> float:
        """Return a metric of the verdict, NaN where it has none."""
        return float(self.verdict.metrics.get(name, np.nan))


def read_results(build: Path) -> list[FrameResult]:
    """Read every verdict of a build, ordered by subject, sequence, frame.

    Raises
    ------
    InputError
        If the build has no warps, or a verdict is broken.
    """
    found = [
        FrameResult(key, frame, folder, read_verdict(folder)) for key, frame, folder in BuildLayout(build).verdicts()
    ]
    if not found:
        raise InputError(
            f"{build} holds no warps",
            "warps/<subject>/<sequence>/<frame>/verdict.json",
            "Name the folder given to `datagen build --out`, after at least one frame was warped",
        )
    return found


def find_result(results: Sequence[FrameResult], subject: str, sequence: str, frame: int) -> FrameResult:
    """Return the named frame.

    Raises
    ------
    InputError
        If there is none, naming what there is.
    """
    of_sequence = [r for r in results if (r.key.subject, r.key.sequence) == (subject, sequence)]
    if not of_sequence:
        keys = sorted({str(r.key) for r in results})
        raise InputError(
            f"the build has no warps of {subject}/{sequence}",
            f"one of {', '.join(keys[:8])}" + (", …" if len(keys) > 8 else ""),
            "Check subject and sequence",
        )
    for result in of_sequence:
        if result.frame == frame:
            return result
    frames = [r.frame for r in of_sequence]
    raise InputError(
        f"{subject}/{sequence} has no frame {frame}",
        f"one of {len(frames)} frames from {min(frames)} to {max(frames)}",
        "Check the frame number",
    )


def truth_reader(build: Path) -> Callable[[FrameResult, Warp], npt.NDArray[np.float64] | None]:
    """Return a function that gives a frame's true error in mm (N,), or None where no truth can be compared."""
    layout = BuildLayout(build)
    comparable = _truth_is_comparable(layout)

    def read(result: FrameResult, warp: Warp) -> npt.NDArray[np.float64] | None:
        if not comparable or not truth_path(layout.truth, result.key, result.frame).is_file():
            return None
        return true_error_mm(warp, read_truth(layout.truth, result.key, result.frame))

    return read


def measure_frame(
    result: FrameResult,
    read_error: Callable[[FrameResult, Warp], npt.NDArray[np.float64] | None],
    template: HeadTemplate | None = None,
) -> FrameMeasure:
    """Measure a frame as :func:`datagen.audit.measure.measure_warp` does.

    Raises
    ------
    InputError
        If its files are broken.
    """
    warp = read_warp(result.folder)
    return measure_warp(warp, read_error(result, warp), template)


@dataclass(frozen=True)
class Cause:
    """The metric that lies farthest beyond its limit, of those a verdict is made of.

    Attributes
    ----------
    limit : MetricLimits
    value : float
    excess : float
        How far beyond the limit of a pass, as a multiple of the way from there to the limit of a failure.
    """

    limit: MetricLimits
    value: float
    excess: float

    @property
    def text(self) -> str:
        """It in a few words."""
        sign = ">" if self.limit.sign > 0 else "<"
        return f"{self.limit.label} {self.value:.3g} {sign} {self.limit.passing:g} {self.limit.unit}".rstrip()


def cause_of(verdict: Verdict, limits: Sequence[MetricLimits]) -> Cause | None:
    """Return what made a verdict; None if every metric is within its limit of a pass."""
    worst: Cause | None = None
    for limit in limits:
        value = verdict.metrics.get(limit.name)
        if value is None or not limit.sign * value > limit.sign * limit.passing:
            continue
        way = abs(limit.failing - limit.passing)
        # A metric that never fails a frame is measured in multiples of its limit.
        way = way if 0 < way < np.inf else abs(limit.passing) or 1.0
        excess = limit.sign * (value - limit.passing) / way
        if worst is None or excess > worst.excess:
            worst = Cause(limit, float(value), float(excess))
    return worst


def worst_first(
    results: Sequence[FrameResult],
    measures: Mapping[str, FrameMeasure],
    limits: Sequence[MetricLimits] = (),
) -> list[FrameResult]:
    """Order by verdict, frames without a warp first, then by how far beyond its limit is what made the verdict.

    Frames that are alike in that follow by true error where it is known, then by residual.
    """

    def badness(result: FrameResult) -> tuple[int, bool, float, float, float, str]:
        measure = measures.get(result.name)
        error = measure.metrics.get("true_error_median_mm", 0.0) if measure else 0.0
        residual = np.nan_to_num(result.metric("residual_median_mm"), nan=0.0)
        cause = cause_of(result.verdict, limits)
        excess = cause.excess if cause else 0.0
        return SEVERITY.get(result.verdict.status, 0), result.has_warp, -excess, -error, -residual, result.name

    return sorted(results, key=badness)


def verdict_counts(results: Sequence[FrameResult]) -> dict[str, int]:
    """Count verdicts: pass, review, fail."""
    counts = Counter(r.verdict.status for r in results)
    return {status: counts.get(status, 0) for status in ("pass", "review", "fail")}


def _truth_is_comparable(layout: BuildLayout) -> bool:
    """Truth lies in the space of the head it was simulated with; a warp with another head has other coordinates."""
    try:
        manifest = layout.read_manifest()
    except CanonfaceError:
        return True
    return manifest.source.simulated_head in (None, manifest.canonical.head)


def given_up(layout: BuildLayout) -> dict[str, str]:
    """Return why units are in quarantine, by the stage and the name of each."""
    found: dict[str, str] = {}
    for path in sorted(layout.quarantine.rglob("*.json")) if layout.quarantine.is_dir() else ():
        try:
            content = read_json(path)
            found[f"{content['stage']} of {content['unit']}"] = str(content["reason"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found
