"""The heads and cameras that rendering is measured on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from datagen.geometry.camera import Camera, look_at
from datagen.heads.base import HeadModel
from datagen.render.contract import SurfaceAttributes
from datagen.simulation.person import Subject
from datagen.simulation.triangulate import random_triangulation

# Cameras on an arc, as multi-view rigs have them; the head fills most of each image.
ARC_DEG = 120.0
DISTANCE_M = 0.8
FOCAL_SIDES = 3.1
ACTIVE_EXPRESSIONS = 0.15


def random_heads(head: HeadModel, count: int, faces: int, seed: int) -> list[SurfaceAttributes]:
    """Return random people with random expressions, triangulated at random, with their true canonical coordinates.

    Parameters
    ----------
    head : HeadModel
    count : int
    faces : int
        Wanted number of triangles; met within a few per cent.
    seed : int
    """
    return [_random_head(head, faces, np.random.default_rng([seed, i])) for i in range(count)]


def _random_head(head: HeadModel, faces: int, rng: np.random.Generator) -> SurfaceAttributes:
    subject = Subject(head, rng)
    size = len(head.expression_names)
    expression = rng.uniform(0, 0.6, size) * (rng.uniform(size=size) < ACTIVE_EXPRESSIONS)
    posed = subject.pose(expression, np.eye(4))
    # A closed surface has half as many vertices as faces.
    vertices = faces // 2
    refinement = subject.refinement(vertices)
    fine = refinement.matrix @ posed.vertices
    everywhere = np.ones(len(fine), bool)
    samples = random_triangulation(refinement, fine, everywhere, vertices, rng)
    canonical = samples.interpolate(refinement.matrix @ posed.canonical)
    owner = samples.corners[np.arange(len(samples.corners)), samples.weights.argmax(axis=1)]
    nearest = np.asarray(refinement.matrix.argmax(axis=1)).ravel()[owner]
    return SurfaceAttributes(
        samples.interpolate(fine),
        samples.faces,
        head.template.space.normalise(canonical).astype(np.float32),
        rng.uniform(0.3, 1.0, len(canonical)).astype(np.float32),
        subject.dense.regions[nearest],
    )


def arc_of_cameras(views: int, resolution: int) -> list[Camera]:
    """Return cameras on an arc in front of the origin, square images of ``resolution`` pixels."""
    return [
        look_at(
            f"cam{i:02d}",
            [DISTANCE_M * np.sin(azimuth), 0.1, DISTANCE_M * np.cos(azimuth)],
            [0, 0, 0],
            FOCAL_SIDES * resolution,
            resolution,
            resolution,
        )
        for i, azimuth in enumerate(_azimuths(views))
    ]


def _azimuths(views: int) -> npt.NDArray[np.float64]:
    return np.radians(np.linspace(-ARC_DEG, ARC_DEG, views)) if views > 1 else np.zeros(1)
