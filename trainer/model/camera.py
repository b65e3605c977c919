"""Cameras as nine numbers: translation, quaternion, field of view.

The encoding of VGGT (Wang et al., CVPR 2025) and Depth Anything 3: the camera's place and attitude in the world, that
is camera-to-world, with quaternions (x, y, z, w), and the vertical and the horizontal field of view in radians. The
principal point is the image's centre.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere


class CameraDecoder(nn.Module):
    """Two hidden layers on the camera token, then translation, quaternion and field of view."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.translation = nn.Linear(width, 3)
        self.quaternion = nn.Linear(width, 4)
        self.field_of_view = nn.Linear(width, 2)
        # No turn and some 30 degrees: where the ReLU passes a gradient.
        with torch.no_grad():
            self.quaternion.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 1.0]))
            self.field_of_view.bias.fill_(0.5)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map (B, S, C) to (B, S, 9)."""
        x = self.trunk(tokens)
        return torch.cat([self.translation(x), self.quaternion(x), F.relu(self.field_of_view(x))], -1)


def encode_camera(camera_to_world: torch.Tensor, intrinsics: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Encode cameras; the principal point is lost.

    Parameters
    ----------
    camera_to_world : (..., 4, 4)
    intrinsics : (..., 3, 3)
        Pixels.
    size : (height, width)

    Returns
    -------
    (..., 9), w of the quaternion 0 or more
    """
    half = torch.tensor(size, device=intrinsics.device) / 2
    focal = torch.stack([intrinsics[..., 1, 1], intrinsics[..., 0, 0]], -1)
    quaternion = _to_quaternion(camera_to_world[..., :3, :3])
    return torch.cat([camera_to_world[..., :3, 3], quaternion, 2 * torch.atan(half / focal)], -1)


def decode_camera(encoding: torch.Tensor, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``camera_to_world`` (..., 4, 4) and ``intrinsics`` (..., 3, 3) in pixels of encodings (..., 9).

    Quaternions need not have length 1. The principal point is the centre (W / 2, H / 2), where the upper left corner
    of the image is (0, 0).
    """
    translation, quaternion, field = encoding[..., :3], encoding[..., 3:7], encoding[..., 7:]
    camera_to_world = torch.zeros(*encoding.shape[:-1], 4, 4, dtype=encoding.dtype, device=encoding.device)
    camera_to_world[..., :3, :3] = _to_matrix(quaternion)
    camera_to_world[..., :3, 3] = translation
    camera_to_world[..., 3, 3] = 1
    half = torch.tensor(size, dtype=encoding.dtype, device=encoding.device) / 2
    focal = half / torch.tan(field / 2).clamp(min=1e-6)
    intrinsics = torch.zeros(*encoding.shape[:-1], 3, 3, dtype=encoding.dtype, device=encoding.device)
    intrinsics[..., 0, 0], intrinsics[..., 1, 1] = focal[..., 1], focal[..., 0]
    intrinsics[..., 0, 2], intrinsics[..., 1, 2] = half[1], half[0]
    intrinsics[..., 2, 2] = 1
    return camera_to_world, intrinsics


def _to_matrix(quaternion: torch.Tensor) -> torch.Tensor:
    x, y, z, w = F.normalize(quaternion, dim=-1).unbind(-1)
    rows = [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)]
    rows += [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)]
    rows += [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]
    return torch.stack(rows, -1).reshape(*quaternion.shape[:-1], 3, 3)


def _to_quaternion(matrix: torch.Tensor) -> torch.Tensor:
    m = matrix.flatten(-2).unbind(-1)
    # 4 × the outer product of the quaternion (x, y, z, w) with itself: any row is it, up to its length. The row with
    # the largest diagonal element is furthest from a division by zero.
    rows = [
        [1 + m[0] - m[4] - m[8], m[1] + m[3], m[2] + m[6], m[7] - m[5]],
        [m[1] + m[3], 1 - m[0] + m[4] - m[8], m[5] + m[7], m[2] - m[6]],
        [m[2] + m[6], m[5] + m[7], 1 - m[0] - m[4] + m[8], m[3] - m[1]],
        [m[7] - m[5], m[2] - m[6], m[3] - m[1], 1 + m[0] + m[4] + m[8]],
    ]
    product = torch.stack([torch.stack(row, -1) for row in rows], -2)
    best = product.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None].expand(*product.shape[:-2], 1, 4)
    quaternion = F.normalize(product.gather(-2, best)[..., 0, :], dim=-1)
    return torch.where(quaternion[..., 3:] < 0, -quaternion, quaternion)
