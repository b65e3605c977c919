"""How well topologies are bridged: a head model's people in a foreign topology, where the truth is known, and ICT's."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from datagen.common.arrays import F64
from datagen.flows.stages.warp import register_and_warp
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import Mesh, compact
from datagen.geometry.subdivide import loop_subdivision
from datagen.heads.base import HeadModel
from datagen.heads.regions import FACE_REGIONS, INTERIOR_REGIONS, mask_of
from datagen.manifest import WarpConfig
from datagen.simulation.person import WaveField
from datagen.simulation.triangulate import SurfaceSamples, random_triangulation, subdivide_long_edges
from datagen.sources.frame import Registration
from datagen.sources.topology import Topology, topology_of
from datagen.warp.bridge import build_bridge
from datagen.warp.engine import warp_frame

WAVELENGTHS_M = (0.04, 0.12)
REFINED_EDGE_M = 0.003
IDENTITY_LIMIT = 2.0
FOREIGN_VERTICES = 12_000
LANDMARK_NOISE_MM = 0.5
FAMILY_ACTIONS = 5


@dataclass(frozen=True, eq=False)
class ForeignPeople:
    """A head model's surface in random triangles and random order, without eyeballs and the inside of the mouth.

    Attributes
    ----------
    head : HeadModel
    topology : Topology
        Its neutral face is a particular person, not the model's mean.
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
        """Draw a topology of about ``vertices`` vertices.

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


def spread(values: npt.NDArray[np.float64]) -> dict[str, float]:
    """Median and percentiles of values in mm."""
    return {
        "median_mm": round(float(np.median(values)), 4),
        "p95_mm": round(float(np.percentile(values, 95)), 4),
        "p99_mm": round(float(np.percentile(values, 99)), 4),
    }


def foreign_figures(head: HeadModel, topologies: int, people: int, regions: tuple[str, ...] | None) -> dict[str, Any]:
    """Error of bridged vertices of the face against the truth, for the neutral face and for other people."""
    face = mask_of(head.template.regions, FACE_REGIONS)
    neutral: list[F64] = []
    others: list[F64] = []
    shares: list[float] = []
    seconds: list[float] = []
    for seed in range(topologies):
        rng = np.random.default_rng(seed)
        foreign = ForeignPeople.draw(head, FOREIGN_VERTICES, rng, regions=regions, landmark_noise_mm=LANDMARK_NOISE_MM)
        started = time.perf_counter()
        bridge = build_bridge(foreign.topology, head)
        seconds.append(time.perf_counter() - started)
        judged = face & bridge.valid
        shares.append(bridge.valid[face].mean())
        rest = foreign.person(foreign.identity, np.zeros(len(head.expression_names)))
        for found, cases in ((neutral, [rest]), (others, foreign.people(people, rng))):
            for true, vertices in cases:
                found.append(np.linalg.norm(bridge.carry(vertices) - true, axis=1)[judged] * 1000)
    return {
        "neutral": spread(np.concatenate(neutral)),
        "people_and_expressions": spread(np.concatenate(others)),
        "face_share": round(float(np.mean(shares)), 4),
        "seconds_per_bridge": round(float(np.median(seconds)), 2),
    }


def family_figures(head: HeadModel, ict: HeadModel, people: int) -> dict[str, Any]:
    """RMS distance in mm of a vertex's canonical coordinates from their mean over people, over the face."""
    template, config, space = ict.template, WarpConfig(), head.template.space
    bridge = build_bridge(topology_of(template), head)
    skin = ~np.any(mask_of(template.regions, INTERIOR_REGIONS)[template.faces], axis=1)
    found: dict[str, list[npt.NDArray[np.float64]]] = {"bridge": [], "bridge_and_landmarks": [], "landmarks": []}
    found["scan_is_registration"] = []
    for k in range(people):
        rng = np.random.default_rng(100 + k)
        expression = np.zeros(len(ict.expression_names))
        expression[rng.choice(len(expression), FAMILY_ACTIONS, replace=False)] = rng.uniform(0.2, 0.8, FAMILY_ACTIONS)
        vertices = ict.vertices(np.clip(rng.normal(size=ict.identity_size), -2, 2), expression)
        noise = rng.normal(0, LANDMARK_NOISE_MM / 1000, (68, 3))
        landmarks = Landmarks(np.arange(68), template.landmarks(vertices) + noise)
        scan, kept = compact(vertices, template.faces[skin])
        registration = Registration("ict", vertices)
        whole = Mesh.of(vertices, template.faces)
        warps = {
            "bridge": register_and_warp(scan, head, config, bridge=bridge, registration=registration),
            "bridge_and_landmarks": register_and_warp(
                scan, head, config, bridge=bridge, registration=registration, landmarks=landmarks
            ),
            "landmarks": warp_frame(scan, head, config, landmarks=landmarks),
            "scan_is_registration": register_and_warp(whole, head, config, bridge=bridge, registration=registration),
        }
        for name, warp in warps.items():
            rows = warp.canonical if len(warp.canonical) == len(kept) else warp.canonical[kept]
            found[name].append(space.metres(rows.astype(np.float64)))
    face = mask_of(template.regions[kept], FACE_REGIONS)
    figures: dict[str, Any] = {name: _family_spread(np.stack(points)[:, face]) for name, points in found.items()}
    figures["bridge_itself"] = {k: round(v, 4) for k, v in bridge.verdict.metrics.items() if k.startswith("bridge")}
    return figures


def _family_spread(points: npt.NDArray[np.float64]) -> dict[str, float]:
    seen = np.isfinite(points).all(axis=(0, 2))
    away = np.linalg.norm(points[:, seen] - points[:, seen].mean(axis=0), axis=2) * 1000
    return {**spread(np.sqrt((away**2).mean(axis=0))), "share": round(float(seen.mean()), 4)}
