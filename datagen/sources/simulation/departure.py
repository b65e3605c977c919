"""What sets a person apart from every shape of a head model: a smooth displacement fixed to the skin."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from datagen.heads.base import HeadTemplate
from datagen.sources.simulation.fields import WaveField

F64 = npt.NDArray[np.float64]

DEPARTURE_WAVELENGTHS_M = (0.04, 0.25)


def identity_departure(template: HeadTemplate, rms_m: float, rng: np.random.Generator) -> F64:
    """Draw a smooth displacement of a template's vertices, (V, 3) float64 metres in template axes.

    A vector field over canonical position, so that touching lips and lids move together; its wavelengths run from
    features of a face (4 cm) to the shape of a head (25 cm).

    Parameters
    ----------
    template : HeadTemplate
    rms_m : float
        Root mean square length over the vertices, exact.
    rng : numpy Generator
        Seeded by the subject.
    """
    field = WaveField.draw(DEPARTURE_WAVELENGTHS_M, rng, channels=3)(template.vertices)
    return field * (rms_m / float(np.sqrt((field**2).sum(axis=1).mean())))
