"""What every model must beat: the mean map of the training set, and optical flow chained over a clip.

The mean map is the trivial predictor, whatever the image shows. Optical flow knows nothing of faces: DIS (Kroeger et
al., ECCV 2016) of OpenCV, the optional extra ``flow``, between neighbouring frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import F64
from datagen.common.errors import InputError
from datagen.shards import Split
from trainer.evaluation.cameras import unproject_pixels
from trainer.evaluation.correspondence import Queries
from trainer.evaluation.frames import View

_CHUNK = 32
_SAMPLES = 2000  # the mean of more is the same to a fraction of a millimetre


def flow_available() -> bool:
    """Whether OpenCV is installed."""
    try:
        _opencv()
    except ImportError:
        return False
    return True


def _opencv() -> Any:
    import cv2

    return cv2  # untyped: its stubs lack the constructor of DIS


def dense_flow(first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return the motion (2, H, W) x, y in pixels from one image (3, H, W) to another."""
    cv2 = _opencv()
    grey = [np.rint(np.tensordot([0.299, 0.587, 0.114], image, 1)).astype(np.uint8) for image in (first, second)]
    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    motion = method.calc(*grey, None)
    return np.ascontiguousarray(motion.transpose(2, 0, 1))


def follow(pixels: npt.NDArray[Any], motion: npt.NDArray[Any]) -> F64:
    """Move places (N, 2) by a motion field (2, H, W), read between pixel centres; outside, the rim's motion counts."""
    return np.asarray(pixels, np.float64) + sample_map(motion, pixels)


def sample_map(values: npt.NDArray[Any], pixels: npt.NDArray[Any]) -> F64:
    """Read a map (C, H, W) bilinearly at places (N, 2) x, y, pixel centres at +0.5; (N, C)."""
    h, w = values.shape[-2:]
    x = np.clip(np.asarray(pixels, np.float64)[:, 0] - 0.5, 0, w - 1)
    y = np.clip(np.asarray(pixels, np.float64)[:, 1] - 0.5, 0, h - 1)
    column, row = np.minimum(x.astype(int), max(w - 2, 0)), np.minimum(y.astype(int), max(h - 2, 0))
    right, below = np.minimum(column + 1, w - 1), np.minimum(row + 1, h - 1)
    fx, fy = x - column, y - row
    top = values[:, row, column] * (1 - fx) + values[:, row, right] * fx
    bottom = values[:, below, column] * (1 - fx) + values[:, below, right] * fx
    return (top * (1 - fy) + bottom * fy).T


class FlowChain:
    """Optical flow of one run of frames, each computed once."""

    def __init__(self, views: Sequence[View]) -> None:
        self._place = {id(view): k for k, view in enumerate(views)}
        images = [view.truth.image for view in views]
        self._motions = [dense_flow(a, b) for a, b in pairwise(images)]

    def find(self, a: View, queries: Queries, b: View) -> tuple[F64, F64]:
        """Follow queries of ``a`` to a later frame ``b``; the model's own depth there makes points of pixels."""
        pixels = queries.pixels
        for motion in self._motions[self._place[id(a)] : self._place[id(b)]]:
            pixels = follow(pixels, motion)
        depth = sample_map(b.scaled_depth_m[None], pixels)[:, 0]
        return pixels, unproject_pixels(pixels, depth, b.truth.intrinsics)


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
