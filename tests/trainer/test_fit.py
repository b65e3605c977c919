"""Fitting: learning, exact resumption, signals, guards, checkpoints, and the command line end to end."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image

from datagen.common.errors import CheckpointError, InputError
from tests.support.trainer_scene import build_scene
from trainer.cli import main
from trainer.config import load_config
from trainer.evaluate import evaluate
from trainer.fit import fit
from trainer.optimiser import learning_rate
from trainer.run.checkpoint import read_checkpoint, read_last
from trainer.run.folder import BEST, LAST, read_state
from trainer.run.log import read_log

TRAINER = [sys.executable, "-m", "trainer.cli"]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
TIMED = ("frames_per_second", "stall_share")
QUICK = ["fit.device=cpu", "fit.threads=1"]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scene") / "dataset.zarr"
    build_scene(root, subjects={"train": 8, "val": 1}, frames=4, cameras=4)
    return root


@pytest.fixture(scope="module")
def run(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run long enough to have learnt something."""
    folder = tmp_path_factory.mktemp("runs") / "learnt"
    changes = ["fit.steps=120", "fit.learning_rate=4e-3", "fit.warmup_steps=15", "fit.val_every=60"]
    state = fit(scene, folder, load_config("tiny", [*QUICK, *changes, "data.frames_per_batch=8"]))
    assert state.finished
    return folder


@dataclass(frozen=True)
class Result:
    code: int
    stdout: str
    stderr: str


