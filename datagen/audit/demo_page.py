"""The demo's front page: what it measured and whether that is good, its pictures, and links to all it made.

It is written again and again while the demo runs, with what there is so far.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from datagen import __version__
from datagen.common.files import write_owned_bytes
from datagen.common.pages import render_page

PAGE = "index.html"
REFRESH_S = 4
Metric = float | None
Judgement = Literal["good", "fair", "poor", ""]
# A metric at most the first is good, at most the second fair.
LIMITS = {
    "warp_median_mm": (0.5, 1.0),
    "warp_p95_mm": (2.0, 4.0),
    "residual_median_mm": (0.15, 0.3),
    "confidence_gap": (0.05, 0.15),
    "ratio_mean_map": (1 / 3, 2 / 3),
}
SHARES = {1: "all of", 1 / 2: "half of", 1 / 3: "a third of", 1 / 4: "a quarter of", 1 / 5: "a fifth of"}
SHARES |= {2 / 3: "two thirds of", 3 / 4: "three quarters of"}
MEASURED = {"canonical": "canonical error", "depth": "depth error", "depth_aligned": "depth error, scale aligned"}
SPLIT_NAMES = {"val": "validation people", "test": "test people"}
PICTURES = (
    ("The head that every face is registered to: each colour is a place on it", "pictures/template.png"),
    ("What the cameras saw of the first person, simulated", "pictures/cameras.png"),
    ("A registered scan beside the template: the same colour is the same place on every face", "pictures/warp.png"),
    (
        "Samples of the dataset: image, depth, canonical coordinates, normals, regions, confidence",
        "pictures/samples.png",
    ),
    ("A person the model has never seen, while it learns", "train/held_out.png"),
    ("A person the model has never seen: image, true and predicted maps, errors", "evaluation/val/contact_sheet.png"),
    ("A clip of a second one, all of its frames predicted together", "prediction/strip.png"),
    ("Learning curves", "train/learning_curve.png"),
)
# Shown until what stands second is there.
PASSING = {"pictures/template.png": "pictures/warp.png", "train/held_out.png": "evaluation/val/contact_sheet.png"}
LINKS = (
    ("Audit report of the warps, worst frame first", "report/index.html"),
    ("The predicted clip in a viewer", "prediction/viewer.html"),
    ("Validation people, held out: every measure, beside baselines", "evaluation/val/index.html"),
    ("Test people, held out: every measure", "evaluation/test/index.html"),
    ("Metrics as JSON", "summary.json"),
    ("Recipe, every default spelt out", "manifest.json"),
    ("Training log", "train/log.jsonl"),
    ("Raw predictions", "prediction/raw_predictions.npz"),
)


@dataclass(frozen=True)
class Row:
    """One line of the demo's table: a figure, and what it means."""

    label: str
    value: str
    judgement: Judgement = ""
    meaning: str = ""


@dataclass(frozen=True)
class Step:
    """One step of the demo: ``done``, ``running`` or ``waiting``."""

    name: str
    state: Literal["done", "running", "waiting"]
    said: str = ""


@dataclass(frozen=True)
class DemoSummary:
    """What the demo has measured so far.

    Attributes
    ----------
    metrics : mapping of name to number
        Flat, units in the names; None or missing where nothing was measured, or not yet.
    verdicts : mapping of status to number of frames
    stages_s : mapping of stage to seconds
    measured : mapping of split to the trainer's metrics
    """

    metrics: Mapping[str, Metric] = field(default_factory=dict)
    verdicts: Mapping[str, int] = field(default_factory=dict)
    stages_s: Mapping[str, float] = field(default_factory=dict)
    measured: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def summary_rows(summary: DemoSummary) -> list[Row]:
    """Return the demo's table; what is not measured yet has no row."""
    f, known = summary.metrics, {name for name, value in summary.metrics.items() if value is not None}
    rows = []
    if {"subjects", "frames", "views"} <= known:
        counts = f"{_number(f['subjects'], 0)} / {_number(f['frames'], 0)} / {_number(f['views'], 0)}"
        rows.append(Row("people / frames / views", counts))
    rows += [
        _judged(f, "warp_median_mm", "warp, true error", "half of the face's points are closer to their true place"),
        _judged(f, "warp_p95_mm", "warp, true error p95", "nineteen of twenty points are closer than this"),
        _judged(f, "residual_median_mm", "warp, surface residual", "from the scan to the head laid on it", 3),
        _judged(
            f, "confidence_gap", "warp, confidence gap", "how far its stated confidence is from the truth", unit=""
        ),
    ]
    if summary.verdicts:
        rows.append(_verdicts(summary.verdicts))
    for split, measured in summary.measured.items():
        rows += [_beside_guess(split, what, label, measured) for what, label in MEASURED.items()]
    if {"fit_steps", "fit_steps_planned"} <= known:
        rows.append(_steps(f["fit_steps"] or 0, f["fit_steps_planned"] or 0))
    if "dataset_mib" in known:
        rows.append(Row("dataset", f"{_number(f['dataset_mib'], 1)} MiB"))
    if "seconds" in known:
        parts = f"first picture after {_number(f['first_picture_s'], 0)} s" if "first_picture_s" in known else ""
        rows.append(Row("time", f"{_number(f['seconds'], 0)} s", "", parts))
    if "peak_gib" in known:
        rows.append(Row("peak memory", f"{_number(f['peak_gib'])} GiB"))
    return [row for row in rows if row.value]


