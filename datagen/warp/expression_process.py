"""What a person's face does beyond the expressions of a head model: smooth, and larger where faces move."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import scipy.linalg
from scipy.spatial.distance import cdist

from datagen.common.arrays import F64, I64
from datagen.heads.base import HeadModel
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.warp.shape_model import SMALLEST_EIGENVALUE, Component, farthest_points, linearise
from datagen.warp.template import WarpTemplate

# Lips and lids move within a centimetre, cheeks over several: on people of another model (whose expressions are scans)
# one length of 3.5 cm left 0.63 mm of sliding, these three 0.52 mm.
LENGTHS = (Component(0.05, 0.7), Component(0.025, 0.7), Component(0.012, 0.7))
# Standard deviation of each coordinate where a model's expressions hardly move skin, and where they move it most. What
# the expressions of scanned people lack in another model's: 0.4 at the ears, 0.6 at the forehead, 0.9 at the cheeks,
# 1.8 mm at the upper lip.
STILL_M, MOVING_M = 0.3e-3, 2.0e-3
# Of a head model without expressions.
UNKNOWN_M = 1.0e-3
FULL_MOTION_PERCENTILE = 98
FACE_NODES, OTHER_NODES = 600, 150
RANK = 208


@lru_cache(maxsize=4)
def expression_modes(head: HeadModel, template: WarpTemplate) -> F64:
    """Return the modes (V, K) float64, metres, of motion beyond a model's expressions; coefficients are N(0, 1).

    A Gaussian process whose amplitude varies over the face: ``a(x) a(y) k(x, y)`` with ``a`` from
    :func:`motion_amplitude_m` and ``k`` a sum of squared exponentials, by Nyström's method.

    Parameters
    ----------
    template : WarpTemplate
        Of the same head.
    """
    rest = template.canonical_m[: len(template.head.vertices)]
    amplitude = motion_amplitude_m(head, template)
    nodes = _nodes(template, rest)
    at_nodes = _covariance(rest[nodes], amplitude[nodes], rest[nodes], amplitude[nodes])
    eigenvalues, vectors = scipy.linalg.eigh(at_nodes, subset_by_index=[max(0, len(nodes) - RANK), len(nodes) - 1])
    order = np.argsort(eigenvalues)[::-1]
    order = order[eigenvalues[order] > SMALLEST_EIGENVALUE * eigenvalues[order[0]]]
    kept = vectors[:, order]
    # The sign of an eigenvector is arbitrary: fix it, so that every machine agrees on the coefficients.
    kept = kept * np.where(kept[np.abs(kept).argmax(axis=0), np.arange(len(order))] < 0, -1.0, 1.0)
    loadings = kept / np.sqrt(eigenvalues[order])
    return np.asarray(_covariance(rest, amplitude, rest[nodes], amplitude[nodes]) @ loadings)


def motion_amplitude_m(head: HeadModel, template: WarpTemplate) -> F64:
    """Return the standard deviation (V,) float64 metres of each coordinate's motion beyond a model's expressions.

    It grows with the root of how far the model's own expressions move a vertex.
    """
    model = linearise(head)
    expressions = model.basis[model.n_identity :]
    if not len(expressions):
        return np.full(len(model.mean), UNKNOWN_M)
    moved = np.sqrt((expressions**2).sum(axis=(0, 2)))
    most = max(float(np.percentile(moved[template.coarse_skin], FULL_MOTION_PERCENTILE)), 1e-9)
    share = np.sqrt(np.clip(moved / most, 0, 1))
    return np.asarray(STILL_M + (MOVING_M - STILL_M) * share)


def _nodes(template: WarpTemplate, rest: F64) -> I64:
    """Return template vertices (m,) int64 spread evenly, more densely over the face."""
    skin = template.coarse_skin
    face = mask_of(template.head.regions, FACE_REGIONS)[skin]
    parts = ((skin[face], FACE_NODES), (skin[~face], OTHER_NODES))
    return np.concatenate([where[farthest_points(rest[where], count)] for where, count in parts if len(where)])


def _covariance(a: F64, amplitude_a: F64, b: F64, amplitude_b: F64) -> F64:
    squared = cdist(a, b, "sqeuclidean")
    total = np.zeros_like(squared)
    for part in LENGTHS:
        total += part.amplitude_m**2 * np.exp(-0.5 * squared / part.length_m**2)
    return np.asarray(amplitude_a[:, None] * total * amplitude_b)
