"""NVIDIA Warp kernels that decide what is visible.

Every pixel keeps one 64-bit key, the leading bits of its depth (float64, whose bit pattern grows with the value) above
the triangle's index, and an atomic minimum over the keys: the nearest triangle wins, ties go to the lowest index, and
the order in which threads run cannot show. Nothing else is stored while rasterising; weights are computed once a pixel
afterwards, from the same integers."""

from __future__ import annotations

import warp as wp

from datagen.render.nvwarp.screen import (
    CORNER_ROWS,
    GUARD_PX,
    ONE_PX,
    OUTSIDE,
    UNIT,
    ZERO,
    Rig,
    Triangle,
    clipped,
    edge_values,
    fan_triangle,
    homogeneous,
    is_covered,
    is_cut,
    snap,
    whole_triangle,
)

wp.set_module_options({"enable_backward": False, "fuse_fp": False})

EMPTY = wp.constant(wp.uint64(2**64 - 1))
# A triangle's box of more pixels than this is handed out in blocks, so that no thread draws a large one alone.
SMALL_BOX_PX = wp.constant(wp.int32(128))
BLOCK_PX = wp.constant(wp.int32(32))


@wp.func
def claim(rig: Rig, t: Triangle, e: wp.vec3l, view: wp.int32, column: wp.int32, row: wp.int32, face: wp.int32) -> None:
    z = wp.float64(t.area) / (
        wp.float64(e[0] + t.bias[0]) * t.inverse_z[0]
        + wp.float64(e[1] + t.bias[1]) * t.inverse_z[1]
        + wp.float64(e[2] + t.bias[2]) * t.inverse_z[2]
    )
    depth = (wp.cast(z, wp.uint64) >> rig.face_bits) << rig.face_bits
    key = depth | wp.uint64(face)
    # A stale read can only be too large, so a key that is no smaller has lost already.
    if key < rig.keys[view, row, column]:
        wp.atomic_min(rig.keys, view, row, column, key)


@wp.func
def draw_box(rig: Rig, t: Triangle, view: wp.int32, face: wp.int32) -> None:
    row_start = edge_values(t, t.left, t.top)
    for row in range(t.top, t.bottom + 1):
        e = row_start
        for column in range(t.left, t.right + 1):
            if is_covered(e):
                claim(rig, t, e, view, column, row, face)
            e = e - t.step_y * ONE_PX
        row_start = row_start + t.step_x * ONE_PX


@wp.func
def filled(queue: wp.array[wp.vec4i], queued: wp.array[wp.int64]) -> wp.int32:
    return wp.int32(wp.min(queued[0], wp.int64(queue.shape[0])))


@wp.func
def hand_out(
    entry: wp.vec4i, wide: wp.int32, high: wp.int32, queue: wp.array[wp.vec4i], queued: wp.array[wp.int64]
) -> wp.bool:
    """Queue the blocks of a box, the last entry counting them; false if they do not all fit."""
    blocks = ((wide + BLOCK_PX - 1) / BLOCK_PX) * ((high + BLOCK_PX - 1) / BLOCK_PX)
    # Counted in 64 bits: what does not fit is counted too.
    start = wp.int32(wp.min(wp.atomic_add(queued, 0, wp.int64(blocks)), wp.int64(queue.shape[0])))
    if start + blocks <= queue.shape[0]:
        for block in range(blocks):
            queue[start + block] = wp.vec4i(entry[0], entry[1], entry[2], block)
        return True
    # Slots that were reserved but not filled are marked, so that no stale block is drawn.
    for slot in range(start, queue.shape[0]):
        queue[slot] = wp.vec4i(-1, 0, 0, 0)
    return False


@wp.func
def draw_or_hand_out(
    rig: Rig,
    t: Triangle,
    view: wp.int32,
    face: wp.int32,
    fan: wp.int32,
    queue: wp.array[wp.vec4i],
    queued: wp.array[wp.int64],
) -> None:
    wide = t.right - t.left + 1
    high = t.bottom - t.top + 1
    if wide <= 0:
        return
    # A full queue is not an error: the triangle is drawn here, slower and with the same result.
    if wide * high > SMALL_BOX_PX and hand_out(wp.vec4i(view, face, fan, 0), wide, high, queue, queued):
        return
    draw_box(rig, t, view, face)


@wp.func
def draw_block(rig: Rig, t: Triangle, entry: wp.vec4i, lane: wp.int32, lanes: wp.int32) -> None:
    across = (t.right - t.left + BLOCK_PX) / BLOCK_PX
    left = t.left + (entry[3] % across) * BLOCK_PX
    top = t.top + (entry[3] / across) * BLOCK_PX
    for pixel in range(lane, BLOCK_PX * BLOCK_PX, lanes):
        column = left + pixel % BLOCK_PX
        row = top + pixel / BLOCK_PX
        if column <= t.right and row <= t.bottom:
            e = edge_values(t, column, row)
            if is_covered(e):
                claim(rig, t, e, entry[0], column, row, entry[1])


