"""The detector's process: pictures in, faces out, and a plain word where it is missing or stops."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from datagen.common.errors import DependencyError, InputError
from datagen.common.face_mesh import FaceMesh
from tests.support.stand_in_detector import stand_in_python

# A Python with the real package, where there is one.
REAL = os.environ.get("CANONFACE_DETECTOR_PYTHON", "")


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[FaceMesh]:
    with FaceMesh(stand_in_python(tmp_path)) as mesh:
        yield mesh


def test_faces_come_in_pixels_of_pictures_of_any_size_one_after_another(mesh: FaceMesh):
    assert mesh.version == "0.0"
    wide, none, tall = (
        np.full((60, 80, 3), 90, np.uint8),
        np.zeros((8, 9, 3), np.uint8),
        np.full((90, 50, 3), 9, np.uint8),
    )
    first, nothing, second = mesh(wide), mesh(none), mesh(tall)
    assert first.shape == second.shape == (1, 478, 3)
    assert nothing.shape == (0, 478, 3)
    np.testing.assert_allclose(first / [80, 60, 80], second / [50, 90, 50], atol=1e-6)
    # Rows that are not contiguous, and an alpha channel, are no trouble.
    np.testing.assert_allclose(mesh(np.full((60, 160, 4), 90, np.uint8)[:, ::2]), first, atol=1e-6)


def test_a_process_that_ends_is_said(mesh: FaceMesh):
    with pytest.raises(DependencyError, match="the face detector stopped working"):
        mesh(np.ones((4, 4, 3), np.uint8))
    with pytest.raises(DependencyError, match="stopped working"):
        mesh(np.full((4, 4, 3), 9, np.uint8))


def test_a_python_without_the_package_or_none_at_all_is_said_with_how_to_get_it(tmp_path: Path):
    with pytest.raises(InputError, match=r"is not a program.*--detector-python"):
        FaceMesh(tmp_path / "python")
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho hello\n")
    broken.chmod(0o755)
    with pytest.raises(DependencyError, match="it answered b'hello"):
        FaceMesh(broken)
    package = tmp_path / "packages" / "mediapipe"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('no protobuf')\n")
    program = tmp_path / "without"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{package.parent}" exec "{sys.executable}" "$3"\n')
    program.chmod(0o755)
    with pytest.raises(DependencyError, match=r"cannot run the face mesh \(ImportError: no protobuf\)"):
        FaceMesh(program)


@pytest.mark.skipif(not REAL, reason="CANONFACE_DETECTOR_PYTHON names no Python with mediapipe")
def test_the_real_detector_finds_no_face_in_noise():
    with FaceMesh(Path(REAL)) as mesh:
        assert mesh(np.random.default_rng(0).integers(0, 256, (96, 96, 3)).astype(np.uint8)).shape == (0, 478, 3)
