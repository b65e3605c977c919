"""The parameter head from the dataset to files of parameters, by its commands; and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datagen.common.documents import read_json
from datagen.common.errors import CheckpointError, DatasetError, InputError
from datagen.shards import Dataset
from datagen.shards.faces import FrameRow
from tests.support import face_scene
from tests.support.face_scene import RESOLUTION, build_faces, template
from tests.support.trainer_scene import build_scene
from trainer.attributes.config import AttributesConfig
from trainer.attributes.data import skin_labels
from trainer.attributes.evaluate import evaluate_attributes
from trainer.attributes.fit import fit_attributes
from trainer.attributes.measure import measure_split
from trainer.attributes.predict import predict_attributes, tell
from trainer.attributes.store import read_head
from trainer.config import load_run_config
from trainer.prediction.boxed import PictureOptions
from trainer.run.checkpoint import read_checkpoint

SMALL = ("network.width=4", "network.channels=16", "network.finest=8", "network.grid=4", "network.hidden=48")
SMALL += (
    "network.image_size=32",
    "network.dropout=0",
    "fit.device=cpu",
    "fit.threads=1",
    "fit.val_samples=5",
    "points_steps=0",
)
CALM = ("augment.photometric=0", "augment.background=0", "augment.occlusion=0", "augment.rotation_deg=0")
CALM += ("augment.scale=0", "augment.shift=0", "augment.mirror=false", "augment.people=0", "augment.camera=0")
BOX = (20.0, 10.0, 64.0, 72.0)


def config(*changes: str, name: str = "tiny") -> AttributesConfig:
    return load_run_config(AttributesConfig, name, (*SMALL, *changes), prefix="attributes")


def told_by(person: str, frame: int) -> np.ndarray:
    """How wide a person is, and how they bend and lean."""
    return np.array([np.sin(ord(person[0]) * 3.0), np.cos(frame * 2.0), np.sin(frame * 5.0 + 1)])


def shape(person: str, frame: int, larger: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """A head that follows from its parameters."""
    values, vertices = told_by(person, frame), template().vertices.astype(np.float64)
    y = vertices[:, 1].copy()
    vertices[:, 0] *= 1 + 0.15 * values[0]
    vertices[:, 0] += 0.012 * values[1] * np.cos(20 * y) + 0.25 * values[2] * y
    return larger * vertices, face_scene.shape(person, frame)[1]


def build(root: Path, larger: float = 1.0) -> Dataset:
    """Write a dataset whose pictures and frame table show these heads."""
    pose = face_scene.shape

    def made(person: str, frame: int) -> tuple[np.ndarray, np.ndarray]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(face_scene, "shape", pose)
            return shape(person, frame, larger)

    def row(person: str, frame: int) -> FrameRow:
        values = told_by(person, frame).astype(np.float32)
        return replace(face_scene.face_row(person, frame), identity=values[:1], expression=values[1:])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(face_scene, "shape", made)
        return face_scene.build_faces(root, row=row)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build(tmp_path_factory.mktemp("faces") / "dataset.zarr")


@pytest.fixture(scope="module")
def run(faces: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Learnt by heart, so that something can be told of it."""
    folder = tmp_path_factory.mktemp("runs") / "attributes"
    changes = (
        "fit.steps=110",
        "fit.warmup_steps=5",
        "fit.learning_rate=6e-3",
        "fit.ema=0.9",
        "fit.val_every=110",
        *CALM,
    )
    assert fit_attributes(faces.path, folder, config(*changes)).finished
    return folder


@pytest.fixture
def picture(faces: Dataset, tmp_path: Path) -> Path:
    path = tmp_path / "000003.png"
    Image.fromarray(faces["train"].sample(0).image.transpose(1, 2, 0)).save(path)
    return path


def test_few_pictures_are_learnt_by_heart(run: Path, faces: Dataset) -> None:
    head = read_head(run / "last.pt", torch.device("cpu"))
    samples = np.arange(len(faces["train"]))
    found = measure_split(head.model, faces, "train", head.face, skin_labels(faces), samples)
    metrics = found.metrics(head.mean_places)
    assert metrics["nme_ratio_mean"] < 0.5
    assert metrics["vertices_ratio_mean"] < 0.8
    assert metrics["turn_degrees"] < 15
    # What is measured is what it says: the mean face's own error, and landmarks that always lie at their mean places.
    assert metrics["vertices_mm"] / metrics["mean_head_vertices_mm"] == pytest.approx(metrics["vertices_ratio_mean"])
    assert found.mean_nme(head.mean_places).mean() < found.mean_nme(head.mean_places + 0.1).mean()


