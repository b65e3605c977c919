"""Similarity transforms between corresponding points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Similarity:
    """``y = scale · rotation · x + translation``.

    Attributes
    ----------
    rotation : (3, 3) float64
    translation : (3,) float64
        Metres.
    """

    scale: float
    rotation: npt.NDArray[np.float64]
    translation: npt.NDArray[np.float64]

    def apply(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Map points (N, 3), float64."""
        return self.scale * np.asarray(points, np.float64) @ self.rotation.T + self.translation

    def rigid_matrix(self, pivot: npt.ArrayLike = (0.0, 0.0, 0.0)) -> npt.NDArray[np.float64]:
        """Return the rigid part as a (4, 4) float64 matrix that maps ``pivot`` to where the similarity maps it."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.rotation
        point = np.asarray(pivot, np.float64)
        matrix[:3, 3] = self.apply(point[None])[0] - self.rotation @ point
        return matrix


def fit_similarity(
    source: npt.NDArray[np.floating],
    target: npt.NDArray[np.floating],
    weights: npt.NDArray[np.floating] | None = None,
    *,
    with_scale: bool = True,
) -> Similarity:
    """Return the weighted least-squares similarity from ``source`` to ``target``, both (N, 3) metres.

    Closed form of S. Umeyama, "Least-squares estimation of transformation parameters between two point patterns",
    PAMI 1991, with weights (N,).
    """
    x, y = np.asarray(source, np.float64), np.asarray(target, np.float64)
    w = np.full(len(x), 1.0 / len(x)) if weights is None else np.asarray(weights, np.float64) / np.sum(weights)
    mean_x, mean_y = w @ x, w @ y
    dx, dy = x - mean_x, y - mean_y
    U, singular, Vt = np.linalg.svd((dy * w[:, None]).T @ dx)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(U @ Vt))])
    rotation = (U * sign) @ Vt
    variance = float(w @ (dx**2).sum(axis=1))
    scale = float(singular @ sign / variance) if with_scale and variance > 0 else 1.0
    return Similarity(scale, rotation, mean_y - scale * rotation @ mean_x)


def fit_similarity_robust(
    source: npt.NDArray[np.floating], target: npt.NDArray[np.floating], *, with_scale: bool = True, rounds: int = 10
) -> Similarity:
    """Return a similarity that a minority of wrong pairs cannot pull away.

    Iteratively re-weighted least squares with Geman–McClure weights, their scale taken from the median residual of
    each round.
    """
    weights = np.ones(len(source))
    fit = fit_similarity(source, target, weights, with_scale=with_scale)
    for _ in range(rounds):
        residual = np.linalg.norm(fit.apply(source) - target, axis=1)
        sigma = max(1.4826 * float(np.median(residual)), 1e-6)
        weights = (1 + (residual / (2 * sigma)) ** 2) ** -2.0
        fit = fit_similarity(source, target, weights, with_scale=with_scale)
    return fit
