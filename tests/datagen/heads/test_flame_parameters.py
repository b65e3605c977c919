"""Parameters of FLAME in the files of trackers: what they pose is computed here once more, by plain skinning."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from datagen.common.errors import InputError
from datagen.geometry.camera import look_at
from datagen.geometry.mesh import Mesh
from datagen.heads.flame import FlameHead, load_flame
from datagen.heads.flame_parameters import read_flame_parameters
from datagen.heads.registry import HEADS
from datagen.sources.folder import FolderCaptures
from datagen.sources.folder_writer import SequenceWriter
from datagen.sources.frame import SequenceKey
from tests.datagen.heads.test_heads_files import embedding, flame_arrays
from tests.datagen.sources.test_folder import edit

DIRECTIONS = 20
NEAR_M = 1e-7  # smplx adds 1e-8 to every angle
RNG = np.random.default_rng(0)
SHAPE, EXPRESSION = RNG.normal(size=10), RNG.normal(size=(4, 10))
ROTATION, NECK, JAW = (0.3 * RNG.normal(size=(4, 3)) for _ in range(3))
EYES, TRANSLATION = 0.2 * RNG.normal(size=(4, 6)), RNG.normal(size=(4, 3))


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    model = flame_arrays(DIRECTIONS)
    model["posedirs"] = 1e-3 * np.random.default_rng(1).normal(size=model["posedirs"].shape)
    return model


@pytest.fixture(scope="module")
def folder(arrays: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("flame")
    np.savez(place / "flame2023.npz", **arrays)
    np.savez(place / "landmark_embedding.npz", **embedding())
    return place


@pytest.fixture(scope="module")
def flame(folder: Path) -> FlameHead:
    return load_flame(folder)


def skinned(
    model: dict[str, np.ndarray], frame: int, *, rotation: bool = True, offset: np.ndarray | None = None
) -> np.ndarray:
    """Pose the model by the formulas of the paper: shape, pose blend shapes, skinning."""
    shaped = model["v_template"] + model["shapedirs"] @ np.r_[SHAPE, EXPRESSION[frame]]
    shaped = shaped if offset is None else shaped + offset
    joints = model["J_regressor"] @ shaped
    root = ROTATION[frame] if rotation else np.zeros(3)
    turns = Rotation.from_rotvec([root, NECK[frame], JAW[frame], EYES[frame][:3], EYES[frame][3:]]).as_matrix()
    shaped = shaped + model["posedirs"] @ (turns[1:] - np.eye(3)).ravel()
    parents = [-1, 0, 1, 1, 1]
    world: list[np.ndarray] = []
    for joint, parent in enumerate(parents):
        own = np.eye(4)
        own[:3, :3], own[:3, 3] = turns[joint], joints[joint] - (joints[parent] if parent >= 0 else 0)
        world.append(own if parent < 0 else world[parent] @ own)
    moved = [w[:3, :3] @ (shaped - joint).T + w[:3, 3:] for w, joint in zip(world, joints, strict=True)]
    return np.einsum("vj,jcv->vc", model["weights"], np.array(moved))


def one(frame: int) -> dict[str, Any]:
    """Return the parameters of a frame as VHAP names them."""
    return {
        "shape": SHAPE,
        "expr": EXPRESSION[frame][None],
        "rotation": ROTATION[frame][None],
        "neck_pose": NECK[frame][None],
        "jaw_pose": JAW[frame][None],
        "eyes_pose": EYES[frame][None],
        "translation": TRANSLATION[frame][None],
    }


def nersemble() -> dict[str, Any]:
    return {
        "shape": SHAPE[None],
        "expression": EXPRESSION,
        "rotation": ROTATION,
        "rotation_matrices": Rotation.from_euler("XYZ", ROTATION).as_matrix(),
        "translation": TRANSLATION,
        "jaw": JAW,
        "neck": NECK,
        "eyes": EYES,
        "scale": np.array([[1.7]]),
        "frames": np.array([3, 4, 7, 9]),
    }


def test_vhap_frames_with_teeth_and_offsets(flame: FlameHead, arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    count = len(arrays["v_template"])
    offset = 1e-3 * np.random.default_rng(2).normal(size=(1, count + 120, 3))
    np.savez(tmp_path / "00002.npz", **one(2), static_offset=offset, dynamic_offset=0 * offset[:, :0])
    found = flame.posed(read_flame_parameters(tmp_path / "00002.npz", 2))
    expected = skinned(arrays, 2, offset=offset[0, :count]) + TRANSLATION[2]
    np.testing.assert_allclose(found, expected, atol=NEAR_M)


@pytest.mark.parametrize(("frame", "row"), [(3, 0), (7, 2), (9, 3)])
def test_nersemble_is_scaled_turned_and_moved_after_flame(
    flame: FlameHead, arrays: dict[str, np.ndarray], tmp_path: Path, frame: int, row: int
) -> None:
    np.savez(tmp_path / "tracking.npz", **nersemble())
    found = flame.posed(read_flame_parameters(tmp_path / "tracking.npz", frame))
    turn = Rotation.from_euler("XYZ", ROTATION[row]).as_matrix()
    expected = 1.7 * skinned(arrays, row, rotation=False) @ turn.T + TRANSLATION[row]
    np.testing.assert_allclose(found, expected, atol=NEAR_M)


def test_a_file_without_frame_numbers_is_read_by_row(
    flame: FlameHead, arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    content = {key: value for key, value in nersemble().items() if key not in {"frames", "rotation_matrices", "scale"}}
    np.savez(tmp_path / "all.npz", **content)
    found = flame.posed(read_flame_parameters(tmp_path / "all.npz", 1))
    np.testing.assert_allclose(found, skinned(arrays, 1) + TRANSLATION[1], atol=NEAR_M)


def test_pickles_with_joints_in_one_array_and_without_a_jaw(
    flame: FlameHead, arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    pose = np.r_[ROTATION[1], NECK[1], JAW[1], EYES[1]][None]
    content = {"betas": SHAPE[None], "exp": EXPRESSION[1][None], "pose": pose, "tex": np.ones((1, 50)), "name": "x"}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    found = flame.posed(read_flame_parameters(tmp_path / "a.pkl", 0))
    np.testing.assert_allclose(found, skinned(arrays, 1), atol=NEAR_M)
    short = {"shape": SHAPE[:4], "expression": EXPRESSION[1][:3]}
    (tmp_path / "b.pkl").write_bytes(pickle.dumps(short))
    found = flame.posed(read_flame_parameters(tmp_path / "b.pkl", 0))
    coefficients = np.r_[SHAPE[:4], np.zeros(6), EXPRESSION[1][:3], np.zeros(7)]
    np.testing.assert_allclose(found, arrays["v_template"] + arrays["shapedirs"] @ coefficients, atol=NEAR_M)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"jawpose": JAW}, "has 'jawpose', which may move the head and is not understood"),
        ({"jaw_pose": JAW}, "has jaw twice"),
        ({"jaw": JAW[:2]}, r"rows for \[2, 4\] frames"),
        ({"neck": NECK[:, :2]}, r"neck has the shape \(2,\) in a file of 4 frames. Expected 3 numbers"),
        ({"eyes": EYES[:3]}, r"eyes has the shape \(3, 6\)"),
        ({"scale": np.array([1.0, 1.0, 2.0])}, r"scale"),
        ({"scale": np.array([0.0])}, "has the scale"),
        ({"translation": TRANSLATION * np.nan}, "'translation' is not an array of finite numbers"),
        ({"rotation_matrices": np.ones((4, 3, 3))}, "of frame 4 is no rotation"),
        ({"pose": np.zeros((4, 5))}, "a pose of 5 numbers"),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "x.npz", **{**nersemble(), **change})
    with pytest.raises(InputError, match=message):
        read_flame_parameters(tmp_path / "x.npz", 4)


def test_other_files_and_frames_are_refused(flame: FlameHead, tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", **nersemble())
    with pytest.raises(InputError, match=r"has no frame 5. Expected one of its 4 frames, 3 to 9"):
        read_flame_parameters(tmp_path / "t.npz", 5)
    np.savez(tmp_path / "mesh.npz", vertices=np.zeros((5, 3)))
    with pytest.raises(InputError, match="holds neither shape nor expression, only vertices"):
        read_flame_parameters(tmp_path / "mesh.npz", 0)
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([1]))
    with pytest.raises(InputError, match="holds a list"):
        read_flame_parameters(tmp_path / "list.pkl", 0)
    (tmp_path / "a.json").write_text("{}")
    for name, message in (("a.json", "suffix '.json'"), ("gone.npz", "cannot be read"), ("gone.pkl", "cannot be read")):
        with pytest.raises(InputError, match=message):
            read_flame_parameters(tmp_path / name, 0)
    np.savez(tmp_path / "long.npz", shape=np.ones(300))
    with pytest.raises(InputError, match=r"300 coefficients of shape. Expected at most the model's 10"):
        flame.posed(read_flame_parameters(tmp_path / "long.npz", 0))


KEY = SequenceKey("anna", "speech")


def test_captures_bring_parameters(folder: Path, arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    cameras = (look_at("left", [0.1, 0.0, 0.8], [0, 0, 0], 90.0, 32, 24),)
    with SequenceWriter(tmp_path, KEY, cameras, 25.0) as writer:
        for frame in (3, 9):
            writer.add(frame, Mesh.of(arrays["v_template"], arrays["f"].astype(np.int32)))
    place = tmp_path / "anna" / "speech"
    content = nersemble() | {"scale": np.array([[1000.0]]), "translation": 1000 * TRANSLATION}
    np.savez(place / "tracking.npz", **content)
    entry = {"head": "flame", "kind": "parameters", "pattern": "tracking.npz", "unit": "mm"}
    edit(tmp_path, lambda capture: capture.update(registration=entry))
    source = FolderCaptures(tmp_path, head_root=folder)
    registration = source.frame(KEY, 9).registration
    assert registration is not None
    turn = Rotation.from_euler("XYZ", ROTATION[3]).as_matrix()
    expected = skinned(arrays, 3, rotation=False) @ turn.T + TRANSLATION[3]
    np.testing.assert_allclose(registration.vertices, expected, atol=NEAR_M)
    before = source.input_digest(KEY, 9)
    np.savez(place / "tracking.npz", **(content | {"jaw": 0 * JAW}))
    assert source.input_digest(KEY, 9) != before
    with pytest.raises(InputError, match=r"files are not shipped.*source\.head_root"):
        FolderCaptures(tmp_path).frame(KEY, 9)
    edit(tmp_path, lambda capture: capture.update(registration=entry | {"unit": "m"}))
    with pytest.raises(InputError, match="in millimetres"):
        source.frame(KEY, 9)
    edit(tmp_path, lambda capture: capture.update(registration=entry | {"head": "anny"}))
    with pytest.raises(InputError, match="goes with `head"):
        source.frame(KEY, 9)


def test_teeth_behind_the_models_own_vertices_are_passed_over() -> None:
    vertices = np.random.default_rng(0).normal(size=(5143, 3))
    np.testing.assert_array_equal(HEADS["flame"].own(vertices), vertices[:5023])
    assert len(HEADS["flame"].own(vertices[:5100])) == 5100
