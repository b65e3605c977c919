"""The scale of captures in an unknown unit: found from landmarks, told with its uncertainty, applied to all alike."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from datagen.common.errors import InputError
from datagen.common.progress import Progress
from datagen.flows.check import check_captures
from datagen.flows.gate import gate
from datagen.geometry.camera import look_at
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import Mesh
from datagen.manifest import parse_manifest
from datagen.sources.folder import FolderCaptures
from datagen.sources.folder_writer import SequenceWriter
from datagen.sources.frame import SequenceKey
from datagen.sources.scale import ADULTS, ADULTS_SD, ScaledCaptures, adult_landmarks, scale_from

KEY = SequenceKey("anna", "speech")
UNIT = 7.5  # of the capture's lengths to a metre


def face(size: float = 1.0, noise_m: float = 0.0, seed: int = 0) -> np.ndarray:
    turned = adult_landmarks() @ np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0].T
    return np.asarray(turned * size + np.random.default_rng(seed).normal(0, noise_m, (68, 3)))


def test_the_factor_is_found_with_its_uncertainty() -> None:
    """Whatever the jaw does, with a wrong point or two, from some landmarks or all."""
    points = face(1 / UNIT, 0.001 / UNIT)
    points[:17] += 0.3
    points[40] += 0.2
    chosen = np.array([17, 26, 30, 36, 39, 42, 45, 48, 54, 57])
    for indices in (np.arange(68), chosen):
        scale = scale_from([Landmarks(indices, points[indices])])
        assert scale.factor == pytest.approx(UNIT, rel=0.01)
        assert scale.sigma / scale.factor == pytest.approx(ADULTS_SD / ADULTS, rel=0.01)
    told = scale_from([Landmarks(np.arange(68), face(1 / UNIT, 0.002 / UNIT, seed)) for seed in range(5)])
    assert told.factor == pytest.approx(UNIT, rel=0.01)
    assert str(told).startswith(f"{told.factor:.4g} ± 0.25")
    assert str(told).endswith("from 51 landmarks of 5 frames")
    with pytest.raises(InputError, match="no frame has landmarks to tell its scale by"):
        scale_from([Landmarks(np.arange(17), points[:17])])


def write(root: Path, **changes: object) -> Path:
    """A capture all of whose lengths are in an unknown unit."""
    head = Mesh.of(face() / UNIT, np.random.default_rng(0).integers(0, 68, (90, 3)))
    camera = look_at("cam0", np.array([0.0, 0.0, 1.0]) / UNIT, [0, 0, 0], 60.0, 32, 24)
    with SequenceWriter(root, KEY, (camera,), 25.0, registration_head="bare") as writer:
        for frame in range(2):
            writer.add(frame, head, registration=head.vertices[:50], landmarks=Landmarks(np.arange(68), face(1 / UNIT)))
    path = root / str(KEY) / "capture.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "unit": "unknown", **changes}))
    return root


def test_scan_landmarks_registration_and_cameras_are_scaled_alike(tmp_path: Path) -> None:
    root = write(tmp_path)
    plain, scaled = FolderCaptures(root, {}, unscaled=True), ScaledCaptures(FolderCaptures(root, {}, unscaled=True))
    raw, frame = plain.frame(KEY, 1), scaled.frame(KEY, 1)
    assert raw.registration is not None
    assert frame.registration is not None
    assert raw.landmarks is not None
    assert frame.landmarks is not None
    assert frame.scale is not None
    factor = frame.scale.factor
    assert factor == pytest.approx(UNIT, rel=1e-3)
    np.testing.assert_allclose(frame.scan.vertices, raw.scan.vertices * factor)
    np.testing.assert_allclose(frame.registration.vertices, raw.registration.vertices * factor)
    np.testing.assert_allclose(frame.landmarks.points, raw.landmarks.points * factor)
    # Nothing moves in a picture.
    seen, before = frame.cameras[0].project(frame.scan.vertices), raw.cameras[0].project(raw.scan.vertices)
    np.testing.assert_allclose(seen[0], before[0], atol=1e-9)
    np.testing.assert_allclose(seen[1], before[1] * factor)
    assert gate(frame, ()).frame.scale == frame.scale


def test_the_scale_is_part_of_what_a_frame_is_made_of(tmp_path: Path) -> None:
    root = write(tmp_path)
    before = ScaledCaptures(FolderCaptures(root, {}, unscaled=True)).input_digest(KEY, 0)
    path = root / str(KEY) / "landmarks/000001.json"
    content = json.loads(path.read_text())
    content["points"] = {name: (np.array(xyz) * 1.1).tolist() for name, xyz in content["points"].items()}
    path.write_text(json.dumps(content))
    # Another frame's landmarks changed, and with them the scale of all.
    assert ScaledCaptures(FolderCaptures(root, {}, unscaled=True)).input_digest(KEY, 0) != before


def test_an_unknown_unit_is_scaled_only_if_the_recipe_asks(tmp_path: Path) -> None:
    root = write(tmp_path)
    recipe = {"name": "x", "source": {"kind": "folder", "root": str(root)}, "splits": {"val": 0, "test": 0}}
    with pytest.raises(InputError, match=r"the unit is not known.*source\.scale: landmarks"):
        parse_manifest(recipe).source.captures(root).frame(KEY, 0)
    asked = parse_manifest({**recipe, "source": {**recipe["source"], "scale": "landmarks"}})  # type: ignore[dict-item]
    assert isinstance(asked.source.captures(root), ScaledCaptures)


def test_a_check_finds_the_scale_and_says_what_to_do(tmp_path: Path) -> None:
    import io

    with Progress("check", 0, "frames", io.StringIO()) as progress:
        found = check_captures(write(tmp_path, registration=None), progress)
    said = [note["problem"] for note in found.notes if "unit is not known" in note["problem"]]
    assert len(said) == 1
    assert "its scale is 7.5" in said[0]
    assert "source.scale=landmarks" in said[0]
    assert (found.frames, found.problems) == (2, [])
