"""Sets of meshes without pictures: vertices come back as registrations, and shading is what geometry says."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datagen.geometry.mesh_io import ply_bytes
from datagen.manifest import parse_manifest
from datagen.sources.capture_file import read_capture_file
from datagen.sources.folder import FolderCaptures
from datagen.sources.frame import Frame, SequenceKey
from datagen.sources.imports.facescape_tu import VERTICES as FACESCAPE
from datagen.sources.imports.flame_meshes import VERTICES as FLAME
from tests.datagen.sources.imports.test_imports import run
from tests.layouts.heads import head, seen
from tests.layouts.meshes import COMA_FRAMES, PERSON, write_coma, write_facescape_tu, write_vocaset
from tests.layouts.studio import centres

SMALL = ("--cameras", "2", "--image-size", "48")


def imported(layout: str, root: Path, *options: str | Path) -> str:
    code, said = run("import", layout, root, "--out", root.parent / "captures", *SMALL, *options)
    assert code == 0, said
    return said


def assert_drawn(frame: Frame) -> None:
    """The pictures of frame 0 show an egg under the cameras' own light."""
    assert len(frame.cameras) == 2
    for camera in frame.cameras:
        rays = np.c_[centres(48, 48), np.ones(48 * 48)] @ np.linalg.inv(camera.K).T @ camera.world_to_camera[:3, :3]
        hit, cosine = (values.reshape(48, 48) for values in seen(camera.centre, rays))
        image, mask = frame.images[camera.name](), frame.masks[camera.name]()
        # At the border the mesh is a little smaller than the egg.
        assert np.abs(mask.astype(int) - hit).mean() < 0.01
        assert 0.2 < mask.mean() < 0.6
        assert not image[~mask].any()
        linear = 0.6 * (0.15 + 0.85 * cosine)
        truth = 255 * (1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055)
        inside = mask & hit & (cosine > 0.3)
        assert np.abs(image[inside].astype(float) - truth[inside][:, None]).max() < 3


def test_sentences_of_vocaset_come_back(tmp_path: Path) -> None:
    write_vocaset(tmp_path / "voca")
    said = imported("vocaset", tmp_path / "voca")
    assert "pictures are simulated shading" in said
    assert "doubtful" not in said
    source = FolderCaptures(tmp_path / "captures")
    assert [(info.key.sequence, info.frames) for info in source.sequences()] == [
        ("sentence01", (0, 1, 2)),
        ("sentence02", (0, 1)),
    ]
    for sentence, index in (("sentence01", 2), ("sentence02", 1)):
        frame = source.frame(SequenceKey(PERSON, sentence), index)
        assert frame.time_s == pytest.approx(index / 60)
        np.testing.assert_allclose(frame.scan.vertices, head(FLAME, index).vertices, atol=1e-8)
        assert frame.registration is not None
        assert frame.registration.head == "flame"
        np.testing.assert_array_equal(frame.registration.vertices, frame.scan.vertices)
    assert_drawn(source.frame(SequenceKey(PERSON, "sentence01"), 0))
    # What they are reaches the datasets.
    recipe = {"name": "x", "source": {"kind": "folder", "root": str(tmp_path / "captures")}}
    origin = parse_manifest(recipe).source.origin
    assert origin["pictures"] == "simulated shading of meshes that came without pictures"
    assert "VOCASET" in origin["licence"]


def test_captures_and_frames_can_be_chosen(tmp_path: Path) -> None:
    write_vocaset(tmp_path / "voca")
    imported("vocaset", tmp_path / "voca", "--only", "*/sentence01", "--every", "2")
    (info,) = FolderCaptures(tmp_path / "captures").sequences()
    assert (info.key.sequence, info.frames) == ("sentence01", (0, 2))
    code, said = run("import", "vocaset", tmp_path / "voca", "--out", tmp_path / "captures", "--only", "x")
    assert (code, "--only x fits none of 2 captures" in said) == (2, True)


def test_expressions_of_coma_come_back(tmp_path: Path) -> None:
    write_coma(tmp_path / "coma")
    said = imported("coma", tmp_path / "coma")
    assert "3 linked" in said
    source = FolderCaptures(tmp_path / "captures")
    (info,) = source.sequences()
    assert (info.frames, info.registration) == (COMA_FRAMES, "flame")
    for index in COMA_FRAMES:
        frame = source.frame(info.key, index)
        assert frame.time_s == pytest.approx((index - 7) / 60)
        np.testing.assert_allclose(frame.scan.vertices, head(FLAME, index - 7).vertices, atol=1e-8)
    assert_drawn(source.frame(info.key, 7))


def test_a_face_that_looks_elsewhere_is_doubted(tmp_path: Path) -> None:
    write_coma(tmp_path / "coma")
    said = imported("coma", tmp_path / "coma", "--facing", "-z")
    assert "of the vertices lie in the half away from the cameras; see --facing" in said


def test_models_of_facescape_are_registrations_of_their_own_topology(tmp_path: Path) -> None:
    root = tmp_path / "facescape"
    indices = write_facescape_tu(root)
    said = imported("facescape-tu", root, "--landmarks", root / "landmark_indices.txt")
    assert "the topology facescape-tu is described by" in said
    source = FolderCaptures(tmp_path / "captures")
    assert [info.key.sequence for info in source.sequences()] == ["1_neutral", "2_smile"]
    for k, name in enumerate(("1_neutral", "2_smile")):
        frame = source.frame(SequenceKey("122", name), 0)
        np.testing.assert_allclose(frame.scan.vertices, head(FACESCAPE, k).vertices, atol=1e-8)
        assert frame.registration is not None
        assert frame.registration.head == "facescape-tu"
        assert frame.landmarks is not None
        np.testing.assert_allclose(frame.landmarks.points, frame.scan.vertices[indices], atol=1e-6)
    topology = source.topology("facescape-tu")
    np.testing.assert_allclose(topology.vertices, head(FACESCAPE).vertices, atol=1e-8)
    assert_drawn(source.frame(SequenceKey("122", "1_neutral"), 0))


