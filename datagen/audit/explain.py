"""Why a frame has its verdict, in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datagen.audit.region_confidence import region_confidence
from datagen.audit.results import FrameResult, find_result, measure_frame, read_results, truth_reader
from datagen.audit.truth import by_region
from datagen.heads.regions import FACE_REGIONS
from datagen.layout import BuildLayout
from datagen.warp.result import PERSON_FILE
from datagen.warp.storage import read_prior, read_warp

WORST_REGIONS = 4
# Metrics for which more is better; for all others, less is.
MORE_IS_BETTER = (
    "coverage",
    "matched",
    "within",
    "face_vertices",
    "scan_vertices",
    "fit_points",
    "fit_pictures",
    "fit_skin_points",
)
# Of these neither more nor less is.
DESCRIBES = ("held_", "energy_", "stage_", "head_size", "own_amplitude", "person_used", "landmark_worst")


def explain(build: Path, subject: str, sequence: str, frame: int) -> str:
    """Return lines that say why a frame passed, needs review or failed.

    They give the verdict with its reasons, each metric with its rank among the build's frames, and the regions that
    are furthest off.

    Raises
    ------
    InputError
        If the build, the sequence or the frame does not exist, naming what does.
    """
    results = read_results(build)
    result = find_result(results, subject, sequence, frame)
    lines = [f"{result.name}: {result.verdict.status}"]
    lines += [f"  because {reason}" for reason in result.verdict.reasons]
    if not result.verdict.reasons:
        lines.append("  every metric is within its limits")
    if result.verdict.metrics:
        lines.append("metrics")
        lines += [_metric_line(name, result, results) for name in sorted(result.verdict.metrics)]
    if result.has_warp:
        lines += [_person_line(build, result), *_confidence_lines(result), *_region_lines(build, result)]
    else:
        lines.append("There is no warp of this frame: it failed before one could be made.")
    return "\n".join(lines)


def _metric_line(name: str, result: FrameResult, results: list[FrameResult]) -> str:
    value = result.metric(name)
    others = np.array([r.metric(name) for r in results if r.name != result.name])
    others = others[np.isfinite(others)]
    line = f"  {name:<24} {value:>10.4g}"
    if not len(others):
        return line
    if name.startswith(DESCRIBES) and name != "landmark_worst_mm":
        return f"{line}   (median of other frames {np.median(others):.4g})"
    better = others > value if any(word in name for word in MORE_IS_BETTER) else others < value
    return f"{line}   {int(better.sum())} of {len(others)} other frames are better (median {np.median(others):.4g})"


def _person_line(build: Path, result: FrameResult) -> str:
    folder = BuildLayout(build).person(result.key)
    if not (folder / PERSON_FILE).is_file():
        return "No person was learnt from the sequence: the frame was warped on its own."
    frames = ", ".join(str(frame) for frame in read_prior(folder).frames)
    return f"The frame is held to the person learnt from frames {frames} of its sequence."


def _confidence_lines(result: FrameResult) -> list[str]:
    return ["confidence of the face's regions", *(f"  {one}" for one in region_confidence(read_warp(result.folder)))]


def _region_lines(build: Path, result: FrameResult) -> list[str]:
    measure = measure_frame(result, truth_reader(build))
    has_truth = bool(np.isfinite(measure.error_mm).any())
    values = measure.error_mm if has_truth else measure.distance_mm
    name = "true correspondence error" if has_truth else "distance to the registered template"
    table = {region: row for region, row in by_region(values, measure.region).items() if region in FACE_REGIONS}
    worst = sorted(table.items(), key=lambda item: -item[1][1])[:WORST_REGIONS]
    lines = [f"regions of the face with the largest {name}, median and 95 % in mm"]
    return lines + [f"  {region:<24} {median:>10.2f} {p95:>8.2f}" for region, (_, median, p95) in worst]
