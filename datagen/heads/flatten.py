"""A disc of triangles laid flat without folds, stretched as little as possible and evenly."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from datagen.common.arrays import F64, I64

ROUNDS = 40
# The energy's relative gain below which a round is the last.
LEAST_GAIN = 2e-4
# Of the step at which the first triangle would have no area.
SAFE_STEP = 0.8
SHORTEST_STEP = 1e-6
# What fills the holes weighs this much of all, and is laid anew where it keeps a step shorter than this.
FILLING, BLOCKED = 1e-4, 0.1
# Keeps the system regular: a shift of all is free.
PROXIMAL = 1e-6


def flatten(points: F64, faces: I64, weights: F64 | None = None, *, first: int = 0, rounds: int = ROUNDS) -> F64:
    """Return plane coordinates (n, 2) of a disc with holes, in the units of ``points``; no triangle is turned over.

    W. Tutte's embedding ("How to draw a graph", 1963) of the disc, its holes filled, in a circle: it never folds.
    From there scalable locally injective mappings (M. Rabinovich et al., 2017) lower the symmetric Dirichlet energy,
    which stretch and squeeze, in one direction or in area, raise alike, and which is infinite at a fold; borders are
    free, but none may cross itself: holes are filled with triangles that must not fold either (Z. Jiang et al.,
    "Simplicial complex augmentation framework for bijective maps", 2017). So nothing ever lies on anything else.

    Parameters
    ----------
    points : (n, 3) float64
    faces : (f, 3) int64
        Connected, every vertex used.
    weights : (f,) float64, optional
        How much each triangle's distortion counts, beside its area.
    first : int
        Vertex that comes to lie lowest on the circle to begin with, if it is on the outer border (the longest).

    Raises
    ------
    ValueError
        If the triangles are no disc with holes.
    """
    loops = border_loops(faces)
    if not is_disc(faces, loops):
        raise ValueError("these triangles are no disc with holes")
    lengths = [float(np.linalg.norm(points[loop] - points[np.roll(loop, -1)], axis=1).sum()) for loop in loops]
    outer = int(np.argmax(lengths))
    uv = _tutte(points, faces, loops, outer, first)
    weights = np.ones(len(faces)) if weights is None else weights
    return _relaxed(points, faces, uv, loops, outer, weights, rounds)


def is_disc(faces: I64, loops: list[I64]) -> bool:
    """Whether connected triangles are a sphere with at least one hole."""
    sides = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    edges = len(np.unique(sides, axis=0))
    used = len(np.unique(faces))
    simple = sum(len(loop) for loop in loops) == len(np.unique(np.concatenate(loops))) if loops else False
    return simple and used - edges + len(faces) + len(loops) == 2


def border_loops(faces: I64) -> list[I64]:
    """Return the border's loops, each the vertices in the order in which the triangles' sides run."""
    sides = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    given = {(int(a), int(b)) for a, b in sides}
    following: dict[int, list[int]] = {}
    for a, b in sorted((a, b) for a, b in given if (b, a) not in given):
        following.setdefault(a, []).append(b)
    loops = []
    while following:
        start = min(following)
        loop, at = [], start
        while True:
            loop.append(at)
            onwards = following[at]
            nearest = onwards.pop()
            if not onwards:
                del following[at]
            at = nearest
            if at == start or at not in following:
                break
        loops.append(np.array(loop, np.int64))
    return loops


def _tutte(points: F64, faces: I64, loops: list[I64], outer: int, first: int) -> F64:
    """Place the outer border on a circle and every other vertex in the middle of its neighbours."""
    n = len(points)
    fans: list[I64] = []
    for k, loop in enumerate(loops):
        if k != outer:
            # The hole's own side of each border edge runs the other way.
            hub = np.full(len(loop), n + len(fans))
            fans.append(np.stack([np.roll(loop, -1), loop, hub], axis=1))
    filled = np.concatenate([faces, *fans])
    total = n + len(fans)
    i, j = filled.ravel(), np.roll(filled, -1, axis=1).ravel()
    graph = sp.coo_matrix((np.ones(len(i)), (i, j)), shape=(total, total)).tocsr()
    graph = (graph + graph.T).tocsr()
    graph.data[:] = 1.0
    laplacian = (sp.diags(np.asarray(graph.sum(axis=1)).ravel()) - graph).tocsr()
    loop = loops[outer]
    at = np.flatnonzero(loop == first)
    loop = np.roll(loop, -int(at[0]) if len(at) else 0)
    step = np.linalg.norm(points[np.roll(loop, -1)] - points[loop], axis=1)
    angle = 2 * np.pi * np.concatenate([[0.0], np.cumsum(step)[:-1]]) / step.sum() - np.pi / 2
    uv = np.zeros((total, 2))
    uv[loop] = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    inner = np.setdiff1d(np.arange(total), loop)
    right = -laplacian[inner][:, loop] @ uv[loop]
    uv[inner] = splu(laplacian[inner][:, inner].tocsc()).solve(np.ascontiguousarray(right))
    # As large as the surface.
    size = np.sqrt(_areas(points, faces).sum() / np.pi)
    return uv[:n] * size


def _areas(points: F64, faces: I64) -> F64:
    a, b, c = (points[faces[:, k]] for k in range(3))
    return np.asarray(np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2)


def _relaxed(points: F64, faces: I64, uv: F64, loops: list[I64], outer: int, weights: F64, rounds: int) -> F64:
    slopes, area = _slopes(points, faces)
    area = area * weights
    area /= area.sum()
    energy = _energy(slopes, area, uv)
    holes = [loop for k, loop in enumerate(loops) if k != outer]
    filling = _filled(uv, holes)
    for _ in range(rounds):
        all_faces = np.concatenate([faces, filling])
        # As it lies now is right for what fills holes: it only keeps their edges apart.
        level = np.column_stack([uv, np.zeros(len(uv))])
        both, weight = _joined(slopes, _slopes(level, filling)[0]), np.full(len(filling), FILLING / (len(filling) or 1))
        weight = np.concatenate([area, weight])
        before = _energy(both, weight, uv)
        step = _step(both, weight, uv)
        length = min(1.0, SAFE_STEP * _first_fold(all_faces, uv, step))
        while length > SHORTEST_STEP:
            moved = uv + length * step
            if _energy(both, weight, moved) < before and not crosses_itself(moved[loops[outer]]):
                break
            length /= 2
        else:
            return uv
        gained = energy - _energy(slopes, area, moved)
        uv, energy = moved, energy - gained
        if length < BLOCKED:
            filling = _filled(uv, holes)
        elif gained < LEAST_GAIN * energy:
            break
    return uv


def _joined(first: sp.csr_matrix, second: sp.csr_matrix) -> sp.csr_matrix:
    """Return the slopes of two sets of triangles as those of one."""
    a, b = first.shape[0] // 2, second.shape[0] // 2
    return sp.vstack([first[:a], second[:b], first[a:], second[b:]]).tocsr()


def _filled(uv: F64, holes: list[I64]) -> I64:
    """Return triangles (k, 3) that fill holes of a flat surface."""
    return np.concatenate([np.zeros((0, 3), np.int64), *(loop[::-1][_ears(uv[loop[::-1]])] for loop in holes)])


def _ears(polygon: F64) -> I64:
    """Triangulate a simple polygon (n, 2), counter-clockwise: the roundest of its ears is cut off, again and again."""
    left = np.arange(len(polygon))
    triangles: list[tuple[int, int, int]] = []
    while len(left) > 3:
        a, b, c = np.roll(left, 1), left, np.roll(left, -1)
        p, q, r = polygon[a], polygon[b], polygon[c]
        area = _side(p, q, r)
        longest = np.max([((x - y) ** 2).sum(axis=1) for x, y in ((p, q), (q, r), (r, p))], axis=0)
        inside = np.ones((len(left), len(left)), bool)
        for x, y in ((p, q), (q, r), (r, p)):
            inside &= _side(x[:, None], y[:, None], polygon[left][None]) >= 0
        for corner in (a, b, c):
            inside &= left[None] != corner[:, None]
        roundness = np.where((area > 0) & ~inside.any(axis=1), area / np.maximum(longest, 1e-30), -1.0)
        best = int(np.argmax(roundness))
        if roundness[best] <= 0:
            # Rounding leaves no ear of a polygon without width: what is left stays open.
            return np.array(triangles, np.int64).reshape(-1, 3)
        triangles.append((int(a[best]), int(b[best]), int(c[best])))
        left = np.delete(left, best)
    if _side(*polygon[left]) > 0:
        triangles.append((int(left[0]), int(left[1]), int(left[2])))
    return np.array(triangles, np.int64).reshape(-1, 3)


def _side(p: F64, q: F64, r: F64) -> F64:
    """Return twice the signed area of triangles, positive counter-clockwise; points are in the last axis."""
    return np.asarray(
        (q[..., 0] - p[..., 0]) * (r[..., 1] - p[..., 1]) - (q[..., 1] - p[..., 1]) * (r[..., 0] - p[..., 0])
    )


def _slopes(points: F64, faces: I64) -> tuple[sp.csr_matrix, F64]:
    """Return the operator (2 f, n) from values at vertices to their slopes along two axes of each triangle, and areas.

    First come all slopes along the first axis.
    """
    a, b, c = (points[faces[:, k]] for k in range(3))
    first = b - a
    length = np.maximum(np.linalg.norm(first, axis=1), 1e-9)
    x = first / length[:, None]
    normal = np.cross(first, c - a)
    double = np.maximum(np.linalg.norm(normal, axis=1), 1e-14)
    y = np.cross(normal / double[:, None], x)
    # Corners in the triangle's own plane.
    bx, cx, cy = length, np.einsum("fd,fd->f", c - a, x), np.einsum("fd,fd->f", c - a, y)
    along_x = np.stack([-cy, cy, np.zeros_like(cy)], axis=1) / double[:, None]
    along_y = np.stack([cx - bx, -cx, bx], axis=1) / double[:, None]
    rows = np.repeat(np.arange(2 * len(faces)), 3)
    columns = np.concatenate([faces.ravel(), faces.ravel()])
    values = np.concatenate([along_x.ravel(), along_y.ravel()])
    return sp.csr_matrix((values, (rows, columns)), shape=(2 * len(faces), len(points))), double / 2


def _jacobians(slopes: sp.csr_matrix, uv: F64) -> F64:
    """Return the map of each triangle's plane to the page, (f, 2, 2): rows are u and v."""
    return (slopes @ uv).reshape(2, -1, 2).transpose(1, 2, 0)


