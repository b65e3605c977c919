"""The parts of the alignment network against small references of their own: equations 1 to 7."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from datagen.common.errors import DependencyError, ManifestError
from trainer.align.config import AlignConfig, AlignLossConfig, AlignNetworkConfig
from trainer.align.correlation import correlation_pyramid, look_up
from trainer.align.crops import crop_transform, square_about, take_crops, to_crop, to_picture
from trainer.align.encoder import SegformerEncoder
from trainer.align.loss import Truth, align_loss, dense_loss, gaussian_nll, vertex_loss
from trainer.align.network import Alignment, FlowNetwork, make_network, sample_uv, texel_means
from trainer.align.uv_pyramid import UVPyramid
from trainer.align.uv_space import UVSpace
from trainer.align.whole import Stage, begin_whole
from trainer.config import load_run_config, parse_run_config
from trainer.evaluation.baselines import sample_map

SMALL = AlignNetworkConfig(width=4, image_size=32, channels=8, features=6, uv=8, levels=2, radius=1, hidden=8)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(3)


def made_space(points: int = 5, size: int = 8) -> UVSpace:
    uv = torch.rand(points, 2)
    texels = size * size
    return UVSpace(
        vertices=torch.arange(points),
        uv=uv,
        weights=torch.rand(points) + 0.1,
        is_face=torch.ones(points, dtype=torch.bool),
        texel_corners=torch.randint(points, (texels, 3)),
        texel_shares=torch.full((texels, 3), 1 / 3),
        texel_weights=torch.rand(texels),
        corner_faces=torch.zeros(points, dtype=torch.int64),
        corner=torch.zeros(points, dtype=torch.int64),
        mirrored=None,
    )


def test_vertices_are_sampled_bilinearly_between_texel_centres() -> None:
    maps, uv = torch.randn(2, 3, 7, 7), torch.rand(50, 2)
    found = sample_uv(maps, uv)
    for one, expected in zip(found, maps, strict=True):
        np.testing.assert_allclose(one, sample_map(expected.numpy(), uv.numpy() * 7), atol=1e-5)


def naive_look_up(
    texels: torch.Tensor, pixels: torch.Tensor, positions: torch.Tensor, levels: int, radius: int
) -> torch.Tensor:
    """One number at a time: pooled features, sampled pixel by pixel."""
    B, C, _, _ = pixels.shape
    D = positions.shape[-1]
    out = torch.zeros(B, levels * (2 * radius + 1) ** 2, D, D)
    for b in range(B):
        for row in range(D):
            for column in range(D):
                channel, level = 0, pixels[b]
                for _ in range(levels):
                    H, W = level.shape[-2:]
                    x, y = positions[b, :, row, column] * torch.tensor([W, H]) - 0.5
                    for dy in range(-radius, radius + 1):
                        for dx in range(-radius, radius + 1):
                            total = 0.0
                            px, py = float(x) + dx, float(y) + dy
                            for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
                                cx, cy = math.floor(px) + i, math.floor(py) + j
                                share = (1 - abs(px - cx)) * (1 - abs(py - cy))
                                if 0 <= cx < W and 0 <= cy < H:
                                    product = texels[0, :, row, column] @ level[:, cy, cx] / math.sqrt(C)
                                    total += share * float(product)
                            out[b, channel, row, column] = total
                            channel += 1
                    level = torch.nn.functional.avg_pool2d(level[None], 2)[0]
    return out


def test_correlations_are_looked_up_as_one_number_at_a_time() -> None:
    texels, pixels = torch.randn(1, 5, 3, 3), torch.randn(2, 5, 8, 8)
    positions = torch.rand(2, 2, 3, 3) * 1.4 - 0.2  # some beyond the picture
    found = look_up(correlation_pyramid(texels, pixels, 3), positions, 2)
    assert found.shape == (2, 75, 3, 3)
    torch.testing.assert_close(found, naive_look_up(texels, pixels, positions, 3, 2), atol=1e-4, rtol=1e-4)


def test_the_likelihood_is_that_of_a_circular_gaussian() -> None:
    r, sigma = np.array([0.3, -0.7]), 0.4
    found = float(gaussian_nll(torch.tensor((r**2).sum()), torch.tensor(sigma**2)))
    assert found == pytest.approx(-multivariate_normal(np.zeros(2), sigma**2).logpdf(r) - math.log(2 * math.pi))


def test_the_loss_is_least_where_positions_are_true_and_sigma_is_the_error() -> None:
    space = made_space()
    truth = Truth(torch.rand(2, 5, 2), torch.zeros(2, 5))
    off = torch.tensor([0.03, 0.04])
    values = [
        float(vertex_loss(Alignment(truth.positions + off, torch.full((2, 5), s)), truth, space.weights))
        for s in (0.02, 0.05 / math.sqrt(2), 0.06)
    ]
    assert values[1] < min(values[0], values[2])
    exact = Alignment(truth.positions, torch.full((2, 5), 0.02))
    assert float(vertex_loss(exact, truth, space.weights)) == pytest.approx(2 * math.log(0.02))


def test_a_vertex_whose_truth_is_unsure_pulls_less() -> None:
    space = made_space()
    positions = torch.rand(1, 5, 2).requires_grad_()
    spread = torch.tensor([[0.0, 0.1, 0.0, 0.0, 0.0]])
    truth = Truth(positions.detach() + 0.01, spread)
    vertex_loss(Alignment(positions, torch.full((1, 5), 0.02)), truth, torch.ones(5)).backward()  # type: ignore[no-untyped-call]
    pull = positions.grad.norm(dim=-1)[0]  # type: ignore[union-attr]
    assert pull[1] == pytest.approx(float(pull[0]) * 0.02**2 / (0.02**2 + 0.1**2), rel=1e-3)
    assert space.weights.shape == (5,)


def test_the_dense_term_compares_texels_with_their_triangles() -> None:
    space, D = made_space(), 8
    truth = Truth(torch.rand(1, 5, 2), torch.zeros(1, 5))
    flow, log_sigma = torch.randn(1, 2, D, D) * 0.1, torch.randn(1, 1, D, D) * 0.1 - 2
    expected, total = 0.0, 0.0
    for row in range(D):
        for column in range(D):
            k = row * D + column
            there = truth.positions[0, space.texel_corners[k]].mean(0)
            here = torch.tensor([(column + 0.5) / D, (row + 0.5) / D])
            off = flow[0, :, row, column] - (there - here)
            variance = float(2 * log_sigma[0, 0, row, column])
            weight = float(space.texel_weights[k])
            expected += weight * (variance + float(off @ off) / (2 * math.exp(variance)))
            total += weight
    alignment = Alignment(truth.positions, torch.ones(1, 5), flow, log_sigma)
    assert float(dense_loss(alignment, truth, space)) == pytest.approx(expected / total, rel=1e-4)


def test_later_iterations_count_more() -> None:
    space, config = made_space(), AlignLossConfig()
    truth = Truth(torch.rand(1, 5, 2), torch.zeros(1, 5))
    both = [Alignment(truth.positions + 0.1, torch.full((1, 5), 0.1)), Alignment(truth.positions, torch.ones(1, 5))]
    terms = [float(vertex_loss(one, truth, space.weights)) for one in both]
    found = align_loss(both, truth, space, config)
    assert float(found["loss"]) == pytest.approx((0.8 * terms[0] + terms[1]) / 1.8)
    assert float(found["distance"]) == 0


def test_textures_of_all_scales_make_an_embedding() -> None:
    pyramid = UVPyramid(16, 5)
    assert [tuple(level.shape) for level in pyramid.embeddings] == [(1, 32, s, s) for s in (16, 8, 4, 2)]
    assert pyramid().shape == (1, 5, 16, 16)
    with torch.no_grad():
        before = pyramid()
        pyramid.embeddings[3][0, 0, 0, 0] += 1
        changed = (pyramid() - before).abs().amax((0, 1)) > 0
    assert changed[0, 0]
    assert not changed[-1, -1]


@pytest.mark.parametrize(("start", "ours"), [("regression", True), ("mean", False)])
def test_every_iteration_gives_all_vertices(start: str, ours: bool) -> None:
    uv = torch.rand(9, 2)
    config = SMALL.model_copy(update={"start": start, "seen": ours, "whole": ours})
    model = make_network(config, uv, uv)
    out = model(torch.randn(2, 3, 32, 32))
    assert len(out) == 4
    for one in out:
        assert one.positions.shape == (2, 9, 2)
        assert one.sigma.shape == (2, 9)
        assert (one.sigma > 0).all()
        assert one.flow is not None
        torch.testing.assert_close(one.positions, uv + sample_uv(one.flow, uv))
    assert len(model(torch.randn(2, 3, 32, 32), 0)) == 1
    torch.nn.init.normal_(model.update.flow_head[-1].weight)  # it begins at 0, which passes nothing on
    out = model(torch.randn(2, 3, 32, 32))
    sum(one.positions.sum() + one.sigma.sum() for one in out).backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any(name.startswith("encoder") for name in reached)
    assert any(name.startswith("update.flow_head") for name in reached)


def test_the_start_is_the_mean_face() -> None:
    uv = torch.rand(40, 2)
    mean = 0.5 * uv + torch.tensor([0.2, 0.1])
    for kind, tolerance in (("flow", 0.06), ("regression", 0.01)):
        model = make_network(SMALL.model_copy(update={"kind": kind}), uv, mean)
        found = model(torch.randn(1, 3, 32, 32), 0)[0].positions[0].detach()
        assert float((found - mean).norm(dim=-1).mean()) < tolerance


def test_what_is_linear_in_what_is_seen_is_found_at_once() -> None:
    """The truth is the start and a linear function of the features where it points, on a person left out too."""
    uv = torch.rand(60, 2)
    config = SMALL.model_copy(update={"uv": 8, "iterations": 2})
    model = FlowNetwork(config, uv, uv).eval()
    space = replace(made_space(60), uv=uv, weights=torch.ones(60))
    maps = torch.randn(8 * 64, 6) @ torch.randn(6, 2 * 64) * 1e-3

    def stage(person: int) -> Stage:
        images = torch.randn(16, 3, 32, 32)
        with torch.no_grad():
            found, flow = model.start(images)
            change = (model.seen(found, flow).flatten(1) @ maps).reshape(-1, 2, 8, 8)
            positions = uv + sample_uv(flow + change, uv)
        return Stage(images, Truth(positions, torch.zeros(16, 60)), torch.full((16,), person))

    stages, other = [stage(person) for person in range(40)], stage(99)

    def errors() -> list[float]:
        with torch.no_grad():
            return [float((one.positions - other.truth.positions).norm(dim=-1).mean()) for one in model(other.images)]

    before = errors()
    assert before[0] == before[-1]
    left = begin_whole(model, stages, space)
    after = errors()
    assert after[0] == before[0]
    assert after[1] < 0.4 * after[0]
    assert after[2] < 1.05 * after[1]
    assert left < 0.2


def test_values_of_places_spread_over_texels() -> None:
    uv = torch.rand(500, 2)
    spread = texel_means(uv, torch.stack([uv[:, 0], 1 - uv[:, 1]], 1), 8)
    assert spread.shape == (2, 8, 8)
    off = (sample_uv(spread[None], uv)[0, :, 0] - uv[:, 0]).abs()
    assert float(off.mean()) < 0.04
    assert float(off.max()) < 1.5 / 8  # at the edge: half a texel that is not between centres, and one of blur


def test_points_go_into_crops_and_back() -> None:
    boxes = torch.tensor([[10.0, 20, 50, 40], [0, 0, 8, 30]])
    squares = square_about(boxes)
    torch.testing.assert_close(squares, torch.tensor([[30.0, 30, 48], [4, 15, 36]]))
    plain = crop_transform(squares)
    torch.testing.assert_close(
        to_picture(torch.tensor([[[0.0, 0], [1, 1]]] * 2), plain)[0], torch.tensor([[6.0, 6], [54, 54]])
    )
    turned = crop_transform(squares, torch.tensor([0.3, -2.0]), torch.tensor([True, False]))
    places = torch.rand(2, 7, 2)
    torch.testing.assert_close(to_crop(to_picture(places, turned), turned), places, atol=1e-5, rtol=1e-5)
    assert float(torch.linalg.det(turned[0, :, :2])) < 0 < float(torch.linalg.det(turned[1, :, :2]))


def test_crops_show_what_lies_there() -> None:
    y, x = torch.meshgrid(torch.arange(60) + 0.5, torch.arange(80) + 0.5, indexing="ij")
    picture = torch.stack([x, y, x])[None]
    transform = crop_transform(torch.tensor([[40.0, 30, 40]]), torch.tensor([0.4]))
    for size in (20, 80):
        crop = take_crops(picture, transform, size)
        centre = (torch.arange(size) + 0.5) / size
        v, u = torch.meshgrid(centre, centre, indexing="ij")
        expected = to_picture(torch.stack([u, v], -1).reshape(1, -1, 2), transform).reshape(size, size, 2)
        torch.testing.assert_close(crop[0, :2].permute(1, 2, 0), expected, atol=0.02, rtol=0.0)


def test_a_segformer_of_the_hub_gives_features_and_refuses_weights_that_are_not_there() -> None:
    config = SMALL.model_copy(update={"encoder": "segformer", "segformer": "b0", "image_size": 64})
    encoder = SegformerEncoder(config)
    out = encoder(torch.randn(1, 3, 64, 64))
    assert out.map.shape == (1, 8, 6, 6)
    assert out.deep.shape[1] == 256
    uv = torch.rand(4, 2)
    assert isinstance(make_network(config, uv, uv), FlowNetwork)
    with pytest.raises(DependencyError, match=r"network\.weights"):
        encoder.load("/nowhere/mit-b0")


def test_configurations_that_ship_are_valid_and_mistakes_are_named() -> None:
    for name, uv in (("align-tiny", 24), ("align-base", 32), ("align-paper", 64), ("tiny", 24)):
        assert load_run_config(AlignConfig, name, prefix="align").network.uv == uv
    assert load_run_config(AlignConfig, "align-paper", prefix="align").network.segformer_size.depths[2] == 40
    for content, reason in (
        ({"network": {"weights": "x"}}, "SegFormer"),
        ({"network": {"kind": "regression"}, "coarse_steps": 3}, "coarse_steps"),
        ({"network": {"whole": True}}, "coarse_steps"),
        ({"data": {"clip_lengths": [2]}}, "clip_lengths"),
        ({"data": {"stride": 2}, "coarse_steps": 1}, "stride change nothing"),
    ):
        with pytest.raises(ManifestError, match=reason):
            parse_run_config(AlignConfig, {**content, "fit": {"steps": 1}})
