"""Compiled visibility of the CPU renderer: exact fixed-point coverage, one key per pixel.

Coverage is decided in integers (edge functions of vertices snapped to 1/16384 pixel, Pineda 1988, with the
top-left rule), so two triangles sharing an edge never both miss, nor both take, a pixel centre.

What a pixel sees is one 64-bit key: inverse depth (the bits of a positive float32, which order as integers do) above
the complement of the triangle's index. The largest key wins in whatever order triangles come, and of equal depths
the lowest index. Everything else is computed afterwards, from the triangle that won.
"""

from __future__ import annotations

import numpy as np

from datagen.common.arrays import F64, I32, I64, U8
from datagen.common.compiled import compiled, inlined
from datagen.render.contract import GUARD_PX, MAX_CORNERS, SUBPIXEL_BITS

# Screen x of a vertex that cannot be snapped: behind the near plane or beyond the guard band.
OUTSIDE = np.int32(-(2**31))
LOW_BITS = np.int64(0xFFFFFFFF)
# Tiles of 8 × 8 pixels remember how far away the farthest of them is.
TILE_BITS = 3


@inlined
def snap(pixels):  # type: ignore[no-untyped-def]
    """Return a pixel coordinate in 1/16384 pixel."""
    # Half upwards, also below zero: a mesh shifted by whole pixels is snapped alike.
    return np.int64(np.floor(pixels * (1 << SUBPIXEL_BITS) + 0.5))


@compiled
def project(
    vertices: F64, projection: F64, near: float, start: int, stop: int, homogeneous: F64, screen: I32, inverse_z: F64
) -> None:
    """Project vertices ``start`` to ``stop``.

    Parameters
    ----------
    vertices : (N, 3) float64
        World metres.
    projection : (3, 4) float64
        K [R | t].
    near : float
        Metres.
    homogeneous : (N, 3) float64
        Written: pixels times z, and z.
    screen : (N, 2) int32
        Written: snapped pixels; x is :data:`OUTSIDE` where there are none.
    inverse_z : (N,) float64
        Written where there are snapped pixels.
    """
    p = projection
    for i in range(start, stop):
        x, y, z = vertices[i, 0], vertices[i, 1], vertices[i, 2]
        hx = p[0, 0] * x + p[0, 1] * y + p[0, 2] * z + p[0, 3]
        hy = p[1, 0] * x + p[1, 1] * y + p[1, 2] * z + p[1, 3]
        hz = p[2, 0] * x + p[2, 1] * y + p[2, 2] * z + p[2, 3]
        homogeneous[i, 0], homogeneous[i, 1], homogeneous[i, 2] = hx, hy, hz
        screen[i, 0] = OUTSIDE
        if hz > near:
            inverse = 1.0 / hz
            u, v = hx * inverse, hy * inverse
            if abs(u) <= GUARD_PX and abs(v) <= GUARD_PX:
                inverse_z[i] = inverse
                screen[i, 0], screen[i, 1] = snap(u), snap(v)


@inlined
def _bias(dx, dy):  # type: ignore[no-untyped-def]
    # Top-left rule for a positively oriented triangle with y down: left edges go up, top edges go right.
    return np.int64(0) if dy < 0 or (dy == 0 and dx > 0) else np.int64(1)


