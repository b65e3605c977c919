"""Charts as PNG bytes, drawn for light and dark pages alike."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.audit.truth import CORRECT_WITHIN_MM, Calibration
from datagen.common.files import atomic_write_bytes

BLUE = "#4a7fd4"
AMBER = "#d98a2b"
GREY = "#808590"


def write_histogram(path: Path, values: npt.NDArray[np.floating], label: str, *, high: float | None = None) -> Path:
    """Draw a histogram of finite values with its median and 95th percentile marked.

    Parameters
    ----------
    values : (N,) float
        At least one is finite.
    label : str
        Quantity and unit.
    high : float, optional
        Right end; larger values fall into the last bin. By default the 99.5th percentile.
    """
    finite = np.asarray(values, np.float64)[np.isfinite(values)]
    top = float(high if high is not None else np.percentile(finite, 99.5)) or 1.0
    figure, axes = _axes(4.6, 2.5)
    weights = np.full(len(finite), 100.0 / len(finite))
    axes.hist(np.minimum(finite, top), bins=40, range=(min(0.0, float(finite.min())), top), weights=weights, color=BLUE)
    for percent, style in ((50, "-"), (95, "--")):
        value = float(np.percentile(finite, percent))
        name = "median" if percent == 50 else "95 %"
        axes.axvline(min(value, top), color=AMBER, linestyle=style, linewidth=1.3, label=f"{name} {value:.3g}")
    axes.set_xlabel(label)
    axes.set_ylabel("%")
    axes.legend(frameon=False, labelcolor=GREY, fontsize=8)
    return _save(figure, path)


def write_calibration(path: Path, curve: Calibration) -> Path:
    """Draw stated confidence against the fraction that was right; the diagonal is perfect."""
    figure, axes = _axes(4.6, 2.9)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
    axes.plot(curve.stated, curve.correct, color=BLUE, linewidth=1.4)
    share = curve.count / curve.count.sum()
    axes.scatter(curve.stated, curve.correct, s=12 + 260 * share, color=BLUE, alpha=0.7, linewidths=0)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("stated confidence (area: share of vertices)")
    axes.set_ylabel(f"within {CORRECT_WITHIN_MM:g} mm")
    return _save(figure, path)


def write_frame_curve(path: Path, groups: dict[str, tuple[list[int], list[float]]], label: str) -> Path:
    """Draw one metric over the frames of each sequence.

    Parameters
    ----------
    groups : dict
        Sequence name to frame numbers and values.
    label : str
        Quantity and unit.
    """
    figure, axes = _axes(4.6, 2.5)
    for frames, values in groups.values():
        axes.plot(frames, values, linewidth=1, marker="o", markersize=2.5, alpha=0.75)
    axes.set_xlabel("frame")
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)
    return _save(figure, path)


def _axes(width: float, height: float) -> tuple[Any, Any]:
    # The object interface: pyplot keeps global state, and a report may be written by several workers at once.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(GREY)
    axes.tick_params(colors=GREY, labelsize=8)
    axes.xaxis.label.set_color(GREY)
    axes.yaxis.label.set_color(GREY)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)
    return figure, axes


def _save(figure: Any, path: Path) -> Path:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160, transparent=True, metadata={"Software": None})
    atomic_write_bytes(path, buffer.getvalue())
    return path
