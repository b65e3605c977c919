"""Published weights: names, sizes, a strict report, unusable files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
)

from datagen.common.errors import CheckpointError
from tests.support.published_weights import name_there, to_depth_anything_3
from tests.support.trainer_scene import build_scene
from trainer.config import load_config
from trainer.fit import fit
from trainer.model.backbone import resize_positions
from trainer.model.config import WeightsConfig
from trainer.model.joint import DepthUnit, JointModel
from trainer.run.checkpoint import read_checkpoint
from trainer.weights.layouts import Translation
from trainer.weights.load import WeightsReport, load_weights
from trainer.weights.read import read_tensors

UNIT = DepthUnit("dataset", 1.2, 1.0, 2.6)
BACKBONE = ["backbone.dim=32", "backbone.blocks=4", "backbone.heads=2", "backbone.mlp_ratio=2"]
APART = ["decoder.shared=false", "decoder.image_skip=false", "decoder.norm=geometry", "decoder.positions=geometry"]
WHOLE = [*APART, "heads.ray=true", "heads.camera=true"]


def make_model(*overrides: str, seed: int = 0, unit: DepthUnit = UNIT, size: int = 28) -> JointModel:
    torch.manual_seed(seed)
    return JointModel(load_config("tiny", overrides), size, unit).eval()


def load(model: JointModel, source: Path, **settings: Any) -> WeightsReport:
    return load_weights(model, WeightsConfig(source=str(source), **settings))


def disturb(model: torch.nn.Module) -> None:
    """Give every weight a value of its own: starts of 0 and 1 would hide what was not loaded."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))


def tokens_of(model: JointModel, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.backbone(images[:, None]).patches[-1]


VIT = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "mlp_ratio": 2, "image_size": 70}
OF_TRANSFORMERS = {
    "dinov2": (Dinov2Model, Dinov2Config(patch_size=14, **VIT), ["backbone.position_grid=5"]),
    "gated": (
        Dinov2Model,
        Dinov2Config(patch_size=14, use_swiglu_ffn=True, **VIT),
        ["backbone.position_grid=5", "backbone.mlp=swiglu"],
    ),
    "registers": (
        Dinov2WithRegistersModel,
        Dinov2WithRegistersConfig(patch_size=14, num_register_tokens=3, **VIT),
        ["backbone.position_grid=5", "backbone.registers=3"],
    ),
    "dinov3": (
        DINOv3ViTModel,
        DINOv3ViTConfig(**{**VIT, "patch_size": 14, "num_register_tokens": 4, "intermediate_size": 64}),
        ["backbone.positions=rotary", "backbone.registers=4"],
    ),
}


@pytest.mark.parametrize("name", OF_TRANSFORMERS)
def test_image_transformers_compute_as_in_transformers(name: str, tmp_path: Path) -> None:
    kind, settings, overrides = OF_TRANSFORMERS[name]
    torch.manual_seed(1)
    theirs = kind(settings).eval()
    disturb(theirs)
    theirs.save_pretrained(tmp_path)
    alone = make_model(*BACKBONE, *overrides, "backbone.alternate_from=4")
    report = load(alone, tmp_path)
    assert report.complete
    assert report.layout == ("dinov3" if name == "dinov3" else "dinov2")
    assert all(name.split(".")[0] in ("decoders", "detail") for name in report.fresh)
    others = 1 + alone.backbone.config.registers
    # Registers come with antialiased positions, which `transformers` has as well; plain ones only at their own size.
    size = (42, 56) if name in ("registers", "dinov3") else (70, 70)
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = theirs(images).last_hidden_state[:, others:]
    torch.testing.assert_close(tokens_of(alone, images), expected, rtol=1e-4, atol=1e-4)

    alternating = make_model(*BACKBONE, *overrides)
    report = load(alternating, tmp_path)
    kept = {name.rpartition(".")[0].rpartition(".")[2] for name in report.fresh if name.startswith("backbone.blocks")}
    assert kept == {"q_norm", "k_norm"}
    assert "backbone.embeddings.camera_tokens" in report.fresh


def published_dinov2(model: JointModel) -> dict[str, torch.Tensor]:
    """A state dict with the names that DINOv2's files on the hub have, queries, keys and values apart."""
    state: dict[str, torch.Tensor] = {"embeddings.mask_token": torch.zeros(1, 32)}
    inner = {"attn.proj": "attention.output.dense", "ls1.gamma": "layer_scale1.lambda1"}
    inner |= {"ls2.gamma": "layer_scale2.lambda1"}
    whole = {"class_token": "cls_token", "positions": "position_embeddings", "patch": "patch_embeddings.projection"}
    for name, value in model.state_dict().items():
        part, _, rest = name.removeprefix("backbone.").partition(".")
        if part == "embeddings":
            first, dot, last = rest.partition(".")
            state[f"embeddings.{whole[first]}{dot}{last}"] = value
        elif part == "norm":
            state[f"layernorm.{rest}"] = value
        elif part == "blocks":
            number, _, rest = rest.partition(".")
            place = f"encoder.layer.{number}."
            if rest.startswith("attn.qkv."):
                for kind, piece in zip(("query", "key", "value"), value.chunk(3), strict=True):
                    state[f"{place}attention.attention.{kind}.{rest.rpartition('.')[2]}"] = piece
            else:
                for ours, theirs in inner.items():
                    rest = rest.replace(ours, theirs)
                state[place + rest] = value
    return {name: value.contiguous() for name, value in state.items()}


