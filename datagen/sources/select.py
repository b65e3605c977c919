"""Choosing frames that differ: greedy farthest points over expression and pose, sequence by sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

Quality = Literal["expression", "pose"]
HEAD_RADIUS_M = 0.1  # a turn by an angle counts as the way it moves a point so far from the axis
FEWEST_POINTS = 4  # that do not lie in a plane: fewer tell no pose


def farthest_points(features: npt.NDArray[np.floating], count: int) -> npt.NDArray[np.int64]:
    """Choose rows that lie far from each other.

    The first is the one nearest to the mean, each further one the farthest from all before it (Gonzalez 1985): no
    choice of as many rows has less than half of its covering radius.

    Parameters
    ----------
    features : (N, D) float
    count : int
        At least 1.

    Returns
    -------
    (min(N, count),) int64, in the order of their choice; of rows that are alike the first
    """
    if not len(features):
        return np.zeros(0, np.int64)
    x = np.asarray(features, np.float64).reshape(len(features), -1)
    first = int(((x - x.mean(axis=0)) ** 2).sum(axis=1).argmin())
    chosen = [first]
    apart = ((x - x[first]) ** 2).sum(axis=1)
    while len(chosen) < min(count, len(x)):
        # What is chosen is never chosen again, even where all that is left is like it.
        apart[chosen[-1]] = -1.0
        chosen.append(int(apart.argmax()))
        apart = np.minimum(apart, ((x - x[chosen[-1]]) ** 2).sum(axis=1))
    return np.array(chosen, np.int64)


def covering_radius(features: npt.NDArray[np.floating], chosen: npt.ArrayLike) -> float:
    """Return how far the worst row (N, D) is from the nearest chosen one."""
    x = np.asarray(features, np.float64)
    nearest = np.full(len(x), np.inf)
    for row in x[np.asarray(chosen)]:
        nearest = np.minimum(nearest, ((x - row) ** 2).sum(axis=1))
    return float(np.sqrt(nearest.max()))


def expression_and_pose(points: npt.NDArray[np.floating]) -> tuple[F64, F64]:
    """Tell a moving face's expression from its pose.

    Parameters
    ----------
    points : (N, M, 3) float
        The same M points of a person in N frames, world metres.

    Returns
    -------
    expression : (N, 3 M) float64
        The points of each frame laid on the mean face by a rigid motion, metres, over the square root of M.
    pose : (N, 6) float64
        That motion: turn (times 0.1 m) and place, metres.
    """
    from scipy.spatial.transform import Rotation

    x = np.asarray(points, np.float64)
    mean, laid = x[0], x
    for _ in range(3):  # the mean face and the motions onto it agree after two rounds
        laid, turns = _laid_on(mean, x)
        mean = laid.mean(axis=0)
    place = x.mean(axis=1)
    vector = Rotation.from_matrix(turns).as_rotvec()
    expression = (laid - mean).reshape(len(x), -1) / np.sqrt(x.shape[1])
    return expression, np.concatenate([vector * HEAD_RADIUS_M, place - place.mean(axis=0)], axis=1)


def _laid_on(mean: F64, x: F64) -> tuple[F64, F64]:
    """Return every frame's points (N, M, 3) laid on ``mean`` (M, 3), and the turns (N, 3, 3) that do so."""
    centred, target = x - x.mean(axis=1, keepdims=True), mean - mean.mean(axis=0)
    U, _, Vt = np.linalg.svd(np.einsum("md,nme->nde", target, centred))
    sign = np.sign(np.linalg.det(U @ Vt))
    U[:, :, 2] *= sign[:, None]
    turns = U @ Vt
    laid: F64 = np.einsum("nde,nme->nmd", turns, centred) + mean.mean(axis=0)
    return laid, turns


def features_of(points: npt.NDArray[np.floating], by: Sequence[Quality]) -> F64:
    """Return what frames differ in, (N, D) float64; each quality counts alike, by its own spread.

    Parameters
    ----------
    points : (N, M, 3) float
        As of :func:`expression_and_pose`.
    by : sequence of ``"expression"`` or ``"pose"``
    """
    expression, pose = expression_and_pose(points)
    parts = []
    for name, part in (("expression", expression), ("pose", pose)):
        if name in by:
            spread = float(np.sqrt((part**2).sum(axis=1).mean()))
            parts.append(part / spread if spread > 0 else part)
    return np.concatenate(parts, axis=1)
