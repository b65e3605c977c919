"""Compiled interpolation of surface attributes: one pass over the pixels of a view."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import F32, F64, I32, U8
from datagen.common.compiled import compiled, inlined
from datagen.render.contract import (
    BESIDE_EDGE,
    CANCELLED,
    GRAZING_COSINE,
    GRAZING_FLOOR,
    LEAST_CONFIDENCE,
    ON_EDGE,
    SurfaceAttributes,
)
from datagen.render.numba.raster_kernel import LOW_BITS, weights_at

# Columns of the packed attributes: canonical, confidence, world normal, none.
PACKED = 8
# Columns of a blended pixel: the first seven of these, whether it is known, and the triangle's normal.
BLENDED = 11


def packed_surface(surface: SurfaceAttributes) -> tuple[npt.NDArray[Any], ...]:
    """Return the tables of a surface that all its views share, as :func:`resolve_view` takes them."""
    tables = pack_surface(
        np.ascontiguousarray(surface.vertices, np.float64),
        np.ascontiguousarray(surface.faces, np.int32),
        np.ascontiguousarray(surface.canonical, np.float32),
        np.ascontiguousarray(surface.confidence, np.float32),
    )
    return *tables, np.ascontiguousarray(surface.region, np.uint8)


@compiled
def pack_surface(vertices: F64, faces: I32, canonical: F32, confidence: F32) -> tuple[F32, F32, U8]:
    """Gather what is interpolated at a vertex into one cache line, and prepare what belongs to triangles.

    Parameters
    ----------
    vertices : (N, 3) float64
        World metres.
    faces : (F, 3) int32
    canonical : (N, 3) float32
    confidence : (N,) float32

    Returns
    -------
    packed : (N, 8) float32
        Canonical coordinate, confidence, and area-weighted unit normal in world axes.
    normals : (F, 3) float32
        Unit normals in world axes, zero without an area.
    known : (F,) uint8
        1 where all corners have a canonical coordinate.
    """
    n = len(vertices)
    sums = np.zeros((n, 4))
    packed, normals = np.empty((n, PACKED), np.float32), np.empty((len(faces), 3), np.float32)
    known = np.empty(len(faces), np.uint8)
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        # Comparisons with NaN are false, so NaN confidence and NaN coordinates both mean unknown.
        whole = confidence[a] > 0 and confidence[b] > 0 and confidence[c] > 0
        for k in range(3):
            whole = whole and np.isfinite(canonical[a, k] + canonical[b, k] + canonical[c, k])
        known[f] = whole
        ax, ay, az = vertices[a, 0], vertices[a, 1], vertices[a, 2]
        ux, uy, uz = vertices[b, 0] - ax, vertices[b, 1] - ay, vertices[b, 2] - az
        vx, vy, vz = vertices[c, 0] - ax, vertices[c, 1] - ay, vertices[c, 2] - az
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        length = np.sqrt(nx * nx + ny * ny + nz * nz)
        # In the triangles' order, by one thread: the same bits for any number of threads.
        for corner in (a, b, c):
            sums[corner, 0] += nx
            sums[corner, 1] += ny
            sums[corner, 2] += nz
            sums[corner, 3] += length
        scale = 1.0 / length if length > 0 else 0.0
        normals[f, 0], normals[f, 1], normals[f, 2] = nx * scale, ny * scale, nz * scale
    for i in range(n):
        length = np.sqrt(sums[i, 0] ** 2 + sums[i, 1] ** 2 + sums[i, 2] ** 2)
        scale = 1.0 / length if length > CANCELLED * sums[i, 3] else 0.0
        for k in range(3):
            packed[i, k] = canonical[i, k]
            packed[i, 4 + k] = sums[i, k] * scale
        packed[i, 3], packed[i, 7] = confidence[i], 0.0
    return packed, normals, known


@compiled
def edge_factors(edge, row, factors):  # type: ignore[no-untyped-def]
    """Write what confidence is multiplied by in one row, (W,); ``edge`` has one row more above and below the band."""
    above, own, below = edge[row], edge[row + 1], edge[row + 2]
    last = len(factors) - 1
    for x in range(len(factors)):
        beside = above[x] | below[x] | own[max(x - 1, 0)] | own[min(x + 1, last)]
        factors[x] = np.float32(ON_EDGE) if own[x] else np.float32(BESIDE_EDGE) if beside else np.float32(1)


@inlined
def blend_corners(x, f, wa, wb, wc, a, b, c, packed, normals, known, front, blended):  # type: ignore[no-untyped-def]
    """Write the attributes of one pixel, and its triangle's normal on the side that the camera sees."""
    # All values before the first store: the compiler cannot know that the arrays do not overlap.
    ua, ub, uc = np.float32(wa), np.float32(wb), np.float32(wc)
    v0 = ua * packed[a, 0] + ub * packed[b, 0] + uc * packed[c, 0]
    v1 = ua * packed[a, 1] + ub * packed[b, 1] + uc * packed[c, 1]
    v2 = ua * packed[a, 2] + ub * packed[b, 2] + uc * packed[c, 2]
    v3 = ua * packed[a, 3] + ub * packed[b, 3] + uc * packed[c, 3]
    v4 = ua * packed[a, 4] + ub * packed[b, 4] + uc * packed[c, 4]
    v5 = ua * packed[a, 5] + ub * packed[b, 5] + uc * packed[c, 5]
    v6 = ua * packed[a, 6] + ub * packed[b, 6] + uc * packed[c, 6]
    side = np.float32(1) if front[f] else np.float32(-1)
    v8, v9, v10 = side * normals[f, 0], side * normals[f, 1], side * normals[f, 2]
    blended[x, 0] = v0
    blended[x, 1] = v1
    blended[x, 2] = v2
    blended[x, 3] = v3
    blended[x, 4] = v4
    blended[x, 5] = v5
    blended[x, 6] = v6
    blended[x, 7] = np.float32(known[f])
    blended[x, 8] = v8
    blended[x, 9] = v9
    blended[x, 10] = v10


