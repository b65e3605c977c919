"""How far each scan point's canonical coordinate is to be believed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from datagen.heads.regions import INTERIOR_REGIONS, mask_of
from datagen.warp.surface import Surface
from datagen.warp.transport import Transported

RESIDUAL_SCALE_M = 0.0015
COSINE_RANGE = (0.3, 0.9)
BORDER_WIDTH_M = 0.006
# Eyeballs turn and tongues move under the skin that carries them: never fully certain.
INTERIOR_CEILING = 0.4
# Skin whose template vertices found no believable target was only interpolated.
UNANCHORED_CEILING = 0.25


def point_confidence(
    scan: Surface, transported: Transported, anchored: npt.NDArray[np.float64], template_faces: npt.NDArray[np.int32]
) -> npt.NDArray[np.float32]:
    """Return the confidence (N,) float32 in [0, 1] of every scan vertex; 0 exactly where there is no counterpart.

    The product of how close the point is to the registered surface, how well the normals agree, how far the scan's
    border is, and how firmly the template itself was held there.

    Parameters
    ----------
    scan : Surface
    transported : Transported
        Of all scan vertices.
    anchored : (M,) float64
        Weight of each fine template vertex's last target, in [0, 1].
    template_faces : (G, 3) int32
    """
    foot = transported.foot
    near = 1 / (1 + (transported.offset_m / RESIDUAL_SCALE_M) ** 2)
    low, high = COSINE_RANGE
    facing = np.clip((transported.cosine - low) / (high - low), 0, 1)
    inside = np.ones(len(near))
    if scan.border.any():
        distance, _ = cKDTree(scan.vertices[scan.border]).query(scan.vertices, distance_upper_bound=BORDER_WIDTH_M)
        inside = np.clip(0.25 + 0.75 * distance / BORDER_WIDTH_M, 0, 1)
    held = np.einsum("nc,nc->n", foot.barycentric, anchored[template_faces[foot.face]])
    held = UNANCHORED_CEILING + (1 - UNANCHORED_CEILING) * np.clip(held, 0, 1)
    ceiling = np.where(mask_of(transported.region, INTERIOR_REGIONS), INTERIOR_CEILING, 1.0)
    confidence = np.minimum(near * facing * inside * held, ceiling)
    # A counterpart that exists keeps a trace of confidence: zero is reserved for "none".
    return np.where(transported.matched, np.maximum(confidence, 0.01), 0.0).astype(np.float32)
