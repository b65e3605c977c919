"""Pictures of a capture that are no 8-bit sRGB PNG: deep ones with `transfer`, AVIF."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datagen.common.errors import InputError
from datagen.geometry.camera import look_at
from datagen.geometry.mesh import Mesh
from datagen.sources.folder import FolderCaptures
from datagen.sources.folder_writer import SequenceWriter
from datagen.sources.frame import SequenceKey
from tests.datagen.sources.test_folder import edit
from tests.support.deep_files import exr

KEY = SequenceKey("anna", "speech")
WIDTH, HEIGHT = 28, 20
LIGHT = np.random.default_rng(0).uniform(0, 1, (HEIGHT, WIDTH, 3)).astype(np.float32)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    points = np.random.default_rng(0).normal(size=(60, 3))
    points *= 0.1 / np.linalg.norm(points, axis=1, keepdims=True)
    cameras = (look_at("left", [0.1, 0.0, 0.8], [0, 0, 0], 60.0, WIDTH, HEIGHT),)
    with SequenceWriter(tmp_path, KEY, cameras, 25.0) as writer:
        writer.add(3, Mesh.of(points, np.arange(60).reshape(-1, 3)))
    (tmp_path / "anna/speech/left").mkdir()
    return tmp_path


def test_an_exr_is_read_once_its_curve_is_told(root: Path) -> None:
    pytest.importorskip("av")
    (root / "anna/speech/left/3.exr").write_bytes(exr(LIGHT))
    edit(root, lambda content: content.update(images="{camera}/{frame}.exr"))
    frame = FolderCaptures(root).frame(KEY, 3)
    with pytest.raises(InputError, match=r"EXR, whose tone curve is not told.*transfer"):
        frame.images["left"]()
    edit(root, lambda content: content.update(transfer="linear"))
    expected = np.where(LIGHT <= 0.0031308, 12.92 * LIGHT, 1.055 * LIGHT ** (1 / 2.4) - 0.055)
    assert np.abs(FolderCaptures(root).frame(KEY, 3).images["left"]() - 255 * expected).max() < 0.51
    edit(root, lambda content: content.update(transfer="film"))
    with pytest.raises(InputError, match=r"transfer.*'srgb', 'linear', 'rec709' or 'gamma2.2'"):
        FolderCaptures(root).frame(KEY, 3)


def test_an_avif_is_a_picture(root: Path) -> None:
    smooth = np.rint(255 * np.linspace(0, 1, LIGHT.size).reshape(LIGHT.shape)).astype(np.uint8)
    Image.fromarray(smooth).save(root / "anna/speech/left/3.avif", quality=95, subsampling="4:4:4")
    edit(root, lambda content: content.update(images="{camera}/{frame}.avif"))
    found = FolderCaptures(root).frame(KEY, 3).images["left"]()
    assert np.abs(found.astype(int) - smooth).mean() < 3
