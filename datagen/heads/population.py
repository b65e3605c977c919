"""How real people differ from the typical face: principal components of a model of scans, in a head's topology."""

from __future__ import annotations

import io
from functools import lru_cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from datagen.heads.base import HeadTemplate
from datagen.heads.typical import MIRROR, RIDGE, covariance

# Between the points where the components are stored they vary over these lengths.
LENGTHS_M = (0.012, 0.04)
# Two points are one another's mirror images if they lie as near as this.
SAME_M = 1e-6


@lru_cache(maxsize=4)
def population_modes_m(template: HeadTemplate) -> npt.NDArray[np.float64]:
    """Return displacements (K, V, 3) float64 metres of which real adult faces are sums, each times a factor of N(0, 1).

    None, (0, V, 3), for heads whose own identities are such components (ICT, FLAME) or of which nothing is known. They
    are those of ICT-FaceKit (R. Li et al., "Learning formation of physically-based face attributes", CVPR 2020; MIT
    licence, beside the file) and of their mirror images. Each is its own mirror image, or the opposite of it. Between
    the stored points it is the mean of a Gaussian process, which dies out where these scans end.
    """
    place = files("datagen.heads") / "data" / f"{template.name}_population.npz"
    none = np.zeros((0, *template.vertices.shape))
    if not place.is_file():
        return none
    stored = np.load(io.BytesIO(place.read_bytes()), allow_pickle=False)
    if stored["template"].item() != template.digest:
        return none
    left = template.vertices[stored["vertices"]]
    modes = stored["modes"].astype(np.float64) * stored["step_m"][:, None, None]
    return spread(template.vertices, *both_sides(left, modes, stored["parity"]))


def both_sides(
    left: npt.NDArray[np.float64], modes: npt.NDArray[np.float64], parity: npt.NDArray[np.integer]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return points (N, 3) of the subject's left with their mirror images, and components (K, N, 3) at all of them.

    Parameters
    ----------
    parity : (K,) integer
        1 where a component is its own mirror image, -1 where it is the opposite.
    """
    points = np.concatenate([left, left * MIRROR])
    all_modes = np.concatenate([modes, parity[:, None, None] * modes * MIRROR], axis=1)
    # Points on the midline are their own mirror images.
    beside = np.concatenate([np.ones(len(left), bool), np.abs(left[:, 0]) > SAME_M])
    return points[beside], all_modes[:, beside]


def spread(
    vertices: npt.NDArray[np.float64], points: npt.NDArray[np.float64], modes: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return components (K, N, 3) known at points (N, 3) at vertices (V, 3), (K, V, 3) float64."""
    count = len(modes)
    values = modes.transpose(1, 0, 2).reshape(len(points), -1)
    weights = np.linalg.solve(covariance(points, points, LENGTHS_M) + RIDGE * np.eye(len(points)), values)
    found = covariance(vertices, points, LENGTHS_M) @ weights
    return np.ascontiguousarray(found.reshape(len(vertices), count, 3).transpose(1, 0, 2))
