"""The training loss: confidence-weighted regression and multi-scale gradients of depth and canonical coordinates."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from trainer.config import LossConfig
from trainer.depth_unit import DepthUnit
from trainer.model.joint import Prediction


def confidence_l1(error: torch.Tensor, confidence: torch.Tensor, weight: torch.Tensor, lam: float) -> torch.Tensor:
    """Return the weighted mean of c·|e| − λ log c.

    The network's own confidence c ≥ 1 is highest where it expects small errors: the minimum over c is at λ / |e|
    (the aleatoric loss of Kendall and Gal, NeurIPS 2017, as DUSt3R uses it).

    Parameters
    ----------
    error : (..., C, H, W)
        Prediction − truth; |e| is the mean of the absolute values over the C channels.
    confidence : (..., H, W)
    weight : (..., H, W)
        Ground-truth confidence in [0, 1]; 0 = no truth here. Values of ``error`` there do not matter, not even NaN.
    lam : float

    Returns
    -------
    scalar; 0 where no pixel has weight
    """
    known = weight > 0
    absolute = torch.where(known, error.abs().mean(-3), 0.0)
    terms = confidence * absolute - lam * confidence.log()
    return (weight * terms).sum() / weight.sum().clamp(min=1e-6)


def gradient_l1(error: torch.Tensor, weight: torch.Tensor, scales: int) -> torch.Tensor:
    """Return the mean absolute difference of neighbouring errors, over several scales.

    Only pairs of pixels that both have weight count, so nothing is compared across a silhouette or a hole. Coarser
    scales take every 2nd, 4th, ... pixel (the multi-scale gradient term of MiDaS, Ranftl et al., TPAMI 2020).

    Parameters
    ----------
    error : (..., C, H, W)
    weight : (..., H, W)
        A pair weighs the smaller one of its two weights.
    scales : int
        Scales the maps are too small for are left out.

    Returns
    -------
    scalar, the mean over scales of the sum of both directions
    """
    clean = torch.where((weight > 0).unsqueeze(-3), error, 0.0)
    total = error.new_zeros(())
    used = 0
    for scale in range(scales):
        step = 2**scale
        e, w = clean[..., ::step, ::step], weight[..., ::step, ::step]
        if min(e.shape[-2:]) < 2:
            break
        used += 1
        for axis in (-1, -2):
            length = e.shape[axis] - 1
            pair = torch.minimum(w.narrow(axis, 1, length), w.narrow(axis, 0, length))
            jump = (e.narrow(axis, 1, length) - e.narrow(axis, 0, length)).abs().mean(-3)
            total = total + (pair * jump).sum() / pair.sum().clamp(min=1e-6)
    return total / max(used, 1)


def joint_loss(
    prediction: Prediction, batch: Mapping[str, torch.Tensor], unit: DepthUnit, config: LossConfig
) -> dict[str, torch.Tensor]:
    """Return all terms and their weighted sum.

    Depth errors count in units of the training set's depth spread, so that neither the rig's distance nor the choice
    of unit decides the balance with the canonical term. Depth is the scan's own and counts fully wherever it exists;
    canonical coordinates come from a warp and count by its confidence.

    Parameters
    ----------
    prediction : Prediction
    batch : mapping
        ``depth`` (B, S, H, W) metres, 0 = none; ``canonical`` (B, S, 3, H, W); ``confidence`` (B, S, H, W) in [0, 1];
        ``intrinsics`` (B, S, 3, 3).
    unit : DepthUnit
    config : LossConfig

    Returns
    -------
    dict of scalars: loss, depth, depth_gradient, canonical, canonical_gradient, surface
    """
    on_surface = (batch["depth"] > 0).float()
    scale = unit.scale(batch["intrinsics"], batch["depth"].shape[-1]) * unit.spread
    depth_error = ((prediction.depth_m - batch["depth"]) / scale).unsqueeze(-3)
    canonical_error = prediction.canonical - batch["canonical"]
    weight = batch["confidence"]
    lam = config.confidence_lambda
    terms = {
        "depth": confidence_l1(depth_error, prediction.depth_confidence, on_surface, lam),
        "depth_gradient": gradient_l1(depth_error, on_surface, config.gradient_scales),
        "canonical": confidence_l1(canonical_error, prediction.canonical_confidence, weight, lam),
        "canonical_gradient": gradient_l1(canonical_error, weight, config.gradient_scales),
        "surface": F.binary_cross_entropy_with_logits(prediction.surface_logit, on_surface),
    }
    terms["loss"] = (
        config.depth * (terms["depth"] + config.gradient * terms["depth_gradient"])
        + config.canonical * (terms["canonical"] + config.gradient * terms["canonical_gradient"])
        + config.surface * terms["surface"]
    )
    return terms
