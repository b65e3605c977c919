"""Frames to predict, one after another, each fitted into the model's square."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from datagen.common.console import say
from datagen.common.errors import InputError
from datagen.common.pictures import BACKDROP, Orientation, picture_size, read_mask, read_picture
from datagen.shards import Dataset, Split
from trainer.inference import split_clips
from trainer.prediction.matching import check_regular, picture_files

if TYPE_CHECKING:
    from PIL import Image

SMALLEST_SIDE = 14  # pixels: less than one patch of the usual networks says nothing about a head
ASK = "Pass --orientation stored or --orientation upright; masks, cameras and the prediction are then of those pixels"

Box = tuple[int, int, int, int]
Region = tuple[float, float, float, float]


@dataclass(frozen=True)
class SourceFrame:
    """One frame, fitted into a square of R pixels.

    Attributes
    ----------
    name : str
        Becomes part of file names.
    image : (3, R, R) uint8
    content : tuple of int
        Left, top, right and bottom of the image proper within its padding, pixels.
    original : tuple of int
        Width and height of the image as it was found.
    region : tuple of float
        Left, top, right and bottom of the part of the original that ``content`` shows, its pixels.
    time_s : float or None
        On the video's own clock.
    intrinsics : (3, 3) float32 or None
        Of the square, if they are known.
    world_to_camera : (4, 4) float32 or None
    mask : (R, R) bool or None
        A given foreground.
    """

    name: str
    image: npt.NDArray[np.uint8]
    content: Box
    original: tuple[int, int]
    region: Region
    time_s: float | None = None
    intrinsics: npt.NDArray[np.float32] | None = None
    world_to_camera: npt.NDArray[np.float32] | None = None
    mask: npt.NDArray[np.bool_] | None = None


class FrameSource(Protocol):
    """Frames in order; iterating reads them one at a time."""

    @property
    def count(self) -> int | None:
        """Number of frames, None if it is known only at the end."""

    @property
    def rate(self) -> float | None:
        """Frames per second, None if the frames have no times."""

    @property
    def numbered(self) -> bool:
        """Whether the frames have no names of their own, only numbers."""

    def names(self, stop: int | None) -> list[str]:
        """Return the names of all frames, as files are called; of a damaged video those before the damage.

        Parameters
        ----------
        stop : int or None
            How many frames are wanted at most.
        """

    def __iter__(self) -> Iterator[SourceFrame]:
        """Yield the frames."""


class Crop(Protocol):
    """Says which part of an image to use."""

    def __call__(self, name: str, number: int, size: tuple[int, int]) -> Region | None:
        """Return a rectangle in the pixels of a frame of (width, height), None for the whole."""


class ImageFiles:
    """Image files as frames.

    Parameters
    ----------
    resolution : int
        Pixels a side of the square.
    orientation : "stored", "upright" or None
        See :func:`datagen.common.pictures.read_picture`.
    """

    rate: float | None = None
    numbered = False

    def __init__(
        self,
        paths: Sequence[Path],
        resolution: int,
        crop: Crop | None = None,
        orientation: Orientation | None = "upright",
    ) -> None:
        self._paths = list(paths)
        self._resolution = resolution
        self._crop = crop
        self._orientation = orientation

    @property
    def count(self) -> int:
        """Number of files."""
        return len(self._paths)

    def names(self, stop: int | None) -> list[str]:  # noqa: ARG002 - a FrameSource's
        """Return the names of the files."""
        return [path.name for path in self._paths]

    def __iter__(self) -> Iterator[SourceFrame]:
        for number, path in enumerate(self._paths):
            size = picture_size(path, orientation=self._orientation, ask=ASK)
            wanted = None if self._crop is None else self._crop(path.stem, number, size)
            check_size(path.name, size, wanted)
            # A crop needs the pixels that a JPEG decoded at a fraction would lack.
            enough = self._resolution if self._crop is None else None
            picture = read_picture(path, orientation=self._orientation, ask=ASK, at_least=enough)
            square, box, region = fit_square(picture.image, self._resolution, path.name, size, wanted)
            yield SourceFrame(path.stem, square, box, size, region)


def sample_names(split: Split, indices: Iterable[int]) -> list[str]:
    """Return subject, sequence, camera and frame of samples, each as one word: what files of them are called."""
    plan, tables = split.dataset.plan, split.index
    return [
        f"{plan.subjects[tables.subject[k]]}_{plan.sequences[tables.sequence[k]]}_"
        f"{plan.cameras[tables.camera[k]]}_{tables.frame[k]:06d}"
        for k in indices
    ]


class DatasetClip:
    """The clip of a dataset that holds one sample, with its cameras.

    Parameters
    ----------
    split, index : str, int
        The sample.
    length : int
        The most frames of a clip.
    """

    rate: float | None = None

    def __init__(self, dataset: Dataset, split: str, index: int, length: int) -> None:
        if split not in dataset or not 0 <= index < len(dataset[split]):
            known = ", ".join(f"{name} (0 to {len(dataset[name]) - 1})" for name in dataset if len(dataset[name]))
            raise InputError(f"{dataset.path} has no sample {index} in {split!r}", f"one of {known}", "Choose another")
        self.numbered = False
        self._split = dataset[split]
        self._side = dataset.resolution
        self._chosen = next(clip for clip in split_clips(self._split, length) if index in clip)
        self.count = len(self._chosen)

    def truth(self, number: int) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]:
        """Return a frame's stored depth (R, R), metres, and canonical coordinates (3, R, R), NaN where not known."""
        values = self._split.read(("depth", "canonical", "confidence"), [self._chosen[number]])
        return values["depth"][0], np.where(values["confidence"][0] > 0, values["canonical"][0], np.nan)

    def names(self, stop: int | None) -> list[str]:  # noqa: ARG002 - a FrameSource's
        """Return the names of the samples."""
        return sample_names(self._split, self._chosen)

    def __iter__(self) -> Iterator[SourceFrame]:
        tables = self._split.index
        for name, index in zip(self.names(None), self._chosen, strict=True):
            values = self._split.read(("image", "intrinsics", "world_to_camera"), [index])
            yield SourceFrame(
                name,
                values["image"][0],
                (0, 0, self._side, self._side),
                (self._side, self._side),
                (0.0, 0.0, float(self._side), float(self._side)),
                float(tables.time[index]),
                values["intrinsics"][0],
                values["world_to_camera"][0],
            )


