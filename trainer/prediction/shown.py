"""A predicted frame with all that its pictures and files need, in colours that mean the same throughout a clip."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from datagen.common.scales import CONFIDENCE, DEPTH
from trainer.evaluation.cameras import transform, unproject
from trainer.pictures import canonical_colours
from trainer.prediction.cameras import FrameCamera
from trainer.prediction.store import FrameStore, PredictedFrame
from trainer.prediction.tracks import TrackRow


@dataclass(frozen=True)
class Shown:
    """One frame of a clip.

    Attributes
    ----------
    stem : str
        Of its files.
    """

    number: int
    stem: str
    frame: PredictedFrame
    camera: FrameCamera
    tracks: TrackRow | None

    @property
    def name(self) -> str:
        """The source's name of the frame."""
        return self.camera.name

    @property
    def box(self) -> tuple[slice, slice]:
        """The image within its padding."""
        left, top, right, bottom = self.camera.content
        return slice(top, bottom), slice(left, right)

    @cached_property
    def camera_to_world(self) -> npt.NDArray[np.float64]:
        """The camera's place and attitude, (4, 4)."""
        return np.linalg.inv(self.camera.world_to_camera.astype(np.float64))

    @cached_property
    def points(self) -> npt.NDArray[np.float32]:
        """Every pixel's point in the world, (3, R, R) metres."""
        points = unproject(self.frame.depth, self.frame.intrinsics)
        return transform(self.camera_to_world, points).astype(np.float32)

    @cached_property
    def track_points(self) -> npt.NDArray[np.float32]:
        """The tracks in the world, (N, 3) metres; NaN where lost."""
        if self.tracks is None:
            return np.zeros((0, 3), np.float32)
        rotation, place = self.camera_to_world[:3, :3], self.camera_to_world[:3, 3]
        return (self.tracks.xyz @ rotation.T + place).astype(np.float32)


Pixels = npt.NDArray[np.uint8]
NAMES = ("image", "depth", "normal", "canonical", "canonical_confidence")
_SAMPLE = 4096  # pixels a frame that decide the ranges
_RANGE_FRAMES = 200


@dataclass(frozen=True)
class Ranges:
    """What the ends of the colour maps mean.

    Attributes
    ----------
    depth_m, confidence : tuple of float
        1st and 99th percentile of the clip's foreground; of the logarithm for confidence.
    """

    depth_m: tuple[float, float]
    confidence: tuple[float, float]

    @classmethod
    def measure(cls, frames: FrameStore) -> Ranges:
        """Measure at most 200 frames, evenly spread."""
        chosen = np.unique(np.linspace(0, len(frames) - 1, _RANGE_FRAMES).round().astype(int))
        depth, confidence = [], []
        for k in chosen:
            frame = frames[int(k)]
            step = max(int(frame.valid.sum()) // _SAMPLE, 1)
            depth.append(frame.depth[frame.valid][::step])
            confidence.append(np.log(frame.canonical_confidence[frame.valid][::step]))
        return cls(_range(np.concatenate(depth)), _range(np.concatenate(confidence)))


def panel(frame: PredictedFrame, name: str, ranges: Ranges) -> Pixels:
    """Return one of :data:`NAMES` as (R, R, 3); white where there is no foreground."""
    if name == "image":
        return np.ascontiguousarray(frame.image.transpose(1, 2, 0))
    if name == "depth":
        return _mapped(frame.depth, frame.valid, ranges.depth_m, DEPTH)
    if name == "canonical_confidence":
        return _mapped(np.log(frame.canonical_confidence), frame.valid, ranges.confidence, CONFIDENCE)
    if name == "canonical":
        return canonical_colours(frame.canonical, frame.valid)
    return normal_colours(frame.normal)


def normal_colours(normal: npt.NDArray[np.floating]) -> Pixels:
    """Colour normals (3, H, W) in camera axes: x right is red, y up green, towards the camera blue; 0 is white."""
    flipped = normal * np.array([1, -1, -1], np.float32)[:, None, None]
    known = (normal != 0).any(0)
    rgb = np.clip((flipped.transpose(1, 2, 0) + 1) / 2, 0, 1) * 255
    return np.where(known[..., None], np.rint(rgb), 255).astype(np.uint8)


def depth_16bit(frame: PredictedFrame) -> npt.NDArray[np.uint16]:
    """Return depth in tenths of a millimetre, (R, R); 0 where there is no foreground or beyond 6.5 m."""
    tenths = np.rint(frame.depth * 10_000.0)
    return np.where(frame.valid & (tenths < 65536), tenths, 0).astype(np.uint16)


def _mapped(
    values: npt.NDArray[np.floating], shown: npt.NDArray[np.bool_], limits: tuple[float, float], colours: str
) -> Pixels:
    from matplotlib import colormaps

    scaled = np.clip((values - limits[0]) / max(limits[1] - limits[0], 1e-9), 0, 1)
    rgb = colormaps[colours](scaled, bytes=True)[..., :3]
    return np.where(shown[..., None], rgb, 255).astype(np.uint8)


def _range(values: npt.NDArray[np.floating]) -> tuple[float, float]:
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values, [1, 99])
    return float(low), float(high)
