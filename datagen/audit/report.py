"""The report of a build: one static page, worst frame first, that opens from the disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen import __version__
from datagen.audit import charts, pictures
from datagen.audit.results import (
    FrameMeasure,
    FrameResult,
    build_metrics,
    head_sizes,
    measure_frame,
    read_results,
    truth_reader,
    verdict_counts,
    worst_first,
)
from datagen.audit.samples import samples_picture
from datagen.audit.truth import Calibration, by_region, calibration
from datagen.audit.warp_pictures import write_warp_pictures
from datagen.common.errors import CanonfaceError
from datagen.common.files import atomic_write_bytes, staged_folder
from datagen.common.ownership import refuse_strangers, strangers
from datagen.common.pages import render_page
from datagen.heads.base import HeadTemplate
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.heads.registry import load_head
from datagen.layout import BRIDGE_PICTURE, BuildLayout
from datagen.manifest import VerdictLimits
from datagen.warp.storage import read_verdict, read_warp

WORST_PICTURED = 4
RANDOM_PICTURED = 4
MEASURED_FRAMES = 256
TABLE_ROWS = 1000


@dataclass(frozen=True)
class _Pool:
    """Samples of all measured frames in one array each; see :class:`FrameMeasure`."""

    region: npt.NDArray[np.uint8]
    confidence: npt.NDArray[np.float32]
    distance_mm: npt.NDArray[np.float64]
    error_mm: npt.NDArray[np.float64]

    @property
    def has_truth(self) -> bool:
        return bool(np.isfinite(self.error_mm).any())


def write_report(build: Path, *, worst: int = WORST_PICTURED, random: int = RANDOM_PICTURED, seed: int = 0) -> Path:
    """Write ``report/index.html``, its pictures and ``summary.json``; an older one is removed once the new is complete.

    Parameters
    ----------
    build : Path
        Folder with ``warps/``, and ``truth/``, ``manifest.json`` and ``dataset.zarr/`` where it has them.
    worst, random : int
        How many of the worst and of randomly chosen other frames are shown with pictures.
    seed : int
        Of the random choice.

    Returns
    -------
    Path
        Of ``index.html``.

    Raises
    ------
    InputError
        If the build has no warps, or one is broken.
    StorageError
        If ``report/`` holds something that is not ours, or the disk refuses.
    """
    layout = BuildLayout(build)
    refuse_strangers(strangers(layout.report))
    results = read_results(build)
    rng = np.random.default_rng(seed)
    read_error = truth_reader(build)
    measurable = [r for r in results if r.has_warp]
    picked = sorted(rng.permutation(len(measurable))[:MEASURED_FRAMES])
    measures = {measurable[i].name: measure_frame(measurable[i], read_error) for i in picked}
    ranked = worst_first(results, measures)

    with staged_folder(layout.report, replace=True) as folder:
        shown = _frames_to_picture(ranked, worst, random, rng)
        content = {
            "title": _title(build),
            "version": __version__,
            "summary": _summary(results, measures),
            "counts": verdict_counts(results),
            "frames": [_frame_card(folder, build, r, measures.get(r.name), is_worst) for r, is_worst in shown],
            "rows": [_row(r, measures.get(r.name)) for r in ranked[:TABLE_ROWS]],
            "rows_left": max(len(ranked) - TABLE_ROWS, 0),
            "measured": len(measures),
            "sizes": _sizes(results),
            "usual": _usual_sizes(build),
            "bridges": _bridges(folder, build),
            **_pooled(folder, results, measures),
            **_dataset(folder, build),
        }
        metrics = json.dumps(build_metrics(results, measures), indent=1, sort_keys=True)
        atomic_write_bytes(folder / layout.report_summary.name, f"{metrics}\n".encode())
        page = render_page("datagen.audit", "templates", "report.html", **content)
        atomic_write_bytes(folder / layout.report_page.name, page)
    return layout.report_page


def _frames_to_picture(
    ranked: Sequence[FrameResult], worst: int, random: int, rng: np.random.Generator
) -> list[tuple[FrameResult, bool]]:
    rest = list(ranked[worst:])
    chosen = rng.permutation(len(rest))[:random]
    return [(r, True) for r in ranked[:worst]] + [(rest[i], False) for i in sorted(chosen)]


def _frame_card(
    folder: Path, build: Path, result: FrameResult, measure: FrameMeasure | None, is_worst: bool
) -> dict[str, Any]:
    metrics = {**result.verdict.metrics, **(measure.metrics if measure else {})}
    card = {
        "name": result.name,
        "worst": is_worst,
        "status": result.verdict.status,
        "reasons": result.verdict.reasons,
        "metrics": [(name, f"{value:.4g}") for name, value in metrics.items()],
        "pictures": [],
    }
    if not result.has_warp:
        return card
    warp = read_warp(result.folder)
    template = _template(warp.space.head, build)
    if template is None or template.digest != warp.space.template_digest:
        card["note"] = f"No pictures: the template {warp.space.head!r} this warp was made with is not available."
        return card
    sub = Path("frames") / result.name
    error = truth_reader(build)(result, warp)
    paths = write_warp_pictures(folder / sub, warp, template, true_error_mm=error)
    card["pictures"] = [(path.stem, (sub / path.name).as_posix()) for path in paths]
    return card


def _template(head: str, build: Path) -> HeadTemplate | None:
    try:
        root = BuildLayout(build).read_manifest().head_root
    except CanonfaceError:
        root = None
    try:
        return load_head(head, root).template
    except CanonfaceError:
        return None


def _row(result: FrameResult, measure: FrameMeasure | None) -> dict[str, Any]:
    return {
        "name": result.name,
        "status": result.verdict.status,
        "residual": _number(result.metric("residual_median_mm")),
        "residual_p95": _number(result.metric("residual_p95_mm")),
        "coverage": _number(100 * result.metric("face_coverage"), 0),
        "error": _number(measure.metrics.get("true_error_median_mm", np.nan) if measure else np.nan),
        "reasons": "; ".join(result.verdict.reasons),
    }


def _sizes(results: Sequence[FrameResult]) -> list[tuple[str, str]]:
    """Return subjects and head sizes, those farthest from the template's first."""
    sizes = sorted(head_sizes(results).items(), key=lambda item: (-abs(np.log(item[1])), item[0]))
    return [(subject, _number(size)) for subject, size in sizes[:TABLE_ROWS]]