def test_without_landmarks_models_are_surfaces(tmp_path: Path) -> None:
    root = tmp_path / "facescape"
    write_facescape_tu(root)
    assert "meshes are surfaces only" in imported("facescape-tu", root)
    assert read_capture_file(tmp_path / "captures/122/1_neutral").registration is None
    assert not (tmp_path / "captures/topologies").exists()


def _write(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda root: (root / name).write_bytes(data) and None


def _save(array: object) -> Callable[[Path], None]:
    return lambda root: np.save(root / "data_verts.npy", np.asarray(array))


def _cut(root: Path) -> None:
    path = root / "data_verts.npy"
    path.write_bytes(path.read_bytes()[:-1000])


def _other_order(root: Path) -> None:
    mesh = head(FLAME)
    turned = np.random.default_rng(0).permutation(FLAME)
    (root / "FLAME_sample.ply").write_bytes(
        ply_bytes(type(mesh).of(mesh.vertices[turned], np.argsort(turned)[mesh.faces]))
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "data_verts.npy").unlink(), "has no data_verts.npy"),
        (lambda root: (root / "subj_seq_to_idx.pkl").unlink(), "subj_seq_to_idx.pkl cannot be read"),
        (lambda root: (root / "FLAME_sample.ply").unlink(), "has vertices, but no faces"),
        (_write("FLAME_sample.ply", b"ply"), "FLAME_sample.ply does not start with 'ply'"),
        (_write("subj_seq_to_idx.pkl", b"nothing"), "cannot be unpickled"),
        (_write("subj_seq_to_idx.pkl", pickle.dumps({"a": {"b": {"x": 1}}})), "which is not numbered rows"),
        (_write("subj_seq_to_idx.pkl", pickle.dumps({"../a": {"b": {0: 1}}})), "which is not numbered rows"),
        (_write("subj_seq_to_idx.pkl", pickle.dumps([])), "names no sentence"),
        (_write("subj_seq_to_idx.pkl", pickle.dumps({"a": {"b": {0: 99}}})), "none of them of this sentence"),
        (_cut, "data_verts.npy cannot be read"),
        (_save(np.zeros((2, 7, 3))), "has the shape (2, 7, 3)"),
        (_save(np.array([{}, None])), "data_verts.npy cannot be read"),
        (_save(np.full((5, FLAME, 3), np.nan)), "row 0 of"),
        (_save(np.r_["0,3", [head(FLAME).vertices] * 5] + 1e15 * (np.arange(FLAME) == 7)[:, None]), "camera cam00"),
        (_save(np.ones((5, FLAME, 3))), "all points of the first mesh lie in one place"),
        (_other_order, "times as far apart"),
    ],
)
def test_a_broken_vocaset_is_one_message(tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    write_vocaset(tmp_path / "voca")
    change(tmp_path / "voca")
    code, said = run("import", "vocaset", tmp_path / "voca", "--out", tmp_path / "captures", *SMALL)
    assert code in {1, 2}
    assert message in said
    assert not list((tmp_path / "captures").glob("*/*"))


def test_a_part_of_vocaset_is_read(tmp_path: Path) -> None:
    write_vocaset(tmp_path / "voca")
    array = np.load(tmp_path / "voca/data_verts.npy")
    np.save(tmp_path / "voca/data_verts.npy", array[:2])
    code, said = run("import", "vocaset", tmp_path / "voca", "--out", tmp_path / "captures", *SMALL)
    assert code == 1
    assert "1 of 3 frames, whose rows data_verts.npy has not: 2" in said
    assert [info.frames for info in FolderCaptures(tmp_path / "captures").sequences()] == [(0, 1)]


def _first_mesh(data: bytes) -> Callable[[Path], object]:
    return lambda root: next(iter(sorted(root.rglob("*.ply")))).write_bytes(data)


def _renamed(name: str) -> Callable[[Path], object]:
    return lambda root: next(root.rglob("*7.ply")).rename(next(root.rglob("*8.ply")).with_name(name))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_first_mesh(b"ply"), "does not start with 'ply'"),
        (_first_mesh(ply_bytes(head(100))), "has 100 vertices"),
        (_renamed("x8.ply"), "another file"),
        (_renamed("x.ply"), "no number"),
        (lambda root: [path.unlink() for path in root.rglob("*.ply")], "holds no meshes"),
    ],
)
def test_a_broken_coma_is_one_message(tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    write_coma(tmp_path / "coma")
    change(tmp_path / "coma")
    code, said = run("import", "coma", tmp_path / "coma", "--out", tmp_path / "captures", *SMALL)
    assert code == 2
    assert message in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("1 2 x", "cannot be read"),
        ("1 2 3", "has 3 numbers from 1 to 3"),
        (" ".join(map(str, range(26250, 26318))), "from 26250 to 26317"),
        (" ".join(map(str, range(68))), "are not the landmarks of a face"),
    ],
)
def test_a_wrong_list_of_landmarks_is_one_message(tmp_path: Path, text: str, message: str) -> None:
    root = tmp_path / "facescape"
    write_facescape_tu(root)
    (root / "122/models_reg/2_smile.obj").unlink()
    (root / "landmark_indices.txt").write_text(text)
    words = ("--landmarks", root / "landmark_indices.txt")
    code, said = run("import", "facescape-tu", root, "--out", tmp_path / "captures", *SMALL, *words)
    assert code == 2
    assert message in said
