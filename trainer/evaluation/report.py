"""What an evaluation found, and its report: one HTML page that holds its pictures, and those pictures beside it."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datagen.common.files import atomic_write_bytes, json_ready
from datagen.common.pages import render_page
from datagen.common.scales import PREDICTED_ERROR_LIMIT_MM
from trainer.evaluation import charts, tables
from trainer.evaluation.charts import Showcase
from trainer.evaluation.tables import Table
from trainer.evaluation.worst import WorstSamples, figure_of, png_of
from trainer.pictures import write_grid, write_learning_curve
from trainer.run.log import read_log

PAGE, SHEET, CURVE = REPORT_FILES = ("index.html", "contact_sheet.png", "learning_curve.png")


@dataclass(frozen=True)
class Result:
    """What an evaluation found.

    Attributes
    ----------
    metrics : dict
        One flat name a number, as docs/metrics.md lists them; a baseline's under its own prefix.
    curves : dict
        SSME over windows, PCK, risk–coverage and calibration.
    facts : dict of str to str
        What was measured: model, dates, versions, data.
    """

    split: str
    samples: int
    step: int | None
    metrics: dict[str, Any]
    curves: dict[str, Any]
    facts: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return everything but the curves, with null for metrics nothing was measured for."""
        return {"split": self.split, "samples": self.samples, "step": self.step, "figures": json_ready(self.metrics)}


@dataclass(frozen=True)
class _Picture:
    title: str
    note: str
    source: str
    anchor: str = ""


def write_report(
    folder: Path,
    result: Result,
    showcase: Showcase,
    worst: WorstSamples,
    run_folder: Path,
    facts: Mapping[str, str],
    link: Callable[[str], str | None] = lambda _: None,
) -> Path:
    """Write ``index.html``, ``contact_sheet.png`` and, if the run has a log, ``learning_curve.png``.

    Parameters
    ----------
    facts : mapping of str to str
        What was measured: model, date, version, data.
    link : function of a sample's name
        Address of its frame in the report of the data; None without one.
    """
    metrics = result.metrics
    sheet = folder / SHEET
    rows = [charts.sheet_row(shown, showcase.half_extent_m) for shown in showcase.views]
    if rows:
        write_grid(sheet, rows, _heading(result))
    records = read_log(run_folder)
    base = {name.removeprefix("mean_map_"): v for name, v in metrics.items() if name.startswith("mean_map_")}
    curve = folder / CURVE
    if records:
        write_learning_curve(curve, records, base)
    pictures = [
        _embedded("Motion over time", "SSME(h): error of the motion over h frames.", _motion(result)),
        _embedded("Correct points", "", charts.pck_chart(result.curves["pck"], result.curves["pck_shares"])),
        _embedded("Confidence", "", charts.confidence_chart(_confidence(result))),
        _embedded("Samples", "", sheet.read_bytes() if rows else None),
        *_tracks(showcase),
        _embedded("Learning curves", "", curve.read_bytes() if records else None),
    ]
    shown = tables.metric_tables(metrics)
    page = render_page(
        "trainer.evaluation",
        "templates",
        "report.html.j2",
        result=result,
        facts=facts,
        summary=_summary(metrics),
        methods=_methods(metrics),
        tables=shown,
        links=links(shown, worst, tracks=bool(showcase.worst)),
        worst=_worst_lists(worst, showcase, link),
        dataset=facts.get("dataset", "DATASET"),
        error_limit_mm=PREDICTED_ERROR_LIMIT_MM,
        pictures=[p for p in pictures if p is not None],
        metrics=sorted((name, _plain(value)) for name, value in metrics.items()),
    )
    atomic_write_bytes(folder / PAGE, page)
    return folder / PAGE


def links(shown: Sequence[Table], worst: WorstSamples, *, tracks: bool) -> dict[str, str]:
    """Return, metric by metric, the anchor of what it is worst on; metrics without one are left out."""
    found = {}
    for metric in (name for table in shown for name in table.metrics if name):
        figure = figure_of(metric, worst.found)
        if figure is not None:
            found[metric] = f"worst-{figure}"
        elif tracks and metric.startswith(("correspondence_", "tracking_", "ssme_")):
            found[metric] = "worst-tracks"
    return found


