"""The dense decoder: tokens of four blocks, reassembled at four scales and fused from coarse to fine.

After Ranftl, Bochkovskiy and Koltun, "Vision Transformers for Dense Prediction" (ICCV 2021), without batch norm.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from trainer.config import DecoderConfig


class ResidualUnit(nn.Module):
    """Two 3 × 3 convolutions, each after a ReLU, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the shape (B, C, H, W)."""
        return x + self.second(F.relu(self.first(F.relu(x))))


class Fusion(nn.Module):
    """Add a finer map to the coarser result, refine, and enlarge to the size of the next finer map."""

    def __init__(self, channels: int, *, coarsest: bool) -> None:
        super().__init__()
        self.lateral = None if coarsest else ResidualUnit(channels)
        self.refine = ResidualUnit(channels)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, fine: torch.Tensor, coarse: torch.Tensor | None, size: tuple[int, int]) -> torch.Tensor:
        """Map (B, C, h, w), with the coarser result of the same size, to (B, C, *size)."""
        x = fine if self.lateral is None or coarse is None else coarse + self.lateral(fine)
        # A 1 × 1 convolution and bilinear enlargement commute; this order is four times cheaper.
        return F.interpolate(self.project(self.refine(x)), size, mode="bilinear", align_corners=True)


class FusionTrunk(nn.Module):
    """Fuse the four token maps (B, D, h, w) into one map (B, C, 8h, 8w)."""

    def __init__(self, dim: int, config: DecoderConfig) -> None:
        super().__init__()
        a, b, c, d = config.reassemble
        self.reassemble = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(dim, a, 1), nn.ConvTranspose2d(a, a, 4, stride=4)),
                nn.Sequential(nn.Conv2d(dim, b, 1), nn.ConvTranspose2d(b, b, 2, stride=2)),
                nn.Conv2d(dim, c, 1),
                nn.Sequential(nn.Conv2d(dim, d, 1), nn.Conv2d(d, d, 3, stride=2, padding=1)),
            ]
        )
        self.narrow = nn.ModuleList(nn.Conv2d(n, config.channels, 3, padding=1, bias=False) for n in config.reassemble)
        self.fusions = nn.ModuleList(Fusion(config.channels, coarsest=level == 3) for level in range(4))

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """Fuse from the deepest block's map, the coarsest, to the shallowest one's."""
        levels = [n(r(m)) for n, r, m in zip(self.narrow, self.reassemble, maps, strict=True)]
        height, width = levels[0].shape[-2:]
        sizes = [(2 * height, 2 * width)] + [(x.shape[-2], x.shape[-1]) for x in levels[:-1]]
        x: torch.Tensor | None = None
        for level in (3, 2, 1, 0):
            x = self.fusions[level](levels[level], x, sizes[level])
        assert x is not None
        return x


class OutputConvs(nn.Module):
    """The last convolutions of one head: (B, C, h, w) to (B, K, H / stride, W / stride)."""

    def __init__(self, config: DecoderConfig, outputs: int) -> None:
        super().__init__()
        hidden = config.output_channels
        self.before = nn.Conv2d(config.channels, hidden, 3, padding=1)
        self.skip = nn.Conv2d(hidden, hidden, 1) if config.image_skip else None
        self.hidden = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.out = nn.Conv2d(hidden, outputs, 1)
        if self.out.bias is not None:
            nn.init.zeros_(self.out.bias)

    def forward(self, x: torch.Tensor, detail: torch.Tensor | None, size: tuple[int, int]) -> torch.Tensor:
        """Enlarge, add the image's own features where there are some, convolve."""
        x = F.interpolate(self.before(x), size, mode="bilinear", align_corners=True)
        if self.skip is not None and detail is not None:
            x = x + self.skip(detail)
        return self.out(F.relu(self.hidden(F.relu(x))))


class ImageDetail(nn.Module):
    """Shallow features of the image at the resolution of the maps: what patches of 14 pixels blur."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        channels = config.output_channels
        self.first = nn.Conv2d(3, channels, 2 * config.output_stride + 1, config.output_stride, config.output_stride)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Map (B, 3, H, W) to (B, C, *size)."""
        x = self.first(images)
        if x.shape[-2:] != size:
            x = F.interpolate(x, size, mode="bilinear", align_corners=False)
        return F.relu(self.second(F.relu(x)))
