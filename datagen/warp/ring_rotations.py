"""The rotation of every vertex's one-ring, compiled: LAPACK's call for one 3 × 3 matrix costs more than solving it."""

from __future__ import annotations

import numpy as np

from datagen.common.compiled import compiled

# Columns this orthogonal (cosine) are; sweeps converge quadratically, so that more are never needed.
ORTHOGONAL = 1e-15
MOST_SWEEPS = 12
TINY = 1e-300


@compiled
def _orthogonalise(a, v):  # type: ignore[no-untyped-def]
    """Turn ``a`` (3, 3) into U Σ and ``v`` into V, in place: one-sided Jacobi after Hestenes, 1958."""
    for _ in range(MOST_SWEEPS):
        turned = False
        for p in range(2):
            for q in range(p + 1, 3):
                alpha = a[0, p] * a[0, p] + a[1, p] * a[1, p] + a[2, p] * a[2, p]
                beta = a[0, q] * a[0, q] + a[1, q] * a[1, q] + a[2, q] * a[2, q]
                gamma = a[0, p] * a[0, q] + a[1, p] * a[1, q] + a[2, p] * a[2, q]
                if gamma == 0 or abs(gamma) <= ORTHOGONAL * np.sqrt(alpha * beta):
                    continue
                turned = True
                zeta = (beta - alpha) / (2 * gamma)
                t = (1.0 if zeta >= 0 else -1.0) / (abs(zeta) + np.sqrt(1 + zeta * zeta))
                c = 1 / np.sqrt(1 + t * t)
                s = c * t
                for k in range(3):
                    a[k, p], a[k, q] = c * a[k, p] - s * a[k, q], s * a[k, p] + c * a[k, q]
                    v[k, p], v[k, q] = c * v[k, p] - s * v[k, q], s * v[k, p] + c * v[k, q]
        if not turned:
            break


@compiled
def _rotation(a, v, turn):  # type: ignore[no-untyped-def]
    """Write V diag(1, 1, ±1) Uᵀ of ``a`` = U Σ Vᵀ, the sign so that it is a rotation; ``a`` and ``v`` are lost."""
    for k in range(3):
        for m in range(3):
            v[k, m] = 1.0 if k == m else 0.0
    _orthogonalise(a, v)
    size = np.sqrt((a * a).sum(axis=0))
    least = np.argmin(size)
    one, two = (least + 1) % 3, (least + 2) % 3
    if size[one] <= TINY or size[two] <= TINY:
        # A ring on one line, or at one point, turns in no way of its own.
        for k in range(3):
            for m in range(3):
                turn[k, m] = 1.0 if k == m else 0.0
        return
    u = np.empty((3, 3))
    for k in range(3):
        u[k, one], u[k, two] = a[k, one] / size[one], a[k, two] / size[two]
    # The third axis follows from the other two, on either side: no sign is left to choose.
    for w in (u, v):
        for k in range(3):
            m, n = (k + 1) % 3, (k + 2) % 3
            w[k, least] = w[m, one] * w[n, two] - w[n, one] * w[m, two]
    for k in range(3):
        for m in range(3):
            turn[k, m] = v[k, 0] * u[m, 0] + v[k, 1] * u[m, 1] + v[k, 2] * u[m, 2]


@compiled
def ring_rotations(edges, edge_weights, rest, current):  # type: ignore[no-untyped-def]
    """Return (N, 3, 3) as :func:`datagen.warp.template.vertex_rotations` documents."""
    covariance = np.zeros((len(rest), 3, 3))
    for e in range(len(edges)):
        i, j = edges[e, 0], edges[e, 1]
        for k in range(3):
            for m in range(3):
                product = edge_weights[e] * (rest[j, k] - rest[i, k]) * (current[j, m] - current[i, m])
                covariance[i, k, m] += product
                covariance[j, k, m] += product
    turns, v = np.empty((len(rest), 3, 3)), np.empty((3, 3))
    for i in range(len(rest)):
        _rotation(covariance[i], v, turns[i])
    return turns
