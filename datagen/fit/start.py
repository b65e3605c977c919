"""Where a fit begins: each frame's pose, from points that several cameras show, or from one picture alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from datagen.common.arrays import F64
from datagen.common.errors import InputError
from datagen.fit.pixels import SeenFrames
from datagen.fit.problem import FitFrame
from datagen.fit.rigid import turn_and_shift
from datagen.geometry.camera import Camera
from datagen.warp.pixel_rows import SeenInPictures
from datagen.warp.similarity import Similarity

# A pose has six unknowns; fewer points are a few features that may all be wrong.
FEWEST_POINTS = 8
MOST_POINTS = 200
AFFINE_ROUNDS = 8
POSE_ROUNDS = 12
MAX_TURN_RAD = 0.5
# Of a camera's own focal length, where it is unknown.
FOCAL_TRIALS = (0.5, 0.71, 1.0, 1.41, 2.0)


@dataclass(frozen=True, eq=False)
class Placed:
    """Poses of all frames.

    Attributes
    ----------
    rotations : (T, 3, 3) float64
    centres : (T, 3) float64
        Where the head's middle lies, world metres.
    log_scale : float
    focal_px : mapping of camera to float
        Empty where they are known.
    """

    rotations: F64
    centres: F64
    log_scale: float
    focal_px: Mapping[str, float]


def place(seen: SeenFrames, base: F64, centre: F64, frames: Sequence[FitFrame], focal: bool) -> Placed:
    """Place the usual head in all frames.

    Parameters
    ----------
    base : (u, 3) float64
        The points that were seen, on the usual head, template axes.
    centre : (3,) float64
        The head's middle.
    frames : sequence of FitFrame
        For messages.
    focal : bool
        Whether focal lengths are unknown: a few are tried, the same multiple for all cameras.

    Raises
    ------
    InputError
        If a frame has too few points, or the head cannot be placed by them.
    """
    for one, frame in zip(seen.frames, frames, strict=True):
        most = max((len(view.where) for view in one.views), default=0)
        if most < FEWEST_POINTS:
            raise InputError(
                f"frame {frame.index}: at most {most} points of the head were seen in a picture",
                f"{FEWEST_POINTS} in one at least",
                "Leave the frame out, or look at its pictures with another program",
            )
    own = {
        view.camera.name: float(view.camera.K[0, 0] + view.camera.K[1, 1]) / 2 for s in seen.frames for view in s.views
    }
    best: tuple[float, list[Similarity], dict[str, float]] | None = None
    for factor in FOCAL_TRIALS if focal else (1.0,):
        lengths = {name: factor * f for name, f in own.items()}
        if focal:
            seen.with_focal(lengths)
        cost, poses = 0.0, []
        for one, frame in zip(seen.frames, frames, strict=True):
            pose, more = _placed(one, base, centre, frame.index)
            cost += more
            poses.append(pose)
        if best is None or cost < best[0]:
            best = cost, poses, lengths
    assert best is not None
    _, poses, lengths = best
    rotations = np.stack([pose.rotation for pose in poses])
    centres = np.stack([pose.apply(centre[None])[0] for pose in poses])
    return Placed(rotations, centres, 0.0, lengths if focal else {})


def _placed(seen: SeenInPictures, base: F64, centre: F64, index: int) -> tuple[Similarity, float]:
    """Place the head by each picture alone, and take what all of them agree with best."""
    best: tuple[float, Similarity] | None = None
    seen = _thinned(seen)
    for view in seen.views:
        if len(view.where) < FEWEST_POINTS:
            continue
        start = _from_one(view.camera, base[view.where], view.pixels)
        if start is None:
            continue
        pose, cost = _settled(seen, base, centre, start)
        if best is None or cost < best[0]:
            best = cost, pose
    if best is None:
        raise InputError(
            f"frame {index}: the points that were seen are no picture of a head",
            "points that one head in front of the camera explains",
            "Look at the picture: the subject's left and right may be exchanged, or the points be of something else",
        )
    return best[1], best[0]


def _thinned(seen: SeenInPictures) -> SeenInPictures:
    """Return pictures with some of their points: more say nothing new of where a head is."""
    views = []
    for view in seen.views:
        some = np.unique(np.linspace(0, len(view.where) - 1, min(len(view.where), MOST_POINTS)).astype(int))
        views.append(replace(view, where=view.where[some], pixels=view.pixels[some], covariance=view.covariance[some]))
    return SeenInPictures(seen.operator, tuple(views), seen.sources)


def _from_one(camera: Camera, base: F64, pixels: F64) -> Similarity | None:
    """Return a pose from one picture, as a scaled orthographic camera sees it; None if there is none.

    D. DeMenthon & L. Davis, "Model-based object pose in 25 lines of code", 1995, with weights against wrong points.
    """
    rays = np.column_stack([pixels, np.ones(len(pixels))]) @ np.linalg.inv(camera.K).T
    x = np.column_stack([base, np.ones(len(base))])
    weight = np.ones(len(base))
    affine = np.zeros((4, 2))
    for _ in range(AFFINE_ROUNDS):
        affine, *_ = np.linalg.lstsq(x * np.sqrt(weight)[:, None], rays[:, :2] * np.sqrt(weight)[:, None], rcond=None)
        off = np.linalg.norm(x @ affine - rays[:, :2], axis=1)
        scatter = max(1.4826 * float(np.median(off)), 1e-6)
        weight = (1 + (off / (2 * scatter)) ** 2) ** -2.0
    a, b = affine[:3].T
    size = float(np.sqrt(np.linalg.norm(a) * np.linalg.norm(b)))
    if not size > 1e-6:
        return None
    U, _, Vt = np.linalg.svd(np.stack([a, b]), full_matrices=False)
    first, second = U @ Vt
    rotation = np.stack([first, second, np.cross(first, second)])
    depth = 1 / size
    translation = depth * np.array([affine[3, 0], affine[3, 1], 1.0])
    R, t = camera.world_to_camera[:3, :3], camera.world_to_camera[:3, 3]
    return Similarity(1.0, R.T @ rotation, R.T @ (translation - t))


def _settled(seen: SeenInPictures, base: F64, centre: F64, pose: Similarity) -> tuple[Similarity, float]:
    """Return the rigid pose that all pictures agree with, from one, and how far off their points are then."""
    local = base - centre
    J = turn_and_shift(local)
    for _ in range(POSE_ROUNDS):
        A, b = 1e-3 * np.eye(6), np.zeros(6)
        for rows in seen.rows(pose, base):
            by_pose = np.einsum("nij,njk->nik", rows.derivative, J[rows.view.where])
            weighed = by_pose * rows.weight[:, None, None]
            A += np.einsum("nik,nil->kl", weighed, by_pose)
            b += np.einsum("nik,ni->k", weighed, rows.residual)
        step = np.linalg.solve(A, b)
        step *= min(1.0, MAX_TURN_RAD / max(float(np.abs(step[:3]).max()), 1e-12))
        middle = pose.apply(centre[None])[0] + pose.rotation @ step[3:]
        rotation = pose.rotation @ Rotation.from_rotvec(step[:3]).as_matrix()
        pose = Similarity(1.0, rotation, middle - rotation @ centre)
        if np.abs(step).max() < 1e-5:
            break
    # Pictures may be wrong: what counts is what most of them say. Points behind a camera have no residual.
    medians = []
    for rows in seen.rows(pose, base):
        shown = rows.root.any(axis=(1, 2))
        off = np.where(shown, (rows.residual**2).sum(axis=1), np.inf)
        medians.append(float(np.median(off)) if len(off) else np.inf)
    return pose, float(np.median(medians))