def test_a_run_that_was_stopped_ends_in_the_same_bits(faces: Dataset, tmp_path: Path) -> None:
    settings = ("fit.steps=4", "fit.save_every=1", "fit.val_every=2", "network.albedo=0", "points_steps=2")
    assert fit_attributes(faces.path, tmp_path / "straight", config(*settings)).finished
    fit_attributes(faces.path, tmp_path / "stopped", config(*settings, "fit.max_minutes=1e-6"))
    assert fit_attributes(faces.path, tmp_path / "stopped", config(*settings)).finished
    for name in ("last.pt", "best.pt"):
        one, other = (read_checkpoint(tmp_path / folder / name) for folder in ("straight", "stopped"))
        assert all(torch.equal(value, other["model"][key]) for key, value in one["model"].items())
        assert one["temperatures"] == other["temperatures"]


def test_points_are_learnt_first_and_alone(faces: Dataset, tmp_path: Path) -> None:
    settings = ("fit.steps=40", "fit.warmup_steps=5", "fit.learning_rate=6e-3", "fit.val_every=40", "fit.ema=0", *CALM)
    fit_attributes(faces.path, tmp_path / "run", config(*settings, "points_steps=38"))
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    train = {row["step"]: row for row in log if row["kind"] == "train"}
    first, last = train[min(train)], train[40]
    assert "vertices" not in first
    assert last["vertices"] > 0
    assert last["points"] < 0.6 * first["points"]


def test_learning_from_landmarks_alone_begins_where_the_run_left_off(run: Path, tmp_path: Path) -> None:
    """Larger heads: their landmarks come nearer; the face model stays, and shapes that are held hardly move."""
    others = build(tmp_path / "others.zarr", larger=1.12)
    changes = (f"start={run}", "fit.steps=25", "fit.val_every=25", "fit.learning_rate=3e-3", "loss.anchor=1", *CALM)
    fit_attributes(others.path, tmp_path / "tuned", config(*changes, name="projection"))
    one, other = (read_head(folder, torch.device("cpu")) for folder in (run, tmp_path / "tuned"))
    for name, value in one.face.content().items():
        kept = other.face.content()[name]
        assert (value is None and kept is None) or torch.equal(value, kept)  # type: ignore[arg-type]
    samples = np.arange(len(others["train"]))
    before, after = (
        measure_split(h.model, others, "train", h.face, skin_labels(others), samples).metrics(h.mean_places)
        for h in (one, other)
    )
    assert after["nme_percent"] < 0.95 * before["nme_percent"]
    assert after["vertices_mm"] < 1.1 * before["vertices_mm"]
    assert other.mean_places.tolist() == one.mean_places.tolist()


def test_evaluation_says_what_was_measured(run: Path, faces: Dataset) -> None:
    result = evaluate_attributes(run, faces.path, "val", device_name="cpu")
    assert result.samples == 5
    assert result.text().splitlines()[0] == "5 pictures of val, step 110"
    assert evaluate_attributes(run, faces.path, "val", limit=2, device_name="cpu").samples == 2
    # The temperatures were measured on these very pictures.
    assert result.metrics["surprise_expression"] == pytest.approx(1, rel=1e-3)
    with pytest.raises(InputError, match="holds no samples"):
        evaluate_attributes(run, faces.path, "test")