def _usual_sizes(build: Path) -> tuple[float, float]:
    """Return the head sizes that this build does not question."""
    try:
        limits = BuildLayout(build).read_manifest().warp.verdict
    except CanonfaceError:
        limits = VerdictLimits()
    return limits.least_head_size, limits.most_head_size


def _summary(results: Sequence[FrameResult], measures: dict[str, FrameMeasure]) -> list[tuple[str, str, str]]:
    """Return the metrics at the top: label, value, unit."""
    residual = np.array([r.metric("residual_median_mm") for r in results])
    rows = [
        ("subjects", str(len({r.key.subject for r in results})), ""),
        ("sequences", str(len({r.key for r in results})), ""),
        ("frames", str(len(results)), ""),
    ]
    if np.isfinite(residual).any():
        rows.append(("surface residual, median of frames", _number(np.nanmedian(residual)), "mm"))
        rows.append(("surface residual, worst frame", _number(np.nanmax(residual)), "mm"))
    outside = np.array([r.metric("outside_masks") for r in results])
    if np.isfinite(outside).any():
        rows.append(("scan points outside the masks, left out, all frames", f"{np.nansum(outside):.0f}", ""))
    medians = [m.metrics["true_error_median_mm"] for m in measures.values() if m.metrics]
    if medians:
        p95 = [m.metrics["true_error_p95_mm"] for m in measures.values() if m.metrics]
        rows.append(("true correspondence error, median of frames", _number(float(np.median(medians))), "mm"))
        rows.append(("true correspondence error, 95 % (median of frames)", _number(float(np.median(p95))), "mm"))
        rows.append(("true correspondence error, worst frame", _number(float(np.max(medians))), "mm"))
    return rows


