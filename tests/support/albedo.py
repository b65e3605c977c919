"""The appearance of sampled surface points, outside of any picture, by the kernels that pictures are made with."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from datagen.simulation.photo.face_fields import LEFT_EYE, RIGHT_EYE, SKIN, FaceFields
from datagen.simulation.photo.inner_kernel import eye_at, mouth_at
from datagen.simulation.photo.look import Look
from datagen.simulation.photo.skin_kernel import ALBEDO, SURFACE_SIZE, skin_at
from datagen.simulation.photo.surface_kernel import source_digest


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


def _compiled(stamp):  # type: ignore[no-untyped-def]
    """Compile the loop over points; see :func:`datagen.simulation.photo.surface_kernel.source_digest`."""

    @numba.njit(nogil=True, cache=True, error_model="numpy")
    def over_points(points, values, material, eyes, footprint, look, out):  # type: ignore[no-untyped-def]
        _ = stamp
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

    return over_points


_albedo = _compiled(source_digest())  # type: ignore[no-untyped-call]
