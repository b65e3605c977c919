"""A head model's people in another topology: what tells, with known truth, how well topologies are bridged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from datagen.common.arrays import F64
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.subdivide import loop_subdivision
from datagen.heads.base import HeadModel
from datagen.heads.regions import INTERIOR_REGIONS, mask_of
from datagen.simulation.person import WaveField
from datagen.simulation.triangulate import SurfaceSamples, random_triangulation, subdivide_long_edges
from datagen.sources.topology import Topology

WAVELENGTHS_M = (0.04, 0.12)
REFINED_EDGE_M = 0.003
IDENTITY_LIMIT = 2.0


@dataclass(frozen=True, eq=False)
class ForeignPeople:
    """A head model's surface in random triangles and random order, without eyeballs and the inside of the mouth.

    Attributes
    ----------
    head : HeadModel
    topology : Topology
        Its neutral face is a person of its own, not the model's mean.
    identity : (identity_size,) float64
        Of that person.
    """

    head: HeadModel
    topology: Topology
    identity: F64
    _beyond: F64
    _operator: sp.csr_matrix
    _samples: SurfaceSamples

    @classmethod
    def draw(
        cls,
        head: HeadModel,
        vertices: int,
        rng: np.random.Generator,
        *,
        regions: tuple[str, ...] | None = None,
        beyond_model_mm: float = 1.5,
        landmark_noise_mm: float = 0.0,
    ) -> ForeignPeople:
        """Draw a topology of about so many vertices.

        Parameters
        ----------
        head : HeadModel
        vertices : int
        rng : numpy Generator
        regions : tuple of str, optional
            What the topology covers, by default all skin.
        beyond_model_mm : float
            RMS of a smooth change of all its people that no parameter of the model makes.
        landmark_noise_mm : float
            Per coordinate, of the landmarks on the neutral face.
        """
        template = head.template
        fine = loop_subdivision(template.faces, len(template.vertices), 1)
        identity = np.clip(rng.normal(size=head.identity_size), -IDENTITY_LIMIT, IDENTITY_LIMIT)
        field = WaveField.draw(WAVELENGTHS_M, rng, channels=3)(template.vertices)
        beyond = field * beyond_model_mm / 1000 / np.sqrt(3)
        neutral = head.vertices(identity, np.zeros(len(head.expression_names))) + beyond
        kept = ~mask_of(template.regions, INTERIOR_REGIONS) if regions is None else mask_of(template.regions, regions)
        refinement = subdivide_long_edges(fine.matrix @ neutral, fine.faces, REFINED_EDGE_M)
        operator = (refinement.matrix @ fine.matrix).tocsr()
        samples = random_triangulation(
            refinement, operator @ neutral, operator @ kept.astype(float) > 0.99, vertices, rng
        )
        marks = template.landmarks(neutral)
        landmarks = Landmarks(np.arange(len(marks)), marks + rng.normal(0, landmark_noise_mm / 1000, marks.shape))
        topology = Topology("foreign", samples.interpolate(operator @ neutral), samples.faces, landmarks)
        return cls(head, topology, identity, beyond, operator, samples)

    def person(self, identity: F64, expression: F64) -> tuple[F64, F64]:
        """Return a person's vertices in the head model's topology (V, 3), which is the truth, and in this one."""
        true = self.head.vertices(identity, expression) + self._beyond
        return true, self._samples.interpolate(self._operator @ true)

    def people(self, count: int, rng: np.random.Generator, *, actions: int = 6) -> list[tuple[F64, F64]]:
        """Return other people with strong expressions of a few actions each, as :meth:`person`."""
        found = []
        for _ in range(count):
            expression = np.zeros(len(self.head.expression_names))
            chosen = rng.choice(len(expression), min(actions, len(expression)), replace=False)
            expression[chosen] = rng.uniform(0.3, 1.0, len(chosen))
            identity = np.clip(rng.normal(size=self.head.identity_size), -IDENTITY_LIMIT, IDENTITY_LIMIT)
            found.append(self.person(identity, expression))
        return found
