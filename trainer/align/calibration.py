"""How far the network's σ can be trusted on people it has not seen, and how errors go together."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from datagen.common.arrays import F64
from trainer.align.measure import Measured

_LEAST = 1e-6


@dataclass(frozen=True)
class Calibration:
    """What was measured on validation people.

    Attributes
    ----------
    temperature : float
        Times which σ is the standard deviation of a face vertex's error along an axis: the root of the mean of
        r² / (2 σ²).
    together : float
        How many vertices err as one: their number over that of independent errors, (Σ λ)² / Σ λ² of the eigenvalues λ
        of the normalised errors' covariance, the participation ratio.
    views : float
        Share of a vertex's variance, from 0 to 1, that all pictures of one instant have in common, as a displacement
        in the head's own axes.
    """

    temperature: float
    together: float
    views: float

    def inflation(self, pictures: int) -> float:
        """Return what σ² is multiplied by, so that points and pictures may be taken to err each by itself.

        Parameters
        ----------
        pictures : int
            Of the same instant.
        """
        return self.temperature**2 * self.together * (1 + (pictures - 1) * self.views)

    def to_dict(self) -> dict[str, float]:
        """Return it as plain data."""
        return asdict(self)


def calibrate(measured: Measured) -> Calibration:
    """Measure a network on people it has not learnt from."""
    temperature = float(np.sqrt(max(float(np.nanmean(measured.surprise())), _LEAST)))
    error = measured.error_px[:, -1, measured.is_face].astype(np.float64)
    normalised = error / (temperature * measured.sigma_px[:, -1, measured.is_face, None])
    return Calibration(temperature, _together(normalised), _views(measured, error))


def _together(normalised: F64) -> float:
    """Return the number of points over that of independent errors, of errors (N, V, 2) of unit variance."""
    samples = np.nan_to_num(normalised.transpose(0, 2, 1).reshape(-1, normalised.shape[1]))
    # Of the samples' inner products, whose eigenvalues are the covariance's.
    products = samples @ samples.T / len(samples)
    trace = np.trace(products)
    independent = trace**2 / max(float(np.square(products).sum()), _LEAST)
    return float(max(samples.shape[1] / max(independent, 1.0), 1.0))


def _views(measured: Measured, error: F64) -> float:
    """Return the share of the variance that pictures of one instant have in common.

    A displacement u of a vertex, of variance s² along each axis, is seen by a camera as P u, the part across its axis;
    two cameras' errors have the inner product s² tr(P P') = s² (1 + cos² of the angle between them), and each one's own
    has 2 (s² + t²).
    """
    moved = np.einsum("nca,nvc->nva", measured.to_head, error)
    own = np.nanmean(np.square(moved).sum(-1))
    across = np.cross(measured.to_head[:, 0], measured.to_head[:, 1])
    axes = across / np.linalg.norm(across, axis=1, keepdims=True)
    common, expected = [], []
    for instant in np.unique(measured.instant):
        at = np.flatnonzero(measured.instant == instant)
        for i, a in enumerate(at):
            for b in at[i + 1 :]:
                both = (moved[a] * moved[b]).sum(-1)
                if np.isfinite(both).any():
                    common.append(np.nanmean(both))
                    expected.append(1 + (axes[a] @ axes[b]) ** 2)
    if not common or own <= 0:
        return 0.0
    return float(np.clip(np.sum(common) / np.sum(expected) / (own / 2), 0, 1))
