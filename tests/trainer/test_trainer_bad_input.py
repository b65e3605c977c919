"""Hostile disks, configurations and checkpoints: a clear error each time, and the last good checkpoint intact."""

from __future__ import annotations

import json
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datagen.common.errors import CanonfaceError, CheckpointError, InputError, ManifestError, StorageError
from datagen.common.ownership import LISTING
from tests.support import trainer_scene
from tests.support.trainer_scene import build_scene, render
from trainer.cli import main
from trainer.config import TrainConfig, load_config
from trainer.evaluate import evaluate
from trainer.fit import fit
from trainer.run.checkpoint import read_checkpoint
from trainer.run.folder import BEST, CONFIG, LAST, LOG, STATE, locked_run_folder, read_state
from trainer.run.log import read_log
from trainer.weights.convert import convert_weights
from trainer.weights.export import export_model

QUICK = ["fit.device=cpu", "fit.threads=1", "fit.steps=4", "fit.save_every=1"]


def settings(*changes: str) -> TrainConfig:
    return load_config("tiny", [*QUICK, *changes])


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scene") / "dataset.zarr"
    build_scene(root)
    return root


@pytest.fixture(scope="module")
def begun(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is at step 2 of 4."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    for _ in range(2):
        fit(scene, folder, settings("fit.max_minutes=1e-6"))
    return folder


@pytest.fixture(scope="module")
def straight(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, never stopped."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    fit(scene, folder, settings())
    return folder


@pytest.fixture
def run(begun: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(begun, tmp_path / "run"))


def same_weights(one: Path, other: Path) -> bool:
    a, b = (read_checkpoint(path)["model"] for path in (one, other))
    return all(torch.equal(value, b[name]) for name, value in a.items())


def flip(path: Path, share: float) -> bytes:
    """Overwrite 64 bytes somewhere within a file; returns the whole."""
    content = bytearray(path.read_bytes())
    start = int(share * len(content))
    content[start : start + 64] = bytes(255 - byte for byte in content[start : start + 64])
    path.write_bytes(content)
    return bytes(content)


@pytest.mark.parametrize("damage", ["gone", "cut", "of other types"])
def test_a_run_resumes_from_its_last_checkpoint_whatever_became_of_its_state_file(
    damage: str, run: Path, scene: Path, straight: Path
) -> None:
    if damage == "gone":
        (run / STATE).unlink()
    else:
        texts = {"cut": "{", "of other types": (run / STATE).read_text().replace('"step": 2', '"step": "two"')}
        (run / STATE).write_text(texts[damage])
        with pytest.raises(CheckpointError, match=r"state\.json cannot be read.*Remove this file: last\.pt"):
            read_state(run)
        with pytest.raises(StorageError, match=r"state\.json: in the way"):
            fit(scene, run, settings())
        assert (run / STATE).read_text() == texts[damage]
        (run / STATE).unlink()
    assert fit(scene, run, settings()).finished
    assert same_weights(run / LAST, straight / LAST)
    state = read_state(run)
    assert state is not None
    assert state.finished


def test_last_checkpoints_that_cannot_be_resumed_from_are_left_alone(run: Path, scene: Path, tmp_path: Path) -> None:
    whole = (run / LAST).read_bytes()
    fit(scene, tmp_path / "other", settings("fit.learning_rate=0.01", "fit.max_minutes=1e-6"))
    best = (run / BEST).read_bytes()
    found = {
        b"": "cannot be read",
        whole[:1]: "cannot be read",
        whole[: len(whole) // 2]: "cannot be read",
        whole[:-1]: "cannot be read",
        best: r"last\.pt cannot be resumed from \(it lacks",
        (tmp_path / "other" / LAST).read_bytes(): r"another configuration: .*fit\.learning_rate",
    }
    before = sorted(path.name for path in run.iterdir())
    (run / CONFIG).write_text(load_config("tiny", [*QUICK, "fit.learning_rate=0.01"]).text())
    for content, message in found.items():
        (run / LAST).write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            fit(scene, run, settings())
        assert (run / LAST).read_bytes() == content
    (run / LAST).unlink()
    with pytest.raises(CheckpointError, match=r"state\.json and best\.pt, but no last\.pt"):
        fit(scene, run, settings())
    assert (run / BEST).read_bytes() == best
    assert sorted(path.name for path in run.iterdir()) == [name for name in before if name != LAST]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_damage_within_the_weights_is_found(share: float, run: Path, scene: Path, tmp_path: Path) -> None:
    content = flip(run / LAST, share)
    with pytest.raises(CheckpointError, match="is damaged"):
        fit(scene, run, settings())
    assert (run / LAST).read_bytes() == content
    flip(run / BEST, share)
    with pytest.raises(CheckpointError, match="is damaged"):
        evaluate(run, scene, device_name="cpu")


def test_a_full_disk_leaves_the_last_checkpoint(run: Path, scene: Path, straight: Path) -> None:
    before = {name: (run / name).read_bytes() for name in (LAST, BEST, STATE)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))  # no file may grow beyond 200 kB
    try:
        with pytest.raises(StorageError, match=r"writing .*last\.pt failed"):
            fit(scene, run, settings())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {name: (run / name).read_bytes() for name in before} == before
    assert [path.name for path in run.iterdir() if path.name.startswith(".")] == [LISTING]
    assert fit(scene, run, settings()).finished
    assert same_weights(run / LAST, straight / LAST)


def test_a_folder_takes_one_run_at_a_time(run: Path, scene: Path) -> None:
    before = (run / LAST).read_bytes()
    with locked_run_folder(run), pytest.raises(InputError, match="another process is fitting in"):
        fit(scene, run, settings())
    assert (run / LAST).read_bytes() == before


def test_what_a_killed_run_left_is_removed(run: Path, scene: Path) -> None:
    (run / f".{LAST}.tmp-123-0123abcd").write_bytes(b"half")
    mine = {".notes", ".vimrc.tmp-backup"}
    for name in mine:
        (run / name).write_text("mine")
    fit(scene, run, settings())
    assert {path.name for path in run.iterdir() if path.name.startswith(".")} == {LISTING, *mine}


def test_a_run_that_cannot_begin_leaves_no_folder(scene: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no clip of"):
        fit(scene, tmp_path / "new" / "run", settings("data.clip_lengths=[1000]"))
    with pytest.raises(InputError, match="multiples of 15"):
        fit(scene, tmp_path / "new" / "run", settings("backbone.patch=15"))
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(StorageError, match=r"a file is in the way|one of its parents is a file"):
            fit(scene, out, settings())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_log_is_read_whatever_it_holds_and_rewritten_only_if_it_is_the_run_s(run: Path, scene: Path) -> None:
    kept, whole = read_log(run), (run / LOG).read_bytes()
    for content in (b"\xff\xfe\n5\nnull\n{}\n" + whole, whole + b"my notes\n"):
        (run / LOG).write_bytes(content)
        assert read_log(run) == kept
        with pytest.raises(StorageError, match=r"log\.jsonl: in the way"):
            fit(scene, run, settings())
        assert (run / LOG).read_bytes() == content
    # What a killed run goes on with after its last save, the last line cut.
    (run / LOG).write_bytes(whole + b'{"kind": "train", "step": 3}\n{"kind": "tr')
    assert fit(scene, run, settings()).finished


@pytest.mark.parametrize(
    "change",
    [
        *("fit.learning_rate=.inf", "loss.depth=.inf", "fit.clip_norm=.inf", "data.subject_weights={s00: .nan}"),
        *("seed=18446744073709551616", "fit.threads=100000000000", "name=2026-13-45"),
        "decoder.reassemble=[8, 0, 8, 8]",
    ],
)
def test_values_that_no_run_can_use_are_refused(change: str) -> None:
    with pytest.raises(ManifestError, match=change.partition("=")[0].rpartition(".")[2]):
        settings(change)


@pytest.mark.parametrize("text", ["", "\0", "[1]", "name: 2026-13-45", "[" * 2000, "name: *nothing"])
def test_files_that_are_not_a_configuration_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ManifestError, match=r"mine\.yaml"):
        load_config(tmp_path / "mine.yaml")
    with pytest.raises(ManifestError, match="File name too long"):
        load_config("x" * 5000)


def spoil_weight(content: dict[str, Any]) -> None:
    content["model"][next(iter(content["model"]))].view(-1)[0] = torch.nan


def spoil(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (spoil_weight, "weights that are not finite"),
        (spoil("config", value="{"), "does not fit"),
        (spoil("dataset", value={"resolution": 28}), "lacks 'half_extent_m'"),
        (spoil("dataset", "half_extent_m", value=np.nan), "half_extent_m is nan"),
        (spoil("dataset", "space", value=None), "canonical space is None"),
        (spoil("dataset", "resolution", value=30), "multiples of 14"),
        (spoil("depth_unit", "unit", value=-1.0), r"depth unit is -1\.0"),
        (spoil("depth_unit", value=None), "does not fit"),
    ],
)
def test_checkpoints_with_impossible_content_are_refused_by_all(
    change: Callable[[dict[str, Any]], None], message: str, begun: Path, scene: Path, tmp_path: Path
) -> None:
    content = read_checkpoint(begun / BEST)
    change(content)
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=message):
        evaluate(tmp_path / "model.pt", scene, device_name="cpu")
    with pytest.raises(CheckpointError, match=message):
        export_model(tmp_path / "model.pt", tmp_path / "model.pt2", frames=1)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_nothing_is_written_over_what_it_is_made_from(run: Path, scene: Path, tmp_path: Path) -> None:
    before = {name: (run / name).read_bytes() for name in (LAST, BEST)}
    for out in (run / BEST, run / LAST):
        with pytest.raises(InputError, match="would overwrite what it is made from"):
            export_model(run, out, frames=1, overwrite=True)
    with pytest.raises(InputError, match="would overwrite what it is made from"):
        convert_weights(str(run), run / BEST, "tiny", size=28, overwrite=True)
    with pytest.raises(StorageError, match="belongs to what this program keeps"):
        export_model(run, run / CONFIG, frames=1, overwrite=True)
    (tmp_path / "mine.pt2").write_text("mine")
    with pytest.raises(StorageError, match="pass --overwrite"):
        export_model(run, tmp_path / "mine.pt2", frames=1)
    assert (tmp_path / "mine.pt2").read_text() == "mine"
    assert {name: (run / name).read_bytes() for name in before} == before
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("mine")
    with pytest.raises(StorageError, match=r"index\.html: in the way"):
        evaluate(run, scene, report=tmp_path / "site", device_name="cpu")
    with pytest.raises(InputError, match="is a file"):
        evaluate(run, scene, report=run / LOG / "report", device_name="cpu")
    assert (tmp_path / "site" / "index.html").read_text() == "mine"


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The command line within this process, which must end in one clean message."""

    def call(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["trainer", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == CanonfaceError.exit_code
        return capsys.readouterr().err

    return call


def test_what_the_system_refuses_is_one_message(begun: Path, tmp_path: Path, words: Callable[..., str]) -> None:
    long = "x" * 5000
    assert "File name too long" in words("predict", begun, long, "--out", tmp_path / "out")
    assert "File name too long" in words("export", long, "--out", tmp_path / "out.pt2")
    assert "/dev/zero is a pipe or a device" in words("predict", begun, "/dev/zero", "--out", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def blank_render(subjects: set[int]) -> Callable[..., dict[str, np.ndarray]]:
    """The scene's renderer, with nothing valid on some subjects."""

    def blank(subject: int, *rest: Any) -> dict[str, np.ndarray]:
        maps = render(subject, *rest)
        invalid = ("depth", "canonical", "normal", "confidence", "region")
        gone = invalid if subject in subjects else ()
        return {name: np.zeros_like(value) if name in gone else value for name, value in maps.items()}

    return blank


