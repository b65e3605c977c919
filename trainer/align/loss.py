"""What the network is asked for: Gaussian likelihood of vertices and of texels, FlowFace's equations 5 to 7."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trainer.align.config import AlignLossConfig
from trainer.align.network import Alignment, texel_centres
from trainer.align.uv_space import UVSpace

# Features have the length of a unit on each channel: correlations reach the root of their number.
_SHARPNESS = 4.0


@dataclass(frozen=True)
class Truth:
    """Where vertices are, in units of the crop's side.

    Attributes
    ----------
    positions : tensor (B, V, 2)
    spread : tensor (B, V)
        Standard deviation of x and of y: how far the truth itself may be off.
    """

    positions: torch.Tensor
    spread: torch.Tensor


def gaussian_nll(squared_distance: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """Return log σ² + r² / (2 σ²), negative log-likelihood of a circular Gaussian in two dimensions, less log 2π."""
    return variance.log() + squared_distance / (2 * variance)


def vertex_loss(alignment: Alignment, truth: Truth, weights: torch.Tensor) -> torch.Tensor:
    """Return equation 5, over the sum of the weights (V,).

    The truth's own variance adds to what the network says: where the registration is unsure, errors weigh less, and
    the network is not asked to be sure.
    """
    squared = (alignment.positions - truth.positions).square().sum(-1)
    nll = gaussian_nll(squared, alignment.sigma.square() + truth.spread.square())
    return (nll * weights).sum(-1).mean() / weights.sum()


def dense_loss(alignment: Alignment, truth: Truth, space: UVSpace) -> torch.Tensor:
    """Return equation 6, over the sum of its weights; the true flow is that of the triangle each texel lies in."""
    assert alignment.flow is not None
    assert alignment.log_sigma is not None
    D = alignment.flow.shape[-1]
    true_flow, spread = space.to_texels(truth.positions), space.to_texels(truth.spread[..., None])
    true_flow = true_flow - texel_centres(D, true_flow.device).flatten(1).T
    flow, log_sigma = alignment.flow.flatten(2).transpose(1, 2), alignment.log_sigma.flatten(1)
    variance = (2 * log_sigma).exp() + spread[..., 0].square()
    nll = gaussian_nll((flow - true_flow).square().sum(-1), variance)
    return (nll * space.texel_weights).sum(-1).mean() / space.texel_weights.sum()


def matching_loss(correlations: torch.Tensor, truth: Truth, space: UVSpace) -> torch.Tensor:
    """Return the cross-entropy of a texel's correlations over the picture with where the texel is, weighted.

    Not FlowFace's: it tells features at once what correlations are for, where the flow's own loss takes long to.

    Parameters
    ----------
    correlations : tensor (B, D * D, n * n)
    """
    side = round(correlations.shape[-1] ** 0.5)
    there = space.to_texels(truth.positions) * side - 0.5
    inside = ((there > -0.5) & (there < side - 0.5)).all(-1)
    there = there.clamp(0, side - 1)
    corner = there.floor().clamp(max=side - 2)
    share = there - corner
    log_share = correlations.mul(_SHARPNESS).log_softmax(-1)
    total = torch.zeros_like(share[..., 0])
    for dx in (0, 1):
        for dy in (0, 1):
            index = ((corner[..., 1] + dy) * side + corner[..., 0] + dx).long()
            weight = (share[..., 0] if dx else 1 - share[..., 0]) * (share[..., 1] if dy else 1 - share[..., 1])
            total = total - weight * log_share.gather(-1, index[..., None])[..., 0]
    weights = space.texel_weights * inside
    return (total * weights).sum() / weights.sum().clamp(min=1e-6)


def align_loss(
    alignments: Sequence[Alignment], truth: Truth, space: UVSpace, config: AlignLossConfig
) -> dict[str, torch.Tensor]:
    """Return equation 7 as ``loss``, and its terms of the last iteration.

    The start counts as an iteration. Terms are over the sum of their weights, and the whole over that of the decays,
    so that numbers do not grow with vertices, texels or iterations.
    """
    last = len(alignments) - 1
    total = torch.zeros((), device=truth.positions.device)
    for k, alignment in enumerate(alignments):
        vertex = vertex_loss(alignment, truth, space.weights)
        dense = dense_loss(alignment, truth, space) if alignment.flow is not None else torch.zeros_like(vertex)
        total = total + config.decay ** (last - k) * (vertex + config.dense * dense)
    correlations, matching = alignments[0].correlations, torch.zeros_like(total)
    if correlations is not None and config.matching:
        matching = matching_loss(correlations, truth, space)
    norm = sum(config.decay**k for k in range(last + 1))
    distance = (alignments[-1].positions - truth.positions).norm(dim=-1).detach()
    return {
        "loss": total / norm + config.matching * matching,
        "vertex": vertex.detach(),
        "dense": dense.detach(),
        "matching": matching.detach(),
        "distance": (distance * space.weights).sum(-1).mean() / space.weights.sum(),
    }
