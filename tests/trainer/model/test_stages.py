"""Convolutional stages before the transformer, confidence of depth that only watches, and a start from likeness."""

from __future__ import annotations

import pytest
import torch

from datagen.common.errors import ManifestError
from trainer.config import LossConfig, TrainConfig, load_config
from trainer.losses import joint_loss
from trainer.model.joint import DepthUnit, JointModel

UNIT = DepthUnit("dataset", 0.8, 0.04, 2.6)
STAGES = "backbone.stages=8"
APART = ("loss.depth_confidence=apart", "loss.depth_lambda=1")


def built(*overrides: str) -> tuple[JointModel, TrainConfig]:
    torch.manual_seed(0)
    config = load_config("tiny", overrides)
    return JointModel(config, 28, UNIT), config


def scene(height: int = 28, width: int = 28, frames: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "image": torch.randn(1, frames, 3, height, width, generator=generator),
        "depth": 0.8 + 0.02 * torch.rand(1, frames, height, width, generator=generator),
        "canonical": torch.rand(1, frames, 3, height, width, generator=generator),
        "confidence": torch.ones(1, frames, height, width),
        "intrinsics": torch.diag(torch.tensor([60.0, 60.0, 1.0])).expand(1, frames, 3, 3),
        "index": torch.arange(frames)[None],
    }


@pytest.mark.parametrize(("size", "patch"), [((28, 42), 14), ((32, 48), 16), ((48, 24), 8)])
def test_stages_serve_patches_of_any_size(size: tuple[int, int], patch: int) -> None:
    torch.manual_seed(0)
    model = JointModel(load_config("tiny", [STAGES, f"backbone.patch={patch}"]), patch * 2, UNIT).eval()
    batch = scene(*size, frames=9)
    whole = model(batch["image"], batch["intrinsics"])
    assert whole.canonical.shape == (1, 9, 3, *size)
    with torch.no_grad():  # decoded eight frames at a time, stages and all
        torch.testing.assert_close(model(batch["image"], batch["intrinsics"]).canonical, whole.canonical)


@pytest.mark.parametrize("extra", [(), ("decoder.shared=false",), ("decoder.image_skip=false",), APART])
def test_every_weight_of_the_stages_and_of_the_branch_is_learnt(extra: tuple[str, ...]) -> None:
    model, config = built(STAGES, *extra)
    batch = scene()
    joint_loss(model(batch["image"], batch["intrinsics"]), batch, UNIT, config.loss)["loss"].backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert any(name.startswith("backbone.stages.") for name, _ in model.named_parameters())


def test_maps_of_the_stages_reach_the_decoder_past_the_transformer() -> None:
    model, _ = built(STAGES)
    model.backbone.norm.weight.data.zero_()  # tokens say nothing any more, ...
    for level in model.decoders["shared"].reassembly.project:
        level.weight.data.zero_()
    batch = scene()
    image = batch["image"].requires_grad_()
    model(image, batch["intrinsics"]).canonical.sum().backward()
    assert image.grad is not None
    assert image.grad.abs().max() > 0


def test_without_the_options_a_network_is_what_it_was() -> None:
    names = set(built()[0].state_dict())
    assert not any(part in name for name in names for part in ("stages", "reassembly.lateral", ".confidence."))
    assert names < set(built(*APART)[0].state_dict())


def test_confidence_apart_moves_nothing_but_itself() -> None:
    batch = scene()
    gradients = []
    for overrides in (APART, (*APART[:1], "loss.depth_lambda=0.3")):
        model, config = built(*overrides)
        joint_loss(model(batch["image"], batch["intrinsics"]), batch, UNIT, config.loss)["loss"].backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    own = {name for name in gradients[0] if ".confidence." in name}
    assert own
    for name, one in gradients[0].items():
        other = gradients[1][name]
        if name in {"decoders.shared.heads.depth.out.weight", "decoders.shared.heads.depth.out.bias"}:
            assert torch.equal(one[0], other[0])  # depth itself; the last row is the confidence's
            assert not torch.equal(one[-1], other[-1])
        else:
            assert torch.equal(one, other) != (name in own), name


def test_confidence_apart_is_told_errors_of_aligned_depth() -> None:
    batch = scene()
    batch["depth"] = torch.full_like(batch["depth"], 0.8)
    model, config = built(*APART)
    prediction = model(batch["image"], batch["intrinsics"])
    ones = torch.ones_like(batch["depth"])

    def said(depth_m: torch.Tensor, confidence: torch.Tensor) -> float:
        given = {**vars(prediction), "depth_m": depth_m, "depth_confidence": confidence}
        terms = joint_loss(type(prediction)(**given), batch, UNIT, config.loss)
        return terms["depth_confidence"].item()

    # Wherever the whole head is, nothing is left of the error; of one half off by 16 mm, half a spread remains there.
    assert said(1.1 * batch["depth"], ones) == pytest.approx(0, abs=1e-5)
    off = batch["depth"].clone()
    off[..., :10] += 0.016
    share = 10 / 28
    assert said(off, ones) == pytest.approx(0.5 * share, rel=1e-3)
    knowing = ones.clone()
    knowing[..., 10:] = 5.0
    assert said(off, knowing) < said(off, 5 * ones) < said(off, ones)


def test_confidence_apart_without_weight_is_refused() -> None:
    with pytest.raises(ManifestError, match="depth_lambda above 0"):
        load_config("tiny", ["loss.depth_confidence=apart", "loss.depth_lambda=0"])
    assert LossConfig().depth_confidence == "joint"


def test_from_a_start_of_likeness_tokens_find_their_like_in_another_frame() -> None:
    torch.manual_seed(0)
    shares = []
    for likeness in ("false", "true"):
        model, _ = built("backbone.dim=64", f"backbone.likeness_start={likeness}")
        attention = model.backbone.blocks[3].attn
        assert model.backbone.across[3]
        tokens = torch.randn(1, 20, 64)
        both = torch.cat([tokens, tokens[:, torch.randperm(20)] + 0.3 * torch.randn(1, 20, 64)], 1)
        q, k, _ = attention.qkv(both).unflatten(-1, (3, attention.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        weight = (attention.q_norm(q) @ attention.k_norm(k).transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        like = torch.cdist(tokens[0], both[0, 20:]).argmin(1)
        shares.append(weight[0, :, :20, 20:].mean(0).gather(1, like[:, None]).mean().item())
    assert shares[0] < 0.05  # an even share would be a fortieth
    assert shares[1] > 0.2
