"""What the report shows: curves and track pictures as PNG bytes, and the samples and runs kept for them."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from datagen.common.scales import DEPTH, ERROR, PREDICTED_ERROR_LIMIT_MM
from datagen.shards import Dataset
from trainer.evaluation.canonical import canonical_errors_mm
from trainer.evaluation.depth import MM_PER_M
from trainer.evaluation.frames import View
from trainer.evaluation.gather import Run
from trainer.pictures import Panel, canonical_colours, for_any_page, masked

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METHODS = {
    "model": ("model", "tab:blue"),
    "posed": ("nearest in world space", "tab:orange"),
    "posed_head": ("nearest in head space, true pose", "tab:olive"),
    "flow": ("optical flow, chained", "tab:green"),
    "mean_map": ("training mean", "tab:grey"),
}
ERROR_LIMITS = (0.0, PREDICTED_ERROR_LIMIT_MM)
MM_OPEN = f"mm, ≥ {PREDICTED_ERROR_LIMIT_MM:g} at the end"
# A line under another shows beside it: of methods that are equally good too.
_STYLES = dict(zip(METHODS, ("-", "--", "-.", ":", (0, (1, 1))), strict=True))
_PAIRS = {"frames": "frames of one camera", "views": "cameras of one instant", "subjects": "two people"}
_TRACKED = ("", "posed_", "flow_")
_POINTS = 60
_ROWS = 6
_RUNS = 3


def motion_chart(ssme: Mapping[str, Mapping[str, Sequence[float]]]) -> bytes | None:
    """Draw SSME over windows: of the face per method, and of the model per region. None without two frames."""
    all_faces = {name: np.asarray(curves.get("face", ()), np.float64) for name, curves in ssme.items()}
    face = {name: curve for name, curve in all_faces.items() if np.isfinite(curve).any()}
    if not face:
        return None
    figure, (left, right) = _figure(2)
    for name, curve in face.items():
        _line(left, curve, *METHODS[name], _STYLES[name])
    for region, values in ssme["model"].items():
        _line(right, np.asarray(values, np.float64), region, None, "-")
    highest = max(float(curve[np.isfinite(curve)].max()) for curve in face.values())
    left.set(title="motion error of the face", xlabel="window h (frames)", ylabel="SSME(h), px")
    left.set_ylim(0, max(1.4 * highest, 1e-3))  # room for the names of five methods
    right.set(title="motion error of the model", xlabel="window h (frames)", ylabel="SSME(h), px", ylim=(0, None))
    return _png(figure, (left, right))


def pck_chart(pck: Mapping[str, Mapping[str, Sequence[float]]], shares: Sequence[float]) -> bytes | None:
    """Draw the share of correct points over the threshold, {kind of pairs: {method: curve}}."""
    kinds = {kind: {name: c for name, c in curves.items() if c} for kind, curves in pck.items()}
    kinds = {kind: curves for kind, curves in kinds.items() if curves}
    if not kinds:
        return None
    figure, axes = _figure(len(kinds))
    for axis, (kind, curves) in zip(axes, kinds.items(), strict=True):
        for name, curve in curves.items():
            label, colour = METHODS[name]
            axis.plot(
                100 * np.asarray(shares), 100 * np.asarray(curve), label=label, color=colour, linestyle=_STYLES[name]
            )
        axis.set(title=_PAIRS[kind], xlabel="threshold (% of the side)", ylabel="correct (%)", ylim=(0, 101))
    return _png(figure, axes)


def confidence_chart(curves: Mapping[str, Mapping[str, Any]]) -> bytes | None:
    """Draw risk–coverage and calibration of each kind of confidence, {"canonical": curves, …}."""
    shown = {name: c for name, c in curves.items() if c}
    if not shown:
        return None
    figure, axes = _figure(2 * len(shown))
    for k, (name, c) in enumerate(shown.items()):
        risk, calibration = axes[2 * k], axes[2 * k + 1]
        for key, label, style in (("risk", "by confidence", "-"), ("best", "by the error itself", ":")):
            points = np.asarray(c[key])
            risk.plot(100 * points[:, 0], points[:, 1], style, color="tab:blue", label=label)
        risk.set(title=f"{name}: risk–coverage", xlabel="pixels kept (%)", ylabel="mean error (mm)", ylim=(0, None))
        pairs = np.asarray(c["calibration"])
        limit = float(pairs.max()) * 1.05
        calibration.plot([0, limit], [0, limit], ":", color="grey")
        calibration.plot(pairs[:, 0], pairs[:, 1], "o-", color="tab:blue", label="bins of equal count")
        calibration.set(title=f"{name}: calibration", xlabel="error implied (mm)", ylabel="error (mm)")
    return _png(figure, axes)


def track_picture(shown: ShownRun) -> bytes:
    """Draw the first frame of a run with its points, and the last with where they are and where methods see them."""
    run = shown.run
    first, last = run.views
    visible = np.flatnonzero(run.visible[1])
    chosen = visible[np.linspace(0, len(visible) - 1, min(_POINTS, len(visible))).round().astype(int)]
    start, true = run.tracks["true"][0, chosen], run.tracks["true"][1, chosen]
    names = [name for name in _TRACKED if name in run.tracks]
    figure, axes = _figure(3 + len(names), size=2.6)
    colours = _position_colours(start)
    _picture(axes[0], first.truth.image, "first frame")
    _dots(axes[0], start, colours)
    _picture(axes[1], last.truth.image, "last frame, true")
    _dots(axes[1], true, colours)
    for axis, name in zip(axes[2:], names, strict=False):
        found = run.tracks[name][1, chosen]
        error = np.linalg.norm(found - true, axis=1)
        _picture(axis, last.truth.image, f"{name.rstrip('_') or 'model'}: {np.median(error):.2f} px")
        for a, b in zip(true, found, strict=True):
            axis.plot([a[0], b[0]], [a[1], b[1]], color="red", linewidth=0.8)
        _dots(axis, found, colours)
    errors = masked(canonical_errors_mm(last.canonical_m, last.truth.canonical_m), last.truth.known)
    image = axes[-1].imshow(errors, cmap=ERROR, vmin=0, vmax=PREDICTED_ERROR_LIMIT_MM, interpolation="nearest")
    axes[-1].set_title(f"canonical error (mm, ≥ {PREDICTED_ERROR_LIMIT_MM:g})", fontsize=8)
    figure.colorbar(image, ax=axes[-1], shrink=0.7).ax.tick_params(labelsize=6)
    for axis in axes:
        axis.set_axis_off()
    return _bytes(figure)


def sheet_row(shown: ShownView, half_extent_m: float) -> list[Panel]:
    """Return the panels of one sample: image, true and predicted maps, errors."""
    view, truth = shown.view, shown.view.truth
    true_mm = truth.depth_m * MM_PER_M
    on = truth.surface
    limits = (float(true_mm[on].min()), float(true_mm[on].max())) if on.any() else (0.0, 1.0)
    return [
        Panel(truth.image.transpose(1, 2, 0), "image"),
        Panel(masked(true_mm, on), "depth, truth", "mm", limits, DEPTH),
        Panel(masked(view.depth_m * MM_PER_M, on), "depth, predicted", "mm", limits, DEPTH),
        Panel(masked(np.abs(view.depth_m - truth.depth_m) * MM_PER_M, on), "depth error", MM_OPEN, ERROR_LIMITS, ERROR),
        Panel(_known_colours(truth.canonical_m / half_extent_m, truth.known), "canonical, truth"),
        Panel(_known_colours(view.canonical_m / half_extent_m, truth.known), "canonical, predicted"),
        Panel(
            masked(canonical_errors_mm(view.canonical_m, truth.canonical_m), truth.known),
            "canonical error", MM_OPEN, ERROR_LIMITS, ERROR,
        ),
    ]  # fmt: skip


def _known_colours(canonical: npt.NDArray[np.floating], known: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Colour coordinates (3, H, W), transparent where they are not known: (H, W, 4)."""
    return np.dstack([canonical_colours(canonical, known), np.where(known, 255, 0).astype(np.uint8)])


