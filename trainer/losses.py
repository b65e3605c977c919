"""The training loss: its terms, their weights and their sum."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from trainer.config import LossConfig, TrainConfig
from trainer.data import ARRAYS
from trainer.loss_terms import (
    camera_l1,
    camera_to_reference,
    confidence_l1,
    consistency_l1,
    gradient_l1,
    mean_norm,
    median_scale,
    normal_angle,
    point_l1,
    ray_points,
    surface_relief,
    true_rays,
    unproject,
)
from trainer.model.joint import DepthUnit, Prediction

# Pixels of a frame that are looked up in the clip's other frames, and how near their true points must be.
CONSISTENCY_POINTS = 512
CONSISTENCY_RADIUS = 0.01


def arrays_of(config: TrainConfig) -> tuple[str, ...]:
    """Return the arrays of a dataset that the loss of a configuration needs."""
    return (*ARRAYS, "world_to_camera") if config.heads.ray or config.heads.camera else ARRAYS


def joint_loss(
    prediction: Prediction, batch: Mapping[str, torch.Tensor], unit: DepthUnit, config: LossConfig
) -> dict[str, torch.Tensor]:
    """Return all terms and their weighted sum; terms of weight 0 are not computed.

    Every per-pixel term of the surface is weighted by the ground-truth confidence of the shards. A surface without
    canonical coordinate (confidence 0) still has exact depth, which counts with weight ``config.unmapped``.

    Depth errors count in units of the training set's spread of depth, so that neither the rig's distance nor the
    choice of unit decides the balance with the canonical term; a confidence of 1, the least there is, stands for an
    error of λ or more, so depth has a λ of its own. With ``config.depth_scale`` "clip" each clip's depth is
    first aligned by the median ratio, as the evaluation does, and divided by the mean norm of its true points (as
    Depth Anything 3 divides its truth); the scale itself is then a term of its own.

    Parameters
    ----------
    batch : mapping
        ``depth`` (B, S, H, W) metres, 0 = none; ``canonical`` (B, S, 3, H, W); ``confidence`` (B, S, H, W) in [0, 1];
        ``intrinsics`` (B, S, 3, 3); ``index`` (B, S); ``world_to_camera`` (B, S, 4, 4) for rays and cameras.

    Returns
    -------
    dict of scalars: loss, depth, depth_gradient, canonical, canonical_gradient, surface; and of ray, ray_gradient,
    camera, point, scale, depth_confidence, normal and consistency those that are asked for and, of the first four,
    have a head
    """
    depth, intrinsics, weight = batch["depth"], batch["intrinsics"], batch["confidence"]
    on_surface = (depth > 0).to(depth.dtype)
    depth_weight = torch.where(weight > 0, weight, config.unmapped * on_surface)
    relief = surface_relief(depth, intrinsics)
    scales = config.gradient_scales

    depth_error = _depth_error(prediction.depth_m, batch, depth_weight, unit, config).unsqueeze(-3)
    canonical_error = prediction.canonical - batch["canonical"]
    apart = config.depth_confidence == "apart"
    depth_lambda = 0.0 if apart else config.depth_lambda
    terms = {
        "depth": confidence_l1(depth_error, prediction.depth_confidence, depth_weight, depth_lambda),
        "depth_gradient": gradient_l1(depth_error, depth_weight, scales, relief),
        "canonical": confidence_l1(canonical_error, prediction.canonical_confidence, weight, config.confidence_lambda),
        "canonical_gradient": gradient_l1(canonical_error, weight, scales, relief),
        "surface": F.binary_cross_entropy_with_logits(prediction.surface_logit, on_surface),
    }
    loss = config.depth * (terms["depth"] + config.gradient * terms["depth_gradient"])
    loss = loss + config.canonical * (terms["canonical"] + config.gradient * terms["canonical_gradient"])
    loss = loss + config.surface * terms["surface"]
    if apart:
        left = _error_left(prediction.depth_m, batch, depth_weight, unit).unsqueeze(-3)
        terms["depth_confidence"] = confidence_l1(left, prediction.depth_confidence, depth_weight, config.depth_lambda)
        loss = loss + terms["depth_confidence"]
    if prediction.ray is not None or prediction.camera is not None:
        camera_terms, extra = _camera_terms(prediction, batch, depth_weight, unit, config)
        terms |= camera_terms
        loss = loss + extra
    if config.depth_scale == "clip" and config.scale:
        terms["scale"] = _scale_error(prediction.depth_m, depth, depth_weight) / unit.spread
        loss = loss + config.scale * terms["scale"]
    if config.normal:
        points = unproject(prediction.depth_m, intrinsics), unproject(depth, intrinsics)
        terms["normal"] = normal_angle(*points, depth_weight, relief)
        loss = loss + config.normal * terms["normal"]
    if config.consistency:
        terms["consistency"] = consistency_l1(
            prediction.canonical,
            batch["canonical"],
            weight,
            CONSISTENCY_RADIUS,
            CONSISTENCY_POINTS,
            seed=int(batch["index"].flatten()[0]),
        )
        loss = loss + config.consistency * terms["consistency"]
    terms["loss"] = loss
    return terms


@torch.no_grad()
def frame_errors_mm(
    prediction: Prediction, batch: Mapping[str, torch.Tensor], half_extent_m: float
) -> dict[int, dict[str, float]]:
    """Return each frame's mean canonical error in millimetres, as the loss weighs its pixels, by sample number.

    Frames in which nothing is known are left out. Parameters as for :func:`joint_loss`.
    """
    weight = batch["confidence"]
    error = (prediction.canonical - batch["canonical"]).norm(dim=2) * (1000 * half_extent_m)
    total = weight.flatten(2).sum(-1)
    mean = (error * weight).flatten(2).sum(-1) / total.clamp(min=1e-6)
    rows = zip(batch["index"].flatten().tolist(), mean.flatten().tolist(), total.flatten().tolist(), strict=True)
    return {int(index): {"canonical_mm": value} for index, value, known in rows if known > 0}


def _camera_terms(
    prediction: Prediction,
    batch: Mapping[str, torch.Tensor],
    depth_weight: torch.Tensor,
    unit: DepthUnit,
    config: LossConfig,
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return the terms of rays, points and cameras, and their weighted sum.

    Rays are known in every pixel, background included, and exactly: all count fully. Origins and translations count
    in the training set's median depth, points in its spread.
    """
    assert prediction.reference is not None
    size = (batch["depth"].shape[-2], batch["depth"].shape[-1])
    poses = camera_to_reference(batch["world_to_camera"], prediction.reference)
    terms: dict[str, torch.Tensor] = {}
    total = prediction.depth_m.new_zeros(())
    if prediction.ray is not None and prediction.ray_confidence is not None:
        true = true_rays(poses, batch["intrinsics"], size, unit.unit)
        error, everywhere = prediction.ray - true, torch.ones_like(depth_weight)
        terms["ray"] = confidence_l1(error, prediction.ray_confidence, everywhere, config.confidence_lambda)
        terms["ray_gradient"] = gradient_l1(error, everywhere, config.gradient_scales)
        total = total + config.ray * (terms["ray"] + config.gradient * terms["ray_gradient"])
        if config.point:
            predicted = ray_points(prediction.ray, prediction.depth_m, unit.unit)
            points = point_l1(predicted, ray_points(true, batch["depth"], unit.unit), depth_weight)
            terms["point"] = points / (unit.unit * unit.spread)
            total = total + config.point * terms["point"]
    if prediction.camera is not None:
        terms["camera"] = camera_l1(prediction.camera, poses, batch["intrinsics"], size, unit.unit)
        total = total + config.camera * terms["camera"]
    return terms, total


