"""The tracker benchmark: exact where the answer is known, other programs' files read as what they are."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.track import exact
from benchmarks.track.people import simulated_shots, write_pictures
from benchmarks.track.readers import Predictions
from datagen.common.errors import InputError
from datagen.common.seen_points import SeenPoints, seen_points_bytes
from datagen.geometry.mesh import Mesh
from datagen.geometry.mesh_io import mesh_bytes, ply_bytes
from datagen.heads.contents import template_contents
from datagen.heads.regions import REGIONS
from datagen.heads.registry import load_head
from tests.datagen.heads.test_heads_files import embedding, flame_arrays
from tests.support.track_scene import shot as make_shot
from trainer.evaluation.track.score import TrackOptions, score
from trainer.evaluation.track.shot import Shot, Topology
from trainer.evaluation.track.surface import NONE, see

SHOT = make_shot(4, 64, detail=3)
SMALL = ("source.subjects=1", "source.frames=1", "source.image_size=96", "source.scan_vertices=2000")


def test_another_topology_of_the_same_surface_is_no_error() -> None:
    faces = np.asarray(SHOT.topology.faces, np.int64)
    other = exact.resampled(faces, len(SHOT.topology.label))
    assert len(other.faces) == 3 * len(faces)
    track = other.track(SHOT)
    assert track.vertices is not None
    # It is another topology, of the same surface: vertices lie where they said.
    np.testing.assert_allclose(other.correspondence.on(track.vertices, other.faces), SHOT.in_camera, atol=1e-12)
    assert exact.topology_px(SHOT, 2000) < 1e-9
    assert score([SHOT], {"it": lambda _: track})["it"].metrics()["nme2d_percent"] == pytest.approx(0, abs=1e-9)


def test_what_moves_too_much_by_v_has_v_h_and_what_jitters_by_s_has_s_root_pi() -> None:
    assert exact.velocity_error(SHOT) < 1e-9
    curve = exact.jitter_curve(SHOT, repeats=8)
    assert curve.mean() == pytest.approx(1, abs=0.03)
    assert np.abs(curve - 1).max() < 0.12
    slope = np.polyfit(np.arange(30), curve, 1)[0]
    assert abs(slope * 30) < 0.06


def test_pictures_are_of_the_split_that_is_scored(tmp_path: Path) -> None:
    one = list(simulated_shots(changes=SMALL))
    assert [shot.name for shot in one] == ["s000/performance/cam00", "s000/performance/cam01"]
    assert write_pictures(tmp_path / "out", changes=SMALL) == 2
    place = tmp_path / "out" / one[1].name
    assert sorted(path.name for path in (place / "images").iterdir()) == ["000000.png"]
    box = json.loads((place.parent / "boxes.json").read_text())["cam01/images/000000.png"]
    face = one[1].screen[0, one[1].topology.is_face]
    np.testing.assert_allclose(box[:2], (face[:, :2] / face[:, 2:]).min(0), atol=0.01)
    (camera,) = json.loads((place / "cameras.json").read_text())["frames"]
    np.testing.assert_allclose(camera["intrinsics"], one[1].intrinsics[0])
    assert (camera["width"], camera["height"]) == one[1].size[::-1]
    # The head that is scored lies where the picture shows it: brighter or darker than what is behind, at its outline.
    picture = np.asarray(Image.open(place / "images" / "000000.png")).astype(float).mean(-1)
    seen = see(one[1].screen[0], one[1].in_camera[0, :, 2], one[1].topology.faces, one[1].size).triangles != NONE
    steps = np.abs(np.diff(picture, axis=1))
    outline = np.diff(seen.astype(int), axis=1) != 0
    assert steps[outline].mean() > 2 * steps[~outline].mean()


def mesh_of(shot: Shot, t: int, scale: float = 1.0) -> Mesh:
    return Mesh(shot.in_camera[t] * scale, np.asarray(shot.topology.faces, np.int32))


def place_of(folder: Path, shot: Shot = SHOT) -> Path:
    place = folder / shot.name
    place.mkdir(parents=True)
    return place


def checked(predictions: Predictions) -> None:
    track = predictions(SHOT)
    assert track is not None
    np.testing.assert_allclose(track.of(SHOT).in_camera(), SHOT.in_camera, atol=1e-6)
    screen, _ = track.of(SHOT).screen(SHOT)
    wanted = SHOT.screen[..., :2] / SHOT.screen[..., 2:]
    np.testing.assert_allclose(screen[..., :2] / screen[..., 2:], wanted, atol=1e-3)


def test_meshes_are_read_by_their_numbers(tmp_path: Path) -> None:
    place = place_of(tmp_path)
    for t, frame in enumerate(SHOT.frames):
        data = mesh_bytes(mesh_of(SHOT, t, 1000), None, "obj") if t % 2 else ply_bytes(mesh_of(SHOT, t, 1000))
        (place / f"mesh_{frame:05d}.{'obj' if t % 2 else 'ply'}").write_bytes(data)
    (place / "canonical.ply").write_bytes(ply_bytes(mesh_of(SHOT, 0)))
    np.save(place / "key_points.npy", SHOT.topology.key_points.on(SHOT.in_camera[0], SHOT.topology.faces))
    checked(Predictions(tmp_path, unit="mm"))
    # Cameras of our own format, of pictures of another size.
    entry = {"width": 128, "height": 128, "intrinsics": (np.diag([2.0, 2, 1]) @ SHOT.intrinsics[0]).tolist()}
    (place / "cameras.json").write_text(json.dumps({"frames": [entry]}))
    checked(Predictions(tmp_path, unit="mm"))
    (place / "mesh_00003.ply").rename(place / "mesh_00099.ply")
    with pytest.raises(InputError, match="no file of frame 3"):
        Predictions(tmp_path, unit="mm")(SHOT)


def test_a_folder_is_one_kind_and_one_topology(tmp_path: Path) -> None:
    assert Predictions(tmp_path)(SHOT) is None
    place = place_of(tmp_path)
    with pytest.raises(InputError, match="holds no prediction"):
        Predictions(tmp_path)(SHOT)
    for t, frame in enumerate(SHOT.frames):
        mesh = mesh_of(SHOT, t)
        (place / f"{frame}.ply").write_bytes(ply_bytes(mesh if t else Mesh(mesh.vertices, mesh.faces[1:])))
    with pytest.raises(InputError, match="another topology"):
        Predictions(tmp_path)(SHOT)
    np.savez(place / "track.npz", frames=SHOT.frames)
    with pytest.raises(InputError, match=r"track\.npz and meshes"):
        Predictions(tmp_path)(SHOT)


def write_pixel3dmm(place: Path, *, crop: bool = True) -> None:
    """Write what its tracker leaves: posed by R and t before an OpenGL camera, in a crop of the picture."""
    (place / "checkpoint").mkdir()
    (place / "mesh").mkdir()
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    shift = np.array([0.1, -0.2, 0.3])
    side, (top, bottom, left, right) = 256, (8, 56, 4, 52)
    scale = side / (right - left)
    K = np.diag([scale, scale, 1]) @ np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1]]) @ SHOT.intrinsics[0]
    camera = {
        "R_base_0": np.eye(3, dtype=np.float32)[None],
        "t_base_0": np.array([[0.0, 0, -0.5]], np.float32),
        "fl": np.array([[K[0, 0] / side]], np.float32),
        "pp": ((K[:2, 2] - side / 2) / (side / 2 + 0.5)).astype(np.float32)[None],
    }
    for t, frame in enumerate(SHOT.frames):
        world = SHOT.in_camera[t] * [1, -1, -1] - [0, 0, -0.5]
        local = (world - shift) @ turn
        (place / "mesh" / f"{frame:05d}.ply").write_bytes(ply_bytes(Mesh(local, SHOT.topology.faces.astype(np.int32))))
        flame = {"R_rotation_matrix": turn[None].astype(np.float32), "t": shift[None].astype(np.float32)}
        note = {"flame": flame, "camera": camera, "img_size": np.array([side, side]), "frame_id": int(frame)}
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(note, protocol=2))
        (place / "checkpoint" / f"{frame:05d}.frame").write_bytes(packed.getvalue())
    if crop:
        np.save(place / "crop_ymin_ymax_xmin_xmax.npy", np.array([top, bottom, left, right]))


def test_pixel3dmm_is_posed_and_its_crop_undone(tmp_path: Path) -> None:
    write_pixel3dmm(place_of(tmp_path))
    checked(Predictions(tmp_path))
    write_pixel3dmm(place_of(tmp_path / "without"), crop=False)
    with pytest.raises(InputError, match="no crop_ymin"):
        Predictions(tmp_path / "without")(SHOT)


@pytest.fixture(scope="module")
def flame_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("flame")
    np.savez(place / "flame2023.npz", **flame_arrays(20))
    np.savez(place / "landmark_embedding.npz", **embedding())
    return place


def test_parameters_of_flame_are_posed_with_the_users_model(tmp_path: Path, flame_root: Path) -> None:
    place = place_of(tmp_path)
    values = {"shape": np.zeros(10), "expr": np.zeros((9, 10)), "jaw_pose": np.zeros((9, 3))}
    values |= {"rotation": np.zeros((9, 3)), "translation": np.array([0.0, 0, 0.8]) + 1e-3 * np.arange(9)[:, None]}
    np.savez(place / "flame.npz", **values, frames=np.arange(9))
    with pytest.raises(InputError, match="--flame-root"):
        Predictions(tmp_path)(SHOT)
    track = Predictions(tmp_path, flame_root)(SHOT)
    assert track is not None
    assert track.vertices is not None
    assert track.vertices.shape[:2] == (len(SHOT.frames), len(flame_arrays(20)["v_template"]))
    np.testing.assert_allclose(np.diff(track.vertices, axis=0), 1e-3, atol=1e-9)
    assert track.key_points is not None
    np.testing.assert_array_equal(track.frames, SHOT.frames)


def write_vhap(place: Path) -> None:
    """Write an export of one camera, with meshes."""
    (place / "images").mkdir()
    (place / "meshes").mkdir()
    frames = []
    for t, frame in enumerate(SHOT.frames):
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(place / "images" / f"{frame:05d}.png")
        (place / "meshes" / f"{frame:05d}.obj").write_bytes(mesh_bytes(mesh_of(SHOT, t), None, "obj"))
        K = SHOT.intrinsics[t]
        frames.append({
            "timestep_index": int(frame), "camera_index": 0, "camera_id": "0", "w": 64, "h": 64,
            "fl_x": K[0, 0], "fl_y": K[1, 1], "cx": K[0, 2], "cy": K[1, 2],
            "transform_matrix": np.diag([1.0, -1, -1, 1]).tolist(),
            "file_path": f"images/{frame:05d}.png", "mesh_path": f"meshes/{frame:05d}.obj",
        })  # fmt: skip
    (place / "transforms.json").write_text(json.dumps({"frames": frames}))


def test_an_export_of_vhap_is_read_with_its_own_camera(tmp_path: Path) -> None:
    write_vhap(place_of(tmp_path))
    checked(Predictions(tmp_path))


def test_seen_points_of_our_own_alignment_are_a_mesh_on_the_screen(tmp_path: Path) -> None:
    template = load_head("anny").template
    topology = Topology.of(template_contents(load_head("anny"), 0), REGIONS)
    frames = 3
    pose = np.array([[1.0, 0, 0], [0, -1, 0], [0, 0, -1]])
    heads = np.stack([(template.vertices - template.vertices.mean(0)) @ pose.T for _ in range(frames)])
    heads += np.array([0.0, 0, 0.9]) + 2e-3 * np.arange(frames)[:, None, None] * [1, 0, 0]
    K = np.repeat(np.array([[[300.0, 0, 64], [0, 300, 64], [0, 0, 1]]]), frames, 0)
    true = Shot(
        "ada", "talk", "cam0", np.arange(frames), heads, K, np.repeat(np.eye(4)[None], frames, 0), (128, 128), topology
    )
    face = np.flatnonzero(topology.is_face)
    at = [np.argwhere(template.faces == vertex)[0] for vertex in face]
    place = place_of(tmp_path, true)
    for frame in range(frames):
        pixels = true.screen[frame, face]
        seen = SeenPoints(
            "align",
            template.digest,
            256,
            256,
            np.array([of for of, _ in at]),
            np.eye(3)[[corner for _, corner in at]],
            2 * pixels[:, :2] / pixels[:, 2:],
            np.tile(np.eye(2), (len(face), 1, 1)),
        )
        (place / f"{frame:06d}.npz").write_bytes(seen_points_bytes(seen))
    track = Predictions(tmp_path)(true)
    found = score([true], {"it": lambda _: track}, TrackOptions(pixels=500))["it"].metrics()
    assert found["covered_face"] > 0.9
    assert found["ssme_face_px"] < 0.02
    assert np.isnan(found["ssme_ears_px"])
    assert found["nme2d_percent"] < 0.01
    (place / "000002.npz").write_bytes(seen_points_bytes(replace(seen, template="another")))
    with pytest.raises(InputError, match="not the same vertices of Anny"):
        Predictions(tmp_path)(true)


def test_every_reader_ends_in_figures(tmp_path: Path) -> None:
    write_vhap(place_of(tmp_path / "vhap"))
    write_pixel3dmm(place_of(tmp_path / "pixel3dmm"))
    trackers = {name: Predictions(tmp_path / name) for name in ("vhap", "pixel3dmm")}
    for found in score([SHOT], trackers, TrackOptions(pixels=300, shape_frames=1)).values():
        assert found.metrics()["ssme_face_px"] < 0.01
        assert found.metrics()["chamfer_face_mean_mm"] < 0.01
