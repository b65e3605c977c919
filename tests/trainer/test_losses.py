"""The loss terms on inputs with a known answer."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from trainer.config import LossConfig
from trainer.loss_terms import confidence_l1, gradient_l1
from trainer.losses import joint_loss
from trainer.model.joint import DepthUnit, Prediction


def test_confidence_l1_is_c_times_error_minus_lambda_log_c() -> None:
    error = torch.full((1, 3, 4, 4), 0.5)
    confidence = torch.full((1, 4, 4), 3.0)
    value = confidence_l1(error, confidence, torch.ones(1, 4, 4), 0.2)
    assert value.item() == pytest.approx(3 * 0.5 - 0.2 * math.log(3), rel=1e-6)


def test_confidence_l1_is_lowest_at_lambda_over_error() -> None:
    error = torch.full((1, 1, 2, 2), 0.01)
    confidence = torch.full((1, 2, 2), 5.0, requires_grad=True)
    lam = 0.1
    optimiser = torch.optim.SGD([confidence], lr=2000.0)
    for _ in range(400):
        optimiser.zero_grad()
        confidence_l1(error, confidence, torch.ones(1, 2, 2), lam).backward()
        optimiser.step()
    torch.testing.assert_close(confidence.detach(), torch.full((1, 2, 2), lam / 0.01), rtol=0.02, atol=0)


def test_true_confidence_weights_pixels_and_zero_hides_even_nan() -> None:
    error = torch.zeros(1, 1, 1, 3)
    error[..., 0], error[..., 1], error[..., 2] = 1.0, 2.0, float("nan")
    error.requires_grad_()
    weight = torch.tensor([[[1.0, 0.5, 0.0]]])
    value = confidence_l1(error, torch.ones(1, 1, 3), weight, 0.1)
    assert value.item() == pytest.approx((1 * 1 + 0.5 * 2) / 1.5)
    value.backward()
    assert error.grad is not None
    assert error.grad[..., 2].item() == 0


def test_without_any_weight_the_loss_is_zero() -> None:
    nothing = torch.zeros(1, 4, 4)
    assert confidence_l1(torch.ones(1, 1, 4, 4), torch.ones(1, 4, 4), nothing, 0.1).item() == 0
    assert gradient_l1(torch.ones(1, 1, 4, 4), nothing, 3).item() == 0


def test_gradient_of_a_ramp() -> None:
    x = torch.arange(8.0).expand(8, 8)
    ones = torch.ones(1, 8, 8)
    # 0.3 a pixel along x only; at the second scale neighbours are two pixels apart, at the third four.
    assert gradient_l1(0.3 * x[None, None], ones, 1).item() == pytest.approx(0.3)
    assert gradient_l1(0.3 * x[None, None], ones, 3).item() == pytest.approx((0.3 + 0.6 + 1.2) / 3)
    assert gradient_l1(torch.full((1, 1, 8, 8), 7.0), ones, 3).item() == 0


def test_gradient_never_crosses_invalid_pixels() -> None:
    error = torch.zeros(1, 1, 8, 8)
    error[..., 4:] = 100.0
    weight = torch.ones(1, 8, 8)
    assert gradient_l1(error, weight, 1).item() > 1
    weight[..., 4] = 0  # a one-pixel gap between both sides of the jump
    assert gradient_l1(error, weight, 1).item() == 0


def _inputs(depth_error_m: float, canonical_error: float) -> tuple[Prediction, dict[str, torch.Tensor]]:
    depth = torch.full((1, 2, 6, 6), 0.8)
    canonical = torch.zeros(1, 2, 3, 6, 6)
    ones = torch.ones(1, 2, 6, 6)
    batch = {
        "depth": depth,
        "canonical": canonical,
        "confidence": ones,
        "intrinsics": torch.eye(3).expand(1, 2, 3, 3),
        "index": torch.tensor([[4, 5]]),
    }
    return Prediction(depth + depth_error_m, canonical + canonical_error, ones, ones, 20 * ones), batch


def test_joint_loss_adds_up_with_the_canonical_weight_of_five() -> None:
    unit = DepthUnit("dataset", 0.8, 0.05, 2.0)
    prediction, batch = _inputs(0.02, 0.1)
    terms = joint_loss(prediction, batch, unit, LossConfig())
    assert terms["depth"].item() == pytest.approx(0.02 / (0.8 * 0.05), rel=1e-4)
    assert terms["canonical"].item() == pytest.approx(0.1, rel=1e-4)
    assert terms["depth_gradient"].item() == pytest.approx(0, abs=1e-4)
    assert terms["surface"].item() < 1e-6
    assert terms["loss"].item() == pytest.approx(0.5 + 5 * 0.1, rel=1e-3)


def test_true_confidence_weighs_depth_too_and_a_surface_without_canonical_by_its_own_share() -> None:
    unit = DepthUnit("dataset", 0.8, 0.05, 2.0)
    prediction, batch = _inputs(0.0, 0.0)
    depth = prediction.depth_m.clone()
    depth[..., 0], depth[..., 1] = 0.82, 0.84  # errors of half and one unit
    prediction = replace(prediction, depth_m=depth)
    confidence = torch.zeros_like(depth)
    confidence[..., 0] = 0.25
    batch["confidence"] = confidence  # all other columns are surface without canonical coordinate
    for unmapped in (0.0, 0.5):
        value = joint_loss(prediction, batch, unit, LossConfig(unmapped=unmapped))["depth"].item()
        weight = 0.25 + 5 * unmapped
        assert value == pytest.approx((0.25 * 0.5 + unmapped * 1.0) / weight, rel=1e-3)


def test_depth_aligned_by_clip_leaves_the_scale_to_its_own_term() -> None:
    unit = DepthUnit("dataset", 0.8, 0.05, 2.0)
    prediction, batch = _inputs(0.0, 0.0)
    doubled = replace(prediction, depth_m=2 * prediction.depth_m)
    terms = joint_loss(doubled, batch, unit, LossConfig(depth_scale="clip"))
    assert terms["depth"].item() == pytest.approx(0, abs=1e-5)
    assert terms["scale"].item() == pytest.approx(math.log(2) / 0.05, rel=1e-4)
    assert joint_loss(doubled, batch, unit, LossConfig())["depth"].item() > 10
    assert "scale" not in joint_loss(doubled, batch, unit, LossConfig())


def test_optional_terms_enter_the_sum_by_their_weight() -> None:
    unit = DepthUnit("dataset", 0.8, 0.05, 2.0)
    prediction, batch = _inputs(0.0, 0.0)
    batch["intrinsics"] = batch["intrinsics"] * torch.tensor([20.0, 20.0, 1.0])[:, None]
    tilted = prediction.depth_m + 0.01 * torch.arange(6.0)
    wrong = prediction.canonical.clone()
    wrong[:, 1] += 0.1
    prediction = replace(prediction, depth_m=tilted, canonical=wrong)
    without = joint_loss(prediction, batch, unit, LossConfig())
    terms = joint_loss(prediction, batch, unit, LossConfig(normal=2.0, consistency=3.0))
    assert terms["normal"].item() > 0.01
    assert terms["consistency"].item() == pytest.approx(0.1, rel=1e-4)
    extra = 2 * terms["normal"].item() + 3 * terms["consistency"].item()
    assert terms["loss"].item() - without["loss"].item() == pytest.approx(extra, rel=1e-4)


@pytest.mark.parametrize("kind", ["dataset", "focal"])
def test_depth_unit_measures_and_inverts(kind: str) -> None:
    import numpy as np

    depth = np.zeros((2, 4, 4), np.float32)
    depth[0, :, :2], depth[1, :, :2] = 0.8, 1.6
    K = np.tile(np.eye(3, dtype=np.float32), (2, 1, 1))
    K[0, 0, 0], K[1, 0, 0] = 8.0, 16.0  # twice the focal length at twice the distance: the same picture
    unit = DepthUnit.measure(kind, depth, K)  # type: ignore[arg-type]
    x = torch.zeros(1, 2, 4, 4)
    metres = unit.to_metres(x, torch.from_numpy(K)[None], 4)[0, :, 0, 0].tolist()
    assert metres == pytest.approx([0.8, 1.6] if kind == "focal" else [unit.unit] * 2, rel=1e-6)
    assert unit.focal_over_width == pytest.approx(3.0)
