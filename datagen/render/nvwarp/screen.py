"""NVIDIA Warp functions on triangles of the screen: snapping, coverage and clipping, as the numba backend defines them.

Sums and products are not fused (``fuse_fp``), so that the CPU and CUDA come to the same bits.
"""

from __future__ import annotations

import warp as wp

from datagen.render.contract import GUARD_PX as GUARD
from datagen.render.contract import MAX_CORNERS, SUBPIXEL_BITS

wp.set_module_options({"enable_backward": False, "fuse_fp": False})

GUARD_PX = wp.constant(wp.float64(GUARD))
ONE_PX = wp.constant(wp.int64(1 << SUBPIXEL_BITS))
HALF_PX = wp.constant(wp.int64(1 << (SUBPIXEL_BITS - 1)))
SHIFT = wp.constant(wp.int64(SUBPIXEL_BITS))
SUBPIXELS = wp.constant(wp.float64(1 << SUBPIXEL_BITS))
# Snapped coordinates stay within ±2^28, so this one marks a vertex that only clipping can place.
OUTSIDE = wp.constant(wp.int32(-(2**31)))
CORNER_ROWS = wp.constant(MAX_CORNERS + 1)
ZERO = wp.constant(wp.float64(0.0))
HALF = wp.constant(wp.float64(0.5))
UNIT = wp.constant(wp.float64(1.0))


@wp.struct
class Rig:
    """Everything the kernels read: a mesh, projected into the views of one chunk."""

    vertices: wp.array2d[wp.float64]  # (N, 3) world metres
    faces: wp.array2d[wp.int32]
    projection: wp.array3d[wp.float64]  # (V, 3, 4)
    screen: wp.array3d[wp.int32]  # (V, N, 2) pixels × 2^14
    inverse_z: wp.array2d[wp.float64]  # (V, N)
    front: wp.array2d[wp.bool]  # (V, F) whether the corners run counter-clockwise to the viewer
    cut: wp.array[wp.bool]  # (V,) false where no vertex can be outside
    keys: wp.array3d[wp.uint64]  # (V, H, W)
    face_bits: wp.uint64
    near: wp.float64


@wp.struct
class Triangle:
    """A triangle on the screen, its corners ordered so that the area is positive."""

    corners: wp.vec3l
    rows: wp.vec3l
    inverse_z: wp.vec3d
    step_x: wp.vec3l
    step_y: wp.vec3l
    bias: wp.vec3l
    area: wp.int64
    flipped: wp.bool
    left: wp.int32
    right: wp.int32
    top: wp.int32
    bottom: wp.int32


@wp.func
def snap(pixels: wp.float64) -> wp.int64:
    return wp.int64(wp.floor(pixels * SUBPIXELS + wp.float64(0.5)))


@wp.func
def bias_of(dx: wp.int64, dy: wp.int64) -> wp.int64:
    # Top-left rule for a positively oriented triangle with y down: left edges go up, top edges go right.
    if dy < wp.int64(0) or (dy == wp.int64(0) and dx > wp.int64(0)):
        return wp.int64(0)
    return wp.int64(1)


@wp.func
def prepared(x: wp.vec3l, y: wp.vec3l, inverse_z: wp.vec3d, width: wp.int32, height: wp.int32) -> Triangle:
    """Return the triangle with corners at (x, y), its box empty (right < left) if it covers no pixel centre."""
    t = Triangle()
    last = SHIFT
    left = (wp.min(x[0], wp.min(x[1], x[2])) - HALF_PX + ONE_PX - wp.int64(1)) >> last
    right = (wp.max(x[0], wp.max(x[1], x[2])) - HALF_PX) >> last
    top = (wp.min(y[0], wp.min(y[1], y[2])) - HALF_PX + ONE_PX - wp.int64(1)) >> last
    bottom = (wp.max(y[0], wp.max(y[1], y[2])) - HALF_PX) >> last
    t.left = wp.int32(wp.max(wp.int64(0), left))
    t.right = wp.int32(wp.min(wp.int64(width - 1), right))
    t.top = wp.int32(wp.max(wp.int64(0), top))
    t.bottom = wp.int32(wp.min(wp.int64(height - 1), bottom))
    area = (x[1] - x[0]) * (y[2] - y[0]) - (y[1] - y[0]) * (x[2] - x[0])
    if area == wp.int64(0) or t.bottom < t.top:
        t.right = t.left - 1
    t.corners = x
    t.rows = y
    t.inverse_z = inverse_z
    t.flipped = area < wp.int64(0)
    if t.flipped:
        # Seen from the front: swapped corners make it positive; both sides count.
        t.corners = wp.vec3l(x[0], x[2], x[1])
        t.rows = wp.vec3l(y[0], y[2], y[1])
        t.inverse_z = wp.vec3d(inverse_z[0], inverse_z[2], inverse_z[1])
        area = -area
    t.area = area
    for k in range(3):
        i = (k + 1) % 3
        j = (k + 2) % 3
        t.step_x[k] = t.corners[j] - t.corners[i]
        t.step_y[k] = t.rows[j] - t.rows[i]
        t.bias[k] = bias_of(t.step_x[k], t.step_y[k])
    return t


