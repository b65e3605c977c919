"""The blocks of docs/reading.md run one after another on a built dataset, and give what the page says."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.spatial import cKDTree

from tests.support.places import ROOT

if TYPE_CHECKING:
    from datagen.flows.result import BuildResult

# Tried by hand, and no dependencies: run only where they are.
OTHERS = ("xarray", "rerun", "napari")


@pytest.fixture(scope="module")
def names(tiny_build: BuildResult, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the blocks leave behind."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "reading.md").read_text(), re.DOTALL)
    assert len(blocks) == 9
    found: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("reading"))
        for block in blocks:
            needs = [other for other in OTHERS if re.search(rf"^(import|from) {other}\b", block, re.MULTILINE)]
            if all(find_spec(other) for other in needs):
                exec(block.replace("runs/demo", str(tiny_build.root)), found)
    return found


def test_a_mesh_and_its_landmarks_lie_where_the_cameras_look(names: dict[str, Any]) -> None:
    assert names["vertices"].shape == names["template"].vertices.shape
    assert names["marks"].shape == (68, 3)
    sample = names["sample"]
    E, K = sample.world_to_camera.astype(float), sample.intrinsics.astype(float)
    there = names["marks"] @ E[:3, :3].T + E[:3, 3]
    pixels = (there @ K.T)[:, :2] / there[:, 2:]
    assert ((pixels > 0) & (pixels < sample.depth.shape[0])).all()
    assert 0 <= names["train"].frames.parameter_rms_mm[names["row"]] < 3
    assert (names["spread_m"] > 0).all()


def test_texture_coordinates_follow_the_canonical_map(names: dict[str, Any]) -> None:
    uv, known, template = names["uv"], names["known"], names["template"]
    assert known.mean() > 0.05
    assert (uv[:, known] >= 0).all()
    assert (uv[:, known] <= 1).all()
    # Held against the nearest corner of the template: the same part of the texture, a few millimetres away at most.
    dataset = names["dataset"]
    metres = names["sample"].canonical[:, known].T * dataset.half_extent_m + dataset.attrs["space"]["centre"]
    corner = cKDTree(template.vertices).query(metres)[1]
    of_corner = np.zeros((len(template.vertices), 2))
    of_corner[template.faces.ravel()] = template.uv[template.uv_faces.ravel()]
    assert np.median(np.linalg.norm(uv[:, known].T - of_corner[corner], axis=1)) < 0.02


def test_batches_of_depth_are_metres(names: dict[str, Any]) -> None:
    assert 0.3 < float(names["depth"][names["valid"]].min()) < float(names["depth"].max()) < 1.4


def test_tracks_are_those_of_the_points_asked_for(names: dict[str, Any]) -> None:
    tracks, first = names["tracks"], names["first"]
    assert tracks.positions.shape == (len(names["performance"].rows), 1024, 3)
    assert 0.05 < tracks.visible.mean() < 0.6
    assert first.cameras == tracks.cameras[:1]
    assert first.visible.mean() > tracks.visible[0].mean()  # noses and cheeks are seen more than heads
    assert set(np.unique(names["template"].region[names["template"].faces[first.points.faces]])) == set(names["nose"])


def test_the_export_has_a_file_for_each_camera(names: dict[str, Any]) -> None:
    cameras = [Path(name).stem for name in names["written"] if name.startswith("train/")]
    assert cameras == list(names["tracks"].cameras)
