"""Predictions on disk: our own give the figures of the model, others' layouts are read, nothing is taken silently."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.testing
from PIL import Image

import trainer.cli
from datagen.common.errors import InputError
from datagen.shards import Dataset, open_dataset
from tests.support.trainer_scene import build_scene
from trainer.evaluate import evaluate, evaluate_predictions
from trainer.evaluation.frames import EvaluationOptions
from trainer.evaluation.predicted import fit, write_pictures
from trainer.inference import split_clips
from trainer.predict import PredictOptions, predict
from trainer.prediction.frames import sample_names

OPTIONS = EvaluationOptions(frames=1, queries=60, region_queries=6, geometry_views=2, instants=2, subject_pairs=2)
PLAIN = ("maps", "ply", "videos", "viewer")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build_scene(tmp_path_factory.mktemp("scene") / "dataset.zarr", subjects={"train": 1, "val": 2}, frames=3)


@pytest.fixture(scope="module")
def predicted(scene: Dataset, learnt_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `trainer predict` wrote of every clip, frame by frame."""
    folder = tmp_path_factory.mktemp("predicted")
    for number, clip in enumerate(split_clips(scene["val"], 1)):
        options = PredictOptions(frames=1, split="val", index=int(clip[0]), without=PLAIN)
        predict(learnt_model, scene.path, folder / f"clip{number:02d}", options, device_name="cpu")
    return folder


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    for name, value in one.items():
        if name.startswith(("speed", "memory")):
            continue
        both_missing = isinstance(value, float) and math.isnan(value) and math.isnan(other[name])
        assert both_missing or other[name] == value, name


def test_our_own_predictions_give_the_figures_of_the_model(
    scene: Dataset, learnt_model: Path, predicted: Path, tmp_path: Path
) -> None:
    model = evaluate(learnt_model, scene.path, options=OPTIONS, device_name="cpu", speed_seconds=0)
    stored = evaluate_predictions(predicted, scene.path, options=OPTIONS, report=tmp_path / "report")
    assert model.samples == stored.samples == 12
    assert {name for name in model.metrics if not name.startswith("speed")} == set(stored.metrics)
    same(model.metrics, stored.metrics)
    assert stored.step is None
    assert json.loads((tmp_path / "report" / "evaluation.json").read_text())["samples"] == 12


def as_arrays(scene: Dataset) -> tuple[list[str], dict[str, np.ndarray]]:
    """The truth of the split as predictions."""
    split = scene["val"]
    maps = split.read(("depth", "canonical"), list(range(len(split))))
    return sample_names(split, range(len(split))), maps


def write(folder: Path, **arrays: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "raw_predictions.npz", **arrays)
    return folder


def enlarged(maps: np.ndarray, factor: int = 3) -> np.ndarray:
    return maps.repeat(factor, -1).repeat(factor, -2)


def test_another_space_is_matched_and_tracked_but_not_measured(scene: Dataset, tmp_path: Path) -> None:
    names, maps = as_arrays(scene)
    turned = maps["canonical"][:, [2, 0, 1]] * np.float32(0.3) + np.float32(7)
    arrays = {
        "depth": enlarged(2 * maps["depth"]),
        "canonical": enlarged(turned).transpose(0, 2, 3, 1),
        "conf": enlarged(1 + maps["depth"]),
        "valid": enlarged(maps["depth"] > 0),
        "intrinsics": np.zeros((len(names), 3, 3)),
    }
    write(tmp_path / "fa", **arrays)
    (tmp_path / "fa" / "names.txt").write_text("".join(f"images/{name}.jpg\n" for name in names))
    with pytest.raises(InputError, match="--own-space"):
        evaluate_predictions(tmp_path, scene.path, options=OPTIONS)
    found = evaluate_predictions(tmp_path, scene.path, options=OPTIONS, own_space=True).metrics
    assert found["correspondence_median_px"] < 0.05
    assert found["ssme_face_px"] < 0.1
    assert found["depth_aligned_mean_mm"] < 0.5
    assert found["depth_mean_mm"] > 500
    assert found["surface_iou"] == 1
    assert "depth_confidence_aurc_mm" in found
    left = [name for name in found if name.startswith("canonical")]
    assert left == []
    with pytest.raises(InputError, match="--report"):
        evaluate_predictions(tmp_path, scene.path, own_space=True, report=tmp_path / "report")


