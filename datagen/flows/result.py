"""What came of a build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from datagen.flows.quarantine import Quarantined
from datagen.flows.stored_frames import LeftOutCamera
from datagen.shards import VerifyReport


@dataclass(frozen=True)
class BuildResult:
    """The result of a build.

    Attributes
    ----------
    verdicts : mapping of status to number of frames
    samples : mapping of split to number of samples
    left_out : int
        Frames with a usable verdict that no camera could show.
    cameras : tuple of LeftOutCamera
        Cameras that give no samples of some frames, and why.
    warped, rendered : int
        Frames and samples computed by this run; the others were on disk.
    seconds : mapping of stage to seconds
    quarantined : tuple of Quarantined
        What was given up, in this run or before, and is left out.
    """

    root: Path
    dataset: Path
    report: Path
    verdicts: Mapping[str, int]
    samples: Mapping[str, int]
    left_out: int
    cameras: tuple[LeftOutCamera, ...]
    warped: int
    rendered: int
    seconds: Mapping[str, float]
    verification: VerifyReport
    quarantined: tuple[Quarantined, ...] = ()
