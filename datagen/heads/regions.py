"""The region labels every head model and every dataset shares."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

REGIONS: dict[str, int] = {
    "background": 0,
    "cheeks": 1,
    "forehead": 2,
    "nose": 3,
    "right_eye": 4,  # lids and the skin around the eye, brow excluded
    "left_eye": 5,
    "brows": 6,
    "upper_lip": 7,
    "lower_lip": 8,
    "chin": 9,
    "right_ear": 10,
    "left_ear": 11,
    "scalp": 12,
    "neck": 13,
    "right_eyeball": 14,
    "left_eyeball": 15,
    "mouth_interior": 16,
}
REGION_NAMES: dict[int, str] = {label: name for name, label in REGIONS.items()}

# The skin a face model is judged on.
FACE_REGIONS = (
    "cheeks",
    "forehead",
    "nose",
    "right_eye",
    "left_eye",
    "brows",
    "upper_lip",
    "lower_lip",
    "chin",
)
# Parts that move apart from the skin around them: a correspondence never crosses into or out of them.
INTERIOR_REGIONS = ("right_eyeball", "left_eyeball", "mouth_interior")


def mask_of(labels: npt.NDArray[np.integer], names: tuple[str, ...]) -> npt.NDArray[np.bool_]:
    """Return a boolean array of ``labels``' shape, true where the label is one of ``names``."""
    return np.isin(labels, [REGIONS[name] for name in names])
