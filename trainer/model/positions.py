"""Sines and cosines of the place in the image, added to feature maps: convolutions alone do not know where they are."""

from __future__ import annotations

import torch

_WEIGHT = 0.1
_BASE = 100.0


def add_positions(x: torch.Tensor, aspect: float) -> torch.Tensor:
    """Add a faint code of each pixel's place to a map, as the decoders of Depth Anything 3 do.

    A place runs over the image's sides measured in half diagonals, so that it keeps its meaning when the shape changes.

    Parameters
    ----------
    x : (B, C, H, W)
        C a multiple of 4: the first half of the channels codes the column, the second the row.
    aspect : float
        Width / height of the image.
    """
    channels, height, width = x.shape[1:]
    quarter = channels // 4
    diagonal = (aspect**2 + 1) ** 0.5
    frequencies = _BASE ** -(torch.arange(quarter, device=x.device) / quarter)
    codes = []
    for half_side, count in ((aspect / diagonal, width), (1 / diagonal, height)):
        centres = half_side * ((2 * torch.arange(count, device=x.device) + 1) / count - 1)
        angles = frequencies[:, None] * centres
        codes.append(torch.cat([angles.sin(), angles.cos()]))
    columns = codes[0][:, None, :].expand(-1, height, -1)
    rows = codes[1][:, :, None].expand(-1, -1, width)
    return x + (_WEIGHT * torch.cat([columns, rows])).to(x.dtype)
