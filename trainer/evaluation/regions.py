"""The five regions errors are reported for, as the dataset's labels give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

# The regions of FlowFace's benchmark (face, mouth, nose, eyes, ears), out of the label names datasets carry.
_GROUPS: Mapping[str, tuple[str, ...]] = {
    "mouth": ("upper_lip", "lower_lip", "mouth_interior"),
    "nose": ("nose",),
    "eyes": ("right_eye", "left_eye", "right_eyeball", "left_eyeball"),
    "ears": ("right_ear", "left_ear"),
}
_FACE = ("cheeks", "forehead", "brows", "chin", *_GROUPS["mouth"], *_GROUPS["nose"], *_GROUPS["eyes"])
REGION_NAMES = ("face", *_GROUPS)


def region_labels(labels: Mapping[str, int]) -> dict[str, npt.NDArray[np.int64]]:
    """Return the labels of each region a dataset has, given its attribute ``regions``.

    A dataset that names none of the parts of a face is one of whole heads: its every label is ``face``; without any
    label at all, every pixel is.
    """
    groups = {"face": _FACE, **_GROUPS}
    found = {name: [labels[part] for part in parts if part in labels] for name, parts in groups.items()}
    if not found["face"]:
        found["face"] = [value for value in labels.values() if value > 0] or list(range(256))
    return {name: np.array(values, np.int64) for name, values in found.items() if values}


def in_region(region: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return where a map of labels shows one of ``labels``."""
    return np.isin(region, labels)
