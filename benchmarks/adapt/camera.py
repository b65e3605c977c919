"""What another camera makes of a recording: colours, exposure, flicker, noise, a hand that shakes; and rough boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from datagen.common.arrays import F64, I64
from datagen.shards import Dataset
from trainer.align.data import FaceTruth
from trainer.attributes.light import linear
from trainer.avatar.clip import Clip, cut
from trainer.avatar.skin import Skin

# From the recording's linear colours to the camera's: another white balance, and channels that see of each other.
MATRIX: F64 = np.array([[0.78, 0.10, 0.02], [0.04, 0.92, 0.04], [0.02, 0.16, 1.18]])
_NOISE = 0.006  # of white, in the dark; photons add theirs
_ELECTRONS = 4000.0
_BOX_NOISE = 0.02  # of the face's box, as detectors' tremble
_MAINS_HZ = 100.0  # of lamps on 50 Hz


@dataclass(frozen=True)
class Camera:
    """How a clip was taken.

    Attributes
    ----------
    flicker : float
        Share of the light that mains lamps take and give.
    auto_exposure : float
        Largest change of exposure either way, in stops, over some two seconds.
    shake_deg : float
        How far a hand turns the camera, about all axes.
    matrix : bool
        Whether colours are the camera's own.
    """

    flicker: float = 0.0
    auto_exposure: float = 0.0
    shake_deg: float = 0.0
    matrix: bool = True

    def gains(self, times_s: F64) -> F64:
        """Return the brightness of each frame (T,) beside the steady one."""
        flicker = 1 + self.flicker * np.sin(2 * np.pi * _MAINS_HZ * times_s + _beat(times_s))
        stops = self.auto_exposure * np.sin(2 * np.pi * times_s / 2.1 + 0.7)
        found: F64 = flicker * 2.0**stops
        return found

    def turns(self, times_s: F64) -> F64:
        """Return how the camera is turned in each frame, (T, 3, 3)."""
        from scipy.spatial.transform import Rotation

        # Incommensurate waves of a second or so: what hands do.
        waves = [np.sin(2 * np.pi * f * times_s + p) for f, p in ((0.7, 0.2), (0.9, 1.3), (0.6, 2.9))]
        vectors = np.deg2rad(self.shake_deg) * np.stack(waves, -1)
        found: F64 = Rotation.from_rotvec(vectors).as_matrix()
        return found


def _beat(times_s: F64) -> F64:
    """Mains are not quite 50 Hz: the phase drifts against the frames."""
    return 2 * np.pi * 0.37 * times_s


@dataclass(frozen=True, eq=False)
class Filmed:
    """A clip, and what is true of it: for judging only.

    Attributes
    ----------
    clip : Clip
    truth : (T, n, 3)
        The skin's vertices before the camera, metres.
    """

    clip: Clip
    truth: torch.Tensor


def filmed(
    dataset: Dataset, skin: Skin, camera: Camera, size: int, *, seed: int, frames: slice = slice(None)
) -> Filmed:
    """Return the frames of a recording by one camera as another camera shows them, cut to rough boxes."""
    split = dataset["train"]
    samples: I64 = np.arange(len(split))[frames]
    stored = split.read(("image", "intrinsics", "world_to_camera"), samples)
    K = torch.from_numpy(stored["intrinsics"]).float()
    seen = FaceTruth(split, skin)
    to_world = torch.from_numpy(
        np.ascontiguousarray(split.frames.head_to_world[split.index.frame_row[samples]])
    ).float()
    to_camera = torch.from_numpy(stored["world_to_camera"]).float() @ to_world
    heads = torch.from_numpy(seen.in_head_axes(samples)[0])
    points = heads @ to_camera[:, :3, :3].transpose(1, 2) + to_camera[:, None, :3, 3]
    times_s = split.index.time[samples].astype(np.float64)
    turns = torch.from_numpy(camera.turns(times_s)).float()
    truth = points @ turns.transpose(1, 2)
    rng = np.random.default_rng(seed)
    crops, transforms, gains = [], [], camera.gains(times_s)
    for k in range(len(samples)):
        light = linear(torch.from_numpy(stored["image"][k]).float() / 255).numpy().transpose(1, 2, 0).astype(np.float64)
        if camera.shake_deg:
            light = _turned(light, K[k].double().numpy(), turns[k].double().numpy())
        pixels = _taken(light, float(gains[k]), rng, own=camera.matrix)
        image = truth[k] / truth[k, :, 2:] @ K[k].T
        box = _rough(image[:, :2].double().numpy(), rng)
        crop, transform, _ = cut(pixels, box, size, intrinsics=K[k], what=f"frame {k}")
        crops.append(crop)
        transforms.append(transform)
    names = tuple(f"{k:06d}.png" for k in range(len(samples)))
    return Filmed(Clip(torch.cat(crops), torch.cat(transforms), K, names), truth)


def _taken(light: F64, gain: float, rng: np.random.Generator, *, own: bool) -> npt.NDArray[np.uint8]:
    """Return the picture (H, W, 3) of linear light."""
    colours = gain * (light @ MATRIX.T if own else light)
    noisy = colours + rng.normal(size=colours.shape) * np.sqrt(np.maximum(colours, 0) / _ELECTRONS + _NOISE**2)
    x = np.clip(noisy, 0, 1)
    encoded = np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.maximum(x, 1e-9) ** (1 / 2.4) - 0.055)
    return np.rint(255 * encoded).astype(np.uint8)


def _turned(light: F64, K: F64, turn: F64) -> F64:
    """Return the picture of the same camera turned about its centre: exact, a homography."""
    from scipy.ndimage import map_coordinates

    height, width = light.shape[:2]
    y, x = np.mgrid[:height, :width] + 0.5
    rays = np.stack([x, y, np.ones_like(x)], -1) @ (K @ turn.T @ np.linalg.inv(K)).T
    at = rays[..., :2] / rays[..., 2:] - 0.5
    return np.stack(
        [map_coordinates(light[..., c], [at[..., 1], at[..., 0]], order=1, mode="nearest") for c in range(3)], -1
    )


def _rough(pixels: F64, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Return a box as a detector has it: its middle and size tremble."""
    low, high = pixels.min(0), pixels.max(0)
    side = float((high - low).max())
    middle = (low + high) / 2 + _BOX_NOISE * side * rng.normal(size=2)
    half = (high - low) / 2 * np.exp(_BOX_NOISE * rng.normal())
    left, top = middle - half
    right, bottom = middle + half
    return float(left), float(top), float(right), float(bottom)
