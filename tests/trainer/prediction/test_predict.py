"""`trainer predict` end to end on a small learnt model: everything it writes, and everything it refuses."""

from __future__ import annotations

import base64
import json
import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from datagen.common.errors import CanonfaceError, DependencyError, InputError
from datagen.common.ownership import LISTING
from tests.support.predict_scene import SIDE, clip, write_photos, write_video
from tests.support.trainer_scene import HALF_EXTENT_M, build_scene
from trainer.cli import main
from trainer.predict import PARTS, PredictOptions, predict
from trainer.prediction.video import VideoFile, VideoWriter

av = pytest.importorskip("av")
QUICK = ("ply", "videos", "viewer", "tracks")  # left out where they are not what is tested


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "talk.mp4"
    write_video(path)
    return path


@pytest.fixture(scope="module")
def whole(learnt_model: Path, video: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything of the video, in windows of 4 that share 2."""
    out = tmp_path_factory.mktemp("whole") / "out"
    predict(learnt_model, video, out, PredictOptions(frames=4, overlap=2), device_name="cpu")
    return out


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_photos(tmp_path / "photos")
    return tmp_path / "photos"


def leaves_nothing(folder: Path, *known: str) -> bool:
    return {path.name for path in folder.iterdir()} - {LISTING} == set(known)


def test_a_video_gives_every_file_for_every_frame(whole: Path) -> None:
    stems = [f"{k:06d}_{k:06d}" for k in range(12)]
    per_frame = {f"maps/{name}": ".png" for name in ("image", "depth", "depth16", "normal", "canonical")}
    per_frame |= {"maps/canonical_confidence": ".png", "maps/raw": ".npz"}
    per_frame |= {f"ply/{name}": ".ply" for name in ("geometry", "canonical", "tracks")}
    for folder, suffix in per_frame.items():
        assert sorted(p.name for p in (whole / folder).iterdir()) == [stem + suffix for stem in stems]
    films = ("image", "depth", "normal", "canonical", "canonical_confidence", "tracks", "pointcloud", "grand_tour")
    assert {p.name for p in (whole / "videos").iterdir()} == {f"{name}.mp4" for name in films}
    assert {p.name for p in whole.iterdir()} == {
        *("maps", "ply", "videos", "cameras.json", "cameras.npz", "raw_predictions.npz", "tracks.npz"),
        *("viewer.html", "strip.png", "prediction.json", LISTING),
    }


def test_raw_predictions_are_the_maps_and_they_are_good(whole: Path) -> None:
    views = clip(1, 12)
    with np.load(whole / "raw_predictions.npz") as raw:
        assert raw["depth"].shape == raw["valid"].shape == (12, SIDE, SIDE)
        assert raw["canonical"].shape == raw["normal"].shape == (12, 3, SIDE, SIDE)
        assert raw["extrinsics"].shape == (12, 4, 4)
        assert not raw["intrinsics_known"]
        assert raw["content_box"][0].tolist() == [0, 3, 28, 24]
        assert not raw["valid"][:, :3].any()
        errors = []
        for k, view in enumerate(views):
            both = raw["valid"][k] & (view["depth"] > 0)
            assert both.sum() > 0.8 * (view["depth"][3:24] > 0).sum()
            offset = np.linalg.norm(raw["canonical"][k] - view["canonical"], axis=0)[both]
            errors.append(np.median(offset) * HALF_EXTENT_M * 1000)
            with np.load(whole / "maps" / "raw" / f"{k:06d}_{k:06d}.npz") as one:
                np.testing.assert_array_equal(one["depth"], raw["depth"][k])
        assert np.median(errors) < 20  # the mean map is 40 off
        normal = np.linalg.norm(raw["normal"], axis=1)
        np.testing.assert_allclose(normal[normal > 0], 1, atol=1e-4)
    with Image.open(whole / "maps" / "depth16" / "000003_000003.png") as picture:
        tenths = np.asarray(picture)
    with np.load(whole / "maps" / "raw" / "000003_000003.npz") as one:
        expected = np.where(one["valid"], one["depth"], 0)[3:24]
    np.testing.assert_allclose(tenths / 1e4, expected, atol=6e-5)


def test_point_clouds_are_the_maps(whole: Path) -> None:
    with np.load(whole / "maps" / "raw" / "000002_000002.npz") as one:
        valid, depth, canonical = one["valid"], one["depth"], one["canonical"]
    cloud = trimesh.load(whole / "ply" / "geometry" / "000002_000002.ply")
    np.testing.assert_allclose(cloud.vertices[:, 2], depth[valid], rtol=1e-6)
    cloud = trimesh.load(whole / "ply" / "canonical" / "000002_000002.ply")
    np.testing.assert_allclose(cloud.vertices, canonical[:, valid].T * HALF_EXTENT_M, atol=1e-6)


def test_tracks_of_a_video(whole: Path) -> None:
    with np.load(whole / "tracks.npz") as tracks:
        count = len(tracks["seed_xy"])
        assert tracks["xy"].shape == tracks["xy_image"].shape == (12, count, 2)
        assert tracks["visible"][0].all()
        assert tracks["visible"].mean() > 0.5
        seen = tracks["visible"]
        # The video is 56 × 42, its map 28 × 21 in a square of 28.
        in_map = (tracks["xy"][seen] - [0, 3]) * 2
        np.testing.assert_allclose(tracks["xy_image"][seen], in_map, rtol=1e-5)
        assert (tracks["confidence"][seen] > 0).all()
        assert tracks["seed_frame"] == 0


def test_videos_have_every_frame_at_the_sources_rate(whole: Path) -> None:
    for film in (whole / "videos").iterdir():
        with av.open(str(film)) as container:
            stream = container.streams.video[0]
            assert float(stream.average_rate) == 12.5
            pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert len(pictures) == 12
        assert np.ptp(pictures[5]) > 50
    with av.open(str(whole / "videos" / "image.mp4")) as container:
        first = next(container.decode(container.streams.video[0])).to_ndarray(format="rgb24")
    assert first.shape == (21 * 14, 28 * 14, 3)


def test_the_viewer_is_one_file_that_holds_the_points(whole: Path) -> None:
    page = (whole / "viewer.html").read_text()
    assert not re.search(r"https?://|\bsrc=|<link|@import|fetch\(", page)
    head = json.loads(re.search(r'<script id="head"[^>]*>(.*?)</script>', page, re.S)[1])
    body = base64.b64decode(re.search(r'<script id="body"[^>]*>(.*?)</script>', page, re.S)[1])
    assert len(head["frames"]) == 12
    frame = head["frames"][4]
    stored = np.frombuffer(body, "<u2", 3 * frame["points"], frame["offset"]).reshape(-1, 3)
    points = frame["low"] + stored * np.array(frame["step"])
    cloud = trimesh.load(whole / "ply" / "geometry" / "000004_000004.ply")
    np.testing.assert_allclose(points, cloud.vertices, atol=1e-5)
    tracks = np.frombuffer(body, "<f4", 12 * head["tracks"]["count"] * 3, head["tracks"]["offset"])
    with np.load(whole / "tracks.npz") as arrays:
        expected = np.where(arrays["visible"][..., None], arrays["xyz_world"], np.nan)
    np.testing.assert_array_equal(tracks.reshape(expected.shape), expected)


def test_windows_of_a_clip_agree_with_the_whole_clip(learnt_model: Path, photos: Path, tmp_path: Path) -> None:
    for name, frames in (("joint", 3), ("windows", 2), ("single", 1)):
        predict(learnt_model, photos, tmp_path / name, PredictOptions(frames=frames, without=QUICK), device_name="cpu")
    with (
        np.load(tmp_path / "joint" / "raw_predictions.npz") as a,
        np.load(tmp_path / "windows" / "raw_predictions.npz") as b,
    ):
        assert a["names"].tolist() == b["names"].tolist() == ["f8", "f9", "f10"]
        both = a["valid"] & b["valid"]
        assert np.median(np.abs(a["depth"] - b["depth"])[both]) < 0.01
        assert np.median(np.abs(a["canonical"] - b["canonical"]).mean(1)[both]) * HALF_EXTENT_M < 0.01


def test_a_single_image_masks_cameras_and_parts(learnt_model: Path, photos: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[8:20, 9:19] = 255
    Image.fromarray(mask).save(masks / "f8.png")
    out = tmp_path / "one"
    options = PredictOptions(masks=masks, fov_deg=30, without=("ply", "raw", "viewer", "maps"))
    summary = predict(learnt_model, photos / "f8.png", out, options, device_name="cpu")
    assert leaves_nothing(out, "videos", "tracks.npz", "cameras.json", "cameras.npz", "strip.png", "prediction.json")
    assert summary["foreground"] == "masks"
    assert summary["intrinsics_from"] == ["given"]
    camera = json.loads((out / "cameras.json").read_text())["frames"][0]
    assert camera["intrinsics"][0][0] == pytest.approx(14 / np.tan(np.radians(15)), rel=1e-5)
    with np.load(out / "tracks.npz") as tracks:
        xy = tracks["seed_xy"]
        assert (xy > [9, 8]).all()
        assert (xy < [19, 20]).all()
    with av.open(str(out / "videos" / "pointcloud.mp4")) as container:
        assert sum(1 for _ in container.decode(container.streams.video[0])) == 48
    again = PredictOptions(cameras=out / "cameras.json", without=(*QUICK, "maps"))
    predict(learnt_model, photos, out, again, device_name="cpu")
    assert leaves_nothing(out, "raw_predictions.npz", "cameras.json", "cameras.npz", "strip.png", "prediction.json")
    with np.load(out / "raw_predictions.npz") as raw:
        assert raw["intrinsics_known"]
        assert raw["intrinsics"][2, 0, 0] == pytest.approx(14 / np.tan(np.radians(15)), rel=1e-5)
    assert leaves_nothing(tmp_path, "photos", "masks", "one")


def test_crops_about_masks_and_by_hand(learnt_model: Path, photos: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for k in range(3):
        # The picture stands in the corner of a larger one; so does its mask.
        with Image.open(photos / f"f{k + 8}.png") as picture:
            large = Image.new("RGB", (100, 60), "black")
            large.paste(picture.convert("RGB"), (60 + k, 20))
        large.save(photos / f"f{k + 8}.png")
        mask = Image.new("L", (100, 60))
        mask.paste(255, (64 + k, 24, 84 + k, 44))
        mask.save(masks / f"f{k + 8}.png")
    found = {}
    for crop, of_masks in (("each", masks), ("all", masks), ("60,20,90,50", None)):
        options = PredictOptions(crop=crop, masks=of_masks, fov_deg=30, without=(*QUICK, "maps"))
        predict(learnt_model, photos, tmp_path / "out", options, device_name="cpu")
        with np.load(tmp_path / "out" / "cameras.npz") as cameras:
            found[crop] = cameras["image_region"]
            focal = 50 / np.tan(np.radians(15))
            np.testing.assert_allclose(cameras["intrinsics_of_image"][:, 0, 0], focal, rtol=1e-5)
            np.testing.assert_allclose(cameras["intrinsics_of_image"][:, 0, 2], 50, rtol=1e-5)
    np.testing.assert_allclose(found["each"][1], [63.5, 22.5, 86.5, 45.5])
    np.testing.assert_allclose(found["all"], np.tile([62.35, 21.35, 87.65, 46.65], (3, 1)))
    np.testing.assert_allclose(found["60,20,90,50"][2], [60, 20, 90, 50])
    for crop, message in (("each", "none are given"), ("5,5", "left,top,right,bottom"), ("200,0,230,30", "outside f8")):
        with pytest.raises(InputError, match=message):
            predict(learnt_model, photos, tmp_path / "new", PredictOptions(crop=crop), device_name="cpu")
    assert leaves_nothing(tmp_path, "photos", "masks", "out")


def test_mixed_sizes_large_images_and_odd_kinds(learnt_model: Path, photos: Path, tmp_path: Path) -> None:
    Image.new("RGB", (7680, 4320), "grey").save(photos / "g1.jpg")
    Image.new("L", (60, 30), 90).save(photos / "g2.png")
    long_name = "g5" + 240 * "x"
    Image.new("RGB", (30, 30)).save(photos / f"{long_name}.png")
    Image.new("RGBA", (15, 40), (200, 100, 50, 128)).save(photos / "g3.png")
    Image.fromarray(np.full((30, 30), 120, np.uint8)).convert("P").save(photos / "g4.png")
    summary = predict(learnt_model, photos, tmp_path / "out", PredictOptions(without=QUICK), device_name="cpu")
    assert summary["frames"] == 8
    cameras = json.loads((tmp_path / "out" / "cameras.json").read_text())["frames"]
    assert [(c["width"], c["height"]) for c in cameras[3:7]] == [(7680, 4320), (60, 30), (15, 40), (30, 30)]
    assert cameras[7]["name"] == long_name
    with np.load(tmp_path / "out" / "raw_predictions.npz") as raw:
        assert raw["content_box"][4].tolist() == [0, 7, 28, 21]
        assert raw["image"][6, :, 14, 14].tolist() == [120, 120, 120]
    with Image.open(tmp_path / "out" / "maps" / "depth" / "000004_g2.png") as picture:
        assert picture.size == (28, 14)


def test_a_video_is_turned_as_its_container_says(tmp_path: Path) -> None:
    path = tmp_path / "phone.mp4"
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:, :32, 0] = 255
    with VideoWriter(path, 25) as writer:
        writer.add(picture)
    content = bytearray(path.read_bytes())
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    at = content.index(upright, content.index(b"tkhd"))
    # The matrix that phones write when they are held upright: shown a quarter turn clockwise.
    content[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30)
    path.write_bytes(content)
    (frame,) = VideoFile(path, 64)
    assert frame.original == (48, 64)
    assert frame.content == (8, 0, 56, 64)
    assert frame.image[0, 5, 32] > 200  # what was left is up
    assert frame.image[0, 58, 32] < 50


def test_a_dataset_brings_its_cameras(learnt_model: Path, tmp_path: Path) -> None:
    dataset = build_scene(tmp_path / "dataset.zarr", subjects={"train": 1, "val": 1}, frames=2, cameras=2)
    options = PredictOptions(index=2, frames=2, without=QUICK)
    summary = predict(learnt_model, tmp_path / "dataset.zarr", tmp_path / "out", options, device_name="cpu")
    assert (summary["frames"], summary["pose_from"], summary["intrinsics_from"]) == (2, ["given"], ["given"])
    with np.load(tmp_path / "out" / "raw_predictions.npz") as raw:
        np.testing.assert_array_equal(raw["extrinsics"][0], dataset["val"].sample(2).world_to_camera)
        assert raw["names"].tolist() == ["s01_turn_cam1_000000", "s01_turn_cam1_000001"]
    with pytest.raises(InputError, match="no sample 99"):
        predict(learnt_model, tmp_path / "dataset.zarr", tmp_path / "out", PredictOptions(index=99), device_name="cpu")


def test_without_pyav_images_are_predicted_and_videos_refused(
    video: Path,
    learnt_model: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    options = PredictOptions(without=("ply", "viewer", "tracks"))
    summary = predict(learnt_model, photos, tmp_path / "out", options, device_name="cpu")
    assert summary["written"] == ["maps", "raw"]
    assert "videos are left out" in capsys.readouterr().err
    with pytest.raises(DependencyError, match=r"canonface\[video\]"):
        predict(learnt_model, video, tmp_path / "other", options, device_name="cpu")


def test_the_command(
    learnt_model: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["trainer", "predict", *map(str, words)])
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    left_out = [word for part in PARTS[1:] for word in ("--without", part)]
    assert run(learnt_model, photos, "--out", tmp_path / "out", "--frames", 2, *left_out, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["frames"], summary["overlap"], summary["written"]) == (3, 0, ["maps"])
    assert run(learnt_model, tmp_path / "nowhere", "--out", tmp_path / "other") == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {tmp_path / 'nowhere'} does not exist")
    (tmp_path / "model.pt").write_bytes(learnt_model.read_bytes()[:-3000])
    assert run(tmp_path / "model.pt", photos, "--out", tmp_path / "other") == 2
    assert "cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    assert issubclass(InputError, CanonfaceError)
