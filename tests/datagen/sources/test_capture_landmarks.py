"""Landmarks of captures: of other programs, and of pictures, triangulated through lenses and past wrong cameras."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datagen.common.errors import InputError
from datagen.geometry.camera import look_at
from datagen.geometry.lens import BrownLens, source_pixels, straight_intrinsics
from datagen.geometry.mesh import Mesh
from datagen.sources.folder import FolderCaptures
from datagen.sources.folder_writer import SequenceWriter
from datagen.sources.frame import SequenceKey
from tests.datagen.sources.test_folder import edit

KEY = SequenceKey("anna", "speech")
NAMES = ("a", "b", "c", "d", "e")
CAMERAS = tuple(
    look_at(name, [np.sin(x), 0.1 * np.cos(3 * x), np.cos(x)], [0, 0, 0], 1200.0, 1000, 800)
    for name, x in zip(NAMES, np.linspace(-0.8, 0.8, 5), strict=True)
)
MARKS = np.random.default_rng(0).normal(size=(68, 3)) * 0.04
LENS, PARAMETERS = BrownLens((-0.1, 0.02), (), (0.001, -0.002)), [-0.1, 0.02, 0.001, -0.002]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    points = np.random.default_rng(1).normal(size=(60, 3))
    points *= 0.1 / np.linalg.norm(points, axis=1, keepdims=True)
    with SequenceWriter(tmp_path, KEY, CAMERAS, 25.0) as writer:
        writer.add(3, Mesh.of(points, np.arange(60).reshape(-1, 3)))
    return tmp_path


def _write(root: Path, name: str, content: Any) -> None:
    path = root / "anna" / "speech" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _read(root: Path, entry: Any, change: Callable[[dict[str, Any]], Any] = lambda _: None) -> Any:
    def both(content: dict[str, Any]) -> None:
        content["landmarks"] = entry
        change(content)

    edit(root, both)
    return FolderCaptures(root).frame(KEY, 3).landmarks


def test_files_of_other_programs_are_in_the_captures_unit(root: Path) -> None:
    _write(root, "marks/3.json", (MARKS[[36, 45, 30]] * 1000).tolist())
    entry = {"pattern": "marks/{frame}.json", "unit": "mm", "order": [36, 45, 30]}
    found = _read(root, entry)
    assert found.indices.tolist() == [30, 36, 45]
    np.testing.assert_allclose(found.points, MARKS[[30, 36, 45]])
    with pytest.raises(InputError, match="metres"):
        _read(root, {"pattern": "marks/{frame}.json", "order": [36, 45, 30]})
    with pytest.raises(InputError, match="has 3 points without a number"):
        _read(root, "marks/{frame}.json")
    with pytest.raises(InputError, match=r"landmarks.*`order` is one of ibug68"):
        _read(root, entry | {"order": "dlib"})
    with pytest.raises(InputError, match=r"names {camera}"):
        _read(root, entry | {"pattern": "{camera}/{frame}.json"})


def _pixels(camera: int) -> np.ndarray:
    """Return where the stored, distorted picture shows the points, pixel centres at +0.5."""
    one = CAMERAS[camera]
    straight = straight_intrinsics(LENS, one.K, one.width, one.height, one.name)
    return source_pixels(LENS, one.K, straight, (one.to_camera(MARKS) / one.to_camera(MARKS)[:, 2:]) @ straight[:2].T)


def _distorted(content: dict[str, Any]) -> None:
    for camera in content["cameras"].values():
        camera["distortion"] = {"model": "opencv", "parameters": PARAMETERS}


def test_points_of_pictures_are_triangulated_through_the_lens(root: Path) -> None:
    for k, name in enumerate(NAMES):
        _write(root, f"marks/{name}/3.json", (_pixels(k) - 0.5).tolist())
    entry = {"pattern": "marks/{camera}/{frame}.json", "kind": "2d", "order": "ibug68", "pixel_center": 0}
    found = _read(root, entry, _distorted)
    # The contour of the jaw is another line for each camera.
    assert found.indices.tolist() == list(range(17, 68))
    np.testing.assert_allclose(found.points, MARKS[17:], atol=1e-6)
    before = FolderCaptures(root).input_digest(KEY, 3)
    # A camera that found another face, one that saw three points, one without a file.
    _write(root, "marks/b/3.json", (_pixels(1) + np.array([60, 0])).tolist())
    _write(
        root, "marks/c/3.json", [p if k in (36, 45, 30) else None for k, p in enumerate((_pixels(2) - 0.5).tolist())]
    )
    (root / "anna/speech/marks/d/3.json").unlink()
    assert FolderCaptures(root).input_digest(KEY, 3) != before
    found = _read(root, entry)
    np.testing.assert_allclose(found.points, MARKS[found.indices], atol=1e-6)
    assert {36, 45, 30} <= set(found.indices.tolist())


def test_half_a_pixel_is_said_or_the_captures(root: Path) -> None:
    for k, name in enumerate(NAMES):
        _write(root, f"marks/{name}/3.json", _pixels(k).tolist())
    found = _read(root, {"pattern": "marks/{camera}/{frame}.json", "kind": "2d"}, _distorted)
    np.testing.assert_allclose(found.points, MARKS[17:], atol=1e-6)


def test_shares_of_the_picture_and_rows_before_columns(root: Path) -> None:
    for k, name in enumerate(NAMES):
        shares = _pixels(k) / [1000, 800]
        points = _pixels(k)[:, ::-1].tolist()
        _write(root, f"shares/{name}/3.json", np.c_[shares, np.zeros(68)].tolist())
        _write(root, f"menpo/{name}/3.ljson", {"groups": {"face": {"landmarks": {"points": points}}}})
    for pattern in ("shares/{camera}/{frame}.json", "menpo/{camera}/{frame}.ljson"):
        found = _read(root, {"pattern": pattern, "kind": "2d"}, _distorted)
        np.testing.assert_allclose(found.points, MARKS[17:], atol=1e-6)


def test_cameras_that_agree_on_nothing_are_an_error(root: Path) -> None:
    rng = np.random.default_rng(0)
    for name in NAMES:
        _write(root, f"marks/{name}/3.json", rng.uniform(0, 800, (68, 2)).tolist())
    with pytest.raises(InputError, match=r"two cameras or more show, 51, [012] lie within 6.0 pixels"):
        _read(root, {"pattern": "marks/{camera}/{frame}.json", "kind": "2d"})


def test_a_plain_pattern_stays_one_when_it_is_written_again(root: Path) -> None:
    from datagen.sources.capture_file import capture_file_bytes, read_capture_file

    for entry in ("marks/{frame}.json", {"pattern": "marks/{frame}.json", "unit": "mm"}):
        edit(root, lambda content, entry=entry: content.update(landmarks=entry))
        written = json.loads(capture_file_bytes(read_capture_file(root / "anna" / "speech")))
        assert written["landmarks"] == entry
