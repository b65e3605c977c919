"""NVIDIA Warp kernels of the edge map that :mod:`datagen.render.numba.edges` defines, for all views of a chunk at once.

Contours and borders are walked through the pixels they cross; each crossing leaves a sample just beyond the edge. The
samples hang on their pixels as linked lists, all triangles are drawn over the lists to find what lies nearest at each
sample, and then every sample decides on its own pixel. The order of a list, and of the samples, cannot show.
"""

from __future__ import annotations

import warp as wp

from datagen.render.contract import BEYOND_PX, LEAST_SHARE, STEP_M
from datagen.render.nvwarp.mesh import NO_EDGE
from datagen.render.nvwarp.raster import BLOCK_PX, SMALL_BOX_PX, filled, hand_out
from datagen.render.nvwarp.screen import HALF, OUTSIDE, SHIFT, SUBPIXELS, UNIT, ZERO, Rig, homogeneous, is_cut, snap

wp.set_module_options({"enable_backward": False, "fuse_fp": False})

STEP = wp.constant(wp.float64(STEP_M))
BEYOND = wp.constant(wp.float64(BEYOND_PX))
LEAST = wp.constant(wp.float64(LEAST_SHARE))
NEVER = wp.constant(wp.float64(1e300))


# Contours and borders, walked through the pixels they cross.


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
    """Return whether any of more than two triangles of an edge lies on the other side, so the surface continues."""
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


# What lies beyond them.


@wp.func
def offer(samples: Samples, i: wp.int32, inverse_z: wp.float64) -> None:
    bits = wp.cast(inverse_z, wp.uint64)
    if bits > samples.best[i]:
        wp.atomic_max(samples.best, i, bits)


@wp.func
def cover_pixel(rig: Rig, samples: Samples, view: wp.int32, face: wp.int32, row: wp.int32, column: wp.int32) -> None:
    """Offer a whole triangle to the samples in one pixel."""
    i = samples.head[view, row, column]
    while i >= 0:
        a = rig.faces[face, 0]
        b = rig.faces[face, 1]
        c = rig.faces[face, 2]
        ax = wp.int64(rig.screen[view, a, 0] - samples.x[i])
        ay = wp.int64(rig.screen[view, a, 1] - samples.y[i])
        bx = wp.int64(rig.screen[view, b, 0] - samples.x[i])
        by = wp.int64(rig.screen[view, b, 1] - samples.y[i])
        cx = wp.int64(rig.screen[view, c, 0] - samples.x[i])
        cy = wp.int64(rig.screen[view, c, 1] - samples.y[i])
        ea = bx * cy - by * cx
        eb = cx * ay - cy * ax
        ec = ax * by - ay * bx
        area = ea + eb + ec
        none = wp.int64(0)
        inside = (ea >= none and eb >= none and ec >= none) or (ea <= none and eb <= none and ec <= none)
        if area != none and inside:
            inverse = (
                wp.float64(ea) * rig.inverse_z[view, a]
                + wp.float64(eb) * rig.inverse_z[view, b]
                + wp.float64(ec) * rig.inverse_z[view, c]
            ) / wp.float64(area)
            offer(samples, i, inverse)
        i = samples.following[i]


@wp.func
def pixels_of(rig: Rig, view: wp.int32, face: wp.int32) -> wp.vec4i:
    """Return left, right, top and bottom of the pixels that samples on a triangle can hang on; right < left: none."""
    rows = rig.keys.shape[1]
    columns = rig.keys.shape[2]
    low = wp.vec2i(rig.screen[view, rig.faces[face, 0], 0], rig.screen[view, rig.faces[face, 0], 1])
    high = low
    for k in range(1, 3):
        corner = wp.vec2i(rig.screen[view, rig.faces[face, k], 0], rig.screen[view, rig.faces[face, k], 1])
        low = wp.min(low, corner)
        high = wp.max(high, corner)
    shift = wp.int32(SHIFT)
    left = low[0] >> shift
    right = high[0] >> shift
    top = low[1] >> shift
    bottom = high[1] >> shift
    # Samples may lie beyond the border by less than a pixel, and then hang on the pixel inside.
    if right < -1 or left > columns or bottom < -1 or top > rows:
        return wp.vec4i(0, -1, 0, -1)
    return wp.vec4i(
        wp.clamp(left, 0, columns - 1),
        wp.clamp(right, 0, columns - 1),
        wp.clamp(top, 0, rows - 1),
        wp.clamp(bottom, 0, rows - 1),
    )


