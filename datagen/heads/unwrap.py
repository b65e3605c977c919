"""A texture frame for any head: the skin of face, ears and scalp in one chart, seamed at the back, the rest beside it.

Nothing of it depends on a model's own layout: what is cut follows from the region labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.sparse.csgraph import dijkstra

from datagen.common.arrays import F64, I64, Bools
from datagen.common.blas import one_blas_thread
from datagen.geometry.edges import unique_edges
from datagen.geometry.mesh import vertex_normals
from datagen.heads.base import HeadTemplate
from datagen.heads.flatten import border_loops, flatten, is_disc
from datagen.heads.labelling import components
from datagen.heads.regions import FACE_REGIONS, INTERIOR_REGIONS, REGIONS, mask_of

# How much more a triangle's distortion counts on the face.
FACE_WEIGHT = 10.0
# The seam keeps to the midline: an edge this far beside it counts four times.
BESIDE_M = 0.004
# A border that runs around head or neck is deeper than any around an eye or the mouth.
AROUND_M = 0.06
# Charts of parts that nobody looks at: their scale beside the skin's, and how well they are relaxed.
OTHER_SCALE = 0.4
OTHER_ROUNDS = 8
# Between charts and around them, in units of the whole square.
MARGIN = 4 / 1024
# The pocket behind the lids, in radii of the eyeball from its centre.
POCKET_RADII = 1.35


# Triangles of the template, their corners in the chart, and where these lie, metres.
Chart = tuple[I64, I64, F64]


@dataclass(frozen=True, eq=False)
class Unwrap:
    """Texture coordinates of a template.

    Attributes
    ----------
    uv : (T, 2) float64
        In [0, 1]; +u the subject's left, +v up on the face.
    faces : (F, 3) int32
        Corners of the template's triangles, in ``uv``.
    main : (F,) bool
        Triangles of the chart that holds face, ears and scalp.
    """

    uv: F64
    faces: npt.NDArray[np.int32]
    main: Bools


@lru_cache(maxsize=4)
@one_blas_thread()
def unwrap(template: HeadTemplate) -> Unwrap:
    """Return texture coordinates of a template, computed once per process.

    The skin is cut along lips, lids and neck and, at the back, from the neck to the crown. What is left of face, ears
    and scalp is laid flat as one piece, without a fold, areas and angles kept as well as may be (the face before the
    scalp), the face upright in the middle. Neck, mouth, eyeballs and the pockets behind the lids get small charts
    below it. On Anny's face the texels for each square millimetre of 90 % of the triangles are within -31 % and +27 %
    of their median (of 90 % of the skin within -13 % and +20 %): nostrils get least.

    A surface with handles, which no head is, has no main chart: it is cut into pieces that lie flat.
    """
    faces = template.faces.astype(np.int64)
    inside = _behind_lids(template) | mask_of(template.regions, INTERIOR_REGIONS)
    hidden = inside[faces].any(axis=1)
    main = _largest_piece(faces, ~hidden & ~(template.regions[faces] == REGIONS["neck"]).all(axis=1))
    charts: list[Chart] = []
    if main.any():
        skin, corners = _cut_open(template.vertices, faces[main])
        loops = border_loops(corners)
        main &= is_disc(corners, loops)
    if main.any():
        points, face = template.vertices[skin], mask_of(template.regions[skin], FACE_REGIONS)
        weights = np.where(face[corners].any(axis=1), FACE_WEIGHT, 1.0)
        flat = flatten(points, corners, weights, first=_lowest_front(points, loops))
        charts.append((np.flatnonzero(main), corners, _upright(points, flat, face if face.any() else ~face)))
    for part in (~main & ~hidden, ~main & hidden):
        charts += _discs(template.vertices, faces, np.flatnonzero(part))
    return _packed(len(faces), charts, main)


def _behind_lids(template: HeadTemplate) -> Bools:
    """Return the skin (V,) bool of the pockets in which the eyeballs lie, which only a template without lids shows."""
    vertices, result = template.vertices, np.zeros(len(template.vertices), bool)
    normals = vertex_normals(vertices, template.faces)
    for side in ("right_eye", "left_eye"):
        ball = vertices[template.regions == REGIONS[f"{side}ball"]]
        if not len(ball):
            continue
        low, high = ball.min(axis=0), ball.max(axis=0)
        radius = float((high - low)[:2].max() / 2)
        centre = np.array([*(low + high)[:2] / 2, high[2] - radius])
        away = vertices - centre
        near = np.linalg.norm(away, axis=1) < np.where(away[:, 2] < 0, 2.5, POCKET_RADII) * radius
        facing = np.einsum("vd,vd->v", normals, away) < 0
        pocket = (template.regions == REGIONS[side]) & near & facing
        # What carries a mark is on the lids' edge, not behind it.
        pocket[template.faces[template.landmark_faces]] = False
        whole = _largest_piece(template.faces, pocket[template.faces].all(axis=1))
        result[np.unique(template.faces[whole])] = True
    return result


def _largest_piece(faces: npt.NDArray[np.integer], chosen: Bools) -> Bools:
    """Return which of the ``chosen`` triangles (F,) are of their largest connected piece."""
    where = np.flatnonzero(chosen)
    if not len(where):
        return chosen
    piece = components(faces[where], int(faces.max()) + 1)[faces[where, 0]]
    result = np.zeros(len(faces), bool)
    result[where[piece == np.bincount(piece).argmax()]] = True
    return result


def _seamed(points: F64, faces: I64) -> tuple[I64, I64]:
    """Cut a surface open at the back, from its lower border to its upper one, or to the crown where it has none.

    Returns
    -------
    vertices : (n,) int64
        The vertex of each corner below; those of the seam twice.
    corners : (f, 3) int64
        Into these.
    """
    loops = border_loops(faces)
    if not loops:
        # A closed part is slit at the back, so that its front is whole.
        hindmost, top = np.array([np.argmin(points[:, 2])]), np.array([np.argmax(points[:, 1])])
        path = _cheapest(_graph(points, faces, loops), hindmost, top)
        return _opened(len(points), faces, path, list(range(1, len(path) - 1)))
    around = [loop for loop in loops if np.ptp(points[loop, 2]) > AROUND_M]
    if not around:
        return np.arange(len(points)), faces
    around.sort(key=lambda loop: points[loop, 1].mean())
    crown = np.array([np.argmax(points[:, 1] - 10 * np.abs(points[:, 0]))])
    end = around[-1] if len(around) > 1 else crown
    start, end = (loop[points[loop, 2] <= np.median(points[loop, 2])] for loop in (around[0], end))
    path = _cheapest(_graph(points, faces, loops), start, end)
    # The crown stays one vertex: the seam ends there.
    doubled = list(range(len(path) if len(around) > 1 else len(path) - 1))
    return _opened(len(points), faces, path, doubled)


def _cheapest(graph: sp.csr_matrix, start: I64, end: I64) -> list[int]:
    """Return the cheapest path from one of the ``start`` vertices to one of the ``end`` ones."""
    distance, before = dijkstra(graph, directed=False, indices=end, return_predecessors=True)
    row, column = np.unravel_index(np.argmin(distance[:, start]), (len(end), len(start)))
    path = [int(start[column])]
    while path[-1] != end[row] and before[row, path[-1]] >= 0:
        path.append(int(before[row, path[-1]]))
    return path


def _graph(points: F64, faces: I64, loops: list[I64]) -> sp.csr_matrix:
    """Return what a seam costs along each edge: its length, more beside the midline; borders are none."""
    edges, _ = unique_edges(faces)
    length = np.linalg.norm(points[edges[:, 0]] - points[edges[:, 1]], axis=1)
    cost = length * (1 + np.abs(points[edges, 0] - np.median(points[:, 0])).mean(axis=1) / BESIDE_M) ** 2
    on_border = np.zeros(len(points), bool)
    on_border[[int(vertex) for loop in loops for vertex in loop]] = True
    # Along a border a seam would cut nothing off.
    kept = ~on_border[edges].all(axis=1)
    return sp.coo_matrix((cost[kept], edges[kept].T), shape=(len(points), len(points))).tocsr()


def _opened(count: int, faces: I64, path: list[int], doubled: list[int]) -> tuple[I64, I64]:
    """Double some vertices of a path over a surface: the triangles on one side of it get the new ones."""
    beside = {
        (a, b): f
        for f, face in enumerate(faces.tolist())
        for a, b in ((face[0], face[1]), (face[1], face[2]), (face[2], face[0]))
    }
    corners, vertices = faces.copy(), list(range(count))
    cut = {step for pair in pairwise(path) for step in (pair, pair[::-1])}
    for k in doubled:
        vertex = path[k]
        # Turn about the vertex, from one side of the seam until the seam or the border is met again.
        face = beside.get((path[k + 1], vertex) if k + 1 < len(path) else (vertex, path[k - 1]))
        backwards = k + 1 == len(path)
        vertices.append(vertex)
        while face is not None:
            where = faces[face].tolist().index(vertex)
            corners[face, where] = len(vertices) - 1
            onwards = int(faces[face, (where + (2 if backwards else 1)) % 3])
            if (vertex, onwards) in cut:
                break
            face = beside.get((vertex, onwards) if backwards else (onwards, vertex))
    return np.array(vertices, np.int64), corners


def _lowest_front(points: F64, loops: list[I64]) -> int:
    """Return the vertex of the outer border that lies under the chin."""
    border = max(loops, key=lambda loop: float(np.linalg.norm(np.ptp(points[loop], axis=0))))
    return int(border[np.argmax(points[border, 2] - 10 * np.abs(points[border, 0]))])


def _upright(points: F64, flat: F64, chosen: Bools) -> F64:
    """Turn a chart so that what is ``chosen`` (n,) of it is upright as it is seen from the front."""
    seen, laid = points[chosen, :2], flat[chosen]
    a, b = laid - laid.mean(axis=0), seen - seen.mean(axis=0)
    angle = np.arctan2((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum(), (a * b).sum())
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.asarray((flat - laid.mean(axis=0)) @ turn.T)


def _cut_open(vertices: F64, faces: I64) -> tuple[I64, I64]:
    """Return the vertices (n,) of triangles, and the triangles' corners (f, 3) among these, with a seam at the back."""
    used, local = np.unique(faces, return_inverse=True)
    opened, corners = _seamed(vertices[used], local.reshape(-1, 3))
    return used[opened], corners