def image_files(source: Path) -> list[Path]:
    """Return an image itself, or the images of a folder in the order of their names, numbers in them by value.

    Raises
    ------
    InputError
        As :func:`trainer.prediction.matching.picture_files`.
    """
    if not source.is_dir():
        check_regular(source)
        return [source]
    files = picture_files(source)
    twice = [stem for stem, count in Counter(path.stem for path in files).items() if count > 1]
    if twice:
        names = ", ".join(path.name for path in files if path.stem == twice[0])
        many = f" and {len(twice) - 1} more such names" if len(twice) > 1 else ""
        say(f"{source}: several frames are called {twice[0]} ({names}){many}", to=sys.stderr)
    return files


def check_size(name: str, size: tuple[int, int], crop: Region | None) -> None:
    """Refuse an image, or a crop of it, that is too small to show a head.

    Raises
    ------
    InputError
        If it shows fewer than :data:`SMALLEST_SIDE` pixels a side.
    """
    _, region = place_in_square(size, 1, crop)
    shown = (region[2] - region[0], region[3] - region[1])
    if min(shown) < SMALLEST_SIDE:
        what = f"{name} is {size[0]} × {size[1]} pixels"
        if crop is not None:
            what = f"the crop of {name} shows {max(shown[0], 0):.0f} × {max(shown[1], 0):.0f} of its pixels"
        raise InputError(what, f"at least {SMALLEST_SIDE} a side", "Give an image that shows a head")


