"""NVIDIA Warp kernels that walk contours and borders of a mesh through the pixels they cross."""

from __future__ import annotations

import warp as wp

from datagen.render.contract import BEYOND_PX, LEAST_SHARE
from datagen.render.nvwarp.mesh import NO_EDGE
from datagen.render.nvwarp.screen import HALF, OUTSIDE, SHIFT, SUBPIXELS, UNIT, ZERO, Rig, homogeneous, snap

wp.set_module_options({"enable_backward": False, "fuse_fp": False})

BEYOND = wp.constant(wp.float64(BEYOND_PX))
LEAST = wp.constant(wp.float64(LEAST_SHARE))
NEVER = wp.constant(wp.float64(1e300))


@wp.struct
class Segment:
    """Part of an edge on the screen: x, y and inverse depth of its ends."""

    start: wp.vec3d
    stop: wp.vec3d


@wp.struct
class Edges:
    """The three edges of every triangle, sorted so that those between the same two vertices follow each other."""

    codes: wp.array[wp.int64]  # lower vertex << 32 | higher vertex
    sides: wp.array[wp.int32]  # twice the triangle, plus 1 where it runs from the lower vertex to the higher
    count: wp.int32


@wp.struct
class Samples:
    """Places just beyond an edge, one for every pixel that an edge crosses."""

    count: wp.array[wp.int32]
    head: wp.array3d[wp.int32]  # (V, H, W) first sample in each pixel, -1 where there is none
    following: wp.array[wp.int32]
    place: wp.array[wp.vec3i]  # view, row and column of the pixel that the edge crosses
    x: wp.array[wp.int32]  # snapped
    y: wp.array[wp.int32]
    inverse_z: wp.array[wp.float64]  # of the edge
    best: wp.array[wp.uint64]  # bits of the largest inverse depth found here, the last bit set where it shows a front


@wp.func
def inner_sign(rig: Rig, view: wp.int32, side: wp.int32) -> wp.int32:
    # 1 where the triangle lies on the side (-dy, dx) of the edge's direction on screen.
    if rig.front[view, side >> 1] == ((side & 1) == 1):
        return -1
    return 1


@wp.func
def on_screen(h: wp.vec3d) -> wp.vec3d:
    return wp.vec3d(h[0] / h[2], h[1] / h[2], UNIT / h[2])


@wp.func
def snapped(rig: Rig, view: wp.int32, vertex: wp.int32) -> wp.vec3d:
    x = wp.float64(rig.screen[view, vertex, 0]) / SUBPIXELS
    y = wp.float64(rig.screen[view, vertex, 1]) / SUBPIXELS
    return wp.vec3d(x, y, rig.inverse_z[view, vertex])


@wp.func
def segment_of(rig: Rig, view: wp.int32, a: wp.int32, b: wp.int32) -> Segment:
    """Return what the near plane leaves of an edge; without length if that is nothing."""
    segment = Segment()
    if rig.screen[view, a, 0] != OUTSIDE and rig.screen[view, b, 0] != OUTSIDE:
        segment.start = snapped(rig, view, a)
        segment.stop = snapped(rig, view, b)
        return segment
    p = homogeneous(rig, view, a)
    q = homogeneous(rig, view, b)
    if p[2] <= rig.near and q[2] <= rig.near:
        return segment
    first = wp.float64(0.0)
    last = wp.float64(1.0)
    if p[2] < rig.near:
        first = (rig.near - p[2]) / (q[2] - p[2])
    if q[2] < rig.near:
        last = (rig.near - p[2]) / (q[2] - p[2])
    segment.start = on_screen(p + first * (q - p))
    segment.stop = on_screen(p + last * (q - p))
    return segment


@wp.func
def narrowed(span: wp.vec2d, origin: wp.float64, slope: wp.float64, limit: wp.float64) -> wp.vec2d:
    """Return the part of a range of the parameter for which a coordinate lies in [0, limit] (Liang & Barsky 1984)."""
    if slope == ZERO:
        if origin < ZERO or origin >= limit:
            return wp.vec2d(UNIT, ZERO)
        return span
    enter = (ZERO - origin) / slope
    leave = (limit - origin) / slope
    if slope < ZERO:
        return wp.vec2d(wp.max(span[0], leave), wp.min(span[1], enter))
    return wp.vec2d(wp.max(span[0], enter), wp.min(span[1], leave))


