"""Points fixed to the skin, and where each frame of a sequence puts them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.warp.figures import material_difference_m
from benchmarks.warp.measure import FrameMeasure
from datagen.common.arrays import F64
from datagen.geometry.mesh import normalised
from datagen.heads.base import HeadTemplate
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.simulation.person import dense_template

MATERIAL_POINTS = 2000


@dataclass(frozen=True)
class MaterialPoints:
    """Points fixed to the skin of the face.

    Attributes
    ----------
    points, normals : (P, 3) float64
        Canonical, metres; unit.
    region : (P,) uint8
    """

    points: F64
    region: npt.NDArray[np.uint8]
    normals: F64

    @classmethod
    def drawn(cls, template: HeadTemplate, seed: int) -> MaterialPoints:
        """Choose points at random over the face."""
        dense = dense_template(template)
        face = np.flatnonzero(mask_of(dense.regions, FACE_REGIONS))
        chosen = np.random.default_rng(seed).choice(face, min(MATERIAL_POINTS, len(face)), replace=False)
        return cls(dense.points[chosen], dense.regions[chosen], normalised(dense.normals[chosen]))

    def differences_m(self, measure: FrameMeasure, template: HeadTemplate) -> F64:
        """Predicted less true place, (2, P, 3) float64 metres: by the warp, and by the true template."""
        warp, space = measure.warp, template.space
        predictions = (
            np.full(measure.case.truth.shape, np.nan) if warp is None else warp.canonical,
            measure.floor_canonical,
        )
        true_m = space.metres(measure.case.truth)
        return np.stack(
            [
                material_difference_m(self.points, self.region, true_m, measure.case.region, space.metres(predicted))
                for predicted in predictions
            ]
        )

    def sliding(self, difference_m: F64) -> F64:
        """Return differences (..., P, 3) less what lies along the normals."""
        along = np.einsum("...pd,pd->...p", difference_m, self.normals)
        return np.asarray(difference_m - along[..., None] * self.normals)
