"""Pictures of maps: contact sheets, strips and learning curves, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from datagen.common.errors import StorageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CELL_INCHES = 1.7


@dataclass(frozen=True)
class Panel:
    """One picture in a grid.

    Attributes
    ----------
    pixels : (H, W, 3) or (H, W, 4) uint8, or (H, W) float with NaN where nothing is shown
    unit : str
        Label of the colour bar; empty for none.
    limits : tuple of float, optional
        Of the colour map; the range of the values by default.
    colours : str
        A matplotlib colour map.
    """

    pixels: npt.NDArray[Any]
    title: str = ""
    unit: str = ""
    limits: tuple[float, float] | None = None
    colours: str = "viridis"


def canonical_colours(canonical: npt.NDArray[np.floating], shown: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Colour coordinates (3, H, W) in [−1, 1] by x, y, z as red, green, blue; white where not shown (H, W)."""
    rgb = np.clip((canonical.transpose(1, 2, 0) + 1) / 2, 0, 1) * 255
    return np.where(shown[..., None], rgb, 255).astype(np.uint8)


def masked(values: npt.NDArray[np.floating], shown: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return values with NaN where not shown."""
    return np.where(shown, values, np.nan).astype(np.float64)


def write_grid(path: Path | BinaryIO, rows: Sequence[Sequence[Panel]], heading: str = "") -> None:
    """Write rows of panels as one PNG, to a path or a stream, each map with its colour bar."""
    from matplotlib.figure import Figure

    columns = max(len(row) for row in rows)
    figure = Figure((columns * _CELL_INCHES * 1.25, len(rows) * _CELL_INCHES + 0.5), dpi=110, layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for k, row in enumerate(rows):
        for j in range(columns):
            axis = axes[k][j]
            axis.set_axis_off()
            if j >= len(row):
                continue
            panel = row[j]
            low, high = panel.limits or (None, None)
            shown = axis.imshow(panel.pixels, cmap=panel.colours, vmin=low, vmax=high, interpolation="nearest")
            if k == 0 or panel.title != rows[0][min(j, len(rows[0]) - 1)].title:
                axis.set_title(panel.title, fontsize=8)
            if panel.unit:
                bar = figure.colorbar(shown, ax=axis, shrink=0.85)
                bar.ax.tick_params(labelsize=6)
                bar.set_label(panel.unit, fontsize=6)
    if heading:
        figure.suptitle(heading, fontsize=9)
    _save(figure, path)


def write_image(path: Path, pixels: npt.NDArray[np.uint8 | np.uint16]) -> None:
    """Write (H, W, 3) uint8, or (H, W) uint8 or uint16, as a PNG."""
    from PIL import Image

    try:
        Image.fromarray(pixels).save(path, compress_level=3)  # twice as fast as 6, a tenth larger
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error}", "a writable folder", "Choose another one") from None


def write_learning_curve(path: Path | BinaryIO, records: Sequence[dict[str, Any]], baseline: dict[str, float]) -> None:
    """Draw the loss and the validation errors of a log over the steps, with the baseline's errors as lines."""
    from matplotlib.figure import Figure

    figure = Figure((9, 3.2), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    train = [r for r in records if r["kind"] == "train"]
    left.plot([r["step"] for r in train], [r["loss"] for r in train], color="tab:blue", linewidth=1)
    left.set(xlabel="step", ylabel="training loss")
    val = [r for r in records if r["kind"] == "val"]
    names = (("canonical_mean_mm", "tab:orange"), ("depth_mean_mm", "tab:green"), ("depth_aligned_mean_mm", "tab:red"))
    for name, colour in names:
        label = name.removesuffix("_mm").replace("_", " ")
        right.plot([r["step"] for r in val], [r[name] for r in val], ".-", color=colour, label=label)
        if name in baseline:
            right.axhline(baseline[name], color=colour, linestyle=":", linewidth=1)
    if baseline:
        right.plot([], [], ":", color="grey", label="mean map")
    right.set(xlabel="step", ylabel="held-out error (mm)", ylim=(0, None))
    if val:
        right.legend(fontsize=7)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
    _save(figure, path)


# As readable on a white page (4.6) as on a dark one (4.1).
_NEUTRAL = "#73787f"


def for_any_page(figure: Figure) -> None:
    """Make a figure's ground transparent and its letters and axes grey: it goes into light pages and dark ones."""
    from matplotlib.patches import Rectangle
    from matplotlib.spines import Spine
    from matplotlib.text import Text

    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
        axes.tick_params(colors=_NEUTRAL, which="both")
    for text in figure.findobj(Text):
        text.set_color(_NEUTRAL)
    for spine in figure.findobj(Spine):
        spine.set_edgecolor(_NEUTRAL)
    for legend in (axes.get_legend() for axes in figure.axes):
        if legend is not None and isinstance(frame := legend.get_frame(), Rectangle):
            frame.set_alpha(0)


def _save(figure: Figure, path: Path | BinaryIO) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    for_any_page(figure)
    if not isinstance(path, Path):
        FigureCanvasAgg(figure).print_png(path)  # type: ignore[no-untyped-call]
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        FigureCanvasAgg(figure).print_png(str(path))  # type: ignore[no-untyped-call]
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error}", "a writable folder", "Choose another one") from None
