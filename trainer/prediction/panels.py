"""Pictures of one predicted frame, in colours that mean the same in every frame of a clip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainer.pictures import canonical_colours
from trainer.prediction.store import FrameStore, PredictedFrame

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
        return _mapped(frame.depth, frame.valid, ranges.depth_m, "viridis_r")
    if name == "canonical_confidence":
        return _mapped(np.log(frame.canonical_confidence), frame.valid, ranges.confidence, "magma")
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
