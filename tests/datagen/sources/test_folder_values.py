"""The folder layout: units and their factors, frame numbers, and what a digest is made of."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datagen.common.errors import InputError, LandmarkError, MeshError
from datagen.geometry.camera import look_at
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import Mesh
from datagen.geometry.mesh_io import ply_bytes
from datagen.sources.folder import FolderCaptures
from datagen.sources.folder_writer import SequenceWriter
from datagen.sources.frame import Scale, SequenceKey
from datagen.sources.scale import scaled_frame
from datagen.sources.topology import Topology
from tests.support.topologies import write_topology

KEY = SequenceKey("anna", "speech")
FRAMES = (0, 7, 250)
CAMERAS = tuple(look_at(f"cam{k}", [x, 0.0, 1.0], [0, 0, 0], 60.0, 32, 24) for k, x in enumerate((-0.3, 0.3)))


def ball(frame: int, count: int = 60) -> Mesh:
    rng = np.random.default_rng(frame)
    points = rng.normal(size=(count, 3))
    points *= 0.1 / np.linalg.norm(points, axis=1, keepdims=True)
    return Mesh.of(points.astype(np.float32), rng.integers(0, count, (80, 3)))


def marks(scale: float = 1.0) -> Landmarks:
    points = np.array([[0.0, -0.08, 0.07], [0.0, 0.0, 0.1], [-0.04, 0.03, 0.08], [0.04, 0.03, 0.08]])
    return Landmarks(np.array([8, 30, 36, 45]), scale * points)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "captures"
    with SequenceWriter(root, KEY, CAMERAS, 25.0, registration_head="bare", generator={"key": "k"}) as writer:
        for frame in FRAMES:
            pictures = {c.name: np.full((24, 32, 3), 10 * k + frame % 99, np.uint8) for k, c in enumerate(CAMERAS)}
            writer.add(
                frame,
                ball(frame),
                registration=ball(frame + 1).vertices,
                landmarks=marks(),
                images=pictures,
                masks={name: picture[..., 0] > 5 for name, picture in pictures.items()},
            )
    return root


def folder(root: Path) -> Path:
    return root / "anna" / "speech"


def edit(root: Path, **changes: Any) -> None:
    path = folder(root) / "capture.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("frame", FRAMES)
def test_frame_numbers_name_files_and_times(root: Path, frame: int) -> None:
    found = FolderCaptures(root).frame(KEY, frame)
    assert found.index == frame
    assert found.key == KEY
    assert found.time_s == pytest.approx(frame / 25)
    assert (folder(root) / "scans" / f"{frame:06d}.ply").is_file()
    np.testing.assert_array_equal(found.scan.vertices, ball(frame).vertices)
    assert found.registration is not None
    np.testing.assert_allclose(found.registration.vertices, ball(frame + 1).vertices, atol=1e-8)
    assert found.images["cam1"]()[0, 0, 0] == 10 + frame % 99


@pytest.mark.parametrize("frame", [1, 6, 8, 251, -1])
def test_a_frame_between_the_listed_ones_is_refused_with_their_range(root: Path, frame: int) -> None:
    for ask in (FolderCaptures(root).frame, FolderCaptures(root).input_digest):
        with pytest.raises(InputError, match=f"no frame {frame}") as caught:
            ask(KEY, frame)
        assert caught.value.expected == "one of its 3 frames, 0 to 250"


def factor_in(error: InputError) -> float:
    found = re.search(r"factor of about ([0-9.e+-]+)", str(error))
    assert found is not None
    return float(found[1])


@pytest.mark.parametrize("factor", [1000.0, 100.0, 0.001])
def test_a_registration_in_another_unit_than_the_scan_is_refused_by_its_file_and_factor(
    root: Path, factor: float
) -> None:
    np.savez(folder(root) / "registrations/000007.npz", vertices=ball(8).vertices * factor)
    source = FolderCaptures(root)
    with pytest.raises(MeshError, match=r"registrations/000007\.npz measures") as caught:
        source.frame(KEY, 7)
    assert factor_in(caught.value) == pytest.approx(factor)
    source.frame(KEY, 0)


@pytest.mark.parametrize("factor", [1000.0, 100.0, 0.001])
def test_a_scan_in_another_unit_is_refused_by_its_file_and_factor(root: Path, factor: float) -> None:
    (folder(root) / "scans/000007.ply").write_bytes(ply_bytes(Mesh.of(ball(7).vertices * factor, ball(7).faces)))
    with pytest.raises(MeshError, match=r"scans/000007\.ply measures") as caught:
        FolderCaptures(root).frame(KEY, 7)
    assert factor_in(caught.value) == pytest.approx(factor)


@pytest.mark.parametrize(("unit", "factor"), [("mm", 0.001), ("cm", 0.01)])
def test_landmarks_in_another_unit_are_refused_by_their_file_and_factor(root: Path, unit: str, factor: float) -> None:
    """Landmarks span a face, less than a head: the factor is told from the size of a face."""
    path = folder(root) / "landmarks/000007.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "unit": unit}))
    with pytest.raises(MeshError, match=r"landmarks/000007\.json measures") as caught:
        FolderCaptures(root).frame(KEY, 7)
    assert factor_in(caught.value) == pytest.approx(factor)


@pytest.mark.parametrize(("size", "factor"), [(0.8, 1000.0), (1.3, 1000.0), (1.0, 100.0), (1.25, 100.0), (1.3, 0.01)])
def test_the_factor_of_landmarks_holds_for_small_and_large_faces(root: Path, size: float, factor: float) -> None:
    path = folder(root) / "landmarks/000007.json"
    content = json.loads(path.read_text())
    for index, point in zip(marks().indices, marks(size * factor).points, strict=True):
        content["points"][str(index)] = point.tolist()
    path.write_text(json.dumps(content))
    with pytest.raises(MeshError) as caught:
        FolderCaptures(root).frame(KEY, 7)
    assert factor_in(caught.value) == pytest.approx(factor, rel=0.01)


def test_the_unit_of_a_landmark_file_is_its_own(root: Path) -> None:
    path = folder(root) / "landmarks/000007.json"
    content = json.loads(path.read_text())
    points = {index: [1000 * x for x in xyz] for index, xyz in content["points"].items()}
    path.write_text(json.dumps({**content, "unit": "mm", "points": points}))
    found = FolderCaptures(root).frame(KEY, 7).landmarks
    assert found is not None
    np.testing.assert_allclose(found.points, marks().points, atol=1e-9)


def test_how_far_a_registration_may_be_off_is_read_scaled_and_checked(root: Path) -> None:
    known = np.linspace(0, 3e-3, 60, dtype=np.float32)
    (folder(root) / "fit").mkdir()
    path = folder(root) / "fit/000007.npz"
    np.savez(path, spread_m=known)
    before = FolderCaptures(root).input_digest(KEY, 7)
    entry = {"head": "bare", "pattern": "registrations/{frame:06d}.npz", "spread": "fit/{frame:06d}.npz"}
    edit(root, registration=entry)
    frame = FolderCaptures(root).frame(KEY, 7)
    assert frame.registration is not None
    np.testing.assert_array_equal(frame.registration.spread_m, known)
    larger = scaled_frame(frame, Scale(2.0, 0.1, 68, 1)).registration
    assert larger is not None
    np.testing.assert_allclose(larger.spread_m, 2 * known)
    told = FolderCaptures(root).input_digest(KEY, 7)
    np.savez(path, spread_m=2 * known)
    assert len({before, told, FolderCaptures(root).input_digest(KEY, 7)}) == 3
    for bad in (known[:59], -known, known * np.nan, np.arange(60)):
        np.savez(path, spread_m=bad)
        with pytest.raises(InputError, match=r"000007\.npz has spread_m of shape"):
            FolderCaptures(root).frame(KEY, 7)


def test_the_count_of_a_topologys_vertices_is_checked(root: Path) -> None:
    neutral = ball(3, 61)
    points = neutral.vertices[[3, 9, 20]]
    write_topology(root, Topology("own", neutral.vertices, neutral.faces, Landmarks(np.array([8, 30, 36]), points)))
    edit(root, registration={"topology": "own", "pattern": "registrations/{frame:06d}.npz"})
    with pytest.raises((MeshError, LandmarkError), match=r"registration .*000007\.npz has 60 vertices") as caught:
        FolderCaptures(root).frame(KEY, 7)
    assert "61, as the topology own has" in caught.value.expected
    np.savez(folder(root) / "registrations/000007.npz", vertices=neutral.vertices)
    found = FolderCaptures(root).frame(KEY, 7).registration
    assert found is not None
    assert found.head == "own"


def test_a_digest_changes_with_the_bytes_the_names_and_the_order_of_files(root: Path, tmp_path: Path) -> None:
    """One byte inside each file, of the same length; a file that moved to another name; contents exchanged."""
    source = FolderCaptures(root)
    before = source.input_digest(KEY, 7)
    names = [f"images/cam{k}/000007.png" for k in range(2)] + [f"masks/cam{k}/000007.png" for k in range(2)]
    names += ["scans/000007.ply", "registrations/000007.npz", "landmarks/000007.json", "capture.json"]
    found = {before}
    for name in names:
        path = folder(root) / name
        data = path.read_bytes()
        # JSON stays JSON: of its white space one is exchanged.
        at = data.index(b"\n") if name.endswith(".json") else len(data) - 3
        path.write_bytes(data[:at] + bytes([32 if name.endswith(".json") else data[at] ^ 1]) + data[at + 1 :])
        found.add(source.input_digest(KEY, 7))
        path.write_bytes(data)
    assert len(found) == 1 + len(names)
    assert source.input_digest(KEY, 7) == before

    one, two = (folder(root) / name for name in names[:2])
    bytes_one, bytes_two = one.read_bytes(), two.read_bytes()
    assert bytes_one != bytes_two
    one.write_bytes(bytes_two)
    two.write_bytes(bytes_one)
    assert source.input_digest(KEY, 7) not in found
    one.write_bytes(bytes_one)
    two.write_bytes(bytes_two)
    shutil.rmtree(folder(root) / "masks" / "cam1")
    assert source.input_digest(KEY, 7) not in found

    # Where the whole lies, and what other frames are, does not matter.
    shutil.copytree(root, tmp_path / "moved")
    for name in ("scans/000000.ply", "landmarks/000250.json"):
        (tmp_path / "moved/anna/speech" / name).write_bytes(b"other")
    assert FolderCaptures(tmp_path / "moved").input_digest(KEY, 7) == source.input_digest(KEY, 7)


def test_a_missing_file_has_no_digest(root: Path) -> None:
    (folder(root) / "landmarks/000007.json").unlink()
    with pytest.raises(InputError, match=r"landmarks/000007\.json of frame 7 of anna/speech"):
        FolderCaptures(root).input_digest(KEY, 7)


def test_masks_are_foreground_from_half_on(root: Path) -> None:
    from PIL import Image

    path = folder(root) / "masks/cam0/000007.png"
    values = np.zeros((24, 32), np.uint8)
    values[0, :4] = [127, 128, 1, 255]
    Image.fromarray(values).save(path)
    mask = FolderCaptures(root).frame(KEY, 7).masks["cam0"]()
    assert mask[0, :4].tolist() == [False, True, False, True]
    assert mask.sum() == 2


@pytest.mark.parametrize(("unit", "factor"), [("mm", 0.001), ("cm", 0.01), ("dm", 0.1), ("in", 0.0254)])
def test_the_declared_unit_scales_scans_registrations_and_cameras_but_not_intrinsics(
    root: Path, unit: str, factor: float
) -> None:
    scan = Mesh.of(ball(7).vertices / factor, ball(7).faces)
    (folder(root) / "scans/000007.ply").write_bytes(ply_bytes(scan))
    np.savez(folder(root) / "registrations/000007.npz", vertices=ball(8).vertices / factor)
    content = json.loads((folder(root) / "capture.json").read_text())
    for camera in content["cameras"].values():
        for row in camera["world_to_camera"][:3]:
            row[3] /= factor
    edit(root, unit=unit, cameras=content["cameras"])
    frame = FolderCaptures(root).frame(KEY, 7)
    np.testing.assert_allclose(frame.scan.vertices, ball(7).vertices, rtol=1e-5)
    assert frame.registration is not None
    np.testing.assert_allclose(frame.registration.vertices, ball(8).vertices, rtol=1e-5)
    for found, camera in zip(frame.cameras, CAMERAS, strict=True):
        np.testing.assert_allclose(found.world_to_camera, camera.world_to_camera, atol=1e-9)
        np.testing.assert_array_equal(found.K, camera.K)
