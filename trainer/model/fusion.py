"""Fusing maps of four scales from coarse to fine: DPT's way, and one with large-kernel attention."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere


def enlarge(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Interpolate (B, C, H, W) bilinearly with corners kept."""
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


class ResidualUnit(nn.Module):
    """Two 3 × 3 convolutions, each after a ReLU, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the shape (B, C, H, W)."""
        return x + self.second(F.relu(self.first(F.relu(x))))


class DptLevel(nn.Module):
    """Add a finer map to the coarser result, refine, and enlarge to the size of the next finer map.

    After Ranftl, Bochkovskiy and Koltun, "Vision Transformers for Dense Prediction" (ICCV 2021), without batch norm.
    """

    def __init__(self, channels: int, *, coarsest: bool) -> None:
        super().__init__()
        self.lateral = None if coarsest else ResidualUnit(channels)
        self.refine = ResidualUnit(channels)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, fine: torch.Tensor, coarse: torch.Tensor | None, size: tuple[int, int]) -> torch.Tensor:
        """Map (B, C, h, w), with the coarser result of the same size, to (B, C, *size)."""
        x = fine if self.lateral is None or coarse is None else coarse + self.lateral(fine)
        # A 1 × 1 convolution and bilinear enlargement commute; this order is four times cheaper.
        return enlarge(self.project(self.refine(x)), size)


class LargeKernelAttention(nn.Module):
    """Weigh every pixel of every channel by what is around it, over 23 × 23 pixels.

    A large kernel taken apart (Guo et al., "Visual Attention Network", 2023): a depthwise 5 × 5 convolution, a
    depthwise 7 × 7 one with dilation 3, and a 1 × 1 one across channels. The result multiplies the input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.near = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.far = nn.Conv2d(channels, channels, 7, padding=9, dilation=3, groups=channels)
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the shape (B, C, H, W)."""
        return x * self.mix(self.far(self.near(x)))


class LargeKernelUnit(nn.Module):
    """Large-kernel attention between two 1 × 1 maps, then a convolutional feed-forward, each a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # One group over all channels and pixels: like layer norm, it does not depend on the batch.
        self.norm1 = nn.GroupNorm(1, channels)
        self.before = nn.Conv2d(channels, channels, 1)
        self.attention = LargeKernelAttention(channels)
        self.after = nn.Conv2d(channels, channels, 1)
        self.scale1 = nn.Parameter(torch.full((channels,), 0.1))
        self.norm2 = nn.GroupNorm(1, channels)
        self.widen = nn.Conv2d(channels, 2 * channels, 1)
        self.spread = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.narrow = nn.Conv2d(2 * channels, channels, 1)
        self.scale2 = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the shape (B, C, H, W)."""
        x = x + self.scale1[:, None, None] * self.after(self.attention(F.gelu(self.before(self.norm1(x)))))
        return x + self.scale2[:, None, None] * self.narrow(F.gelu(self.spread(self.widen(self.norm2(x)))))


class LargeKernelLevel(nn.Module):
    """Merge a finer map with the coarser result by a 1 × 1 map of both, weigh, enlarge to the next finer size."""

    def __init__(self, channels: int, *, coarsest: bool) -> None:
        super().__init__()
        self.merge = None if coarsest else nn.Conv2d(2 * channels, channels, 1)
        self.unit = LargeKernelUnit(channels)

    def forward(self, fine: torch.Tensor, coarse: torch.Tensor | None, size: tuple[int, int]) -> torch.Tensor:
        """Map (B, C, h, w), with the coarser result of the same size, to (B, C, *size)."""
        x = fine if self.merge is None or coarse is None else self.merge(torch.cat([fine, coarse], 1))
        return enlarge(self.unit(x), size)


class Fusion(nn.Module):
    """Four maps, fine to coarse, into one (B, C, 2h, 2w) of twice the finest one's size."""

    def __init__(self, kind: str, channels: int) -> None:
        super().__init__()
        level = LargeKernelLevel if kind == "large_kernel" else DptLevel
        self.levels = nn.ModuleList(level(channels, coarsest=k == 3) for k in range(4))

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """Go from the deepest block's map, the coarsest, to the shallowest one's."""
        height, width = maps[0].shape[-2:]
        sizes = [(2 * height, 2 * width)] + [(x.shape[-2], x.shape[-1]) for x in maps[:-1]]
        x = self.levels[3](maps[3], None, sizes[3])
        for k in (2, 1, 0):
            x = self.levels[k](maps[k], x, sizes[k])
        return x
