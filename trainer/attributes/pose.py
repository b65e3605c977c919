"""Where a head stands before a camera, as numbers that a crop tells: rotation in the crop's own axes, place, distance.

A crop is a similarity of the picture, mirrored or not, about a ray that need not be the camera's axis. Its axes are the
camera's, turned so that they look along that ray and then as the crop is: what is seen in the crop does not depend on
where in the picture it was.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from trainer.align.crops import to_crop, to_picture

# Of a head that looks into the camera: x to the left of the picture's right, y up, z towards the camera.
FACING = ((1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0))
# A face of this size fills a crop: distances count from the one at which it would.
_FACE_M = 0.2
_NEAREST_M = 0.05


def crop_axes(transform: torch.Tensor, intrinsics: torch.Tensor) -> torch.Tensor:
    """Return what turns (B, 3, 3) directions in the crop's axes into the camera's; of a mirrored crop det is −1."""
    side = transform[:, :, :2].square().sum(1).sqrt().mean(1)
    linear = transform[:, :, :2] / side[:, None, None]
    centre = transform[:, :, :2].sum(-1) / 2 + transform[:, :, 2]
    ray = F.normalize(_rays(centre[:, None], intrinsics)[:, 0], dim=-1)
    # Least turn that takes the camera's axis onto the ray.
    x, y, z = ray.unbind(-1)
    w = 1 / (1 + z.clamp(min=-0.99))
    turn = torch.stack([1 - w * x * x, -w * x * y, x, -w * x * y, 1 - w * y * y, y, -x, -y, z], -1).reshape(-1, 3, 3)
    flat = torch.eye(3, device=turn.device, dtype=turn.dtype).repeat(len(turn), 1, 1)
    flat[:, :2, :2] = linear
    return turn @ flat


def crop_angle(transform: torch.Tensor, intrinsics: torch.Tensor) -> torch.Tensor:
    """Return the logarithm (B,) of the crop's side over the focal length: how large what fills it looks."""
    side = transform[:, :, :2].square().sum(1).sqrt().mean(1)
    return (side / intrinsics[:, 0, 0]).log()


def place_of(origin: torch.Tensor, transform: torch.Tensor, intrinsics: torch.Tensor) -> torch.Tensor:
    """Return the numbers (B, 3) of a head's origin (B, 3) in the camera's axes, metres: right, down, log distance.

    Right and down are from the crop's centre, in its sides; the distance is over that at which a face of 0.2 m fills
    the crop's side.
    """
    z = origin[:, 2].clamp(min=_NEAREST_M)
    pixel = torch.einsum("bij,bj->bi", intrinsics, origin / z[:, None])[:, :2]
    there = to_crop(pixel[:, None], transform)[:, 0] - 0.5
    return torch.cat([there, (z / _filling(transform, intrinsics)).log()[:, None]], 1)


def origin_of(place: torch.Tensor, transform: torch.Tensor, intrinsics: torch.Tensor) -> torch.Tensor:
    """Return the origin (B, 3) of a head in the camera's axes; undoes :func:`place_of`."""
    pixel = to_picture(place[:, None, :2] + 0.5, transform)
    z = _filling(transform, intrinsics) * place[:, 2].clamp(-3, 3).exp()
    return _rays(pixel, intrinsics)[:, 0] * z[:, None]


def project(points: torch.Tensor, transform: torch.Tensor, intrinsics: torch.Tensor) -> torch.Tensor:
    """Return the places in the crop (B, n, 2) of points (B, n, 3) in the camera's axes."""
    image = (points / points[..., 2:].clamp(min=_NEAREST_M)) @ intrinsics.transpose(1, 2)
    return to_crop(image[..., :2], transform)


def rotation_of(six: torch.Tensor) -> torch.Tensor:
    """Return rotations (B, 3, 3) of six numbers (B, 6): two columns made orthonormal (Zhou et al., CVPR 2019)."""
    first = F.normalize(six[:, :3], dim=-1)
    second = F.normalize(six[:, 3:] - (first * six[:, 3:]).sum(-1, keepdim=True) * first, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], -1)


def turn_between(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the rotation vector (B, 3), radians, that takes one rotation (B, 3, 3) to the other, in its own axes."""
    between = one.transpose(1, 2) @ other
    axis = torch.stack(
        [between[:, 2, 1] - between[:, 1, 2], between[:, 0, 2] - between[:, 2, 0], between[:, 1, 0] - between[:, 0, 1]],
        -1,
    )
    sine = axis.square().sum(-1).clamp(min=1e-12).sqrt() / 2
    cosine = (between.diagonal(dim1=1, dim2=2).sum(-1) - 1) / 2
    angle = torch.atan2(sine, cosine)
    return axis / 2 * (angle / sine)[:, None]


def _rays(pixels: torch.Tensor, intrinsics: torch.Tensor) -> torch.Tensor:
    ones = torch.ones_like(pixels[..., :1])
    return torch.cat([pixels, ones], -1) @ torch.linalg.inv(intrinsics).transpose(1, 2)


def _filling(transform: torch.Tensor, intrinsics: torch.Tensor) -> torch.Tensor:
    """Return the distance (B,) at which :data:`_FACE_M` fills the crop's side."""
    return _FACE_M / crop_angle(transform, intrinsics).exp()
