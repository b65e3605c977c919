"""Views of measured depth: every pixel shows what the depth map has there; nothing is meshed, holes stay holes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datagen.geometry.camera import Camera
from datagen.render.contract import (
    BESIDE_EDGE,
    GRAZING_COSINE,
    GRAZING_FLOOR,
    LEAST_CONFIDENCE,
    ON_EDGE,
    STEP_M,
    ViewMaps,
)
from datagen.render.maps import empty_maps

# Neighbouring pixels of a surface that is seen at 76 degrees differ by four times what one of them covers.
STEEPEST = 4.0

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class MeasuredView:
    """The measured pixels of a view.

    Attributes
    ----------
    camera : Camera
        Of the view.
    depth : (H, W) float32
        Planar, metres; 0 where nothing was measured.
    """

    camera: Camera
    depth: F32

    @property
    def there(self) -> Mask:
        """Which pixels have a depth, (H, W)."""
        return self.depth > 0

    @property
    def points(self) -> F64:
        """World points of the measured pixels (N, 3), metres, row by row."""
        return self.camera.unproject(self.depth)[self.there]

    def keep(self, kept: Mask) -> MeasuredView:
        """Return the view with only those of its measured pixels (N,) that are kept."""
        depth = self.depth.copy()
        depth[self.there] = np.where(kept, depth[self.there], 0)
        return MeasuredView(self.camera, depth)


def see_measured(depth: F32, measured: Camera, camera: Camera) -> MeasuredView:
    """Look at a depth map through a crop of its picture.

    A pixel of the crop lies between four of the map. Where all four are of one surface, its depth is theirs, linear in
    1/z, which is exact on a plane; at a step, or beside a hole, it is that of the nearest of them, if it has one.

    Parameters
    ----------
    depth : (h, w) float32
        Planar, metres; 0 where there is none.
    measured : Camera
        Of the depth map.
    camera : Camera
        In the same place, with other intrinsics.
    """
    # Both cameras are one: a homography of pixels, affine because both K are upper triangular.
    onto = measured.K @ np.linalg.inv(camera.K)
    x, y = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    column = onto[0, 0] * x + onto[0, 1] * y + onto[0, 2] - 0.5
    row = onto[1, 1] * y + onto[1, 2] - 0.5
    height, width = depth.shape
    # A border without depth around the map: nothing is read beyond it.
    padded = np.zeros((height + 2, width + 2))
    padded[1:-1, 1:-1] = depth
    inside = (column > -1) & (column < width) & (row > -1) & (row < height)
    left = np.clip(np.floor(column), -1, width - 1).astype(np.int64)
    top = np.clip(np.floor(row), -1, height - 1).astype(np.int64)
    right_share, low_share = column - left, row - top
    corners = np.stack([padded[top + 1 + dy, left + 1 + dx] for dy in (0, 1) for dx in (0, 1)])
    across = np.stack([1 - right_share, right_share])
    down = np.stack([1 - low_share, low_share])
    weights = np.stack([down[dy] * across[dx] for dy in (0, 1) for dx in (0, 1)])
    nearest = np.take_along_axis(corners, weights.argmax(axis=0)[None], axis=0)[0]
    low, high = corners.min(axis=0), corners.max(axis=0)
    smooth = (low > 0) & (high - low <= _step_m(low, measured))
    inverse = (weights / np.where(corners > 0, corners, 1.0)).sum(axis=0)
    found = np.where(smooth, 1 / np.maximum(inverse, 1e-12), nearest)
    return MeasuredView(camera, np.where(inside, found, 0.0).astype(np.float32))


def measured_maps(
    view: MeasuredView,
    normals: F64,
    canonical: F32,
    confidence: F32,
    region: npt.NDArray[np.uint8],
) -> ViewMaps:
    """Return the maps of a view of measured pixels, by the rules of :mod:`datagen.render.contract`.

    Parameters
    ----------
    normals : (N, 3) float64
        World, unit length, one for each measured pixel.
    canonical : (N, 3) float32
        Normalised; NaN where there is none.
    confidence : (N,) float32
    region : (N,) uint8
    """
    camera, there = view.camera, view.there
    canonical_map, normal_map, region_map, confidence_map, mask = empty_maps(camera)
    edge = _edges(view)
    facing = normals @ camera.world_to_camera[:3, :3].T
    rays = camera.to_camera(view.points)
    towards = -np.einsum("nd,nd->n", facing, rays) / np.maximum(np.linalg.norm(rays, axis=1), 1e-12)
    # What a camera measured faces it, whatever the noise of its normal says.
    facing *= np.where(towards < 0, -1.0, 1.0)[:, None]
    known = np.isfinite(canonical).all(axis=1) & (confidence > 0)
    grazing = np.clip(np.abs(towards) / GRAZING_COSINE, GRAZING_FLOOR, 1.0)
    own = np.maximum(confidence * grazing * _edge_factors(edge)[there], LEAST_CONFIDENCE)
    normal_map[:, there] = facing.T
    canonical_map[:, there] = np.where(known, canonical.T, 0)
    region_map[there] = np.where(known, region, 0)
    confidence_map[there] = np.where(known, own, 0)
    mask[there] = known
    return ViewMaps(view.depth, canonical_map, normal_map, region_map, confidence_map, mask, edge)


def _step_m(depth: F64, camera: Camera) -> F64:
    """Return the difference of neighbouring depths (...,) that is a step, for pixels at these depths."""
    return STEP_M + STEEPEST * depth / camera.K[0, 0]


def _edges(view: MeasuredView) -> Mask:
    """Return the pixels (H, W) that have a depth, and a neighbour without one or a step away."""
    depth = np.pad(view.depth.astype(np.float64), 1, mode="edge")
    own = depth[1:-1, 1:-1]
    limit = _step_m(own, view.camera)
    edge = np.zeros(own.shape, bool)
    for other in (depth[:-2, 1:-1], depth[2:, 1:-1], depth[1:-1, :-2], depth[1:-1, 2:]):
        edge |= (other <= 0) | (np.abs(other - own) > limit)
    return edge & (own > 0)


def _edge_factors(edge: Mask) -> F64:
    """Return what confidence is multiplied by at edges and beside them, (H, W)."""
    around = np.pad(edge, 1)
    beside = around[:-2, 1:-1] | around[2:, 1:-1] | around[1:-1, :-2] | around[1:-1, 2:]
    return np.where(edge, ON_EDGE, np.where(beside, BESIDE_EDGE, 1.0))
