"""What the network is asked for: Gaussian likelihood of vertices and of texels, FlowFace's equations 5 to 7."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trainer.align.config import AlignLossConfig
from trainer.align.network import Alignment, texel_centres
from trainer.align.uv_space import UVSpace


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
    norm = sum(config.decay**k for k in range(last + 1))
    distance = (alignments[-1].positions - truth.positions).norm(dim=-1).detach()
    return {
        "loss": total / norm,
        "vertex": vertex.detach(),
        "dense": dense.detach(),
        "distance": (distance * space.weights).sum(-1).mean() / space.weights.sum(),
    }
