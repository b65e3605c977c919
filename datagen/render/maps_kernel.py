"""Compiled interpolation of surface attributes at fragments: one pass over the pixels of a view."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

# Confidence fades where the surface turns away: full up to cos = 0.35 (about 70° from facing), then linear, but
# never to 0, which would mean "no canonical coordinate".
GRAZING_COSINE = 0.35
GRAZING_FLOOR = 0.02

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _face_tables(  # type: ignore[no-untyped-def]
    camera_vertices, faces, canonical, confidence
):
    """Return whether all corners have a canonical coordinate, (F,), and unit normals towards the camera, (F, 3)."""
    known, flat = np.empty(len(faces), np.bool_), np.empty((len(faces), 3))
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        # Comparisons with NaN are false, so NaN confidence and NaN coordinates both mean unknown.
        whole = confidence[a] > 0 and confidence[b] > 0 and confidence[c] > 0
        for k in range(3):
            whole = whole and np.isfinite(canonical[a, k] + canonical[b, k] + canonical[c, k])
        known[f] = whole
        ux, uy, uz = (
            camera_vertices[b, 0] - camera_vertices[a, 0],
            camera_vertices[b, 1] - camera_vertices[a, 1],
            camera_vertices[b, 2] - camera_vertices[a, 2],
        )
        vx, vy, vz = (
            camera_vertices[c, 0] - camera_vertices[a, 0],
            camera_vertices[c, 1] - camera_vertices[a, 1],
            camera_vertices[c, 2] - camera_vertices[a, 2],
        )
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        length = np.sqrt(nx * nx + ny * ny + nz * nz)
        # A plane's side is the same for all its points, so the first corner tells which side the camera sees.
        side = nx * camera_vertices[a, 0] + ny * camera_vertices[a, 1] + nz * camera_vertices[a, 2]
        scale = (-1.0 if side > 0 else 1.0) / length if length > 0 else 0.0
        flat[f, 0], flat[f, 1], flat[f, 2] = nx * scale, ny * scale, nz * scale
    return known, flat


@numba.njit(nogil=True, cache=True, error_model="numpy")
def interpolate_view(
    face_map: npt.NDArray[np.int32],
    weights: F32,
    camera_vertices: F64,
    camera_normals: F64,
    faces: npt.NDArray[np.int32],
    canonical: F32,
    confidence: F32,
    region: npt.NDArray[np.uint8],
) -> tuple[F32, F32, npt.NDArray[np.uint8], F32, npt.NDArray[np.bool_]]:
    """Interpolate attributes at the fragments of one view.

    Parameters
    ----------
    face_map : (H, W) int32
        -1 where there is no surface.
    weights : (H, W, 3) float32
    camera_vertices, camera_normals : (N, 3) float64
        Positions (metres) and vertex normals in camera axes.
    faces : (F, 3) int32
    canonical : (N, 3) float32
    confidence : (N,) float32
    region : (N,) uint8

    Returns
    -------
    canonical (3, H, W) float32, normal (3, H, W) float32, region (H, W) uint8, confidence (H, W) float32,
    mask (H, W) bool : see :class:`datagen.render.protocol.ViewMaps`
    """
    height, width = face_map.shape
    canonical_map, normal_map = np.zeros((3, height, width), np.float32), np.zeros((3, height, width), np.float32)
    region_map = np.zeros((height, width), np.uint8)
    confidence_map = np.zeros((height, width), np.float32)
    mask = np.zeros((height, width), np.bool_)
    known, flat = _face_tables(camera_vertices, faces, canonical, confidence)
    for y in range(height):
        for x in range(width):
            f = face_map[y, x]
            if f < 0:
                continue
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            wa, wb, wc = np.float64(weights[y, x, 0]), np.float64(weights[y, x, 1]), np.float64(weights[y, x, 2])
            px = wa * camera_vertices[a, 0] + wb * camera_vertices[b, 0] + wc * camera_vertices[c, 0]
            py = wa * camera_vertices[a, 1] + wb * camera_vertices[b, 1] + wc * camera_vertices[c, 1]
            pz = wa * camera_vertices[a, 2] + wb * camera_vertices[b, 2] + wc * camera_vertices[c, 2]
            nx = wa * camera_normals[a, 0] + wb * camera_normals[b, 0] + wc * camera_normals[c, 0]
            ny = wa * camera_normals[a, 1] + wb * camera_normals[b, 1] + wc * camera_normals[c, 1]
            nz = wa * camera_normals[a, 2] + wb * camera_normals[b, 2] + wc * camera_normals[c, 2]
            length = np.sqrt(nx * nx + ny * ny + nz * nz)
            distance = np.sqrt(px * px + py * py + pz * pz)
            if nx * flat[f, 0] + ny * flat[f, 1] + nz * flat[f, 2] < 0:
                length = -length
            cosine = -1.0
            if abs(length) > 1e-6:
                nx, ny, nz = nx / length, ny / length, nz / length
                cosine = -(nx * px + ny * py + nz * pz) / distance
            if cosine <= 0.0:
                nx, ny, nz = flat[f, 0], flat[f, 1], flat[f, 2]
                cosine = max(0.0, -(nx * px + ny * py + nz * pz) / distance)
            normal_map[0, y, x], normal_map[1, y, x], normal_map[2, y, x] = nx, ny, nz
            if not known[f]:
                continue
            mask[y, x] = True
            for k in range(3):
                canonical_map[k, y, x] = wa * canonical[a, k] + wb * canonical[b, k] + wc * canonical[c, k]
            grazing = max(GRAZING_FLOOR, min(1.0, cosine / GRAZING_COSINE))
            confidence_map[y, x] = (wa * confidence[a] + wb * confidence[b] + wc * confidence[c]) * grazing
            nearest = a
            if wb > wa:
                nearest = b
            if wc > max(wa, wb):
                nearest = c
            region_map[y, x] = region[nearest]
    return canonical_map, normal_map, region_map, confidence_map, mask
