"""The trivial predictor every model must beat: the mean map of the training set, whatever the image shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError
from datagen.shards import Split

_CHUNK = 32
_SAMPLES = 2000  # the mean of more is the same to a fraction of a millimetre


@dataclass(frozen=True)
class MeanMap:
    """Per-pixel training means.

    Attributes
    ----------
    depth_m : (H, W) float32
    canonical : (3, H, W) float32
    """

    depth_m: npt.NDArray[np.float32]
    canonical: npt.NDArray[np.float32]


def mean_map(split: Split) -> MeanMap:
    """Average a split, or some thousands of evenly spread samples of a large one; see :func:`mean_of`."""
    names = ("depth", "canonical", "confidence")
    chosen = np.unique(np.linspace(0, len(split) - 1, min(len(split), _SAMPLES)).round().astype(int))
    chunks = (split.read(names, chosen[start : start + _CHUNK]) for start in range(0, len(chosen), _CHUNK))
    return mean_of((c["depth"], c["canonical"], c["confidence"]) for c in chunks)


def mean_of(
    chunks: Iterable[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]],
) -> MeanMap:
    """Average maps pixel by pixel: depth over surface pixels, canonical weighted by confidence.

    Where no training sample shows the head, the mean over all pixels stands in.

    Parameters
    ----------
    chunks : iterable of (depth (N, H, W) metres, canonical (N, 3, H, W), confidence (N, H, W))

    Raises
    ------
    InputError
        If there is no sample or no surface at all.
    """
    depth_sum = depth_count = canonical_sum = canonical_weight = None
    for depth, canonical, confidence in chunks:
        parts = (
            depth.sum(0, dtype=np.float64),
            (depth > 0).sum(0).astype(np.float64),
            (canonical * confidence[:, None]).sum(0, dtype=np.float64),
            confidence.sum(0, dtype=np.float64),
        )
        if depth_sum is None or depth_count is None or canonical_sum is None or canonical_weight is None:
            depth_sum, depth_count, canonical_sum, canonical_weight = parts
        else:
            depth_sum, depth_count = depth_sum + parts[0], depth_count + parts[1]
            canonical_sum, canonical_weight = canonical_sum + parts[2], canonical_weight + parts[3]
    if depth_sum is None or depth_count is None or canonical_sum is None or canonical_weight is None:
        raise InputError("there is no sample to average", "at least one training sample", "Check the dataset's splits")
    if not depth_count.any() or not canonical_weight.any():
        raise InputError("no training sample shows a surface", "depth and confidence above 0", "Run `datagen stats`")
    depth_mean = np.where(depth_count > 0, depth_sum / np.maximum(depth_count, 1), depth_sum.sum() / depth_count.sum())
    everywhere = canonical_sum.sum((1, 2)) / canonical_weight.sum()
    local = canonical_sum / np.maximum(canonical_weight, 1e-9)
    canonical_mean = np.where(canonical_weight > 0, local, everywhere[:, None, None])
    return MeanMap(depth_mean.astype(np.float32), canonical_mean.astype(np.float32))