@wp.func
def shows_front(rig: Rig, view: wp.int32, face: wp.int32) -> wp.bool:
    """Return the same as a triangle's sign on the screen, for one that has no place there."""
    a = homogeneous(rig, view, rig.faces[face, 0])
    b = homogeneous(rig, view, rig.faces[face, 1])
    c = homogeneous(rig, view, rig.faces[face, 2])
    return wp.dot(a, wp.cross(b, c)) < ZERO


@wp.kernel
def project(rig: Rig) -> None:
    """Snap every vertex in every view; launched over (V, N)."""
    view, vertex = wp.tid()
    h = homogeneous(rig, view, vertex)
    x = OUTSIDE
    y = OUTSIDE
    inverse = wp.float64(0.0)
    if h[2] > rig.near:
        inverse = UNIT / h[2]
        u = h[0] * inverse
        v = h[1] * inverse
        if wp.abs(u) <= GUARD_PX and wp.abs(v) <= GUARD_PX:
            x = wp.int32(snap(u))
            y = wp.int32(snap(v))
    rig.screen[view, vertex, 0] = x
    rig.screen[view, vertex, 1] = y
    rig.inverse_z[view, vertex] = inverse


@wp.kernel
def rasterise(rig: Rig, queue: wp.array[wp.vec4i], queued: wp.array[wp.int64]) -> None:
    """Draw small triangles, hand out large ones, and say which show their front; launched over (V, F)."""
    view, face = wp.tid()
    if rig.cut[view] and is_cut(rig, view, face):
        rig.front[view, face] = shows_front(rig, view, face)
        return
    t = whole_triangle(rig, view, face)
    rig.front[view, face] = t.flipped
    draw_or_hand_out(rig, t, view, face, 0, queue, queued)


@wp.kernel
def take_over(rig: Rig, seen: wp.array3d[wp.int32]) -> None:
    """Write the keys of pixels whose triangle (-1: none) another rasteriser found; launched over (V, H, W)."""
    view, row, column = wp.tid()
    face = seen[view, row, column]
    key = EMPTY
    if face >= 0:
        key = wp.uint64(face)
    rig.keys[view, row, column] = key


@wp.kernel
def face_camera(rig: Rig) -> None:
    """Say which triangles show their front, where another rasteriser draws them; launched over (V, F)."""
    view, face = wp.tid()
    if rig.cut[view] and is_cut(rig, view, face):
        rig.front[view, face] = shows_front(rig, view, face)
    else:
        t = whole_triangle(rig, view, face)
        rig.front[view, face] = t.flipped


@wp.kernel
def rasterise_blocks(
    rig: Rig, queue: wp.array[wp.vec4i], queued: wp.array[wp.int64], groups: wp.int32, lanes: wp.int32
) -> None:
    """Draw the blocks of large triangles, each by ``lanes`` neighbouring threads; launched over (groups, lanes)."""
    group, lane = wp.tid()
    for item in range(group, filled(queue, queued), groups):
        entry = queue[item]
        if entry[0] >= 0:
            draw_block(rig, whole_triangle(rig, entry[0], entry[1]), entry, lane, lanes)


@wp.kernel
def rasterise_cut(rig: Rig, queue: wp.array[wp.vec4i], queued: wp.array[wp.int64]) -> None:
    """As ``rasterise``, for triangles that reach through the near plane or beyond the guard band."""
    view, face = wp.tid()
    if not rig.cut[view] or not is_cut(rig, view, face):
        return
    spare = wp.zeros(shape=(CORNER_ROWS, 3), dtype=wp.float64)
    polygon = wp.zeros(shape=(CORNER_ROWS, 3), dtype=wp.float64)
    n = clipped(rig, view, face, spare, polygon)
    for fan in range(n - 2):
        t = fan_triangle(polygon, fan, rig.keys.shape[2], rig.keys.shape[1])
        draw_or_hand_out(rig, t, view, face, fan, queue, queued)


@wp.kernel
def rasterise_cut_blocks(
    rig: Rig, queue: wp.array[wp.vec4i], queued: wp.array[wp.int64], groups: wp.int32, lanes: wp.int32
) -> None:
    """As ``rasterise_blocks``, for what ``rasterise_cut`` handed out."""
    group, lane = wp.tid()
    for item in range(group, filled(queue, queued), groups):
        entry = queue[item]
        if entry[0] >= 0:
            spare = wp.zeros(shape=(CORNER_ROWS, 3), dtype=wp.float64)
            polygon = wp.zeros(shape=(CORNER_ROWS, 3), dtype=wp.float64)
            clipped(rig, entry[0], entry[1], spare, polygon)
            t = fan_triangle(polygon, entry[2], rig.keys.shape[2], rig.keys.shape[1])
            draw_block(rig, t, entry, lane, lanes)
