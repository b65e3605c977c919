"""Smooth random functions of position: sums of a few plane waves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class WaveField:
    """A random field with C channels, each of unit variance over phases.

    Attributes
    ----------
    vectors : (3, W) float64
        Wave vectors, radians per metre.
    phases : (W,) float64
    weights : (W, C) float64
    """

    vectors: F64
    phases: F64
    weights: F64

    @classmethod
    def draw(
        cls,
        wavelengths_m: tuple[float, float],
        rng: np.random.Generator,
        *,
        waves: int = 24,
        channels: int = 1,
    ) -> WaveField:
        """Draw waves in all directions, wavelengths between two bounds (log-uniform)."""
        direction = rng.normal(size=(3, waves))
        direction /= np.linalg.norm(direction, axis=0)
        wavelength = np.exp(rng.uniform(np.log(wavelengths_m[0]), np.log(wavelengths_m[1]), waves))
        weights = rng.normal(size=(waves, channels))
        weights *= np.sqrt(2 / (weights**2).sum(axis=0))
        return cls(direction * 2 * np.pi / wavelength, rng.uniform(0, 2 * np.pi, waves), weights)

    def __call__(self, points: F64, phase_shift: float | F64 = 0.0) -> F64:
        """Return the field at points (N, 3) metres, (N, C) float64; ``phase_shift`` (scalar or (W,)) drifts it."""
        return np.cos(points @ self.vectors + (self.phases + phase_shift)) @ self.weights
