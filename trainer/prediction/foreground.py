"""Where the head is: its pixels, by given masks, the model's surface or its confidence; and which part is used.

A model that learnt head-centred crops wants the head in the middle: a crop is fixed, or lies about the masks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError
from datagen.common.pictures import Orientation, read_mask
from trainer.inference import Maps
from trainer.prediction.frames import ASK, Region, SourceFrame, fit_mask
from trainer.prediction.matching import assign, picture_files

Rule = Literal["auto", "surface", "confidence", "all"]
_SURFACE = 0.5
_BINS = 256
_MARGIN = 1.15  # side of the crop over the mask's longer extent


class MaskFolder:
    """Masks of the frames: files named like the images; of a video, one for each of its frames in order.

    Parameters
    ----------
    orientation : "stored", "upright" or None
        See :func:`datagen.common.pictures.read_mask`.
    """

    def __init__(self, folder: Path, orientation: Orientation | None = None) -> None:
        if not folder.is_dir():
            raise InputError(f"--masks {folder} is not a folder", "a folder of mask images", "Check the path")
        self._folder = folder
        self._orientation = orientation
        self._files = picture_files(folder)
        self._assigned: dict[int, int] = {}
        self._any = False

    def assign(self, frames: Sequence[str], wanted: Sequence[int], *, numbered: bool) -> None:
        """Find the mask of each frame; see :func:`trainer.prediction.matching.assign`.

        Parameters
        ----------
        numbered : bool
            Whether the frames have numbers only, as those of a video.
        """
        names = [path.name for path in self._files]
        self._assigned = assign(frames, wanted, names, "mask", f"--masks {self._folder}", in_order=numbered)

    def attach(self, frame: SourceFrame, number: int) -> SourceFrame:
        """Return a frame with its mask."""
        mask = fit_mask(self._files[self._assigned[number]], frame, self._orientation)
        self._any |= bool(mask.any())
        return replace(frame, mask=mask)

    def extent(self, number: int) -> Region | None:
        """Return the rectangle a frame's mask takes, pixels; None if it is empty."""
        mask = read_mask(self._files[self._assigned[number]], orientation=self._orientation, ask=ASK)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not rows.size:
            return None
        return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)

    def common_extent(self) -> Region | None:
        """Return the rectangle all frames' masks take together; None if all are empty."""
        boxes = [box for number in self._assigned if (box := self.extent(number)) is not None]
        if not boxes:
            return None
        low, high = np.array(boxes)[:, :2].min(0), np.array(boxes)[:, 2:].max(0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])

    def check_any(self) -> None:
        """Refuse masks that are all empty."""
        if not self._any:
            raise InputError(
                f"all masks in {self._folder} are empty", "white where the head is, black elsewhere", "Give other masks"
            )


class Foreground:
    """Decide what is foreground, the same way in every frame.

    Parameters
    ----------
    rule : {"auto", "surface", "confidence", "all"}
        "surface": the model's probability of showing the head is above a half. "confidence": its confidence in depth is
        above Otsu's threshold of log confidence in the first frame. "auto": the first of these that the model offers.
        "all": the whole image. A given mask takes the place of any rule.
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self.threshold: float | None = None

    def __call__(self, frame: SourceFrame, maps: Maps) -> npt.NDArray[np.bool_]:
        """Return (R, R) bool, false in the padding."""
        left, top, right, bottom = frame.content
        inside = np.zeros(maps.depth_m.shape, bool)
        box = (slice(top, bottom), slice(left, right))
        inside[box] = True
        if frame.mask is not None:
            return inside & frame.mask
        if self._rule == "all":
            return inside
        if self._rule == "surface" and maps.surface is None:
            raise InputError("this model does not predict a surface", "--foreground confidence or all", "Choose one")
        if maps.surface is not None and self._rule != "confidence":
            return inside & (maps.surface > _SURFACE)
        confidence = np.log(maps.depth_confidence)
        if self.threshold is None:
            self.threshold = otsu(confidence[box])
        return inside & (confidence > self.threshold)


def otsu(values: npt.NDArray[np.floating]) -> float:
    """Return the threshold that parts values into two classes of least variance within (Otsu 1979).

    Where the classes leave a gap the threshold lies in its middle; values that are all the same lie above theirs.
    """
    counts, edges = np.histogram(values, _BINS)
    if np.ptp(values) == 0:
        return float(values.flat[0]) - 1.0
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centres)
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    best = np.flatnonzero(apart == np.nanmax(apart))
    return float((edges[best[0] + 1] + edges[best[-1] + 1]) / 2)


class MaskCrop:
    """The surroundings of the masks.

    Parameters
    ----------
    each : bool
        Every frame about its own mask; else one crop about all masks together, which keeps still.
    """

    def __init__(self, masks: MaskFolder, each: bool) -> None:
        self._masks = masks
        self._each = each

    def __call__(self, name: str, number: int, size: tuple[int, int]) -> Region | None:  # noqa: ARG002 - a Crop's
        """Return the crop of a frame; the whole image where its mask is empty."""
        extent = self._masks.extent(number) if self._each else self._common
        return None if extent is None else widened(extent)

    @cached_property
    def _common(self) -> Region | None:
        return self._masks.common_extent()  # once the frames have their masks


class FixedCrop:
    """The same rectangle of every image.

    Parameters
    ----------
    text : str
        "left,top,right,bottom", pixels.
    """

    def __init__(self, text: str) -> None:
        try:
            left, top, right, bottom = (float(part) for part in text.split(","))
        except ValueError:
            left, top, right, bottom = 0.0, 0.0, 0.0, 0.0
        if not (left < right and top < bottom and all(map(math.isfinite, (left, top, right, bottom)))):
            raise InputError(f"--crop {text}", "each, all, or left,top,right,bottom in pixels", "Correct it")
        self._region = (left, top, right, bottom)

    def __call__(self, name: str, number: int, size: tuple[int, int]) -> Region | None:
        """Return the rectangle."""
        left, top, right, bottom = self._region
        if left >= size[0] or top >= size[1] or right <= 0 or bottom <= 0:
            raise InputError(
                f"--crop lies outside {name or number}, which is {size[0]} × {size[1]} pixels",
                "a rectangle within the images",
                "Correct it",
            )
        return self._region


def make_crop(text: str | None, masks: MaskFolder | None) -> MaskCrop | FixedCrop | None:
    """Return the crop that ``--crop`` asks for."""
    if text is None:
        return None
    if text not in {"each", "all"}:
        return FixedCrop(text)
    if masks is None:
        raise InputError(f"--crop {text} needs masks, but none are given", "--masks FOLDER", "Give them")
    return MaskCrop(masks, text == "each")


def widened(extent: Region) -> Region:
    """Return the square about the rectangle of a head, with a margin."""
    left, top, right, bottom = extent
    half = _MARGIN * max(right - left, bottom - top) / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    return x - half, y - half, x + half, y + half
