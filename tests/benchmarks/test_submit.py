"""Submissions: the files that NoW and NeRSemble's single-view benchmark look for, and nothing incomplete."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import trimesh
import typer.testing

from benchmarks.__main__ import app
from datagen.common.errors import InputError, StorageError
from datagen.geometry.mesh import Mesh
from datagen.geometry.mesh_io import ply_bytes

BALL = trimesh.creation.icosphere(2)
MESH = Mesh(np.asarray(BALL.vertices) * 90, np.asarray(BALL.faces, np.int32))
KEYS = np.asarray(BALL.vertices)[:7] * 90


def place(folder: Path, name: str, *, keys: bool = True) -> None:
    path = folder / f"{name}.ply"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(ply_bytes(MESH))
    if keys:
        np.save(path.with_suffix(".npy"), KEYS)


def submit(*words: str | Path) -> typer.testing.Result:
    result = typer.testing.CliRunner().invoke(app, ["submit", *map(str, words), "--unit", "mm"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_now_has_a_mesh_and_seven_points_for_every_image(tmp_path: Path) -> None:
    names = ("FaMoS_1/multiview_neutral/IMG_0041", "FaMoS_1/selfie/IMG_0103")
    for name in names:
        place(tmp_path / "in", name)
    listed = tmp_path / "imagepathsvalidation.txt"
    listed.write_text("".join(f"{name}.jpg\n" for name in names))
    assert submit("now", tmp_path / "in", "--out", tmp_path / "out", "--images", listed).exit_code == 0
    for name in names:
        mesh = trimesh.load(tmp_path / "out" / f"{name}.obj", process=False)
        np.testing.assert_allclose(mesh.vertices, MESH.vertices / 1000, atol=1e-6)
        np.testing.assert_allclose(np.load(tmp_path / "out" / f"{name}.npy"), KEYS / 1000, atol=1e-6)
    listed.write_text(f"{names[0]}.jpg\na/selfie/IMG_1.jpg\n")
    with pytest.raises(InputError, match=r"no mesh of a/selfie/IMG_1 \(1 in all\)"):
        submit("now", tmp_path / "in", "--out", tmp_path / "other", "--images", listed)
    listed.write_text(f"{names[0]}.jpg\n")
    with pytest.raises(InputError, match="IMG_0103, which"):
        submit("now", tmp_path / "in", "--out", tmp_path / "other", "--images", listed)
    assert not (tmp_path / "other").exists()


def test_a_zip_of_nersemble_is_named_as_its_toolkit_names_it(tmp_path: Path) -> None:
    key = "EMO-1-shout+laugh_156_221501007"
    place(tmp_path / "in" / "posed", f"17/{key}")
    place(tmp_path / "in" / "neutral", f"017/{key}")
    out = tmp_path / "svfr_submission.zip"
    submit("svfr", tmp_path / "in", "--out", out)
    with zipfile.ZipFile(out) as archive:
        kinds = ("landmarks_neutral.npy", "landmarks_posed.npy", "mesh_neutral.ply", "mesh_posed.ply")
        assert archive.namelist() == [f"017/{key}/{name}" for name in kinds]
        keys = np.load(io.BytesIO(archive.read(f"017/{key}/landmarks_posed.npy")))
        mesh = trimesh.load(io.BytesIO(archive.read(f"017/{key}/mesh_posed.ply")), "ply", process=False)
    assert keys.shape == (7, 3)
    np.testing.assert_allclose(mesh.vertices, MESH.vertices / 1000, atol=1e-6)
    with pytest.raises(StorageError, match="overwrite"):
        submit("svfr", tmp_path / "in", "--out", out)
    assert submit("svfr", tmp_path / "in", "--out", out, "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("benchmark", "name", "keys", "words"),
    [
        ("now", "a/somewhere/IMG_1", True, "challenge 'somewhere'"),
        ("now", "a/selfie/IMG_1", False, r"no IMG_1\.npy"),
        ("svfr", "posed/17/key", False, r"162 vertices and no key\.npy"),
        ("svfr", "smiling/17/key", True, "posed or neutral"),
        ("svfr", "posed/anna/key", True, "participant"),
        ("now", "deeper/a/selfie/IMG_1", True, "holds no meshes"),
    ],
)
def test_what_the_benchmarks_would_not_take_is_refused(
    tmp_path: Path, benchmark: str, name: str, keys: bool, words: str
) -> None:
    place(tmp_path / "in", name, keys=keys)
    with pytest.raises(InputError, match=words):
        submit(benchmark, tmp_path / "in", "--out", tmp_path / "out.zip")
    assert not (tmp_path / "out.zip").exists()


def test_points_of_another_mesh_are_refused(tmp_path: Path) -> None:
    place(tmp_path / "in", "a/selfie/IMG_1")
    np.save(tmp_path / "in/a/selfie/IMG_1.npy", KEYS / 1000)
    np.save(tmp_path / "in/a/selfie/IMG_1.npy", KEYS + 300)
    with pytest.raises(InputError, match="lie away from"):
        submit("now", tmp_path / "in", "--out", tmp_path / "out")
    np.save(tmp_path / "in/a/selfie/IMG_1.npy", KEYS[:6])
    with pytest.raises(InputError, match=r"\(6, 3\)"):
        submit("now", tmp_path / "in", "--out", tmp_path / "out")