def test_names_of_the_hub_files_are_known(tmp_path: Path) -> None:
    source = make_model(*BACKBONE, "backbone.alternate_from=4", seed=1)
    disturb(source)
    save_file(published_dinov2(source), tmp_path / "model.safetensors")
    model = make_model(*BACKBONE, "backbone.alternate_from=4")
    report = load(model, tmp_path / "model.safetensors")
    assert report.unused == ["embeddings.mask_token"]
    images = torch.randn(1, 3, 28, 28)
    torch.testing.assert_close(tokens_of(model, images), tokens_of(source, images))


def test_a_hub_id_is_resolved_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_model(*BACKBONE, "backbone.alternate_from=4", seed=1)
    folder = tmp_path / "models--someone--vit"
    revision = "0" * 40
    (folder / "snapshots" / revision).mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(revision)
    save_file(published_dinov2(source), folder / "snapshots" / revision / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "layernorm.weight" in read_tensors("someone/vit", tmp_path)
    with pytest.raises(CheckpointError, match="nor found on the hub"):
        read_tensors("someone/else", tmp_path)


def test_depth_anything_names_go_there_and_back(tmp_path: Path) -> None:
    source = make_model(*WHOLE, seed=1)
    disturb(source)
    exported = to_depth_anything_3(source)
    assert "model.backbone.pretrained.blocks.3.attn.q_norm.weight" in exported
    assert "model.head.scratch.refinenet1_aux.resConfUnit2.conv1.weight" in exported
    assert "model.deformation_head.scratch.output_conv2.2.bias" in exported
    torch.save({"model": exported, "epoch": 3}, tmp_path / "checkpoint.pt")
    model = make_model(*WHOLE)
    report = load(model, tmp_path)
    assert report.complete
    assert set(report.fresh) == {f"decoders.geometry.heads.depth.surface.{part}" for part in ("weight", "bias")}
    state = source.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items() if "surface" not in name)
    assert "known and not used" not in report.text()
    assert f"matched: {len(state) - 2}" in report.text()


def test_depth_is_theirs_times_the_unit_whatever_its_spread(tmp_path: Path) -> None:
    source = make_model(*WHOLE, seed=1)
    disturb(source)
    torch.save(to_depth_anything_3(source), tmp_path / "da3.pt")
    model = make_model(*WHOLE, unit=DepthUnit("dataset", 0.6, 0.05, 2.6))
    report = load(model, tmp_path / "da3.pt")
    assert len(report.converted) == 2
    images, K = torch.randn(1, 2, 3, 28, 28), torch.eye(3).expand(1, 2, 3, 3)
    with torch.no_grad():
        torch.testing.assert_close(model(images, K).depth_m, source(images, K).depth_m / 2, rtol=1e-4, atol=1e-6)
    again = to_depth_anything_3(model)["model.head.scratch.output_conv2.2.weight"]
    torch.testing.assert_close(again, to_depth_anything_3(source)["model.head.scratch.output_conv2.2.weight"])


def test_heads_that_are_off_leave_their_weights_unused(tmp_path: Path) -> None:
    torch.save(to_depth_anything_3(make_model(*WHOLE)), tmp_path / "da3.pt")
    report = load(make_model(*APART), tmp_path / "da3.pt")
    assert {name.split(".")[0] for name in report.unused} == {"cam_dec", "head"}


def test_positions_of_another_grid_are_interpolated(tmp_path: Path) -> None:
    source = make_model(*WHOLE, "backbone.position_grid=5", seed=1)
    torch.save(to_depth_anything_3(source), tmp_path / "da3.pt")
    model = make_model(*WHOLE, "backbone.position_grid=3")
    report = load(model, tmp_path / "da3.pt")
    assert report.converted == ["backbone.embeddings.positions from 5 × 5 to 3 × 3"]
    found, original = model.backbone.embeddings.positions, source.backbone.embeddings.positions
    torch.testing.assert_close(found, resize_positions(original, 5, (3, 3), antialias=False))
    torch.testing.assert_close(found[:, 0], original[:, 0])
    flat = torch.ones(1, 26, 4)
    torch.testing.assert_close(resize_positions(flat, 5, (3, 4), antialias=False), torch.ones(1, 13, 4))


