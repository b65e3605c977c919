"""The samples that a figure is worst on: what stands behind a bad number, and where to look it up."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen.common.scales import ERROR, PREDICTED_ERROR_LIMIT_MM
from datagen.shards import Dataset
from trainer.evaluation.canonical import canonical_errors_mm, in_region
from trainer.evaluation.depth import MM_PER_M
from trainer.evaluation.frames import View
from trainer.evaluation.gather import Run

KEPT = 4
TILE_PX = 160
# Where a build has the report of its captures, and how that names a frame (datagen/audit/templates/report.js).
DATA_REPORT = "report/index.html"


@dataclass(frozen=True)
class WorstSample:
    """One of the samples that a figure is worst on.

    Attributes
    ----------
    index : int
        Of its split.
    value_mm : float
        The figure of this sample alone.
    picture : (H, W, 3) uint8
        Its image and its map of errors, side by side.
    """

    index: int
    value_mm: float
    picture: npt.NDArray[np.uint8]


class WorstSamples:
    """Keeps, figure by figure, the samples it is worst on, as they pass.

    Parameters
    ----------
    regions : mapping of name to labels
        See :func:`trainer.evaluation.canonical.region_labels`.

    Attributes
    ----------
    found : dict of figure to list of WorstSample
        The worst first. ``canonical``, ``canonical_<region>``, ``depth`` (as predicted) and ``depth_aligned`` (scaled
        to its true median): means over a sample's pixels with truth, millimetres.
    """

    def __init__(self, regions: Mapping[str, npt.NDArray[np.int64]]) -> None:
        self._regions = dict(regions)
        self.found: dict[str, list[WorstSample]] = {}

    def offer(self, run: Run) -> None:
        """Consider the views of a run."""
        for index, view in zip(run.indices.tolist(), run.views, strict=True):
            for name, errors, where in self._errors(view):
                if not where.any():
                    continue
                kept = self.found.setdefault(name, [])
                value = float(errors[where].mean())
                if len(kept) < KEPT or value > kept[-1].value_mm:
                    kept.append(WorstSample(index, value, _picture(view, errors, where)))
                    kept.sort(key=lambda sample: -sample.value_mm)
                    del kept[KEPT:]

    def _errors(self, view: View) -> list[tuple[str, npt.NDArray[np.float64], npt.NDArray[np.bool_]]]:
        """Return each figure's name, its error in millimetres (H, W), and where it counts (H, W)."""
        truth = view.truth
        found = [
            ("depth", np.abs(view.depth_m - truth.depth_m) * MM_PER_M, truth.surface),
            ("depth_aligned", np.abs(view.scaled_depth_m - truth.depth_m) * MM_PER_M, truth.surface),
        ]
        if view.space == "shared":
            errors = canonical_errors_mm(view.canonical_m, truth.canonical_m)
            found.append(("canonical", errors, truth.known))
            for name, labels in self._regions.items():
                found.append((f"canonical_{name}", errors, truth.known & in_region(truth.region, labels)))
        return [(name, np.asarray(errors, np.float64), where) for name, errors, where in found]


def figure_of(metric: str, found: Mapping[str, object]) -> str | None:
    """Return which of the figures in ``found`` stands behind a metric; None if none does."""
    if "_confidence_" in metric or metric.startswith("depth_affine"):
        return None
    stem = metric.removesuffix("_mm")
    for part in ("_median", "_mean", "_p95"):
        stem = stem.removesuffix(part)
    if stem.startswith("depth"):
        stem = "depth_aligned" if stem.startswith("depth_aligned") else "depth"
    return stem if stem in found else None


def _picture(view: View, errors: npt.NDArray[np.float64], where: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    from matplotlib import colormaps

    image = view.truth.image.transpose(1, 2, 0)
    colours = colormaps[ERROR](np.clip(np.nan_to_num(errors) / PREDICTED_ERROR_LIMIT_MM, 0, 1))[..., :3] * 255
    shown = np.where(where[..., None], colours, 0.35 * image)
    return np.concatenate([image, np.rint(shown).astype(np.uint8)], axis=1)


def png_of(picture: npt.NDArray[np.uint8]) -> bytes:
    """Return a picture as a PNG, each half :data:`TILE_PX` pixels wide."""
    from PIL import Image

    buffer = io.BytesIO()
    tile = Image.fromarray(picture).resize((2 * TILE_PX, TILE_PX), Image.Resampling.NEAREST)
    tile.save(buffer, "PNG")
    return buffer.getvalue()


def frame_links(dataset: Dataset, page_folder: Path) -> Callable[[str], str | None]:
    """Return a function from ``subject/sequence/frame/camera`` to its frame in the report of the data.

    Parameters
    ----------
    page_folder : Path
        Folder of the page that links.

    Returns
    -------
    function of str
        Gives None where the dataset lies in no build folder with a report.
    """
    from urllib.parse import quote

    report = Path(dataset.url).resolve().parent / DATA_REPORT
    if "://" in dataset.url or not report.is_file():
        return lambda _: None
    base = quote(os.path.relpath(report, page_folder.resolve()).replace(os.sep, "/"))
    return lambda name: f"{base}#frame={quote(name.rpartition('/')[0], safe='')}"
