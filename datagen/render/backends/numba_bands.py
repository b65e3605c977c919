"""Compiled sorting of triangles into bands of rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from datagen.render.backends.numba_kernels import OUTSIDE, SUBPIXEL_BITS, determinant, jit

F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]


@jit
def arrange(
    faces: I32, homogeneous: F64, screen: I32, near: float, rows: int, height: int, width: int, front: U8
) -> tuple[I32, I64]:
    """Find the triangles that matter to each band of rows, those that show their front before the others.

    A triangle matters to a band if it reaches within a pixel of it and of the image's sides.

    Parameters
    ----------
    faces : (F, 3) int32
    homogeneous, screen : see :func:`datagen.render.backends.numba_kernels.project`
    near : float
        Metres.
    rows : int
        Of a band; the last may have fewer.
    height, width : int
        Of the image.
    front : (F,) uint8
        Written: 1 where the corners run counter-clockwise to the viewer.

    Returns
    -------
    order : (T,) int32
        Triangles, band after band.
    start : (2 B + 1,) int64
        Where in it the fronts and the backs of each band begin.
    """
    bands = -(-height // rows)
    first, last = np.empty(len(faces), np.int32), np.empty(len(faces), np.int32)
    start = np.zeros(2 * bands + 1, np.int64)
    right_end = np.int64(width + 1) << SUBPIXEL_BITS
    one = np.int64(1 << SUBPIXEL_BITS)
    for f in range(len(faces)):
        a, b, c = np.uint64(faces[f, 0]), np.uint64(faces[f, 1]), np.uint64(faces[f, 2])
        x0, x1, x2 = np.int64(screen[a, 0]), np.int64(screen[b, 0]), np.int64(screen[c, 0])
        if OUTSIDE in (x0, x1, x2):
            front[f] = determinant(homogeneous, a, b, c) < 0
            seen = max(homogeneous[a, 2], homogeneous[b, 2], homogeneous[c, 2]) > near
            first[f], last[f] = 0, bands - 1 if seen else -1
        else:
            y0, y1, y2 = np.int64(screen[a, 1]), np.int64(screen[b, 1]), np.int64(screen[c, 1])
            front[f] = (x1 - x0) * (y2 - y0) - (y1 - y0) * (x2 - x0) < 0
            # A row more on either side: edges are looked for there too.
            upper, lower = ((min(y0, y1, y2) - one) >> SUBPIXEL_BITS) - 1, (max(y0, y1, y2) >> SUBPIXEL_BITS) + 2
            first[f], last[f] = max(int(upper), 0) // rows, min(int(lower), height - 1) // rows
            if max(x0, x1, x2) < -one or min(x0, x1, x2) > right_end or lower < 0 or upper >= height:
                last[f] = -1
        for band in range(first[f], last[f] + 1):
            start[2 * band + 2 - front[f]] += 1
    for i in range(2 * bands):
        start[i + 1] += start[i]
    order, cursor = np.empty(start[2 * bands], np.int32), start[:-1].copy()
    for f in range(len(faces)):
        for band in range(first[f], last[f] + 1):
            group = 2 * band + 1 - front[f]
            order[cursor[group]] = f
            cursor[group] += 1
    return order, start
