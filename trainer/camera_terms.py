"""The terms of the loss that know of cameras: rays, points in the reference's axes, poses."""

from __future__ import annotations

import torch

from trainer.loss_terms import pixel_directions
from trainer.model.camera import encode_camera


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
        What an origin counts in.
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
        What a translation counts in.
    """
    scaled = poses.clone()
    scaled[..., :3, 3] /= unit_m
    return (predicted - encode_camera(scaled, intrinsics, size)).abs().mean()
