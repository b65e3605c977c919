"""A predicted frame with all that its pictures and files need."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from trainer.evaluation.cameras import transform, unproject
from trainer.prediction.cameras import FrameCamera
from trainer.prediction.store import PredictedFrame
from trainer.prediction.tracks import TrackRow


@dataclass(frozen=True)
class Shown:
    """One frame of a clip.

    Attributes
    ----------
    number : int
    stem : str
        Of its files.
    frame : PredictedFrame
    camera : FrameCamera
    tracks : TrackRow or None
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
