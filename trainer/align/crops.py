"""Crops of pictures about a face: the square that is seen, pixels taken from it, and points into it and back."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F  # noqa: N812 - its name everywhere

ENLARGED = 1.2  # FlowFace: the face's box and 20 %
_LEAST_SIDE_PX = 2.0


def square_about(boxes: torch.Tensor) -> torch.Tensor:
    """Return the squares about boxes (B, 4) of left, top, right, bottom: centre x, y and side, (B, 3), pixels."""
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    side = (ENLARGED * size.max(1, keepdim=True).values).clamp(min=_LEAST_SIDE_PX)
    return torch.cat([centre, side], 1)


def crop_transform(
    squares: torch.Tensor, turn_rad: torch.Tensor | None = None, mirror: torch.Tensor | None = None
) -> torch.Tensor:
    """Return what takes places in crops, in [0, 1]², to pixels of the pictures, (B, 2, 3).

    Parameters
    ----------
    squares : tensor (B, 3)
        As :func:`square_about` gives them.
    turn_rad : tensor (B,), optional
        By which the crop is turned about its centre.
    mirror : tensor (B,) bool, optional
        Which are seen left to right.
    """
    turn = torch.zeros_like(squares[:, 0]) if turn_rad is None else turn_rad
    side, cos, sin = squares[:, 2], turn.cos(), turn.sin()
    across = torch.ones_like(side) if mirror is None else torch.where(mirror, -1.0, 1.0)
    linear = torch.stack([torch.stack([cos * across, -sin], -1), torch.stack([sin * across, cos], -1)], -2)
    linear = linear * side[:, None, None]
    corner = squares[:, :2] - linear.sum(-1) / 2
    return torch.cat([linear, corner[..., None]], -1)


def take_crops(images: torch.Tensor, transform: torch.Tensor, size: int) -> torch.Tensor:
    """Return crops (B, C, size, size) of pictures (B, C, H, W), bilinear; beyond a picture, its outermost pixels.

    Where a crop is smaller than what it shows, several samples make one pixel.
    """
    B, _, H, W = images.shape
    scale = float(transform[:, :, :2].detach().square().sum(1).sqrt().max()) / size
    finer = min(max(math.ceil(scale - 0.25), 1), 8)
    n = size * finer
    centre = (torch.arange(n, device=images.device) + 0.5) / n
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    places = torch.stack([x, y], -1).reshape(1, -1, 2).expand(B, -1, -1)
    pixels = to_picture(places, transform).reshape(B, n, n, 2)
    grid = 2 * pixels / pixels.new_tensor([W, H]) - 1
    taken = F.grid_sample(images, grid, "bilinear", "border", align_corners=False)
    return F.avg_pool2d(taken, finer) if finer > 1 else taken


def to_picture(places: torch.Tensor, transform: torch.Tensor) -> torch.Tensor:
    """Return the pixels (B, V, 2) of places in crops (B, V, 2)."""
    return places @ transform[:, :, :2].transpose(1, 2) + transform[:, None, :, 2]


def to_crop(pixels: torch.Tensor, transform: torch.Tensor) -> torch.Tensor:
    """Return the places in crops of pixels (B, V, 2); undoes :func:`to_picture`."""
    inverse = torch.linalg.inv(transform[:, :, :2])
    return (pixels - transform[:, None, :, 2]) @ inverse.transpose(1, 2)
