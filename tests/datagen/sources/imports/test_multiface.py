"""Multiface: the layout read whole and in parts; what its files do not say is a setting."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datagen.geometry.lens import BrownLens, straight_intrinsics
from datagen.manifest import parse_manifest
from datagen.sources.folder import FolderCaptures
from datagen.sources.frame import SequenceKey
from tests.datagen.sources.imports.test_imports import run
from tests.layouts.multiface import (
    ENTITY,
    FRAMES,
    LENS,
    SEGMENT,
    SMALL,
    cameras,
    picture,
    small,
    surface,
    write_multiface,
)

KEY = SequenceKey("6795067", SEGMENT)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("multiface")
    write_multiface(root)
    return root


@pytest.fixture
def changed(given: Path, tmp_path: Path) -> Path:
    """One person's folder, to be changed."""
    return Path(shutil.copytree(given / ENTITY, tmp_path / "mine" / ENTITY))


def imported(root: Path, out: Path, *options: str) -> str:
    code, said = run("import", "multiface", root, "--out", out, *options)
    assert code == 0, said
    return said


def test_a_segment_comes_back(given: Path, tmp_path: Path) -> None:
    said = imported(given, tmp_path / "captures")
    source = FolderCaptures(tmp_path / "captures")
    (info,) = source.sequences()
    assert (info.key, info.frames) == (KEY, FRAMES)
    for index in FRAMES:
        frame = source.frame(KEY, index)
        assert frame.time_s == pytest.approx((index - FRAMES[0]) / 30)
        # float32 of millimetres, far from the head's origin.
        np.testing.assert_allclose(frame.scan.vertices, surface(index).vertices, atol=2e-7)
        np.testing.assert_array_equal(frame.scan.faces, surface(index).faces)
        for camera, truth in zip(frame.cameras, map(small, cameras()), strict=True):
            np.testing.assert_allclose(camera.K, truth.K, atol=1e-9)
            np.testing.assert_allclose(camera.world_to_camera, truth.world_to_camera, atol=1e-9)
            assert np.abs(frame.images[camera.name]() - picture(truth)).max() <= 0.5
    assert "doubtful" not in said
    for what in ("6 linked, 3 written anew", "1 of 4 frames: 105", "30 frames a second", "the set's own loader"):
        assert what in said
    recipe = {"name": "x", "source": {"kind": "folder", "root": str(tmp_path / "captures")}}
    origin = parse_manifest(recipe).source.origin
    assert origin["licence"] == "CC-BY-NC-4.0 (Multiface)"
    assert "Wuu et al." in origin["citation"]
    code, said = run("check", tmp_path / "captures")
    assert (code, "3 frames, 0 problems" in said) == (0, True), said


def test_what_the_files_do_not_say_is_a_setting(given: Path, tmp_path: Path) -> None:
    imported(given / ENTITY, tmp_path / "a", "--pixel-center", "0.5", "--fps", "10")
    frame = FolderCaptures(tmp_path / "a").frame(KEY, FRAMES[1])
    assert frame.time_s == pytest.approx(0.1)
    truth = small(cameras()[0]).K
    np.testing.assert_allclose(
        truth[:2, 2] - frame.cameras[0].K[:2, 2], 0.5 * np.array(SMALL) / (1334, 2048), atol=1e-9
    )
    said = imported(given / ENTITY, tmp_path / "b", "--distorted")
    assert "pictures of 2 cameras straightened" in said
    k1, k2, p1, p2, k3 = LENS
    wanted = straight_intrinsics(BrownLens((k1, k2, k3), (), (p1, p2)), truth, *SMALL, "c")
    np.testing.assert_allclose(FolderCaptures(tmp_path / "b").frame(KEY, FRAMES[0]).cameras[0].K, wanted, rtol=1e-9)


def face_vertices() -> list[int]:
    """Return 68 vertices of the surface that are where a face's landmarks may be."""
    places = {36: (-0.04, 0.03), 45: (0.04, 0.03), 27: (0, 0.028), 30: (0, 0), 8: (0, -0.06)}
    points, found = surface(FRAMES[0]).vertices[:, :2], list[int]()
    for k in range(68):
        x, y = places.get(k, (0.06 * np.cos(2.4 * k), 0.06 * np.sin(1.3 * k)))
        order = np.argsort(np.linalg.norm(points - [x, y], axis=1))
        found.append(next(int(index) for index in order if int(index) not in found))
    return found


def test_with_landmarks_meshes_are_registrations_of_their_own_topology(given: Path, tmp_path: Path) -> None:
    indices = face_vertices()
    (tmp_path / "marks.txt").write_text(" ".join(map(str, indices)))
    said = imported(given, tmp_path / "captures", "--landmarks", str(tmp_path / "marks.txt"))
    assert "the topology multiface is described by" in said
    source = FolderCaptures(tmp_path / "captures")
    frame = source.frame(KEY, FRAMES[1])
    assert frame.registration is not None
    assert frame.registration.head == "multiface"
    np.testing.assert_array_equal(frame.registration.vertices, frame.scan.vertices)
    assert frame.landmarks is not None
    np.testing.assert_allclose(frame.landmarks.points, frame.scan.vertices[indices], atol=1e-6)
    assert len(source.topology("multiface").vertices) == len(surface(FRAMES[0]).vertices)
    (tmp_path / "marks.txt").write_text(" ".join(map(str, range(68))))
    code, said = run("import", "multiface", given, "--out", tmp_path / "c", "--landmarks", tmp_path / "marks.txt")
    assert (code, "are not the landmarks of a face" in said) == (2, True)


