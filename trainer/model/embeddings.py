"""The tokens a frame starts as: patches, a class token, registers, and where the patches are."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from trainer.model.config import BackboneConfig


class Embeddings(nn.Module):
    """Turn frames into tokens: class token, registers, patches in rows.

    Parameters
    ----------
    config : BackboneConfig
    grid : int
        Tokens a side of the learnt positions; other sizes interpolate them.
    """

    def __init__(self, config: BackboneConfig, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.others = 1 + config.registers
        self.patch = nn.Conv2d(3, config.dim, config.patch, config.patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.registers = nn.Parameter(torch.zeros(1, config.registers, config.dim)) if config.registers else None
        # Of the reference frame and of the others; they take the class tokens' place where attention alternates.
        alternates = config.start < config.blocks
        self.camera_tokens = nn.Parameter(torch.zeros(1, 2, config.dim)) if alternates else None
        learnt = config.positions == "learnt"
        self.positions = nn.Parameter(torch.zeros(1, 1 + grid**2, config.dim)) if learnt else None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map (B, 3, H, W) to (B, 1 + registers + H·W / patch², D), float32."""
        patches = self.patch(images).float()
        size = (patches.shape[-2], patches.shape[-1])
        patches = patches.flatten(2).transpose(1, 2)
        first = self.class_token.expand(images.shape[0], -1, -1)
        if self.positions is not None:
            place = self.positions_for(size)
            first, patches = first + place[:, :1], patches + place[:, 1:]
        if self.registers is not None:
            first = torch.cat([first, self.registers.expand(images.shape[0], -1, -1)], 1)
        return torch.cat([first, patches], 1)

    def positions_for(self, size: tuple[int, int]) -> torch.Tensor:
        """Return the learnt positions, class token's first, for a grid of other size: (1, 1 + h·w, D).

        Bicubic. DINOv2 has two ways and its weights want the one they were trained with: those with registers
        antialiased to the exact size; those without by a scale factor with 0.1 of a token added, which shifts samples
        a little.
        """
        assert self.positions is not None
        if size == (self.grid, self.grid):
            return self.positions
        return resize_positions(self.positions, self.grid, size, antialias=self.registers is not None)

    def lay_out(self, deviation: float) -> None:
        """Start all weights: noise, and positions from two-dimensional sines and cosines, as MAE does.

        DINOv2's own start of the positions, noise of 0.02, says next to nothing beside the patches: fine over its long
        pretraining, but a short run from scratch has to learn where things are first.
        """
        for weight in (self.patch.weight, self.class_token, self.registers, self.positions):
            if weight is not None:
                nn.init.trunc_normal_(weight, std=deviation)
        if self.camera_tokens is not None:
            # They enter half-way, beside tokens that have grown to about one, and start at that size.
            nn.init.normal_(self.camera_tokens)
        if self.patch.bias is not None:
            nn.init.zeros_(self.patch.bias)
        if self.positions is not None:
            _lay_out_positions(self.positions, self.grid)


def resize_positions(positions: torch.Tensor, grid: int, size: tuple[int, int], *, antialias: bool) -> torch.Tensor:
    """Interpolate positions (1, 1 + grid², D) to (1, 1 + h·w, D); see :meth:`Embeddings.positions_for`."""
    first, patches = positions[:, :1].float(), positions[:, 1:].float()
    square = patches.reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
    if antialias:
        resized = F.interpolate(square, size, mode="bicubic", antialias=True)
    else:
        scale = ((size[0] + 0.1) / grid, (size[1] + 0.1) / grid)
        resized = F.interpolate(square, scale_factor=scale, mode="bicubic")
    return torch.cat([first, resized.flatten(2).transpose(1, 2)], 1)


def _lay_out_positions(positions: torch.Tensor, side: int) -> None:
    quarter = positions.shape[-1] // 4
    place = (torch.arange(side) + 0.5) / side
    frequencies = torch.pi * 2.0 ** torch.linspace(0, 4, quarter)
    waves = place[:, None] * frequencies
    axis = torch.cat([waves.sin(), waves.cos()], -1)
    rows, columns = axis[:, None].expand(-1, side, -1), axis[None].expand(side, -1, -1)
    with torch.no_grad():
        positions[0, 1:, : 4 * quarter] = torch.cat([rows, columns], -1).reshape(side * side, -1)
