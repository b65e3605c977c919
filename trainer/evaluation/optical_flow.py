"""Dense optical flow between neighbouring frames, chained over a clip: a baseline that knows no faces.

Uses DIS flow (Kroeger et al., ECCV 2016) of OpenCV, the optional extra ``flow``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import F64
from trainer.evaluation.cameras import unproject_pixels
from trainer.evaluation.correspondence import Queries
from trainer.evaluation.frames import View


def flow_available() -> bool:
    """Whether OpenCV is installed."""
    try:
        _opencv()
    except ImportError:
        return False
    return True


def _opencv() -> Any:
    import cv2

    return cv2  # untyped: its stubs lack the constructor of DIS flow


def dense_flow(first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return the motion (2, H, W) x, y in pixels from one image (3, H, W) to another."""
    cv2 = _opencv()
    grey = [np.rint(np.tensordot([0.299, 0.587, 0.114], image, 1)).astype(np.uint8) for image in (first, second)]
    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow = method.calc(*grey, None)
    return np.ascontiguousarray(flow.transpose(2, 0, 1))


def follow(pixels: npt.NDArray[Any], flow: npt.NDArray[Any]) -> F64:
    """Move places (N, 2) by a motion field (2, H, W), read between pixel centres; outside, the rim's motion counts."""
    return np.asarray(pixels, np.float64) + sample_map(flow, pixels)


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
        self._flows = [dense_flow(a, b) for a, b in pairwise(images)]

    def find(self, a: View, queries: Queries, b: View) -> tuple[F64, F64]:
        """Follow queries of ``a`` to a later frame ``b``; the model's own depth there makes points of pixels."""
        pixels = queries.pixels
        for flow in self._flows[self._place[id(a)] : self._place[id(b)]]:
            pixels = follow(pixels, flow)
        depth = sample_map(b.scaled_depth_m[None], pixels)[:, 0]
        return pixels, unproject_pixels(pixels, depth, b.truth.intrinsics)
