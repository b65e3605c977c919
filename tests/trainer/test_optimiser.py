"""Rates by depth, the moving average, and runs on several processes."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import types
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

from datagen.common.errors import DependencyError, InputError
from tests.support.places import ROOT
from tests.support.trainer_scene import build_scene
from trainer.config import FitConfig, load_config
from trainer.fit import fit
from trainer.model.joint import DepthUnit, JointModel
from trainer.optimiser import MovingAverage, make_optimiser, rate_share, set_rates
from trainer.run.checkpoint import read_checkpoint
from trainer.run.folder import BEST, HELD_OUT, LAST
from trainer.run.log import read_log

QUICK = ["fit.device=cpu", "fit.threads=1"]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scene") / "dataset.zarr"
    build_scene(root, subjects={"train": 4, "val": 1}, frames=4, cameras=4)
    return root


def test_rates_fall_towards_the_input_and_decoders_learn_fastest() -> None:
    config = FitConfig(steps=1, backbone_rate=0.5, layer_decay=0.8)
    shares = [
        rate_share(name, 4, config)
        for name in (
            "decoders.shared.fuse.weight",
            "backbone.norm.weight",
            "backbone.blocks.3.attention.weight",
            "backbone.blocks.0.attention.weight",
            "backbone.embeddings.patch.weight",
        )
    ]
    assert shares == pytest.approx([1, 0.5, 0.5, 0.5 * 0.8**3, 0.5 * 0.8**4])


def test_the_optimiser_holds_every_parameter_once_and_decays_matrices_only() -> None:
    config = load_config("tiny", ["fit.layer_decay=0.7", "fit.weight_decay=0.1"])
    model = JointModel(config, 28, DepthUnit("dataset", 0.8, 0.05, 2.0))
    optimiser = make_optimiser(model, config.fit)
    held = list(itertools.chain.from_iterable(group["params"] for group in optimiser.param_groups))
    assert len(held) == len({id(p) for p in held}) == len(list(model.parameters()))
    for group in optimiser.param_groups:
        assert group["weight_decay"] in (0, 0.1)
        if group["weight_decay"]:
            assert all(p.ndim >= 2 for p in group["params"])
    set_rates(optimiser, 2.0)
    assert {round(group["lr"], 9) for group in optimiser.param_groups} == {
        round(2 * 0.7**k, 9) for k in (0, 1, 2, 3, 4)
    }


def test_the_average_is_the_geometric_one_and_gives_the_weights_back() -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    average = MovingAverage(model, 0.5)
    expected = 1.0
    for n, value in enumerate((2.0, 4.0, 8.0), start=1):
        with torch.no_grad():
            model.weight.fill_(value)
        average.update(model)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
    with average.applied(model):
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 8
    with pytest.raises(ValueError, match="another model"):
        average.load_state_dict({"updates": 1, "average": {"other": torch.zeros(1)}})


def test_a_run_with_every_option_resumes_to_the_same_bits(scene: Path, tmp_path: Path) -> None:
    options = [
        *(*QUICK, "fit.steps=6", "fit.val_every=3", "fit.save_every=1", "fit.ema=0.9", "fit.accumulate=2"),
        *("fit.layer_decay=0.8", "augment.background=0.5", "augment.occlusion=0.5", "augment.crop=0.2"),
        *("augment.mirror=true", "heads.ray=true", "heads.camera=true", "loss.point=1", "loss.normal=1"),
        *("loss.consistency=1", "loss.depth_scale=clip", "data.stride=2", "data.jitter=1"),
    ]
    assert fit(scene, tmp_path / "straight", load_config("tiny", options)).finished
    hurried = load_config("tiny", [*options, "fit.max_minutes=1e-6", "data.workers=1"])
    while not fit(scene, tmp_path / "stopped", hurried).finished:
        pass
    for name in (LAST, BEST):
        one, other = (read_checkpoint(tmp_path / folder / name) for folder in ("straight", "stopped"))
        assert all(torch.equal(value, other["model"][key]) for key, value in one["model"].items())
    last = read_checkpoint(tmp_path / "straight" / LAST)
    best = read_checkpoint(tmp_path / "straight" / BEST)
    if best["step"] == last["step"]:
        assert any(not torch.equal(value, last["model"][key]) for key, value in best["model"].items())
    terms = {"ray", "ray_gradient", "camera", "point", "normal", "consistency", "scale"}
    assert terms <= read_log(tmp_path / "straight")[-2].keys() | read_log(tmp_path / "straight")[-1].keys()


TORCHRUN = ["torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--standalone", "-m", "trainer.cli"]
FORKED = ["tests.support.two_ranks"]


@pytest.mark.parametrize(("sharding", "start"), [("none", FORKED), ("full", TORCHRUN)], ids=["none", "full"])
def test_two_processes_share_a_run_that_one_can_finish(
    scene: Path, tmp_path: Path, sharding: str, start: list[str]
) -> None:
    settings = [*QUICK, "fit.steps=4", "fit.val_every=1", f"fit.sharding={sharding}", "data.drop_last=true"]
    run = tmp_path / "run"
    call = [sys.executable, "-m", *start, "fit", str(scene), "--out", str(run), "--config", "tiny"]
    # A preview is predicted by all: with shards, each waits for the others' parts of the model.
    for setting in (*settings, "fit.max_minutes=1e-6", "fit.preview=true"):
        call += ["--set", setting]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(call, cwd=ROOT, env=alone, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert (run / HELD_OUT).is_file()
    assert ended.stderr.count("stopped by fit.max_minutes") == 1
    state = fit(scene, run, load_config("tiny", settings))
    assert state.finished
    assert [record["step"] for record in read_log(run) if record["kind"] == "val"] == [1, 2, 3, 4]
    assert all(value.isfinite().all() for value in read_checkpoint(run / LAST)["model"].values())


def test_a_clip_for_each_process_is_asked_for(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.distributed import Team
    from trainer.run import loop as module

    pair = Team(0, 2, torch.device("cpu"))
    monkeypatch.setattr(module, "team", lambda _device: nullcontext(pair))
    with pytest.raises(InputError, match=r"drop_last=true"):
        fit(scene, tmp_path / "run", load_config("tiny", QUICK))
    config = load_config("tiny", [*QUICK, "data.clip_lengths=[4]", "data.drop_last=true"])
    with pytest.raises(InputError, match=r"1 clips for 2 processes.*frames_per_batch to 8"):
        fit(scene, tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


def test_weights_and_biases_gets_the_same_metrics_where_it_is_asked_for(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Recorder:
        """What ``wandb.init`` gives: it keeps what it is told."""

        def __init__(self) -> None:
            self.logged: list[tuple[int, dict[str, float]]] = []
            self.finished = False

        def log(self, metrics: dict[str, float], step: int) -> None:
            self.logged.append((step, metrics))

        def finish(self) -> None:
            self.finished = True

    recorder, package = Recorder(), types.ModuleType("wandb")
    package.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    package.init = lambda **_settings: recorder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", package)
    fit(scene, tmp_path / "run", load_config("tiny", [*QUICK, "fit.steps=2", "fit.val_every=1", "fit.wandb=faces"]))
    assert recorder.finished
    local = [(r["step"], r["canonical_mean_mm"]) for r in read_log(tmp_path / "run") if r["kind"] == "val"]
    remote = [(step, f["val/canonical_mean_mm"]) for step, f in recorder.logged if "val/canonical_mean_mm" in f]
    assert local == remote
    assert len(local) == 2


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_missing_weights_and_biases_explains_itself(scene: Path, tmp_path: Path) -> None:
    with pytest.raises(DependencyError, match="pip install wandb"):
        fit(scene, tmp_path / "run", load_config("tiny", [*QUICK, "fit.wandb=faces"]))


def test_steps_are_traced_on_request(scene: Path, tmp_path: Path) -> None:
    fit(scene, tmp_path / "run", load_config("tiny", [*QUICK, "fit.steps=7", "fit.profile_steps=1"]))
    events = json.loads((tmp_path / "run" / "trace.json").read_text())["traceEvents"]
    assert any("backward" in str(event.get("name", "")).lower() for event in events)
