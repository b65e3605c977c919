"""What is predicted of a source, and how."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from datagen.common.errors import InputError
from trainer.prediction.foreground import Rule
from trainer.prediction.tracks import TrackConfig
from trainer.prediction.windows import Drift

PARTS = ("maps", "ply", "tracks", "raw", "videos", "viewer")


@dataclass(frozen=True)
class PredictOptions:
    """What is predicted of a source, and how.

    Attributes
    ----------
    frames : int
        A window: frames predicted together; 1 is frame by frame.
    overlap : int or None
        Frames two windows share; a quarter of the window by default.
    drift : "fade" or "chain" or None
        See :func:`trainer.prediction.windows.stitch_windows`; by default what suits the checkpoint's depth.
    start, stop, step : int, int or None, int
        Which frames of a folder or video, as in a Python slice.
    size : int or None
        Pixels of the longer side; the training resolution by default.
    masks : Path or None
        Folder of foreground masks.
    crop : str or None
        "each" or "all" (about the masks), or "left,top,right,bottom"; see :mod:`trainer.prediction.crop`.
    foreground : str
        See :class:`trainer.prediction.foreground.Foreground`.
    cameras : Path or None
        A ``cameras.json``.
    fov_deg : float or None
        Field of view along the longer side, where ``cameras`` is not given.
    without : tuple of str
        Of :data:`PARTS`: what is not written.
    tracks : TrackConfig
    rate : float or None
        Frames per second of the videos; the source's by default.
    split, index : str, int
        Of a dataset: the clip that holds this sample.
    """

    frames: int = 4
    overlap: int | None = None
    drift: Drift | None = None
    start: int = 0
    stop: int | None = None
    step: int = 1
    size: int | None = None
    masks: Path | None = None
    crop: str | None = None
    foreground: Rule = "auto"
    cameras: Path | None = None
    fov_deg: float | None = None
    without: tuple[str, ...] = ()
    tracks: TrackConfig = field(default_factory=TrackConfig)
    rate: float | None = None
    split: str = "val"
    index: int = 0

    def checked_overlap(self) -> int:
        """Check what belongs together and return the overlap.

        Raises
        ------
        InputError
            If it does not belong together.
        """
        overlap = self.frames // 4 if self.overlap is None else self.overlap
        if not 0 <= overlap < self.frames:
            raise InputError(
                f"--overlap {overlap} with --frames {self.frames}", "an overlap shorter than the window", "Lower it"
            )
        if self.step < 1 or self.start < 0 or (self.stop is not None and self.stop <= self.start):
            raise InputError(
                "--start, --stop and --step choose no frames", "start < stop, step 1 or more", "Change them"
            )
        if self.rate is not None and not (math.isfinite(self.rate) and self.rate > 0):
            raise InputError(f"--rate {self.rate:g}", "frames per second, above 0", "Correct it")
        unknown = sorted(set(self.without) - set(PARTS))
        if unknown:
            raise InputError(f"--without {unknown[0]}", f"one of {', '.join(PARTS)}", "Choose another")
        if self.cameras is not None and self.fov_deg is not None:
            raise InputError("both --cameras and --fov are given", "one of them", "Leave one out")
        return overlap