@inlined
def nearest_corner(wa, wb, wc, a, b, c):  # type: ignore[no-untyped-def]
    """Return the corner with the highest weight, the first of equals."""
    nearest = a
    if wb > wa:
        nearest = b
    if wc > max(wa, wb):
        nearest = c
    return nearest


@compiled
def shade_row(  # type: ignore[no-untyped-def]
    y, first, last, blended, factors, rotation, rays, canonical, normal, confidence, mask
):
    """Write pixels ``first`` to ``last`` of row ``y`` from what was blended; the rest of the row holds no surface.

    Parameters
    ----------
    blended : (W, 11) float32
        Canonical, confidence, normal, known, and the triangle's normal; zeros where there is no surface.
    factors : (W,) float32
        See :func:`edge_factors`.
    rotation, rays : see :func:`resolve_view`
    canonical, normal : (3, H, W) float32
    confidence : (H, W) float32
    mask : (H, W) bool
    """
    zero, one = np.float32(0), np.float32(1)
    r00, r01, r02 = np.float32(rotation[0, 0]), np.float32(rotation[0, 1]), np.float32(rotation[0, 2])
    r10, r11, r12 = np.float32(rotation[1, 0]), np.float32(rotation[1, 1]), np.float32(rotation[1, 2])
    r20, r21, r22 = np.float32(rotation[2, 0]), np.float32(rotation[2, 1]), np.float32(rotation[2, 2])
    start_x = np.float32(rays[0, 1] * (y + 0.5) + rays[0, 2] + 0.5 * rays[0, 0])
    start_y = np.float32(rays[1, 1] * (y + 0.5) + rays[1, 2] + 0.5 * rays[1, 0])
    start_z = np.float32(rays[2, 1] * (y + 0.5) + rays[2, 2] + 0.5 * rays[2, 0])
    step_x, step_y, step_z = np.float32(rays[0, 0]), np.float32(rays[1, 0]), np.float32(rays[2, 0])
    c0, c1, c2 = canonical[0, y], canonical[1, y], canonical[2, y]
    n0, n1, n2 = normal[0, y], normal[1, y], normal[2, y]
    trust, seen = confidence[y], mask[y]
    for row in (c0, c1, c2, n0, n1, n2, trust):
        row[:first], row[last:] = zero, zero
    seen[:first], seen[last:] = False, False
    for column in range(first, last):
        x = np.uint64(column)
        nx, ny, nz = blended[x, 4], blended[x, 5], blended[x, 6]
        fx, fy, fz = blended[x, 8], blended[x, 9], blended[x, 10]
        # Multiplied, not added up: a row may begin anywhere, and no rounding piles up along it.
        across = np.float32(column)
        rx, ry, rz = start_x + step_x * across, start_y + step_y * across, start_z + step_z * across
        square = nx * nx + ny * ny + nz * nz
        side = one if nx * fx + ny * fy + nz * fz >= zero else -one
        towards = -side * (nx * rx + ny * ry + nz * rz)
        # An undefined normal, or one that points away although the triangle faces the camera, gives way.
        smooth = towards > zero and square > np.float32(1e-12)
        scale = side / np.sqrt(square) if smooth else one
        nx, ny, nz = (nx if smooth else fx) * scale, (ny if smooth else fy) * scale, (nz if smooth else fz) * scale
        towards = max(zero, -(nx * rx + ny * ry + nz * rz))
        cosine = towards / np.sqrt(rx * rx + ry * ry + rz * rz)
        n0[x] = r00 * nx + r01 * ny + r02 * nz
        n1[x] = r10 * nx + r11 * ny + r12 * nz
        n2[x] = r20 * nx + r21 * ny + r22 * nz
        known = blended[x, 7] != zero
        c0[x] = blended[x, 0] if known else zero
        c1[x] = blended[x, 1] if known else zero
        c2[x] = blended[x, 2] if known else zero
        grazing = max(np.float32(GRAZING_FLOOR), min(one, cosine * np.float32(1 / GRAZING_COSINE)))
        own = max(np.float32(LEAST_CONFIDENCE), blended[x, 3] * grazing * factors[x])
        trust[x] = own if known else zero
        seen[x] = known


