"""Each term of the loss against a second computation in NumPy, with weights, holes and settings that differ."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from trainer.config import LossConfig
from trainer.loss_terms import (
    SILHOUETTE_FOOTPRINTS,
    camera_l1,
    camera_to_reference,
    confidence_l1,
    consistency_l1,
    gradient_l1,
    mean_norm,
    median_scale,
    normal_angle,
    ray_points,
    surface_relief,
    true_rays,
    unproject,
)
from trainer.losses import CONSISTENCY_POINTS, CONSISTENCY_RADIUS, arrays_of, joint_loss
from trainer.model.camera import decode_camera, encode_camera
from trainer.model.joint import DepthUnit, Prediction

UNIT = DepthUnit("dataset", 0.9, 0.06, 2.0)
SIZE = (7, 9)  # neither square nor a power of two


def draw(*shape: int, low: float = 0.0, high: float = 1.0, seed: int = 0) -> torch.Tensor:
    numbers = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (low + (high - low) * numbers).float()


def masked(*shape: int, seed: int = 9) -> torch.Tensor:
    """Weights in (0, 1], a quarter of them 0."""
    weight = draw(*shape, low=0.05, seed=seed)
    return torch.where(draw(*shape, seed=seed + 1) < 0.25, 0.0, weight)


def mean_l1(error: np.ndarray, confidence: np.ndarray, weight: np.ndarray, lam: float) -> float:
    """Σ w (c |e| − λ log c) / Σ w, over channels first."""
    absolute = np.abs(error).mean(-3)
    terms = confidence * absolute - lam * np.log(confidence)
    return float((weight * terms)[weight > 0].sum() / weight.sum())


def gradients(error: np.ndarray, weight: np.ndarray, scales: int, relief: np.ndarray | None = None) -> float:
    """Differences of neighbours, pair by pair."""
    found = []
    for scale in range(scales):
        step = 2**scale
        h, w = error.shape[-2:]
        if min(math.ceil(h / step), math.ceil(w / step)) < 2:
            break
        sums = 0.0
        for dy, dx in ((0, step), (step, 0)):
            total = mass = 0.0
            for y in range(0, h - dy, step):
                for x in range(0, w - dx, step):
                    pair = np.minimum(weight[..., y, x], weight[..., y + dy, x + dx])
                    if relief is not None:
                        rise = np.abs(relief[..., y + dy, x + dx] - relief[..., y, x])
                        pair = np.where(rise <= 6 * step, pair, 0)
                    jump = np.abs(error[..., y + dy, x + dx] - error[..., y, x]).mean(-1)
                    total += float(np.where(pair > 0, pair * jump, 0).sum())
                    mass += float(pair.sum())
            sums += total / mass
        found.append(sums)
    return float(np.mean(found))


def test_weighted_confidence_term_is_the_sum_over_weights() -> None:
    error, confidence, weight = draw(2, 3, 3, *SIZE, low=-1), draw(2, 3, *SIZE, low=1, high=6), masked(2, 3, *SIZE)
    for lam in (0.1, 0.7):
        value = confidence_l1(error, confidence, weight, lam).item()
        assert value == pytest.approx(mean_l1(error.numpy(), confidence.numpy(), weight.numpy(), lam), rel=1e-5)


@pytest.mark.parametrize("scales", [1, 2, 3, 6])
def test_gradient_term_is_that_over_pairs(scales: int) -> None:
    error, weight = draw(2, 1, 3, *SIZE, low=-1, seed=1), masked(2, 1, *SIZE)
    expected = gradients(error.numpy(), weight.numpy(), scales)
    assert gradient_l1(error, weight, scales).item() == pytest.approx(expected, rel=1e-5)
    relief = draw(2, 1, *SIZE, high=18, seed=2)
    expected = gradients(error.numpy(), weight.numpy(), scales, relief.numpy())
    assert gradient_l1(error, weight, scales, relief).item() == pytest.approx(expected, rel=1e-5)


def test_scales_that_a_map_is_too_small_for_do_not_divide() -> None:
    ramp = 0.3 * torch.arange(2.0).expand(2, 2)[None, None]
    ones = torch.ones(1, 2, 2)
    assert gradient_l1(ramp, ones, 3).item() == pytest.approx(0.3)
    assert gradient_l1(ramp[..., :1, :], ones[..., :1, :], 3).item() == 0
    wide = 0.1 * torch.arange(3.0).expand(3, 3)[None, None]
    # A second scale has 2 x 2 pixels, a third none.
    assert gradient_l1(wide, torch.ones(1, 3, 3), 4).item() == pytest.approx((0.1 + 0.2) / 2)


@pytest.mark.parametrize(("footprints", "cut"), [(5.95, False), (6.05, True)])
@pytest.mark.parametrize("scale", [1, 2])
def test_a_silhouette_begins_at_six_footprints_a_pixel(footprints: float, cut: bool, scale: int) -> None:
    assert SILHOUETTE_FOOTPRINTS == 6
    relief = footprints * torch.arange(8.0).expand(1, 8, 8)  # as steep at every scale
    error = torch.arange(8.0).expand(1, 1, 8, 8)
    value = gradient_l1(error, torch.ones(1, 8, 8), scale, relief).item()
    assert (value == 0) is cut


def test_norms_and_medians_of_clips_agree_with_numpy() -> None:
    depth, weight = draw(2, 3, *SIZE, low=0.5, high=1.2), masked(2, 3, *SIZE)
    K = torch.tensor([[30.0, 2, 5], [0, 40, 3], [0, 0, 1]]).expand(2, 3, 3, 3)
    points, w = unproject(depth, K).numpy(), weight.numpy()
    lengths = np.sqrt((points**2).sum(2))
    expected = [(w[k] * lengths[k]).sum() / w[k].sum() for k in range(2)]
    np.testing.assert_allclose(mean_norm(unproject(depth, K), weight), expected, rtol=1e-5)
    said = depth * draw(2, 3, *SIZE, low=0.6, high=1.5, seed=5)
    for k, found in enumerate(median_scale(said, depth, weight).tolist()):
        ratios = np.sort((depth / said).numpy()[k][w[k] > 0])
        assert found == pytest.approx(ratios[(len(ratios) - 1) // 2], rel=1e-6)


def test_normals_are_cross_products_of_steps_to_the_right_and_down() -> None:
    weight = masked(1, 2, *SIZE)
    K = torch.tensor([[30.0, 0, 5], [0, 40, 3], [0, 0, 1]]).expand(1, 2, 3, 3)
    true, said = draw(1, 2, *SIZE, low=0.8, high=0.82), draw(1, 2, *SIZE, low=0.8, high=0.83, seed=3)
    relief = draw(1, 2, *SIZE, high=9, seed=4)
    p, t, w, r = unproject(said, K).numpy()[0], unproject(true, K).numpy()[0], weight.numpy()[0], relief.numpy()[0]
    total = mass = 0.0
    for s in range(2):
        for y in range(SIZE[0] - 1):
            for x in range(SIZE[1] - 1):
                cells = [(y, x), (y, x + 1), (y + 1, x)]
                pair = min(w[s][c] for c in cells)
                pair *= all(abs(r[s][c] - r[s][cells[0]]) <= 6 for c in cells[1:])
                a, b = (np.cross(m[s, :, y, x + 1] - m[s, :, y, x], m[s, :, y + 1, x] - m[s, :, y, x]) for m in (p, t))
                total += pair * (1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b))
                mass += pair
    assert normal_angle(unproject(said, K), unproject(true, K), weight, relief).item() == pytest.approx(
        total / mass, rel=1e-3
    )


def test_consistency_is_over_the_nearest_pairs_of_all_frames() -> None:
    true, said = draw(1, 3, 3, 4, 5, seed=1), draw(1, 3, 3, 4, 5, seed=2)
    weight = masked(1, 3, 4, 5)
    radius = 0.35
    at, error = true[0].flatten(2).numpy(), (said - true)[0].flatten(2).numpy()
    w = weight[0].flatten(1).numpy()
    total = mass = 0.0
    for first, second in ((0, 1), (0, 2), (1, 2)):
        for k in range(20):
            # Pixels without weight are among those looked up, and weigh nothing.
            away = np.linalg.norm(at[second] - at[first][:, k : k + 1], axis=0)
            there = int(away.argmin())
            pair = min(w[first, k], w[second, there]) * (away[there] <= radius)
            total += pair * np.abs(error[first][:, k] - error[second][:, there]).mean()
            mass += pair
    value = consistency_l1(said, true, weight, radius, points=20, seed=3).item()
    assert value == pytest.approx(total / mass, rel=1e-4)
    assert total / mass > 0.1
    assert consistency_l1(said, true, weight, radius, points=20, seed=4).item() == pytest.approx(value, rel=1e-4)


def test_consistency_draws_pixels_with_weight_first() -> None:
    true = draw(1, 2, 3, 6, 6, seed=1)
    true[:, 1] = true[:, 0]
    said = true.clone()
    said[:, 1, :, 2, :4] += 0.3
    weight = torch.zeros(1, 2, 6, 6)
    weight[..., 2, :4] = 0.5
    # Four of 36 pixels have weight; as many are drawn.
    assert consistency_l1(said, true, weight, 0.01, points=4, seed=0).item() == pytest.approx(0.3, rel=1e-4)


def scene(frames: int = 2) -> tuple[Prediction, dict[str, torch.Tensor]]:
    """A clip with holes in depth and confidence, and a prediction with every head."""
    shape = (2, frames, *SIZE)
    depth = torch.where(draw(*shape, seed=1) < 0.2, 0.0, draw(*shape, low=0.8, high=0.84, seed=2))
    confidence = torch.where((draw(*shape, seed=3) < 0.3) | (depth == 0), 0.0, draw(*shape, low=0.2, seed=4))
    poses = torch.eye(4).repeat(2, frames, 1, 1)
    poses[:, 1, :3, :3] = torch.tensor([[0.8, 0.0, 0.6], [0.0, 1.0, 0.0], [-0.6, 0.0, 0.8]])
    poses[:, 1, :3, 3] = torch.tensor([0.3, -0.1, 0.2])
    K = torch.tensor([[40.0, 0, 4.5], [0, 44.0, 3.5], [0, 0, 1]]).expand(2, frames, 3, 3)
    batch = {
        "depth": depth,
        "canonical": draw(2, frames, 3, *SIZE, low=-1, seed=5) * (confidence > 0).unsqueeze(2),
        "confidence": confidence,
        "intrinsics": K,
        "index": torch.arange(2 * frames).reshape(2, frames),
        "world_to_camera": poses,
    }
    said = torch.where(depth > 0, depth, 0.9) + draw(*shape, low=-0.04, high=0.05, seed=6)
    wrong = batch["canonical"] + draw(2, frames, 3, *SIZE, low=-0.1, high=0.2, seed=7)
    prediction = Prediction(
        said,
        wrong,
        draw(*shape, low=1, high=4, seed=8),
        draw(*shape, low=1, high=4, seed=9),
        draw(*shape, low=-2, high=2, seed=10),
        draw(2, frames, 6, *SIZE, low=-1, seed=11),
        draw(*shape, low=1, high=3, seed=12),
        draw(2, frames, 9, low=0.2, seed=13),
        torch.tensor([0, 1]),
    )
    return prediction, batch


SETTINGS = LossConfig(
    depth=0.7,
    canonical=3.0,
    gradient=0.6,
    surface=1.7,
    ray=1.3,
    camera=0.9,
    point=0.5,
    normal=0.8,
    consistency=0.4,
    confidence_lambda=0.2,
    depth_lambda=0.9,
    unmapped=0.35,
    gradient_scales=2,
)


def test_each_lambda_belongs_to_its_own_map() -> None:
    prediction, batch = scene()
    terms = {
        (d, c): joint_loss(prediction, batch, UNIT, LossConfig(depth_lambda=d, confidence_lambda=c))
        for d, c in ((0.1, 0.1), (0.9, 0.1), (0.1, 0.9))
    }
    before = terms[0.1, 0.1]
    weight = torch.where(batch["confidence"] > 0, batch["confidence"], (batch["depth"] > 0).float())
    logs = (weight * prediction.depth_confidence.log()).sum() / weight.sum()
    assert (terms[0.9, 0.1]["depth"] - before["depth"]).item() == pytest.approx(-0.8 * logs.item(), rel=1e-4)
    assert terms[0.1, 0.9]["depth"].item() == before["depth"].item()
    assert terms[0.9, 0.1]["canonical"].item() == before["canonical"].item()
    assert terms[0.9, 0.1]["ray"].item() == before["ray"].item()
    known = batch["confidence"]
    logs = (known * prediction.canonical_confidence.log()).sum() / known.sum()
    assert (terms[0.1, 0.9]["canonical"] - before["canonical"]).item() == pytest.approx(-0.8 * logs.item(), rel=1e-4)
    assert (terms[0.1, 0.9]["ray"] - before["ray"]).item() == pytest.approx(
        -0.8 * prediction.ray_confidence.log().mean().item(), rel=1e-4
    )


@pytest.mark.parametrize("kind", ["metric", "clip"])
def test_every_term_and_their_sum_agree_with_numpy(kind: str) -> None:
    prediction, batch = scene()
    config = SETTINGS.model_copy(update={"depth_scale": kind, "scale": 0.3})
    terms = {name: value.item() for name, value in joint_loss(prediction, batch, UNIT, config).items()}
    depth, trust = batch["depth"].numpy().astype(float), batch["confidence"].numpy().astype(float)
    weight = np.where(trust > 0, trust, 0.35 * (depth > 0))
    said = prediction.depth_m.numpy().astype(float)
    relief = surface_relief(batch["depth"], batch["intrinsics"]).numpy()
    if kind == "metric":
        off = (said - depth) / (0.9 * 0.06)
    else:
        factor = median_scale(prediction.depth_m, batch["depth"], torch.from_numpy(weight)).numpy()
        norm = mean_norm(unproject(batch["depth"], batch["intrinsics"]), torch.from_numpy(weight)).numpy()
        off = (said * factor[:, None, None, None] - depth) / (norm[:, None, None, None] * 0.06)
        logs = np.where(weight > 0, np.log(said / np.where(depth > 0, depth, 1)), 0)
        mean = (weight * logs).sum((1, 2, 3)) / weight.sum((1, 2, 3))
        assert terms["scale"] == pytest.approx(np.abs(mean).mean() / 0.06, rel=1e-4)
    off = off[:, :, None]
    assert terms["depth"] == pytest.approx(mean_l1(off, prediction.depth_confidence.numpy(), weight, 0.9), rel=1e-4)
    assert terms["depth_gradient"] == pytest.approx(gradients(off, weight, 2, relief), rel=1e-4)
    wrong = (prediction.canonical - batch["canonical"]).numpy()
    trusted = prediction.canonical_confidence.numpy()
    assert terms["canonical"] == pytest.approx(mean_l1(wrong, trusted, trust, 0.2), rel=1e-4)
    assert terms["canonical_gradient"] == pytest.approx(gradients(wrong, trust, 2, relief), rel=1e-4)
    chance = 1 / (1 + np.exp(-prediction.surface_logit.numpy()))
    entropy = -np.where(depth > 0, np.log(chance), np.log(1 - chance)).mean()
    assert terms["surface"] == pytest.approx(entropy, rel=1e-5)

    poses = camera_to_reference(batch["world_to_camera"], prediction.reference)
    true = true_rays(poses, batch["intrinsics"], SIZE, 0.9)
    assert prediction.ray is not None
    beside, everywhere = (prediction.ray - true).numpy(), np.ones_like(depth)
    assert terms["ray"] == pytest.approx(mean_l1(beside, prediction.ray_confidence.numpy(), everywhere, 0.2), rel=1e-4)
    assert terms["ray_gradient"] == pytest.approx(gradients(beside, everywhere, 2), rel=1e-4)
    points = ray_points(prediction.ray, prediction.depth_m, 0.9) - ray_points(true, batch["depth"], 0.9)
    apart = np.abs(points.numpy()).mean(2)
    assert terms["point"] == pytest.approx((weight * apart).sum() / weight.sum() / (0.9 * 0.06), rel=1e-4)
    assert terms["camera"] == pytest.approx(
        camera_l1(prediction.camera, poses, batch["intrinsics"], SIZE, 0.9).item(), rel=1e-6
    )
    surfaces = unproject(prediction.depth_m, batch["intrinsics"]), unproject(batch["depth"], batch["intrinsics"])
    w, r = torch.from_numpy(weight).float(), torch.from_numpy(relief)
    assert terms["normal"] == pytest.approx(normal_angle(*surfaces, w, r).item(), rel=1e-5)
    assert (CONSISTENCY_POINTS, CONSISTENCY_RADIUS) == (512, 0.01)
    same = consistency_l1(prediction.canonical, batch["canonical"], batch["confidence"], 0.01, 512, seed=0)
    assert terms["consistency"] == pytest.approx(same.item(), rel=1e-6)

    total = 0.7 * (terms["depth"] + 0.6 * terms["depth_gradient"])
    total += 3 * (terms["canonical"] + 0.6 * terms["canonical_gradient"]) + 1.7 * terms["surface"]
    total += 1.3 * (terms["ray"] + 0.6 * terms["ray_gradient"]) + 0.5 * terms["point"] + 0.9 * terms["camera"]
    total += 0.8 * terms["normal"] + 0.4 * terms["consistency"] + 0.3 * terms.get("scale", 0)
    assert terms["loss"] == pytest.approx(total, rel=1e-5)


def test_depth_by_focal_length_counts_in_each_frame_s_own_unit() -> None:
    prediction, batch = scene()
    zoomed = batch["intrinsics"].clone()
    zoomed[:, 1, :2] *= 2
    batch = {**batch, "intrinsics": zoomed, "confidence": torch.ones_like(batch["depth"])}
    unit = DepthUnit("focal", 0.2, 0.06, 4.0)
    off = (prediction.depth_m - batch["depth"]).numpy() / (0.2 * zoomed[..., 0, 0, None, None].numpy() / 9 * 0.06)
    expected = mean_l1(off[:, :, None], prediction.depth_confidence.numpy(), np.ones(off.shape), 0.1)
    assert joint_loss(prediction, batch, unit, LossConfig())["depth"].item() == pytest.approx(expected, rel=1e-4)


def test_terms_of_weight_zero_are_left_out() -> None:
    prediction, batch = scene()
    names = {"depth", "depth_gradient", "canonical", "canonical_gradient", "surface", "loss"}
    bare = replace(prediction, ray=None, ray_confidence=None, camera=None)
    assert joint_loss(bare, batch, UNIT, LossConfig()).keys() == names
    assert joint_loss(prediction, batch, UNIT, LossConfig()).keys() == names | {"ray", "ray_gradient", "camera"}


def test_cameras_are_read_only_where_a_head_needs_them() -> None:
    from trainer.config import load_config

    assert "world_to_camera" not in arrays_of(load_config("tiny"))
    assert "world_to_camera" in arrays_of(load_config("tiny", ["heads.ray=true"]))
    assert "world_to_camera" in arrays_of(load_config("tiny", ["heads.camera=true"]))


def test_poses_far_from_the_origin_keep_their_difference() -> None:
    """In float32, as datasets store them: 5 km away a pose is known to half a millimetre, and no product is exact."""
    turns = [np.linalg.qr(np.random.default_rng(k).normal(size=(3, 3)))[0] for k in range(3)]
    poses = np.tile(np.eye(4), (1, 3, 1, 1))
    for k, turn in enumerate(turns):
        poses[0, k, :3, :3] = turn * np.sign(np.linalg.det(turn))
        poses[0, k, :3, 3] = -poses[0, k, :3, :3] @ (np.array([5000.0, -3000, 800]) + 0.1 * k)
    stored = torch.from_numpy(poses).float()
    found = camera_to_reference(stored, torch.tensor([1]))
    exact = stored[0].double().numpy()
    expected = np.stack([exact[1] @ np.linalg.inv(pose) for pose in exact])
    np.testing.assert_allclose(found[0].numpy(), expected, atol=2e-6, rtol=2e-7)
    assert found.dtype == torch.float32


def test_an_encoded_camera_says_where_it_is_and_how_wide_it_looks() -> None:
    # Portrait: the vertical angle is the wider one and comes first.
    K = torch.tensor([[100.0, 0, 20], [0, 120.0, 45], [0, 0, 1]])
    pose = torch.eye(4)
    pose[:3, :3] = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    pose[:3, 3] = torch.tensor([0.1, 0.2, 0.3])
    code = encode_camera(pose, K, (90, 40))
    half = math.sqrt(0.5)
    expected = [0.1, 0.2, 0.3, 0, 0, half, half, 2 * math.atan(45 / 120), 2 * math.atan(20 / 100)]
    assert code.tolist() == pytest.approx(expected, abs=1e-6)
    back, lens = decode_camera(code * torch.tensor([1, 1, 1, 3.0, 3, 3, 3, 1, 1]), (90, 40))
    torch.testing.assert_close(back, pose)
    torch.testing.assert_close(lens, torch.tensor([[100.0, 0, 20], [0, 120.0, 45], [0, 0, 1]]))
    poses, lenses = pose.expand(1, 1, 4, 4), K.expand(1, 1, 3, 3)
    said = code.clone()[None, None]
    said[..., :3] = torch.tensor([0.5, 0.2, 0.6])  # of translations in units of half a metre: 0.2, 0.4, 0.6
    said[..., 8] += 0.09
    value = camera_l1(said, poses, lenses, (90, 40), 0.5).item()
    assert value == pytest.approx((0.3 + 0.2 + 0 + 0.09) / 9, rel=1e-4)


def test_depth_units_are_medians_and_robust_spreads() -> None:
    rng = np.random.default_rng(0)
    depth = np.zeros((3, 8, 10), np.float32)
    depth[:, 2:, 1:7] = rng.lognormal(np.log(0.8), 0.1, (3, 6, 6))
    K = np.tile(np.eye(3, dtype=np.float32), (3, 1, 1))
    K[:, 0, 0] = [20.0, 30.0, 60.0]
    for kind, divided in (("dataset", 1.0), ("focal", (K[:, 0, 0] / 10)[:, None, None])):
        values = (depth / divided)[depth > 0].astype(float)
        unit = DepthUnit.measure(kind, depth, K)  # type: ignore[arg-type]
        assert unit.unit == pytest.approx(np.median(values), rel=1e-6)
        logs = np.log(values / np.median(values))
        assert unit.spread == pytest.approx(1.4826 * np.median(np.abs(logs)), rel=1e-5)
        assert unit.focal_over_width == pytest.approx(3.0)
        x = draw(1, 3, 8, 10, low=-2, high=2)
        metres = unit.to_metres(x, torch.from_numpy(K)[None], 10).numpy()
        scale = unit.unit * (K[:, 0, 0] / 10 if kind == "focal" else np.ones(3))
        np.testing.assert_allclose(metres, np.exp(unit.spread * x.numpy()) * scale[:, None, None], rtol=1e-5)
    assert DepthUnit.measure("dataset", 0 * depth, K) == DepthUnit("dataset", 1.0, 0.1, 3.0)
    assert DepthUnit.measure("dataset", np.full_like(depth, 0.8), K).spread == 1e-3
    far = DepthUnit("dataset", 2.0, 1.0, 3.0).to_metres(torch.tensor([[[[9.0, -9.0, 3.9, -3.9]]]]), torch.eye(3), 4)
    np.testing.assert_allclose(far.flatten(), 2 * np.exp([4, -4, 3.9, -3.9]), rtol=1e-5)