def _pooled(folder: Path, results: Sequence[FrameResult], measures: dict[str, FrameMeasure]) -> dict[str, Any]:
    """Draw the charts over all measured frames and return what the page says of them."""
    if not measures:
        return {"charts": [], "regions": [], "has_truth": False}
    parts = list(measures.values())
    pool = _Pool(
        np.concatenate([m.region for m in parts]),
        np.concatenate([m.confidence for m in parts]),
        np.concatenate([m.distance_mm for m in parts]),
        np.concatenate([m.error_mm for m in parts]),
    )
    face = mask_of(pool.region, FACE_REGIONS)
    drawn: list[tuple[str, str]] = []

    def histogram(
        name: str, values: npt.NDArray[np.floating], label: str, title: str, high: float | None = None
    ) -> None:
        if np.isfinite(values).any():
            charts.write_histogram(folder / name, values, label, high=high)
            drawn.append((title, name))

    residual = np.array([r.metric("residual_median_mm") for r in results])
    histogram("residual.png", residual, "median surface residual, mm", "Frames: surface residual")
    histogram("distance.png", pool.distance_mm[face], "scan to template, mm", "Face vertices: distance to the template")
    histogram("error.png", pool.error_mm[face], "true error, mm", "Face vertices: true correspondence error")
    matched = np.where(pool.confidence > 0, pool.confidence, np.nan)
    histogram("confidence.png", matched, "confidence", "Matched vertices: confidence", 1.0)
    charts.write_frame_curve(folder / "frames.png", _curves(results), "median residual, mm")
    drawn.append(("Residual along each sequence", "frames.png"))
    curve: Calibration | None = None
    if pool.has_truth:
        # Points without a counterpart state no confidence.
        stated = np.where(pool.confidence > 0, pool.error_mm, np.nan)
        curve = calibration(pool.confidence, stated)
        charts.write_calibration(folder / "calibration.png", curve)
        drawn.append((f"Confidence against truth (expected gap {curve.expected_error:.2f})", "calibration.png"))
    return {"charts": drawn, "regions": _regions(pool), "has_truth": pool.has_truth}


def _curves(results: Sequence[FrameResult]) -> dict[str, tuple[list[int], list[float]]]:
    groups: dict[str, tuple[list[int], list[float]]] = {}
    for result in results:
        frames, values = groups.setdefault(str(result.key), ([], []))
        frames.append(result.frame)
        values.append(result.metric("residual_median_mm"))
    return groups


def _regions(pool: _Pool) -> list[dict[str, Any]]:
    distance, error = by_region(pool.distance_mm, pool.region), by_region(pool.error_mm, pool.region)
    rows = []
    for name, (count, median, p95) in distance.items():
        _, error_median, error_p95 = error.get(name, (0, np.nan, np.nan))
        rows.append(
            {
                "name": name.replace("_", " "),
                "count": count,
                "face": name in FACE_REGIONS,
                "distance": _number(median),
                "distance_p95": _number(p95),
                "error": _number(error_median),
                "error_p95": _number(error_p95),
            }
        )
    return rows


def _dataset(folder: Path, build: Path) -> dict[str, Any]:
    """Draw the dataset's samples, or say why not; a report is wanted most when a dataset is broken."""
    path = BuildLayout(build).dataset
    if not path.is_dir():
        return {"samples": None, "samples_note": None}
    try:
        sheet = samples_picture(path)
    except CanonfaceError as error:
        return {"samples": None, "samples_note": str(error)}
    if sheet is None:
        return {"samples": None, "samples_note": "The dataset holds no samples."}
    pictures.write_png(folder / "samples.png", sheet)
    return {"samples": "samples.png", "samples_note": None}


def _bridges(folder: Path, build: Path) -> list[dict[str, Any]]:
    """Copy the pictures of the build's bridges and return what the page says of each."""
    cards = []
    for source in sorted(BuildLayout(build).bridges.glob(f"*/{BRIDGE_PICTURE}")):
        verdict, copy = read_verdict(source.parent), f"bridge_{source.parent.name}.png"
        atomic_write_bytes(folder / copy, source.read_bytes())
        metrics = {name: f"{value:.4g}" for name, value in verdict.metrics.items()}
        name = source.parent.name.rpartition("-")[0]
        cards.append({"name": name, "picture": copy, "status": verdict.status, "metrics": metrics})
    return cards


def _title(build: Path) -> str:
    try:
        return BuildLayout(build).read_manifest().name
    except CanonfaceError:
        return build.resolve().name


def _number(value: float, digits: int = 2) -> str:
    return "–" if not np.isfinite(value) else f"{value:.{digits}f}"
