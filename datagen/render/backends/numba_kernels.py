"""Compiled kernels of the CPU rasteriser: exact fixed-point coverage, float64 interpolation.

Coverage is decided in integers (edge functions of vertices snapped to 1/16384 pixel, Pineda 1988, with the
top-left rule), so two triangles sharing an edge never both miss, nor both take, a pixel centre. Depth and
barycentrics are perspective-correct float64 from the same edge functions.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

SUBPIXEL_BITS = 14
# Screen coordinates beyond this many pixels are clipped away: keeps edge functions below 2^60, far from overflow.
GUARD_PX = 16384.0
# A triangle clipped by five planes has at most eight corners.
MAX_CORNERS = 8

F64 = npt.NDArray[np.float64]

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")
_inline = numba.njit(nogil=True, cache=True, error_model="numpy", inline="always")


@_inline
def _snap(pixels):  # type: ignore[no-untyped-def]
    return np.int64(np.floor(pixels * (1 << SUBPIXEL_BITS) + 0.5))


@_jit
def _edge_starts_inside(dx, dy):  # type: ignore[no-untyped-def]
    # Top-left rule for a positively oriented triangle with y down: left edges go up, top edges go right.
    return dy < 0 or (dy == 0 and dx > 0)


@_jit
def _fill(xy, inverse_z, corners, face, z_buffer, face_map, weights):  # type: ignore[no-untyped-def]
    """Draw one triangle given by snapped corners xy (3, 2), 1/z (3,) and their weights on ``face`` (3, 3)."""
    height, width = z_buffer.shape
    one, half = np.int64(1 << SUBPIXEL_BITS), np.int64(1 << (SUBPIXEL_BITS - 1))
    x0, y0, x1, y1, x2, y2 = xy[0, 0], xy[0, 1], xy[1, 0], xy[1, 1], xy[2, 0], xy[2, 1]
    first = max(np.int64(0), (min(x0, x1, x2) - half + one - 1) >> SUBPIXEL_BITS)
    last = min(np.int64(width - 1), (max(x0, x1, x2) - half) >> SUBPIXEL_BITS)
    top = max(np.int64(0), (min(y0, y1, y2) - half + one - 1) >> SUBPIXEL_BITS)
    bottom = min(np.int64(height - 1), (max(y0, y1, y2) - half) >> SUBPIXEL_BITS)
    if first > last or top > bottom:
        return
    area = (x1 - x0) * (y2 - y0) - (y1 - y0) * (x2 - x0)
    if area == 0:
        return
    i1, i2 = 1, 2
    if area < 0:
        # Seen from behind: swapped corners make it positive; both sides count.
        i1, i2 = 2, 1
        x1, y1, x2, y2 = x2, y2, x1, y1
        area = -area
    dx0, dy0, dx1, dy1, dx2, dy2 = x2 - x1, y2 - y1, x0 - x2, y0 - y2, x1 - x0, y1 - y0
    bias0 = np.int64(0) if _edge_starts_inside(dx0, dy0) else np.int64(1)
    bias1 = np.int64(0) if _edge_starts_inside(dx1, dy1) else np.int64(1)
    bias2 = np.int64(0) if _edge_starts_inside(dx2, dy2) else np.int64(1)
    px, py = first * one + half, top * one + half
    row0 = dx0 * (py - y1) - dy0 * (px - x1) - bias0
    row1 = dx1 * (py - y2) - dy1 * (px - x2) - bias1
    row2 = dx2 * (py - y0) - dy2 * (px - x0) - bias2
    scale = 1.0 / area
    for y in range(top, bottom + 1):
        w0, w1, w2 = row0, row1, row2
        for x in range(first, last + 1):
            if (w0 | w1 | w2) >= 0:
                q0 = (w0 + bias0) * scale * inverse_z[0]
                q1 = (w1 + bias1) * scale * inverse_z[i1]
                q2 = (w2 + bias2) * scale * inverse_z[i2]
                z = 1.0 / (q0 + q1 + q2)
                # Strictly nearer: triangles come in increasing order, so ties keep the lowest index.
                if z < z_buffer[y, x]:
                    z_buffer[y, x] = z
                    face_map[y, x] = face
                    for k in range(3):
                        weights[y, x, k] = z * (q0 * corners[0, k] + q1 * corners[i1, k] + q2 * corners[i2, k])
            w0 -= dy0 * one
            w1 -= dy1 * one
            w2 -= dy2 * one
        row0 += dx0 * one
        row1 += dx1 * one
        row2 += dx2 * one


@_jit
def _plane_distance(plane, point, near):  # type: ignore[no-untyped-def]
    # point = (u, v, z) before the division: near, then left, right, top, bottom of the guard band.
    if plane == 0:
        return point[2] - near
    if plane == 1:
        return point[0] + GUARD_PX * point[2]
    if plane == 2:
        return GUARD_PX * point[2] - point[0]
    if plane == 3:
        return point[1] + GUARD_PX * point[2]
    return GUARD_PX * point[2] - point[1]


@_jit
def _comes_first(a, b):  # type: ignore[no-untyped-def]
    for k in range(3):
        if a[k] != b[k]:
            return a[k] < b[k]
    return True


@_jit
def _clip(polygon, n, plane, near, out):  # type: ignore[no-untyped-def]
    """Sutherland–Hodgman against one plane; rows are (u, v, z, three weights on the original triangle)."""
    m = 0
    for i in range(n):
        p, q = polygon[i], polygon[(i + 1) % n]
        dp, dq = _plane_distance(plane, p, near), _plane_distance(plane, q, near)
        if dp >= 0:
            out[m] = p
            m += 1
        if (dp >= 0) != (dq >= 0):
            # The same end first from both neighbours, so that a shared edge is cut at the same point.
            if _comes_first(p, q):
                out[m] = p + (q - p) * (dp / (dp - dq))
            else:
                out[m] = q + (p - q) * (dq / (dq - dp))
            m += 1
    return m


@_jit
def _fill_clipped(homogeneous, triangle, near, face, z_buffer, face_map, weights):  # type: ignore[no-untyped-def]
    """Clip a triangle to the near plane and the guard band, then draw the remaining fan."""
    polygon, spare = np.zeros((MAX_CORNERS + 1, 6)), np.zeros((MAX_CORNERS + 1, 6))
    for k in range(3):
        polygon[k, :3] = homogeneous[triangle[k]]
        polygon[k, 3 + k] = 1.0
    n = 3
    for plane in range(5):
        n = _clip(polygon, n, plane, near, spare)
        polygon, spare = spare, polygon
        if n < 3:
            return
    xy, inverse_z, corners = np.empty((3, 2), np.int64), np.empty(3), np.empty((3, 3))
    for i in range(1, n - 1):
        fan = (0, i, i + 1)
        for k in range(3):
            corner = polygon[fan[k]]
            inverse_z[k] = 1.0 / corner[2]
            xy[k, 0], xy[k, 1] = _snap(corner[0] * inverse_z[k]), _snap(corner[1] * inverse_z[k])
            corners[k] = corner[3:]
        _fill(xy, inverse_z, corners, face, z_buffer, face_map, weights)


@_jit
def rasterise_view(
    vertices: F64,
    faces: npt.NDArray[np.int32],
    projection: F64,
    near: float,
    height: int,
    width: int,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Rasterise one view.

    Parameters
    ----------
    vertices : (N, 3) float64
        World metres.
    faces : (F, 3) int32
    projection : (3, 4) float64
        K [R | t].
    near : float
        Metres.
    height, width : int
        Pixels.

    Returns
    -------
    face : (H, W) int32
    barycentric : (H, W, 3) float32
    depth : (H, W) float32
    """
    n = len(vertices)
    homogeneous, snapped, inverse_depth = np.empty((n, 3)), np.empty((n, 2), np.int64), np.empty(n)
    outside = np.empty(n, np.bool_)
    for i in range(n):
        x, y, z = vertices[i, 0], vertices[i, 1], vertices[i, 2]
        for k in range(3):
            homogeneous[i, k] = projection[k, 0] * x + projection[k, 1] * y + projection[k, 2] * z + projection[k, 3]
        depth = homogeneous[i, 2]
        outside[i] = True
        if depth > near:
            inverse_depth[i] = 1.0 / depth
            u, v = homogeneous[i, 0] * inverse_depth[i], homogeneous[i, 1] * inverse_depth[i]
            if abs(u) <= GUARD_PX and abs(v) <= GUARD_PX:
                outside[i] = False
                snapped[i, 0], snapped[i, 1] = _snap(u), _snap(v)
    face_map = np.full((height, width), np.int32(-1))
    weights = np.zeros((height, width, 3), np.float32)
    z_buffer = np.full((height, width), np.inf)
    xy, inverse_z, identity = np.empty((3, 2), np.int64), np.empty(3), np.eye(3)
    for f in range(len(faces)):
        triangle = faces[f]
        if outside[triangle[0]] or outside[triangle[1]] or outside[triangle[2]]:
            _fill_clipped(homogeneous, triangle, near, f, z_buffer, face_map, weights)
            continue
        for k in range(3):
            xy[k, 0], xy[k, 1] = snapped[triangle[k], 0], snapped[triangle[k], 1]
            inverse_z[k] = inverse_depth[triangle[k]]
        _fill(xy, inverse_z, identity, f, z_buffer, face_map, weights)
    depth_map = np.zeros((height, width), np.float32)
    for y in range(height):
        for x in range(width):
            if face_map[y, x] >= 0:
                depth_map[y, x] = z_buffer[y, x]
    return face_map, weights, depth_map
