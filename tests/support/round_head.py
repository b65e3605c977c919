"""A head small enough to be worked out by hand: an ellipsoid of skin with an eyeball behind it."""

from __future__ import annotations

import numpy as np
import trimesh

from datagen.heads.base import HeadTemplate
from datagen.heads.regions import REGIONS
from datagen.warp.template import WarpTemplate, prepare_template

AXES_M = (0.08, 0.1, 0.09)
EYE_M = (0.03, 0.03, 0.065)
EYE_RADIUS_M = 0.012


def round_template(detail: int = 2) -> HeadTemplate:
    """An ellipsoid of 162 (detail 2) or 642 vertices with five regions of skin, and a left eyeball."""
    skin, eye = trimesh.creation.icosphere(detail), trimesh.creation.icosphere(1)
    n = len(skin.vertices)
    rng = np.random.default_rng(0)
    # Not quite even, so that no two neighbours are equally near.
    direction = np.asarray(skin.vertices) + rng.uniform(-0.01, 0.01, (n, 3))
    regions = np.full(n, REGIONS["scalp"], np.uint8)
    regions[direction[:, 2] > -0.2] = REGIONS["cheeks"]
    regions[(direction[:, 2] > 0) & (direction[:, 1] > 0.5)] = REGIONS["forehead"]
    regions[(direction[:, 2] > 0) & (direction[:, 1] < -0.6)] = REGIONS["chin"]
    regions[direction[:, 2] > 0.93] = REGIONS["nose"]
    front = np.flatnonzero((direction[skin.faces][:, :, 2] > 0.1).all(axis=1))
    return HeadTemplate(
        "round",
        np.concatenate([direction * AXES_M, np.asarray(eye.vertices) * EYE_RADIUS_M + EYE_M]),
        np.concatenate([skin.faces, eye.faces + n]).astype(np.int32),
        np.concatenate([regions, np.full(len(eye.vertices), REGIONS["left_eyeball"], np.uint8)]),
        np.sort(rng.choice(front, 68, replace=len(front) < 68)).astype(np.int32),
        rng.dirichlet([1, 1, 1], 68),
    )


def prepared(detail: int = 2, subdivisions: int = 0) -> WarpTemplate:
    """The same, prepared for warping."""
    return prepare_template(round_template(detail), subdivisions)
