"""Convolutional stages that halve a picture time and again: what a small network learns from few pictures."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere


class ConvolutionalStages(nn.ModuleList):
    """Four stages that halve the picture.

    Attributes
    ----------
    widths : tuple of int
        Channels of each stage.
    """

    def __init__(self, width: int) -> None:
        self.widths = (width, 2 * width, 4 * width, 6 * width)
        super().__init__(
            nn.Sequential(_Convolution(before, after, stride=2), *([_Residual(after)] if stage else []))
            for stage, (before, after) in enumerate(zip((3, *self.widths), self.widths, strict=False))
        )

    def maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the map (B, C, h, w) of each stage, fine to coarse, of (B, 3, H, W) normalised pictures."""
        maps = [images]
        for stage in self:
            maps.append(stage(maps[-1]))
        return maps[1:]


def resized(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Interpolate maps (B, C, h, w) bilinearly to a size, unless they have it."""
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


class _Convolution(nn.Module):
    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm = nn.GroupNorm(max(after // 16, 1), after)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.norm(self.convolution(x))
        return F.silu(normed)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = _Convolution(width, width), _Convolution(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        added: torch.Tensor = self.second(self.first(x))
        return x + added
