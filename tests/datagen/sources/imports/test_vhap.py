"""VHAP's exports: instants, cameras that stand or move, meshes with teeth, parameters, axes held to the head."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datagen.sources.capture_file import read_capture_file
from datagen.sources.folder import FolderCaptures
from datagen.sources.frame import SequenceKey
from tests.datagen.heads.test_heads_files import embedding, flame_arrays
from tests.datagen.sources.imports.test_imports import run
from tests.layouts.heads import MIDDLE, head
from tests.layouts.studio import centres, pattern
from tests.layouts.vhap import INSTANTS, SERIALS, SIDE, WITH_TEETH, camera, write_vhap

KEY = SequenceKey("work", "take")


def imported(root: Path, *options: str | Path) -> str:
    code, said = run("import", "vhap", root, "--out", root.parent / "captures", *options)
    assert code == 0, said
    return said


@pytest.mark.parametrize("moving", [False, True])
def test_meshes_come_back_as_surface_and_registration(tmp_path: Path, moving: bool) -> None:
    write_vhap(tmp_path / "work", moving=moving)
    said = imported(tmp_path / "work")
    assert ("2 of 2 cameras move" in said) == moving
    assert "doubtful" not in said
    assert "15 linked" in said
    source = FolderCaptures(tmp_path / "captures")
    (info,) = source.sequences()
    assert (info.key, info.frames, info.registration) == (KEY, INSTANTS, "flame")
    for instant in INSTANTS:
        frame = source.frame(KEY, instant)
        np.testing.assert_allclose(frame.scan.vertices, head(WITH_TEETH, instant).vertices, atol=1e-6)
        assert frame.registration is not None
        assert len(frame.registration.vertices) == 5023
        for found in frame.cameras:
            truth = camera(found.name, instant, moving)
            np.testing.assert_allclose(found.K, truth.K, atol=1e-9)
            np.testing.assert_allclose(found.world_to_camera, truth.world_to_camera, atol=1e-9)
            rays = (centres(SIDE, SIDE) - found.K[:2, 2]) / found.K[0, 0]
            wanted = pattern(found, rays).reshape(SIDE, SIDE, 3)
            assert np.abs(frame.images[found.name]() - wanted).max() <= 0.5 + 1e-6
        assert sorted(frame.masks) == sorted(SERIALS)
    code, said = run("check", tmp_path / "captures")
    assert (code, "3 frames, 0 problems" in said) == (0, True), said


def test_parameters_are_registrations_that_the_users_model_poses(tmp_path: Path) -> None:
    write_vhap(tmp_path / "work", meshes=False)
    assert "that needs FLAME's model file" in imported(tmp_path / "work")
    capture = read_capture_file(tmp_path / "captures/work/take")
    assert capture.surface == "registration"
    assert capture.registration is not None
    assert (capture.registration.kind, capture.registration.head) == ("parameters", "flame")
    ours = tmp_path / "captures/work/take/registrations/000001.npz"
    assert os.path.samefile(ours, tmp_path / "work/flame_param/00001.npz")
    (tmp_path / "flame").mkdir()
    np.savez(tmp_path / "flame/flame2023.npz", **flame_arrays(20))
    np.savez(tmp_path / "flame/landmark_embedding.npz", **embedding())
    frame = FolderCaptures(tmp_path / "captures", head_root=tmp_path / "flame").frame(KEY, 1)
    wanted = flame_arrays(20)["v_template"] + MIDDLE + 1e-3
    np.testing.assert_allclose(frame.scan.vertices, wanted, atol=1e-6)
    assert len(frame.scan.faces)


def test_axes_that_see_the_head_are_asked_for(tmp_path: Path) -> None:
    write_vhap(tmp_path / "work", opencv=True)
    code, said = run("import", "vhap", tmp_path / "work", "--out", tmp_path / "captures")
    assert code == 2
    assert "0 see the head with opengl axes, and 2 with opencv axes" in said
    assert "--axes opencv" in said
    imported(tmp_path / "work", "--axes", "opencv")
    found = FolderCaptures(tmp_path / "captures").frame(KEY, 0).cameras[0]
    np.testing.assert_allclose(found.world_to_camera, camera(found.name, 0, False).world_to_camera, atol=1e-9)
    # And the other way round.
    write_vhap(tmp_path / "other", meshes=False)
    code, said = run("import", "vhap", tmp_path / "other", "--out", tmp_path / "c", "--axes", "opencv")
    assert (code, "--axes opengl" in said) == (2, True)


def _without(*names: str) -> Callable[[Path], None]:
    def change(work: Path) -> None:
        for name in names:
            (work / name).unlink()

    return change


@pytest.mark.parametrize(
    ("change", "frames", "message"),
    [
        (_without("meshes/00001.obj"), (0, 2), "1 files: meshes/00001.obj"),
        (_without("images/00001_00.png"), (0, 2), "of which a camera has no picture: 1"),
        (_without("fg_masks/00001_00.png"), INSTANTS, "1 files: fg_masks/00001_00.png"),
        (
            _without(*(f"images/{instant:05d}_01.png" for instant in INSTANTS)),
            INSTANTS,
            "3 files: images/00000_01.png",
        ),
    ],
)
def test_a_part_of_an_export_is_read_and_what_is_missing_is_said(
    tmp_path: Path, change: Callable[[Path], None], frames: tuple[int, ...], message: str
) -> None:
    write_vhap(tmp_path / "work")
    change(tmp_path / "work")
    assert message in imported(tmp_path / "work")
    source = FolderCaptures(tmp_path / "captures")
    assert source.sequences()[0].frames == frames
    assert source.frame(KEY, 0).images


def _entry(**change: object) -> Callable[[Path], None]:
    def apply(work: Path) -> None:
        path = work / "transforms.json"
        content = json.loads(path.read_text())
        content["frames"][1] |= change
        path.write_text(json.dumps(content))

    return apply


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_entry(timestep_index="x"), "whose `timestep_index` is 'x'"),
        (_entry(timestep_index=-1), "whose `timestep_index` is -1"),
        (_entry(timestep_index=10**30), "is too large"),
        (_entry(camera_id="../x"), "whose camera is '../x'"),
        (_entry(camera_id=None, camera_index=None), "whose camera is None"),
        (_entry(camera_id=SERIALS[0]), "is there twice"),
        (_entry(fl_x=90.5, timestep_index=1), "has other intrinsics than before"),
        (_entry(transform_matrix=[[1]]), "transform_matrix is [[1]]"),
        (_entry(file_path="/etc/passwd"), "lies outside"),
        (_entry(mesh_path="../x.obj"), "lies outside"),
        (lambda work: (work / "transforms.json").write_text("{}"), "has no list `frames`"),
        (lambda work: [path.unlink() for path in (work / "meshes").iterdir()], "names no FLAME mesh or parameters"),
        (lambda work: [path.unlink() for path in (work / "images").iterdir()], "has no instant with FLAME"),
        (lambda work: (work / "meshes/00000.obj").write_text("v 0"), "00000.obj"),
    ],
)
def test_a_bad_export_is_one_message(tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    write_vhap(tmp_path / "work")
    change(tmp_path / "work")
    code, said = run("import", "vhap", tmp_path / "work", "--out", tmp_path / "captures")
    assert code == 2
    assert message in said
    assert not list((tmp_path / "captures").glob("*/*"))


def test_bad_parameters_are_one_message(tmp_path: Path) -> None:
    write_vhap(tmp_path / "work", meshes=False)
    (tmp_path / "work/flame_param/00000.npz").write_bytes(b"nothing")
    code, said = run("import", "vhap", tmp_path / "work", "--out", tmp_path / "captures")
    assert (code, "00000.npz cannot be read" in said) == (2, True)
