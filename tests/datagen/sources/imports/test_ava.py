"""Ava-256: out of its archives, whole and in parts; a calibration that is not transposed says so by itself."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datagen.sources.folder import FolderCaptures
from datagen.sources.frame import SequenceKey
from tests.datagen.sources.imports.test_imports import run
from tests.datagen.sources.imports.test_multiface import face_vertices
from tests.layouts.ava import FRAMES, SUBJECT, cameras, small, write_ava
from tests.layouts.multiface import picture, surface

SMILE = SequenceKey(SUBJECT, "SEN_smile")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ava")
    write_ava(root)
    return root


@pytest.fixture
def changed(given: Path, tmp_path: Path) -> Path:
    """A copy, to be changed."""
    return Path(shutil.copytree(given, tmp_path / "mine"))


def test_segments_come_back(given: Path, tmp_path: Path) -> None:
    code, said = run("import", "ava256", given, "--out", tmp_path / "captures")
    assert code == 0, said
    assert "doubtful" not in said
    for what in ("4 unpacked, 2 written anew", "tracked meshes of 1 of 3 frames: 105", "see --distorted"):
        assert what in said
    source = FolderCaptures(tmp_path / "captures")
    assert [info.frames for info in source.sequences()] == [FRAMES[:1], FRAMES[1:]]
    frame = source.frame(SMILE, FRAMES[1])
    np.testing.assert_allclose(frame.scan.vertices, surface(FRAMES[1]).vertices, atol=2e-7)
    np.testing.assert_array_equal(frame.scan.faces, surface(FRAMES[1]).faces)
    assert source.frame(SMILE, FRAMES[2]).time_s == pytest.approx(2 / 30)
    for camera, truth in zip(frame.cameras, map(small, cameras()), strict=True):
        np.testing.assert_allclose(camera.K, truth.K, atol=1e-9)
        np.testing.assert_allclose(camera.world_to_camera, truth.world_to_camera, atol=1e-9)
        # A pattern that moves 2 grey values in half a pixel here, and a codec that is not quite without loss.
        assert np.abs(frame.images[camera.name]() - picture(truth)).mean() < 1.2
    assert not list((tmp_path / "captures").rglob(".unpacked"))
    _, said = run("import", "ava256", given, "--out", tmp_path / "captures")
    assert said.count("kept, it was there already") == 2
    code, said = run("check", tmp_path / "captures")
    assert (code, "3 frames, 0 problems" in said) == (0, True), said


def test_with_landmarks_meshes_are_registrations_of_their_own_topology(given: Path, tmp_path: Path) -> None:
    indices = face_vertices()
    (tmp_path / "marks.txt").write_text(" ".join(map(str, indices)))
    code, said = run("import", "ava256", given, "--out", tmp_path / "captures", "--landmarks", tmp_path / "marks.txt")
    assert code == 0, said
    frame = FolderCaptures(tmp_path / "captures").frame(SMILE, FRAMES[1])
    assert frame.registration is not None
    assert frame.registration.head == "ava256"
    assert frame.landmarks is not None
    np.testing.assert_allclose(frame.landmarks.points, frame.scan.vertices[indices], atol=1e-6)


def test_a_calibration_that_was_put_right_is_read_as_it_is(tmp_path: Path) -> None:
    write_ava(tmp_path / "ava", transposed=False)
    code, said = run("import", "ava256", tmp_path / "ava", "--out", tmp_path / "captures")
    assert code == 0, said
    assert "K or T of 2 cameras are not transposed" in said
    camera = FolderCaptures(tmp_path / "captures").frame(SMILE, FRAMES[1]).cameras[0]
    np.testing.assert_allclose(camera.K, small(cameras()[0]).K, atol=1e-9)
    np.testing.assert_allclose(camera.world_to_camera, cameras()[0].world_to_camera, atol=1e-9)


def _without(*names: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        for name in names:
            (root / name.replace("DEC", f"{SUBJECT}/decoder")).unlink()

    return change


@pytest.mark.parametrize(
    ("change", "frames", "message"),
    [
        (_without("DEC/image/cam401000.zip"), [FRAMES[:1], FRAMES[1:]], "pictures of 1 of 2 cameras: 401000"),
        (_without("DEC/frame_list.csv"), [FRAMES], f"{SUBJECT}/all: written"),
        (_without("assets/face_topology.obj"), [FRAMES[:1], FRAMES[1:]], "the meshes are read as clouds"),
    ],
)
def test_a_partial_download_is_read_and_what_is_missing_is_said(
    changed: Path, tmp_path: Path, change: Callable[[Path], None], frames: list[tuple[int, ...]], message: str
) -> None:
    change(changed)
    code, said = run("import", "ava256", changed, "--out", tmp_path / "captures")
    assert code == 0, said
    assert message in said
    assert [info.frames for info in FolderCaptures(tmp_path / "captures").sequences()] == frames


def _write(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda root: (root / name.replace("DEC", f"{SUBJECT}/decoder")).write_bytes(data) and None


def _cut(name: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / name.replace("DEC", f"{SUBJECT}/decoder")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return change


def _krt(**change: object) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        path = root / SUBJECT / "decoder/camera_calibration.json"
        content = json.loads(path.read_text())
        content["KRT"][1] |= change
        path.write_text(json.dumps(content))

    return apply


def _members(name: str, data: bytes) -> Callable[[Path], None]:
    """Put the same bytes into each file of an archive."""

    def change(root: Path) -> None:
        path = root / name.replace("DEC", f"{SUBJECT}/decoder")
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        with zipfile.ZipFile(path, "w") as archive:
            for member in names:
                archive.writestr(member, data)

    return change


def _damaged(root: Path) -> None:
    path = root / SUBJECT / "decoder/image/cam401000.zip"
    data = bytearray(path.read_bytes())
    data[200:400] = bytes(200)
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("DEC/camera_calibration.json"), "has no camera_calibration.json"),
        (_write("DEC/camera_calibration.json", b"[]"), "has no list KRT"),
        (_write("DEC/camera_calibration.json", b"{"), "cannot be read"),
        (_krt(K=[[1]]), "of camera 401001 K is [[1]]"),
        (_krt(K=[[9, 0, 3], [0, 9, 3], [5, 5, 1]]), "focal lengths and a principal point"),
        (_krt(T=None), "T is None"),
        (_krt(distortion=[1]), "distortion is [1]"),
        (_krt(cameraId="401000"), "two cameras '401000'"),
        (_krt(cameraId="../x"), "cannot be the name of a camera"),
        (_krt(width=3), "height is None"),
        (_krt(cameraId=None), "has a camera with the keys"),
        (_cut("DEC/image/cam401000.zip"), "cam401000.zip cannot be read"),
        (_damaged, "cam401000.zip cannot be read"),
        (_cut("DEC/kinematic_tracking/registration_vertices.zip"), "registration_vertices.zip cannot be read"),
        (_without("DEC/kinematic_tracking/registration_vertices.zip"), "has no frame of this segment"),
        (_members("DEC/image/cam401000.zip", b"x"), "cam401000.zip/cam401000/000101.avif"),
        (_members("DEC/kinematic_tracking/registration_vertices.zip", b"ply"), "registration_vertices.zip/000101.ply"),
        (_members("DEC/head_pose/head_pose.zip", b"1 2 3"), "head_pose.zip/000101.txt is '1 2 3'"),
        (_members("DEC/head_pose/head_pose.zip", b"\xff"), "head_pose.zip/000101.txt is ''"),
        (_write("DEC/frame_list.csv", b"a,b\n1,2\n"), "frame_list.csv has the row"),
        (_write("assets/face_topology.obj", b"v 0 0 0\nf 1 2 3\n"), "face_topology.obj"),
    ],
)
def test_a_broken_download_is_one_message(
    changed: Path, tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    change(changed)
    words = ("--only", "*/EXP*") if "frame_list" not in message else ()
    code, said = run("import", "ava256", changed, "--out", tmp_path / "captures", *words)
    assert code == 2, said
    assert message in said
    assert ".unpacked" not in said
    assert not list((tmp_path / "captures").glob("*/*"))
