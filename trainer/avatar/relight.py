"""Pictures of a head as if a lamp stood elsewhere, from their normals: a network must not take shading for pose."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F  # noqa: N812 - its name everywhere

_AMBIENT = (0.15, 0.7)
_GAIN = (0.7, 1.4)
_TINT = 0.12
_GAMMA = 2.2
_LEAST = 0.05


def relit(images: torch.Tensor, normals: torch.Tensor, seeds: Sequence[int], share: float) -> torch.Tensor:
    """Return pictures (B, 3, H, W) in [0, 1], a share of them with the shading of another lamp on top of their own.

    The lamp is far away, before the head, of some tint; the rest is ambient. Shadows that would be cast are not. What
    is drawn depends on the seeds alone.

    Parameters
    ----------
    normals : (B, 3, H, W)
        Unit vectors in the camera's axes, towards the camera; 0 where there is no surface, which stays as it is.
    """
    draws = torch.stack([torch.rand(9, generator=torch.Generator().manual_seed((s ^ 0x5EED) % 2**63)) for s in seeds])
    draws = draws.to(images.device)
    lamp = torch.stack([2 * draws[:, 0] - 1, 1.4 * draws[:, 1] - 1, -0.15 - draws[:, 2]], -1)
    facing = torch.einsum("bc,bchw->bhw", F.normalize(lamp, dim=-1), normals).clamp(min=0)
    ambient = _between(draws[:, 3], _AMBIENT)[:, None, None]
    shading = ambient + (1 - ambient) * facing
    on = normals.square().sum(1) > 0.25
    mean = (shading * on).sum((1, 2)) / on.sum((1, 2)).clamp(min=1)
    shading = shading / mean.clamp(min=_LEAST)[:, None, None] * _between(draws[:, 4], _GAIN)[:, None, None]
    tint = 1 + _TINT * (2 * draws[:, 5:8] - 1)
    changed = images * (shading[:, None] * tint[:, :, None, None]).clamp(min=0) ** (1 / _GAMMA)
    taken = on & (draws[:, 8] < share)[:, None, None]
    return torch.where(taken[:, None], changed.clamp(0, 1), images)


def _between(share: torch.Tensor, limits: tuple[float, float]) -> torch.Tensor:
    return limits[0] + (limits[1] - limits[0]) * share