@compiled
def _fill(  # type: ignore[no-untyped-def]
    x0, y0, x1, y1, x2, y2, z0, z1, z2, area, face, first, last, upper, lower, top, keys
):
    """Draw one triangle into a box of pixels; row 0 of ``keys`` is image row ``top``.

    Snapped corners with their inverse depths, twice the signed area, and the box's columns and rows, both inclusive.
    """
    one, half = np.int64(1 << SUBPIXEL_BITS), np.int64(1 << (SUBPIXEL_BITS - 1))
    if area < 0:
        # Seen from the front: swapped corners make it positive; both sides count.
        x1, y1, z1, x2, y2, z2 = x2, y2, z2, x1, y1, z1
        area = -area
    dx0, dy0, dx1, dy1, dx2, dy2 = x2 - x1, y2 - y1, x0 - x2, y0 - y2, x1 - x0, y1 - y0
    px, py = first * one + half, upper * one + half
    # Edge functions at the first pixel's centre. The bias takes 1 off those of edges that do not own their points, so
    # that one test, at least 0, holds for all three.
    row0 = dx0 * (py - y1) - dy0 * (px - x1) - _bias(dx0, dy0)
    row1 = dx1 * (py - y2) - dy1 * (px - x2) - _bias(dx1, dy1)
    row2 = dx2 * (py - y0) - dy2 * (px - x0) - _bias(dx2, dy2)
    # Inverse depth is affine on the screen; a needle's slope is all rounding, hence the limits.
    scale = 1.0 / area
    slope_x = -((z1 - z0) * dy1 + (z2 - z0) * dy2) * scale
    slope_y = ((z1 - z0) * dx1 + (z2 - z0) * dx2) * scale
    low, high = min(z0, z1, z2), max(z0, z1, z2)
    complement = LOW_BITS - face
    # Whole numbers: adding steps up loses nothing, wherever the walk began.
    step0, step1, step2 = dy0 * one, dy1 * one, dy2 * one
    for y in range(upper, lower + 1):
        w0, w1, w2 = row0, row1, row2
        row = y - top
        # From the corner, not from the first row drawn: the same bits in whatever band the row is.
        at_x0 = z0 + slope_y * (y * one + half - y0)
        for x in range(first, last + 1):
            # The sign bit of the three is set if any of them is negative.
            if (w0 | w1 | w2) >= 0:
                inverse = at_x0 + slope_x * (x * one + half - x0)
                depth_bits = np.int64(np.float32(min(max(inverse, low), high)).view(np.int32))
                key = (depth_bits << 32) | complement
                # The largest wins in whatever order triangles come: nothing depends on threads or on the mesh's order.
                keys[row, x] = max(keys[row, x], key)
            w0 -= step0
            w1 -= step1
            w2 -= step2
        row0 += dx0 * one
        row1 += dx1 * one
        row2 += dx2 * one


@compiled
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


@compiled
def _comes_first(a, b):  # type: ignore[no-untyped-def]
    for k in range(3):
        if a[k] != b[k]:
            return a[k] < b[k]
    return True


@compiled
def _clip(polygon, n, plane, near, out):  # type: ignore[no-untyped-def]
    """Sutherland–Hodgman against one plane; rows are (u, v, z)."""
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


@compiled
def _fill_clipped(homogeneous, a, b, c, near, face, top, keys):  # type: ignore[no-untyped-def]
    """Clip a triangle to the near plane and the guard band, then draw the remaining fan."""
    polygon, spare = np.zeros((MAX_CORNERS + 1, 3)), np.zeros((MAX_CORNERS + 1, 3))
    polygon[0], polygon[1], polygon[2] = homogeneous[a], homogeneous[b], homogeneous[c]
    n = 3
    for plane in range(5):
        n = _clip(polygon, n, plane, near, spare)
        polygon, spare = spare, polygon
        if n < 3:
            return
    xy, inverse = np.empty((n, 2), np.int64), np.empty(n)
    for i in range(n):
        inverse[i] = 1.0 / polygon[i, 2]
        xy[i, 0], xy[i, 1] = snap(polygon[i, 0] * inverse[i]), snap(polygon[i, 1] * inverse[i])
    rows, width = keys.shape
    one, half = np.int64(1 << SUBPIXEL_BITS), np.int64(1 << (SUBPIXEL_BITS - 1))
    # Parts of the fan share edges, whose pixels the top-left rule gives to one of them, as between triangles.
    x0, y0 = xy[0, 0], xy[0, 1]
    for i in range(1, n - 1):
        x1, y1, x2, y2 = xy[i, 0], xy[i, 1], xy[i + 1, 0], xy[i + 1, 1]
        area = (x1 - x0) * (y2 - y0) - (y1 - y0) * (x2 - x0)
        first = max(np.int64(0), (min(x0, x1, x2) - half + one - 1) >> SUBPIXEL_BITS)
        last = min(np.int64(width - 1), (max(x0, x1, x2) - half) >> SUBPIXEL_BITS)
        upper = max(np.int64(top), (min(y0, y1, y2) - half + one - 1) >> SUBPIXEL_BITS)
        lower = min(np.int64(top + rows - 1), (max(y0, y1, y2) - half) >> SUBPIXEL_BITS)
        if area != 0 and first <= last and upper <= lower:
            z0, z1, z2 = inverse[0], inverse[i], inverse[i + 1]
            _fill(x0, y0, x1, y1, x2, y2, z0, z1, z2, area, face, first, last, upper, lower, top, keys)


@compiled
def determinant(homogeneous, a, b, c):  # type: ignore[no-untyped-def]
    """Return the determinant of three projected vertices; its sign is that of the area on screen, y down."""
    h = homogeneous
    return (
        h[a, 0] * (h[b, 1] * h[c, 2] - h[b, 2] * h[c, 1])
        - h[a, 1] * (h[b, 0] * h[c, 2] - h[b, 2] * h[c, 0])
        + h[a, 2] * (h[b, 0] * h[c, 1] - h[b, 1] * h[c, 0])
    )


