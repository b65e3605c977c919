"""Rotary positions: queries and keys are turned by angles that grow with a token's place.

After Su et al., "RoFormer" (2021), in two dimensions. Two forms are in use. *Index* (Depth Anything 3, CroCo): the
first half of a head's channels turns with the row, the second with the column, counted in patches from 1; tokens that
are no patch are at 0. *Relative* (DINOv3): rows and columns from −1 to 1 over the image; tokens that are no patch do
not turn.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

_BASE = 100.0


class Rotation(NamedTuple):
    """Cosines and sines (N, C) of the angles of N tokens, for heads of C channels.

    A head's channels fall into ``parts`` equal parts; in each, channel i of the first half turns with channel i of the
    second.
    """

    cos: torch.Tensor
    sin: torch.Tensor
    parts: int

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """Turn (B, heads, N, C)."""
        first, second = x.reshape(*x.shape[:-1], self.parts, 2, -1).unbind(-2)
        turned = torch.stack([-second, first], -2).flatten(-3)
        return x * self.cos.to(x.dtype) + turned * self.sin.to(x.dtype)

    def repeat(self, frames: int) -> Rotation:
        """The same for the tokens of several frames in a row."""
        return Rotation(self.cos.repeat(frames, 1), self.sin.repeat(frames, 1), self.parts)


def index_rotation(grid: tuple[int, int], others: int, channels: int, device: torch.device) -> Rotation:
    """Angles within a frame: ``others`` tokens at (0, 0), then patches at (1, 1), (1, 2), ... in rows."""
    rows = torch.arange(1, grid[0] + 1, device=device).repeat_interleave(grid[1])
    columns = torch.arange(1, grid[1] + 1, device=device).repeat(grid[0])
    return _index_angles(torch.stack([rows, columns], -1), others, channels)


def flat_rotation(grid: tuple[int, int], others: int, channels: int, device: torch.device) -> Rotation:
    """Angles across frames: every patch at (1, 1). They tell patches from other tokens and nothing else."""
    return _index_angles(torch.ones(grid[0] * grid[1], 2, device=device), others, channels)


def relative_rotation(grid: tuple[int, int], others: int, channels: int, device: torch.device) -> Rotation:
    """Angles within a frame as DINOv3 has them."""
    sides = [2 * (torch.arange(n, device=device) + 0.5) / n - 1 for n in grid]
    places = torch.cartesian_prod(*sides)
    frequencies = _BASE ** -torch.arange(0, 1, 4 / channels, device=device)
    angles = (2 * math.pi * places[:, :, None] * frequencies).flatten(1).repeat(1, 2)
    return _with_others(angles, others, 1)


def _index_angles(places: torch.Tensor, others: int, channels: int) -> Rotation:
    quarter = channels // 4
    frequencies = _BASE ** -(torch.arange(quarter, device=places.device) / quarter)
    angles = (places.float()[:, :, None] * frequencies).repeat(1, 1, 2).flatten(1)
    return _with_others(angles, others, 2)


def _with_others(angles: torch.Tensor, others: int, parts: int) -> Rotation:
    angles = torch.cat([angles.new_zeros(others, angles.shape[1]), angles])
    return Rotation(angles.cos(), angles.sin(), parts)
