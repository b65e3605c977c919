"""Where one sampled surface may lie on another: similarities proposed by matched features, in any position."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from datagen.common.arrays import F64
from datagen.common.open3d_library import load_open3d
from datagen.geometry.mesh import face_cross, normalised
from datagen.warp.similarity import Similarity, fit_similarity

SEED = 0
VOXEL_M = 0.006
FEATURE_RADIUS_M = 0.03
FEATURE_NEIGHBOURS = 100
# Neighbouring voxels within this radius that a surface has and a cloud of stray points has not.
DENSE_RADIUS_M = 0.015
DENSE_NEIGHBOURS = 10
MATCHES = 3
TRIPLES = 60_000
# Corners of a triple closer than this say little about a rotation.
MIN_SPREAD_M = 0.025
SCALE_RANGE = (0.75, 1.35)
VOTE_SIGMA_M = 0.01
# Two hypotheses nearer to each other than this end in the same place.
DISTINCT_COSINE = 0.966  # 15 degrees
DISTINCT_M = 0.02
CANDIDATES = 16


@dataclass(frozen=True, eq=False)
class OrientedPoints:
    """An evenly sampled surface: positions (N, 3) metres and unit normals (N, 3)."""

    positions: F64
    normals: F64

    @cached_property
    def features(self) -> F64:
        """Fast point feature histograms, (N, 33) float64 (R. Rusu et al., ICRA 2009)."""
        o3d = load_open3d()
        cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(self.positions))
        cloud.normals = o3d.utility.Vector3dVector(self.normals)
        search = o3d.geometry.KDTreeSearchParamHybrid(FEATURE_RADIUS_M, FEATURE_NEIGHBOURS)
        return np.asarray(o3d.pipelines.registration.compute_fpfh_feature(cloud, search).data).T.copy()


def sampled(vertices: F64, normals: F64, faces: npt.NDArray[np.integer]) -> tuple[F64, F64]:
    """Return points and normals, dense enough for every voxel: of the triangles, or the points themselves."""
    if not len(faces):
        return vertices, normals
    area = np.linalg.norm(face_cross(vertices, faces), axis=1) / 2
    total = float(area.sum())
    count = int(np.clip(6 * total / VOXEL_M**2, 1000, 300_000))
    rng = np.random.default_rng(SEED)
    chosen = np.searchsorted(np.cumsum(area), (np.arange(count) + 0.5) / count * total)
    corners = faces[np.minimum(chosen, len(faces) - 1)]
    weights = rng.dirichlet(np.ones(3), count)
    positions = np.einsum("nc,ncd->nd", weights, vertices[corners])
    return positions, normalised(np.einsum("nc,ncd->nd", weights, normals[corners]))


def voxels(positions: F64, normals: F64) -> OrientedPoints:
    """Return the mean point and normal of each occupied voxel."""
    cell = np.floor((positions - positions.min(axis=0)) / VOXEL_M).astype(np.int64)
    _, where, count = np.unique(cell, axis=0, return_inverse=True, return_counts=True)
    where = where.ravel()

    def summed(values: F64) -> F64:
        return np.stack([np.bincount(where, values[:, axis]) for axis in range(3)], axis=1)

    return OrientedPoints(summed(positions) / count[:, None], normalised(summed(normals)))


def dense_part(points: OrientedPoints) -> OrientedPoints:
    """Leave out voxels without the neighbours that a surface has, such as those of stray points."""
    tree = cKDTree(points.positions)
    neighbours = tree.query_ball_point(points.positions, DENSE_RADIUS_M, return_length=True)
    kept = neighbours >= DENSE_NEIGHBOURS
    return OrientedPoints(points.positions[kept], points.normals[kept])


def proposals(template: OrientedPoints, matched: npt.NDArray[np.int64], scan: OrientedPoints) -> list[Similarity]:
    """Return likely similarities from template to scan, best first, each unlike the others.

    RANSAC over triples of feature matches whose sides agree in length and whose normals agree once turned; the seed
    is fixed.

    Parameters
    ----------
    matched : (m,) int64
        Its points whose features are looked for.
    """
    rng = np.random.default_rng(SEED)
    _, nearest = cKDTree(scan.features).query(template.features[matched], MATCHES)
    source, goal = np.repeat(matched, MATCHES), nearest.ravel()
    x, y = template.positions[source], scan.positions[goal]
    nx, ny = template.normals[source], scan.normals[goal]

    triples = rng.integers(len(source), size=(TRIPLES, 3))
    sides = np.linalg.norm(x[triples] - x[np.roll(triples, 1, axis=1)], axis=2)
    ratios = np.linalg.norm(y[triples] - y[np.roll(triples, 1, axis=1)], axis=2) / np.maximum(sides, 1e-9)
    mean = ratios.mean(axis=1)
    low, high = SCALE_RANGE
    usable = (sides.min(axis=1) > MIN_SPREAD_M) & (mean > low) & (mean < high) & (np.ptp(ratios, axis=1) < 0.2 * mean)
    fits = []
    for triple in triples[usable]:
        fit = fit_similarity(x[triple], y[triple])
        turned = np.einsum("nd,nd->n", nx[triple] @ fit.rotation.T, ny[triple])
        if low < fit.scale < high and turned.min() > 0.6:
            fits.append(fit)

    votes = np.array([_votes(fit, x, y) for fit in fits])
    distinct: list[Similarity] = []
    centre = template.positions[matched].mean(axis=0)
    for k in np.argsort(-votes, kind="stable"):
        if all(_differ(fits[k], other, centre) for other in distinct):
            distinct.append(fits[k])
        if len(distinct) == CANDIDATES:
            break
    return distinct


def _votes(fit: Similarity, x: F64, y: F64) -> float:
    squared = ((fit.apply(x) - y) ** 2).sum(axis=1)
    return float(np.exp(-squared / (2 * VOTE_SIGMA_M**2)).sum())


def _differ(a: Similarity, b: Similarity, centre: F64) -> bool:
    cosine = (np.trace(a.rotation @ b.rotation.T) - 1) / 2
    gap = np.linalg.norm(a.apply(centre[None]) - b.apply(centre[None]))
    return bool(cosine < DISTINCT_COSINE or gap > DISTINCT_M)
