"""A clip without labels: pictures of one camera in the order they were taken, and where the face is in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from datagen.common.errors import InputError
from trainer.align.crops import crop_transform, take_crops
from trainer.attributes.data import Views
from trainer.attributes.pose import crop_angle, crop_axes
from trainer.attributes.predict import FOCAL_SHARE
from trainer.prediction.boxed import Box, BoxedPicture, PictureOptions, boxed_pictures, face_square, opened
from trainer.prediction.matching import picture_files

_MOST_BYTES = 8 * 2**30


@dataclass(frozen=True, eq=False)
class Clip:
    """Crops of T pictures.

    Attributes
    ----------
    crops : (T, 3, n, n) uint8
    transform : (T, 2, 3)
        From places in crops to pixels.
    intrinsics : (T, 3, 3)
        Of the pictures, pixels.
    names : tuple of str
    """

    crops: torch.Tensor
    transform: torch.Tensor
    intrinsics: torch.Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.crops)

    def views(self, frames: torch.Tensor | slice) -> Views:
        """Return some of them as the network sees them."""
        transform, K = self.transform[frames], self.intrinsics[frames]
        images = self.crops[frames].float() / 255
        size = torch.ones(len(images), device=K.device)
        return Views(images, transform, K, crop_axes(transform, K), size, crop_angle(transform, K))

    def to(self, device: torch.device) -> Clip:
        """Return it on a device."""
        return Clip(self.crops.to(device), self.transform.to(device), self.intrinsics.to(device), self.names)


def read_clip(sources: Sequence[Path], options: PictureOptions, size: int, *, focal_px: float | None = None) -> Clip:
    """Read the pictures of a clip and cut them to the face.

    Parameters
    ----------
    sources : sequence of Path
        Pictures in their order; with ``options.pattern``, one folder.
    size : int
        Pixels a side of the crops.
    focal_px : float, optional
        Of the pictures as they are read; their principal point is the middle. 1.2 times the larger side by default.

    Raises
    ------
    InputError
        If a picture is missing or is none, names or boxes do not fit, there are fewer than two frames, or several
        cameras.
    """
    if options.pattern is None and len(sources) == 1 and sources[0].is_dir():
        sources = picture_files(sources[0])
    pictures = _of_one_camera(boxed_pictures(sources, options))
    if len(pictures) < 2:
        raise InputError(
            f"the clip has {len(pictures)} picture", "two frames at least: textures of frames are compared", "Give more"
        )
    if len(pictures) * 3 * size * size > _MOST_BYTES:
        raise InputError(f"the clip has {len(pictures)} pictures", "what fits into 8 GiB", "Give some of them")
    crops, transforms, cameras = [], [], []
    for picture, pixels in opened(pictures, options, "read"):
        crop, transform, K = cut(pixels, picture.box, size, focal_px=focal_px, what=str(picture.path))
        crops.append(crop)
        transforms.append(transform)
        cameras.append(K)
    return Clip(torch.cat(crops), torch.cat(transforms), torch.cat(cameras), tuple(p.name for p in pictures))


def cut(
    pixels: npt.NDArray[np.uint8],
    box: Box | None,
    size: int,
    *,
    focal_px: float | None = None,
    intrinsics: torch.Tensor | None = None,
    what: str = "the picture",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a picture (H, W, 3) cut to the face: crop (1, 3, n, n) uint8, transform (1, 2, 3), camera (1, 3, 3)."""
    height, width = pixels.shape[:2]
    transform = crop_transform(face_square(box, width, height, what))
    image = torch.from_numpy(np.array(pixels.transpose(2, 0, 1)))[None].float()
    crop = take_crops(image, transform, size).round().clamp(0, 255).to(torch.uint8)
    if intrinsics is None:
        focal = focal_px or FOCAL_SHARE * max(width, height)
        intrinsics = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return crop, transform, intrinsics.float()[None]


def _of_one_camera(pictures: list[BoxedPicture]) -> list[BoxedPicture]:
    several = [p.name for p in pictures if p.together > 1]
    if several:
        raise InputError(
            f"{several[0]} is one of several pictures of its instant",
            "pictures of one camera: those of two frames are compared",
            "Name one camera in --pictures",
        )
    return pictures
