"""The leader table's own rows: what needs no learning, and the smoothing that FlowFace's authors gave to others."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from datagen.common.arrays import F64
from datagen.heads.base import HeadTemplate
from datagen.heads.contents import template_contents
from datagen.heads.registry import load_head
from datagen.shards.meshes import MaterialPoints
from trainer.evaluation.shape import rigid_fit
from trainer.evaluation.track.baselines import rigid_track, smoothed, still_track
from trainer.evaluation.track.prediction import Track
from trainer.evaluation.track.shot import Shot

LANDMARK_NOISE = 0.006  # of the picture's width: about what detectors have
Tracker = Callable[[Shot], Track | None]


def landmark_track(shot: Shot, template: HeadTemplate, mean: F64, noise: float = LANDMARK_NOISE) -> Track:
    """Return a model's mean face, posed in each frame by 68 noisy landmarks on the screen: no shape, no expression.

    Parameters
    ----------
    mean : (V, 3) float64
        On the skin, template axes.
    noise : float
        Standard deviation of each coordinate, of the picture's width.
    """
    rng = np.random.default_rng([8, *map(ord, shot.name)])
    points = MaterialPoints(template.landmark_faces.astype(np.int64), template.landmark_barycentric)
    marks = points.on(mean, template.faces)
    seen = points.on(shot.screen, shot.topology.faces)
    seen = seen[..., :2] / seen[..., 2:]
    seen = seen + rng.normal(0, noise * shot.size[1], seen.shape)
    first = rigid_fit(marks, points.on(shot.in_camera[0], shot.topology.faces))
    pose = np.concatenate([Rotation.from_matrix(first[:3, :3]).as_rotvec(), first[:3, 3]])
    posed = []
    for K, places in zip(shot.intrinsics, seen, strict=True):
        pose = least_squares(_residual, pose, args=(marks, K, places), loss="soft_l1").x
        posed.append(_moved(pose, mean))
    return Track(shot.frames, template.faces.astype(np.int64), np.stack(posed))


def _residual(pose: F64, marks: F64, K: F64, places: F64) -> F64:
    image = _moved(pose, marks) @ K.T
    return (image[:, :2] / image[:, 2:] - places).ravel()


def _moved(pose: F64, points: F64) -> F64:
    return Rotation.from_rotvec(pose[:3]).apply(points) + pose[3:]


def baselines() -> Mapping[str, Tracker]:
    """Return the trackers of the leader table."""
    head = load_head("anny")
    mean = template_contents(head, 0).vertices.astype(np.float64)

    def posed(shot: Shot) -> Track:
        return landmark_track(shot, head.template, mean)

    return {
        "static: the first true mesh, which stays": still_track,
        "rigid: the first true mesh under each true pose": rigid_track,
        "mean face under 68 noisy landmarks": posed,
        "the same, Gaussian over time": lambda shot: smoothed(shot, posed(shot)),
    }
