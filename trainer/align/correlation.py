"""All-pairs correlation between texels and pixels, and looking it up: RAFT's volume (Teed and Deng, ECCV 2020)."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F  # noqa: N812 - its name everywhere


def correlation_pyramid(texels: torch.Tensor, pixels: torch.Tensor, levels: int) -> list[torch.Tensor]:
    """Return the inner product of every texel's feature with every pixel's, over the root of their length.

    Parameters
    ----------
    texels : tensor (1 or B, C, D, D)
    pixels : tensor (B, C, H, W)
    levels : int
        Each is the mean of two by two pixels of the one before, while it has two.

    Returns
    -------
    list of tensor (B * D * D, 1, H', W')
    """
    B, C, H, W = pixels.shape
    queries = texels.expand(B, -1, -1, -1).flatten(2)
    volume = torch.einsum("bct,bchw->bthw", queries, pixels) / math.sqrt(C)
    pyramid = [volume.reshape(-1, 1, H, W)]
    for _ in range(levels - 1):
        last = pyramid[-1]
        pyramid.append(F.avg_pool2d(last, 2) if min(last.shape[-2:]) >= 2 else last)
    return pyramid


def look_up(pyramid: list[torch.Tensor], positions: torch.Tensor, radius: int) -> torch.Tensor:
    """Sample each texel's correlations in a window about the place it is thought to be at, on every level.

    Parameters
    ----------
    pyramid : list of tensor
        As :func:`correlation_pyramid` gives it.
    positions : tensor (B, 2, D, D)
        x and y in the picture, whose side is 1.
    radius : int
        Pixels of each level to either side; sampled bilinearly, 0 beyond the picture.

    Returns
    -------
    tensor (B, levels * (2 radius + 1)², D, D)
        Level by level; within one, row by row.
    """
    B, _, D, _ = positions.shape
    reach = torch.arange(-radius, radius + 1, device=positions.device, dtype=positions.dtype)
    dy, dx = torch.meshgrid(reach, reach, indexing="ij")
    window = torch.stack([dx, dy], -1)[None]
    centres = positions.permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
    found = []
    for level in pyramid:
        H, W = level.shape[-2:]
        # grid_sample runs from -1 to 1 over the pixels' outer edges, two for the picture's side.
        grid = 2 * (centres + window / window.new_tensor([W, H])) - 1
        sampled = F.grid_sample(level, grid, "bilinear", "zeros", align_corners=False)
        found.append(sampled.reshape(B, D, D, -1))
    return torch.cat(found, -1).permute(0, 3, 1, 2)
