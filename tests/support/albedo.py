"""The appearance of sampled surface points, outside of any picture, by the kernels that pictures are made with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from datagen.common.compiled import compiled
from datagen.simulation.photo.appearance_kernel import ALBEDO, SURFACE_SIZE, eye_at, mouth_at, skin_at
from datagen.simulation.photo.face_fields import LEFT_EYE, RIGHT_EYE, SKIN, FaceFields
from datagen.simulation.photo.look import Look


def albedo_at(fields: FaceFields, look: Look, footprint_mm: float) -> npt.NDArray[np.float64]:
    """Return the colour of points of a face as pictures show them, (N, 3) float64 linear RGB.

    A function of canonical position, fields and look alone: expression, pose and light have no part in it.

    Parameters
    ----------
    fields : FaceFields
    look : Look
    footprint_mm : float
        Width of a pixel on the surface: patterns finer than that fade to their mean.
    """
    out = np.empty((len(fields.points_mm), 3))
    _albedo(
        fields.points_mm.astype(np.float64), fields.values.astype(np.float64), fields.material, fields.eyes,
        float(footprint_mm), look, out,
    )  # fmt: skip
    return out


@compiled
def _albedo(points, values, material, eyes, footprint, look, out):  # type: ignore[no-untyped-def]
    surface = np.zeros(SURFACE_SIZE)
    for i in range(len(points)):
        if material[i] == SKIN:
            skin_at(points[i], values[i], footprint, look, surface)
        elif material[i] in (RIGHT_EYE, LEFT_EYE):
            eye_at(points[i], eyes[material[i] - RIGHT_EYE], footprint, look, surface)
        else:
            mouth_at(points[i], footprint, look, surface)
        for k in range(3):
            out[i, k] = surface[ALBEDO + k]
