"""Everything measured of trackers over the shots of a benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datagen.common.errors import InputError
from trainer.evaluation.canonical import REGION_NAMES
from trainer.evaluation.track.motion import MeshMotion, TruePixels, true_pixels
from trainer.evaluation.track.prediction import Reader
from trainer.evaluation.track.shape import MeshShape, ScreenPlaces
from trainer.evaluation.track.shot import Shot


@dataclass(frozen=True)
class TrackOptions:
    """How much is measured.

    Attributes
    ----------
    pixels : int
        Of a frame, at most, whose motion is compared.
    shape_frames : int
        Of a shot, at most, that are aligned.
    """

    pixels: int = 2000
    shape_frames: int = 2
    seed: int = 0


class TrackScores:
    """The metrics of one tracker."""

    def __init__(self, options: TrackOptions) -> None:
        self.motion = MeshMotion(REGION_NAMES)
        self._shape = MeshShape(REGION_NAMES, options.shape_frames)
        self._places = ScreenPlaces()
        self.shots, self.frames = 0, 0
        self.missing: list[str] = []

    def add(self, shot: Shot, read: Reader, truth: Sequence[TruePixels]) -> None:
        """Add a shot; it is missing where the tracker says nothing of it."""
        track = read(shot)
        if track is None:
            self.missing.append(shot.name)
            return
        chosen = track.of(shot)
        self.motion.add(shot, chosen, truth)
        self._shape.add(shot, chosen, truth)
        self._places.add(shot, chosen)
        self.shots += 1
        self.frames += len(shot.frames)

    def metrics(self) -> dict[str, Any]:
        """Return every metric of docs/track-benchmark.md."""
        return {
            **self.motion.metrics(),
            **self._shape.metrics(),
            **self._places.metrics(),
            "shots": self.shots,
            "shots_missing": len(self.missing),
            "frames": self.frames,
        }


def score(
    shots: Iterable[Shot], trackers: Mapping[str, Reader], options: TrackOptions | None = None
) -> dict[str, TrackScores]:
    """Measure trackers on the same shots; each shot is held once.

    Raises
    ------
    InputError
        If a tracker says nothing of any shot, or lacks frames of one.
    """
    options = options or TrackOptions()
    scores = {name: TrackScores(options) for name in trackers}
    rng = np.random.default_rng([options.seed, 2])
    names: list[str] = []
    for shot in shots:
        names.append(shot.name)
        truth = [true_pixels(shot, t, options.pixels, rng) for t in range(len(shot.frames))]
        for tracker, read in trackers.items():
            scores[tracker].add(shot, read, truth)
    for name, found in scores.items():
        if not found.shots:
            some = ", ".join(names[:3])
            raise InputError(
                f"{name} has no prediction of any of {len(names)} shots",
                f"folders such as {some}" if names else "a split with frames",
                "Name its folders subject/sequence/camera, as the benchmark's pictures are",
            )
    return scores
