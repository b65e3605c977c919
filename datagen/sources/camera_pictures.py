"""The picture or mask of a camera at a frame, in a file of its own or in a video."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.deep_pictures import Transfer
from datagen.common.digests import digest_file
from datagen.common.pictures import Orientation, picture_size, read_mask, read_picture
from datagen.common.video_frames import (
    Stamp,
    read_video_frame,
    read_video_mask,
    stamp_of,
    video_index,
    video_size,
)
from datagen.geometry.camera import check_image_size
from datagen.sources.camera_entry import RecordedCamera
from datagen.sources.frame import Image

_ASK = 'Say "orientation": "stored" or "upright" in capture.json, as K, size and masks are meant'


@dataclass(frozen=True, eq=False)
class CameraPicture:
    """Where a picture or mask of a camera lies.

    Attributes
    ----------
    path : Path
    recorded : RecordedCamera
    orientation : "stored", "upright" or None
        Of pictures with a turn.
    number : int or None
        In a video, counted from 0; None for a file of its own.
    transfer : str or None
        Tone curve of a picture, where somebody has told it.
    """

    path: Path
    recorded: RecordedCamera
    orientation: Orientation | None = None
    number: int | None = None
    transfer: Transfer | None = None

    def check(self) -> None:
        """Refuse one whose size contradicts its camera, as its header tells it, or that a video does not hold.

        Raises
        ------
        InputError
            If it does, or cannot be read.
        """
        if self.number is None:
            width, height = picture_size(self.path, orientation=self.orientation, ask=_ASK)
        else:
            width, height = video_size(self.path, orientation=self.orientation, ask=_ASK)
        self._check((height, width))
        if self.number is not None and not 0 <= self.number < len(video_index(self.path).times):
            self.image()  # which says so

    def image(self) -> Image:
        """Return the picture (H, W, 3) uint8 sRGB as the straight camera would have taken it."""
        how: dict[str, Any] = {"orientation": self.orientation, "ask": _ASK}
        if self.number is None:
            pixels = read_picture(self.path, transfer=self.transfer, **how).pixels
        else:
            pixels = read_video_frame(self.path, self.number, **how)
        self._check(pixels.shape)
        return self.recorded.straight_image(pixels)

    def mask(self) -> npt.NDArray[np.bool_]:
        """Return the mask (H, W) bool as the straight camera would have taken it."""
        how: dict[str, Any] = {"orientation": self.orientation, "ask": _ASK}
        mask = read_mask(self.path, **how) if self.number is None else read_video_mask(self.path, self.number, **how)
        self._check(mask.shape)
        return self.recorded.straight_mask(mask)

    def _check(self, shape: tuple[int, ...]) -> None:
        name = str(self.path) if self.number is None else f"frame {self.number} of {self.path}"
        check_image_size(self.recorded.stored, shape, name)


def video_digest(path: Path) -> str:
    """SHA-256 of a video's bytes, read once for each process as long as the file stays the same.

    Raises
    ------
    InputError
        If it is not there.
    OSError
        If it cannot be read.
    """
    return _digest(path, stamp_of(path))


@lru_cache(maxsize=1024)
def _digest(path: Path, _stamp: Stamp) -> str:
    return digest_file(path).sha256
