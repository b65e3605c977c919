"""The alignment network from the dataset to files of seen points, by its commands; and what it refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datagen.common.errors import CheckpointError, DatasetError, InputError
from datagen.common.seen_points import read_seen_points
from datagen.shards import Dataset
from datagen.shards.faces import TemplateContents
from tests.support.face_scene import RESOLUTION, build_faces, face_row, rig, shape, template
from tests.support.trainer_scene import build_scene
from trainer.align.calibration import calibrate
from trainer.align.config import AlignConfig, AlignLossConfig
from trainer.align.data import ARRAYS, FaceTruth, plain_crops, training_crops
from trainer.align.evaluate import evaluate_align
from trainer.align.fit import fit_align
from trainer.align.measure import Measured, measure_split
from trainer.align.predict import align_picture, predict_align
from trainer.align.store import read_aligner
from trainer.align.uv_space import UVSpace, uv_space
from trainer.config import load_run_config
from trainer.data import decode
from trainer.prediction.boxed import PictureOptions, parse_box
from trainer.run.checkpoint import build_model, read_checkpoint

QUICK = ("fit.device=cpu", "fit.threads=1", "coarse_steps=40", "fit.val_every=40", "network.image_size=48")
QUICK += ("whole_samples=64",)
SMALL = (*QUICK, "network.width=8", "network.channels=16", "network.features=8", "network.uv=8", "network.hidden=16")
CALM = ("augment.photometric=0", "augment.background=0", "augment.occlusion=0", "augment.rotation_deg=0")
CALM += ("augment.scale=0", "augment.shift=0", "augment.mirror=false")


def config(*changes: str) -> AlignConfig:
    return load_run_config(AlignConfig, "tiny", (*SMALL, *changes), prefix="align")


def unrolled() -> TemplateContents:
    """The scene's template with texture coordinates of its own for front and back: by the angle from the nose."""
    unit = template().vertices / np.linalg.norm(template().vertices, axis=1, keepdims=True)
    across = unit[:, :2] / np.maximum(np.linalg.norm(unit[:, :2], axis=1, keepdims=True), 1e-6)
    uv = 0.5 + 0.49 / np.pi * np.arccos(np.clip(unit[:, 2:], -1, 1)) * across
    return replace(template(), uv=uv.astype(np.float32))


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build_faces(tmp_path_factory.mktemp("faces") / "dataset.zarr", unrolled())


@pytest.fixture(scope="module")
def space(faces: Dataset) -> UVSpace:
    return uv_space(faces.template, faces.attrs["regions"], AlignLossConfig(), 8)


