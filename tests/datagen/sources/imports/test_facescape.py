"""FaceScape's multi-view set: cameras, straightened pictures and the mesh in metres, whole and in parts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datagen.sources.folder import FolderCaptures
from datagen.sources.frame import SequenceKey
from tests.datagen.sources.imports.test_imports import run
from tests.layouts.facescape import EXPRESSION, SCALE, write_facescape
from tests.layouts.studio import HEIGHT, WIDTH, centres, pattern, scan

KEY = SequenceKey("122", EXPRESSION)


def imported(root: Path, *options: str | Path) -> tuple[int, str]:
    return run("import", "facescape", root, "--out", root.parent / "captures", *options)


def scales(root: Path) -> tuple[str, Path]:
    return "--scales", root / "Rt_scale_dict.json"


@pytest.mark.parametrize("by_file", [True, False])
def test_an_expression_comes_back(tmp_path: Path, by_file: bool) -> None:
    root = tmp_path / "facescape"
    found = write_facescape(root)
    code, said = imported(root, *(scales(root) if by_file else ("--metres-per-unit", str(SCALE / 1000))))
    assert code == 0, said
    for what in ("pictures of 3 cameras straightened", "left out: 1 of 4 views", "pixel centres at 0 "):
        assert what in said
    frame = FolderCaptures(tmp_path / "captures").frame(KEY, 0)
    np.testing.assert_allclose(frame.scan.vertices, scan().vertices, atol=1e-7)
    for camera, shot in zip(frame.cameras, found, strict=True):
        np.testing.assert_allclose(camera.world_to_camera, shot.camera.world_to_camera, atol=1e-9)
        np.testing.assert_allclose(camera.K[:2, 2], shot.camera.K[:2, 2], atol=1e-9)
        rays = (centres() - camera.K[:2, 2]) / [camera.K[0, 0], camera.K[1, 1]]
        truth = pattern(shot.camera, rays).reshape(HEIGHT, WIDTH, 3)
        # A JPEG of the best quality; half a pixel would be 4 to 8.
        assert np.abs(frame.images[camera.name]() - truth)[3:-3, 3:-3].mean() < 1


def _params(**change: object) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        path = root / "IMGS/122" / EXPRESSION / "params.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **{k[1:]: v for k, v in change.items()}}))

    return apply


def _without(pattern: str) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        for path in root.glob(pattern):
            path.unlink()

    return apply


def test_a_partial_download_is_read_and_what_is_missing_is_said(tmp_path: Path) -> None:
    root = tmp_path / "facescape"
    write_facescape(root, "2_smile")
    write_facescape(root)
    _without("IMGS/122/1_neutral/1.jpg")(root)
    _without("MESH/122/2_smile.ply")(root)
    code, said = imported(root, "--metres-per-unit", str(SCALE / 1000))
    assert code == 1
    assert "1 of 3 pictures: 1.jpg" in said
    assert "2_smile.ply is missing" in said
    (info,) = FolderCaptures(tmp_path / "captures").sequences()
    assert (info.key, info.cameras) == (KEY, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("IMGS/122/1_neutral/*.jpg"), "has none of the 3 pictures"),
        (_without("IMGS/122/1_neutral/params.json"), "holds no expression with params.json"),
        (_without("MESH/*/*.ply"), "1_neutral.ply is missing"),
        (_params(_1_K=[[1, 2], [3]]), "1_K is [[1, 2], [3]]"),
        (_params(_1_Rt=None), "1_Rt is None"),
        (_params(_1_distortion=[0, 0, 0]), "1_distortion is [0, 0, 0]. Expected 5 numbers"),
        (_params(_1_width="x"), "view 1 has the size ['x', 80]"),
        (_params(_1_width=99), "was calibrated for 99×80"),
        (lambda root: (root / "IMGS/122/1_neutral/params.json").write_text("[]"), "is no JSON object"),
        (lambda root: (root / "IMGS/122/1_neutral/params.json").write_text("{}"), "has no camera"),
        (lambda root: (root / "Rt_scale_dict.json").write_text('{"122": {"1": [0]}}'), "no scale of person 122"),
        (lambda root: (root / "Rt_scale_dict.json").write_text("?"), "Rt_scale_dict.json cannot be read"),
        (lambda root: (root / "MESH").rename(root / "IMGS.old"), "1_neutral.ply is missing"),
        (lambda root: (root / "IMGS").rename(root / "images"), "has no folder IMGS"),
    ],
)
def test_a_broken_download_is_one_message(tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    root = tmp_path / "facescape"
    write_facescape(root)
    change(root)
    code, said = imported(root, *scales(root))
    assert code == 2
    assert message in said
    assert not list((tmp_path / "captures").glob("*/*"))


def test_a_scale_is_asked_for(tmp_path: Path) -> None:
    write_facescape(tmp_path / "facescape")
    code, said = imported(tmp_path / "facescape")
    assert code == 2
    assert "the unit of the scan is not known" in said
    assert "--scales" in said