@wp.kernel
def cover(rig: Rig, samples: Samples, queue: wp.array[wp.vec4i], queued: wp.array[wp.int64]) -> None:
    """Offer every triangle to the samples it covers; launched over (V, F)."""
    view, face = wp.tid()
    if rig.cut[view] and is_cut(rig, view, face):
        # Few triangles reach out of the snapped range: they look at all samples, in homogeneous coordinates.
        a = homogeneous(rig, view, rig.faces[face, 0])
        b = homogeneous(rig, view, rig.faces[face, 1])
        c = homogeneous(rig, view, rig.faces[face, 2])
        if a[2] <= rig.near and b[2] <= rig.near and c[2] <= rig.near:
            return
        n = wp.min(samples.count[0], samples.x.shape[0])
        for i in range(n):
            if samples.place[i][0] == view:
                ray = wp.vec3d(wp.float64(samples.x[i]) / SUBPIXELS, wp.float64(samples.y[i]) / SUBPIXELS, UNIT)
                p = wp.vec3d(a[0] - ray[0] * a[2], a[1] - ray[1] * a[2], a[2])
                q = wp.vec3d(b[0] - ray[0] * b[2], b[1] - ray[1] * b[2], b[2])
                r = wp.vec3d(c[0] - ray[0] * c[2], c[1] - ray[1] * c[2], c[2])
                e = wp.vec3d(q[0] * r[1] - q[1] * r[0], r[0] * p[1] - r[1] * p[0], p[0] * q[1] - p[1] * q[0])
                total = e[0] + e[1] + e[2]
                if total != ZERO and (wp.min(e) >= ZERO or wp.max(e) <= ZERO):
                    z = (e[0] * a[2] + e[1] * b[2] + e[2] * c[2]) / total
                    if z > rig.near:
                        offer(samples, i, UNIT / z)
        return
    box = pixels_of(rig, view, face)
    wide = box[1] - box[0] + 1
    high = box[3] - box[2] + 1
    if wide * high > SMALL_BOX_PX and hand_out(wp.vec4i(view, face, 0, 0), wide, high, queue, queued):
        return
    for row in range(box[2], box[3] + 1):
        for column in range(box[0], box[1] + 1):
            cover_pixel(rig, samples, view, face, row, column)


@wp.kernel
def cover_blocks(
    rig: Rig,
    samples: Samples,
    queue: wp.array[wp.vec4i],
    queued: wp.array[wp.int64],
    groups: wp.int32,
    lanes: wp.int32,
) -> None:
    """The same for blocks of large triangles; launched over (groups, lanes)."""
    group, lane = wp.tid()
    for item in range(group, filled(queue, queued), groups):
        entry = queue[item]
        if entry[0] >= 0:
            box = pixels_of(rig, entry[0], entry[1])
            across = (box[1] - box[0] + BLOCK_PX) / BLOCK_PX
            left = box[0] + (entry[3] % across) * BLOCK_PX
            top = box[2] + (entry[3] / across) * BLOCK_PX
            for pixel in range(lane, BLOCK_PX * BLOCK_PX, lanes):
                column = left + pixel % BLOCK_PX
                row = top + pixel / BLOCK_PX
                if column <= box[1] and row <= box[3]:
                    cover_pixel(rig, samples, entry[0], entry[1], row, column)


@wp.kernel
def mark(samples: Samples, edge: wp.array3d[wp.bool]) -> None:
    """Mark the pixels where the edge is seen, and nothing beyond it or something at least a step behind."""
    i = wp.tid()
    least = UNIT / (UNIT / samples.inverse_z[i] + STEP)
    # The bits of positive numbers order as the numbers do.
    if samples.best[i] <= wp.cast(least, wp.uint64):
        edge[samples.place[i][0], samples.place[i][1], samples.place[i][2]] = True
