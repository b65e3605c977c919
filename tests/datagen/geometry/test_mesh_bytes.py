"""Meshes written in each format: other programs and our own reader find the same vertices, faces and colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import trimesh

from datagen.common.errors import MeshError
from datagen.geometry.mesh import Mesh
from datagen.geometry.mesh_io import MESH_FORMATS, mesh_bytes, read_mesh


def _mesh(*, faces: bool) -> tuple[Mesh, npt.NDArray[np.uint8]]:
    ball = trimesh.creation.icosphere(2, radius=0.1)
    # A vertex that no face uses keeps its place too.
    vertices = np.vstack([ball.vertices, [[0.2, 0.0, 0.0]]])
    colours = np.random.default_rng(0).integers(0, 256, (len(vertices), 3)).astype(np.uint8)
    return Mesh.of(vertices, ball.faces if faces else np.zeros((0, 3), np.int32)), colours


@pytest.mark.parametrize("faces", [True, False], ids=["mesh", "points"])
@pytest.mark.parametrize("form", MESH_FORMATS)
def test_other_programs_read_what_was_written(form: str, faces: bool, tmp_path: Path) -> None:
    mesh, colours = _mesh(faces=faces)
    path = tmp_path / f"mesh.{form}"
    path.write_bytes(mesh_bytes(mesh, colours, form))
    if form != "glb":
        ours = read_mesh(path, need_faces=faces)
        assert np.allclose(ours.vertices, mesh.vertices, atol=1e-7)
        assert np.array_equal(ours.faces, mesh.faces)
    if form == "obj":
        values = np.array([line.split()[1:] for line in path.read_text().splitlines() if line[0] == "v"], float)
        assert np.abs(values[:, 3:] * 255 - colours).max() < 0.1
        return
    read = trimesh.load(path, process=False)
    (shape,) = read.geometry.values() if isinstance(read, trimesh.Scene) else (read,)
    found = shape.visual.vertex_colors if faces else shape.colors
    assert np.allclose(shape.vertices, mesh.vertices, atol=1e-7)
    assert np.array_equal(np.asarray(found)[:, :3], colours)
    if faces:
        assert np.array_equal(shape.faces, mesh.faces)


@pytest.mark.parametrize("form", MESH_FORMATS)
def test_a_mesh_may_be_plain_but_not_coloured_for_another(form: str) -> None:
    mesh, colours = _mesh(faces=True)
    assert mesh_bytes(mesh, None, form)
    with pytest.raises(MeshError, match="colours of shape"):
        mesh_bytes(mesh, colours[1:], form)
