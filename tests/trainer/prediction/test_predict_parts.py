"""The parts of prediction, on inputs with a known answer: windows, geometry, tracks, masks, cameras, files."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial.transform import Rotation

from datagen.common.errors import InputError, StorageError
from datagen.common.ownership import LISTING
from tests.support.predict_scene import clip, truth
from tests.support.trainer_scene import HALF_EXTENT_M
from trainer.config import load_config
from trainer.data import normalise
from trainer.inference import Maps
from trainer.model.joint import DepthUnit, JointModel
from trainer.prediction.cameras import FrameCamera, GivenCameras, assumed_intrinsics, write_cameras
from trainer.prediction.films import Orbit
from trainer.prediction.foreground import Foreground, otsu
from trainer.prediction.frames import SourceFrame, fit_square, into_square, out_of_square, place_in_square
from trainer.prediction.matching import natural_key
from trainer.prediction.output import MARKER, prediction_folder
from trainer.prediction.store import ArraySpool, FrameStore, normals_from_depth
from trainer.prediction.tracks import TrackConfig, Tracker
from trainer.prediction.windows import WindowModel, cut_windows, stitch_windows
from trainer.prediction.writers import write_points


def flat_maps(depth: float, value: float = 0.0, pose: np.ndarray | None = None) -> Maps:
    ones = np.ones((6, 6), np.float32)
    return Maps(ones * depth, np.full((3, 6, 6), value, np.float32), ones, ones, ones, None, pose)


@given(st.integers(0, 40), st.integers(1, 9), st.data())
@settings(max_examples=60, deadline=None)
def test_windows_hold_every_frame_once_and_are_full(count: int, length: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, length - 1))
    windows = list(cut_windows(range(count), length, overlap))
    fresh = [item for window, seen in windows for item in window[seen:]]
    assert fresh == list(range(count))
    assert all(len(window) == min(length, count) for window, _ in windows)
    assert all(seen >= overlap for _, seen in windows[1:])


@given(st.integers(1, 30), st.integers(1, 7), st.data())
@settings(max_examples=40, deadline=None)
def test_stitching_windows_that_agree_changes_nothing_and_holds_two_windows(
    count: int, length: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, length - 1))
    drift = data.draw(st.sampled_from(["fade", "chain"]))
    read, most_ahead, done = 0, 0, 0

    def frames() -> object:
        nonlocal read
        for k in range(count):
            read += 1
            yield k

    windows = cut_windows(frames(), length, overlap)
    for item, maps in stitch_windows(windows, lambda w: [flat_maps(1 + k / 9, k) for k in w], overlap, drift):
        assert item == done
        np.testing.assert_allclose(maps.depth_m, 1 + item / 9, rtol=1e-5)
        np.testing.assert_allclose(maps.canonical, item, rtol=1e-5)
        most_ahead = max(most_ahead, read - done)
        done += 1
    assert done == count
    assert most_ahead <= length + overlap


def stitched_depth(count: int, length: int, overlap: int, drift: str, seed: int = 0) -> np.ndarray:
    """Depth of a still head whose windows are each off by their own scale, of some 5 %."""
    rng = np.random.default_rng(seed)

    def predict(window: list[int]) -> list[Maps]:
        return [flat_maps(scale) for scale in [np.exp(rng.normal(0, 0.05))] for _ in window]

    windows = cut_windows(range(count), length, overlap)
    return np.array([m.depth_m[0, 0] for _, m in stitch_windows(windows, predict, overlap, drift)])


def test_chained_windows_keep_the_scale_of_the_first() -> None:
    depth = stitched_depth(200, 8, 2, "chain")
    np.testing.assert_allclose(depth, depth[0], rtol=1e-4)


def test_fading_windows_neither_jump_nor_drift() -> None:
    faded, cut = stitched_depth(400, 8, 2, "fade"), stitched_depth(400, 8, 0, "fade")
    assert np.abs(np.diff(np.log(cut))).max() > 0.1
    assert np.abs(np.diff(np.log(faded))).max() < 0.04
    # The mean of 66 windows of 5 % each.
    assert abs(np.log(faded[200:]).mean()) < 3 * 0.05 / np.sqrt(33)


def test_windows_with_different_worlds_end_in_the_first_ones_world() -> None:
    angles = np.linspace(0, 1, 20)
    true = []
    for a in angles:
        pose = np.eye(4)
        pose[:3, :3] = [[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]]
        pose[:3, 3] = [np.sin(a), 0.1 * a, 1 - np.cos(a)]
        true.append(pose)

    def predict(window: list[int]) -> list[Maps]:
        scale = 1 + window[0] / 50
        poses = [(true[k] @ np.linalg.inv(true[window[0]])).astype(np.float32) for k in window]
        for pose in poses:
            pose[:3, 3] *= scale
        return [flat_maps(scale, pose=pose) for pose in poses]

    found = [m.world_to_camera for _, m in stitch_windows(cut_windows(range(20), 6, 2), predict, 2, "chain")]
    np.testing.assert_allclose(np.stack(found), np.stack(true), atol=2e-4)


def test_normals_of_an_ellipsoid() -> None:
    view = clip(0, 1, 84)[0]
    surface = view["depth"] > 0
    normal = normals_from_depth(view["depth"], view["intrinsics"], surface)
    known = (normal != 0).any(0)
    np.testing.assert_allclose(np.linalg.norm(normal, axis=0)[known], 1, atol=1e-4)
    assert not known[~surface].any()
    angle = np.degrees(np.arccos(np.clip((normal * view["normal"]).sum(0), -1, 1)))[known]
    assert np.median(angle) < 1
    assert np.percentile(angle, 90) < 5


def true_positions(tracker: Tracker, view: dict[str, np.ndarray], subject: int) -> np.ndarray:
    """Where the seeds' canonical coordinates really are, pixels (N, 2)."""
    radii = np.array([0.075, 0.105, 0.09]) * np.random.default_rng([7, subject]).uniform(0.9, 1.1, 3)
    unit = tracker.seed_canonical * HALF_EXTENT_M / np.array([0.075, 0.105, 0.09])
    pose = view["world_to_camera"].astype(float) @ view["head_to_world"]
    image = (unit * radii @ pose[:3, :3].T + pose[:3, 3]) @ view["intrinsics"].astype(float).T
    return image[:, :2] / image[:, 2:]


