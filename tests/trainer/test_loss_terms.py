"""The geometric terms of the loss on inputs with a known answer."""

from __future__ import annotations

import math

import pytest
import torch

from trainer.loss_terms import (
    SILHOUETTE_FOOTPRINTS,
    confidence_l1,
    consistency_l1,
    gradient_l1,
    mean_norm,
    median_scale,
    normal_angle,
    pixel_directions,
    surface_relief,
    unproject,
)


def camera(focal: float, size: int) -> torch.Tensor:
    return torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1.0]])


def plane(slope: float, size: int = 16, focal: float = 40.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return depth (1, 1, H, W) of the plane z = 1 + slope·x, seen along z, and the camera (1, 1, 3, 3)."""
    K = camera(focal, size)[None, None]
    x = pixel_directions(K, size, size)[:, :, 0]
    return 1 / (1 - slope * x), K


def test_without_lambda_the_network_s_confidence_counts_for_nothing() -> None:
    error, ones = torch.full((1, 3, 4, 4), 0.5), torch.ones(1, 4, 4)
    assert confidence_l1(error, 7 * ones, ones, 0.0).item() == pytest.approx(0.5)


def test_points_project_back_to_pixel_centres() -> None:
    K = torch.tensor([[40.0, 3.0, 7.0], [0, 50.0, 6.0], [0, 0, 1]])
    depth = torch.rand(2, 3, 12, 14, generator=torch.Generator().manual_seed(0)) + 0.5
    points = unproject(depth, K.expand(2, 3, 3, 3))
    torch.testing.assert_close(points[:, :, 2], depth)
    pixels = torch.einsum("ij,bsjhw->bsihw", K, points)
    u, v = pixels[:, :, 0] / depth, pixels[:, :, 1] / depth
    torch.testing.assert_close(u[0, 0, 3], torch.arange(14) + 0.5)
    torch.testing.assert_close(v[1, 2, :, 5], torch.arange(12) + 0.5)


def test_relief_counts_depth_in_pixel_footprints() -> None:
    depth = torch.tensor([[1.0, 1.0 + 1 / 50], [2.0, 2.0 + 2 / 50]])
    relief = surface_relief(depth, camera(50.0, 2))
    torch.testing.assert_close(relief[:, 1] - relief[:, 0], torch.full((2,), 50 * math.log(1.02)))


@pytest.mark.parametrize(("slope", "cut"), [(4.0, False), (7.5, True)])
def test_gradients_run_over_steep_surfaces_but_not_over_silhouettes(slope: float, cut: bool) -> None:
    assert (slope > SILHOUETTE_FOOTPRINTS) is cut
    focal = 100.0
    depth = torch.ones(1, 8, 8)
    depth[..., 4:] = math.exp(slope / focal)
    error = torch.zeros(1, 1, 8, 8)
    error[..., 4:] = 1.0
    value = gradient_l1(error, torch.ones(1, 8, 8), 1, surface_relief(depth, camera(focal, 8)[None])).item()
    assert (value == 0) is cut


def test_mean_norm_is_the_weighted_mean_distance_and_one_without_points() -> None:
    points = torch.zeros(2, 1, 3, 1, 2)
    points[0, 0, :, 0, 0] = torch.tensor([3.0, 0, 4.0])
    points[0, 0, :, 0, 1] = torch.tensor([0.0, 0, 1.0])
    weight = torch.zeros(2, 1, 1, 2)
    weight[0, 0, 0] = torch.tensor([3.0, 1.0])
    assert mean_norm(points, weight).tolist() == pytest.approx([4.0, 1.0])


def test_median_scale_aligns_each_clip_alone_and_ignores_what_is_not_known() -> None:
    true = torch.rand(2, 2, 5, 5, generator=torch.Generator().manual_seed(1)) + 0.5
    predicted = true / torch.tensor([2.0, 0.25])[:, None, None, None]
    weight = torch.ones_like(true)
    predicted[0, 0, 0, 0], weight[0, 0, 0, 0] = 1e6, 0
    assert median_scale(predicted, true, weight).tolist() == pytest.approx([2.0, 0.25])
    assert median_scale(predicted, true, torch.zeros_like(true)).tolist() == [1.0, 1.0]


def test_normals_of_tilted_planes_differ_by_the_tilt() -> None:
    flat, K = plane(0.0)
    tilted, _ = plane(math.tan(math.radians(30)))
    points = unproject(flat, K), unproject(tilted, K)
    ones, relief = torch.ones_like(flat), surface_relief(flat, K)
    assert normal_angle(points[0], points[0], ones, relief).item() == pytest.approx(0, abs=1e-6)
    value = normal_angle(points[1], points[0], ones, relief).item()
    assert value == pytest.approx(1 - math.cos(math.radians(30)), abs=1e-4)
    # A hole in the weights takes the garbage below it out, and its gradient stays finite.
    broken = points[1].clone()
    broken[..., 5, 5] = float("nan")
    broken.requires_grad_()
    holed = ones.clone()
    holed[..., 5, 5] = 0
    again = normal_angle(broken, points[0], holed, relief)
    again.backward()
    assert again.item() == pytest.approx(value, abs=1e-4)
    assert broken.grad is not None
    assert broken.grad.isfinite().all()


def clip_of_shifts(shift: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the true canonical map of two frames in which the surface moved by ``shift`` pixels, and its weight."""
    size, step = 12, 0.01
    u, v = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="xy")
    frames = [torch.stack([step * (u - k * shift), step * v, torch.zeros(size, size)]) for k in (0, 1)]
    return torch.stack(frames)[None].float(), torch.ones(1, 2, size, size)


def test_consistency_is_about_agreement_and_not_about_truth() -> None:
    true, weight = clip_of_shifts(3)

    def value(predicted: torch.Tensor) -> float:
        return consistency_l1(predicted, true, weight, radius=0.001, points=144, seed=0).item()

    assert value(true) == 0
    # Wrong by the same for a skin point in every frame: consistent. Wrong in one frame only: not.
    assert value(true + torch.sin(40 * true[:, :, :1])) == pytest.approx(0, abs=1e-5)
    shifted = true.clone()
    shifted[:, 1] += 0.2
    assert value(shifted) == pytest.approx(0.2, rel=1e-4)


def test_consistency_needs_a_true_counterpart_and_a_second_frame() -> None:
    true, weight = clip_of_shifts(3)
    wrong = true.clone()
    wrong[:, 1] += 0.2
    assert consistency_l1(wrong[:, :1], true[:, :1], weight[:, :1], 0.001, 100, 0).item() == 0
    nothing_in_common, weight = clip_of_shifts(40)
    assert consistency_l1(nothing_in_common + wrong, nothing_in_common, weight, 0.001, 100, 0).item() == 0
