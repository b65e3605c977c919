"""Which frames of recorded captures a recipe takes: read off registrations or landmarks, sequence by sequence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError
from datagen.geometry.landmarks import Landmarks
from datagen.sources.frame import Captures, SequenceInfo
from datagen.sources.registry import SelectConfig
from datagen.sources.select import FEWEST_POINTS, farthest_points, features_of

MOST_POINTS = 300  # of a registration: enough for any expression


def selected(
    captures: Captures, info: SequenceInfo, select: SelectConfig, frozen: Mapping[str, tuple[int, ...]]
) -> SequenceInfo:
    """Return a sequence with the frames that a recipe takes.

    Parameters
    ----------
    frozen : mapping of ``subject/sequence`` to frames
        What was chosen before stays, but for frames that are gone.

    Raises
    ------
    InputError
        If its frames have neither registrations nor landmarks, or none of them can be read.
    """
    kept = [frame for frame in frozen.get(str(info.key), ()) if frame in set(info.frames)]
    if kept:
        return replace(info, frames=tuple(kept))
    if len(info.frames) <= select.count:
        return info
    found = dict[int, Landmarks]()
    broken = ""
    for frame in info.frames:
        try:
            marks = captures.marks(info.key, frame)
        except InputError as error:
            broken = broken or str(error)
            continue
        if marks is None:
            raise InputError(
                f"frames of {info.key} cannot be told apart: they have neither registrations nor landmarks",
                "either of them, to choose frames by",
                "Add them, or leave `source.select` out of the recipe",
            )
        found[frame] = marks
    frames, points = _common(found)
    if not len(points) or points.shape[1] < FEWEST_POINTS:
        raise InputError(
            f"{info.key} has no {FEWEST_POINTS} points that all of its frames have"
            + (f"; one cannot be read: {broken}" if broken else ""),
            "registrations, or landmarks of the same indices in every frame",
            "Complete them, or leave `source.select` out of the recipe",
        )
    chosen = farthest_points(features_of(points, select.by), select.count)
    return replace(info, frames=tuple(sorted(int(frames[k]) for k in chosen)))


def _common(found: Mapping[int, Landmarks]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return frames (N,), and the points (N, M, 3) whose indices all of them have, some hundreds of them."""
    shared: set[int] | None = None
    for marks in found.values():
        own = set(marks.indices.tolist())
        shared = own if shared is None else shared & own
    indices = sorted(shared or ())
    indices = indices[:: max(1, len(indices) // MOST_POINTS)]
    points = []
    for marks in found.values():
        place = {int(index): k for k, index in enumerate(marks.indices)}
        points.append(marks.points[[place[index] for index in indices]])
    return np.array(list(found), np.int64), np.array(points).reshape(len(found), len(indices), 3)
