"""How real faces differ from a head's neutral in the mean, found by registering people to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.marks.sources import Source
from datagen.common.arrays import F64
from datagen.heads.base import HeadModel
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.manifest import WarpConfig
from datagen.warp.engine import register_frame
from datagen.warp.shape_model import Component, farthest_points, smooth_modes
from datagen.warp.similarity import fit_similarity
from datagen.warp.template import WarpTemplate, prepare_template

FACE_POINTS, OTHER_POINTS = 120, 80
# Beside the face people's scans end, have hair, or were only interpolated.
BESIDE = 0.02
NOISE_M = 1e-3
# What a mean of people may differ by, mirrored: as smooth as this.
SMOOTH = (Component(0.02, 0.0, 1e-3), Component(0.04, 0.0, 2e-3), Component(0.08, 0.0, 3e-3))
NODES, RANK = 700, 120


def learn_typical(head: HeadModel, sources: Sequence[Source], say: Callable[[str], None]) -> dict[str, Any]:
    """Return what ``datagen/heads/data/NAME_typical.json`` holds: the mean of the sources' means, smooth and mirrored.

    Each source's people are registered with their landmarks and brought to the template's size and place.
    """
    template = head.template
    prepared = prepare_template(template)
    offset = _smoothed(prepared, np.mean([_mean_offset(head, source, say) for source in sources], axis=0))
    face = mask_of(template.regions, FACE_REGIONS)
    skin = np.zeros(len(face), bool)
    skin[prepared.coarse_skin] = True
    left = skin & (template.vertices[:, 0] > -1e-6)
    parts = ((np.flatnonzero(left & face), FACE_POINTS), (np.flatnonzero(left & ~face), OTHER_POINTS))
    chosen = np.concatenate([where[farthest_points(template.vertices[where], count)] for where, count in parts])
    size = np.linalg.norm(offset[face], axis=1) * 1e3
    say(f"{np.median(size):.1f} mm from the template (median of the face), {size.max():.1f} at most")
    return {
        "template": template.digest,
        "vertices": chosen.tolist(),
        "offset_mm": np.round(offset[chosen] * 1e3, 2).tolist(),
    }


def _mean_offset(head: HeadModel, source: Source, say: Callable[[str], None]) -> F64:
    """Return the mean displacement (V, 3) metres of a source's people from the template, size and place removed."""
    template = head.template
    face = mask_of(template.regions, FACE_REGIONS)
    moved = []
    for person in source.people:
        found = register_frame(person.mesh, head, WarpConfig(), landmarks=person.landmarks)
        vertices = found.vertices[: len(template.vertices)]
        moved.append(fit_similarity(vertices[face], template.vertices[face]).apply(vertices) - template.vertices)
        say(f"{source.name}: {len(moved)} of {len(source.people)}")
    return np.asarray(np.mean(moved, axis=0))


def _smoothed(template: WarpTemplate, offset: F64) -> F64:
    """Return the smooth, symmetric field (V, 3) nearest to an offset (V, 3) of the template's vertices, metres."""
    vertices, skin = template.head.vertices, template.coarse_skin
    face = mask_of(template.head.regions, FACE_REGIONS)[skin]
    root = np.sqrt(np.where(face, 1.0, BESIDE) * template.coarse.attract)[:, None] / NOISE_M
    result = np.empty_like(offset)
    for axis, parity in enumerate((-1.0, 1.0, 1.0)):
        modes = smooth_modes(vertices[skin], SMOOTH, nodes=NODES, rank=RANK, parity=parity).at(vertices)
        rows = modes[skin] * root
        known = rows.T @ rows + np.eye(rows.shape[1])
        result[:, axis] = modes @ np.linalg.solve(known, rows.T @ (offset[skin, axis] * root[:, 0]))
    return result