def _worst_lists(
    worst: WorstSamples, showcase: Showcase, link: Callable[[str], str | None]
) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Return of each figure its anchor, its name, and its worst samples."""
    return [
        (
            f"worst-{figure}",
            figure.replace("_", " "),
            [
                {
                    "index": sample.index,
                    "name": (name := showcase.name(sample.index)),
                    "value": f"{sample.value_mm:.1f} mm",
                    "link": link(name),
                    "source": "data:image/png;base64," + base64.b64encode(png_of(sample.picture)).decode(),
                }
                for sample in samples
            ],
        )
        for figure, samples in worst.found.items()
    ]


def _summary(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the claims a reader looks for first, each with its two figures and their ratio in words."""
    rows = []
    for label, baseline, one, other, unit in (
        ("canonical error", "the training mean", "mean_map_canonical_median_mm", "canonical_median_mm", "mm"),
        (
            *("correspondence error", "the nearest point in world space"),
            *("posed_correspondence_median_px", "correspondence_median_px", "px"),
        ),
        (
            *("correspondence error between subjects", "the nearest point in world space"),
            *("posed_subject_correspondence_median_px", "subject_correspondence_median_px", "px"),
        ),
        ("depth error (AbsRel)", "the training mean", "mean_map_depth_absrel", "depth_absrel", ""),
    ):
        a, b = metrics.get(one), metrics.get(other)
        if a and b and math.isfinite(a) and math.isfinite(b):
            figures = f"{b:.3g} against {a:.3g} {unit}".rstrip()
            rows.append((label, f"{in_words(b / a)} {baseline} ({figures})"))
    return rows


def in_words(ratio: float) -> str:
    """Say how an error compares with a baseline's, of which it is ``ratio``."""
    if 0.95 <= ratio <= 1.05:
        return "about as large as that of"
    if ratio > 1:
        return (
            f"{ratio:.2g} times as large as that of"
            if ratio >= 1.5
            else f"{100 * (ratio - 1):.0f} % larger than that of"
        )
    if ratio > 2 / 3:
        return f"{100 * (1 - ratio):.0f} % smaller than that of"
    return f"{1 / ratio:.2g} times smaller than that of"


def _methods(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what each method that is in a table does."""
    shown = {row[0] for table in tables.metric_tables(metrics) for row in table.rows}
    return [(name, text) for name, text in tables.METHODS.items() if name in shown]


def _tracks(showcase: Showcase) -> list[_Picture | None]:
    best = [_embedded(f"Best tracks: {s.name}", "", charts.track_picture(s)) for s in showcase.best]
    anchors = ["worst-tracks", *[""] * len(showcase.worst)]
    worst = [
        _embedded(f"Worst tracks: {s.name}", "", charts.track_picture(s), anchor)
        for s, anchor in zip(showcase.worst, anchors, strict=False)
    ]
    return [*best, *worst]


def _motion(result: Result) -> bytes | None:
    return charts.motion_chart(result.curves["ssme"])


def _confidence(result: Result) -> dict[str, Any]:
    return {"canonical": result.curves["canonical_confidence"], "depth": result.curves["depth_confidence"]}


def _heading(result: Result) -> str:
    f = result.metrics
    return (
        f"{result.split}: canonical {f['canonical_mean_mm']:.1f} mm (mean map {f['mean_map_canonical_mean_mm']:.1f}), "
        f"depth {f['depth_mean_mm']:.1f} mm ({f['mean_map_depth_mean_mm']:.1f})"
    )


def _embedded(title: str, note: str, png: bytes | None, anchor: str = "") -> _Picture | None:
    if png is None:
        return None
    return _Picture(title, note, "data:image/png;base64," + base64.b64encode(png).decode(), anchor)


def _plain(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
