"""The folder layout: what was written is read back, and everything wrong is refused in words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datagen.common.errors import CameraError, InputError, LandmarkError, MeshError
from datagen.geometry.camera import look_at
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import Mesh
from datagen.geometry.mesh_io import ply_bytes
from datagen.sources.folder import FolderCaptures
from datagen.sources.folder_writer import SequenceWriter, is_complete
from datagen.sources.frame import SequenceKey

KEY = SequenceKey("anna", "speech")
CAMERAS = tuple(look_at(f"cam{k}", [x, 0.0, 1.0], [0, 0, 0], 60.0, 32, 24) for k, x in enumerate((-0.3, 0.3)))


def _ball(frame: int) -> Mesh:
    rng = np.random.default_rng(frame)
    points = rng.normal(size=(60, 3))
    points *= 0.1 / np.linalg.norm(points, axis=1, keepdims=True)
    # Kept as float32 on disk.
    return Mesh.of(points.astype(np.float32), rng.integers(0, 60, (80, 3)))


def _picture(frame: int, camera: int) -> np.ndarray:
    return np.random.default_rng([frame, camera]).integers(0, 256, (24, 32, 3)).astype(np.uint8)


def _landmarks() -> Landmarks:
    points = np.array([[0.03, 0.03, 0.08], [-0.03, 0.03, 0.08], [0.0, 0.0, 0.1], [0.0, -0.08, 0.07]])
    return Landmarks(np.array([45, 36, 30, 8])[[1, 0, 2, 3]], points[[1, 0, 2, 3]])


def write_sequence(root: Path, key: SequenceKey = KEY, content_key: str = "k1") -> None:
    with SequenceWriter(root, key, CAMERAS, 25.0, registration_head="bare", generator={"key": content_key}) as writer:
        for frame in (3, 5):
            writer.add(
                frame,
                _ball(frame),
                registration=_ball(frame).vertices[:50],
                landmarks=_landmarks(),
                images={camera.name: _picture(frame, k) for k, camera in enumerate(CAMERAS)},
                masks={camera.name: _picture(frame, k)[..., 0] > 99 for k, camera in enumerate(CAMERAS)},
            )


def _write_out_of_order(root: Path) -> None:
    with SequenceWriter(root, KEY, CAMERAS, 25.0) as writer:
        writer.add(1, _ball(1))
        writer.add(0, _ball(0))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_sequence(tmp_path / "captures")
    return tmp_path / "captures"


def edit(root: Path, change: Callable[[dict[str, Any]], None], key: SequenceKey = KEY) -> None:
    path = root / key.subject / key.sequence / "capture.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_what_was_written_is_read_back(root: Path) -> None:
    source = FolderCaptures(root)
    (info,) = source.sequences()
    assert (info.key, info.frames, info.cameras) == (KEY, (3, 5), len(CAMERAS))
    frame = source.frame(KEY, 5)
    for camera, expected in zip(frame.cameras, CAMERAS, strict=True):
        np.testing.assert_array_equal(camera.K, expected.K)
        np.testing.assert_array_equal(camera.world_to_camera, expected.world_to_camera)
    assert frame.time_s == pytest.approx(2 / 25)
    np.testing.assert_array_equal(frame.scan.vertices, _ball(5).vertices)
    np.testing.assert_array_equal(frame.scan.faces, _ball(5).faces)
    assert frame.registration is not None
    assert frame.registration.head == "bare"
    np.testing.assert_allclose(frame.registration.vertices, _ball(5).vertices[:50], atol=1e-8)
    assert frame.landmarks is not None
    np.testing.assert_array_equal(frame.landmarks.indices, [8, 30, 36, 45])
    for k, camera in enumerate(CAMERAS):
        np.testing.assert_array_equal(frame.images[camera.name](), _picture(5, k))
        np.testing.assert_array_equal(frame.masks[camera.name](), _picture(5, k)[..., 0] > 99)


def test_sequences_are_ordered_and_hidden_folders_passed_over(root: Path) -> None:
    for key in (SequenceKey("zoe", "a"), SequenceKey("anna", "b"), SequenceKey("bob", "x")):
        write_sequence(root, key)
    (root / "anna" / ".half").mkdir()
    found = [str(info.key) for info in FolderCaptures(root).sequences()]
    assert found == ["anna/b", "anna/speech", "bob/x", "zoe/a"]


def test_millimetres_equal_metres(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "mm"
    shutil.copytree(root, other)
    folder = other / "anna" / "speech"
    source = FolderCaptures(root)
    expected = source.frame(KEY, 3)
    (folder / "scans/000003.ply").write_bytes(ply_bytes(Mesh.of(expected.scan.vertices * 1000, expected.scan.faces)))
    assert expected.registration is not None
    np.savez(folder / "registrations/000003.npz", vertices=expected.registration.vertices * 1000)

    def to_millimetres(content: dict[str, Any]) -> None:
        content["unit"] = "mm"
        for camera in content["cameras"].values():
            for row in camera["world_to_camera"][:3]:
                row[3] *= 1000

    edit(other, to_millimetres)
    frame = FolderCaptures(other).frame(KEY, 3)
    np.testing.assert_allclose(frame.scan.vertices, expected.scan.vertices, atol=1e-12)
    assert frame.registration is not None
    np.testing.assert_allclose(frame.registration.vertices, expected.registration.vertices, atol=1e-12)
    np.testing.assert_allclose(frame.cameras[1].world_to_camera, CAMERAS[1].world_to_camera, atol=1e-12)


def test_integer_pixel_centres_are_shifted(root: Path) -> None:
    edit(root, lambda content: content.update(pixel_center=0))
    shift = FolderCaptures(root).frame(KEY, 3).cameras[0].K - CAMERAS[0].K
    np.testing.assert_allclose(shift, [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])


def test_a_point_cloud_is_a_scan(root: Path) -> None:
    (root / "anna/speech/scans/000003.ply").write_bytes(ply_bytes(Mesh.of(_ball(3).vertices)))
    assert FolderCaptures(root).frame(KEY, 3).scan.faces.shape == (0, 3)


def test_digest_changes_with_every_file_and_only_then(root: Path, tmp_path: Path) -> None:
    folder = root / "anna" / "speech"
    source = FolderCaptures(root)
    before = source.input_digest(KEY, 3)
    shutil.copytree(root, tmp_path / "moved")
    assert FolderCaptures(tmp_path / "moved").input_digest(KEY, 3) == before
    assert source.input_digest(KEY, 5) != before
    (folder / "scans/000005.ply").write_bytes(b"another frame's file does not count")
    assert source.input_digest(KEY, 3) == before
    names = ["capture.json", "scans/000003.ply", "registrations/000003.npz", "landmarks/000003.json"]
    names += ["images/cam1/000003.png", "masks/cam0/000003.png"]
    for name in names:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data + b"\n")
        assert source.input_digest(KEY, 3) != before, name
        (folder / name).write_bytes(data)
    assert source.input_digest(KEY, 3) == before


def test_writing_is_deterministic_and_atomic(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_sequence(tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 2 + 2 * (3 + 4)  # with capture.json and the listing
    for path in files:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes(), path
    assert is_complete(tmp_path / "a", KEY, "k1")
    assert not is_complete(tmp_path / "a", KEY, "k2")
    with pytest.raises(InputError, match="increasing frames"):
        _write_out_of_order(tmp_path / "c")
    assert list((tmp_path / "c" / "anna").iterdir()) == []
    # What a killed run left is cleared away by the next, and an older sequence is replaced.
    (tmp_path / "a/anna/.speech.tmp-1-0123abcd").mkdir()
    write_sequence(tmp_path / "a", content_key="k2")
    assert [path.name for path in (tmp_path / "a/anna").iterdir()] == ["speech"]
    assert is_complete(tmp_path / "a", KEY, "k2")


def test_missing_and_empty_roots(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        FolderCaptures(tmp_path / "none")
    with pytest.raises(InputError, match="s3://bucket/x lie in an object store"):
        FolderCaptures(Path("s3://bucket/x"))
    with pytest.raises(InputError, match="holds no sequence"):
        FolderCaptures(tmp_path)
    (tmp_path / "anna" / "speech").mkdir(parents=True)
    with pytest.raises(InputError, match=r"has no capture\.json"):
        FolderCaptures(tmp_path).sequences()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"fsp": 25}, InputError, "unknown key fsp .did you mean fps"),
        ({"unit": "furlong"}, InputError, "furlong"),
        ({"version": 2}, InputError, "version"),
        ({"pixel_center": 0.25}, InputError, "pixel_center"),
        ({"frames": [5, 3]}, InputError, "increasing"),
        ({"frames": []}, InputError, "frames"),
        ({"fps": 0}, InputError, "fps"),
        ({"scan": "scans/one.ply"}, InputError, "needs .frame"),
        ({"scan": "scans/{frame:06d.ply"}, InputError, "scan"),
        ({"scan": "scans/{number}.ply"}, InputError, "scan"),
        ({"scan": "../{frame}.ply"}, InputError, "inside the sequence folder"),
        ({"scan": "/data/{frame}.ply"}, InputError, "inside the sequence folder"),
        ({"images": "images/{frame}.png"}, InputError, "camera"),
    ],
)
def test_bad_capture_files(root: Path, change: dict[str, Any], error: type[InputError], message: str) -> None:
    edit(root, lambda content: content.update(change))
    with pytest.raises(error, match=message):
        FolderCaptures(root).sequences()


def test_capture_file_that_is_no_json_or_lacks_a_key(root: Path) -> None:
    edit(root, lambda content: content.pop("unit"))
    with pytest.raises(InputError, match="not valid: unit is missing"):
        FolderCaptures(root).sequences()
    for text, reason in (
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ('{"fps": 1, "fps": 2}', "'fps' is given"),
    ):
        (root / "anna/speech/capture.json").write_text(text)
        with pytest.raises(InputError, match=reason):
            FolderCaptures(root).sequences()


def test_bad_cameras(root: Path) -> None:
    edit(root, lambda content: content["cameras"]["cam1"]["world_to_camera"][0].__setitem__(0, 3.0))
    with pytest.raises(CameraError, match=r"cam1.*not a rotation"):
        FolderCaptures(root).sequences()
    edit(root, lambda content: content["cameras"]["cam1"].update(K=[[1, 0], [0, 1, 2]]))
    with pytest.raises(InputError, match="cam1"):
        FolderCaptures(root).sequences()


def test_wrong_unit_names_the_factor(root: Path) -> None:
    edit(root, lambda content: content.update(unit="mm"))
    with pytest.raises(MeshError, match=r"000003\.ply.*off by a factor of about 0\.00"):
        FolderCaptures(root).frame(KEY, 3)


def test_bad_files_of_a_frame(root: Path) -> None:
    folder = root / "anna" / "speech"
    source = FolderCaptures(root, vertex_counts={"bare": 51})
    with pytest.raises(MeshError, match=r"50 vertices.*51"):
        source.frame(KEY, 3)
    source = FolderCaptures(root)
    with pytest.raises(InputError, match="no frame 4"):
        source.frame(KEY, 4)
    with pytest.raises(InputError, match="no sequence anna/song"):
        source.frame(SequenceKey("anna", "song"), 3)
    (folder / "images/cam0/000003.png").unlink()
    with pytest.raises(InputError, match=r"images/cam0/000003\.png is missing"):
        source.frame(KEY, 3)
    shutil.rmtree(folder / "images/cam0")
    assert list(source.frame(KEY, 3).images) == ["cam1"]
    shutil.copy(folder / "scans/000003.ply", folder / "images/cam1/000003.png")
    with pytest.raises(InputError, match="cannot be read"):
        source.frame(KEY, 3)
    from PIL import Image

    Image.new("RGB", (24, 32)).save(folder / "images/cam1/000003.png")
    with pytest.raises(CameraError, match=r"24×32.*32×24"):
        source.frame(KEY, 3)
    Image.new("RGB", (32, 24)).save(folder / "images/cam1/000003.png")
    (folder / "landmarks/000003.json").write_text('{"scheme": "ibug68", "unit": "m", "points": {"99": [0, 0, 0]}}')
    with pytest.raises(LandmarkError):
        source.frame(KEY, 3)
    (folder / "scans/000003.ply").unlink()
    with pytest.raises(MeshError, match=r"000003\.ply does not exist"):
        source.frame(KEY, 3)


def test_links_out_of_the_sequence_are_refused(root: Path, tmp_path: Path) -> None:
    scan = root / "anna/speech/scans/000003.ply"
    scan.rename(tmp_path / "elsewhere.ply")
    scan.symlink_to(tmp_path / "elsewhere.ply")
    with pytest.raises(InputError, match="leads outside"):
        FolderCaptures(root).frame(KEY, 3)
    with pytest.raises(InputError, match="leads outside"):
        FolderCaptures(root).input_digest(KEY, 3)


def test_sixteen_bit_images_are_refused_instead_of_clipped_to_white(root: Path) -> None:
    from PIL import Image as PillowImage

    path = next((root / KEY.subject / KEY.sequence / "images").rglob("*.png"))
    with PillowImage.open(path) as picture:
        grey = np.asarray(picture.convert("L"), np.uint16) * 256
    PillowImage.fromarray(grey).save(path)
    frame = FolderCaptures(root).frame(KEY, int(path.stem))
    with pytest.raises(InputError, match="more than 8 bits"):
        frame.images[path.parent.name]()


def test_a_frame_rate_must_be_finite(root: Path) -> None:
    edit(root, lambda content: content.update(fps=float("inf")))
    with pytest.raises(InputError, match="fps"):
        FolderCaptures(root).sequences()


def test_sequences_that_are_asked_for_by_name_are_not_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sequence(tmp_path / "captures")
    listed = FolderCaptures(tmp_path / "captures")
    key = listed.sequences()[0].key
    frame = listed.sequences()[0].frames[0]

    def fail(_: object) -> None:
        raise AssertionError("they were listed")

    with monkeypatch.context() as patch:
        patch.setattr(FolderCaptures, "_listed", fail)
        unlisted = FolderCaptures(tmp_path / "captures", listed=False)
        assert unlisted.input_digest(key, frame) == listed.input_digest(key, frame)
    assert [info.key for info in unlisted.sequences()] == [info.key for info in listed.sequences()]
    with pytest.raises(InputError, match="there is no sequence nobody/nowhere"):
        FolderCaptures(tmp_path / "captures", listed=False).input_digest(SequenceKey("nobody", "nowhere"), 0)
