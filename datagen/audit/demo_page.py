"""The demo's front page: every metric, and links to everything the demo made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datagen import __version__
from datagen.common.files import write_owned_bytes
from datagen.common.pages import render_page

Metric = float | None
MEASURED = {"canonical": "canonical error", "depth": "depth error", "depth_aligned": "depth error, scale aligned"}


@dataclass(frozen=True)
class DemoSummary:
    """The result of the demo.

    Attributes
    ----------
    metrics : mapping of name to number
        Flat, units in the names; None where nothing could be measured.
    verdicts : mapping of status to number of frames
    stages_s : mapping of stage to seconds
    measured : mapping of split to the trainer's metrics
    """

    metrics: Mapping[str, Metric]
    verdicts: Mapping[str, int]
    stages_s: Mapping[str, float]
    measured: Mapping[str, Mapping[str, Any]]


def summary_rows(summary: DemoSummary) -> list[tuple[str, str]]:
    """Return the demo's table: label and value."""
    f = summary.metrics
    verdicts = ", ".join(f"{summary.verdicts.get(s, 0)} {s}" for s in ("pass", "review", "fail"))
    rows = [
        ("subjects", _number(f["subjects"], 0)),
        ("frames", _number(f["frames"], 0)),
        ("views", _number(f["views"], 0)),
        ("samples train / val / test", " / ".join(_number(f[f"samples_{s}"], 0) for s in ("train", "val", "test"))),
        ("warp, true error median", f"{_number(f['warp_median_mm'])} mm"),
        ("warp, true error p95", f"{_number(f['warp_p95_mm'])} mm"),
        ("warp, surface residual", f"{_number(f['residual_median_mm'], 3)} mm"),
        ("warp verdicts", verdicts),
        ("rendering and writing", f"{_number(f['views_per_s'], 1)} views/s"),
        ("dataset", f"{_number(f['dataset_mib'], 1)} MiB"),
    ]
    for split, measured in summary.measured.items():
        for what, label in MEASURED.items():
            model, trivial = measured[f"{what}_mean_mm"], measured[f"mean_map_{what}_mean_mm"]
            rows.append((f"{split} {label}", f"{_number(model, 1)} mm (mean map {_number(trivial, 1)} mm)"))
    rows.append(("time", f"{_number(f['seconds'], 0)} s"))
    rows.append(("peak memory", f"{_number(f['peak_gib'])} GiB"))
    return rows


PAGE = "index.html"


def write_demo_page(out: Path, summary: DemoSummary) -> Path:
    """Write ``index.html`` into the demo's folder ``out`` and return its path."""
    pictures = [
        ("Held-out subject: image, true and predicted maps, errors", "evaluation/val/contact_sheet.png"),
        ("A held-out clip of the test subject, predicted together", "prediction/strip.png"),
        ("Learning curves", "evaluation/val/learning_curve.png"),
        ("Test subject: image, true and predicted maps, errors", "evaluation/test/contact_sheet.png"),
    ]
    links = [
        ("Audit report of the warps", "report/index.html"),
        ("Metrics as JSON", "summary.json"),
        ("Recipe, every default spelt out", "manifest.json"),
        ("Training log", "train/log.jsonl"),
        ("Held-out subject: every measure, beside baselines", "evaluation/val/index.html"),
        ("Test subject: every measure, beside baselines", "evaluation/test/index.html"),
        ("The predicted clip in a viewer", "prediction/viewer.html"),
        ("Raw predictions", "prediction/raw_predictions.npz"),
    ]
    page = render_page(
        "datagen.audit",
        "templates",
        "demo.html",
        version=__version__,
        rows=summary_rows(summary),
        stages=[(name, f"{seconds:.0f} s") for name, seconds in summary.stages_s.items()],
        pictures=[(title, path) for title, path in pictures if (out / path).is_file()],
        links=[(title, path) for title, path in links if (out / path).is_file()],
    )
    path = out / PAGE
    write_owned_bytes(path, page)
    return path


def _number(value: Metric, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
