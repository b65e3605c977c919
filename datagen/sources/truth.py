"""The known truth of simulated captures, kept apart from the captures so that nothing can peek at it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError
from datagen.common.files import read_npz
from datagen.sources.frame import SequenceKey


def truth_path(truth_root: Path, key: SequenceKey, frame: int) -> Path:
    """Return where the truth of one frame lies."""
    return Path(truth_root) / key.subject / key.sequence / f"{frame:06d}.npz"


def read_truth(truth_root: Path, key: SequenceKey, frame: int) -> npt.NDArray[np.float32]:
    """Read the true normalised canonical coordinate of every scan vertex.

    Returns
    -------
    canonical : (N, 3) float32
        In the scan's vertex order; NaN for stray pieces, which belong to no head.

    Raises
    ------
    InputError
        If there is no truth for that frame, or the file is broken.
    """
    path = truth_path(truth_root, key, frame)
    if not path.is_file():
        raise InputError(
            f"there is no truth for frame {frame} of {key} ({path})",
            "a simulated capture with its truth folder",
            "Only simulated captures have truth; check truth_root",
        )
    arrays = read_npz(path, ("canonical",), expected="a complete npz", fix="Simulate it again")
    return np.asarray(arrays["canonical"], np.float32)
