"""The typical real face in a head model's topology: the smooth displacement from its neutral, learnt from people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from datagen.heads.base import HeadTemplate

# Between the points where the displacement is stored it varies over these lengths.
LENGTHS_M = (0.03, 0.08)
# Of the interpolation, relative to the displacement's own size: what is stored is rounded, not noisy.
RIDGE = 1e-3
MIRROR = np.array([-1.0, 1.0, 1.0])


@lru_cache(maxsize=4)
def typical_offset_m(template: HeadTemplate) -> npt.NDArray[np.float64]:
    """Return the displacement (V, 3) float64 metres from a template's neutral to the mean of real adult faces.

    A template is a convention, and its canonical space stays what it is; but who is fitted looks less like it than like
    other people. Zero for heads that are means of real scans already (ICT, FLAME) or of which nothing is known. The
    stored points lie on the subject's left; the other side is their mirror image, and between them the displacement is
    the mean of a Gaussian process that dies out behind the face.
    """
    name = f"{template.name}_typical.json"
    stored = files("datagen.heads") / "data" / name
    if not stored.is_file():
        return np.zeros_like(template.vertices)
    content = json.loads(stored.read_text())
    if content["template"] != template.digest:
        return np.zeros_like(template.vertices)
    points = template.vertices[content["vertices"]]
    moved = np.array(content["offset_mm"], np.float64) * 1e-3
    points, moved = np.concatenate([points, points * MIRROR]), np.concatenate([moved, moved * MIRROR])
    # Points on the midline are their own mirror images.
    _, first = np.unique(np.round(points, 6), axis=0, return_index=True)
    points, moved = points[np.sort(first)], moved[np.sort(first)]
    weights = np.linalg.solve(covariance(points, points, LENGTHS_M) + RIDGE * np.eye(len(points)), moved)
    return covariance(template.vertices, points, LENGTHS_M) @ weights


def covariance(
    a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], lengths_m: Sequence[float]
) -> npt.NDArray[np.float64]:
    """Return the covariance (A, B) of a field that varies over some lengths, of points (A, 3) and (B, 3) metres."""
    squared = cdist(a, b, "sqeuclidean")
    return np.asarray(sum(np.exp(-0.5 * squared / length**2) for length in lengths_m))