def test_tracks_follow_the_skin_to_a_fraction_of_a_pixel() -> None:
    views = clip(1, 5, 84)
    tracker = Tracker(truth(views[0]), HALF_EXTENT_M, 0.1, TrackConfig(count=80))
    start = tracker.find(truth(views[0]))
    assert start.visible.all()
    np.testing.assert_allclose(start.xy, tracker.seed_xy, atol=0.5)
    errors = []
    for view in views[1:]:
        row = tracker.find(truth(view))
        errors.append(np.linalg.norm(row.xy - true_positions(tracker, view, 1), axis=-1)[row.visible])
        assert row.visible.mean() > 0.5
        projected = row.xyz[row.visible] @ view["intrinsics"].T
        np.testing.assert_allclose(projected[:, :2] / projected[:, 2:], row.xy[row.visible], atol=0.1)
    assert np.median(np.concatenate(errors)) < 0.3
    assert np.percentile(np.concatenate(errors), 95) < 1.0


def test_seeds_are_distinct_and_spread_over_the_skin() -> None:
    frame = truth(clip(1, 1, 56)[0])
    tracker = Tracker(frame, HALF_EXTENT_M, 0.1, TrackConfig(count=50))
    assert len(np.unique(tracker.seed_xy, axis=0)) == 50
    apart = np.linalg.norm(tracker.seed_canonical[:, None] - tracker.seed_canonical, axis=-1) + 9 * np.eye(50)
    skin = frame.canonical[:, frame.valid].T
    reach = np.linalg.norm(skin[:, None] - tracker.seed_canonical, axis=-1).min(1).max()
    assert apart.min() > reach / 3  # 50 random pixels: the nearest two touch
    few = frame.valid.copy()
    few[:] = False
    few[28, 25:31] = True
    handful = Tracker(dataclasses.replace(frame, valid=few), HALF_EXTENT_M, 0.1, TrackConfig(count=50))
    assert 1 <= len(handful.seed_xy) <= 6


def test_tracks_are_lost_on_the_far_side_and_where_nothing_is_seen() -> None:
    front, back = truth(clip(1, 1, 56)[0]), clip(1, 1, 56)[0]
    tracker = Tracker(front, HALF_EXTENT_M, 0.1, TrackConfig(count=40))
    back["canonical"] = back["canonical"] * np.array([-1, 1, -1], np.float32)[:, None, None]
    row = tracker.find(truth(back))
    assert row.visible.mean() < 0.2
    assert (row.confidence[~np.isfinite(row.canonical_distance_mm)] == 0).all()
    back["depth"] = np.zeros_like(back["depth"])
    nowhere = tracker.find(truth(back))
    assert not nowhere.visible.any()
    assert np.isnan(nowhere.xy).all()


