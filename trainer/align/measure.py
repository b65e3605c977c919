"""Errors of an alignment on samples of a dataset whose truth is known."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import spearmanr

from datagen.common.arrays import F64, I64, Bools
from datagen.shards import Dataset
from trainer.align.crops import to_picture
from trainer.align.data import ARRAYS, FaceTruth, plain_crops, visible_vertices
from trainer.align.network import FlowNetwork, RegressionNetwork
from trainer.align.uv_space import UVSpace
from trainer.data import decode

_TOGETHER = 16


@dataclass(frozen=True, eq=False)
class Measured:
    """What was predicted of N samples and what is true, after each of K iterations, the start first.

    Attributes
    ----------
    error_px : (N, K, V, 2) float32
        Predicted less true place, pixels of the sample; NaN where nothing was predicted.
    sigma_px : (N, K, V) float32
    size_px : (N,) float64
        Root of width times height of the true face's box.
    visible : (N, V) bool
        Whether the sample shows the vertex.
    to_head : (N, 2, 3) float64
        What an error of one pixel along x, or y, is in the head's axes at the face's distance, metres.
    instant : (N,) int64
        The same for pictures of one instant.
    is_face : (V,) bool
    """

    error_px: F64
    sigma_px: F64
    size_px: F64
    visible: Bools
    to_head: F64
    instant: I64
    is_face: Bools

    @property
    def nme(self) -> F64:
        """Mean distance of the face's vertices over the face's size, of each sample and iteration, (N, K)."""
        distance = np.linalg.norm(self.error_px[:, :, self.is_face], axis=-1)
        found: F64 = distance.mean(-1, dtype=np.float64) / self.size_px[:, None]
        return found

    def surprise(self, iteration: int = -1) -> F64:
        """Return r² / (2 σ²) of every face vertex in every sample, (N, F): 1 on average where σ is true."""
        squared = np.square(self.error_px[:, iteration, self.is_face]).sum(-1)
        found: F64 = squared / (2 * np.square(self.sigma_px[:, iteration, self.is_face]))
        return found

    def metrics(self, temperature: float = 1.0) -> dict[str, float]:
        """Return the figures of docs/align.md.

        Parameters
        ----------
        temperature : float
            Times which σ is taken.
        """
        nme = 100 * self.nme.mean(0)
        distance = np.linalg.norm(self.error_px[:, -1, self.is_face], axis=-1)
        sigma, seen = self.sigma_px[:, -1, self.is_face], self.visible[:, self.is_face]
        figures = {
            "nme_percent": float(nme[-1]),
            "nme_median_percent": float(100 * np.median(self.nme[:, -1])),
            "visible_nme_percent": _share(distance, seen, self.size_px),
            "hidden_nme_percent": _share(distance, ~seen, self.size_px),
            "surprise": float(self.surprise().mean() / temperature**2),
            "sigma_rank_correlation": float(spearmanr(sigma, distance, axis=None).statistic),
            "hidden_sigma_ratio": float(np.median(sigma[~seen]) / np.median(sigma[seen]))
            if seen.any() and not seen.all()
            else float("nan"),
        }
        return figures | {f"nme_percent_{k}": float(value) for k, value in enumerate(nme)}


def measure_split(
    model: FlowNetwork | RegressionNetwork, dataset: Dataset, name: str, space: UVSpace, samples: I64
) -> Measured:
    """Align samples of a split, each cropped about its true face's box, and compare with the frame table.

    Parameters
    ----------
    model : FlowNetwork or RegressionNetwork
        In evaluation mode.
    samples : (N,) int64
    """
    split, device = dataset[name], space.uv.device
    truth = FaceTruth(split, space)
    parts: dict[str, list[npt.NDArray[Any]]] = defaultdict(list)
    for first in range(0, len(samples), _TOGETHER):
        chosen = samples[first : first + _TOGETHER]
        stored = split.read(ARRAYS, chosen, decode=False)
        batch = {k: decode(k, torch.from_numpy(v).to(device), dataset.depth_scale) for k, v in stored.items()}
        seen = truth.seen(chosen, batch["intrinsics"], batch["world_to_camera"])
        crops = plain_crops(batch["image"], seen, model.encoder.image_size)
        with torch.inference_mode():
            alignments = model(crops.images)
        side = crops.transform[:, 0, :2].norm(dim=1)[:, None]
        places = [to_picture(a.positions, crops.transform) - seen.pixels for a in alignments]
        width, height = (seen.boxes[:, 2:] - seen.boxes[:, :2]).double().unbind(1)
        found = {
            "error_px": torch.stack(places, 1),
            "sigma_px": torch.stack([a.sigma * side for a in alignments], 1),
            "size_px": (width * height).sqrt(),
            "visible": visible_vertices(seen.pixels, seen.depth_m, batch["depth"]),
            "to_head": seen.to_head,
        }
        for part, value in found.items():
            parts[part].append(value.cpu().numpy())
    joined = {part: np.concatenate(values) for part, values in parts.items()}
    return Measured(**joined, instant=split.index.frame_row[samples], is_face=space.is_face.cpu().numpy())


def _share(distance: F64, chosen: Bools, size: F64) -> float:
    """Return the mean of chosen distances (N, V) over sizes (N,), percent."""
    return float(100 * (distance / size[:, None])[chosen].mean()) if chosen.any() else float("nan")
