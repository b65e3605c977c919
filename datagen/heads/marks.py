"""Hand-marked data of a template: 68 landmarks and the vertices inside the mouth."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Marks:
    """What was marked by hand on one template.

    Attributes
    ----------
    faces : (68,) int32
    barycentric : (68, 3) float64
    interior : (M,) int64
        Vertices of the skin component that lie inside the mouth.
    """

    faces: npt.NDArray[np.int32]
    barycentric: npt.NDArray[np.float64]
    interior: npt.NDArray[np.int64]

    def points(self, vertices: npt.NDArray[np.float64], triangles: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
        """Return the landmarks (68, 3) metres on ``vertices`` (V, 3) with faces ``triangles`` (F, 3)."""
        return np.einsum("lc,lcd->ld", self.barycentric, vertices[triangles[self.faces]])


def read_marks(name: str) -> Marks:
    """Read the marks of the template ``name`` packaged with this module (``data/<name>_marks.json``)."""
    content = json.loads((files("datagen.heads") / "data" / f"{name}_marks.json").read_text())
    weights = np.array([mark["barycentric"] for mark in content["landmarks"]], np.float64)
    return Marks(
        faces=np.array([mark["face"] for mark in content["landmarks"]], np.int32),
        barycentric=weights / weights.sum(axis=1, keepdims=True),
        interior=np.array(content["interior"], np.int64),
    )
