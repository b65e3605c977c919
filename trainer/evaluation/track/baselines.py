"""What any tracker has to beat, and the smoothing over time that the benchmark's authors gave to those without any."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter1d

from datagen.common.arrays import F64
from trainer.evaluation.shape import apply, rigid_fit
from trainer.evaluation.track.prediction import Reader, Track
from trainer.evaluation.track.shot import Shot

SMOOTHING_FRAMES = 1.5


def true_track(shot: Shot) -> Track:
    """Return the truth as if a tracker had said it."""
    return Track(shot.frames, np.asarray(shot.topology.faces, np.int64), shot.in_camera)


def still_track(shot: Shot) -> Track:
    """Return the first frame's true mesh, which never moves: a static pose."""
    first = np.repeat(shot.in_camera[:1], len(shot.frames), axis=0)
    return Track(shot.frames, np.asarray(shot.topology.faces, np.int64), first)


def rigid_track(shot: Shot) -> Track:
    """Return the first frame's true mesh under each frame's best rigid pose: what is missed is expression."""
    first = shot.in_camera[0]
    moved = np.stack([apply(rigid_fit(first, there), first) for there in shot.in_camera])
    return Track(shot.frames, np.asarray(shot.topology.faces, np.int64), moved)


def noisy_track(shot: Shot, sigma_px: float, seed: int = 0) -> Track:
    """Return the truth, each frame of it shifted on the screen by independent normal noise of ``sigma_px``."""
    rng = np.random.default_rng([seed, *map(ord, shot.name)])
    return shifted_track(shot, rng.normal(0, sigma_px, (len(shot.frames), 2)))


def shifted_track(shot: Shot, shift_px: F64) -> Track:
    """Return the truth, each frame shifted on the screen (T, 2): before a camera with another principal point."""
    K = shot.intrinsics.copy()
    K[:, :2, 2] += shift_px
    return Track(shot.frames, np.asarray(shot.topology.faces, np.int64), shot.in_camera, intrinsics=K)


def smoothed(shot: Shot, track: Track, frames: float = SMOOTHING_FRAMES) -> Track:
    """Smooth a track's vertices on the screen by a Gaussian over time (FlowFace, section 4: baselines).

    Crops may move with the head, so what is smoothed are directions from the camera.

    Parameters
    ----------
    frames : float
        Standard deviation.
    """
    screen, depth = track.screen(shot)
    rays = np.linalg.solve(shot.intrinsics[:, None], (screen / screen[..., 2:])[..., None])[..., 0]
    rays = gaussian_filter1d(rays, frames, axis=0, mode="nearest")
    pixels = rays @ shot.intrinsics.swapaxes(1, 2)
    flat = np.concatenate([pixels[..., :2], depth[..., None]], axis=-1)
    return Track(track.frames, track.faces, pixels=flat, correspondence=track.correspondence)


def smoothed_reader(read: Reader, frames: float) -> Reader:
    """Return what reads the same tracks and smooths them."""

    def smooth(shot: Shot) -> Track | None:
        track = read(shot)
        return None if track is None else smoothed(shot, track.of(shot), frames)

    return smooth
