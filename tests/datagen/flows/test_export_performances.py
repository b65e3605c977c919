"""Tracks, meshes and FLAME parameters as files: read back, compared with the dataset, and never half there."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from datagen.common.errors import DatasetError, InputError, StorageError
from datagen.flows.export_performances import export_flame, export_meshes, export_tracks, performance_frames
from datagen.geometry.mesh_io import read_mesh
from datagen.shards import Dataset, open_dataset
from datagen.shards.faces import FrameRow
from tests.datagen.commands.test_cli import Run
from tests.datagen.heads.test_heads_files import embedding, flame_arrays
from tests.support.face_scene import FRAMES, RESOLUTION, build_faces, face_row, template
from tests.support.shard_samples import build, tree

pytestmark = pytest.mark.usefixtures("without_fsync")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build_faces(tmp_path_factory.mktemp("faces") / "dataset.zarr")


def files(out: Path) -> set[str]:
    return {name for name in tree(out) if not Path(name).name.startswith(".")}


def test_tracks_have_the_keys_and_meanings_of_tapvid3d(dataset: Dataset, tmp_path: Path) -> None:
    done: list[int] = []
    content = export_tracks(dataset.path, tmp_path / "out", points=200, seed=1, on_frames=done.append)
    names = {
        f"{s}/{p}/turn/cam{k}.npz" for s, p in (("train", "ada"), ("train", "ben"), ("val", "cleo")) for k in (0, 1)
    }
    assert files(tmp_path / "out") == names | {"export.json"}
    assert set(content["files"]) == names
    assert done == [3, 3, 3] == [performance_frames(dataset.path) // 3] * 3
    split = dataset["train"]
    whole = split.tracks(200, split.performances()[1].rows, seed=1)
    with np.load(tmp_path / "out/train/ben/turn/cam1.npz") as archive:  # nothing is pickled
        found = dict(archive)
    seen = np.flatnonzero(whole.visible[1, :2].any(axis=0))
    assert 0 < len(seen) < 200
    assert found["tracks_XYZ"].shape == (2, len(seen), 3)
    np.testing.assert_array_equal(found["visibility"], whole.visible[1, :2][:, seen])
    np.testing.assert_array_equal(found["tracks_world"], whole.positions[:2, seen])
    np.testing.assert_allclose(found["tracks_XYZ"][..., 2], whole.depth[1, :2][:, seen], atol=1e-6)
    np.testing.assert_array_equal(found["frame"], FRAMES[:2])
    np.testing.assert_allclose(found["time_s"], [0, 1 / 12])
    # The lens takes camera coordinates to the pixels, and a query is where its point is first seen.
    lens = found["fx_fy_cx_cy"][:, None]
    assert lens.shape == (2, 1, 4)  # the crop moves
    xy = found["tracks_XYZ"][..., :2] / found["tracks_XYZ"][..., 2:] * lens[..., :2] + lens[..., 2:]
    np.testing.assert_allclose(xy, found["tracks_xy"], atol=1e-3)
    for point, (x, y, t) in enumerate(found["queries_xyt"]):
        assert found["visibility"][int(t), point]
        assert not found["visibility"][: int(t), point].any()
        np.testing.assert_allclose((x, y), found["tracks_xy"][int(t), point])
    picture = np.asarray(Image.open(io.BytesIO(bytes(found["images_jpeg_bytes"][1]))))
    sample = split.sample(int(whole.samples[1, 1]))
    assert picture.shape == (RESOLUTION, RESOLUTION, 3)
    assert np.abs(np.moveaxis(picture, -1, 0).astype(int) - sample.image).mean() < 4
    there = found["tracks_world"] @ found["extrinsics_w2c"][:, :3, :3].transpose(0, 2, 1)
    np.testing.assert_allclose(there + found["extrinsics_w2c"][:, None, :3, 3], found["tracks_XYZ"], atol=1e-6)


def test_points_lie_on_the_regions_named(dataset: Dataset, tmp_path: Path) -> None:
    export_tracks(dataset.path, tmp_path / "out", points=50, regions=["nose"])
    with np.load(tmp_path / "out/val/cleo/turn/cam0.npz") as archive:
        carried = archive["template_faces"]
    assert (template().region[template().faces[carried]] == 2).all()
    with pytest.raises(InputError, match="no region 'chin'"):
        export_tracks(dataset.path, tmp_path / "other", regions=["chin"])
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("axes", ["world", "head"])
def test_meshes_are_those_of_the_frame_table(dataset: Dataset, tmp_path: Path, axes: Any) -> None:
    import trimesh

    for kind in ("ply", "glb"):
        export_meshes(dataset.path, tmp_path / kind, kind, axes)
    split = dataset["val"]
    for row, frame in enumerate(FRAMES):
        expected = split.mesh(row)[0] if axes == "world" else split.frames.vertices([row])[0]
        mesh = read_mesh(tmp_path / f"ply/val/cleo/turn/{frame:06d}.ply")
        np.testing.assert_array_equal(mesh.vertices.astype(np.float32), expected)
        np.testing.assert_array_equal(mesh.faces, template().faces)
        scene = trimesh.load(tmp_path / f"glb/val/cleo/turn/{frame:06d}.glb", process=False)
        (shown,) = scene.geometry.values()
        np.testing.assert_allclose(shown.triangles, expected[template().faces], atol=1e-7)
        corners = shown.visual.uv[shown.faces].reshape(-1, 2)
        np.testing.assert_allclose(corners, template().uv[template().uv_faces].reshape(-1, 2), atol=1e-6)


def test_a_seam_gives_a_vertex_for_each_side(tmp_path: Path) -> None:
    import trimesh

    uv = np.concatenate([template().uv, template().uv[:1] / 2])
    uv_faces = template().uv_faces.copy()
    torn = tuple(np.argwhere(uv_faces == 0)[0])
    uv_faces[torn] = len(uv) - 1
    contents = replace(template(), uv=uv, uv_faces=uv_faces)
    build_faces(tmp_path / "d.zarr", contents)
    export_meshes(tmp_path / "d.zarr", tmp_path / "out", "glb", "head")
    scene = trimesh.load(tmp_path / "out/val/cleo/turn/000003.glb", process=False)
    (shown,) = scene.geometry.values()
    assert len(shown.vertices) == len(template().vertices) + 1
    np.testing.assert_allclose(shown.visual.uv[shown.faces], uv[uv_faces], atol=1e-6)


EXPORTS: dict[str, Callable[..., dict[str, Any]]] = {
    "tracks": lambda source, out, told=None: export_tracks(source, out, points=30, on_frames=told),
    "ply": lambda source, out, told=None: export_meshes(source, out, "ply", "world", told),
    "glb": lambda source, out, told=None: export_meshes(source, out, "glb", "world", told),
}


@pytest.mark.parametrize("kind", EXPORTS)
def test_an_interrupted_export_goes_on_with_the_same_bytes(dataset: Dataset, tmp_path: Path, kind: str) -> None:
    export = EXPORTS[kind]
    whole = export(dataset.path, tmp_path / "whole")

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(dataset.path, tmp_path / "broken", stop)
    assert json.loads((tmp_path / "broken" / "export.json").read_text())["finished"] is False
    assert {Path(name).parent for name in files(tmp_path / "broken")} == {Path(), Path("train/ada/turn")}
    assert export(dataset.path, tmp_path / "broken") == whole
    assert tree(tmp_path / "broken") == tree(tmp_path / "whole")
    assert json.loads((tmp_path / "whole" / "export.json").read_text()) == whole
    assert whole["finished"] is True


def test_nobodys_file_is_lost(dataset: Dataset, tmp_path: Path) -> None:
    export_meshes(dataset.path, tmp_path / "out", "ply", "world")
    with pytest.raises(DatasetError, match="one with other settings"):
        export_meshes(dataset.path, tmp_path / "out", "ply", "head")
    mesh = tmp_path / "out/val/cleo/turn/000003.ply"
    mesh.write_bytes(b"sculpted")
    with pytest.raises(StorageError, match=r"000003\.ply: in the way"):
        export_meshes(dataset.path, tmp_path / "out", "ply", "world")
    assert mesh.read_bytes() == b"sculpted"
    mesh.unlink()
    export_meshes(dataset.path, tmp_path / "out", "ply", "world")
    assert read_mesh(mesh).faces.shape == template().faces.shape
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("of the user")
    with pytest.raises(DatasetError, match=r"notes\.txt, which is not part of an export"):
        export_tracks(dataset.path, tmp_path / "mine")


def test_a_dataset_without_faces_is_refused_before_a_folder_is_made(tmp_path: Path) -> None:
    plain = build(tmp_path / "plain")
    for export in EXPORTS.values():
        with pytest.raises(DatasetError, match="holds no frame table"):
            export(plain, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_in_the_way_of_the_last_part_is_found_before_the_first(dataset: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_meshes(dataset.path, out, "ply", "world")
    shutil.rmtree(out / "train")
    (out / "val/cleo/turn/notes.txt").write_text("of the user")
    with pytest.raises(StorageError, match=r"notes\.txt: in the way"):
        export_meshes(dataset.path, out, "ply", "world")
    assert not (out / "train").exists()


def test_the_commands_write_what_the_functions_do(
    dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(capsys, monkeypatch)
    options = ("--points", 30, "--seed", 4, "--regions", "nose, cheeks", "--json")
    code, text, _ = run("export", "tracks", dataset.path, "--out", tmp_path / "tracks", *options)
    assert code == 0
    regions = ["nose", "cheeks"]
    assert json.loads(text) == export_tracks(dataset.path, tmp_path / "again", points=30, seed=4, regions=regions)
    code, text, _ = run(
        "export", "meshes", dataset.path, "--out", tmp_path / "glb", "--format", "glb", "--axes", "head"
    )
    assert code == 0
    assert "9 in" in text
    assert tree(tmp_path / "glb") == tree(made(dataset, tmp_path / "meshes"))
    code, _, error = run("export", "flame", dataset.path, "--out", tmp_path / "flame", "--head-root", tmp_path)
    assert (code, "has no FLAME parameters" in error) == (2, True)


def made(dataset: Dataset, out: Path) -> Path:
    export_meshes(dataset.path, out, "glb", "head")
    return out


# ------------------------------------------------------------------ FLAME
@pytest.fixture(scope="module")
def flame_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flame")
    np.savez(folder / "generic_model.npz", **flame_arrays(20))
    np.save(folder / "landmark_embedding.npy", np.array(embedding(), dtype=object), allow_pickle=True)
    return folder


def test_flame_parameters_give_the_registered_head_where_it_was(flame_folder: Path, tmp_path: Path) -> None:
    import torch

    from datagen.heads.registry import load_head

    head: Any = load_head("flame", flame_folder)
    vertices = head.template.vertices.astype(np.float32)
    none = np.zeros((0, len(vertices), 3), np.float32)
    contents = replace(
        template(),
        vertices=vertices,
        faces=head.template.faces,
        region=head.template.regions,
        uv=np.zeros((1, 2), np.float32),
        uv_faces=np.zeros((len(head.template.faces), 3), np.int32),
        landmark_faces=head.template.landmark_faces,
        landmark_weights=head.template.landmark_barycentric.astype(np.float32),
        identity_names=tuple(f"shape_{k}" for k in range(10)),
        expression_names=head.expression_names,
        identity_basis=none,
        expression_basis=none,
        head="flame",
    )

    def pose(seed: int, shift_m: float) -> np.ndarray:
        rng = np.random.default_rng(seed)
        found = np.eye(4)
        found[:3, :3] = Rotation.from_rotvec(rng.normal(size=3) * 0.4).as_matrix()
        found[:3, 3] = rng.normal(size=3) * shift_m
        return found

    def row(person: str, frame: int) -> FrameRow:
        rng = np.random.default_rng([ord(person[0]), frame])
        z = np.random.default_rng(ord(person[0])).normal(size=10)
        e = rng.uniform(0, 0.6, len(head.expression_names))
        to_head = pose(frame, 0.01)
        world = head.vertices(z, e) @ to_head[:3, :3].T + to_head[:3, 3]
        return replace(
            face_row(person, frame),
            vertices=world.astype(np.float32),
            spread_m=np.zeros(len(world), np.float32),
            identity=z.astype(np.float32),
            expression=e.astype(np.float32),
            model_to_head=to_head.astype(np.float32),
            head_to_world=pose(100 + frame, 0.5).astype(np.float32),
        )

    dataset = build_faces(tmp_path / "d.zarr", contents, row)
    export_flame(dataset.path, tmp_path / "out", flame_folder)
    assert len([name for name in files(tmp_path / "out") if name.endswith("flame_params.npz")]) == 3
    with np.load(tmp_path / "out/train/ben/turn/flame_params.npz") as archive:
        found = dict(archive)
    assert found["shape"].shape == (10,)
    assert found["verdict"].tolist() == ["pass"] * 3
    np.testing.assert_array_equal(found["frame"], FRAMES)
    for k, frame in enumerate(FRAMES):
        layer = {
            name: torch.from_numpy(found[name][k : k + 1].astype(np.float64))
            for name in ("expr", "jaw_pose", "rotation", "translation", "eyes_pose", "neck_pose")
        }
        shown = (
            head._layer(
                betas=torch.from_numpy(found["shape"].astype(np.float64))[None],
                expression=layer["expr"],
                jaw_pose=layer["jaw_pose"],
                neck_pose=layer["neck_pose"],
                leye_pose=layer["eyes_pose"][:, :3],
                reye_pose=layer["eyes_pose"][:, 3:],
                global_orient=layer["rotation"],
                transl=layer["translation"],
            )
            .vertices[0]
            .detach()
            .numpy()
        )
        there, _ = dataset["train"].mesh(3 + k)
        assert np.abs(shown - there).max() < 2e-5, frame
    other = flame_arrays(20)
    np.savez(tmp_path / "generic_model.npz", **{**other, "f": other["f"][:, [1, 2, 0]]})
    with pytest.raises(InputError, match="other triangles than the dataset's head"):
        export_flame(dataset.path, tmp_path / "other", tmp_path)


def test_heads_that_are_not_flame_have_no_flame_parameters(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is ellipsoid, which has no FLAME parameters"):
        export_flame(dataset.path, tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()
    assert open_dataset(dataset.path).template.head == "ellipsoid"