def _depth_error(
    predicted: torch.Tensor,
    batch: Mapping[str, torch.Tensor],
    weight: torch.Tensor,
    unit: DepthUnit,
    config: LossConfig,
) -> torch.Tensor:
    """Return depth errors (B, S, H, W) in units of the training set's relative spread."""
    true, intrinsics = batch["depth"], batch["intrinsics"]
    if config.depth_scale == "metric":
        return (predicted - true) / (unit.scale(intrinsics, true.shape[-1]) * unit.spread)
    per_clip = (slice(None), None, None, None)
    aligned = predicted * median_scale(predicted, true, weight)[per_clip]
    norm = mean_norm(unproject(true, intrinsics), weight)[per_clip]
    return (aligned - true) / (norm * unit.spread)


@torch.no_grad()
def _error_left(
    predicted: torch.Tensor, batch: Mapping[str, torch.Tensor], weight: torch.Tensor, unit: DepthUnit
) -> torch.Tensor:
    """Return the errors that depth has left once each frame is aligned by its median ratio, as the evaluation does.

    How far away a head is no pixel of it knows better than another: that error would drown what a confidence can tell
    apart. (B, S, H, W), in units of the training set's relative spread, without gradient.
    """
    true, intrinsics = batch["depth"], batch["intrinsics"]
    frames = [x.flatten(0, 1).unsqueeze(1) for x in (predicted, true, weight)]
    ratio = median_scale(*frames).reshape(*true.shape[:2], 1, 1)
    return (predicted * ratio - true) / (unit.scale(intrinsics, true.shape[-1]) * unit.spread)


def _scale_error(predicted: torch.Tensor, true: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the mean over clips of |mean log(predicted / true)|."""
    known = weight > 0
    ratio = torch.where(known, (predicted / torch.where(known, true, 1.0)).log(), 0.0)
    total = weight.flatten(1).sum(1)
    mean = (weight * ratio).flatten(1).sum(1) / total.clamp(min=1e-6)
    return mean.abs().mean()
