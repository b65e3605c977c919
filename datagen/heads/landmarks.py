"""The 68 landmarks: what each means, whose mirror image it is, and how far two hands differ in marking it."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt

COUNT = 68
FILE = "landmarks.json"


def _mirror() -> npt.NDArray[np.int64]:
    partner = np.arange(COUNT)
    for first, last in ((0, 16), (17, 26), (31, 35), (48, 54), (55, 59), (60, 64), (65, 67)):
        partner[first : last + 1] = np.arange(last, first - 1, -1)
    partner[36:48] = [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
    return partner


# Index of each landmark's mirror image; its own on the midline.
MIRROR = _mirror()
MIRROR.flags.writeable = False


@lru_cache(maxsize=1)
def landmark_sigma_m() -> npt.NDArray[np.float64]:
    """Return the standard deviation (68,) of each landmark, per coordinate, metres.

    How far hands differ in where they mark it, seen on faces of several sources. The noise of a detector comes on top.
    """
    content = json.loads((files("datagen.heads") / "data" / FILE).read_text())
    sigma = np.array([entry["sigma_mm"] for entry in content["landmarks"]], np.float64) * 1e-3
    sigma.flags.writeable = False
    return sigma


def landmark_meanings() -> tuple[str, ...]:
    """Return what each of the 68 landmarks is, in words."""
    content = json.loads((files("datagen.heads") / "data" / FILE).read_text())
    return tuple(entry["meaning"] for entry in content["landmarks"])
