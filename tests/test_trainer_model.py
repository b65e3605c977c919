"""The joint model: shapes, attention across frames, learning, configuration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from trainer_scene import DISTANCE_M, render

from datagen.shards import CheckpointError, InputError, ManifestError
from trainer.config import CONFIGS, TrainConfig, load_config, parse_config
from trainer.data import collate
from trainer.depth_unit import DepthUnit
from trainer.losses import joint_loss
from trainer.model.joint import JointModel

UNIT = DepthUnit("dataset", DISTANCE_M, 0.04, 2.6)


def make_model(size: int = 28, *overrides: str) -> JointModel:
    torch.manual_seed(0)
    return JointModel(load_config("tiny", overrides), size, UNIT).eval()


def random_clips(clips: int, frames: int, size: int = 28, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(clips, frames, 3, size, size, generator=generator)
    return images, torch.eye(3).expand(clips, frames, 3, 3)


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("overrides", [(), ("decoder.output_stride=1", "decoder.shared=false", "data.augment=0")])
def test_shapes_and_ranges_for_one_to_n_frames(frames: int, overrides: tuple[str, ...]) -> None:
    prediction = make_model(28, *overrides)(*random_clips(2, frames))
    assert prediction.canonical.shape == (2, frames, 3, 28, 28)
    for name in ("depth_m", "depth_confidence", "canonical_confidence", "surface_logit"):
        assert getattr(prediction, name).shape == (2, frames, 28, 28)
        assert getattr(prediction, name).dtype == torch.float32
    assert prediction.depth_m.min() > 0
    assert prediction.depth_confidence.min() >= 1
    assert prediction.canonical_confidence.min() >= 1


def test_other_sizes_interpolate_positions_and_odd_sizes_are_refused() -> None:
    model = make_model(28)
    images, K = torch.randn(1, 2, 3, 42, 56), torch.eye(3).expand(1, 2, 3, 3)
    assert model(images, K).depth_m.shape == (1, 2, 42, 56)
    with pytest.raises(InputError, match="multiples of 14"):
        model(torch.randn(1, 1, 3, 30, 28), K[:, :1])


def test_exchanging_frames_exchanges_outputs() -> None:
    model = make_model()
    images, K = random_clips(1, 3)
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        tokens, moved = model.backbone(images)[-1], model.backbone(images[:, order])[-1]
        torch.testing.assert_close(moved, tokens[order], rtol=1e-4, atol=1e-5)
        assert (tokens[0] - tokens[1]).abs().max() > 1e-2
        straight, exchanged = model(images, K), model(images[:, order], K)
    torch.testing.assert_close(exchanged.canonical, straight.canonical[:, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(exchanged.depth_m, straight.depth_m[:, order], rtol=1e-4, atol=1e-5)


def test_frames_see_the_others_of_their_clip_and_no_other_clip() -> None:
    model = make_model()
    images, _ = random_clips(2, 2)
    changed = images.clone()
    changed[0, 1] = random_clips(1, 1, seed=9)[0][0, 0]
    with torch.no_grad():
        # The deepest tokens, frames in the order (clip 0, frame 0), (0, 1), (1, 0), (1, 1).
        before, after = model.backbone(images)[-1], model.backbone(changed)[-1]
        alone = model.backbone(images[:1, :1])[-1]
    assert (before[0] - after[0]).abs().max() > 1e-3
    assert (before[0] - alone[0]).abs().max() > 1e-3
    torch.testing.assert_close(before[2:], after[2:], rtol=1e-4, atol=1e-5)


def test_without_alternation_frames_are_independent() -> None:
    model = make_model(28, "backbone.alternate_from=4")
    images, K = random_clips(1, 2)
    with torch.no_grad():
        together, alone = model(images, K).canonical[:, :1], model(images[:, :1], K[:, :1]).canonical
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_every_weight_gets_a_gradient() -> None:
    model = make_model().train()
    images, K = random_clips(1, 2)
    batch = {
        "depth": torch.full((1, 2, 28, 28), 0.8),
        "canonical": torch.rand(1, 2, 3, 28, 28),
        "confidence": torch.ones(1, 2, 28, 28),
        "intrinsics": K,
    }
    joint_loss(model(images, K), batch, UNIT, load_config("tiny").loss)["loss"].backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []


def test_overfitting_one_batch_cuts_errors_to_a_third() -> None:
    clips = []
    for subject in (0, 1):
        frames = [render(subject, frame, 0, 2, 28) for frame in (0, 3)]
        clips.append({name: np.stack([f[name] for f in frames]) for name in frames[0]})
    batch = collate(clips, np.zeros((2, 2), np.int64))
    config = load_config("tiny")
    model = make_model().train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    surface = batch["depth"] > 0

    def errors() -> tuple[float, float]:
        with torch.no_grad():
            p = model(batch["image"], batch["intrinsics"])
        canonical = torch.linalg.norm(p.canonical - batch["canonical"], dim=2)[surface].mean()
        return (p.depth_m - batch["depth"]).abs()[surface].mean().item(), canonical.item()

    before = errors()
    for _ in range(80):
        optimiser.zero_grad()
        joint_loss(model(batch["image"], batch["intrinsics"]), batch, UNIT, config.loss)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    after = errors()
    assert after[0] < before[0] / 3
    assert after[1] < before[1] / 3


def test_pretrained_folder_is_loaded_and_no_longer_needed_by_the_checkpoint(tmp_path: Path) -> None:
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(1)
    vit = Dinov2Model(Dinov2Config(hidden_size=24, num_hidden_layers=4, num_attention_heads=2, image_size=70))
    vit.save_pretrained(tmp_path / "dino")
    config = load_config("tiny", [f"backbone.pretrained={tmp_path / 'dino'}"])
    model = JointModel(config, 28, UNIT)
    torch.testing.assert_close(model.backbone.vit.encoder.layer[2].mlp.fc1.weight, vit.encoder.layer[2].mlp.fc1.weight)
    assert model.backbone.dim == 24
    (tmp_path / "dino" / "config.json").unlink()
    again = JointModel(config, 28, UNIT, model.backbone.stored_config())
    again.load_state_dict(model.state_dict())
    with pytest.raises(CheckpointError, match=r"config\.json"):
        JointModel(config, 28, UNIT)


def test_shipped_configurations_are_valid_and_overridable() -> None:
    for path in CONFIGS.glob("*.yaml"):
        assert load_config(path).name == path.stem
    config = load_config("tiny", ["fit.steps=7", "data.clip_lengths=[3]", "backbone.dim=64"])
    assert (config.fit.steps, config.data.clip_lengths, config.backbone.dim) == (7, (3,), 64)
    assert load_config("tiny", ["fit.max_minutes=1"]).digest == load_config("tiny").digest
    assert config.digest != load_config("tiny").digest


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("fit.step=7", "did you mean steps"),
        ("fit.steps=none", "fit.steps"),
        ("fit.steps=0", "greater than or equal to 1"),
        ("backbone.heads=5", "not a multiple of heads"),
        ("name.x=1", "is a value, not a section"),
        ("fit.steps", "no override"),
        ("data.clip_lengths=[]", "at least one length"),
    ],
)
def test_configuration_errors_name_the_key(override: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        load_config("tiny", [override])


def test_every_key_is_documented() -> None:
    text = (CONFIGS.parents[1] / "docs" / "trainer.md").read_text()

    def keys(section: type[BaseModel], prefix: str = "") -> list[str]:
        found = []
        for key, field in section.model_fields.items():
            kind = field.annotation
            nested = isinstance(kind, type) and issubclass(kind, BaseModel)
            found += keys(kind, f"{prefix}{key}.") if nested else [prefix + key]
        return found

    assert [key for key in keys(TrainConfig) if f"`{key}`" not in text] == []


def test_missing_configuration_lists_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="demo, small, tiny"):
        load_config("dmeo")
    (tmp_path / "list.yaml").write_text("[1]")
    with pytest.raises(ManifestError, match="a mapping"):
        load_config(tmp_path / "list.yaml")
    with pytest.raises(ManifestError, match=r"fit.* is missing"):
        parse_config({})
    assert isinstance(parse_config({"fit": {"steps": 1}}), TrainConfig)
