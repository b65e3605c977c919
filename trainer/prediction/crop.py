"""Which part of each image is looked at: a model that learnt head-centred crops wants the head in the middle."""

from __future__ import annotations

import math

from datagen.common.errors import InputError
from trainer.prediction.foreground import MaskFolder
from trainer.prediction.frames import Region

_MARGIN = 1.15  # side of the crop over the mask's longer extent


class MaskCrop:
    """The surroundings of the masks.

    Parameters
    ----------
    masks : MaskFolder
    each : bool
        Every frame about its own mask; else one crop about all masks together, which keeps still.
    """

    def __init__(self, masks: MaskFolder, each: bool) -> None:
        self._masks = masks
        self._common = None if each else masks.common_extent()
        self._each = each

    def __call__(self, name: str, number: int, size: tuple[int, int]) -> Region | None:  # noqa: ARG002 - a Crop's
        """Return the crop of a frame; the whole image where its mask is empty."""
        extent = self._masks.extent(name, number) if self._each else self._common
        return None if extent is None else _widened(extent)


class FixedCrop:
    """The same rectangle of every image.

    Parameters
    ----------
    text : str
        "left,top,right,bottom", pixels.

    Raises
    ------
    InputError
        If it is no rectangle.
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
        """Return the rectangle.

        Raises
        ------
        InputError
            If it lies outside the image.
        """
        left, top, right, bottom = self._region
        if left >= size[0] or top >= size[1] or right <= 0 or bottom <= 0:
            raise InputError(
                f"--crop lies outside {name or number}, which is {size[0]} × {size[1]} pixels",
                "a rectangle within the images",
                "Correct it",
            )
        return self._region


def make_crop(text: str | None, masks: MaskFolder | None) -> MaskCrop | FixedCrop | None:
    """Return the crop that ``--crop`` asks for.

    Raises
    ------
    InputError
        If it makes no sense, or needs masks and there are none.
    """
    if text is None:
        return None
    if text not in {"each", "all"}:
        return FixedCrop(text)
    if masks is None:
        raise InputError(f"--crop {text} is about masks, and none are given", "--masks FOLDER", "Give them")
    return MaskCrop(masks, text == "each")


def _widened(extent: Region) -> Region:
    left, top, right, bottom = extent
    half = _MARGIN * max(right - left, bottom - top) / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    return x - half, y - half, x + half, y + half