def test_a_match_that_does_not_lead_back_is_not_mutual() -> None:
    view = clip(0, 1, 56)[0]
    tracker = Tracker(truth(view), HALF_EXTENT_M, 0.1, TrackConfig(count=60, radius_mm=40))
    # Of the same view every sixth pixel is left: most seeds find a pixel that is another one's.
    keep = np.zeros_like(view["depth"], bool)
    keep[::6, ::6] = True
    view["depth"] = np.where(keep, view["depth"], 0)
    row = tracker.find(truth(view))
    found = np.isfinite(row.canonical_distance_mm)
    way = np.linalg.norm(row.xy - tracker.seed_xy, axis=-1)[found]
    assert found.mean() > 0.8
    assert 0.1 < row.mutual[found].mean() < 0.7
    np.testing.assert_array_equal(row.mutual[found], way <= 2.0)
    assert not (row.visible & ~row.mutual).any()


def test_track_confidence_follows_the_models() -> None:
    sure, unsure = truth(clip(0, 1, 56)[0]), clip(0, 1, 56)[0]
    tracker = Tracker(sure, HALF_EXTENT_M, 0.1, TrackConfig(count=30))
    doubted = truth(unsure)
    doubted.canonical_confidence[:] = 2.0
    high, low = tracker.find(sure), tracker.find(doubted)
    np.testing.assert_allclose(high.expected_error_mm, np.sqrt(6) * 0.1 / 100 * 120, rtol=1e-3)
    assert (low.confidence < high.confidence).all()
    assert ((high.confidence > 0.9) & (high.confidence <= 1)).all()


def test_a_models_own_cameras_are_taken_in_metres() -> None:
    torch.manual_seed(0)
    unit = DepthUnit("dataset", 0.8, 0.04, 2.6)
    model = JointModel(load_config("tiny", ["heads.camera=true"]), 28, unit).eval()
    with torch.no_grad():
        model.camera.translation.bias.copy_(torch.tensor([0.5, 0.0, -1.0]))
    views = clip(0, 3)
    usual = assumed_intrinsics(2.6, 28)
    frames = [SourceFrame(str(k), v["image"], (0, 0, 28, 28), (28, 28), (0, 0, 28, 28)) for k, v in enumerate(views)]
    maps = WindowModel(model, usual)(frames)
    images = normalise(torch.from_numpy(np.stack([v["image"] for v in views])))[None]
    with torch.no_grad():
        camera = model(images, torch.from_numpy(usual).expand(1, 3, 3, 3)).camera[0].double().numpy()
    for code, one in zip(camera, maps, strict=True):
        pose = np.eye(4)
        pose[:3, :3] = Rotation.from_quat(code[3:7]).as_matrix()
        pose[:3, 3] = code[:3] * unit.unit
        np.testing.assert_allclose(one.world_to_camera, np.linalg.inv(pose), atol=1e-5)
        np.testing.assert_allclose(one.intrinsics[1, 1], 14 / np.tan(code[7] / 2), rtol=1e-4)
        np.testing.assert_allclose(one.intrinsics[0, 0], 14 / np.tan(code[8] / 2), rtol=1e-4)


def test_foreground_rules() -> None:
    rng = np.random.default_rng(0)
    head = np.zeros((20, 20), bool)
    head[4:15, 6:13] = True
    confidence = np.where(head, 30.0, 1.5).astype(np.float32) * rng.uniform(0.8, 1.25, (20, 20)).astype(np.float32)
    maps = Maps(np.ones((20, 20), np.float32), np.zeros((3, 20, 20), np.float32), confidence, confidence)
    frame = SourceFrame("a", np.zeros((3, 20, 20), np.uint8), (0, 2, 20, 18), (20, 16), (0, 0, 20, 16))
    assert (Foreground("auto")(frame, maps) == head).all()
    everything = Foreground("all")(frame, maps)
    assert everything.sum() == 20 * 16
    assert not everything[:2].any()
    with pytest.raises(InputError, match="does not predict a surface"):
        Foreground("surface")(frame, maps)
    assert otsu(np.ones(5)) < 1