def fit_square(
    image: Image.Image, resolution: int, name: str, original: tuple[int, int], crop: Region | None = None
) -> tuple[npt.NDArray[np.uint8], Box, Region]:
    """Scale an image, or the square about a part of it, to fit a square; what is beyond the image is grey.

    Parameters
    ----------
    image : Image
        May be smaller than the original.
    name : str
        For messages.
    original : tuple of int
        Width and height of the image as it was found.
    crop : Region, optional
        Pixels of the original.

    Returns
    -------
    (3, R, R) uint8, the box of the image in it, and the region of the original that the box shows
    """
    from PIL import Image

    check_size(name, original, crop)
    box, region = place_in_square(original, resolution, crop)
    smaller = (image.size[0] / original[0], image.size[1] / original[1])
    source = (region[0] * smaller[0], region[1] * smaller[1], region[2] * smaller[0], region[3] * smaller[1])
    square = Image.new("RGB", (resolution, resolution), BACKDROP)
    size = (box[2] - box[0], box[3] - box[1])
    square.paste(image.resize(size, Image.Resampling.LANCZOS, box=source, reducing_gap=3.0), box[:2])
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1)), box, region


def place_in_square(size: tuple[int, int], resolution: int, crop: Region | None = None) -> tuple[Box, Region]:
    """Return where an image of (width, height) lies in its square, and which region of it is shown there."""
    width, height = size
    left, top, right, bottom = crop or (0.0, 0.0, float(width), float(height))
    side = max(right - left, bottom - top)
    corner = ((left + right - side) / 2, (top + bottom - side) / 2)
    region = (
        max(corner[0], 0.0),
        max(corner[1], 0.0),
        min(corner[0] + side, float(width)),
        min(corner[1] + side, float(height)),
    )
    scale = resolution / side
    # Sizes are rounded, then placed: rounding both ends would make images of one size differ by a pixel.
    extent = [max(round((region[k + 2] - region[k]) * scale), 1) for k in (0, 1)]
    start = [min(int((region[k] - corner[k]) * scale), resolution - extent[k]) for k in (0, 1)]
    return (start[0], start[1], start[0] + extent[0], start[1] + extent[1]), region


def into_square(intrinsics: npt.NDArray[np.floating], box: Box, region: Region) -> npt.NDArray[np.float64]:
    """Turn intrinsics in the original's pixels into those of the square."""
    scale = ((box[2] - box[0]) / (region[2] - region[0]), (box[3] - box[1]) / (region[3] - region[1]))
    K = np.asarray(intrinsics, np.float64).copy()
    for axis in (0, 1):
        K[axis] = (K[axis] - region[axis] * K[2]) * scale[axis] + box[axis] * K[2]
    return K


def out_of_square(intrinsics: npt.NDArray[np.floating], box: Box, region: Region) -> npt.NDArray[np.float64]:
    """Turn intrinsics in the square's pixels into those of the original."""
    scale = ((region[2] - region[0]) / (box[2] - box[0]), (region[3] - region[1]) / (box[3] - box[1]))
    K = np.asarray(intrinsics, np.float64).copy()
    for axis in (0, 1):
        K[axis] = (K[axis] - box[axis] * K[2]) * scale[axis] + region[axis] * K[2]
    return K


def fit_mask(path: Path, frame: SourceFrame, orientation: Orientation | None) -> npt.NDArray[np.bool_]:
    """Read a foreground mask and fit it into the square of its frame.

    Raises
    ------
    InputError
        If it is unusable (:func:`datagen.common.pictures.read_mask`) or of another size than its frame.
    """
    from PIL import Image

    mask = Image.fromarray(read_mask(path, orientation=orientation, ask=ASK).astype(np.uint8))
    if mask.size != frame.original:
        turned = mask.size == frame.original[::-1]
        raise InputError(
            f"mask {path} is {mask.size[0]} × {mask.size[1]} pixels{', its image turned' if turned else ''}",
            f"{frame.original[0]} × {frame.original[1]}, as its image",
            "Give the other --orientation, or masks that are turned alike"
            if turned
            else "Give masks of the original images",
        )
    left, top, right, bottom = frame.content
    inside = np.zeros(frame.image.shape[1:], bool)
    inside[top:bottom, left:right] = mask.resize((right - left, bottom - top), Image.Resampling.NEAREST, frame.region)
    return inside