@compiled
def resolve_view(  # type: ignore[no-untyped-def]
    keys,
    top,
    hide,
    faces,
    places,
    homogeneous,
    screen,
    inverse_z,
    front,
    table,
    rotation,
    rays,
    edge,
    depth,
    maps,
    edge_map,
):
    """Turn the keys of a band of rows into all maps of these rows; every pixel is written.

    Parameters
    ----------
    keys : (rows, W) int64
        See :mod:`datagen.render.numba.raster_kernel`.
    top : int
        Image row of the first.
    hide : bool
        Whether a pixel that shows the back of a triangle holds no surface.
    places : (F,) int32
        Where the triangle of each id is in ``faces``.
    faces, homogeneous, screen, inverse_z, front : see :func:`datagen.render.numba.mesh_order.arrange`
    table : tuple
        ``packed``, ``normals``, ``known`` of :func:`pack_surface`, and the (N,) uint8 regions.
    rotation : (3, 3) float64
        World to camera.
    rays : (3, 3) float64
        Homogeneous pixels to directions in world axes.
    edge : (rows + 2, W) uint8
        Edge pixels, from the row above the band to the row below it.
    depth, maps, edge_map
        Written: of the whole image, the edge map as 0 or 1; ``maps`` holds canonical, normal, region, confidence and
        mask.
    """
    packed, normals, known, region = table
    canonical, normal, region_map, confidence, mask = maps
    rows, width = keys.shape
    blended, factors = np.empty((width, BLENDED), np.float32), np.empty(width, np.float32)
    for row in range(rows):
        y = top + row
        edge_map[y] = edge[row + 1]
        first, last = 0, width
        while first < last and keys[row, first] == 0:
            first += 1
        while last > first and keys[row, last - 1] == 0:
            last -= 1
        depth[y, :first], depth[y, last:] = np.float32(0), np.float32(0)
        region_map[y, :first], region_map[y, last:] = np.uint8(0), np.uint8(0)
        for x in range(first, last):
            key = keys[row, x]
            f = np.uint64(places[np.uint64(LOW_BITS - (key & LOW_BITS))]) if key else np.uint64(0)
            if key == 0 or (hide and not front[f]):
                depth[y, x], region_map[y, x] = 0.0, 0
                blended[x] = np.float32(0)
                continue
            a, b, c = np.uint64(faces[f, 0]), np.uint64(faces[f, 1]), np.uint64(faces[f, 2])
            wa, wb, wc, depth[y, x] = weights_at(x, y, a, b, c, homogeneous, screen, inverse_z)
            blend_corners(np.uint64(x), f, wa, wb, wc, a, b, c, packed, normals, known, front, blended)
            region_map[y, x] = region[nearest_corner(wa, wb, wc, a, b, c)] if known[f] else 0
        edge_factors(edge, row, factors)
        shade_row(y, first, last, blended, factors, rotation, rays, canonical, normal, confidence, mask)


@compiled
def interpolate_view(  # type: ignore[no-untyped-def]
    face_map, weights, hide, faces, front, table, rotation, rays, edge, depth, maps
):
    """Write the maps of a view that another backend rasterised; ``depth`` loses what is hidden.

    Parameters
    ----------
    face_map : (H, W) int32
    weights : (H, W, 3) float32
    edge : (H + 2, W) uint8
        With an empty row above and below.
    hide, faces, front, table, rotation, rays, depth, maps : see :func:`resolve_view`
    """
    packed, normals, known, region = table
    canonical, normal, region_map, confidence, mask = maps
    height, width = face_map.shape
    blended, factors = np.empty((width, BLENDED), np.float32), np.empty(width, np.float32)
    for y in range(height):
        first, last = width, 0
        for x in range(width):
            f = np.uint64(max(face_map[y, x], 0))
            if face_map[y, x] < 0 or (hide and not front[f]):
                depth[y, x], region_map[y, x] = 0.0, 0
                if last > 0:
                    blended[x] = np.float32(0)
                continue
            a, b, c = np.uint64(faces[f, 0]), np.uint64(faces[f, 1]), np.uint64(faces[f, 2])
            wa, wb, wc = weights[y, x, 0], weights[y, x, 1], weights[y, x, 2]
            blend_corners(np.uint64(x), f, wa, wb, wc, a, b, c, packed, normals, known, front, blended)
            region_map[y, x] = region[nearest_corner(wa, wb, wc, a, b, c)] if known[f] else 0
            first, last = min(first, x), x + 1
        edge_factors(edge, y, factors)
        shade_row(y, first, last, blended, factors, rotation, rays, canonical, normal, confidence, mask)
