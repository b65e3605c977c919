"""How far each scan point's canonical coordinate is to be believed: the chance that it is within a millimetre."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import F64
from datagen.heads.regions import FACE_REGIONS, INTERIOR_REGIONS, mask_of
from datagen.warp.transport import Transported

WITHIN_M = 1e-3
COSINE_RANGE = (0.3, 0.9)
# Eyeballs turn and tongues move under the skin that carries them: never fully certain.
INTERIOR_CEILING = 0.4
# Far beyond what calibration has seen, nothing is added.
SPREAD_RANGE_MM = (0.05, 10.0)
HEIGHT_LIMIT_MM = 3.0

FEATURES = (
    "one",
    "chance_of_not_sliding",
    "log_spread",
    "height",
    "height_squared",
    "roughness",
    "leaning",
    "not_held",
)
# Logistic weights fitted by `python -m benchmarks calibrate` to simulated truth of other people than the benchmark's.
WEIGHTS = np.array(
    [
        1.2990,  # one
        1.3605,  # chance_of_not_sliding
        0.1823,  # log_spread
        0.4457,  # height
        -2.7809,  # height_squared
        -0.7644,  # roughness
        -0.8074,  # leaning
        -1.0737,  # not_held
    ]
)


def confidence_features(
    transported: Transported,
    anchored: F64,
    spread_m: F64,
    template_faces: npt.NDArray[np.int32],
) -> F64:
    """Return what confidence is made of, (N, F) float64, columns as in :data:`FEATURES`.

    How far the point may have slid (the posterior spread of the template there, and the chance that a plane normal
    error of that spread stays within a millimetre); its height over the registered surface, and the usual height on
    this face; how much the normals disagree; how loosely the template was held.

    Parameters
    ----------
    transported : Transported
        Of all scan vertices.
    anchored : (M,) float64
        Weight of each fine template vertex's last target, in [0, 1].
    spread_m : (M,) float64
        Posterior standard deviation of each fine template vertex's position.
    template_faces : (G, 3) int32
    """
    foot = transported.foot
    corners = template_faces[foot.face]
    spread_mm = np.clip(np.einsum("nc,nc->n", foot.barycentric, spread_m[corners]) * 1000, *SPREAD_RANGE_MM)
    held = np.clip(np.einsum("nc,nc->n", foot.barycentric, anchored[corners]), 0, 1)
    height_mm = np.minimum(np.abs(transported.offset_m) * 1000, HEIGHT_LIMIT_MM)
    on_face = transported.matched & mask_of(transported.region, FACE_REGIONS)
    usual = float(np.median(height_mm[on_face])) if on_face.any() else HEIGHT_LIMIT_MM
    low, high = COSINE_RANGE
    leaning = 1 - np.clip((transported.cosine - low) / (high - low), 0, 1)
    # Length of a plane normal vector of RMS length s: within r with chance 1 − exp(−r²/s²).
    stays = np.clip(-np.expm1(-((WITHIN_M * 1000 / spread_mm) ** 2)), 1e-3, 1 - 1e-3)
    return np.stack(
        [
            np.ones(len(held)),
            np.log(stays / (1 - stays)),
            np.log(spread_mm),
            height_mm,
            height_mm**2,
            np.full(len(held), usual),
            leaning,
            1 - held,
        ],
        axis=1,
    )


def point_confidence(transported: Transported, features: F64) -> npt.NDArray[np.float32]:
    """Return the confidence (N,) float32 in [0, 1] of every scan vertex; 0 exactly where there is no counterpart.

    A stated confidence is the chance that the canonical coordinate is within a millimetre of the truth, as calibrated
    on simulated people; ``python -m benchmarks warp`` measures how well that holds.

    Parameters
    ----------
    transported : Transported
        Of all scan vertices.
    features : (N, F) float64
        Of :func:`confidence_features`.
    """
    chance = 1 / (1 + np.exp(-np.clip(features @ WEIGHTS, -30, 30)))
    ceiling = np.where(mask_of(transported.region, INTERIOR_REGIONS), INTERIOR_CEILING, 1.0)
    # A counterpart that exists keeps a trace of confidence: zero is reserved for "none".
    return np.where(transported.matched, np.maximum(np.minimum(chance, ceiling), 0.01), 0.0).astype(np.float32)