def write_demo_page(out: Path, summary: DemoSummary, steps: Sequence[Step] = (), *, stopped: str = "") -> Path:
    """Write ``index.html`` into the demo's folder ``out`` and return its path.

    Parameters
    ----------
    steps : sequence of Step
        While one is running, and the demo has not stopped, the page reloads itself.
    stopped : str
        Why the demo ended before its end.
    """
    running = not stopped and any(step.state == "running" for step in steps)
    shown = [(title, path) for title, path in PICTURES if (out / path).is_file()]
    shown = [(title, path) for title, path in shown if not (out / PASSING.get(path, path + "?")).is_file()]
    page = render_page(
        "datagen.audit",
        "templates",
        "demo.html",
        version=__version__,
        refresh=REFRESH_S if running else 0,
        written=datetime.now().astimezone().strftime("%H:%M:%S"),
        stopped=stopped,
        steps=steps,
        rows=summary_rows(summary),
        stages=[(name, f"{seconds:.0f} s") for name, seconds in summary.stages_s.items()],
        pictures=shown,
        links=[(title, path) for title, path in LINKS if (out / path).is_file()],
    )
    path = out / PAGE
    write_owned_bytes(path, page)
    return path


def judged(name: str, value: float) -> Judgement:
    """Return whether a metric of :data:`LIMITS` is good, fair or poor."""
    good, fair = LIMITS[name]
    return "good" if value <= good else "fair" if value <= fair else "poor"


def share_of(ratio: float) -> str:
    """Return a ratio in words, as in "a third of"; as a multiple where it is more than all."""
    if ratio > 1.05:
        return f"{ratio:.1f} times"
    nearest = min(SHARES, key=lambda share: abs(share - ratio))
    return SHARES[nearest] if abs(nearest - ratio) <= 0.1 * nearest else f"{ratio:.2f} of"


def _judged(
    metrics: Mapping[str, Metric], name: str, label: str, meaning: str, digits: int = 2, *, unit: str = " mm"
) -> Row:
    value = metrics.get(name)
    if value is None:
        return Row(label, "")
    return Row(label, f"{_number(value, digits)}{unit}", judged(name, value), meaning)


def _beside_guess(split: str, what: str, label: str, measured: Mapping[str, Any]) -> Row:
    value, guess = measured[f"{what}_mean_mm"], measured[f"mean_map_{what}_mean_mm"]
    label = f"{SPLIT_NAMES.get(split, split)}: {label}"
    if value is None or not guess:
        return Row(label, "" if value is None else f"{_number(value, 1)} mm")
    ratio = value / guess
    meaning = f"{share_of(ratio)} what guessing the mean gives ({_number(guess, 1)} mm)"
    return Row(label, f"{_number(value, 1)} mm", judged("ratio_mean_map", ratio), meaning)


def _verdicts(verdicts: Mapping[str, int]) -> Row:
    counts = ", ".join(f"{verdicts.get(status, 0)} {status}" for status in ("pass", "review", "fail"))
    total = sum(verdicts.values())
    passed, failed = verdicts.get("pass", 0), verdicts.get("fail", 0)
    judgement: Judgement = "poor" if failed > 0.1 * total else "good" if passed >= 0.9 * total else "fair"
    return Row("warp verdicts", counts, judgement, "the report shows why, worst first")


def _steps(done: float, planned: float) -> Row:
    value = f"{done:.0f} of {planned:.0f} steps"
    if done >= planned:
        return Row("fit", value)
    return Row("fit", value, "fair", "it was stopped early: the errors above are of an unfinished model")


def _number(value: Metric, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
