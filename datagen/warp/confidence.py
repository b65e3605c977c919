"""How far each scan point's canonical coordinate is to be believed: the chance that it is within a millimetre."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import F64
from datagen.geometry.space import MM_PER_M
from datagen.heads.regions import FACE_REGIONS, INTERIOR_REGIONS, REGIONS, mask_of
from datagen.warp.transport import Transported

WITHIN_M = 1e-3
# Eyeballs turn and tongues move under the skin that carries them: never fully certain.
INTERIOR_CEILING = 0.4
# Far beyond what calibration has seen, nothing is added.
SPREAD_RANGE_MM = (0.05, 10.0)
HEIGHT_LIMIT_MM = 3.0
# So far off the template lie stray pieces: of 430 such points on simulated heads one was within a millimetre.
FAR_MM, FAR_CEILING = 2.5, 0.1
LEAST_USUAL_MM = 0.1
LEAST_CONFIDENCE = 0.01
# Where there are no landmarks, a scatter at which they neither help nor harm.
USUAL_SCATTER_MM = 0.6
# Nothing on a skull or on hair says where along itself a point belongs: measured on simulated heads 0.10 to 0.34 are
# within a millimetre, whatever the spread says. Such points are not used for the weights.
SCALP_CEILING = 0.35
# What a known person's frames share of error, and move beyond the motion that was learnt from keyframes.
PERSON_SPREAD_MM = 0.7

FEATURES = ("one", "log_spread", "height", "log_usual_height", "forehead", "log_landmark_scatter")
# Logistic weights fitted to real families, to people of another head model one by one and in sequences, and to
# simulated people; `python -m benchmarks calibrate --real` fits them anew.
WEIGHTS = np.array(
    [
        0.616,  # one
        -2.683,  # log_spread
        -0.684,  # height
        -0.300,  # log_usual_height
        -0.413,  # forehead
        -0.315,  # log_landmark_scatter
    ]
)


def confidence_features(
    transported: Transported,
    spread_m: F64,
    template_faces: npt.NDArray[np.int32],
    *,
    notes: Mapping[str, float] = MappingProxyType({}),
    usual_height_m: float | None = None,
) -> F64:
    """Return what confidence is made of, (N, F) float64, columns as in :data:`FEATURES`.

    - The posterior spread of the template there: how far the point may have slid, if the prior is right. Begun from a
      sequence's person, the frame's own spread lacks what is wrong with the person, which is added.
    - Its height over the registered surface, and the usual height on this face: what no smooth shape could follow.
    - Whether it is forehead, which slides farther than the spread says.
    - How far the frame's landmarks scatter.

    Parameters
    ----------
    transported : Transported
        Of all scan vertices.
    spread_m : (M,) float64
        Posterior standard deviation of each fine template vertex's position.
    template_faces : (G, 3) int32
    notes : mapping of str to float
        Of the start, as a verdict's figures have them: ``person_used`` and ``landmark_scatter_mm`` count.
    usual_height_m : float or None
        Of :func:`usual_height`, where these are other points than the scan's.
    """
    foot = transported.foot
    at_feet_m = np.einsum("nc,nc->n", foot.barycentric, spread_m[template_faces[foot.face]])
    spread_mm = np.clip(at_feet_m * MM_PER_M, *SPREAD_RANGE_MM)
    if notes.get("person_used"):
        spread_mm = np.hypot(spread_mm, PERSON_SPREAD_MM)
    height_mm = np.minimum(np.abs(transported.offset_m) * MM_PER_M, HEIGHT_LIMIT_MM)
    usual_mm = (usual_height(transported) if usual_height_m is None else usual_height_m) * MM_PER_M
    count = len(height_mm)
    return np.stack(
        [
            np.ones(count),
            np.log(spread_mm),
            height_mm,
            np.full(count, np.log(max(usual_mm, LEAST_USUAL_MM))),
            (transported.region == REGIONS["forehead"]).astype(np.float64),
            np.full(count, np.log(notes.get("landmark_scatter_mm", USUAL_SCATTER_MM))),
        ],
        axis=1,
    )


def usual_height(transported: Transported) -> float:
    """Return the median height of a scan's points over the registered face, metres: what no smooth shape follows."""
    on_face = transported.matched & mask_of(transported.region, FACE_REGIONS)
    limit_m = HEIGHT_LIMIT_MM / MM_PER_M
    return float(np.median(np.minimum(np.abs(transported.offset_m[on_face]), limit_m))) if on_face.any() else limit_m


def point_confidence(transported: Transported, features: F64) -> npt.NDArray[np.float32]:
    """Return the confidence (N,) float32 in [0, 1] of every scan vertex; 0 exactly where there is no counterpart.

    A stated confidence is the chance that the canonical coordinate is within a millimetre of the truth, as calibrated
    on simulated people, whose truth is known, and on real families, where a vertex's truth is its mean over the family.
    In sequence mode it is the chance to be within a millimetre of the mean over the person's frames: what is wrong with
    the person in all frames alike shows in none of them. ``python -m benchmarks warp --real`` measures how well this
    holds.

    Parameters
    ----------
    transported : Transported
        Of all scan vertices.
    features : (N, F) float64
        Of :func:`confidence_features`.
    """
    stated = stated_confidence(features, transported.region)
    return np.where(transported.matched, stated, 0.0).astype(np.float32)


def stated_confidence(features: F64, region: npt.NDArray[np.integer], weights: F64 = WEIGHTS) -> F64:
    """Return the confidence (N,) of points with features (N, F) and a counterpart in some region (N,)."""
    chance = 1 / (1 + np.exp(-np.clip(features @ weights, -30, 30)))
    ceiling = np.where(mask_of(region, INTERIOR_REGIONS), INTERIOR_CEILING, 1.0)
    ceiling[region == REGIONS["scalp"]] = SCALP_CEILING
    ceiling[features[:, FEATURES.index("height")] >= FAR_MM] = FAR_CEILING
    # A counterpart that exists keeps a trace of confidence: zero is reserved for "none".
    return np.asarray(np.maximum(np.minimum(chance, ceiling), LEAST_CONFIDENCE))