def test_files_hold_one_head_that_agrees_with_itself(run: Path, picture: Path, tmp_path: Path) -> None:
    """Vertices before the camera, projected, are the landmarks; the face at rest is in the template's order."""
    out = tmp_path / "out"
    found = predict_attributes(run, [picture], out, PictureOptions(box=BOX), focal_px=150, device_name="cpu")
    assert found["pictures"] == 1
    told = np.load(out / "000003.npz")
    head = read_head(run, torch.device("cpu"))
    assert told["vertices_m"].shape == (len(template().vertices), 3)
    shown = told["vertices_m"] @ told["intrinsics"].T
    pixels = shown[:, :2] / shown[:, 2:]
    corners = pixels[template().faces[template().landmark_faces]]
    expected = np.einsum("lk,lki->li", template().landmark_weights, corners)
    np.testing.assert_allclose(told["landmarks_px"], expected, atol=0.2)
    assert told["intrinsics"][0].tolist() == [150, 0, RESOLUTION / 2]
    np.testing.assert_allclose(told["rotation"] @ told["rotation"].T, np.eye(3), atol=1e-5)
    assert (told["identity_sigma"] > 0).all()
    assert ((told["visible"] >= 0) & (told["visible"] <= 1)).all()
    person = np.load(out / "person.npz")
    assert person["neutral"].shape == (len(template().vertices), 3)
    assert person["neutral_error_m"].item() * 1000 == pytest.approx(found["neutral_error_mm"])
    np.testing.assert_allclose(person["identity"], told["identity"], rtol=1e-5)
    about = read_json(out / "prediction.json")
    assert about["names"] == {"identity": ["size"], "expression": ["bend", "lean"]}
    # Lenses unlike all that were learnt from tell no size: with twice as long a one the head is twice as far away.
    near, far = (tell(head, np.asarray(Image.open(picture)), BOX, focal_px=f).arrays for f in (3000, 6000))
    assert far["translation_m"][2] == pytest.approx(2 * near["translation_m"][2], rel=1e-3)


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (64, 64)])
def test_the_smallest_and_blackest_pictures_are_told_all_the_same(run: Path, shape: tuple[int, int]) -> None:
    head = read_head(run, torch.device("cpu"))
    found = tell(head, np.zeros((*shape, 3), np.uint8), None).arrays
    assert all(np.isfinite(value).all() for value in found.values())


def test_what_cannot_be_used_is_refused_by_name(run: Path, faces: Dataset, picture: Path, tmp_path: Path) -> None:
    for reason, options in (("outside", {"box": (200, 200, 300, 300)}), ("cannot be read", {"boxes": tmp_path / "no"})):
        with pytest.raises(InputError, match=reason):
            predict_attributes(run, [picture], tmp_path / "out", PictureOptions(**options))  # type: ignore[arg-type]
    same = picture.rename(picture.with_name("person.png"))
    with pytest.raises(InputError, match="that of the person"):
        predict_attributes(run, [same], tmp_path / "out", PictureOptions())
    assert not (tmp_path / "out").exists()
    other = config(f"start={run}", "network.hidden=32", "fit.steps=1", name="projection")
    with pytest.raises(InputError, match="same keys"):
        fit_attributes(faces.path, tmp_path / "run", other)
    build_scene(tmp_path / "plain.zarr")
    with pytest.raises(DatasetError, match="no frame table"):
        fit_attributes(tmp_path / "plain.zarr", tmp_path / "run", config("fit.steps=1"))
    bare = replace(template(), landmark_faces=np.zeros(0, np.int32), landmark_weights=np.zeros((0, 3), np.float32))
    build_faces(tmp_path / "bare.zarr", bare)
    with pytest.raises(DatasetError, match="no landmarks"):
        fit_attributes(tmp_path / "bare.zarr", tmp_path / "run", config("fit.steps=1"))
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").glob("*.pt"))


def test_other_checkpoints_are_refused(run: Path, faces: Dataset, picture: Path, tmp_path: Path) -> None:
    content = read_checkpoint(run)
    for changes, reason in (
        ({"task": "align"}, "not of a parameter head"),
        ({"temperatures": None}, "validation people"),
        ({"config": "{}"}, "does not fit"),
    ):
        torch.save(content | changes, tmp_path / "other.pt")
        with pytest.raises(CheckpointError, match=reason):
            predict_attributes(tmp_path / "other.pt", [picture], tmp_path / "out", PictureOptions())
    torch.save(content | {"dataset": content["dataset"] | {"template": "1" * 64}}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="template"):
        evaluate_attributes(tmp_path / "other.pt", faces.path, "val")
    assert not (tmp_path / "out").exists()
