"""Pictures of a head whose skin has a pattern that is known."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from datagen.common.arrays import F64
from datagen.geometry.camera import Camera
from datagen.geometry.mesh import Mesh
from datagen.heads.base import HeadModel
from datagen.render.registry import make_renderer
from datagen.sources.frame import Frame, SequenceKey


def pictured(head: HeadModel, cameras: Sequence[Camera], vertices: F64, index: int, gain: float = 1.0) -> Frame:
    """A frame whose pictures show freckles that are fixed to the skin, drawn by each pixel's neutral position."""
    template, renderer = head.template, make_renderer("numba")
    waves = np.random.default_rng(3).normal(0, 500, (24, 3))
    images = {}
    for camera, shown in zip(cameras, renderer.rasterise(vertices, template.faces, cameras), strict=True):
        corners = template.vertices[template.faces[shown.face]]
        rest = np.einsum("hwc,hwcd->hwd", shown.barycentric, corners)
        light = 127 + 12 * np.sin(rest @ waves.T + np.arange(24)).sum(axis=-1)
        grey = np.where(shown.face >= 0, np.clip(gain * light, 0, 255), 0).astype(np.uint8)
        images[camera.name] = partial(np.repeat, grey[..., None], 3, axis=2)
    return Frame(SequenceKey("a", "b"), index, 0.0, Mesh.of(vertices, template.faces), tuple(cameras), images=images)