Command = Callable[..., Result]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line within this process: it spares seconds of imports."""

    def call(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["trainer", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out = capsys.readouterr()
        return Result(int(ended.value.code or 0), out.out, out.err)

    return call


def test_learns_to_beat_the_mean_map_on_a_new_subject(run: Path, scene: Path, tmp_path: Path) -> None:
    result = evaluate(run, scene, "val", report=tmp_path / "report", device_name="cpu", speed_seconds=0)
    figures = result.metrics
    assert result.samples == 16
    assert figures["canonical_mean_mm"] < 0.6 * figures["mean_map_canonical_mean_mm"]
    # At 28 pixels little depth is left to see beyond the average ellipsoid; the overfitting test is about depth.
    assert figures["depth_aligned_mean_mm"] < figures["mean_map_depth_aligned_mean_mm"]
    for name in ("contact_sheet.png", "learning_curve.png"):
        with Image.open(tmp_path / "report" / name) as picture:
            assert min(picture.size) > 200
    kinds = [record["kind"] for record in read_log(run)]
    assert kinds.count("val") == 2
    assert kinds.count("train") == 12


def test_a_stopped_run_ends_in_the_same_bits(scene: Path, tmp_path: Path) -> None:
    straight = load_config("tiny", [*QUICK, "fit.steps=9", "fit.val_every=4", "fit.save_every=2"])
    assert fit(scene, tmp_path / "straight", straight).finished
    # max_minutes this short stops after each step; every call does one more.
    hurried = load_config(
        "tiny", [*QUICK, "fit.steps=9", "fit.val_every=4", "fit.save_every=2", "fit.max_minutes=1e-6"]
    )
    steps, spent, taken = [], [], 0.0
    while not steps or steps[-1] < 9:
        started = time.monotonic()
        state = fit(scene, tmp_path / "stopped", hurried if len(steps) < 4 else straight)
        taken += time.monotonic() - started
        steps.append(state.step)
        spent.append(state.seconds)
        assert read_state(tmp_path / "stopped") == state
    assert steps == [1, 2, 3, 4, 9]
    # The time of every call counts, up to its last write.
    assert spent == sorted(set(spent))
    assert 0.5 * taken < spent[-1] < taken
    assert read_last(tmp_path / "stopped")[0] == state
    for name in (LAST, BEST):
        one, other = (read_checkpoint(tmp_path / folder / name) for folder in ("straight", "stopped"))
        assert one["step"] == other["step"]
        for key, value in one["model"].items():
            assert torch.equal(value, other["model"][key]), (name, key)
    for a, b in zip(read_log(tmp_path / "straight"), read_log(tmp_path / "stopped"), strict=True):
        assert {k: v for k, v in a.items() if k not in TIMED} == {k: v for k, v in b.items() if k not in TIMED}


def test_killed_and_stopped_processes_resume_to_the_same_bits(scene: Path, tmp_path: Path, command: Command) -> None:
    changes = [*QUICK, "fit.steps=40", "fit.save_every=3", "fit.val_every=20"]
    fit(scene, tmp_path / "straight", load_config("tiny", changes))
    arguments = ["fit", scene, "--out", tmp_path / "killed", "--config", "tiny"]
    for change in changes:
        arguments += ["--set", change]
    for number in (signal.SIGKILL, signal.SIGTERM):
        begun = read_state(tmp_path / "killed")
        first = begun.step if begun is not None else 0
        process = subprocess.Popen([*TRAINER, *map(str, arguments)], env=ONE_THREAD, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            state = read_state(tmp_path / "killed")
            if state is not None and state.step > first + 2:
                break
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(30) == (-signal.SIGKILL if number == signal.SIGKILL else 0)
        stopped = read_state(tmp_path / "killed")
        assert stopped is not None
        assert first < stopped.step < 40
    resumed = command(*arguments, "--json")
    assert resumed.code == 0, resumed.stderr
    assert json.loads(resumed.stdout)["finished"]
    one, other = (read_checkpoint(tmp_path / folder / LAST)["model"] for folder in ("straight", "killed"))
    assert all(torch.equal(value, other[key]) for key, value in one.items())

    started = time.monotonic()
    again = subprocess.run([*TRAINER, *map(str, arguments)], env=ONE_THREAD, capture_output=True, text=True, check=True)
    assert "is finished: 40 steps" in again.stdout
    assert time.monotonic() - started < 10  # about one second on an idle machine: torch is not imported

    changed = command(*arguments, "--set", "fit.learning_rate=1")
    assert changed.code == 2
    assert "fit.learning_rate (0.001 → 1.0). Expected" in changed.stderr


def test_undefined_loss_names_the_samples(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.data import Loaded, TrainingLoader

    read = TrainingLoader.__iter__

    def damaged(self: TrainingLoader) -> Iterator[Loaded]:
        for loaded in read(self):
            loaded.batch["image"][loaded.batch["index"] == 5] = torch.nan
            yield loaded

    monkeypatch.setattr(TrainingLoader, "__iter__", damaged)
    with pytest.raises(InputError, match=r"not finite.* #5 \(s00/turn/000001/cam1\)"):
        fit(scene, tmp_path / "run", load_config("tiny", [*QUICK, "fit.steps=100"]))
    weights = read_checkpoint(tmp_path / "run" / LAST)["model"]
    assert all(value.isfinite().all() for value in weights.values())


def test_learning_rate_warms_up_and_follows_a_cosine() -> None:
    config = load_config("tiny", ["fit.steps=110", "fit.warmup_steps=10", "fit.learning_rate=1", "fit.final_rate=0.1"])
    rates = [learning_rate(step, config.fit) for step in range(111)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.55)
    assert rates[110] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


@pytest.mark.parametrize("damage", ["missing", "truncated", "text", "version", "weights", "foreign"])
def test_unusable_checkpoints_say_so(run: Path, scene: Path, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "model.pt"
    content = read_checkpoint(run / BEST)
    messages = {
        "missing": "does not exist",
        "truncated": "cannot be read",
        "text": "cannot be read",
        "version": "is of version 99",
        "weights": "does not fit",
        "foreign": "is not a canonface checkpoint",
    }
    if damage == "truncated":
        path.write_bytes((run / BEST).read_bytes()[:-5000])
    elif damage == "text":
        path.write_text("weights")
    elif damage == "version":
        torch.save({**content, "format_version": 99}, path)
    elif damage == "weights":
        content["model"].pop(next(iter(content["model"])))
        torch.save(content, path)
    elif damage == "foreign":
        torch.save({"state_dict": {}}, path)
    with pytest.raises(CheckpointError, match=messages[damage]):
        evaluate(path, scene, device_name="cpu")


def test_another_canonical_space_is_refused(run: Path, scene: Path, tmp_path: Path) -> None:
    content = read_checkpoint(run / BEST)
    content["dataset"]["space"]["half_extent"] = 0.2
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="another canonical space: half_extent"):
        evaluate(tmp_path / "model.pt", scene, device_name="cpu")


def test_evaluate_command(run: Path, scene: Path, command: Command) -> None:
    result = command("evaluate", run, scene, "--split", "val", "--json", "--frames", 1)
    assert result.code == 0, result.stderr
    figures = json.loads(result.stdout)["figures"]
    assert {"canonical_median_mm", "depth_aligned_mean_mm", "mean_map_canonical_p95_mm"} <= figures.keys()
    empty = command("evaluate", run, scene, "--split", "test")
    assert empty.code == 2
    assert empty.stderr.splitlines()[-1].startswith("error: split 'test'")
    assert "Traceback" not in empty.stderr


def test_a_command_that_is_told_to_stop_cleans_up(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned = []

    def stopped(*_: object, **__: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            cleaned.append(True)

    monkeypatch.setattr("trainer.weights.convert.convert_weights", stopped)
    result = command("convert", tmp_path, "--out", tmp_path / "model.pt")
    assert (result.code, cleaned) == (130, [True])
    assert result.stderr.startswith("interrupted")


def test_importing_the_trainer_loads_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "open3d", "prefect", "dask", "smplx", "matplotlib")
    code = f"import sys, trainer.cli; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["fit", "evaluate", "predict"])
def test_help_has_an_example(command: Command, name: str) -> None:
    result = command(name, "--help")
    assert result.code == 0
    assert f"trainer {name}" in result.stdout.split("Example:")[1]