def test_a_run_starts_from_another(tmp_path: Path) -> None:
    source = make_model(seed=1)
    torch.save({"format": "canonface-checkpoint", "model": source.state_dict()}, tmp_path / "best.pt")
    model = make_model()
    assert load(model, tmp_path).layout == "canonface"
    state = source.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_what_does_not_fit_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "da3.pt"
    exported = to_depth_anything_3(make_model(*WHOLE, seed=1))
    model = make_model(*WHOLE)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def refusal(content: dict[str, torch.Tensor], *overrides: str) -> str:
        torch.save(content, path)
        target = make_model(*WHOLE, *overrides) if overrides else model
        with pytest.raises(CheckpointError) as caught:
            load(target, path)
        return str(caught.value)

    lacking = {name: value for name, value in exported.items() if "blocks.2.attn.proj" not in name}
    assert "missing: 2 (backbone.blocks.2.attn.proj.weight, backbone.blocks.2.attn.proj.bias)" in refusal(lacking)
    assert "left over: 1 (head.extra.weight)" in refusal(exported | {"model.head.extra.weight": torch.ones(2)})
    wide = refusal(exported, "backbone.dim=64")
    assert "of another shape" in wide
    assert "backbone.embeddings.class_token (1, 1, 32) for (1, 1, 64)" in wide
    assert "left over" in refusal(exported, "decoder.shared=true")
    broken = exported | {"model.backbone.pretrained.norm.weight": torch.full((32,), torch.nan)}
    assert "not finite" in refusal(broken)
    assert "no known layout (it holds conv1.weight)" in refusal({"conv1.weight": torch.ones(3)})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    torch.save(lacking, path)
    report = load(model, path, strict=False)
    assert not report.complete
    assert torch.equal(model.backbone.blocks[2].attn.proj.weight, before["backbone.blocks.2.attn.proj.weight"])
    assert not torch.equal(model.backbone.blocks[1].attn.proj.weight, before["backbone.blocks.1.attn.proj.weight"])


def test_unusable_files_are_errors_that_say_why(tmp_path: Path) -> None:
    model = make_model(*WHOLE)
    exported = {name: value.contiguous() for name, value in to_depth_anything_3(model).items()}
    save_file(exported, tmp_path / "whole.safetensors")
    torch.save(exported, tmp_path / "whole.pt")
    for name in ("whole.safetensors", "whole.pt"):
        content = (tmp_path / name).read_bytes()
        cut = tmp_path / f"cut-{name}"
        for length in (len(content) // 2, 100, 0):
            cut.write_bytes(content[:length])
            with pytest.raises(CheckpointError, match="cannot be read"):
                load(model, cut)
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(model, tmp_path / "text.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="holds a list"):
        load(model, tmp_path / "list.pt")
    torch.save({"epoch": 1}, tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="no tensors"):
        load(model, tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="do not exist"):
        load(model, tmp_path / "missing.pt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no weights"):
        load(model, tmp_path / "empty")


def test_weights_in_several_files_are_read_together(tmp_path: Path) -> None:
    exported = {name: value.contiguous() for name, value in to_depth_anything_3(make_model(*WHOLE, seed=1)).items()}
    names = sorted(exported)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, of in parts.items():
        save_file({name: exported[name] for name in of}, tmp_path / file)
    index = {"weight_map": {name: file for file, of in parts.items() for name in of}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert load(make_model(*WHOLE), tmp_path).complete
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"names b\.safetensors, which is missing"):
        load(make_model(*WHOLE), tmp_path)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("backbone.pretrained.camera_token", "backbone.embeddings.camera_tokens"),
        ("head.resize_layers.3.weight", "decoders.geometry.reassembly.resize.3.weight"),
        ("head.scratch.layer4_rn.weight", "decoders.geometry.reassembly.narrow.3.weight"),
        ("head.scratch.refinenet2.out_conv.bias", "decoders.geometry.fusions.depth.levels.1.project.bias"),
        ("head.scratch.output_conv1_aux.3.4.bias", "decoders.geometry.heads.ray.before.4.bias"),
        ("deformation_head.projects.0.weight", "decoders.canonical.reassembly.project.0.weight"),
        ("cam_dec.fc_fov.0.weight", "camera.field_of_view.weight"),
    ],
)
def test_names_are_translated_both_ways(theirs: str, ours: str) -> None:
    translation = Translation("depth_anything_3")
    place = translation.place(theirs)
    assert place is not None
    assert (place.name, name_there(ours)) == (ours, theirs)
    assert translation.place("head.nothing.weight") is None


def test_a_new_run_starts_from_them_and_a_resumed_one_does_not_need_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_scene(tmp_path / "dataset.zarr", subjects={"train": 1}, frames=2, cameras=2)
    source = make_model(seed=7)
    torch.save({"format": "canonface-checkpoint", "model": source.state_dict()}, tmp_path / "start.pt")
    # So small a rate that a step leaves the weights where they were.
    settings = ["fit.steps=2", "fit.learning_rate=1e-9", "fit.warmup_steps=0", "fit.device=cpu"]
    config = load_config("tiny", [*settings, f"weights.source={tmp_path / 'start.pt'}"])
    fit(tmp_path / "dataset.zarr", tmp_path / "run", config)
    assert "(canonface)" in capsys.readouterr().err
    weights = read_checkpoint(tmp_path / "run" / "last.pt")["model"]
    for name, value in source.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=1e-5, atol=1e-7)
    (tmp_path / "start.pt").unlink()
    assert fit(tmp_path / "dataset.zarr", tmp_path / "run", config).finished
    with pytest.raises(CheckpointError, match="do not exist"):
        fit(tmp_path / "dataset.zarr", tmp_path / "other", config)
