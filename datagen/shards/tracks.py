"""Exact tracks of material points: where the same skin lies in every frame, and where each camera sees it.

Positions come from the frame table, visibility from the depth that the camera's sample holds: a point is seen where
the surface of the map lies where the point does, and faces the camera.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError
from datagen.shards.faces import TemplateContents
from datagen.shards.index import IndexTables
from datagen.shards.meshes import MaterialPoints, to_world

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

# Between the registered surface and the scan's, which the maps show: frames that pass have 0.5 mm in the median and
# up to 3 in the worst twentieth. A nose stands a centimetre before the cheek behind it.
TOLERANCE_M = 3e-3
BLOCK_ROWS = 64  # whose vertices are held at a time
STEEPEST_M = 5e-3  # between a pixel's centre and a point beside it: more is a step, not a slope


class _Table(Protocol):
    """What is asked of a frame table."""

    def vertices(self, rows: Sequence[int] | npt.NDArray[np.integer[Any]]) -> F32: ...
    def spread(self, rows: Sequence[int] | npt.NDArray[np.integer[Any]]) -> F32: ...
    @property
    def head_to_world(self) -> F32: ...


class _Views(Protocol):
    """What is asked of a split."""

    @property
    def index(self) -> IndexTables: ...
    def read(self, names: Iterable[str], indices: list[int]) -> dict[str, npt.NDArray[Any]]: ...


@dataclass(frozen=True, eq=False)
class Tracks:
    """Material points over frames and cameras: P points, F frames, C cameras.

    Attributes
    ----------
    points : MaterialPoints
    rows : (F,) int64
        Of the frame table.
    cameras : tuple of str
    samples : (C, F) int64
        The sample of each camera and frame; −1 where there is none.
    positions : (F, P, 3) float32
        World metres, hidden points too.
    spread_m : (F, P) float32
        Standard deviation along an axis, metres.
    pixels : (C, F, P, 2) float32
        Right and down in the stored crop, pixel centres at +0.5; may lie outside it. NaN where there is no sample, or
        behind the camera.
    depth : (C, F, P) float32
        Planar metres from the camera; NaN where there is no sample.
    visible : (C, F, P) bool
        Seen in the stored crop.
    """

    points: MaterialPoints
    rows: npt.NDArray[np.int64]
    cameras: tuple[str, ...]
    samples: npt.NDArray[np.int64]
    positions: F32
    spread_m: F32
    pixels: F32
    depth: F32
    visible: Mask


def track_points(
    views: _Views,
    table: _Table,
    template: TemplateContents,
    points: MaterialPoints,
    rows: Sequence[int] | npt.NDArray[np.integer[Any]],
    cameras: Sequence[str],
    names: Sequence[str],
    tolerance_m: float = TOLERANCE_M,
) -> Tracks:
    """Follow points over rows of a frame table and project them into cameras; one sample's maps are held at a time.

    Parameters
    ----------
    cameras : sequence of str
        Those wanted.
    names : sequence of str
        The dataset's table of cameras.
    tolerance_m : float
        Between a point's depth and the map's.

    Raises
    ------
    InputError
        If a camera is unknown, or the tolerance is not above 0.
    IndexError
        If there is no such row.
    """
    unknown = [camera for camera in cameras if camera not in names]
    if unknown or not tolerance_m > 0:
        found = f"the dataset has no camera {unknown[0]!r}" if unknown else f"a tolerance of {tolerance_m} m"
        raise InputError(found, f"one of {', '.join(names[:8])}" if unknown else "metres above 0", "Correct it")
    chosen = np.asarray(rows, np.int64)
    positions = np.empty((len(chosen), len(points), 3))
    normals, spread = np.empty_like(positions), np.empty(positions.shape[:2])
    for start in range(0, len(chosen), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        heads, poses = table.vertices(chosen[block]), table.head_to_world[chosen[block]].astype(np.float64)
        positions[block] = to_world(points.on(heads, template.faces), poses)
        corners = heads[:, template.faces[points.faces]].astype(np.float64)
        outwards = np.cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0])
        normals[block] = np.einsum("fij,fpj->fpi", poses[:, :3, :3], outwards)
        # Of the corners' deviations, as if they erred alike: neighbours do.
        spread[block] = points.on(table.spread(chosen[block])[..., None], template.faces)[..., 0]
    samples = _samples_of(views.index, chosen, [names.index(camera) for camera in cameras])
    shape = (*samples.shape, len(points))
    pixels, depth = np.full((*shape, 2), np.nan, np.float32), np.full(shape, np.nan, np.float32)
    visible = np.zeros(shape, bool)
    for c, f in np.argwhere(samples >= 0):
        maps = views.read(("depth", "normal", "intrinsics", "world_to_camera"), [int(samples[c, f])])
        view = {name: values[0] for name, values in maps.items()}
        pixels[c, f], depth[c, f], visible[c, f] = seen(positions[f], normals[f], view, tolerance_m)
    return Tracks(
        points,
        chosen,
        tuple(cameras),
        samples,
        positions.astype(np.float32),
        spread.astype(np.float32),
        pixels,
        depth,
        visible,
    )


def _samples_of(index: IndexTables, rows: npt.NDArray[np.int64], cameras: list[int]) -> npt.NDArray[np.int64]:
    """Return the sample (C, F) of each camera and row, −1 where there is none."""
    found = np.full((len(cameras), len(rows)), -1, np.int64)
    for c, camera in enumerate(cameras):
        of_camera = np.flatnonzero(index.camera == camera)
        sample_of = dict(zip(index.frame_row[of_camera].tolist(), of_camera.tolist(), strict=True))
        found[c] = [sample_of.get(row, -1) for row in rows.tolist()]
    return found


def seen(positions: F64, normals: F64, view: dict[str, npt.NDArray[Any]], tolerance_m: float) -> tuple[F64, F64, Mask]:
    """Project points into a view and hold their depth against its map.

    Parameters
    ----------
    positions, normals : (P, 3) float64
        World; normals outwards, of any length.
    view : mapping
        ``depth`` (H, W) metres, ``normal`` (3, H, W), ``intrinsics`` and ``world_to_camera`` of a sample.

    Returns
    -------
    pixels (P, 2), depth (P,), visible (P,)
    """
    E, K = view["world_to_camera"].astype(np.float64), view["intrinsics"].astype(np.float64)
    there = positions @ E[:3, :3].T + E[:3, 3]
    z = there[:, 2]
    in_front = z > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        image = there @ K.T
        pixels = np.where(in_front[:, None], image[:, :2] / image[:, 2:], np.nan)
    height, width = view["depth"].shape
    inside = in_front & (pixels >= 0).all(axis=1) & (pixels < (width, height)).all(axis=1)
    outwards = np.einsum("pi,pi->p", normals @ E[:3, :3].T, there) < 0
    visible = np.zeros(len(z), bool)
    (few,) = np.nonzero(inside & outwards)
    inverse: F64 = np.asarray(np.linalg.inv(K), np.float64)
    column, row = np.floor(pixels[few] - 0.5).astype(np.int64).T
    # Of the four pixels around it, one at least shows the surface that the point lies on.
    for right, down in ((0, 0), (1, 0), (0, 1), (1, 1)):
        at = np.clip(column + right, 0, width - 1), np.clip(row + down, 0, height - 1)
        visible[few] |= _shown(pixels[few], z[few], at, view, inverse, tolerance_m)
    return pixels, z, visible


def _shown(
    pixels: F64, z: F64, at: tuple[I64, I64], view: dict[str, npt.NDArray[Any]], inverse: F64, tolerance_m: float
) -> Mask:
    """Whether points lie on the plane that the map shows at a pixel near each of them."""
    column, row = at
    surface = view["depth"].astype(np.float64)[row, column]
    normal = view["normal"].astype(np.float64)[:, row, column].T
    ones = np.ones(len(z))
    centre = np.stack([column + 0.5, row + 0.5, ones], axis=1) @ inverse.T
    there = np.concatenate([pixels, ones[:, None]], axis=1) @ inverse.T
    # The map has the depth at the pixel's centre; its plane says what it is where the point falls.
    ahead, beside = (np.einsum("pi,pi->p", normal, ray) for ray in (centre, there))
    slope = np.divide(ahead, beside, out=np.ones_like(z), where=(ahead < 0) & (beside < 0))
    moved = np.clip(surface * (slope - 1), -STEEPEST_M, STEEPEST_M)
    return np.asarray((surface > 0) & (np.abs(z - surface - moved) <= tolerance_m))
