"""Compiled search for the edges of a mesh and the triangles on either side of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from datagen.render.backends.numba_kernels import jit

# Up to here insertion sort is the quickest.
FEW = 64

I32 = npt.NDArray[np.int32]


@jit
def mesh_edges(faces: I32, n_vertices: int) -> tuple[I32, I32]:
    """Return the edges of a mesh and what lies on either side.

    An edge of more than two triangles is returned once for every two of them that follow each other.

    Parameters
    ----------
    faces : (F, 3) int32
    n_vertices : int

    Returns
    -------
    ends : (E, 2) int32
        Vertices, lower index first.
    sides : (E, 2) int32
        Twice the triangle's index, plus 1 where it runs along the edge from the lower vertex to the higher; -1 in
        the second column where there is no second triangle.
    """
    start = np.zeros(n_vertices + 1, np.int64)
    for f in range(len(faces)):
        for k in range(3):
            a, b = faces[f, k], faces[f, (k + 1) % 3]
            if a != b:
                start[min(a, b) + 1] += 1
    for i in range(n_vertices):
        start[i + 1] += start[i]
    total = start[n_vertices]
    # Per lower vertex: the higher one in the upper bits, triangle and direction in the lower.
    codes, cursor = np.empty(total, np.int64), start[:-1].copy()
    for f in range(len(faces)):
        for k in range(3):
            a, b = faces[f, k], faces[f, (k + 1) % 3]
            if a != b:
                low, high = min(a, b), max(a, b)
                codes[cursor[low]] = (np.int64(high) << 32) | (2 * f + (1 if a < b else 0))
                cursor[low] += 1
    ends, sides = np.empty((total, 2), np.int32), np.empty((total, 2), np.int32)
    count = 0
    for low in range(n_vertices):
        first, last = start[low], start[low + 1]
        _sort(codes[first:last])
        i = first
        while i < last:
            high = codes[i] >> 32
            j = i + 1
            while j < last and codes[j] >> 32 == high:
                j += 1
            for k in range(i, max(i + 1, j - 1)):
                ends[count, 0], ends[count, 1] = low, high
                sides[count, 0] = codes[k] & 0xFFFFFFFF
                sides[count, 1] = codes[k + 1] & 0xFFFFFFFF if k + 1 < j else -1
                count += 1
            i = j
    return ends[:count].copy(), sides[:count].copy()


@jit
def _sort(codes):  # type: ignore[no-untyped-def]
    # A vertex has a handful of edges, but the hub of a fan may have any number.
    if len(codes) > FEW:
        codes[:] = np.sort(codes)
        return
    for i in range(1, len(codes)):
        code, j = codes[i], i - 1
        while j >= 0 and codes[j] > code:
            codes[j + 1] = codes[j]
            j -= 1
        codes[j + 1] = code
