"""Rates, decay and averages step by step; and in which order a checkpoint reaches the disk."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from torch import nn

from tests.support.disk import Disk
from trainer.config import FREE_KEYS, DataConfig, FitConfig, load_config
from trainer.data import IMAGE_MEAN, IMAGE_STD, clip_seed, normalise, stream_config
from trainer.inference import evaluation_clips
from trainer.model.joint import DepthUnit, JointModel
from trainer.optimiser import MovingAverage, learning_rate, make_optimiser, rate_share, set_rates
from trainer.run.checkpoint import FORMAT_VERSION, read_checkpoint, save_checkpoint


def test_the_rate_warms_up_in_a_line_and_falls_in_a_cosine() -> None:
    config = FitConfig(steps=30, learning_rate=0.4, warmup_steps=10, final_rate=0.25)
    rates = [learning_rate(step, config) for step in (0, 4, 9, 10, 15, 20, 25, 30, 99)]
    cosines = [0.25 + 0.75 * (1 + math.cos(math.pi * share)) / 2 for share in (0, 0.25, 0.5, 0.75, 1, 1)]
    assert rates == pytest.approx([0.04, 0.2, 0.4, *(0.4 * c for c in cosines)])
    assert rates[5] == pytest.approx(0.4 * 0.625)
    without = FitConfig(steps=10, learning_rate=0.4, warmup_steps=0, final_rate=0.0)
    assert [learning_rate(k, without) for k in (0, 5, 10)] == pytest.approx([0.4, 0.2, 0])
    assert learning_rate(10, FitConfig(steps=10, learning_rate=0.4, warmup_steps=10, final_rate=0.1)) == 0.4


def test_every_parameter_has_the_rate_and_decay_of_its_name_and_shape() -> None:
    config = load_config("tiny", ["fit.layer_decay=0.7", "fit.weight_decay=0.13", "fit.backbone_rate=0.6"])
    model = JointModel(config, 28, DepthUnit("dataset", 0.8, 0.05, 2.0))
    blocks = len(model.backbone.blocks)
    optimiser = make_optimiser(model, config.fit)
    assert optimiser.defaults["betas"] == (0.9, config.fit.beta2)
    set_rates(optimiser, 0.5)
    found = {id(p): group for group in optimiser.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if name.startswith("backbone.blocks."):
            share = 0.6 * 0.7 ** (blocks - 1 - int(name.split(".")[2]))
        elif name.startswith("backbone.norm."):
            share = 0.6
        else:
            share = 0.6 * 0.7**blocks if name.startswith("backbone.") else 1.0
        decay = 0.13 if parameter.ndim >= 2 and "embeddings" not in name else 0.0
        assert found[id(parameter)]["lr"] == pytest.approx(0.5 * share), name
        assert found[id(parameter)]["weight_decay"] == decay, name
    shapes = {p.ndim for p in model.parameters()}
    assert {1, 2} <= shapes
    assert any("embeddings" in name and p.ndim >= 2 for name, p in model.named_parameters())
    assert rate_share("backbone.blocks.10.norm.weight", 12, config.fit) == pytest.approx(0.6 * 0.7)


def test_the_average_forgets_its_start_and_keeps_what_it_was_told() -> None:
    model = nn.Linear(2, 1, bias=False).bfloat16()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0]]))
    average, expected = MovingAverage(model, 0.9), np.array([1.0, -2.0])
    for n in range(1, 121):
        with torch.no_grad():
            model.weight.copy_(torch.tensor([[n / 8, 1.0]]))
        value = model.weight.detach().float().numpy()[0]
        average.update(model)
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
        if n in {1, 5, 80, 120}:  # (1 + n) / (10 + n) reaches 0.9 at 80
            held = average.state_dict()["average"]
            np.testing.assert_allclose(held["weight"].numpy()[0], expected, rtol=1e-5)  # type: ignore[index]
            assert held["weight"].dtype == torch.float32  # type: ignore[index]
    other = MovingAverage(model, 0.9)
    other.load_state_dict(average.state_dict())
    for a in (average, other):
        a.update(model)
    torch.testing.assert_close(average.state_dict()["average"], other.state_dict()["average"], rtol=0, atol=0)
    assert other.state_dict()["updates"] == 121


def test_a_checkpoint_is_written_synced_renamed_and_its_folder_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    save_checkpoint(folder / "last.pt", {"step": 1})
    before = read_checkpoint(folder / "last.pt")
    disk = Disk(folder, monkeypatch)
    save_checkpoint(folder / "last.pt", {"step": 2, "model": {"w": torch.ones(1000)}})
    whole = (folder / "last.pt").stat().st_size
    assert len(disk.steps) == 3, disk.steps
    (kind, temporary), renamed, synced = disk.steps
    assert kind == f"sync {whole}"  # all of its bytes were there
    assert temporary.startswith(".last.pt.tmp-")
    assert renamed == (f"move {whole} {temporary}", "last.pt")
    assert synced == ("sync/", ".")
    assert (before["step"], read_checkpoint(folder / "last.pt")["step"]) == (1, 2)
    assert [path.name for path in folder.iterdir()] == ["last.pt"]
    assert before["format_version"] == FORMAT_VERSION == 2


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_the_digest_of_a_configuration_knows_all_but_where_it_runs() -> None:
    config, free = load_config("tiny"), set()
    for section, part in config:
        if not isinstance(part, BaseModel):
            assert config.model_copy(update={section: "other"}).digest != config.digest, section
            continue
        for key, value in part:
            other: object = {"somebody": 2.0} if isinstance(value, dict) else "other"
            changed = config.model_copy(update={section: part.model_copy(update={key: other})})
            if changed.digest == config.digest:
                free.add(f"{section}.{key}")
    assert free == set(FREE_KEYS)
    # What may change from one call to the next decides no weight: devices, time, memory, readers, pictures.
    assert free == {
        *("fit.device", "fit.threads", "fit.max_minutes", "fit.save_every", "fit.profile_steps"),
        *("fit.preview", "fit.wandb"),
        *("data.workers", "data.reader", "data.cache_mb", "data.cache_dir", "data.cache_gb"),
        *("backbone.checkpoint_every", "decoder.frames_at_once"),
    }


def test_a_stream_is_told_all_that_a_configuration_says() -> None:
    given = DataConfig(
        clip_lengths=(2, 5), frames_per_batch=11, view_ratio=0.3, stride=4, jitter=3, drop_last=True, window=6,
        min_confidence=0.2, min_coverage=0.4, verdicts=("pass",), subject_weights={"a": 2.0}, region_weights={"b": 3.0},
    )  # fmt: skip
    told = stream_config(given, 17)
    assert (told.seed, told.lengths) == (17, (2, 5))
    same = ("frames_per_batch", "view_ratio", "stride", "jitter", "drop_last", "window", "min_confidence")
    for name in (*same, "min_coverage", "verdicts", "subject_weights", "region_weights"):
        assert getattr(told, name) == getattr(given, name), name


def test_every_clip_of_a_run_has_its_own_seed() -> None:
    seeds = {clip_seed(*key) for key in np.ndindex(3, 3, 3, 3)}
    assert len(seeds) == 81
    assert max(seeds) < 2**63
    assert clip_seed(1, 2, 3, 4) == int(np.random.SeedSequence([1, 2, 3, 4]).generate_state(1, np.uint64)[0]) // 2


def test_images_are_normalised_as_those_of_imagenet() -> None:
    image = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5)).astype(np.uint8)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (image / 255 - mean[:, None, None]) / std[:, None, None]
    given = torch.from_numpy(image)
    for images in (given, given.float() / 255):
        found = normalise(images)
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(IMAGE_MEAN.ravel() * 255, [123.7, 116.3, 103.5], atol=0.05)
    assert IMAGE_STD.shape == (3, 1, 1)


def test_evaluation_clips_end_where_a_run_ends() -> None:
    runs = np.array([[0, 0]] * 5 + [[0, 1]] * 2 + [[1, 1]] * 4)
    assert [clip.tolist() for clip in evaluation_clips(runs, 3)] == [[0, 1, 2], [3, 4], [5, 6], [7, 8, 9], [10]]