@pytest.fixture(scope="module")
def run(faces: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Learnt by heart, so that something can be told of it."""
    folder = tmp_path_factory.mktemp("runs") / "aligned"
    changes = ("fit.steps=70", "fit.warmup_steps=5", "fit.learning_rate=3e-3", "fit.ema=0.9", *CALM)
    state = fit_align(faces.path, folder, config(*changes))
    assert state.finished
    return folder


@pytest.fixture
def picture(faces: Dataset, tmp_path: Path) -> Path:
    path = tmp_path / "000003.png"
    Image.fromarray(faces["train"].sample(0).image.transpose(1, 2, 0)).save(path)
    return path


def batch_of(faces: Dataset, samples: np.ndarray) -> dict[str, torch.Tensor]:
    stored = faces["train"].read(ARRAYS, samples, decode=False)
    return {name: decode(name, torch.from_numpy(value), faces.depth_scale) for name, value in stored.items()}


def test_vertices_are_where_the_cameras_see_them(faces: Dataset, space: UVSpace) -> None:
    samples = np.arange(len(faces["train"]))
    batch = batch_of(faces, samples)
    seen = FaceTruth(faces["train"], space, 16).seen(samples, batch["intrinsics"], batch["world_to_camera"])
    for k in (0, 4):
        sample = faces["train"].sample(k)
        vertices, pose = shape(sample.subject, sample.frame)
        world = vertices[space.vertices.numpy()] @ pose[:3, :3].T + pose[:3, 3]
        camera = next(c for c in rig(sample.frame) if c.name == sample.camera)
        pixels, depth = camera.project(world)
        np.testing.assert_allclose(seen.pixels[k], pixels, atol=0.02)
        np.testing.assert_allclose(seen.depth_m[k], depth, atol=2e-5)
        spread = face_row(sample.subject, sample.frame).spread_m[space.vertices.numpy()]
        expected = spread * camera.K[0, 0] / depth
        np.testing.assert_allclose(seen.spread_px[k], expected, atol=0.07 * 1e-3 * camera.K[0, 0] / depth.min())
        # One pixel along x in the head's axes, at the head's distance.
        moved = (world.mean(0) - pose[:3, 3]) @ pose[:3, :3] + seen.to_head[k, 0].numpy()
        shifted, _ = camera.project((moved @ pose[:3, :3].T + pose[:3, 3])[None])
        there, _ = camera.project(world.mean(0)[None])
        np.testing.assert_allclose(shifted - there, [[1, 0]], atol=0.1)


def test_rows_are_read_alike_from_memory_and_disk(faces: Dataset, space: UVSpace) -> None:
    samples = np.array([3, 0, 3])
    batch = batch_of(faces, samples)
    cameras = batch["intrinsics"], batch["world_to_camera"]
    one, other = (FaceTruth(faces["train"], space, mb).seen(samples, *cameras) for mb in (0, 16))
    torch.testing.assert_close(one.pixels, other.pixels)
    torch.testing.assert_close(one.spread_px, other.spread_px)


def test_texels_take_the_mean_of_their_triangle_and_vertices_come_back(faces: Dataset, space: UVSpace) -> None:
    """Barycentric values of UV places are those places: against the grid itself."""
    size = 8
    found = space.to_texels(space.uv[None])[0].numpy()
    inside = space.texel_shares.sum(1).numpy() > 0.5
    centre = (np.arange(size) + 0.5) / size
    grid = np.stack(np.meshgrid(centre, centre), -1).reshape(-1, 2)
    np.testing.assert_allclose(found[inside], grid[inside], atol=1e-5)
    assert 0.4 < inside.mean() < 1  # a disc in a square, less its rim
    assert (space.texel_weights.numpy()[inside] > 0).all()
    corners = template().faces[space.corner_faces.numpy(), space.corner.numpy()]
    np.testing.assert_array_equal(corners, space.vertices.numpy())
    assert space.uv.min() == pytest.approx(0.5 / size)
    assert space.uv.max() == pytest.approx(1 - 0.5 / size)
    assert len(space.vertices) < len(template().vertices)  # the ball before the face has a chart of its own


def test_a_mirrored_crop_shows_the_mirrored_person(faces: Dataset, space: UVSpace) -> None:
    assert space.mirrored is not None
    points = template().vertices[space.vertices.numpy()]
    np.testing.assert_allclose(points[space.mirrored.numpy()], points * [-1, 1, 1], atol=1e-5)
    samples = np.zeros(6, np.int64)
    batch = batch_of(faces, samples)
    seen = FaceTruth(faces["train"], space).seen(samples, batch["intrinsics"], batch["world_to_camera"])
    changes = config(*CALM[:-1]).augment
    crops = training_crops(batch, seen, list(range(6)), changes, space, 48)
    plain = plain_crops(batch["image"], seen, 48)
    flipped = torch.linalg.det(crops.transform[:, :, :2]) < 0
    assert 0 < flipped.sum() < 6
    for k in range(6):
        if not flipped[k]:
            torch.testing.assert_close(crops.images[k], plain.images[k], atol=1e-4, rtol=0.0)
            continue
        torch.testing.assert_close(crops.images[k], plain.images[k].flip(-1), atol=1e-3, rtol=0.0)
        expected = plain.truth.positions[k, space.mirrored] * torch.tensor([-1, 1]) + torch.tensor([1, 0])
        torch.testing.assert_close(crops.truth.positions[k], expected, atol=1e-4, rtol=0.0)


def test_changes_of_a_picture_follow_from_its_seed(faces: Dataset, space: UVSpace) -> None:
    samples = np.arange(4)
    batch = batch_of(faces, samples)
    seen = FaceTruth(faces["train"], space).seen(samples, batch["intrinsics"], batch["world_to_camera"])
    changes = config().augment
    whole = training_crops(batch, seen, [5, 6, 7, 8], changes, space, 48)
    again = training_crops(batch, seen, [5, 6, 7, 8], changes, space, 48)
    torch.testing.assert_close(whole.images, again.images)
    assert not torch.allclose(whole.images, training_crops(batch, seen, [9, 6, 7, 8], changes, space, 48).images)
    inside = whole.truth.positions[:, space.is_face]
    assert ((inside > -0.2) & (inside < 1.2)).all()


def test_few_pictures_are_learnt_by_heart(run: Path, faces: Dataset) -> None:
    # The last weights: the best are those that suit the validation person, whom nobody asks about here.
    aligner = read_aligner(run / "last.pt", torch.device("cpu"))
    measured = measure_split(aligner.model, faces, "train", aligner.space, np.arange(len(faces["train"])))
    found = measured.metrics()
    assert found["nme_percent"] < 3
    assert found["nme_percent_3"] == found["nme_percent"]
    assert found["nme_percent"] < 0.95 * found["nme_percent_0"]


def test_a_run_that_was_stopped_ends_in_the_same_bits(faces: Dataset, tmp_path: Path) -> None:
    settings = ("fit.steps=6", "fit.save_every=1", "coarse_steps=2", "fit.val_every=3", "fit.val_samples=2")
    assert fit_align(faces.path, tmp_path / "straight", config(*settings)).finished
    for _ in range(2):
        fit_align(faces.path, tmp_path / "stopped", config(*settings, "fit.max_minutes=1e-6"))
    assert fit_align(faces.path, tmp_path / "stopped", config(*settings)).finished
    for name in ("last.pt", "best.pt"):
        one, other = (read_checkpoint(tmp_path / folder / name) for folder in ("straight", "stopped"))
        assert one["step"] == other["step"]
        assert all(torch.equal(value, other["model"][key]) for key, value in one["model"].items())
        assert one["calibration"] == other["calibration"]


def test_evaluation_says_what_was_measured(run: Path, faces: Dataset) -> None:
    result = evaluate_align(run, faces.path, "val", device_name="cpu")
    assert result.samples == 5
    found = result.metrics
    parts = found["visible_nme_percent"], found["hidden_nme_percent"]
    assert min(parts) <= found["nme_percent"] <= max(parts)
    # The temperature was measured on these very people.
    assert found["surprise"] == pytest.approx(1, rel=0.02)
    assert -1 <= found["sigma_rank_correlation"] <= 1
    assert "rank correlation" in result.text()
    assert evaluate_align(run, faces.path, "val", limit=2, device_name="cpu").samples == 2
    with pytest.raises(InputError, match="holds no samples"):
        evaluate_align(run, faces.path, "test")


def made(error: np.ndarray, instant: np.ndarray, to_head: np.ndarray) -> Measured:
    N, V, _ = error.shape
    ones = np.ones((N, 1, V))
    return Measured(error[:, None], 2 * ones, np.full(N, 10.0), ones[:, 0] > 0, to_head, instant, np.ones(V, bool))


def test_calibration_finds_the_temperature_and_how_errors_go_together() -> None:
    rng = np.random.default_rng(0)
    facing = np.tile(np.eye(3)[:2], (400, 1, 1))
    apart = np.arange(400)
    alone = calibrate(made(rng.normal(0, 3, (400, 30, 2)), apart, facing))
    assert alone.temperature == pytest.approx(1.5, rel=0.02)
    assert alone.together == pytest.approx(1, abs=0.1)
    # Ten points move as one, three times.
    groups = np.repeat(rng.normal(0, 2, (400, 3, 2)), 10, axis=1)
    assert calibrate(made(groups, apart, facing)).together == pytest.approx(10, rel=0.05)
    # Half of the variance is the same displacement for both cameras of an instant.
    instant = np.repeat(np.arange(200), 2)
    turned = facing.copy()
    turned[1::2] = [[0, 0, 1], [0, 1, 0]]  # a camera from the side
    shared = np.repeat(rng.normal(0, 1, (200, 30, 3)), 2, axis=0)
    seen = np.einsum("nca,nva->nvc", turned, shared) + rng.normal(0, 1, (400, 30, 2))
    found = calibrate(made(seen, instant, turned))
    assert found.views == pytest.approx(0.5, abs=0.05)
    assert found.inflation(3) == pytest.approx(found.temperature**2 * found.together * (1 + 2 * found.views))
    assert calibrate(made(seen, apart, turned)).views == 0


def test_files_of_seen_points_say_what_the_network_said(run: Path, picture: Path, tmp_path: Path) -> None:
    box = (20.0, 10.0, 64.0, 72.0)
    options = PictureOptions(box=box)
    predict_align(run, [picture], tmp_path / "out", options, device_name="cpu")
    read = read_seen_points(tmp_path / "out/000003.npz")
    aligner = read_aligner(run, torch.device("cpu"))
    direct = align_picture(aligner, np.asarray(Image.open(picture)), box)
    assert (read.source, read.template, read.width, read.height) == ("align", "0" * 64, RESOLUTION, RESOLUTION)
    np.testing.assert_array_equal(read.faces, direct.faces)
    np.testing.assert_allclose(read.pixels, direct.pixels, atol=1e-3)
    np.testing.assert_allclose(read.covariance, direct.covariance, rtol=1e-5)
    assert set(np.unique(read.barycentric)) == {0.0, 1.0}
    assert aligner.calibration is not None
    alone = align_picture(aligner, np.asarray(Image.open(picture)), box, together=4).covariance
    ratio = aligner.calibration.inflation(4) / aligner.calibration.inflation(1)
    np.testing.assert_allclose(alone, ratio * direct.covariance, rtol=1e-6)


def test_points_of_a_larger_picture_are_its_own_pixels(run: Path, picture: Path) -> None:
    aligner = read_aligner(run, torch.device("cpu"))
    small = Image.open(picture)
    large = Image.new("RGB", (400, 300))
    large.paste(small.resize((168, 168), Image.Resampling.BILINEAR), (100, 50))
    one = align_picture(aligner, np.asarray(small), (20, 10, 64, 72))
    other = align_picture(aligner, np.asarray(large), (140, 70, 228, 194))
    assert (other.width, other.height) == (400, 300)
    np.testing.assert_allclose(other.pixels, 2 * one.pixels + [100, 50], atol=1.5)
    np.testing.assert_allclose(np.median(other.covariance[:, 0, 0] / one.covariance[:, 0, 0]), 4, rtol=0.2)


def test_pictures_by_pattern_are_written_by_pattern(run: Path, picture: Path, tmp_path: Path) -> None:
    for camera in ("left", "right"):
        (tmp_path / "cap/images" / camera).mkdir(parents=True)
        for frame in (3, 12):
            shutil.copy(picture, tmp_path / f"cap/images/{camera}/{frame:06d}.png")
    shutil.copy(picture, tmp_path / "cap/images/right/000012.other.png")
    boxes = {f"images/{c}/{f:06d}.png": [20, 10, 64, 72] for c in ("left", "right") for f in (3, 12)}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    options = PictureOptions(
        "images/{camera}/{frame:06d}.png", "{camera}/{frame:04d}.npz", None, tmp_path / "boxes.json"
    )
    out = tmp_path / "cap/evidence"
    assert predict_align(run, [tmp_path / "cap"], out, options, device_name="cpu")["pictures"] == 4
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.npz"))
    assert files == ["left/0003.npz", "left/0012.npz", "right/0003.npz", "right/0012.npz"]
    # Two cameras of an instant err together.
    aligner = read_aligner(run, torch.device("cpu"))
    expected = align_picture(aligner, np.asarray(Image.open(picture)), (20, 10, 64, 72), together=2)
    np.testing.assert_allclose(read_seen_points(out / files[0]).covariance, expected.covariance, rtol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (64, 64)])
def test_the_smallest_and_blackest_pictures_are_aligned_all_the_same(run: Path, shape: tuple[int, int]) -> None:
    aligner = read_aligner(run, torch.device("cpu"))
    black = np.zeros((*shape, 3), np.uint8)
    for box in (None, (0.0, 0.0, 1.0, 1.0)):
        points = align_picture(aligner, black, box)
        assert np.isfinite(points.pixels).all()
        assert (points.covariance[:, 0, 0] > 0).all()


def test_what_cannot_be_used_is_refused_by_name(run: Path, faces: Dataset, picture: Path, tmp_path: Path) -> None:
    def predict(*sources: Path, **options: object) -> None:
        predict_align(run, sources, tmp_path / "out", PictureOptions(**options), device_name="cpu")  # type: ignore[arg-type]

    other = tmp_path / "other/000003.png"
    other.parent.mkdir()
    shutil.copy(picture, other)
    (tmp_path / "boxes.json").write_text('{"else.png": [1, 2, 3, 4]}')
    (tmp_path / "broken.json").write_text('{"000003.png": [1, 2, "x", 4]}')
    for reason, sources, options in (
        ("is no picture", [tmp_path / "gone.png"], {}),
        ("several pictures", [picture, other], {}),
        ("outside", [picture], {"box": (200, 200, 300, 300)}),
        (r"right > left", [picture], {"box": (50, 50, 20, 60)}),
        (r"right > left", [picture], {"box": (0, 0, float("nan"), 60)}),
        ("no box of", [picture], {"boxes": tmp_path / "boxes.json"}),
        ("000003.png", [picture], {"boxes": tmp_path / "broken.json"}),
        ("cannot be read", [picture], {"boxes": tmp_path / "gone.json"}),
        ("one of the two", [picture], {"box": (0, 0, 9, 9), "boxes": tmp_path / "boxes.json"}),
        ("no file below", [tmp_path], {"pattern": "x/{frame:06d}.png"}),
        ("one folder", [picture], {"pattern": "x/{frame:06d}.png"}),
        ("patterns", [tmp_path], {"pattern": "{frame:06d}.png", "name": "../{frame:06d}.npz"}),
        ("--name without", [picture], {"name": "{frame}.npz"}),
    ):
        with pytest.raises(InputError, match=reason):
            predict(*sources, **options)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="--box"):
        parse_box("1,2,3")


def test_other_datasets_and_checkpoints_are_refused(run: Path, faces: Dataset, tmp_path: Path) -> None:
    build_scene(tmp_path / "plain.zarr")
    with pytest.raises(DatasetError, match="no frame table"):
        fit_align(tmp_path / "plain.zarr", tmp_path / "run", config("fit.steps=1"))
    assert not (tmp_path / "run").exists()
    content = read_checkpoint(run)
    with pytest.raises(CheckpointError, match="align fit"):
        build_model(content, torch.device("cpu"))
    content["dataset"]["template"] = "1" * 64
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="template"):
        evaluate_align(tmp_path / "other.pt", faces.path, "val")
    content["calibration"] = None
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="validation people"):
        align_picture(read_aligner(tmp_path / "other.pt", torch.device("cpu")), np.zeros((9, 9, 3), np.uint8), None)
    content["config"] = "{}"
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="does not fit"):
        read_aligner(tmp_path / "other.pt", torch.device("cpu"))
