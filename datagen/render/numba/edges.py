"""Edge maps: which pixels' squares are crossed by a silhouette or a depth step.

They come from the mesh, not from neighbouring pixels: edges whose triangles lie on one side of them on screen
(occluding contours), and edges of one triangle (borders), are traced through the pixels they cross. In each such
pixel the surface just beyond the edge is looked up among all triangles. The pixel is marked if there is none, or one
more than :data:`datagen.render.contract.STEP_M` behind the edge; if something lies in front, the edge is hidden.
Neighbouring pixel values could not tell: next to the contour of a curved surface depth changes by millimetres within a
pixel without any step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import I32
from datagen.common.compiled import compiled, inlined
from datagen.geometry.camera import Camera
from datagen.render.contract import BEYOND_PX, LEAST_SHARE, NEAR_M, STEP_M, SUBPIXEL_BITS
from datagen.render.inputs import pixel_matrix
from datagen.render.numba.raster_kernel import OUTSIDE, facing, project, snap

# Up to here insertion sort is the quickest.
FEW = 64
# Samples are sorted by pixel, and triangles looked at where a tile of 4 × 4 pixels holds any.
TILE_BITS = 2


@dataclass(frozen=True)
class MeshEdges:
    """The edges of a mesh, for any number of views.

    Attributes
    ----------
    ends : (E, 2) int32
        Vertices.
    sides : (E, 2) int32
        Triangles with their direction along the edge; see :func:`mesh_edges`.
    """

    ends: npt.NDArray[np.int32]
    sides: npt.NDArray[np.int32]

    @classmethod
    def of(cls, vertices: npt.NDArray[np.float64], faces: npt.NDArray[np.int32]) -> MeshEdges:
        """Find the edges of a checked mesh; vertices at the same place count as one, as to a surface they are."""
        ends, sides = mesh_edges(faces, len(vertices))
        border = np.unique(ends[sides[:, 1] < 0])
        joined = _joined(vertices, border)
        return cls(ends, sides) if joined is None else cls(*mesh_edges(joined[faces], len(vertices)))


def _joined(vertices: npt.NDArray[np.float64], border: npt.NDArray[np.int32]) -> npt.NDArray[np.int32] | None:
    """Return for every vertex the first one at its place, (N,) int32, looking at the border alone; None if all differ.

    Files split vertices along texture seams, or give every triangle its own: only there can places coincide.
    """
    x, y, z = (vertices[border] + 0.0).T  # no negative zeros
    order = np.lexsort((border, z, y, x))
    same = (np.diff(x[order]) == 0) & (np.diff(y[order]) == 0) & (np.diff(z[order]) == 0)
    if not same.any():
        return None
    first = np.concatenate([[0], np.where(same, 0, np.arange(1, len(order)))])
    joined = np.arange(len(vertices), dtype=np.int32)
    joined[border[order]] = border[order][np.maximum.accumulate(first)]
    return joined


@dataclass(frozen=True)
class Projection:
    """A mesh as one camera sees it.

    Attributes
    ----------
    homogeneous : (N, 3) float64
        Pixels times z, and z in metres.
    screen : (N, 2) int32
        Snapped pixels; see :func:`datagen.render.numba.raster_kernel.project`.
    inverse_z : (N,) float64
    front : (F,) uint8
        1 where a triangle's corners run counter-clockwise to the viewer.
    """

    homogeneous: npt.NDArray[np.float64]
    screen: npt.NDArray[np.int32]
    inverse_z: npt.NDArray[np.float64]
    front: npt.NDArray[np.uint8]

    @classmethod
    def empty(cls, n_vertices: int, n_faces: int) -> Projection:
        """Return room for a mesh of that size."""
        return cls(
            np.empty((n_vertices, 3)),
            np.empty((n_vertices, 2), np.int32),
            np.empty(n_vertices),
            np.empty(n_faces, np.uint8),
        )

    @classmethod
    def of(cls, vertices: npt.NDArray[np.float64], faces: npt.NDArray[np.int32], camera: Camera) -> Projection:
        """Project a checked mesh (vertices (N, 3) float64 world metres, faces (F, 3) int32)."""
        own = cls.empty(len(vertices), len(faces))
        project(vertices, pixel_matrix(camera), NEAR_M, 0, len(vertices), own.homogeneous, own.screen, own.inverse_z)
        facing(faces, own.homogeneous, own.screen, own.front)
        return own


def edge_maps(
    vertices: npt.NDArray[np.float64],
    faces: npt.NDArray[np.int32],
    cameras: Sequence[Camera],
) -> list[npt.NDArray[np.bool_]]:
    """Return the edge map (H, W) of every camera.

    Parameters
    ----------
    vertices : (N, 3) float64
        World metres.
    faces : (F, 3) int32
    """
    edges = MeshEdges.of(vertices, faces)
    maps = []
    for camera in cameras:
        projection = Projection.of(vertices, faces, camera)
        maps.append(padded_edge_map(edges, faces, projection, camera)[1:-1].astype(bool))
    return maps


def padded_edge_map(
    edges: MeshEdges, faces: npt.NDArray[np.int32], projection: Projection, camera: Camera
) -> npt.NDArray[np.uint8]:
    """Return the edge map of one view as 0 or 1 with an empty row above and below, (H + 2, W) uint8."""
    edge = np.empty((camera.height + 2, camera.width), np.uint8)
    mark_edges(
        view_contours(edges, projection),
        np.flatnonzero(projection.front).astype(np.int32),
        np.flatnonzero(projection.front == 0).astype(np.int32),
        faces,
        projection.homogeneous,
        projection.screen,
        projection.inverse_z,
        NEAR_M,
        -1,
        camera.height,
        edge,
    )
    return edge


def view_contours(edges: MeshEdges, projection: Projection) -> npt.NDArray[np.float64]:
    """Return the contours and borders of one view; see :func:`contours`."""
    return contours(
        edges.ends,
        edges.sides,
        projection.homogeneous,
        projection.screen,
        projection.inverse_z,
        projection.front,
        NEAR_M,
    )


# Edges of a mesh.


@compiled
def mesh_edges(faces: I32, n_vertices: int) -> tuple[I32, I32]:
    """Return the edges of a mesh and what lies on either side.

    An edge of more than two triangles is returned once for every two of them that follow each other.

    Parameters
    ----------
    faces : (F, 3) int32

    Returns
    -------
    ends : (E, 2) int32
        Vertices, lower index first.
    sides : (E, 2) int32
        Twice the triangle's index, plus 1 where it runs along the edge from the lower vertex to the higher; -1 in
        the second column where there is no second triangle.
    """
    # A counting sort by the lower vertex: linear in time, and its order is that of the indices alone.
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


@compiled
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


# Contours and borders of a view.


@inlined
def _inner_sign(side, front):  # type: ignore[no-untyped-def]
    # 1 where the triangle lies on the side (-dy, dx) of the edge's direction on screen.
    area = -1 if front[side >> 1] else 1
    return area if side & 1 else -area


@compiled
def _crossed(e, sign, ends, sides, front):  # type: ignore[no-untyped-def]
    """Say whether any of more than two triangles of an edge lies on the other side, so the surface continues."""
    for step in (-1, 1):
        i = e + step
        while 0 <= i < len(ends) and ends[i, 0] == ends[e, 0] and ends[i, 1] == ends[e, 1]:
            for k in range(2):
                if _inner_sign(sides[i, k], front) != sign:
                    return True
            i += step
    return False


@compiled
def contours(ends, sides, homogeneous, screen, inverse_z, front, near):  # type: ignore[no-untyped-def]
    """Return the occluding contours and borders of a view.

    Returns
    -------
    (M, 7) float64
        Screen x, y and inverse depth of the start, their change to the end, and 1 or -1 for the side on which the
        surface lies.
    """
    segments, count = np.empty((1024, 7)), 0
    one = float(1 << SUBPIXEL_BITS)
    point = np.empty((2, 3))
    for e in range(len(ends)):
        s0, s1 = sides[e, 0], sides[e, 1]
        sign = _inner_sign(s0, front)
        if s1 >= 0 and (sign != _inner_sign(s1, front) or _crossed(e, sign, ends, sides, front)):
            continue
        a, b = ends[e, 0], ends[e, 1]
        if screen[a, 0] != OUTSIDE and screen[b, 0] != OUTSIDE:
            point[0, 0], point[0, 1], point[0, 2] = screen[a, 0] / one, screen[a, 1] / one, inverse_z[a]
            point[1, 0], point[1, 1], point[1, 2] = screen[b, 0] / one, screen[b, 1] / one, inverse_z[b]
        elif not _clip_near(homogeneous, a, b, near, point):
            continue
        if count == len(segments):
            segments = _grown(segments)
        for k in range(3):
            segments[count, k] = point[0, k]
            segments[count, 3 + k] = point[1, k] - point[0, k]
        segments[count, 6] = sign
        count += 1
    return segments[:count]


@compiled
def _clip_near(homogeneous, a, b, near, point):  # type: ignore[no-untyped-def]
    """Write the part of a segment in front of the near plane as screen x, y and inverse depth; False if none."""
    h = homogeneous
    za, zb = h[a, 2], h[b, 2]
    if za <= near and zb <= near:
        return False
    t0 = (near - za) / (zb - za) if za < near else 0.0
    t1 = (near - za) / (zb - za) if zb < near else 1.0
    for i, t in enumerate((t0, t1)):
        z = za + t * (zb - za)
        point[i, 0] = (h[a, 0] + t * (h[b, 0] - h[a, 0])) / z
        point[i, 1] = (h[a, 1] + t * (h[b, 1] - h[a, 1])) / z
        point[i, 2] = 1.0 / z
    return True


@compiled
def _grown(a):  # type: ignore[no-untyped-def]
    longer = np.empty((2 * len(a), a.shape[1]), a.dtype)
    longer[: len(a)] = a
    return longer


# Pixels that they cross, and what lies beyond.


@compiled
def mark_edges(  # type: ignore[no-untyped-def]
    segments, fronts, backs, faces, homogeneous, screen, inverse_z, near, top, height, edge
):
    """Mark the edge pixels of a band of rows.

    Parameters
    ----------
    segments : (M, 7) float64
        See :func:`contours`.
    fronts, backs : (T,) int32
        Triangles that may reach the band; in which of the two one is only matters to the time it takes.
    faces, homogeneous, screen, inverse_z : see :func:`datagen.render.numba.mesh_order.arrange`
    near : float
        Metres.
    top : int
        Image row of the first row of ``edge``; may be -1.
    height : int
        Rows of the image.
    edge : (rows, W) uint8
        Written: 0 or 1; rows beyond the image stay 0.
    """
    edge[:] = 0
    places, inverse = _walk(segments, top, height, edge.shape)
    if len(places) == 0:
        return
    best = _nearest(places, inverse, fronts, backs, faces, homogeneous, screen, inverse_z, near, top, edge.shape)
    width = edge.shape[1]
    for s in range(len(places)):
        # Only what is less than a step behind the edge was looked for. Where that finds a surface, it either hides the
        # edge or continues it; where there is none, the edge is seen.
        if best[s] == 0.0:
            edge[places[s, 0] // width, places[s, 0] % width] = 1


@compiled
def _walk(segments, top, height, shape):  # type: ignore[no-untyped-def]
    """Return a sample for every pixel that a contour or border crosses.

    Returns
    -------
    places : (S, 3) int64
        Pixel of the band, snapped x and y just beyond the edge.
    inverse : (S,) float64
        Inverse depth of the edge there.
    """
    places, inverse, count = np.empty((1024, 3), np.int64), np.empty(1024), 0
    width = shape[1]
    upper, lower = max(top, 0), min(top + shape[0], height)
    for m in range(len(segments)):
        x0, y0, dx, dy = segments[m, 0], segments[m, 1], segments[m, 3], segments[m, 4]
        length = np.sqrt(dx * dx + dy * dy)
        t, end = _clip_rectangle(x0, y0, dx, dy, float(width), float(upper), float(lower))
        if length == 0.0 or t >= end:
            continue
        beyond = segments[m, 6] * BEYOND_PX / length
        while t < end:
            # Grid lines are numbered, not added up, so that their places do not depend on where the walk began.
            stop = min(_next_line(x0, dx, t), _next_line(y0, dy, t), end)
            # At a corner of the grid two lines are crossed at once, up to rounding: no pixel lies between them.
            if stop - t > LEAST_SHARE:
                if count == len(places):
                    places, inverse = _grown(places), _grown_row(inverse)
                middle = 0.5 * (t + stop)
                x, y = x0 + middle * dx, y0 + middle * dy
                column = min(max(int(np.floor(x)), 0), width - 1)
                row = min(max(int(np.floor(y)), upper), lower - 1) - top
                places[count, 0] = row * width + column
                places[count, 1], places[count, 2] = snap(x + beyond * dy), snap(y - beyond * dx)
                inverse[count] = segments[m, 2] + middle * segments[m, 5]
                count += 1
            t = stop
    return places[:count], inverse[:count]


@inlined
def _next_line(origin, slope, t):  # type: ignore[no-untyped-def]
    """Return the parameter above ``t`` at which a coordinate next becomes whole."""
    if slope == 0.0:
        return np.inf
    step = 1.0 if slope > 0 else -1.0
    line = np.floor(origin + t * slope) + (1.0 if slope > 0 else 0.0)
    found = (line - origin) / slope
    # Rounding may find the line just crossed once more, and the walk would stand still.
    while found <= t:
        line += step
        found = (line - origin) / slope
    return found


@compiled
def _grown_row(a):  # type: ignore[no-untyped-def]
    longer = np.empty(2 * len(a), a.dtype)
    longer[: len(a)] = a
    return longer


@compiled
def _clip_rectangle(x0, y0, dx, dy, width, upper, lower):  # type: ignore[no-untyped-def]
    """Return the range of the parameter for which a segment lies in the rectangle (Liang & Barsky 1984)."""
    start, end = 0.0, 1.0
    for origin, slope, low, high in ((x0, dx, 0.0, width), (y0, dy, upper, lower)):
        if slope == 0.0:
            if origin < low or origin >= high:
                return 1.0, 0.0
            continue
        enter, leave = (low - origin) / slope, (high - origin) / slope
        if slope < 0.0:
            enter, leave = leave, enter
        start, end = max(start, enter), min(end, leave)
    return start, end


@compiled
def _nearest(  # type: ignore[no-untyped-def]
    places, inverse, fronts, backs, faces, homogeneous, screen, inverse_z, near, top, shape
):
    """Return the inverse depth of the nearest triangle at each sample, 0 where nothing matters.

    What lies more than a step beyond an edge is as good as nothing, so it is not looked for.
    """
    samples = _sorted_samples(places, inverse, top, shape)
    _, order, xs, ys, best, limit = samples
    least = best.copy()
    _look_up(fronts, samples, faces, homogeneous, screen, inverse_z, near, top, shape)
    # Fronts hide most samples, and backs mostly lie behind them.
    limit[:] = np.inf
    offset = np.int64(top) << SUBPIXEL_BITS
    for i in range(len(xs)):
        column = min(max(xs[i] >> SUBPIXEL_BITS, 0), shape[1] - 1) >> TILE_BITS
        row = min(max((ys[i] - offset) >> SUBPIXEL_BITS, 0), shape[0] - 1) >> TILE_BITS
        limit[row, column] = min(limit[row, column], best[i])
    _look_up(backs, samples, faces, homogeneous, screen, inverse_z, near, top, shape)
    found = np.zeros(len(order))
    for i in range(len(order)):
        if best[i] > least[i]:
            found[order[i]] = best[i]
    return found


@compiled
def _look_up(  # type: ignore[no-untyped-def]
    chosen, samples, faces, homogeneous, screen, inverse_z, near, top, shape
):
    """Compare triangles with the samples that they cover; ``best`` of the samples is written."""
    start, _, xs, ys, best, limit = samples
    shift, width, last_row = np.int64(SUBPIXEL_BITS), shape[1], shape[0] - 1
    offset = np.int64(top) << SUBPIXEL_BITS
    for k in range(len(chosen)):
        f = np.uint64(chosen[k])
        a, b, c = np.uint64(faces[f, 0]), np.uint64(faces[f, 1]), np.uint64(faces[f, 2])
        x0, x1, x2 = np.int64(screen[a, 0]), np.int64(screen[b, 0]), np.int64(screen[c, 0])
        if OUTSIDE in (x0, x1, x2):
            _cover_clipped(a, b, c, homogeneous, near, xs, ys, best)
            continue
        y0, y1, y2 = np.int64(screen[a, 1]), np.int64(screen[b, 1]), np.int64(screen[c, 1])
        left, right = min(x0, x1, x2), max(x0, x1, x2)
        above, below = min(y0, y1, y2), max(y0, y1, y2)
        first, last = min(max(left >> shift, 0), width - 1), min(max(right >> shift, 0), width - 1)
        upper = min(max((above - offset) >> shift, 0), last_row)
        lower = min(max((below - offset) >> shift, 0), last_row)
        z0, z1, z2 = inverse_z[a], inverse_z[b], inverse_z[c]
        nearest = max(z0, z1, z2)
        if not _matters(limit, nearest, first >> TILE_BITS, last >> TILE_BITS, upper >> TILE_BITS, lower >> TILE_BITS):
            continue
        for row in range(upper, lower + 1):
            for i in range(start[row * width + first], start[row * width + last + 1]):
                px, py = xs[i], ys[i]
                if nearest <= best[i] or px < left or px > right:
                    continue
                ea = (x1 - px) * (y2 - py) - (y1 - py) * (x2 - px)
                eb = (x2 - px) * (y0 - py) - (y2 - py) * (x0 - px)
                ec = (x0 - px) * (y1 - py) - (y0 - py) * (x1 - px)
                # Either winding, borders included: where two triangles share a sample, the nearer one counts anyway.
                area = ea + eb + ec
                if area == 0 or ((ea < 0 or eb < 0 or ec < 0) and (ea > 0 or eb > 0 or ec > 0)):
                    continue
                z = (ea * z0 + eb * z1 + ec * z2) / area
                best[i] = max(best[i], z)


@compiled
def _sorted_samples(places, inverse, top, shape):  # type: ignore[no-untyped-def]
    """Sort samples by pixel.

    Returns
    -------
    start : (rows * W + 1,) int32
        Where the samples of each pixel begin.
    order, xs, ys : (S,) int64
        Samples, and their snapped places.
    best : (S,) float64
        Inverse depth that a triangle must exceed to matter.
    limit : (tiles down, tiles across) float64
        The least of these in each square tile, infinite in one without samples.
    """
    count, (rows, width) = len(places), shape
    offset = np.int64(top) << SUBPIXEL_BITS
    limit = np.full((((rows - 1) >> TILE_BITS) + 1, ((width - 1) >> TILE_BITS) + 1), np.inf)
    pixel, start = np.empty(count, np.int64), np.zeros(rows * width + 1, np.int32)
    least = np.empty(count)
    for s in range(count):
        column = min(max(places[s, 1] >> SUBPIXEL_BITS, 0), width - 1)
        row = min(max((places[s, 2] - offset) >> SUBPIXEL_BITS, 0), rows - 1)
        pixel[s] = row * width + column
        start[pixel[s] + 1] += 1
        least[s] = 1.0 / (1.0 / inverse[s] + STEP_M)
        tile_row, tile_column = row >> TILE_BITS, column >> TILE_BITS
        limit[tile_row, tile_column] = min(limit[tile_row, tile_column], least[s])
    for i in range(rows * width):
        start[i + 1] += start[i]
    order, cursor = np.empty(count, np.int64), start[:-1].copy()
    xs, ys, best = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count)
    for s in range(count):
        at = cursor[pixel[s]]
        order[at], xs[at], ys[at], best[at] = s, places[s, 1], places[s, 2], least[s]
        cursor[pixel[s]] += 1
    return start, order, xs, ys, best, limit


@inlined
def _matters(limit, nearest, first, last, upper, lower):  # type: ignore[no-untyped-def]
    for row in range(upper, lower + 1):
        for column in range(first, last + 1):
            if nearest > limit[row, column]:
                return True
    return False


@compiled
def _cover_clipped(a, b, c, homogeneous, near, xs, ys, best):  # type: ignore[no-untyped-def]
    """Compare a triangle that reaches out of the snapped range with every sample, in homogeneous coordinates."""
    one = float(1 << SUBPIXEL_BITS)
    h = homogeneous
    for i in range(len(xs)):
        x, y = xs[i] / one, ys[i] / one
        ax, ay = h[a, 0] - x * h[a, 2], h[a, 1] - y * h[a, 2]
        bx, by = h[b, 0] - x * h[b, 2], h[b, 1] - y * h[b, 2]
        cx, cy = h[c, 0] - x * h[c, 2], h[c, 1] - y * h[c, 2]
        qa, qb, qc = bx * cy - by * cx, cx * ay - cy * ax, ax * by - ay * bx
        total = qa + qb + qc
        if total == 0.0 or ((qa < 0 or qb < 0 or qc < 0) and (qa > 0 or qb > 0 or qc > 0)):
            continue
        z = (qa * h[a, 2] + qb * h[b, 2] + qc * h[c, 2]) / total
        if z > near and 1.0 / z > best[i]:
            best[i] = 1.0 / z
