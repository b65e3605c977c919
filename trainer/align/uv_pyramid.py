"""Learnt positional embeddings of UV space: FlowFace's equation 3."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

LEVELS, CHANNELS = 4, 32


class UVPyramid(nn.Module):
    """Trainable textures of D, D/2, D/4 and D/8 texels a side, enlarged to D, stacked, and mixed texel by texel.

    Neighbours share what the coarse textures say, so that nearby texels begin alike.

    Parameters
    ----------
    size : int
        D, at least 8.
    channels : int
        Of the result.
    """

    def __init__(self, size: int, channels: int) -> None:
        super().__init__()
        self.size = size
        sides = [max(size >> level, 1) for level in range(LEVELS)]
        # By this name the optimiser knows what has no weight decay.
        self.embeddings = nn.ParameterList(nn.Parameter(0.5 * torch.randn(1, CHANNELS, side, side)) for side in sides)
        self.mix = nn.Conv2d(LEVELS * CHANNELS, channels, 1)

    def forward(self) -> torch.Tensor:
        """Return the embedding, (1, channels, D, D)."""
        size = (self.size, self.size)
        levels = [F.interpolate(level, size, mode="bilinear", align_corners=False) for level in self.embeddings]
        mixed: torch.Tensor = self.mix(torch.cat(levels, 1))
        return mixed
