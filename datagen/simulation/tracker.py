"""What a tracker and a landmark detector make of the true template: right but for smooth errors."""

from __future__ import annotations

import numpy as np

from datagen.common.arrays import F64
from datagen.geometry.landmarks import Landmarks
from datagen.heads.base import HeadTemplate
from datagen.simulation.person import WaveField

ERROR_WAVELENGTHS_M = (0.08, 0.3)
RIGID_SHARE = 0.5
DRIFT_PER_SECOND = 1.5  # radians of phase


class RegistrationError:
    """A smooth vector error over the head that drifts slowly in time.

    Parameters
    ----------
    rms_m : float
        Root mean square length over the vertices, exact in every frame.
    rng : numpy Generator
        Seeded by the subject.
    """

    def __init__(self, rms_m: float, rng: np.random.Generator) -> None:
        self._rms_m = rms_m
        self._field = WaveField.draw(ERROR_WAVELENGTHS_M, rng, waves=16, channels=3)
        self._drift = DRIFT_PER_SECOND * rng.normal(size=16)
        self._shift, self._turn = rng.normal(size=3), rng.normal(size=3)
        self._beat, self._phase = rng.uniform(0.5, 1.5, 2), rng.uniform(0, 2 * np.pi, 2)

    def __call__(self, template_points: F64, time_s: float) -> F64:
        """Return the error at template points (V, 3) metres at a time, (V, 3) float64 metres in template axes."""
        p = template_points - template_points.mean(axis=0)
        swing = 1 + 0.3 * np.sin(self._beat * time_s + self._phase)
        rigid = swing[0] * self._shift + swing[1] * np.cross(self._turn, p) / p.std()
        bent = self._field(template_points, self._drift * time_s)
        error = RIGID_SHARE * rigid / _rms(rigid) + np.sqrt(1 - RIGID_SHARE**2) * bent / _rms(bent)
        return np.asarray(error * (self._rms_m / _rms(error)))


def detected_landmarks(template: HeadTemplate, vertices: F64, noise_m: float, rng: np.random.Generator) -> Landmarks:
    """Return the 68 landmarks of a posed template (V, 3) metres with Gaussian noise per coordinate.

    ``vertices`` are the template's own, where they come to lie on the smooth surface.
    """
    points = template.landmarks(vertices)
    return Landmarks(np.arange(len(points), dtype=np.int64), points + rng.normal(0, noise_m, points.shape))


def _rms(vectors: F64) -> float:
    return float(np.sqrt((vectors**2).sum(axis=1).mean()))
