"""The terms of the training loss, as functions of tensors: maps first, then those that know of cameras."""

from __future__ import annotations

import torch

from trainer.model.camera import encode_camera

# A step of depth between neighbouring pixels of more than this many pixel footprints is not a surface but a silhouette:
# a plane seen at 80 degrees from its normal rises by 5.7 footprints a pixel.
SILHOUETTE_FOOTPRINTS = 6.0
_TINY = 1e-6


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
        0 leaves the network's confidence out altogether.

    Returns
    -------
    scalar; 0 where no pixel has weight
    """
    known = weight > 0
    absolute = torch.where(known, error.abs().mean(-3), 0.0)
    terms = confidence * absolute - lam * confidence.log() if lam > 0 else absolute
    return (weight * terms).sum() / weight.sum().clamp(min=_TINY)


def gradient_l1(
    error: torch.Tensor, weight: torch.Tensor, scales: int, relief: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the mean absolute difference of neighbouring errors, over several scales.

    Only pairs of pixels that both have weight count, and none across a silhouette, whether against the background or
    of a nose in front of a cheek. Coarser scales take every 2nd, 4th, ... pixel (the multi-scale gradient term of
    MiDaS, Ranftl et al., TPAMI 2020).

    Parameters
    ----------
    error : (..., C, H, W)
    weight : (..., H, W)
        The weight of a pair is the smaller of its two.
    scales : int
        Scales the maps are too small for are left out.
    relief : (..., H, W), optional
        See :func:`surface_relief`; without it only missing pixels separate a pair.

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
        r = None if relief is None else relief[..., ::step, ::step]
        if min(e.shape[-2:]) < 2:
            break
        used += 1
        for axis in (-1, -2):
            pair = _pair_weight(w, r, axis, step)
            jump = _difference(e, axis).abs().mean(-3)
            total = total + (pair * jump).sum() / pair.sum().clamp(min=_TINY)
    return total / max(used, 1)


def surface_relief(depth_m: torch.Tensor, intrinsics: torch.Tensor) -> torch.Tensor:
    """Return depth such that differences count in pixel footprints, (..., H, W).

    A pixel covers z / f metres, so f log z changes by one where z changes by one footprint.

    Parameters
    ----------
    depth_m : (..., H, W)
        0 = none.
    intrinsics : (..., 3, 3)
        Pixels.
    """
    return intrinsics[..., 0, 0, None, None] * depth_m.clamp(min=1e-3).log()


def unproject(depth_m: torch.Tensor, intrinsics: torch.Tensor) -> torch.Tensor:
    """Return the points of depth maps in camera axes, (..., 3, H, W) metres.

    Parameters
    ----------
    depth_m : (..., H, W)
        Planar.
    intrinsics : (..., 3, 3)
        Pixels, pixel centres at +0.5.
    """
    return pixel_directions(intrinsics, depth_m.shape[-2], depth_m.shape[-1]) * depth_m.unsqueeze(-3)


def pixel_directions(intrinsics: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return K⁻¹ (u, v, 1) of every pixel centre, (..., 3, H, W): planar depth 1 in camera axes."""
    v, u = torch.meshgrid(
        torch.arange(height, device=intrinsics.device, dtype=intrinsics.dtype) + 0.5,
        torch.arange(width, device=intrinsics.device, dtype=intrinsics.dtype) + 0.5,
        indexing="ij",
    )
    pixels = torch.stack([u, v, torch.ones_like(u)]).flatten(1)
    return (torch.linalg.inv(intrinsics) @ pixels).unflatten(-1, (height, width))


