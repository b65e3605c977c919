"""NVIDIA Warp kernels that prepare a mesh once for all its views: vertex normals and edges, in a fixed order."""

from __future__ import annotations

import warp as wp

from datagen.render.contract import CANCELLED

wp.set_module_options({"enable_backward": False, "fuse_fp": False})

NO_EDGE = wp.constant(wp.int64(2**62))
ZERO = wp.constant(wp.float64(0.0))
UNIT = wp.constant(wp.float64(1.0))
CANCELLED_SHARE = wp.constant(wp.float64(CANCELLED))


@wp.func
def row_of(table: wp.array2d[wp.float64], row: wp.int32) -> wp.vec3d:
    return wp.vec3d(table[row, 0], table[row, 1], table[row, 2])


@wp.kernel
def corner_keys(faces: wp.array2d[wp.int32], keys: wp.array[wp.int32], corners: wp.array[wp.int32]) -> None:
    """Write which vertex each corner is; corners count first corners of all triangles, then second, then third."""
    corner = wp.tid()
    n = faces.shape[0]
    keys[corner] = faces[corner % n, corner / n]
    corners[corner] = corner


@wp.kernel
def run_starts(keys: wp.array[wp.int32], starts: wp.array[wp.int32]) -> None:
    """Write where each vertex's corners begin among the sorted ones; launched over (3 F,)."""
    i = wp.tid()
    if i == 0 or keys[i] != keys[wp.max(i - 1, 0)]:
        starts[keys[i]] = i


@wp.kernel
def vertex_normals(
    vertices: wp.array2d[wp.float64],
    faces: wp.array2d[wp.int32],
    keys: wp.array[wp.int32],
    corners: wp.array[wp.int32],
    starts: wp.array[wp.int32],
    normals: wp.array2d[wp.float64],
) -> None:
    """Sum a vertex's triangles in the order of their corners, so that the sum has the same bits in every run."""
    vertex = wp.tid()
    total = wp.vec3d()
    area = wp.float64(0.0)
    i = starts[vertex]
    n = 3 * faces.shape[0]
    if i >= 0:
        while i < n and keys[i] == vertex:
            f = corners[i] % faces.shape[0]
            a = row_of(vertices, faces[f, 0])
            cross = wp.cross(row_of(vertices, faces[f, 1]) - a, row_of(vertices, faces[f, 2]) - a)
            total = total + cross
            area += wp.length(cross)
            i += 1
    length = wp.length(total)
    # Opposite windings can cancel: what rounding leaves points nowhere.
    scale = ZERO
    if length > CANCELLED_SHARE * area:
        scale = UNIT / length
    for k in range(3):
        normals[vertex, k] = total[k] * scale


@wp.kernel
def number(values: wp.array[wp.int32]) -> None:
    i = wp.tid()
    values[i] = i


@wp.kernel
def edge_codes(
    faces: wp.array2d[wp.int32], joined: wp.array[wp.int32], codes: wp.array[wp.int64], sides: wp.array[wp.int32]
) -> None:
    """Write the edges in the order of the triangles, between joined vertices; launched over (F,)."""
    face = wp.tid()
    for k in range(3):
        a = joined[faces[face, k]]
        b = joined[faces[face, (k + 1) % 3]]
        side = 2 * face
        if a < b:
            side += 1
        code = (wp.int64(wp.min(a, b)) << wp.int64(32)) | wp.int64(wp.max(a, b))
        if a == b:
            code = NO_EDGE
        codes[3 * face + k] = code
        sides[3 * face + k] = side
    # A triangle with two corners at one place runs along an edge both ways: the sort keeps the order given here.
    for k in range(3):
        i = 3 * face + wp.min(k, (k + 1) % 3)
        j = 3 * face + wp.max(k, (k + 1) % 3)
        if codes[i] == codes[j] and sides[i] > sides[j]:
            sides[i] = 2 * face
            sides[j] = 2 * face + 1


@wp.kernel
def mark_border(codes: wp.array[wp.int64], count: wp.int32, border: wp.array[wp.bool]) -> None:
    """Mark the ends of edges that occur once; launched over (3 F,)."""
    i = wp.tid()
    code = codes[i]
    alone = (i == 0 or codes[wp.max(i - 1, 0)] != code) and (i + 1 == count or codes[wp.min(i + 1, count - 1)] != code)
    if alone and code != NO_EDGE:
        low = code >> wp.int64(32)
        border[wp.int32(low)] = True
        border[wp.int32(code - (low << wp.int64(32)))] = True


@wp.func
def mixed(code: wp.uint64, coordinate: wp.float64) -> wp.uint64:
    # A sum with zero has no negative zero. The multiplier is 2^64 over the golden ratio (Knuth's hashing).
    code = (code ^ wp.cast(coordinate + ZERO, wp.uint64)) * wp.uint64(11400714819323198485)
    return code ^ (code >> wp.uint64(29))


@wp.kernel
def place_codes(vertices: wp.array2d[wp.float64], border: wp.array[wp.bool], codes: wp.array[wp.int64]) -> None:
    """Write a number for the place of every border vertex, the same for the same place; launched over (N,)."""
    i = wp.tid()
    codes[i] = NO_EDGE
    if border[i]:
        code = mixed(mixed(mixed(wp.uint64(0), vertices[i, 0]), vertices[i, 1]), vertices[i, 2])
        codes[i] = wp.int64(code >> wp.uint64(2))


@wp.kernel
def join(
    vertices: wp.array2d[wp.float64],
    codes: wp.array[wp.int64],
    order: wp.array[wp.int32],
    joined: wp.array[wp.int32],
    found: wp.array[wp.int32],
) -> None:
    """Join every border vertex to the first one at its place; launched over (N,) in the order of sorted codes."""
    i = wp.tid()
    code = codes[i]
    if code == NO_EDGE:
        return
    vertex = order[i]
    first = i
    while first > 0 and codes[wp.max(first - 1, 0)] == code:
        first -= 1
    # Usually the first of a run is at the same place; others are only where numbers happen to be equal.
    while first < i:
        other = order[first]
        if (
            vertices[other, 0] == vertices[vertex, 0]
            and vertices[other, 1] == vertices[vertex, 1]
            and vertices[other, 2] == vertices[vertex, 2]
        ):
            joined[vertex] = other
            found[0] = 1
            return
        first += 1