@compiled
def draw(
    fronts: I32,
    backs: I32,
    faces: I32,
    ids: I32,
    homogeneous: F64,
    screen: I32,
    inverse_z: F64,
    near: float,
    top: int,
    keys: I64,
) -> None:
    """Draw triangles into a band of rows.

    Parameters
    ----------
    fronts, backs : (T,) int32
        Triangles that matter here; all of them are drawn, but backs mostly lie behind fronts, and are dropped at once
        where everything in their tiles is nearer.
    faces : (F, 3) int32
    ids : (F,) int32
        By which triangles go into the keys, and the lowest of equally near ones is seen.
    homogeneous, screen, inverse_z : see :func:`project`
    near : float
        Metres.
    top : int
        Image row of the band's first.
    keys : (rows, W) int64
        Zeros; written.
    """
    empty = np.zeros((0, 0), np.int32)
    _draw_all(fronts, faces, ids, homogeneous, screen, inverse_z, near, top, keys, empty)
    if len(backs):
        _draw_all(backs, faces, ids, homogeneous, screen, inverse_z, near, top, keys, _farthest(keys))


@compiled
def _draw_all(chosen, faces, ids, homogeneous, screen, inverse_z, near, top, keys, farthest):  # type: ignore[no-untyped-def]
    rows, width = keys.shape
    one, half = np.int64(1 << SUBPIXEL_BITS), np.int64(1 << (SUBPIXEL_BITS - 1))
    for i in range(len(chosen)):
        # Unsigned, so that numba leaves out its check for negative indices; likewise throughout these kernels.
        f = np.uint64(chosen[i])
        a, b, c = np.uint64(faces[f, 0]), np.uint64(faces[f, 1]), np.uint64(faces[f, 2])
        x0, x1, x2 = np.int64(screen[a, 0]), np.int64(screen[b, 0]), np.int64(screen[c, 0])
        if OUTSIDE in (x0, x1, x2):
            _fill_clipped(homogeneous, a, b, c, near, ids[f], top, keys)
            continue
        y0, y1, y2 = np.int64(screen[a, 1]), np.int64(screen[b, 1]), np.int64(screen[c, 1])
        # The first and the last pixel whose centre lies within the corners.
        first = max(np.int64(0), (min(x0, x1, x2) - half + one - 1) >> SUBPIXEL_BITS)
        last = min(np.int64(width - 1), (max(x0, x1, x2) - half) >> SUBPIXEL_BITS)
        upper = max(np.int64(top), (min(y0, y1, y2) - half + one - 1) >> SUBPIXEL_BITS)
        lower = min(np.int64(top + rows - 1), (max(y0, y1, y2) - half) >> SUBPIXEL_BITS)
        if first > last or upper > lower:
            continue
        z0, z1, z2 = inverse_z[a], inverse_z[b], inverse_z[c]
        if len(farthest) and _all_nearer(farthest, max(z0, z1, z2), first, last, upper - top, lower - top):
            continue
        area = (x1 - x0) * (y2 - y0) - (y1 - y0) * (x2 - x0)
        if area != 0:
            _fill(x0, y0, x1, y1, x2, y2, z0, z1, z2, area, ids[f], first, last, upper, lower, top, keys)


