"""NVIDIA Warp kernels that prepare a mesh once for all its views: vertex normals and edges, in a fixed order."""

from __future__ import annotations

import warp as wp

wp.set_module_options({"enable_backward": False, "fuse_fp": False})

NO_EDGE = wp.constant(wp.int64(2**62))
ZERO = wp.constant(wp.float64(0.0))


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
    i = starts[vertex]
    n = 3 * faces.shape[0]
    if i >= 0:
        while i < n and keys[i] == vertex:
            f = corners[i] % faces.shape[0]
            a = row_of(vertices, faces[f, 0])
            total = total + wp.cross(row_of(vertices, faces[f, 1]) - a, row_of(vertices, faces[f, 2]) - a)
            i += 1
    length = wp.length(total)
    if length > ZERO:
        total = total / length
    for k in range(3):
        normals[vertex, k] = total[k]


@wp.kernel
def edge_codes(faces: wp.array2d[wp.int32], codes: wp.array[wp.int64], sides: wp.array[wp.int32]) -> None:
    """Write the edges in the order of the triangles; launched over (F, 3)."""
    face, k = wp.tid()
    a = faces[face, k]
    b = faces[face, (k + 1) % 3]
    side = 2 * face
    if a < b:
        side += 1
    code = (wp.int64(wp.min(a, b)) << wp.int64(32)) | wp.int64(wp.max(a, b))
    if a == b:
        code = NO_EDGE
    codes[3 * face + k] = code
    sides[3 * face + k] = side