def test_a_training_set_without_a_valid_pixel_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_scene, "render", blank_render({0, 1}))
    build_scene(tmp_path / "dataset.zarr", frames=2, cameras=1)
    with pytest.raises(InputError, match="no surface with canonical coordinates in 4 training samples"):
        fit(tmp_path / "dataset.zarr", tmp_path / "run", settings())
    assert not (tmp_path / "run").exists()


def test_held_out_samples_without_a_valid_pixel_leave_the_last_weights_and_nulls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_scene, "render", blank_render({2}))
    build_scene(tmp_path / "dataset.zarr", frames=2, cameras=1)
    state = fit(tmp_path / "dataset.zarr", tmp_path / "run", settings())
    assert (state.best_step, state.best_metrics) == (4, {})
    assert same_weights(tmp_path / "run" / BEST, tmp_path / "run" / LAST)
    text = (tmp_path / "run" / LOG).read_text()
    assert not [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines() if "NaN" in line]
    assert [r["canonical_mean_mm"] for r in read_log(tmp_path / "run") if r["kind"] == "val"] == [None]


def test_one_sample_is_enough(tmp_path: Path) -> None:
    build_scene(tmp_path / "dataset.zarr", subjects={"train": 1}, frames=1, cameras=1)
    assert fit(tmp_path / "dataset.zarr", tmp_path / "run", settings("fit.steps=1")).best_step == 1