@wp.func
def edge_values(t: Triangle, column: wp.int32, row: wp.int32) -> wp.vec3l:
    """Return the biased edge functions at a pixel centre; the centre is covered if none is negative."""
    px = wp.int64(column) * ONE_PX + HALF_PX
    py = wp.int64(row) * ONE_PX + HALF_PX
    e = wp.vec3l()
    for k in range(3):
        i = (k + 1) % 3
        e[k] = t.step_x[k] * (py - t.rows[i]) - t.step_y[k] * (px - t.corners[i]) - t.bias[k]
    return e


@wp.func
def is_covered(e: wp.vec3l) -> wp.bool:
    return (e[0] | e[1] | e[2]) >= wp.int64(0)


@wp.func
def plane_distance(plane: wp.int32, u: wp.float64, v: wp.float64, z: wp.float64, near: wp.float64) -> wp.float64:
    # (u, v, z) before the division: near, then left, right, top, bottom of the guard band.
    if plane == 0:
        return z - near
    if plane == 1:
        return u + GUARD_PX * z
    if plane == 2:
        return GUARD_PX * z - u
    if plane == 3:
        return v + GUARD_PX * z
    return GUARD_PX * z - v


@wp.func
def comes_first(polygon: wp.array2d[wp.float64], i: wp.int32, j: wp.int32) -> wp.bool:
    for k in range(3):
        if polygon[i, k] != polygon[j, k]:
            return polygon[i, k] < polygon[j, k]
    return True


@wp.func
def clip_plane(
    polygon: wp.array2d[wp.float64], n: wp.int32, plane: wp.int32, near: wp.float64, out: wp.array2d[wp.float64]
) -> wp.int32:
    """Sutherland–Hodgman against one plane; rows are (u, v, z) before the division."""
    m = wp.int32(0)
    for i in range(n):
        j = (i + 1) % n
        dp = plane_distance(plane, polygon[i, 0], polygon[i, 1], polygon[i, 2], near)
        dq = plane_distance(plane, polygon[j, 0], polygon[j, 1], polygon[j, 2], near)
        if dp >= ZERO:
            for k in range(3):
                out[m, k] = polygon[i, k]
            m += 1
        if (dp >= ZERO) != (dq >= ZERO):
            # The same end first from both neighbours, so that a shared edge is cut at the same point.
            first = i
            second = j
            share = dp / (dp - dq)
            if not comes_first(polygon, i, j):
                first = j
                second = i
                share = dq / (dq - dp)
            for k in range(3):
                out[m, k] = polygon[first, k] + (polygon[second, k] - polygon[first, k]) * share
            m += 1
    return m


@wp.func
def homogeneous(rig: Rig, view: wp.int32, vertex: wp.int32) -> wp.vec3d:
    x = rig.vertices[vertex, 0]
    y = rig.vertices[vertex, 1]
    z = rig.vertices[vertex, 2]
    h = wp.vec3d()
    for k in range(3):
        h[k] = (
            rig.projection[view, k, 0] * x
            + rig.projection[view, k, 1] * y
            + rig.projection[view, k, 2] * z
            + rig.projection[view, k, 3]
        )
    return h


@wp.func
def clipped(
    rig: Rig, view: wp.int32, face: wp.int32, spare: wp.array2d[wp.float64], out: wp.array2d[wp.float64]
) -> wp.int32:
    """Clip a triangle to the near plane and the guard band; return the number of corners left in ``out``."""
    for k in range(3):
        h = homogeneous(rig, view, rig.faces[face, k])
        for c in range(3):
            spare[k, c] = h[c]
    n = clip_plane(spare, 3, 0, rig.near, out)
    n = clip_plane(out, n, 1, rig.near, spare)
    n = clip_plane(spare, n, 2, rig.near, out)
    n = clip_plane(out, n, 3, rig.near, spare)
    return clip_plane(spare, n, 4, rig.near, out)


@wp.func
def fan_triangle(polygon: wp.array2d[wp.float64], fan: wp.int32, width: wp.int32, height: wp.int32) -> Triangle:
    """Return the triangle (0, fan + 1, fan + 2) of a clipped polygon."""
    x = wp.vec3l()
    y = wp.vec3l()
    inverse_z = wp.vec3d()
    for k in range(3):
        corner = fan + k
        if k == 0:
            corner = 0
        inverse_z[k] = UNIT / polygon[corner, 2]
        x[k] = snap(polygon[corner, 0] * inverse_z[k])
        y[k] = snap(polygon[corner, 1] * inverse_z[k])
    return prepared(x, y, inverse_z, width, height)


@wp.func
def whole_triangle(rig: Rig, view: wp.int32, face: wp.int32) -> Triangle:
    """Return a triangle of which no corner is outside."""
    x = wp.vec3l()
    y = wp.vec3l()
    inverse_z = wp.vec3d()
    for k in range(3):
        vertex = rig.faces[face, k]
        x[k] = wp.int64(rig.screen[view, vertex, 0])
        y[k] = wp.int64(rig.screen[view, vertex, 1])
        inverse_z[k] = rig.inverse_z[view, vertex]
    return prepared(x, y, inverse_z, rig.keys.shape[2], rig.keys.shape[1])


@wp.func
def is_cut(rig: Rig, view: wp.int32, face: wp.int32) -> wp.bool:
    for k in range(3):
        if rig.screen[view, rig.faces[face, k], 0] == OUTSIDE:
            return True
    return False