def test_depth_alone_has_the_figures_of_depth(scene: Dataset, tmp_path: Path) -> None:
    names, maps = as_arrays(scene)
    clip = tmp_path / "da3" / "one"
    place = clip / "exports" / "mini_npz"
    place.mkdir(parents=True)
    np.savez(place / "results.npz", depth=maps["depth"], extrinsics=np.zeros((12, 3, 4)), conf=maps["depth"] * 0)
    with pytest.raises(InputError, match="does not name its frames"):
        evaluate_predictions(tmp_path / "da3", scene.path, options=OPTIONS)
    (clip / "names.txt").write_text("\n".join(names))
    found = evaluate_predictions(tmp_path / "da3", scene.path, options=OPTIONS).metrics
    assert found["depth_mean_mm"] < 0.2
    assert found["posed_head_correspondence_median_px"] < 0.1
    assert not {"correspondence_median_px", "canonical_median_mm", "ssme_face_px"} & set(found)
    with pytest.raises(InputError, match="--own-space"):
        evaluate_predictions(tmp_path / "da3", scene.path, own_space=True)


def test_what_is_missing_or_of_nobody_is_said(
    scene: Dataset, predicted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = tmp_path / "part"
    for name in ("clip00", "clip01", "clip02"):
        shutil.copytree(predicted / name, part / name)
    found = evaluate_predictions(part, scene.path, options=OPTIONS)
    assert found.samples == 3
    assert "9 of 12 samples of val have no prediction" in capsys.readouterr().err
    names, maps = as_arrays(scene)
    extent = np.array(scene.half_extent_m)
    write(tmp_path / "some", **maps, names=np.array([*names[:11], "someone"]), half_extent_m=extent, oddity=np.ones(2))
    assert evaluate_predictions(tmp_path / "some", scene.path, options=OPTIONS).samples == 11
    said = capsys.readouterr().err
    assert "1 predictions are of no sample of val: someone" in said
    assert "not used: oddity" in said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"names": np.array(["a"] * 12)}, "no prediction of a sample"),
        ({"names": None}, "does not name its frames"),
        ({"half_extent_m": np.array(0.2)}, "half_extent differ"),
        ({"canonical": None}, "no array 'canonical'"),
        ({"depth": np.zeros((11, 28, 28), np.float32)}, r"\(12, H, W\)"),
        ({"canonical": np.zeros((12, 3, 27, 28), np.float32)}, "as depth"),
        ({"surface": np.zeros((12, 9, 9), np.float32)}, "as depth"),
        ({"image_region": np.tile([3.0, 0, 28, 28], (12, 1))}, "a part of the pictures"),
    ],
)
def test_what_does_not_fit_is_refused(scene: Dataset, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    names, maps = as_arrays(scene)
    arrays = {**maps, "names": np.array(names), "half_extent_m": np.array(scene.half_extent_m), **changes}
    write(tmp_path / "it", **{name: value for name, value in arrays.items() if value is not None})
    with pytest.raises(InputError, match=words):
        evaluate_predictions(tmp_path, scene.path, options=OPTIONS)


def test_folders_that_hold_something_else_are_refused(scene: Dataset, predicted: Path, tmp_path: Path) -> None:
    for folder, words in ((tmp_path / "nowhere", "not a folder"), (tmp_path, "holds no raw_predictions")):
        with pytest.raises(InputError, match=words):
            evaluate_predictions(folder, scene.path)
    shutil.copytree(predicted / "clip00", tmp_path / "a")
    shutil.copytree(predicted / "clip00", tmp_path / "b")
    with pytest.raises(InputError, match="predicted twice"):
        evaluate_predictions(tmp_path, scene.path)
    (tmp_path / "b" / "raw_predictions.npz").write_bytes(b"PK damaged")
    with pytest.raises(InputError, match="cannot be read"):
        evaluate_predictions(tmp_path, scene.path)
    shutil.rmtree(tmp_path / "b")
    marker = tmp_path / "a" / "prediction.json"
    content = json.loads(marker.read_text())
    marker.write_text(json.dumps({**content, "space": {**content["space"], "head": "other"}}))
    with pytest.raises(InputError, match="head differ"):
        evaluate_predictions(tmp_path, scene.path)


def test_pictures_come_with_the_names_that_predictions_are_matched_by(
    scene: Dataset, learnt_model: Path, tmp_path: Path
) -> None:
    assert write_pictures(scene, "val", tmp_path / "pictures") == 12
    folders = sorted((tmp_path / "pictures").glob("s0*"))
    assert len(folders) == 4
    names = (folders[1] / "names.txt").read_text().split()
    assert [f"{name}.png" for name in names] == sorted(path.name for path in folders[1].glob("*.png"))
    split = scene["val"]
    index = sample_names(split, range(12)).index(names[2])
    shown = np.asarray(Image.open(folders[1] / f"{names[2]}.png")).transpose(2, 0, 1)
    np.testing.assert_array_equal(shown, split.read(("image",), [index])["image"][0])
    # Predicted as pictures of anybody, they are the samples again.
    predict(learnt_model, folders[1], tmp_path / "out", PredictOptions(frames=1, without=PLAIN), device_name="cpu")
    assert evaluate_predictions(tmp_path / "out", scene.path, options=OPTIONS).samples == 3


def test_maps_of_another_size_are_read_between_pixels_but_not_across_edges() -> None:
    ramp = np.add.outer(np.arange(20.0), 2 * np.arange(20.0)).astype(np.float32) + 100
    whole = np.array([0, 0, 20, 20])
    found = fit(ramp, whole, 10, np.ones_like(ramp))
    centres = (np.arange(10) + 0.5) * 2 - 0.5
    np.testing.assert_allclose(found, np.add.outer(centres, 2 * centres) + 100, rtol=1e-6)
    np.testing.assert_array_equal(fit(ramp, whole, 20, ramp), ramp)
    step = np.where(np.arange(20) < 9, 1.0, 2.0) * np.ones((20, 1))
    assert set(np.unique(fit(step, whole, 10, step))) == {1.0, 2.0}
    padded = np.zeros((3, 24, 20))
    padded[:, 2:22] = ramp
    np.testing.assert_allclose(fit(padded, np.array([0, 2, 20, 22]), 10, np.ones((24, 20)))[1], found, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["DATASET"], "give CHECKPOINT, one or several, and DATASET"),
        (["a", "DATASET", "--predictions", "p"], "DATASET alone"),
        (["a", "DATASET", "--own-space"], "--own-space"),
        (["DATASET", "--predictions", "p", "--pictures", "q"], "write pictures first"),
    ],
)
def test_paths_that_do_not_go_with_the_options_are_refused(arguments: list[str], words: str) -> None:
    result = typer.testing.CliRunner().invoke(trainer.cli.app, ["evaluate", *arguments])
    assert result.exit_code == 2
    assert words in " ".join(result.output.replace("│", " ").split())


def test_the_command_measures_predictions_and_writes_pictures(scene: Dataset, predicted: Path, tmp_path: Path) -> None:
    runner = typer.testing.CliRunner()
    done = runner.invoke(trainer.cli.app, ["evaluate", str(scene.path), "--predictions", str(predicted), "--json"])
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["samples"] == 12
    assert answer["step"] is None
    done = runner.invoke(trainer.cli.app, ["evaluate", str(scene.path), "--pictures", str(tmp_path / "out"), "--json"])
    assert json.loads(done.stdout)["pictures"] == 12
    assert open_dataset(scene.path)["val"]
