"""Frames to predict, one after another, each fitted into the model's square."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError
from datagen.shards import Dataset
from trainer.inference import split_clips

if TYPE_CHECKING:
    from PIL import Image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
PADDING = (124, 116, 104)  # the mean of ImageNet: zero to the model
SMALLEST_SIDE = 14  # pixels: less than one patch of the usual networks says nothing about a head
_MASK_THRESHOLD = 127

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
        From the start of the video.
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
    """

    rate: float | None = None

    def __init__(self, paths: Sequence[Path], resolution: int, crop: Crop | None = None) -> None:
        self._paths = list(paths)
        self._resolution = resolution
        self._crop = crop

    @property
    def count(self) -> int:
        """Number of files."""
        return len(self._paths)

    def __iter__(self) -> Iterator[SourceFrame]:
        for number, path in enumerate(self._paths):
            # A crop needs the pixels that a JPEG decoded at a fraction would lack.
            image = open_image(path, self._resolution if self._crop is None else None)
            original = original_size(path)
            wanted = None if self._crop is None else self._crop(path.stem, number, original)
            square, box, region = fit_square(image, self._resolution, path.name, original, wanted)
            yield SourceFrame(path.stem, square, box, original, region)


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
        self._split = dataset[split]
        self._side = dataset.resolution
        self._chosen = next(clip for clip in split_clips(self._split, length) if index in clip)
        self.count = len(self._chosen)

    def __iter__(self) -> Iterator[SourceFrame]:
        plan, tables = self._split.dataset.plan, self._split.index
        for index in self._chosen:
            values = self._split.read(("image", "intrinsics", "world_to_camera"), [index])
            subject, sequence = plan.subjects[tables.subject[index]], plan.sequences[tables.sequence[index]]
            camera = plan.cameras[tables.camera[index]]
            yield SourceFrame(
                f"{subject}_{sequence}_{camera}_{tables.frame[index]:06d}",
                values["image"][0],
                (0, 0, self._side, self._side),
                (self._side, self._side),
                (0.0, 0.0, float(self._side), float(self._side)),
                float(tables.time[index]),
                values["intrinsics"][0],
                values["world_to_camera"][0],
            )


def image_files(source: Path) -> list[Path]:
    """Return an image itself, or the images of a folder in the order of their names, numbers in them by value."""
    if not source.is_dir():
        return [source]
    files = sorted((p for p in source.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES), key=natural_key)
    if not files:
        raise InputError(
            f"{source} holds no images",
            f"files ending in {', '.join(IMAGE_SUFFIXES)}, a video, or a dataset",
            "Check the path",
        )
    return files


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Order frame_2 before frame_10."""
    parts = re.split(r"(\d+)", path.name)
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]


def open_image(path: Path, resolution: int | None = None) -> Image.Image:
    """Open an image as RGB, turned as its EXIF says; with a resolution, large JPEGs are decoded at a fraction."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            if resolution is not None:
                opened.draft("RGB", (2 * resolution, 2 * resolution))
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I") or image.mode == "F":
                return _from_deep(image)
            if "A" in image.getbands() or "transparency" in image.info:
                backdrop = Image.new("RGBA", image.size, (*PADDING, 255))
                return Image.alpha_composite(backdrop, image.convert("RGBA")).convert("RGB")
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path} cannot be read as an image: {error}",
            f"an image file ({', '.join(s[1:] for s in IMAGE_SUFFIXES)})",
            "Remove or replace it",
        ) from None


def original_size(path: Path) -> tuple[int, int]:
    """Return width and height of an image file that was opened before, as seen after its EXIF turn."""
    from PIL import Image

    with Image.open(path) as opened:
        turned = opened.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        width, height = opened.size
    return (height, width) if turned else (width, height)


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

    box, region = place_in_square(original, resolution, crop)
    shown = (region[2] - region[0], region[3] - region[1])
    if min(shown) < SMALLEST_SIDE or min(box[2] - box[0], box[3] - box[1]) < 1:
        what = f"{name} is {original[0]} × {original[1]} pixels"
        if crop is not None:
            what = f"the crop of {name} shows {max(shown[0], 0):.0f} × {max(shown[1], 0):.0f} of its pixels"
        raise InputError(what, f"at least {SMALLEST_SIDE} a side", "Give an image that shows a head")
    smaller = (image.size[0] / original[0], image.size[1] / original[1])
    source = (region[0] * smaller[0], region[1] * smaller[1], region[2] * smaller[0], region[3] * smaller[1])
    square = Image.new("RGB", (resolution, resolution), PADDING)
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


def read_mask(path: Path, frame: SourceFrame) -> npt.NDArray[np.bool_]:
    """Read a foreground mask and fit it into the square of its frame."""
    from PIL import Image

    mask = open_mask(path)
    if mask.size != frame.original:
        raise InputError(
            f"mask {path} is {mask.size[0]} × {mask.size[1]} pixels",
            f"{frame.original[0]} × {frame.original[1]}, as its image",
            "Give masks of the original images",
        )
    left, top, right, bottom = frame.content
    inside = np.zeros(frame.image.shape[1:], bool)
    scaled = mask.resize((right - left, bottom - top), Image.Resampling.NEAREST, box=frame.region)
    inside[top:bottom, left:right] = np.asarray(scaled) > _MASK_THRESHOLD
    return inside


def open_mask(path: Path) -> Image.Image:
    """Open a mask: 255 where the original is brighter than half, else 0."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            return opened.convert("L").point(lambda value: 255 if value > _MASK_THRESHOLD else 0)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as a mask: {error}", "an image file", "Replace it") from None


def _from_deep(image: Image.Image) -> Image.Image:
    """Turn 16-bit or floating grey into RGB; Pillow's own conversion clips instead of scaling."""
    from PIL import Image

    values = np.nan_to_num(np.asarray(image, np.float64), posinf=0)
    if image.mode.startswith("I;16"):
        top = 65535.0  # dark ones too: frames of one clip must not be scaled each in its own way
    else:
        largest = values.max(initial=0)
        top = 1.0 if image.mode == "F" and largest <= 1 else 65535.0 if largest > 255 else 255.0
    grey = np.rint(np.clip(values / top, 0, 1) * 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")