def mean_norm(points: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the weighted mean distance of each clip's points from its cameras, (B,) metres; 1 where nothing is known.

    Parameters
    ----------
    points : (B, S, 3, H, W)
    weight : (B, S, H, W)
    """
    total = weight.flatten(1).sum(1)
    norm = (weight * points.norm(dim=2)).flatten(1).sum(1) / total.clamp(min=_TINY)
    return torch.where(total > 0, norm, torch.ones_like(norm))


def median_scale(predicted: torch.Tensor, true: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return what a clip's prediction is to be multiplied by: the median of true / predicted, (B,), without gradient.

    Parameters
    ----------
    predicted, true, weight : (B, S, H, W)
        Only pixels with weight count; 1 where there are none.
    """
    with torch.no_grad():
        ratio = torch.where(weight > 0, true / predicted.clamp(min=_TINY), torch.nan).flatten(1)
        return ratio.nanmedian(1).values.nan_to_num(nan=1.0)


def normal_angle(
    predicted: torch.Tensor, true: torch.Tensor, weight: torch.Tensor, relief: torch.Tensor
) -> torch.Tensor:
    """Return the weighted mean of 1 − cos of the angle between the normals of two point maps.

    A normal is the cross product of the steps to the right and to the lower neighbour; it counts where all three
    pixels have weight and no silhouette separates them.

    Parameters
    ----------
    predicted, true : (..., 3, H, W)
        Points in the same axes, metres.
    weight, relief : (..., H, W)
        See :func:`surface_relief`.
    """
    pairs = _pair_weight(weight, relief, -1, 1)[..., :-1, :], _pair_weight(weight, relief, -2, 1)[..., :, :-1]
    both = torch.minimum(*pairs)
    known = (weight > 0).unsqueeze(-3)
    normals = []
    for points in (predicted, true):
        clean = torch.where(known, points, 0.0)
        right, down = _difference(clean, -1)[..., :-1, :], _difference(clean, -2)[..., :, :-1]
        # In units of the step itself: cross products of millimetre steps are far below what eps allows.
        cross = torch.linalg.cross(_unit(right), _unit(down), dim=-3)
        normals.append(_unit(cross))
    cosine = (normals[0] * normals[1]).sum(-3)
    return (both * (1 - cosine)).sum() / both.sum().clamp(min=_TINY)


def consistency_l1(
    canonical: torch.Tensor, true: torch.Tensor, weight: torch.Tensor, radius: float, points: int, seed: int
) -> torch.Tensor:
    """Return the mean distance between predictions of one skin point in two frames of a clip.

    ``points`` pixels of each frame are drawn; a pixel of one frame and that of another frame whose true canonical
    coordinate is nearest are one point if they are no further than ``radius`` apart. What is compared is the
    difference of the predictions with the difference of the truths, so that the small distance left costs nothing.

    Parameters
    ----------
    canonical, true : (B, S, 3, H, W)
        Normalised.
    weight : (B, S, H, W)
    radius : float
        Normalised.
    points : int
        Pixels drawn per frame.
    seed : int
        Of the draw.

    Returns
    -------
    scalar; 0 for clips of one frame
    """
    clips, frames, _, height, width = canonical.shape
    if frames < 2:
        return canonical.new_zeros(())
    draw = torch.Generator(device="cpu").manual_seed(seed)
    count = min(points, height * width)
    noise = torch.rand((clips, frames, height * width), generator=draw).to(canonical.device)
    # Pixels with weight first, at random among themselves.
    chosen = torch.where(weight.flatten(2) > 0, noise, 2.0).argsort(-1)[..., :count]
    weights = weight.flatten(2).gather(-1, chosen)
    index = chosen.unsqueeze(2).expand(-1, -1, 3, -1)
    at = {"predicted": canonical.flatten(3).gather(-1, index), "true": true.flatten(3).gather(-1, index)}
    error = (at["predicted"] - at["true"]).transpose(-1, -2)
    place = at["true"].transpose(-1, -2)
    total, mass = canonical.new_zeros(()), canonical.new_zeros(())
    for first in range(frames - 1):
        for second in range(first + 1, frames):
            with torch.no_grad():
                near = torch.cdist(place[:, first], place[:, second]).min(-1)
                there = near.indices
                pair = torch.minimum(weights[:, first], weights[:, second].gather(-1, there))
                pair = pair * (near.values <= radius)
            other = error[:, second].gather(1, there.unsqueeze(-1).expand(-1, -1, 3))
            total = total + (pair * (error[:, first] - other).abs().mean(-1)).sum()
            mass = mass + pair.sum()
    return total / mass.clamp(min=_TINY)


def _pair_weight(weight: torch.Tensor, relief: torch.Tensor | None, axis: int, step: int) -> torch.Tensor:
    length = weight.shape[axis] - 1
    pair = torch.minimum(weight.narrow(axis, 1, length), weight.narrow(axis, 0, length))
    if relief is None:
        return pair
    return pair * (_difference(relief, axis).abs() <= SILHOUETTE_FOOTPRINTS * step)


def _difference(values: torch.Tensor, axis: int) -> torch.Tensor:
    length = values.shape[axis] - 1
    return values.narrow(axis, 1, length) - values.narrow(axis, 0, length)


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    return vectors / vectors.norm(dim=-3, keepdim=True).clamp(min=_TINY)


def camera_to_reference(world_to_camera: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Return each frame's camera in the axes of its clip's reference camera, (B, S, 4, 4) float32.

    Parameters
    ----------
    world_to_camera : (B, S, 4, 4)
        Metres.
    reference : (B,) int64
        Number of each clip's reference frame.
    """
    # Rigs may stand anywhere in their world: the difference of two poses is taken before precision is lost.
    poses = world_to_camera.double()
    of_reference = poses.gather(1, reference[:, None, None, None].expand(-1, 1, 4, 4))
    return (of_reference @ torch.linalg.inv(poses)).float()


def true_rays(poses: torch.Tensor, intrinsics: torch.Tensor, size: tuple[int, int], unit_m: float) -> torch.Tensor:
    """Return the ray maps of cameras, (B, S, 6, H, W): direction, then origin.

    A pixel's point in the reference's axes is ``origin × unit_m + direction × depth``, with planar depth in metres
    (the ray maps of Depth Anything 3).

    Parameters
    ----------
    poses : (B, S, 4, 4)
        Camera to reference, metres.
    intrinsics : (B, S, 3, 3)
        Pixels.
    size : (height, width)
    unit_m : float
        Metres in the unit of an origin.
    """
    directions = torch.einsum("bsij,bsjhw->bsihw", poses[..., :3, :3], pixel_directions(intrinsics, *size))
    origins = (poses[..., :3, 3] / unit_m)[..., None, None].expand(-1, -1, -1, *size)
    return torch.cat([directions, origins], 2)


def ray_points(rays: torch.Tensor, depth_m: torch.Tensor, unit_m: float) -> torch.Tensor:
    """Return the points (B, S, 3, H, W), metres in the reference's axes, of ray maps and planar depth."""
    return rays[:, :, 3:] * unit_m + rays[:, :, :3] * depth_m.unsqueeze(2)


def point_l1(predicted: torch.Tensor, true: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the weighted mean absolute difference of point maps (B, S, 3, H, W), in their unit."""
    known = weight > 0
    absolute = torch.where(known, (predicted - true).abs().mean(2), 0.0)
    return (weight * absolute).sum() / weight.sum().clamp(min=1e-6)


def camera_l1(
    predicted: torch.Tensor, poses: torch.Tensor, intrinsics: torch.Tensor, size: tuple[int, int], unit_m: float
) -> torch.Tensor:
    """Return the mean absolute difference of encoded cameras: translation, quaternion, field of view.

    Parameters
    ----------
    predicted : (B, S, 9)
    poses : (B, S, 4, 4)
        Camera to reference, metres.
    intrinsics : (B, S, 3, 3)
        Pixels.
    size : (height, width)
    unit_m : float
        Metres in the unit of a translation.
    """
    scaled = poses.clone()
    scaled[..., :3, 3] /= unit_m
    return (predicted - encode_camera(scaled, intrinsics, size)).abs().mean()
