"""FaMoS: Tsai's lens, registrations in metres beside scans in millimetres, whole and in parts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datagen.sources.capture_file import read_capture_file
from datagen.sources.folder import FolderCaptures
from datagen.sources.frame import SequenceKey
from datagen.sources.imports.flame_meshes import VERTICES as FLAME
from tests.datagen.sources.imports.test_imports import run
from tests.layouts.famos import FRAMES, SEQUENCE, SUBJECT, View, write_famos
from tests.layouts.heads import head
from tests.layouts.studio import centres, pattern

KEY = SequenceKey(SUBJECT, SEQUENCE)
BELOW = f"{SUBJECT}/{SEQUENCE}"


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[View]]:
    root = tmp_path_factory.mktemp("famos")
    return root, write_famos(root)


@pytest.fixture
def changed(given: tuple[Path, list[View]], tmp_path: Path) -> Path:
    """A copy, to be changed."""
    return Path(shutil.copytree(given[0], tmp_path / "mine"))


def test_a_sequence_comes_back(given: tuple[Path, list[View]], tmp_path: Path) -> None:
    root, rig = given
    code, said = run("import", "famos", root, "--out", tmp_path / "captures")
    assert code == 0, said
    source = FolderCaptures(tmp_path / "captures")
    (info,) = source.sequences()
    assert (info.key, info.frames, info.registration) == (KEY, FRAMES, "flame")
    for k, index in enumerate(FRAMES):
        frame = source.frame(KEY, index)
        assert frame.time_s == pytest.approx((index - 3) / 60)
        np.testing.assert_allclose(frame.scan.vertices, head(FLAME, k).vertices[::3], atol=2e-8)
        assert frame.registration is not None
        np.testing.assert_allclose(frame.registration.vertices, head(FLAME, k).vertices, atol=1e-8)
    for camera, view in zip(source.frame(KEY, FRAMES[0]).cameras, rig, strict=True):
        np.testing.assert_allclose(camera.world_to_camera, view.camera.world_to_camera, atol=1e-9)
        np.testing.assert_allclose(camera.K[:2, 2], view.camera.K[:2, 2], atol=1e-9)
        rays = (centres(camera.width, camera.height) - camera.K[:2, 2]) / [camera.K[0, 0], camera.K[1, 1]]
        truth = pattern(view.camera, rays).reshape(camera.height, camera.width, 3)
        # Half a pixel would be 4 to 8 grey values; without the lens, the corners are 2 pixels off.
        assert np.abs(frame.images[camera.name]() - truth)[3:-3, 3:-3].mean() < 0.6


def _without(*patterns: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        for pattern_ in patterns:
            for path in list(root.glob(pattern_)):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


@pytest.mark.parametrize(
    ("change", "frames", "message"),
    [
        (_without("scans"), FRAMES, "scans of 3 of 3 frames: registrations are the surface"),
        (_without(f"scans/{BELOW}/*4.npy"), FRAMES, "scans of 1 of 3 frames"),
        (_without("registrations"), FRAMES, "written"),
        (_without(f"registrations/{BELOW}/*4.ply"), (3, 7), "registrations of 1 of 3 frames, left out: 4"),
        (_without("downsampled_images_4/*/*/*/*01_C.png"), FRAMES, "pictures of 1 of 2 cameras: 01_C"),
        (_without("downsampled_images_4/*/*/000004/*01_C.png"), (3, 7), "of which a camera has no picture: 4"),
    ],
)
def test_a_partial_download_is_read_and_what_is_missing_is_said(
    changed: Path, tmp_path: Path, change: Callable[[Path], None], frames: tuple[int, ...], message: str
) -> None:
    change(changed)
    code, said = run("import", "famos", changed, "--out", tmp_path / "captures")
    assert code == 0, said
    assert message in said
    source = FolderCaptures(tmp_path / "captures")
    (info,) = source.sequences()
    assert info.frames == frames
    frame = source.frame(KEY, 3)
    scanned = len(list(changed.glob(f"scans/{BELOW}/*.npy"))) == len(FRAMES) or "registrations of" in message
    assert len(frame.scan.vertices) == (len(range(0, FLAME, 3)) if scanned else FLAME)
    assert read_capture_file(tmp_path / "captures" / BELOW).surface == ("scan" if scanned else "registration")


def test_all_in_one_tree(changed: Path, tmp_path: Path) -> None:
    for folder in ("scans", "calibrations", "downsampled_images_4"):
        shutil.copytree(changed / folder, changed / "registrations", dirs_exist_ok=True)
        shutil.rmtree(changed / folder)
    code, said = run("import", "famos", changed / "registrations", "--out", tmp_path / "captures")
    assert code == 0, said
    assert len(FolderCaptures(tmp_path / "captures").frame(KEY, 3).images) == 2


def _write(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda root: (root / name).write_bytes(data) and None


def _line(number: int, text: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / "calibrations" / BELOW / "00_C.tka"
        lines = path.read_text().splitlines()
        lines[number] = text
        path.write_text("\n".join(lines))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("calibrations"), "has no calibration of"),
        (_without("registrations", "scans"), "holds neither registrations nor scans"),
        (_without("downsampled_images_4"), "has no frame with a registration or a scan, and pictures"),
        (_line(1, "1 0"), "00_C.tka: the rotation is '1 0'"),
        (_line(1, "1 0 1"), "rotation part"),
        (_line(7, "f= 0"), "has f = 0"),
        (_line(7, "f= x"), "line 8 is"),
        (_line(15, "is= 1 x"), "the size of the picture is"),
        (_line(15, "is= 2000 100"), "was calibrated for 2000×100"),
        (_line(8, "K= -100"), "can be filled"),
        (_write(f"calibrations/{BELOW}/00_C.tka", b"M ="), "has 1 lines"),
        (_write(f"calibrations/{BELOW}/00_C.tka", b"\xff\xfe"), "cannot be read"),
        (_write(f"scans/{BELOW}/{SEQUENCE}.000003.npy", b"x"), "000003.npy cannot be read"),
        (_write(f"registrations/{BELOW}/{SEQUENCE}.000003.ply", b"x"), "000003.ply does not start with"),
        (
            lambda root: np.save(root / "scans" / BELOW / f"{SEQUENCE}.000003.npy", np.zeros((4, 2))),
            "has the shape (4, 2)",
        ),
        (_write(f"downsampled_images_4/{BELOW}/000003/{SEQUENCE}.000003.00_C.png", b"x"), "cannot be read"),
    ],
)
def test_a_broken_download_is_one_message(
    changed: Path, tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    change(changed)
    code, said = run("import", "famos", changed, "--out", tmp_path / "captures")
    assert code == 2
    assert message in said
    assert not list((tmp_path / "captures").glob("*/*"))