def test_two_recordings_of_one_person_keep_their_dates(changed: Path, tmp_path: Path) -> None:
    shutil.copytree(changed, changed.parent / ENTITY.replace("20180227", "20190529"))
    imported(changed.parent, tmp_path / "captures")
    found = [info.key.sequence for info in FolderCaptures(tmp_path / "captures").sequences()]
    assert found == [f"20180227-0000--{SEGMENT}", f"20190529-0000--{SEGMENT}"]


def _without(*names: str) -> Callable[[Path], None]:
    def change(entity: Path) -> None:
        for name in names:
            path = entity / name.replace("SEG", SEGMENT)
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


@pytest.mark.parametrize(
    ("change", "frames", "views", "message"),
    [
        (_without("images/SEG/400001"), FRAMES, 1, "pictures of 1 of 2 cameras: 400001"),
        (
            _without("images/SEG/400001/000102.png"),
            (101, 104),
            2,
            "1 of 3 frames, of which a camera has no picture: 102",
        ),
        (
            _without("images/SEG/400001/000102.png", "images/SEG/400001/000104.png"),
            FRAMES,
            1,
            "left out: 1 cameras, which lack most of the frames: 400001",
        ),
        (_without("tracked_mesh/SEG/000104.bin"), (101, 102), 2, "tracked meshes of 2 of 4 frames: 104, 105"),
        (_without("tracked_mesh/SEG/000102_transform.txt"), (101, 104), 2, "transforms of 1 frames: 102"),
        (_without("frame_list.txt"), FRAMES, 2, "6 linked"),
        (_without("tracked_mesh/SEG/000101.obj"), FRAMES, 2, "an .obj, which has the faces"),
    ],
)
def test_a_partial_download_is_read_and_what_is_missing_is_said(
    changed: Path, tmp_path: Path, change: Callable[[Path], None], frames: tuple[int, ...], views: int, message: str
) -> None:
    change(changed)
    assert message in imported(changed, tmp_path / "captures")
    source = FolderCaptures(tmp_path / "captures")
    (info,) = source.sequences()
    assert info.frames == frames
    assert all(len(source.frame(KEY, index).images) == views for index in frames)


def _write(name: str, data: bytes) -> Callable[[Path], None]:
    def change(entity: Path) -> None:
        (entity / name.replace("SEG", SEGMENT)).write_bytes(data)

    return change


def _linked_out(entity: Path) -> None:
    path = entity / "images" / SEGMENT / "400000/000102.png"
    path.rename(entity.parent / "out.png")
    path.symlink_to(entity.parent / "out.png")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("KRT"), "holds no segment with tracked meshes"),
        (_without("tracked_mesh"), "holds no segment with tracked meshes"),
        (_without("images"), "has no frame with a mesh, its transform and a picture"),
        (_write("KRT", b"400000\n1 2 3\n"), "KRT has no camera in the lines from '400000' on"),
        (_write("KRT", b"../x\n1 0 0\n0 1 0\n0 0 1\n0 0 0 0 0\n1 0 0 0\n0 1 0 0\n0 0 1 0\n"), "from '../x' on"),
        (_write("KRT", b""), "KRT has no camera"),
        (_write("KRT", b"\xff\xfe"), "KRT cannot be read"),
        (_write("tracked_mesh/SEG/000102.bin", b"1234"), "000102.bin has 4 bytes. Expected 87672"),
        (
            _write("tracked_mesh/SEG/000101.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"),
            "has 3 vertices. Expected 7306",
        ),
        (_write("tracked_mesh/SEG/000102_transform.txt", b"1 0 0\n"), "is not 3×4"),
        (_write("tracked_mesh/SEG/000102_transform.txt", b"1 0 0 x\n" * 3), "is not made of finite numbers"),
        (_write("images/SEG/400000/000102.png", b""), "000102.png cannot be read"),
        (_linked_out, "names '000102.png', which lies outside"),
    ],
)
def test_a_broken_download_is_one_message(
    changed: Path, tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    change(changed)
    code, said = run("import", "multiface", changed, "--out", tmp_path / "captures")
    assert code == 2
    assert message in said
    assert not list((tmp_path / "captures").glob("*/*"))


def test_its_unit_and_licence_are_known(given: Path, tmp_path: Path) -> None:
    code, said = run("import", "multiface", given, "--out", tmp_path / "captures", "--unit", "m", "--licence", "mine")
    assert code == 2
    assert "--licence, --unit given for multiface, which does not take it" in said