@compiled
def _farthest(keys):  # type: ignore[no-untyped-def]
    """Return the bits of the least inverse depth in each tile, 0 where a pixel is empty."""
    rows, width = keys.shape
    size = 1 << TILE_BITS
    found = np.empty((-(-rows // size), -(-width // size)), np.int32)
    for j in range(found.shape[0]):
        for i in range(found.shape[1]):
            least = np.int64(2**62)
            for y in range(j * size, min((j + 1) * size, rows)):
                for x in range(i * size, min((i + 1) * size, width)):
                    least = min(least, keys[y, x])
            found[j, i] = least >> 32
    return found


@inlined
def _all_nearer(farthest, inverse, first, last, upper, lower):  # type: ignore[no-untyped-def]
    """Say whether all pixels of the tiles under a box are nearer than an inverse depth."""
    bits = np.float32(inverse).view(np.int32)
    for j in range(upper >> TILE_BITS, (lower >> TILE_BITS) + 1):
        for i in range(first >> TILE_BITS, (last >> TILE_BITS) + 1):
            if bits >= farthest[j, i]:
                return False
    return True


@compiled
def facing(faces: I32, homogeneous: F64, screen: I32, front: U8) -> None:
    """Say which triangles show their front, as :func:`datagen.render.numba.mesh_order.arrange` does."""
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        if screen[a, 0] == OUTSIDE or screen[b, 0] == OUTSIDE or screen[c, 0] == OUTSIDE:
            front[f] = determinant(homogeneous, a, b, c) < 0
            continue
        x0, y0 = np.int64(screen[a, 0]), np.int64(screen[a, 1])
        x1, y1 = np.int64(screen[b, 0]), np.int64(screen[b, 1])
        x2, y2 = np.int64(screen[c, 0]), np.int64(screen[c, 1])
        front[f] = (x1 - x0) * (y2 - y0) - (y1 - y0) * (x2 - x0) < 0


@compiled
def resolve_fragments(  # type: ignore[no-untyped-def]
    keys, top, faces, places, homogeneous, screen, inverse_z, face_map, weights, depth
):
    """Write triangle, weights and depth of the pixels of a band into the maps of the whole image.

    ``places`` (F,) int32 says where the triangle of each id is in ``faces``.
    """
    rows, width = keys.shape
    for row in range(rows):
        y = top + row
        for x in range(width):
            key = keys[row, x]
            if key == 0:
                face_map[y, x], depth[y, x] = -1, 0.0
                weights[y, x, 0], weights[y, x, 1], weights[y, x, 2] = 0.0, 0.0, 0.0
                continue
            face_map[y, x] = LOW_BITS - (key & LOW_BITS)
            f = np.uint64(places[np.uint64(LOW_BITS - (key & LOW_BITS))])
            wa, wb, wc, depth[y, x] = weights_at(
                x, y, faces[f, 0], faces[f, 1], faces[f, 2], homogeneous, screen, inverse_z
            )
            weights[y, x, 0], weights[y, x, 1], weights[y, x, 2] = wa, wb, wc


@inlined
def weights_at(x, y, a, b, c, homogeneous, screen, inverse_z):  # type: ignore[no-untyped-def]
    """Return the perspective-correct weights of three corners at a pixel's centre, and planar z there."""
    if screen[a, 0] == OUTSIDE or screen[b, 0] == OUTSIDE or screen[c, 0] == OUTSIDE:
        return _clipped_weights(x + 0.5, y + 0.5, a, b, c, homogeneous)
    one, half = np.int64(1 << SUBPIXEL_BITS), np.int64(1 << (SUBPIXEL_BITS - 1))
    px, py = x * one + half, y * one + half
    # Exact integers up to the edge functions: the same weights in whatever band, and for either neighbour, of a point.
    ax, ay = np.int64(screen[a, 0]) - px, np.int64(screen[a, 1]) - py
    bx, by = np.int64(screen[b, 0]) - px, np.int64(screen[b, 1]) - py
    cx, cy = np.int64(screen[c, 0]) - px, np.int64(screen[c, 1]) - py
    ea, eb, ec = np.float64(bx * cy - by * cx), np.float64(cx * ay - cy * ax), np.float64(ax * by - ay * bx)
    qa, qb, qc = ea * inverse_z[a], eb * inverse_z[b], ec * inverse_z[c]
    scale = 1.0 / (qa + qb + qc)
    return qa * scale, qb * scale, qc * scale, (ea + eb + ec) * scale


@compiled
def _clipped_weights(x, y, a, b, c, homogeneous):  # type: ignore[no-untyped-def]
    # Homogeneous edge functions (Olano & Greer 1997) need no corner in front of the camera. Coverage was decided for
    # snapped corners, so the centre may lie outside by less than the grid: hence the limits.
    ax, ay, az = homogeneous[a, 0], homogeneous[a, 1], homogeneous[a, 2]
    bx, by, bz = homogeneous[b, 0], homogeneous[b, 1], homogeneous[b, 2]
    cx, cy, cz = homogeneous[c, 0], homogeneous[c, 1], homogeneous[c, 2]
    # Relative to the centre, so that the third component of each product is all that is needed.
    ax, ay, bx, by, cx, cy = ax - x * az, ay - y * az, bx - x * bz, by - y * bz, cx - x * cz, cy - y * cz
    qa, qb, qc = bx * cy - by * cx, cx * ay - cy * ax, ax * by - ay * bx
    if qa + qb + qc < 0:
        qa, qb, qc = -qa, -qb, -qc
    qa, qb, qc = max(qa, 0.0), max(qb, 0.0), max(qc, 0.0)
    scale = 1.0 / (qa + qb + qc)
    return qa * scale, qb * scale, qc * scale, (qa * az + qb * bz + qc * cz) * scale
