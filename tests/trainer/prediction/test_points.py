"""Vertices found in canonical maps, held against where the cameras see them; and the command that writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from datagen.common.errors import CheckpointError, DatasetError, InputError, StorageError
from datagen.common.seen_points import read_seen_points
from datagen.shards import Dataset
from tests.support.face_scene import HALF_EXTENT_M, RESOLUTION, build_faces, rig, shape, template
from tests.support.trainer_scene import build_scene
from trainer.config import load_config
from trainer.inference import Maps
from trainer.model.joint import DepthUnit, JointModel
from trainer.points import SOURCE, points_in_picture, points_model, predict_points
from trainer.prediction.boxed import PictureOptions
from trainer.prediction.points import CanonicalVertices, canonical_vertices, find_vertices
from trainer.run.checkpoint import model_content, save_checkpoint

FOCAL = 2.4
ARRAYS = ("image", "depth", "canonical", "confidence")


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build_faces(tmp_path_factory.mktemp("faces") / "dataset.zarr")


@pytest.fixture(scope="module")
def wanted(faces: Dataset) -> CanonicalVertices:
    return canonical_vertices(faces)


@pytest.fixture(scope="module")
def untrained(faces: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that fits the dataset."""
    torch.manual_seed(0)
    config = load_config("tiny")
    model = JointModel(config, RESOLUTION, DepthUnit("dataset", 0.8, 0.04, FOCAL))
    path = tmp_path_factory.mktemp("models") / "best.pt"
    about = {"uuid": "", "resolution": RESOLUTION, "half_extent_m": HALF_EXTENT_M, "space": faces.attrs["space"]}
    save_checkpoint(path, model_content(model, config, about))
    return path


def smooth_noise(seed: int, count: int, size_mm: float) -> np.ndarray:
    """Errors of coordinates that neighbours share, (count, 3, H, W), normalised."""
    drawn = np.random.default_rng(seed).normal(size=(count, 3, RESOLUTION, RESOLUTION))
    smooth = gaussian_filter(drawn, (0, 0, 8, 8))
    return smooth / smooth.std() * size_mm / 1000 / HALF_EXTENT_M


def a_model_that_knows(faces: Dataset, split: str, noise: np.ndarray) -> Callable[..., Maps]:
    """Predict true maps with errors, of every second picture four times as large, and said to be unsure."""
    stored = faces[split].read(ARRAYS, slice(None))
    known = {image.tobytes(): k for k, image in enumerate(stored["image"])}

    def predict(model: object, images: np.ndarray, intrinsics: np.ndarray) -> Maps:
        if images.tobytes() not in known:
            nothing = np.zeros((1, *images.shape[-2:]), np.float32)
            return Maps(nothing, np.zeros(images.shape, np.float32), nothing, nothing, nothing)
        at = np.array([known[image.tobytes()] for image in images])
        factor = np.where(at % 2, 4.0, 1.0)[:, None, None, None]
        sure = np.broadcast_to(10 / factor[:, 0], stored["depth"][at].shape).astype(np.float32)
        surface = (stored["depth"][at] > 0).astype(np.float32)
        return Maps(
            stored["depth"][at],
            (stored["canonical"][at] + factor * noise[at]).astype(np.float32),
            sure,
            sure,
            surface,
        )

    return predict