def _line(axis: Axes, curve: npt.NDArray[np.float64], label: str, colour: str | None, style: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    windows = np.flatnonzero(np.isfinite(curve))
    axis.plot(windows + 1, curve[windows], marker=".", linestyle=style, label=label, color=colour)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def _dots(axis: Axes, pixels: npt.NDArray[np.float64], colours: npt.NDArray[Any]) -> None:
    axis.scatter(pixels[:, 0], pixels[:, 1], c=colours, s=7, linewidths=0)


def _picture(axis: Axes, image: npt.NDArray[np.uint8], title: str) -> None:
    h, w = image.shape[-2:]
    # Pixel centres lie at +0.5, as in all coordinates drawn on top.
    axis.imshow(image.transpose(1, 2, 0), extent=(0, w, h, 0), interpolation="nearest")
    axis.set_xlim(0, w)
    axis.set_ylim(h, 0)
    axis.set_title(title, fontsize=8)


def _position_colours(pixels: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    from matplotlib import colormaps

    if not len(pixels):
        return np.zeros((0, 4))
    order = pixels[:, 1].argsort().argsort()
    return np.asarray(colormaps["turbo"](order / max(len(pixels) - 1, 1)))


def _figure(columns: int, size: float = 3.2) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure((columns * size * 1.15, size), dpi=110, layout="constrained")
    return figure, tuple(figure.subplots(1, columns, squeeze=False)[0])


def _png(figure: Figure, axes: Sequence[Axes]) -> bytes:
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
        axis.title.set_fontsize(9)
        axis.tick_params(labelsize=7)
        axis.xaxis.label.set_fontsize(8)
        axis.yaxis.label.set_fontsize(8)
        axis.legend(fontsize=7, framealpha=0)
    return _bytes(figure)


def _bytes(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    for_any_page(figure)
    FigureCanvasAgg(figure).print_png(buffer)  # type: ignore[no-untyped-call]
    return buffer.getvalue()


@dataclass(frozen=True)
class ShownView:
    """A sample kept for the contact sheet."""

    name: str
    view: View


@dataclass(frozen=True)
class ShownRun:
    """A run kept for its tracks: only what is drawn of it."""

    name: str
    run: Run


class Showcase:
    """Keeps a few views and runs as they pass."""

    def __init__(self, dataset: Dataset, split: str) -> None:
        self._split = dataset[split]
        self.half_extent_m = dataset.half_extent_m
        self.views: list[ShownView] = []
        self._runs: list[ShownRun] = []
        places = np.linspace(0, len(self._split) - 1, _ROWS).round().astype(int)
        self._chosen = set(places.tolist())

    def offer(self, run: Run) -> None:
        """Consider a run that was measured."""
        for index, view in zip(run.indices.tolist(), run.views, strict=True):
            if index in self._chosen:
                self.views.append(ShownView(self.name(index), view))
        if math.isnan(run.score_px):
            return
        last = len(run.tracks["true"]) - 1
        ends = Run(
            run.indices[[0, last]],
            [run.views[0], run.views[last]],
            [],
            {name: places[[0, last]] for name, places in run.tracks.items()},
            run.visible[[0, last]],
            run.score_px,
        )
        shown = ShownRun(f"{self.name(int(run.indices[0]))}, {last + 1} frames", ends)
        ranked = sorted([*self._runs, shown], key=lambda s: s.run.score_px)
        self._runs = [*ranked[:_RUNS], *ranked[_RUNS:][-_RUNS:]]

    @property
    def best(self) -> list[ShownRun]:
        """The runs that are followed best, the best first; of few the better half, so that each is shown once."""
        return self._runs[: (len(self._runs) + 1) // 2]

    @property
    def worst(self) -> list[ShownRun]:
        """The runs that are followed worst, the worst first; none of the best."""
        return self._runs[: len(self.best) - 1 : -1]

    def name(self, index: int) -> str:
        """Return ``subject/sequence/frame/camera`` of a sample."""
        return self._split.sample_name(index)