def _energy(slopes: sp.csr_matrix, area: F64, uv: F64) -> float:
    J = _jacobians(slopes, uv)
    det = J[:, 0, 0] * J[:, 1, 1] - J[:, 0, 1] * J[:, 1, 0]
    if det.min() <= 0:
        return float("inf")
    squared = (J**2).sum(axis=(1, 2))
    # |J|² + |J⁻¹|², where |J⁻¹|² is |J|² / det² in the plane.
    return float(area @ (squared * (1 + 1 / det**2)))


def _step(slopes: sp.csr_matrix, area: F64, uv: F64) -> F64:
    """Return the step (n, 2) to the least of the energy's quadratic proxy ``Σ area ‖W (J − R)‖²``."""
    n = len(uv)
    J = _jacobians(slopes, uv)
    # The singular values of a 2 x 2 matrix, their left axes and the nearest rotation.
    even, odd = (J[:, 0, 0] + J[:, 1, 1]) / 2, (J[:, 0, 0] - J[:, 1, 1]) / 2
    sum_, turn = (J[:, 1, 0] + J[:, 0, 1]) / 2, (J[:, 1, 0] - J[:, 0, 1]) / 2
    mean, half = np.hypot(even, turn), np.hypot(odd, sum_)
    s = np.stack([mean + half, np.maximum(mean - half, 1e-12)], axis=1)
    angle = (np.arctan2(turn, even) + np.arctan2(sum_, odd)) / 2
    cos, sin = np.cos(angle), np.sin(angle)
    R = np.stack([np.stack([even, -turn], axis=1), np.stack([turn, even], axis=1)], axis=1) / mean[:, None, None]
    # Half of d energy / d s, over its distance from 1: of s² + s⁻² that is (s + 1)(s² + 1) / s³.
    strong, weak = ((s + 1) * (s**2 + 1) / s**3).T
    W2 = np.stack([strong * cos**2 + weak * sin**2, (strong - weak) * cos * sin, strong * sin**2 + weak * cos**2])
    uu, uw, ww = ((slopes.T @ sp.diags(np.tile(area * w, 2)) @ slopes) for w in W2)
    H = sp.bmat([[uu, uw], [uw, ww]]) + PROXIMAL * sp.identity(2 * n)
    M = np.stack([np.stack([W2[0], W2[1]], axis=1), np.stack([W2[1], W2[2]], axis=1)], axis=1)
    wanted = area[:, None, None] * (M @ R)
    right = [slopes.T @ wanted[:, k].T.ravel() + PROXIMAL * uv[:, k] for k in range(2)]
    solver = splu(H.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    return np.asarray(solver.solve(np.concatenate(right)).reshape(2, n).T - uv)


def _first_fold(faces: I64, uv: F64, step: F64) -> float:
    """Return how far the step may be followed until the first triangle has no area."""
    p, d = uv[faces], step[faces]
    e, f = p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]
    de, df = d[:, 1] - d[:, 0], d[:, 2] - d[:, 0]

    def cross(a: F64, b: F64) -> F64:
        return np.asarray(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])

    c, b, a = cross(e, f), cross(de, f) + cross(e, df), cross(de, df)
    root = b**2 - 4 * a * c
    with np.errstate(divide="ignore", invalid="ignore"):
        q = -0.5 * (b + np.where(b < 0, -1.0, 1.0) * np.sqrt(np.maximum(root, 0)))
        both = np.stack([q / a, c / q])
    both[:, root < 0] = np.inf
    both[~np.isfinite(both) | (both <= 0)] = np.inf
    return float(both.min())


def crosses_itself(border: F64) -> bool:
    """Whether the closed polygon (b, 2) has two sides that cross."""
    a, b = border, np.roll(border, -1, axis=0)
    n = len(a)

    p, q = a[:, None], b[:, None]
    c, d = a[None], b[None]
    apart = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    crossing = (_side(p, q, c) * _side(p, q, d) < 0) & (_side(c, d, p) * _side(c, d, q) < 0)
    return bool((crossing & (apart > 1) & (apart < n - 1)).any())