@pytest.fixture
def knowing(faces: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    predict = a_model_that_knows(faces, "val", smooth_noise(3, len(faces["val"]), 0.8))
    monkeypatch.setattr("trainer.points.predict_maps", predict)
    monkeypatch.setattr("trainer.prediction.points_error.predict_maps", predict)


def places(faces: Dataset, k: int, wanted: CanonicalVertices) -> np.ndarray:
    """Where the camera of a sample of `val` sees the vertices that are looked for."""
    sample = faces["val"].sample(k)
    vertices, pose = shape(sample.subject, sample.frame)
    camera = next(c for c in rig(sample.frame) if c.name == sample.camera)
    pixels, _ = camera.project(vertices[wanted.vertices.numpy()] @ pose[:3, :3].T + pose[:3, 3])
    return pixels


def test_true_maps_show_where_vertices_are(faces: Dataset, wanted: CanonicalVertices) -> None:
    perfect = a_model_that_knows(faces, "val", np.zeros((len(faces["val"]), 1, 1, 1)))
    for k in range(len(faces["val"])):
        stored = faces["val"].read(("image",), np.array([k]))
        found = find_vertices(perfect(None, stored["image"], np.eye(3)[None]).frames()[0], wanted)
        off = np.linalg.norm(found.pixels - places(faces, k, wanted)[found.which], axis=1)
        # Half of the ellipsoid is turned away, and its rim is not looked at.
        assert 0.2 * len(wanted.vertices) < len(found.which) < 0.55 * len(wanted.vertices)
        assert np.median(off) < 0.05
        assert np.quantile(off, 0.98) < 0.5


def test_covariance_is_that_of_an_error_of_the_coordinate(faces: Dataset, wanted: CanonicalVertices) -> None:
    """Against differences: a coordinate that is off along an axis moves the point by a column of (JᵀJ)⁻¹ Jᵀ."""
    stored = faces["val"].read(ARRAYS, np.array([0]))
    maps = Maps(*(stored[name] for name in ("depth", "canonical", "confidence", "confidence")), stored["depth"])
    maps = Maps(maps.depth_m, np.where(stored["depth"][:, None] > 0, maps.canonical, np.nan), *maps_rest(maps))
    at_rest = find_vertices(maps.frames()[0], wanted)
    moved = []
    for axis in range(3):
        shifted = maps.canonical.copy()
        shifted[:, axis] += 1e-4 / HALF_EXTENT_M
        found = find_vertices(Maps(maps.depth_m, shifted, *maps_rest(maps)).frames()[0], wanted)
        both, one, other = np.intersect1d(at_rest.which, found.which, return_indices=True)
        step = np.full((len(wanted.vertices), 2), np.nan)
        step[both] = (found.pixels[other] - at_rest.pixels[one]) / 1e-4
        moved.append(step[at_rest.which])
    gain = np.stack(moved, -1)  # (n, 2, 3)
    expected = gain @ gain.transpose(0, 2, 1)
    ratio = np.trace(at_rest.per_m, axis1=1, axis2=2) / np.trace(expected, axis1=1, axis2=2)
    assert np.nanmedian(ratio) == pytest.approx(1, abs=0.03)
    assert np.nanmean(np.abs(ratio - 1) < 0.2) > 0.9


def maps_rest(maps: Maps) -> tuple[np.ndarray, np.ndarray]:
    return maps.depth_confidence, maps.canonical_confidence


def test_what_shows_no_head_shows_no_vertices(wanted: CanonicalVertices) -> None:
    flat = np.zeros((RESOLUTION, RESOLUTION), np.float32)
    for canonical in (np.zeros((3, *flat.shape), np.float32), np.full((3, *flat.shape), np.nan, np.float32)):
        assert len(find_vertices(Maps(flat, canonical, flat, flat), wanted).which) == 0
        assert len(find_vertices(Maps(flat, canonical, flat, flat, flat), wanted).which) == 0


@pytest.mark.usefixtures("knowing")
def test_errors_are_told_by_confidence_and_are_as_large_as_they_are(faces: Dataset, untrained: Path) -> None:
    ready = points_model(untrained, faces.path, "cpu")
    sure, unsure = (np.interp(c, ready.error.confidence, ready.error.error_m) for c in (10.0, 2.5))
    assert unsure / sure == pytest.approx(4, rel=0.35)
    assert sure == pytest.approx(0.0008, rel=0.4)
    # Neighbours share their errors: many points count as few.
    assert ready.error.calibration.together > 10
    squared = []
    for k in range(len(faces["val"])):
        image = faces["val"].sample(k).image.transpose(1, 2, 0)
        points = points_in_picture(ready, image, None)
        corners = template().faces[points.faces]
        at = corners[np.arange(len(points)), points.barycentric.argmax(1)]
        where = np.searchsorted(ready.wanted.vertices.numpy(), at)
        off = points.pixels - places(faces, k, ready.wanted)[where]
        squared.append(np.einsum("ni,nij,nj->n", off, np.linalg.inv(points.covariance), off) / 2)
    # Their covariance tells each to err by itself; as they do not, single ones are nearer.
    inflation = ready.error.calibration.inflation(1) / ready.error.calibration.temperature**2
    assert np.concatenate(squared).mean() * inflation == pytest.approx(1, rel=0.5)


@pytest.mark.usefixtures("knowing")
def test_files_are_written_as_other_makers_write_them(faces: Dataset, untrained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures" / "cam0"
    folder.mkdir(parents=True)
    for k in (0, 1):
        Image.fromarray(faces["val"].sample(k).image.transpose(1, 2, 0)).save(folder / f"{k:06d}.png")
    options = PictureOptions("{camera}/{frame:06d}.png")
    said = predict_points(untrained, faces.path, [tmp_path / "pictures"], tmp_path / "out", options, device_name="cpu")
    assert said["pictures"] == 2
    assert said["without"] == []
    points = read_seen_points(tmp_path / "out" / "cam0" / "000000.npz")
    assert points.source == SOURCE
    assert points.template == "0" * 64
    assert (points.width, points.height) == (RESOLUTION, RESOLUTION)
    assert len(points) > 100
    assert (np.linalg.eigvalsh(points.covariance) > 0).all()


@pytest.mark.usefixtures("knowing")
def test_pictures_of_nobody_are_said(faces: Dataset, untrained: Path, tmp_path: Path) -> None:
    picture, other = tmp_path / "a.png", tmp_path / "b.png"
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(picture)
    Image.fromarray(faces["val"].sample(2).image.transpose(1, 2, 0)).save(other)

    def predict(*pictures: Path, box: tuple[float, float, float, float] | None = None) -> dict[str, Any]:
        return predict_points(
            untrained, faces.path, pictures, tmp_path / "out", PictureOptions(box=box), device_name="cpu"
        )

    with pytest.raises(InputError, match="sees no face"):
        predict(picture)
    with pytest.raises(InputError, match="lies outside"):
        predict(picture, box=(90, 0, 99, 9))
    assert not (tmp_path / "out").exists()
    assert predict(picture, other)["without"] == ["a.png"]
    assert {path.name for path in (tmp_path / "out").glob("*.npz")} == {"b.npz"}
    # What it wrote it replaces; what it did not, it leaves.
    assert predict(other)["pictures"] == 1
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"notes\.txt"):
        predict(other)
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_a_model_that_finds_nothing_is_refused(faces: Dataset, untrained: Path) -> None:
    with pytest.raises(CheckpointError, match="finds 0 vertices of the face in 5 pictures of val"):
        points_model(untrained, faces.path, "cpu")


def test_datasets_that_do_not_serve_are_refused(untrained: Path, tmp_path: Path) -> None:
    other = build_scene(tmp_path / "scene.zarr")
    with pytest.raises(CheckpointError, match="another canonical space"):
        points_model(untrained, other.path, "cpu")
    with pytest.raises(DatasetError, match="frame table"):
        canonical_vertices(other)
