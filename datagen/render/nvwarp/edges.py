"""NVIDIA Warp kernels of the edge map that :mod:`datagen.render.numba.edges` defines, for all views of a chunk at once.

Contours and borders are walked through the pixels they cross; each crossing leaves a sample just beyond the edge. The
samples hang on their pixels as linked lists, all triangles are drawn over the lists to find what lies nearest at each
sample, and then every sample decides on its own pixel. The order of a list, and of the samples, cannot show.
"""

from __future__ import annotations

import warp as wp

from datagen.render.contract import STEP_M
from datagen.render.nvwarp.contours import Samples
from datagen.render.nvwarp.raster import BLOCK_PX, SMALL_BOX_PX, filled, hand_out
from datagen.render.nvwarp.screen import SHIFT, SUBPIXELS, UNIT, ZERO, Rig, homogeneous, is_cut

wp.set_module_options({"enable_backward": False, "fuse_fp": False})

STEP = wp.constant(wp.float64(STEP_M))


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