def _discs(vertices: F64, faces: I64, members: I64) -> list[Chart]:
    """Lay pieces flat that need no care: what is no disc is halved across its longest axis until it is."""
    charts: list[Chart] = []
    piece = components(faces[members], len(vertices))[faces[members, 0]]
    for label in np.unique(piece):
        own = members[piece == label]
        used, local = _cut_open(vertices, faces[own])
        loops = border_loops(local)
        if loops and is_disc(local, loops):
            flat = flatten(vertices[used], local, rounds=OTHER_ROUNDS)
            charts.append((own, local, _upright(vertices[used], flat, np.ones(len(used), bool))))
            continue
        middle = vertices[faces[own]].mean(axis=1)
        axis = np.linalg.svd(middle - middle.mean(axis=0), full_matrices=False)[2][0]
        along = (middle - middle.mean(axis=0)) @ axis
        half = along < np.median(along)
        if len(own) == 1 or half.all() or not half.any():
            # Nothing left to halve: triangles by themselves.
            half = np.arange(len(own)) < len(own) // 2
        charts += _discs(vertices, faces, own[half]) + _discs(vertices, faces, own[~half])
    return charts


def _packed(count: int, charts: list[Chart], main: Bools) -> Unwrap:
    """Place charts in the unit square: the first on top, the others on shelves below it."""
    shrunk = [flat * (1.0 if k == 0 and main.any() else OTHER_SCALE) for k, (_, _, flat) in enumerate(charts)]
    boxes = [np.ptp(flat, axis=0) for flat in shrunk]
    order = sorted(range(1, len(charts)), key=lambda k: (-boxes[k][1], k))
    width, gap = float(boxes[0][0]), MARGIN * float(boxes[0].max())
    places: dict[int, tuple[float, float]] = {0: (0.0, 0.0)}
    left, top, shelf = 0.0, -gap, 0.0
    for k in order:
        if left and left + boxes[k][0] > width:
            left, top, shelf = 0.0, top - shelf - gap, 0.0
        places[k] = (left, top - float(boxes[k][1]))
        left, shelf = left + float(boxes[k][0]) + gap, max(shelf, float(boxes[k][1]))
    corner = np.array([0.0, top - shelf])
    size = max(width, float(boxes[0][1]) - corner[1])
    scale = (1 - 2 * MARGIN) / size
    faces, uv = np.zeros((count, 3), np.int32), []
    offset = 0
    for k, (members, corners, _) in enumerate(charts):
        placed = shrunk[k] - shrunk[k].min(axis=0) + np.array(places[k]) - corner
        # In the middle of the square's width.
        placed[:, 0] += (size - width) / 2
        uv.append(placed * scale + MARGIN)
        faces[members] = corners + offset
        offset += len(placed)
    # To a thousandth of a texel: what is below is rounding.
    return Unwrap(np.clip(np.round(np.concatenate(uv), 7), 0.0, 1.0), faces, main)
