"""Meshes of a known topology given as anonymous scans, and the way back to score them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from datagen.common.arrays import F64, I64
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import Mesh
from datagen.geometry.space import MM_PER_M
from datagen.warp.similarity import Similarity

FARTHEST_MOVE_M = 0.3


@dataclass(frozen=True, eq=False)
class HiddenScan:
    """A mesh whose topology is hidden.

    Attributes
    ----------
    scan : Mesh
        Vertices, triangles and the corners of triangles shuffled; moved rigidly, with noise; metres.
    landmarks : Landmarks
        Moved alike, with noise of their own.
    order : (n,) int64
        Vertex j of the scan is vertex ``order[j]`` of the hidden topology.
    """

    scan: Mesh
    landmarks: Landmarks
    order: I64

    def undone(self, values: npt.NDArray[np.floating], count: int) -> F64:
        """Return values of scan vertices (n, ...) by hidden vertex, (count, ...) float64; NaN for those not scanned."""
        out = np.full((count, *np.shape(values)[1:]), np.nan)
        out[self.order] = values
        return out


def hide(
    vertices: F64,
    faces: npt.NDArray[np.integer],
    landmarks: Mapping[int, F64],
    rng: np.random.Generator,
    *,
    noise_mm: float,
    landmark_noise_mm: float = 0.0,
    motion: Similarity | None = None,
) -> HiddenScan:
    """Give a mesh as an anonymous scan.

    Parameters
    ----------
    vertices : (N, 3) float64
        Metres.
    faces : (F, 3) integer
    landmarks : iBUG index to (3,) float64
        Metres, on this mesh.
    noise_mm, landmark_noise_mm : float
        Standard deviation per coordinate.
    motion : Similarity, optional
        Where the mesh is moved; by default turned at random, and up to 30 cm away along each axis.
    """
    count = len(vertices)
    order = rng.permutation(count)
    place = np.empty(count, np.int64)
    place[order] = np.arange(count)
    shuffled = place[np.asarray(faces, np.int64)][rng.permutation(len(faces))]
    turn = (np.arange(3) + rng.integers(3, size=len(shuffled))[:, None]) % 3
    shuffled = np.take_along_axis(shuffled, turn, axis=1)
    if motion is None:
        rotation = Rotation.random(random_state=rng).as_matrix()
        motion = Similarity(1.0, rotation, rng.uniform(-FARTHEST_MOVE_M, FARTHEST_MOVE_M, 3))
    noisy = vertices[order] + rng.normal(0, noise_mm / MM_PER_M, (count, 3))
    # By the order in which the landmarks are listed, which is that of their indices in every file we know.
    points = motion.apply(np.array(list(landmarks.values())))
    points = points + rng.normal(0, landmark_noise_mm / MM_PER_M, points.shape)
    return HiddenScan(
        Mesh.of(motion.apply(noisy), shuffled), Landmarks(np.array(list(landmarks), np.int64), points), order
    )
