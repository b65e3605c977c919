"""What is known of a person's face at rest: a mesh of the head's topology, from a scan, another program or a person."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datagen.common.arrays import F64
from datagen.fit.head_shape import ShapeRows, shape_rows
from datagen.warp.shape_model import MorphableShape, farthest_points, observed_vertices
from datagen.warp.similarity import fit_similarity
from datagen.warp.template import WarpTemplate

# Errors of such meshes are smooth: as many vertices as are compared say no more than this many that err by themselves.
COMPARED, INDEPENDENT = 400, 100


@dataclass(frozen=True, eq=False)
class NeutralPrior:
    """A face at rest, wherever it stands.

    Attributes
    ----------
    rows : ShapeRows
        Of the vertices that are compared.
    position : (n, 3) float64
        Of these, metres.
    sigma_m : float
        Of each coordinate, enlarged for the errors that go together.
    """

    rows: ShapeRows
    position: F64
    sigma_m: float

    def residual_m(self, shared: F64, scale: float, centre: F64) -> tuple[F64, F64]:
        """Return what the shape lacks (n, 3), the mesh laid upon it rigidly, and the shape about its centre (n, 3)."""
        local = self.rows.at(shared, np.zeros(self.rows.own.shape[2])) - centre
        laid = fit_similarity(self.position, scale * local, with_scale=False).apply(self.position)
        return laid - scale * local, local


def neutral_prior(template: WarpTemplate, shape: MorphableShape, neutral: F64, error_m: float) -> NeutralPrior:
    """Return the prior of a neutral mesh (V, 3) metres in the head's topology, and how far off it is (RMS)."""
    seen = template.coarse_skin[observed_vertices(template)]
    chosen = seen[farthest_points(template.head.vertices[seen], COMPARED)]
    operator = template.subdivide[chosen]
    together = float(np.sqrt(max(1.0, len(chosen) / INDEPENDENT)))
    return NeutralPrior(shape_rows(shape, operator), np.asarray(operator @ neutral), error_m / np.sqrt(3) * together)
