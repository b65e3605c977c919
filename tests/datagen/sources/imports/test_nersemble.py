"""NeRSemble: videos with clouds or tracked parameters, and version 1 with its depth maps and colours."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datagen.sources.capture_file import read_capture_file
from datagen.sources.folder import FolderCaptures
from datagen.sources.frame import SequenceKey
from tests.datagen.heads.test_heads_files import embedding, flame_arrays
from tests.datagen.sources.imports.test_imports import run
from tests.layouts.heads import AXES, MIDDLE, egg_of
from tests.layouts.nersemble import (
    COLOR,
    PERSON,
    SEQUENCE,
    SERIALS,
    cameras,
    cloud,
    picture,
    small,
    write_tracking,
    write_v1,
    write_v2,
)
from tests.support.videos import write_video

KEY = SequenceKey(PERSON, SEQUENCE)
V1 = SequenceKey("018", SEQUENCE)


def imported(layout: str, root: Path, *options: str | Path) -> str:
    code, said = run("import", layout, root, "--out", root.parent / "captures", *options)
    assert code == 0, said
    return said


def test_clouds_of_the_benchmark_and_their_videos_come_back(tmp_path: Path) -> None:
    person = write_v2(tmp_path / "set")
    said = imported("nersemble", tmp_path / "set")
    assert "6 linked" in said
    assert "doubtful" not in said
    source = FolderCaptures(tmp_path / "captures")
    (info,) = source.sequences()
    assert (info.key, info.frames) == (KEY, (0, 2))
    video = tmp_path / f"captures/{PERSON}/{SEQUENCE}/images/{SERIALS[0]}.mp4"
    assert os.path.samefile(video, person / f"sequences/{SEQUENCE}/images/cam_{SERIALS[0]}.mp4")
    for index in (0, 2):
        frame = source.frame(KEY, index)
        assert frame.time_s == pytest.approx(0.04 * index)
        np.testing.assert_allclose(frame.scan.vertices, cloud(index), atol=1e-7)
        assert frame.scan.normals is not None
        for found, truth in zip(frame.cameras, map(small, cameras()), strict=True):
            np.testing.assert_allclose(found.K, truth.K, atol=1e-9)
            np.testing.assert_allclose(found.world_to_camera, truth.world_to_camera, atol=1e-9)
            # What RGB loses on its way through YUV; another frame is 10 grey values off.
            assert np.abs(frame.images[found.name]() - picture(truth, index)).mean() < 1.5
            assert (frame.masks[found.name]() != egg_of(truth)[0]).mean() < 0.01
    code, said = run("check", tmp_path / "captures")
    assert (code, "2 frames, 0 problems" in said) == (0, True), said


def test_tracked_parameters_are_registrations(tmp_path: Path) -> None:
    write_v2(tmp_path / "set", part="mono_flame_avatar", clouds=False, tracking=True)
    imported("nersemble", tmp_path / "set")
    capture = read_capture_file(tmp_path / f"captures/{PERSON}/{SEQUENCE}")
    assert (capture.surface, capture.frames) == ("registration", [0, 1, 3])
    (tmp_path / "flame").mkdir()
    np.savez(tmp_path / "flame/flame2023.npz", **flame_arrays(20))
    np.savez(tmp_path / "flame/landmark_embedding.npz", **embedding())
    frame = FolderCaptures(tmp_path / "captures", head_root=tmp_path / "flame").frame(KEY, 3)
    np.testing.assert_allclose(frame.scan.vertices, flame_arrays(20)["v_template"] + MIDDLE, atol=1e-6)
    said = imported("nersemble", tmp_path / "set", "--fps", "73", "--head-root", tmp_path / "flame")
    assert "that needs FLAME's model file" not in said


def test_version_2_needs_a_tracking_that_is_named(tmp_path: Path) -> None:
    person = write_v2(tmp_path / "set", part="", clouds=False, masks=False)
    code, said = run("import", "nersemble", tmp_path / "set", "--out", tmp_path / "captures")
    assert (code, "has no surface" in said, "--tracking PATH" in said) == (2, True, True)
    write_tracking(person / "mine" / SEQUENCE / "flame.npz")
    (person / "calibration/color_calibration.json").write_text("{}")
    said = imported("nersemble", tmp_path / "set", "--tracking", "mine/{sequence}/flame.npz")
    for what in ("alpha maps of 2 of 2 cameras", "the colour calibration is not applied"):
        assert what in said
    assert read_capture_file(tmp_path / f"captures/{PERSON}/{SEQUENCE}").masks is None
    code, said = run("import", "nersemble", tmp_path / "set", "--out", tmp_path / "c", "--tracking", "../../x.npz")
    assert (code, "outside" in said) == (2, True)


def test_a_head_that_no_camera_sees_is_doubted(tmp_path: Path) -> None:
    person = write_v2(tmp_path / "set", part="mono_flame_avatar", clouds=False, tracking=True)
    path = person / f"sequences/{SEQUENCE}/tracking/flame2023_tracking_v2.npz"
    content = dict(np.load(path))
    np.savez(path, **{**content, "translation": content["translation"] + [5.0, 0, 0]})
    assert "doubtful: 2 of 2 cameras do not see where the tracked head is" in imported("nersemble", tmp_path / "set")


def test_alpha_maps_of_another_size_are_left_out_and_said(tmp_path: Path) -> None:
    person = write_v2(tmp_path / "set")
    path = person / f"sequences/{SEQUENCE}/alpha_maps/cam_{SERIALS[0]}.mp4"
    write_video(path, [0, 40, 80, 120], size=(32, 32))
    said = imported("nersemble", tmp_path / "set")
    assert f"alpha maps of 1 cameras, of another size than their pictures: {SERIALS[0]}" in said
    assert list(FolderCaptures(tmp_path / "captures").frame(KEY, 0).masks) == [SERIALS[1]]


@pytest.mark.parametrize("described", [False, True])
def test_depth_maps_of_version_1_come_back(tmp_path: Path, described: bool) -> None:
    write_v1(tmp_path / "set", described=described)
    said = imported("nersemble-v1", tmp_path / "set")
    assert "12 linked" in said
    assert "doubtful" not in said
    source = FolderCaptures(tmp_path / "captures")
    (info,) = source.sequences()
    assert (info.key, info.frames) == (V1, (0, 3))
    frame = source.frame(V1, 3)
    assert frame.time_s == pytest.approx(3 / 73)
    for found, truth in zip(frame.cameras, map(small, cameras()), strict=True):
        np.testing.assert_allclose(found.K, truth.K, atol=1e-9)
        measured = frame.depths[found.name]().depth
        # Half a step of 31 µm.
        np.testing.assert_allclose(measured, egg_of(truth)[1], atol=1.6e-5)
        shown = np.rint(picture(truth, 3)) / 255 @ COLOR[:, :3] + COLOR[:, 3]
        assert np.abs(frame.images[found.name]() / 255 - shown).max() < 0.6 / 255
        np.testing.assert_array_equal(frame.masks[found.name](), egg_of(truth)[0])
    # What is fused lies on the egg: a tenth of the 10 mm that a pixel covers, but where it is seen from the side.
    off = np.abs(np.linalg.norm((frame.scan.vertices - MIDDLE) / AXES, axis=1) - 1) * AXES.min()
    assert np.median(off) < 1e-3


def test_alpha_maps_of_half_the_size_are_resized(tmp_path: Path) -> None:
    person = write_v1(tmp_path / "set")
    for path in person.rglob("alpha_map-73fps/*.png"):
        with Image.open(path) as mask:
            half = mask.resize((mask.width // 2, mask.height // 2), Image.Resampling.BOX)
        half.save(path)
    said = imported("nersemble-v1", tmp_path / "set")
    for what in ("masks of another size than their pictures are resized", "8 linked, 4 written anew"):
        assert what in said
    frame = FolderCaptures(tmp_path / "captures").frame(V1, 0)
    for found, truth in zip(frame.cameras, map(small, cameras()), strict=True):
        np.testing.assert_allclose(found.K, truth.K, atol=1e-9)
        assert (frame.masks[found.name]() != egg_of(truth)[0]).mean() < 0.02
    Image.new("L", (44, 44)).save(path)
    code, said = run("import", "nersemble-v1", tmp_path / "set", "--out", tmp_path / "c")
    assert (code, "of one camera" in said) == (2, True)


def _without(*patterns: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        for pattern in patterns:
            for path in list(root.glob(pattern)):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


@pytest.mark.parametrize(
    ("change", "frames", "message"),
    [
        (_without(f"**/alpha_maps/*{SERIALS[0]}*"), (0, 2), "alpha maps of 1 of 2 cameras"),
        (_without(f"**/*/cam_{SERIALS[0]}.mp4"), (0, 2), f"videos of 1 of 2 cameras: {SERIALS[0]}"),
        (_without("**/frame_00000.pcd"), (2,), "written"),
    ],
)
def test_a_part_of_version_2_is_read(
    tmp_path: Path, change: Callable[[Path], None], frames: tuple[int, ...], message: str
) -> None:
    write_v2(tmp_path / "set")
    change(tmp_path / "set")
    assert message in imported("nersemble", tmp_path / "set")
    assert FolderCaptures(tmp_path / "captures").sequences()[0].frames == frames


@pytest.mark.parametrize(
    ("change", "frames", "message"),
    [
        (_without("**/alpha_map-73fps"), (0, 3), f"alpha maps of 2 of 2 cameras: {SERIALS[0]}, {SERIALS[1]}"),
        (_without("**/color_correction"), (0, 3), "colour corrections of 2 of 2 cameras"),
        (_without(f"**/depth_maps_compressed/*{SERIALS[0]}*"), (0, 3), "depth maps of 1 of 2 cameras"),
        (_without("**/frame_00003/colmap-73fps"), (0,), "of which a camera has no depth map: 3"),
        (_without(f"**/frame_00003/images*/*{SERIALS[0]}*"), (0, 3), "which lack most of the frames"),
        (_without(f"**/images*/*{SERIALS[0]}*"), (0, 3), "pictures of 1 of 2 cameras"),
    ],
)
def test_a_part_of_version_1_is_read(
    tmp_path: Path, change: Callable[[Path], None], frames: tuple[int, ...], message: str
) -> None:
    write_v1(tmp_path / "set")
    change(tmp_path / "set")
    assert message in imported("nersemble-v1", tmp_path / "set")
    source = FolderCaptures(tmp_path / "captures")
    assert source.sequences()[0].frames == frames
    assert len(source.frame(V1, 0).scan.vertices) > 100


def _params(**change: object) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        path = next(root.rglob("camera_params.json"))
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))

    return apply


def _write(pattern: str, data: bytes) -> Callable[[Path], None]:
    return lambda root: next(iter(sorted(root.rglob(pattern)))).write_bytes(data) and None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("**/camera_params.json"), "holds no sequence with videos"),
        (_params(world_2_cam=None), "has no `world_2_cam`"),
        (_params(world_2_cam={SERIALS[0]: [[1]]}), "world_2_cam of 220700191 is [[1]]"),
        (_params(world_2_cam={"../1": np.eye(4).tolist()}), "cannot be the name of a camera"),
        (_params(world_2_cam={"1": np.eye(4).tolist()}), "intrinsics of 1 is None"),
        (_params(intrinsics=[[1]]), "intrinsics of"),
        (_write("camera_params.json", b"?"), "cannot be read"),
        (_write("*.pcd", b"nothing"), "frame_00000.pcd"),
        (_write("*.pcd", b""), "frame_00000.pcd"),
        (_write("images/*.mp4", b"nothing"), f"cam_{SERIALS[0]}.mp4"),
        (_write("images/*.mp4", b""), f"cam_{SERIALS[0]}.mp4"),
        (lambda root: (next(root.rglob("images")) / "cam_9.mp4").write_bytes(b""), "has videos of 9"),
    ],
)
def test_a_broken_version_2_is_one_message(tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    write_v2(tmp_path / "set")
    change(tmp_path / "set")
    code, said = run("import", "nersemble", tmp_path / "set", "--out", tmp_path / "captures")
    assert code == 2
    assert message in said
    assert not list((tmp_path / "captures").glob("*/*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"translation": np.zeros(3)}, "has no translation"),
        ({"frames": np.array([1.5, 2, 3])}, "frames is [1.5, 2.0, 3.0]"),
        ({"frames": np.array([90, 91, 92])}, "no video reaches frame 90"),
    ],
)
def test_a_broken_tracking_is_one_message(tmp_path: Path, change: dict[str, np.ndarray], message: str) -> None:
    person = write_v2(tmp_path / "set", clouds=False, tracking=True)
    path = person / f"sequences/{SEQUENCE}/tracking/flame2023_tracking_v2.npz"
    np.savez(path, **{**dict(np.load(path)), **change})
    code, said = run("import", "nersemble", tmp_path / "set", "--out", tmp_path / "captures")
    assert code == 2
    assert message in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("**/camera_params.json"), "holds no sequence with frames"),
        (_without("**/colmap-73fps"), "has no frame with depth maps"),
        (_without("**/images-2x-73fps"), "has no frame with depth maps and pictures"),
        (_write("color_correction/*.npy", b"nothing"), ".npy cannot be read"),
        (_write("images-2x-73fps/*.png", b"nothing"), "cannot be read"),
        (lambda root: np.save(next(root.rglob("*.npy")), np.zeros((2, 2))), "has the shape (2, 2)"),
    ],
)
def test_a_broken_version_1_is_one_message(tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    write_v1(tmp_path / "set")
    change(tmp_path / "set")
    code, said = run("import", "nersemble-v1", tmp_path / "set", "--out", tmp_path / "captures")
    assert code == 2
    assert message in said
    assert not list((tmp_path / "captures").glob("*/*"))