@wp.func
def leave_sample(samples: Samples, place: wp.vec3i, x: wp.int64, y: wp.int64, inverse_z: wp.float64) -> None:
    i = wp.atomic_add(samples.count, 0, 1)
    # Without room they are only counted; the host makes room and starts again.
    if i < samples.x.shape[0]:
        samples.place[i] = place
        samples.x[i] = wp.int32(x)
        samples.y[i] = wp.int32(y)
        samples.inverse_z[i] = inverse_z
        samples.best[i] = wp.uint64(0)
        row = wp.clamp(wp.int32(y >> SHIFT), 0, samples.head.shape[1] - 1)
        column = wp.clamp(wp.int32(x >> SHIFT), 0, samples.head.shape[2] - 1)
        samples.following[i] = wp.atomic_exch(samples.head, place[0], row, column, i)


@wp.func
def walk(samples: Samples, view: wp.int32, edge: Segment, sign: wp.int32) -> None:
    """Leave a sample on the side ``sign`` of an edge in every pixel that it crosses."""
    x0 = edge.start[0]
    y0 = edge.start[1]
    dx = edge.stop[0] - x0
    dy = edge.stop[1] - y0
    length = wp.sqrt(dx * dx + dy * dy)
    if length == ZERO:
        return
    rows = samples.head.shape[1]
    columns = samples.head.shape[2]
    span = narrowed(wp.vec2d(ZERO, UNIT), x0, dx, wp.float64(columns))
    span = narrowed(span, y0, dy, wp.float64(rows))
    out_x = wp.float64(sign) * dy / length * BEYOND
    out_y = -wp.float64(sign) * dx / length * BEYOND
    step_x = UNIT
    step_y = UNIT
    if dx <= ZERO:
        step_x = -UNIT
    if dy <= ZERO:
        step_y = -UNIT
    t = span[0]
    line_x = wp.floor(x0 + t * dx) + wp.max(step_x, ZERO)
    line_y = wp.floor(y0 + t * dy) + wp.max(step_y, ZERO)
    while t < span[1]:
        next_x = NEVER
        next_y = NEVER
        if dx != ZERO:
            next_x = (line_x - x0) / dx
        if dy != ZERO:
            next_y = (line_y - y0) / dy
        if next_x <= t:
            line_x += step_x
        elif next_y <= t:
            line_y += step_y
        else:
            stop = wp.min(wp.min(next_x, next_y), span[1])
            if stop - t > LEAST:
                middle = HALF * (t + stop)
                x = x0 + middle * dx
                y = y0 + middle * dy
                row = wp.clamp(wp.int32(wp.floor(y)), 0, rows - 1)
                column = wp.clamp(wp.int32(wp.floor(x)), 0, columns - 1)
                inverse = edge.start[2] + middle * (edge.stop[2] - edge.start[2])
                leave_sample(samples, wp.vec3i(view, row, column), snap(x + out_x), snap(y + out_y), inverse)
            t = stop


@wp.func
def is_crossed(rig: Rig, edges: Edges, view: wp.int32, i: wp.int32, sign: wp.int32) -> wp.bool:
    """Return whether any of more than two triangles of an edge lies on the other side, so that the surface goes on."""
    code = edges.codes[i]
    j = i - 1
    while j >= 0 and edges.codes[wp.max(j, 0)] == code:
        if inner_sign(rig, view, edges.sides[j]) != sign:
            return True
        j -= 1
    j = i + 2
    while j < edges.count and edges.codes[wp.min(j, edges.count - 1)] == code:
        if inner_sign(rig, view, edges.sides[j]) != sign:
            return True
        j += 1
    return False


@wp.kernel
def trace(rig: Rig, edges: Edges, samples: Samples) -> None:
    """Leave a sample in every pixel that a contour or border crosses; launched over (V, 3 F)."""
    view, i = wp.tid()
    code = edges.codes[i]
    if code == NO_EDGE:
        return
    paired = i + 1 < edges.count and edges.codes[wp.min(i + 1, edges.count - 1)] == code
    # Of the entries of one edge, each stands for itself and the next; the last does so only if it is alone.
    if not paired and i > 0 and edges.codes[wp.max(i - 1, 0)] == code:
        return
    a = wp.int32(code >> wp.int64(32))
    b = wp.int32(code - (wp.int64(a) << wp.int64(32)))
    s0 = edges.sides[i]
    sign = inner_sign(rig, view, s0)
    if paired and (sign != inner_sign(rig, view, edges.sides[i + 1]) or is_crossed(rig, edges, view, i, sign)):
        return
    walk(samples, view, segment_of(rig, view, a, b), sign)
