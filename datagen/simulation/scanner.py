"""What a multi-view scanner makes of a surface: only what cameras saw, holes, stray pieces, noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import F64, Bools
from datagen.common.compiled import compiled
from datagen.geometry.camera import Camera
from datagen.geometry.mesh import Mesh, compact
from datagen.render.contract import Renderer
from datagen.simulation.person import WaveField

# A point counts as seen if it is no further behind the depth map than this, plus one pixel's slope.
DEPTH_TOLERANCE_M = 0.8e-3
GRAZING_COSINE = 0.2
HOLE_RADII_M = (1.5e-3, 5e-3)
SMOOTH_SHARE = 0.8  # of the noise's standard deviation; the rest is white
SMOOTH_NOISE_M = (8e-3, 30e-3)


def views_of_points(
    points: F64, normals: F64, faces: npt.NDArray[np.integer], cameras: tuple[Camera, ...], rasteriser: Renderer
) -> npt.NDArray[np.int64]:
    """Count the cameras that see each vertex of a closed surface from the front, (N,) int64."""
    count = np.zeros(len(points), np.int64)
    for camera, fragments in zip(cameras, rasteriser.rasterise(points, faces, cameras), strict=True):
        _count_view(
            np.ascontiguousarray(points),
            np.ascontiguousarray(normals),
            camera.world_to_camera,
            camera.K,
            camera.centre,
            fragments.depth,
            count,
        )
    return count


@compiled
def _count_view(points, normals, E, K, centre, depth, count):  # type: ignore[no-untyped-def] # numba
    height, width = depth.shape
    for i in range(len(points)):
        x, y, z = points[i]
        cx = E[0, 0] * x + E[0, 1] * y + E[0, 2] * z + E[0, 3]
        cy = E[1, 0] * x + E[1, 1] * y + E[1, 2] * z + E[1, 3]
        cz = E[2, 0] * x + E[2, 1] * y + E[2, 2] * z + E[2, 3]
        if cz <= 0:
            continue
        column = int(np.floor((K[0, 0] * cx + K[0, 1] * cy) / cz + K[0, 2]))
        row = int(np.floor(K[1, 1] * cy / cz + K[1, 2]))
        if column < 0 or row < 0 or column >= width or row >= height or depth[row, column] <= 0:
            continue
        rx, ry, rz = centre[0] - x, centre[1] - y, centre[2] - z
        length = np.sqrt(rx * rx + ry * ry + rz * rz)
        cosine = (rx * normals[i, 0] + ry * normals[i, 1] + rz * normals[i, 2]) / length
        if cosine <= GRAZING_COSINE:
            continue
        slope = np.sqrt(max(1 - cosine * cosine, 0.0)) / cosine
        if cz < depth[row, column] + DEPTH_TOLERANCE_M + cz / K[0, 0] * slope:
            count[i] += 1


def punch_holes(points: F64, active: Bools, rng: np.random.Generator, rate: float = 5.0) -> Bools:
    """Return ``active`` (N,) bool less a Poisson number of disks 3 to 10 mm across."""
    candidates = np.flatnonzero(active)
    kept = active.copy()
    if len(candidates):
        at = points[candidates]
        for _ in range(int(rng.poisson(rate))):
            away = at - at[int(rng.integers(len(candidates)))]
            radius = float(rng.uniform(*HOLE_RADII_M))
            kept[candidates[np.einsum("nd,nd->n", away, away) < radius**2]] = False
    return kept


def noise_along_normal(points: F64, std_m: float, rng: np.random.Generator) -> F64:
    """Return scanner noise of a standard deviation, (N,) float64 metres: mostly smooth, partly white."""
    smooth = WaveField.draw(SMOOTH_NOISE_M, rng)(points)[:, 0]
    white = rng.normal(size=len(points))
    return std_m * (SMOOTH_SHARE * smooth + np.sqrt(1 - SMOOTH_SHARE**2) * white)


@dataclass(frozen=True)
class _Piece:
    vertices: F64
    faces: npt.NDArray[np.int64]


def stray_pieces(points: F64, normals: F64, anchors: npt.NDArray[np.integer], rng: np.random.Generator) -> Mesh:
    """Return a few floating scraps of surface near ``anchors`` (hair, neck), as matching errors leave them.

    Parameters
    ----------
    points, normals : (N, 3) float64
        The scanned surface.
    anchors : (A,) int
        Vertices near which pieces may float; with none there are no pieces.
    rng : numpy Generator
    """
    pieces = [_scrap(points, normals, anchors, rng) for _ in range(int(rng.integers(2, 6)))] if len(anchors) else []
    if not pieces:
        return Mesh.of(np.zeros((0, 3)))
    offsets = np.cumsum([0] + [len(piece.vertices) for piece in pieces[:-1]])
    return Mesh.of(
        np.concatenate([piece.vertices for piece in pieces]),
        np.concatenate([piece.faces + offset for piece, offset in zip(pieces, offsets, strict=True)]),
    )


def _scrap(points: F64, normals: F64, anchors: npt.NDArray[np.integer], rng: np.random.Generator) -> _Piece:
    """Make one ragged bumpy sheet 8 to 25 mm across, 4 to 25 mm off the surface."""
    anchor = int(rng.choice(anchors))
    n = int(rng.integers(4, 11))
    spacing = float(rng.uniform(1.8e-3, 2.6e-3))
    u, v = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    flat = np.stack([u, v, np.zeros_like(u)], axis=-1).reshape(-1, 3) - (n - 1) / 2
    flat = (flat + rng.normal(0, 0.2, flat.shape)) * spacing
    flat[:, 2] += 2e-3 * WaveField.draw((8e-3, 25e-3), rng)(flat)[:, 0]
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    # Mostly parallel to the skin, sometimes at any angle.
    if rng.uniform() < 0.6:
        axes = np.linalg.qr(np.column_stack([normals[anchor], axes[:, :2]]))[0][:, [1, 2, 0]]
    centre = points[anchor] + float(rng.uniform(4e-3, 25e-3)) * normals[anchor]
    corner = (np.arange(n - 1)[:, None] * n + np.arange(n - 1)).ravel()
    quads = np.stack([corner, corner + n, corner + n + 1, corner + 1], axis=1)
    # A ragged outline: cells outside a wobbly disk are left out.
    middle = flat[quads].mean(axis=1)
    wobble = 1 + 0.25 * np.cos(3 * np.arctan2(middle[:, 1], middle[:, 0]) + float(rng.uniform(0, 6.28)))
    kept = np.linalg.norm(middle[:, :2], axis=1) <= 0.55 * n * spacing * wobble
    quads = quads[kept] if kept.any() else quads
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    mesh, _ = compact(flat @ axes.T + centre, faces)
    return _Piece(mesh.vertices, mesh.faces.astype(np.int64))


def largest_pieces(faces: npt.NDArray[np.integer], n_vertices: int, minimum: int) -> Bools:
    """Return (F,) bool, true for faces in connected pieces of at least ``minimum`` vertices."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    f = np.asarray(faces)
    rows, columns = f[:, [0, 1]].ravel(), f[:, [1, 2]].ravel()
    graph = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(n_vertices, n_vertices))
    _, label = connected_components(graph, directed=False)
    size = np.bincount(label, minlength=int(label.max()) + 1)
    return np.asarray(size[label[f[:, 0]]] >= minimum)
