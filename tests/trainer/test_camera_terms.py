"""Rays, points and poses of clips whose cameras are known."""

from __future__ import annotations

import pytest
import torch

from trainer.loss_terms import camera_l1, camera_to_reference, point_l1, ray_points, true_rays, unproject
from trainer.model.camera import encode_camera


def rig(frames: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Return world_to_camera (1, S, 4, 4) far from the world's origin, and intrinsics (1, S, 3, 3)."""
    draw = torch.Generator().manual_seed(2)
    turns = torch.linalg.qr(torch.randn(frames, 3, 3, generator=draw, dtype=torch.float64)).Q
    turns = turns * torch.linalg.det(turns).sign()[:, None, None]
    poses = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    poses[:, :3, :3] = turns
    centres = torch.tensor([100.0, -50, 30], dtype=torch.float64) + torch.randn(
        frames, 3, generator=draw, dtype=torch.float64
    )
    poses[:, :3, 3] = -(turns @ centres[..., None])[..., 0]
    K = torch.tensor([[40.0, 0, 7], [0, 42.0, 6], [0, 0, 1]]).repeat(frames, 1, 1)
    return poses[None], K[None]


@pytest.mark.parametrize("reference", [0, 2])
def test_points_of_all_frames_fall_together_in_the_reference_s_axes(reference: int) -> None:
    poses, K = rig()
    to_reference = camera_to_reference(poses, torch.tensor([reference]))
    torch.testing.assert_close(to_reference[0, reference], torch.eye(4), atol=1e-6, rtol=0)
    depth = torch.rand(1, 3, 12, 14, generator=torch.Generator().manual_seed(0)) + 0.5
    points = ray_points(true_rays(to_reference, K, (12, 14), unit_m=0.7), depth, unit_m=0.7)
    # Through the world instead, in double precision.
    in_camera = unproject(depth, K).double().flatten(3)
    world_from = torch.linalg.inv(poses)
    world = world_from[..., :3, :3] @ in_camera + world_from[..., :3, 3:]
    of_reference = poses[:, reference : reference + 1]
    expected = (of_reference[..., :3, :3] @ world + of_reference[..., :3, 3:]).unflatten(-1, (12, 14))
    torch.testing.assert_close(points.double(), expected, atol=2e-6, rtol=0)


def test_point_error_is_weighted_and_ignores_what_is_not_known() -> None:
    true = torch.zeros(1, 1, 3, 1, 3)
    predicted = true.clone()
    predicted[..., 0], predicted[..., 1], predicted[..., 2] = 0.3, 0.6, float("nan")
    weight = torch.tensor([[[[1.0, 0.5, 0.0]]]])
    assert point_l1(predicted, true, weight).item() == pytest.approx((0.3 + 0.5 * 0.6) / 1.5)


def test_the_true_camera_has_no_error_and_translation_counts_in_its_unit() -> None:
    poses, K = rig()
    to_reference = camera_to_reference(poses, torch.tensor([1]))
    scaled = to_reference.clone()
    scaled[..., :3, 3] /= 0.5
    exact = encode_camera(scaled, K, (12, 14))
    assert camera_l1(exact, to_reference, K, (12, 14), 0.5).item() == pytest.approx(0, abs=1e-6)
    off = exact.clone()
    off[..., 0] += 0.9
    assert camera_l1(off, to_reference, K, (12, 14), 0.5).item() == pytest.approx(0.1, rel=1e-4)
