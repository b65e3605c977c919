"""Whether the measure itself is right: three inputs whose figures are known beforehand."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import norm, qmc

from datagen.common.arrays import F64, I64
from datagen.shards.meshes import MaterialPoints
from trainer.evaluation.canonical import REGION_NAMES
from trainer.evaluation.track.baselines import shifted_track
from trainer.evaluation.track.motion import MeshMotion, true_pixels
from trainer.evaluation.track.prediction import Track
from trainer.evaluation.track.shot import Shot
from trainer.evaluation.tracking import MAX_WINDOW

VELOCITY_PX = (0.12, -0.09)
JITTER_PX = 0.5
_REPEATS = 16
_JITTER_FRAMES = 64
_PIXELS = 600


@dataclass(frozen=True, eq=False)
class Resampled:
    """The same surface in another topology: points of it, and triangles between them.

    Attributes
    ----------
    points : MaterialPoints
        Where each new vertex lies on the old faces.
    faces : (F, 3) int64
    correspondence : MaterialPoints
        Where each old vertex lies on the new ones.
    """

    points: MaterialPoints
    faces: I64
    correspondence: MaterialPoints

    def track(self, shot: Shot) -> Track:
        """Return the truth of a shot in this topology."""
        vertices = self.points.on(shot.in_camera, shot.topology.faces)
        return Track(shot.frames, self.faces, vertices, correspondence=self.correspondence)


def resampled(faces: I64, vertices: int, seed: int = 0) -> Resampled:
    """Cut every triangle by a point drawn inside it into three, unweld all, and shuffle vertices and triangles."""
    rng = np.random.default_rng([seed, 4])
    F = len(faces)
    inner = rng.dirichlet([2.0, 2.0, 2.0], F)
    corner = np.eye(3)
    # Of each triangle its three corners and the point inside.
    weights = np.concatenate([np.broadcast_to(corner, (F, 3, 3)), inner[:, None]], axis=1).reshape(-1, 3)
    carriers = np.repeat(np.arange(F), 4)
    order = rng.permutation(4 * F)
    place = np.empty(4 * F, np.int64)
    place[order] = np.arange(4 * F)
    first = 4 * np.arange(F)[:, None, None]
    triangles = (first + np.array([[0, 1, 3], [1, 2, 3], [2, 0, 3]])).reshape(-1, 3)
    shuffled = rng.permutation(len(triangles))
    new = place[triangles][shuffled]
    where = np.empty(len(triangles), np.int64)
    where[shuffled] = np.arange(len(triangles))
    carrier, at = np.zeros(vertices, np.int64), np.zeros(vertices, np.int64)
    for k in range(3):
        carrier[faces[:, k]], at[faces[:, k]] = np.arange(F), k
    # Corner k of a triangle is the first of its k-th part.
    correspondence = MaterialPoints(where[3 * carrier + at], np.broadcast_to(corner[0], (vertices, 3)))
    return Resampled(MaterialPoints(carriers[order], weights[order]), new, correspondence)


def topology_px(shot: Shot, pixels: int) -> float:
    """Return the largest SSME, of all regions, of the truth in another topology; 0 would be exact."""
    faces = np.asarray(shot.topology.faces, np.int64)
    found = _measured([(shot, resampled(faces, len(shot.topology.label)).track(shot))], pixels)
    return max(value for name in REGION_NAMES if np.isfinite(value := found[f"ssme_{name}_px"]))


def velocity_error(shot: Shot) -> float:
    """Return the largest relative error of SSME(h) of a face that moves v too much a frame; v h would be exact."""
    still = stilled(shot, MAX_WINDOW + 6)
    shift = np.arange(len(still.frames))[:, None] * np.array(VELOCITY_PX)
    curve = _curve([(still, shifted_track(still, shift))])
    windows = np.arange(1, MAX_WINDOW + 1)
    return float(np.abs(curve / (np.hypot(*VELOCITY_PX) * windows) - 1).max())


def jitter_curve(shot: Shot, repeats: int = _REPEATS) -> F64:
    """Return SSME(h) over s √π, of a face that jitters by s in each frame by itself; 1 would be exact."""
    still = stilled(shot, _JITTER_FRAMES)
    T = len(still.frames)
    # Spread evenly over the normal distribution, then shuffled over frames: fewer are needed than of free draws.
    spread = norm.ppf(qmc.Sobol(2, seed=5).random(1 << int(np.ceil(np.log2(repeats * T)))))
    draws = np.random.default_rng(6).permutation(spread)[: repeats * T].reshape(repeats, T, 2)
    return _curve([(still, shifted_track(still, JITTER_PX * of)) for of in draws]) / (JITTER_PX * np.sqrt(np.pi))


def stilled(shot: Shot, frames: int) -> Shot:
    """Return a shot of a face that does not move: the first frame of another, again and again."""
    return replace(
        shot,
        frames=np.arange(frames),
        vertices=np.repeat(shot.vertices[:1], frames, axis=0),
        intrinsics=np.repeat(shot.intrinsics[:1], frames, axis=0),
        world_to_camera=np.repeat(shot.world_to_camera[:1], frames, axis=0),
        depth=None if shot.depth is None else np.repeat(shot.depth[:1], frames, axis=0),
    )


def exactness(shot: Shot, pixels: int = 2500) -> dict[str, float]:
    """Return the three figures of the measure's own exactness on a shot."""
    small = smaller(shot, 96)
    return {
        "track_topology_px": topology_px(_beginning(shot, 12), pixels),
        "track_velocity_error": velocity_error(small),
        "track_jitter_error": float(abs(jitter_curve(small).mean() - 1)),
    }


def smaller(shot: Shot, side: int) -> Shot:
    """Return a shot in pictures of another width, without the depth that they show."""
    height, width = shot.size
    scale = side / width
    K = np.diag([scale, scale, 1.0]) @ shot.intrinsics
    return replace(shot, intrinsics=K, size=(round(height * scale), side), depth=None)


def _beginning(shot: Shot, count: int) -> Shot:
    return replace(
        shot,
        frames=shot.frames[:count],
        vertices=shot.vertices[:count],
        intrinsics=shot.intrinsics[:count],
        world_to_camera=shot.world_to_camera[:count],
        depth=None if shot.depth is None else shot.depth[:count],
    )


def _curve(pairs: list[tuple[Shot, Track]]) -> F64:
    return _motion(pairs, _PIXELS).curve("face")


def _measured(pairs: list[tuple[Shot, Track]], pixels: int) -> dict[str, float]:
    return _motion(pairs, pixels).metrics()


def _motion(pairs: list[tuple[Shot, Track]], pixels: int) -> MeshMotion:
    motion = MeshMotion(REGION_NAMES)
    rng = np.random.default_rng(7)
    known = None
    for shot, track in pairs:
        if known is None or known[0] is not shot:
            known = shot, [true_pixels(shot, t, pixels, rng) for t in range(len(shot.frames))]
        motion.add(shot, track, known[1])
    return motion