def test_cameras_read_back_as_they_were_written_at_any_size(tmp_path: Path) -> None:
    K = np.array([[100, 0, 27.0], [0, 101, 29.0], [0, 0, 1]], np.float32)
    pose = np.eye(4, dtype=np.float32)
    pose[:3, 3] = [0.1, 0.2, 0.3]
    box, region = place_in_square((80, 40), 56)
    assert (box, region) == ((0, 14, 56, 42), (0, 0, 80, 40))
    cameras = [FrameCamera(name, K, pose, box, (80, 40), region, None, "given", "given") for name in ("a", "b")]
    write_cameras(tmp_path, cameras)
    content = json.loads((tmp_path / "cameras.json").read_text())
    assert [f["name"] for f in content["frames"]] == ["a", "b"]
    assert content["frames"][0]["intrinsics"][0][0] == pytest.approx(100 * 80 / 56)
    given_cameras = GivenCameras(tmp_path / "cameras.json")
    given_cameras.assign(["a.png", "b.png"], range(2))
    image = np.zeros((3, 112, 112), np.uint8)
    frame = given_cameras.attach(SourceFrame("b", image, (0, 28, 112, 84), (40, 20), (0, 0, 40, 20)), 1)
    np.testing.assert_allclose(frame.intrinsics, [[200, 0, 54], [0, 202, 58], [0, 0, 1]], rtol=1e-5)
    np.testing.assert_allclose(frame.world_to_camera, pose)
    with pytest.raises(InputError, match="other proportions"):
        given_cameras.attach(SourceFrame("a", image, (0, 0, 112, 112), (40, 40), (0, 0, 40, 40)), 0)
    with pytest.raises(InputError, match=r"no camera for c\.png; .* has a, b"):
        given_cameras.assign(["a.png", "b.png", "c.png"], range(3))
    for damage in ("{", '{"frames": []}', '{"frames": [{"width": 4}]}'):
        (tmp_path / "bad.json").write_text(damage)
        with pytest.raises(InputError, match=r"bad\.json"):
            GivenCameras(tmp_path / "bad.json")


@given(st.integers(20, 90), st.integers(20, 90), st.data())
@settings(max_examples=40, deadline=None)
def test_a_crop_shows_its_part_and_takes_the_camera_along(width: int, height: int, data: st.DataObject) -> None:
    left, top = data.draw(st.integers(-9, width - 16)), data.draw(st.integers(-9, height - 16))
    crop = (left, top, left + data.draw(st.integers(30, 60)), top + data.draw(st.integers(30, 60)))
    crop = data.draw(st.sampled_from([crop, None]))
    box, region = place_in_square((width, height), 56, crop)
    assert min(box) >= 0
    assert max(box) <= 56
    K = np.array([[100, 0, 30.0], [0, 100, 20.0], [0, 0, 1]])
    np.testing.assert_allclose(out_of_square(into_square(K, box, region), box, region), K, atol=1e-9)
    # Colours that say where a pixel is: they must agree with what the camera says.
    rows, columns = np.mgrid[:height, :width]
    where = np.stack([2.5 * columns, 2.5 * rows, 0 * rows], -1).astype(np.uint8)
    square, box, region = fit_square(Image.fromarray(where), 56, "a", (width, height), crop)
    u, v = (box[0] + box[2]) // 2, (box[1] + box[3]) // 2
    back = out_of_square(np.array([[1, 0, u + 0.5], [0, 1, v + 0.5], [0, 0, 1.0]]), box, region)[:2, 2]
    np.testing.assert_allclose(square[:2, v, u] / 2.5, back - 0.5, atol=1.0)
    outside = np.ones((56, 56), bool)
    outside[box[1] : box[3], box[0] : box[2]] = False
    assert (square[:, outside] == np.array([[124], [116], [104]])).all()


def test_stores_join_frames_without_changing_them(tmp_path: Path) -> None:
    store = FrameStore(tmp_path / "raw")
    frames = [truth(view) for view in clip(0, 3)]
    for k, frame in enumerate(frames):
        store.add(f"{k:06d}", frame)
    store.write_joined(tmp_path / "all.npz", {"extra": np.arange(3)})
    with np.load(tmp_path / "all.npz") as arrays:
        assert arrays["depth"].dtype == np.float32
        np.testing.assert_array_equal(arrays["canonical"], np.stack([f.canonical for f in frames]))
        np.testing.assert_array_equal(arrays["valid"], np.stack([f.valid for f in frames]))
        np.testing.assert_array_equal(arrays["extra"], np.arange(3))
    spool = ArraySpool(tmp_path / "spool")
    for k in range(4):
        spool.add({"xy": np.full((5, 2), k, np.float32), "seen": np.arange(5) > k})
    spool.write(tmp_path / "tracks.npz", {})
    with np.load(tmp_path / "tracks.npz") as arrays:
        assert arrays["xy"][:, 0, 0].tolist() == [0, 1, 2, 3]
        assert arrays["seen"].sum(1).tolist() == [4, 3, 2, 1]


