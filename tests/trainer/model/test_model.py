"""The joint model: shapes, attention across frames, learning, configuration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from datagen.common.errors import InputError, ManifestError
from tests.support.trainer_scene import DISTANCE_M, render
from trainer.config import CONFIGS, TrainConfig, load_config, parse_config
from trainer.data import ARRAYS, normalise
from trainer.losses import joint_loss
from trainer.model.backbone import choose_reference, reference_first, reordered
from trainer.model.camera import decode_camera, encode_camera
from trainer.model.decoder import LargeKernelAttention
from trainer.model.joint import DepthUnit, JointModel

UNIT = DepthUnit("dataset", DISTANCE_M, 0.04, 2.6)
DOCUMENT = (CONFIGS.parents[1] / "docs" / "trainer.md").read_text().splitlines()


def make_model(size: int = 28, *overrides: str) -> JointModel:
    torch.manual_seed(0)
    return JointModel(load_config("tiny", overrides), size, UNIT).eval()


def random_clips(clips: int, frames: int, size: int = 28, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(clips, frames, 3, size, size, generator=generator)
    return images, torch.eye(3).expand(clips, frames, 3, 3)


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize(
    "overrides", [(), ("decoder.output_stride=1", "decoder.shared=false", "augment.photometric=0")]
)
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


@pytest.mark.parametrize("frames", [3, 4])
def test_exchanging_frames_exchanges_outputs(frames: int) -> None:
    model = make_model()
    images, K = random_clips(2, frames)
    order = torch.randperm(frames, generator=torch.Generator().manual_seed(3)).roll(1)
    with torch.no_grad():
        straight, exchanged = model(images, K), model(images[:, order], K)
        tokens = model.backbone(images).patches[-1].unflatten(0, (2, frames))
    assert (tokens[:, 0] - tokens[:, 1]).abs().max() > 1e-2
    torch.testing.assert_close(exchanged.canonical, straight.canonical[:, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(exchanged.depth_m, straight.depth_m[:, order], rtol=1e-4, atol=1e-5)


def test_exchanging_frames_other_than_a_fixed_reference_exchanges_outputs() -> None:
    model = make_model(28, "backbone.reference=first")
    images, K = random_clips(1, 4)
    with torch.no_grad():
        straight = model(images, K).canonical
        others, with_first = model(images[:, [0, 3, 1, 2]], K).canonical, model(images[:, [1, 0, 2, 3]], K).canonical
    torch.testing.assert_close(others, straight[:, [0, 3, 1, 2]], rtol=1e-4, atol=1e-5)
    assert (with_first - straight[:, [1, 0, 2, 3]]).abs().max() > 1e-5


def test_repeating_a_frame_changes_nothing_if_the_reference_shares_its_token() -> None:
    model = make_model()
    image, K = random_clips(1, 1)
    copies = image.expand(1, 4, -1, -1, -1), K.expand(1, 4, 3, 3)
    with torch.no_grad():
        assert (model(*copies).canonical - model(image, K).canonical).abs().max() > 1e-6
        tokens = model.backbone.embeddings.camera_tokens
        tokens[:, 1] = tokens[:, 0]
        torch.testing.assert_close(
            model(*copies).canonical, model(image, K).canonical.expand(1, 4, 3, 28, 28), rtol=1e-4, atol=1e-5
        )


def test_the_balanced_reference_is_the_typical_frame() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(16, generator=generator)
    # Frame 2 lies half-way between the two ends of the clip in direction, norm and variance.
    tokens = torch.stack([base + k * torch.linspace(-1, 1, 16) for k in (0.0, 4.0, 1.0, 4.5, 0.2)])[None]
    assert choose_reference(tokens, "first").tolist() == [0]
    assert choose_reference(tokens, "middle").tolist() == [2]
    chosen = choose_reference(tokens, "balanced")
    order = torch.tensor([3, 1, 4, 0, 2])
    assert order[choose_reference(tokens[:, order], "balanced")] == chosen
    frames, undo = reference_first(torch.tensor([2]), 5)
    assert frames.tolist() == [[2, 0, 1, 3, 4]]
    torch.testing.assert_close(reordered(reordered(tokens[..., None, :], frames), undo), tokens[..., None, :])


def test_frames_see_the_others_of_their_clip_and_no_other_clip() -> None:
    model = make_model()
    images, _ = random_clips(2, 2)
    changed = images.clone()
    changed[0, 1] = random_clips(1, 1, seed=9)[0][0, 0]
    with torch.no_grad():
        # The deepest tokens, frames in the order (clip 0, frame 0), (0, 1), (1, 0), (1, 1).
        before, after = model.backbone(images).patches[-1], model.backbone(changed).patches[-1]
        alone = model.backbone(images[:1, :1]).patches[-1]
    assert (before[0] - after[0]).abs().max() > 1e-3
    assert (before[0] - alone[0]).abs().max() > 1e-3
    torch.testing.assert_close(before[2:], after[2:], rtol=1e-4, atol=1e-5)


def test_without_alternation_frames_are_independent() -> None:
    model = make_model(28, "backbone.alternate_from=4")
    assert model.backbone.embeddings.camera_tokens is None
    images, K = random_clips(1, 3)
    with torch.no_grad():
        together, alone = model(images, K).canonical[:, :1], model(images[:, :1], K[:, :1]).canonical
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


ALL_HEADS = ("heads.ray=true", "heads.camera=true")


@pytest.mark.parametrize("kind", ["dpt", "large_kernel"])
@pytest.mark.parametrize("shared", ["true", "false"])
def test_decoders_give_all_maps_at_any_size(kind: str, shared: str) -> None:
    extra = ("decoder.norm=geometry", "decoder.positions=geometry", "decoder.output_stride=1", "backbone.registers=2")
    model = make_model(28, f"decoder.kind={kind}", f"decoder.shared={shared}", *ALL_HEADS, *extra)
    images, K = torch.randn(2, 3, 3, 42, 28), torch.eye(3).expand(2, 3, 3, 3)
    prediction = model(images, K)
    assert prediction.ray is not None
    assert prediction.ray_confidence is not None
    assert prediction.camera is not None
    assert prediction.ray.shape == (2, 3, 6, 42, 28)
    assert prediction.ray_confidence.shape == prediction.depth_m.shape == (2, 3, 42, 28)
    assert prediction.ray_confidence.min() >= 1
    assert prediction.camera.shape == (2, 3, 9)
    with torch.no_grad():
        few = make_model(28, f"decoder.kind={kind}", f"decoder.shared={shared}", *ALL_HEADS, *extra)
        few.decoder_config = few.decoder_config.model_copy(update={"frames_at_once": 4})
        torch.testing.assert_close(few(images, K).ray, prediction.ray, rtol=1e-4, atol=1e-5)


def test_heads_that_are_off_give_no_map() -> None:
    prediction = make_model()(*random_clips(1, 1))
    assert prediction.ray is None
    assert prediction.ray_confidence is None
    assert prediction.camera is None


def test_large_kernel_attention_sees_23_pixels_and_no_more() -> None:
    torch.manual_seed(0)
    attention = LargeKernelAttention(4)
    x = torch.ones(1, 4, 49, 49, requires_grad=True)
    attention(x)[0, :, 24, 24].sum().backward()
    assert x.grad is not None
    rows = x.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert (rows.min().item(), rows.max().item()) == (24 - 11, 24 + 11)


def test_recomputing_blocks_gives_the_same_gradients() -> None:
    images, K = random_clips(1, 2)
    gradients = []
    for every in (0, 1, 2):
        model = make_model(28, f"backbone.checkpoint_every={every}").train()
        assert [block.recomputed for block in model.backbone.blocks] == [every and k % every == 0 for k in range(4)]
        model(images, K).canonical.square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-6, atol=1e-7)


def test_bfloat16_transformer_stays_near_float32() -> None:
    images, K = random_clips(1, 3)
    exact = make_model(28, *ALL_HEADS)(images, K)
    model = make_model(28, "backbone.precision=bfloat16", *ALL_HEADS)
    seen: list[torch.dtype] = []
    model.backbone.blocks[3].mlp.fc1.register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    rough = model(images, K)
    assert seen == [torch.bfloat16]
    assert rough.canonical.dtype == torch.float32
    assert rough.camera is not None
    assert rough.camera.dtype == torch.float32
    difference = (rough.canonical - exact.canonical).abs().max()
    assert 0 < difference < 0.05 * exact.canonical.abs().max()
    rough.canonical.sum().backward()


def test_the_network_compiles_without_a_break() -> None:
    model = make_model(28, *ALL_HEADS)
    images, K = random_clips(1, 3)
    with torch.no_grad():
        whole = torch.compile(model, backend="eager", fullgraph=True)(images, K)
        torch.testing.assert_close(whole.canonical, model(images, K).canonical)


# Millions of parameters, as docs/trainer.md has them: transformer, decoders, camera, all.
SIZES = {
    "small": (22.1, 6.5, 1.2, 29.7),
    "base": (86.6, 25.9, 4.7, 117.2),
    "large": (304.4, 75.3, 8.4, 388.1),
    "giant": (1136.5, 81.1, 18.9, 1236.5),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_have_the_documented_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        model = JointModel(load_config(name), 504, UNIT)
    count = {part: sum(p.numel() for p in module.parameters()) / 1e6 for part, module in model.named_children()}
    found = (count["backbone"], count["decoders"], count["camera"], sum(count.values()))
    assert [round(x, 1) for x in found] == list(SIZES[name])
    row = next(line for line in DOCUMENT if line.startswith(f"| `{name}` |"))
    assert row.endswith("".join(f"| {x} " for x in SIZES[name]) + "|")


@given(st.integers(0, 2**31), st.floats(0.2, 2.5), st.floats(0.2, 2.5))
@settings(max_examples=20, deadline=None)
def test_cameras_survive_their_encoding(seed: int, vertical: float, horizontal: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(2, 3, 3, generator=generator, dtype=torch.float64))[0]
    rotation = rotation * torch.linalg.det(rotation)[:, None, None]
    pose = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    pose[:, :3, :3], pose[:, :3, 3] = rotation, torch.randn(2, 3, generator=generator, dtype=torch.float64)
    K = torch.tensor([[40 / np.tan(horizontal / 2), 0, 40], [0, 30 / np.tan(vertical / 2), 30], [0, 0, 1]])
    encoding = encode_camera(pose, K.expand(2, 3, 3), (60, 80))
    assert encoding.shape == (2, 9)
    torch.testing.assert_close(encoding[:, 7:], torch.tensor([[vertical, horizontal]] * 2, dtype=torch.float64))
    decoded, intrinsics = decode_camera(encoding * torch.tensor([1.0] * 3 + [2.0] * 4 + [1.0] * 2), (60, 80))
    torch.testing.assert_close(decoded, pose, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(intrinsics, K.expand(2, 3, 3), rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(
    "overrides", [(), ("decoder.kind=large_kernel", "decoder.shared=false", "backbone.mlp=swiglu")]
)
def test_every_weight_gets_a_gradient(overrides: tuple[str, ...]) -> None:
    model = make_model(28, *overrides).train()
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
    batch = {name: torch.from_numpy(np.stack([clip[name] for clip in clips])) for name in ARRAYS}
    batch |= {"image": normalise(batch["image"].float() / 255), "index": torch.zeros(2, 2, dtype=torch.int64)}
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


def test_shipped_configurations_are_valid_and_overridable() -> None:
    # Those of other kinds of runs are tested where these are.
    for path in CONFIGS.glob("*.yaml"):
        if not path.stem.startswith(("align-", "attributes-", "avatar-")):
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
        ("backbone.heads=16", "multiple of 4"),
        ("backbone.outputs=[0,1,2,4]", "blocks run from 0 to 3"),
        ("decoder.kind=unet", "dpt"),
        ("name.x=1", "is a value, not a section"),
        ("fit.steps", "not an override"),
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
    shipped = "base, demo, demo-full, giant, large, overfit, proof, proof-patches, small, tiny"
    with pytest.raises(ManifestError, match=shipped):
        load_config("dmeo")
    (tmp_path / "list.yaml").write_text("[1]")
    with pytest.raises(ManifestError, match="a mapping"):
        load_config(tmp_path / "list.yaml")
    with pytest.raises(ManifestError, match=r"fit.* is missing"):
        parse_config({})
    assert isinstance(parse_config({"fit": {"steps": 1}}), TrainConfig)