def test_point_clouds_open_elsewhere(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    points, colours = rng.normal(size=(50, 3)).astype(np.float32), rng.integers(0, 256, (50, 3)).astype(np.uint8)
    write_points(tmp_path / "a.ply", points, colours, normals=points, confidence=points[:, 0])
    cloud = trimesh.load(tmp_path / "a.ply")
    np.testing.assert_array_equal(cloud.vertices.astype(np.float32), points)
    np.testing.assert_array_equal(cloud.colors[:, :3], colours)


def test_a_nearer_point_hides_a_farther_one() -> None:
    points = np.array([[0, 0, 1.0], [0, 0, 2.0], [1, 0, 1.5], [-1, 0, 1.5]])
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]], np.uint8)
    orbit = Orbit(np.array([0, 0, 1.5]), 1.0, np.eye(3))
    assert orbit.draw(points, colours, 0, 41)[20, 20].tolist() == [255, 0, 0]
    assert orbit.draw(points, colours, 180, 41)[20, 20].tolist() == [0, 255, 0]


def test_a_cloud_is_seen_as_its_first_camera_saw_it() -> None:
    upright = np.array([[0, -1, 0], [0, 1, 0], [0, 0, 0.0]])  # y is down in the camera's axes
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    world_to_camera = np.diag([1.0, -1.0, -1.0])
    orbit = Orbit.about(upright @ world_to_camera, world_to_camera)
    picture = orbit.draw(upright @ world_to_camera, colours, 0, 41)
    assert picture[3, 20].tolist() == [255, 0, 0]
    assert picture[37, 20].tolist() == [0, 255, 0]


def write_staged(out: Path, names: list[str], error: Exception | None = None) -> None:
    with prediction_folder(out) as staging:
        for name in names:
            (staging / name).write_text(name)
        if error is not None:
            raise error


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(RuntimeError):
        write_staged(out, ["half"], RuntimeError())
    assert list(tmp_path.iterdir()) == []
    write_staged(out, [MARKER, "first"])
    with pytest.raises(StorageError, match="the disk is full"):
        write_staged(out, ["second"], OSError(28, "No space left on device"))
    assert {p.name for p in out.iterdir()} == {LISTING, MARKER, "first"}
    write_staged(out, [MARKER])
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert {p.name for p in out.iterdir()} == {LISTING, MARKER}


STAGING = """
import sys, time
from pathlib import Path
from datagen.common.console import run
from trainer.prediction.output import prediction_folder
def work():
    with prediction_folder(Path(sys.argv[1])) as staging:
        (staging / "half").write_text("half")
        print("begun", flush=True)
        time.sleep(60)
run(work)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_what_a_killed_prediction_leaves_is_gone_at_once_or_with_the_next(number: int, tmp_path: Path) -> None:
    living, killed = (
        subprocess.Popen([sys.executable, "-c", STAGING, str(tmp_path / name)], stdout=subprocess.PIPE, text=True)
        for name in ("living", "killed")
    )
    (tmp_path / ".notes.tmp-of-mine").mkdir()
    try:
        for process in (living, killed):
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
        killed.send_signal(number)
        assert killed.wait(30) == (-number if number == signal.SIGKILL else 130)
        left = [path.name.partition(".tmp-")[0] for path in sorted(tmp_path.iterdir())]
        assert left == ([".killed"] if number == signal.SIGKILL else []) + [".living", ".notes"]
        write_staged(tmp_path / "next", [MARKER])
        # What is another's, or still at work, stays.
        left = [path.name.partition(".tmp-")[0] for path in sorted(tmp_path.iterdir())]
        assert left == [".living", ".notes", "next"]
    finally:
        for process in (living, killed):
            process.kill()
            process.communicate()


def test_foreign_folders_and_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for out in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises((InputError, StorageError), match="--out"):
            write_staged(out, ["mine"])
        assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_numbers_in_names_count_by_value() -> None:
    names = ["f10.png", "f2.png", "a3.png", "f2b.png", "10.png", "9.png"]
    ordered = [p.name for p in sorted(map(Path, names), key=natural_key)]
    assert ordered.index("f2.png") < ordered.index("f10.png")
    assert ordered.index("9.png") < ordered.index("10.png")
    assert ordered.index("a3.png") < ordered.index("f2.png")
