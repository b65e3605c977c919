"""Depth maps: every kind of file gives metres along the optical axis, and what fuses them finds the surface again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from scipy.spatial import cKDTree

from datagen.common.errors import CameraError, InputError, MeshError
from datagen.geometry.camera import Camera, look_at
from datagen.geometry.lens import BrownLens, source_pixels, straight_intrinsics
from datagen.render.registry import make_renderer
from datagen.sources.depth_maps import DepthEntry, DepthMap, read_depth_map
from datagen.sources.fusion import HEAD_RADIUS_M, fuse_depths
from tests.support.render_scenes import camera_at, sphere

CAMERA = look_at("front", [0.1, 0.05, 0.7], [0, 0, 0], 90.0, 48, 40)


RADII = (0.08, 0.11, 0.09)


def true_depth(camera: Camera) -> np.ndarray:
    (seen,) = make_renderer("numba").rasterise(*sphere(96, RADII), [camera])
    return seen.depth


DEPTH = true_depth(CAMERA)
STEPS = np.round(DEPTH * 10_000).astype(np.uint16)  # tenths of a millimetre


def written(folder: Path, suffix: str, numbers: np.ndarray) -> Path:
    path = folder / f"000003{suffix}"
    if suffix == ".npy":
        np.save(path, numbers)
    elif suffix == ".npz":
        np.savez(path, depth=numbers)
    elif suffix == ".bin":
        height, width = numbers.shape
        path.write_bytes(f"{width}&{height}&1&".encode() + numbers.astype("<f4").tobytes())
    else:
        Image.fromarray(numbers).save(path)
    return path


@pytest.mark.parametrize(
    ("suffix", "numbers", "entry", "error_m"),
    [
        (".png", STEPS, {"metres_per_step": 1e-4}, 5.1e-5),
        (".tif", STEPS, {"metres_per_step": 1e-4}, 5.1e-5),
        (".tiff", DEPTH.astype(np.float32), {"unit": "m"}, 1e-7),
        (".npy", (DEPTH * 1000).astype(np.float64), {}, 1e-7),
        (".npy", STEPS.astype(np.int32)[..., None], {"metres_per_step": 1e-4}, 5.1e-5),
        (".npz", DEPTH.astype(np.float32), {"unit": "m"}, 1e-7),
        (".bin", (DEPTH * 7.5).astype(np.float32), {"metres_per_step": 1 / 7.5}, 1e-6),
        # As NeRSemble stores them: 0 means none, 1 the length 0.
        (".png", np.where(DEPTH > 0, np.round(DEPTH * 65534 / 2) + 1, 0).astype(np.uint16),
         {"metres_per_step": 2 / 65534, "offset_steps": -1}, 1.6e-5),
    ],
)  # fmt: skip
def test_every_kind_of_file_gives_metres(
    tmp_path: Path, suffix: str, numbers: np.ndarray, entry: dict[str, Any], error_m: float
) -> None:
    path = written(tmp_path, suffix, numbers)
    found = read_depth_map(path, DepthEntry(pattern="{camera}/{frame}.png", **entry), "mm", CAMERA)
    assert found.depth.dtype == np.float32
    np.testing.assert_array_equal(found.camera.K, CAMERA.K)
    np.testing.assert_array_equal(found.depth > 0, DEPTH > 0)
    np.testing.assert_allclose(found.depth, DEPTH, atol=error_m)


def test_the_length_of_rays_becomes_planar_depth(tmp_path: Path) -> None:
    points = CAMERA.unproject(DEPTH)
    rays = np.where(DEPTH > 0, np.linalg.norm(points - CAMERA.centre, axis=-1), 0)
    assert np.abs(rays - DEPTH)[DEPTH > 0].max() > 5e-3
    found = read_depth_map(written(tmp_path, ".npy", rays), DepthEntry(kind="ray", unit="m"), "mm", CAMERA)
    np.testing.assert_allclose(found.depth, DEPTH, atol=1e-7)


def test_what_is_no_depth_is_none(tmp_path: Path) -> None:
    numbers = DEPTH.astype(np.float64).copy()
    numbers[3, 4:8] = np.nan, np.inf, -1.0, -np.inf
    found = read_depth_map(written(tmp_path, ".npy", numbers), DepthEntry(unit="m"), "mm", CAMERA)
    assert not found.depth[3, 4:8].any()


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_map_of_another_size_has_the_camera_of_that_size(tmp_path: Path, factor: float) -> None:
    size = int(CAMERA.width * factor), int(CAMERA.height * factor)
    K = CAMERA.K.copy()
    K[:2] *= factor
    depth = true_depth(dataclasses.replace(CAMERA, K=K, width=size[0], height=size[1]))
    found = read_depth_map(written(tmp_path, ".npy", depth), DepthEntry(unit="m"), "mm", CAMERA)
    points, there = found.points
    assert there.sum() > 0.9 * factor**2 * (DEPTH > 0).sum()
    # Half a pixel aside, they would be millimetres off.
    np.testing.assert_allclose(np.linalg.norm(points / RADII, axis=1), 1, atol=2e-3)
    with pytest.raises(CameraError, match="has pictures of 48×40"):
        read_depth_map(written(tmp_path, ".npy", depth[:, :-4]), DepthEntry(), "mm", CAMERA)


@pytest.mark.parametrize(
    ("suffix", "numbers", "said"),
    [
        (".png", np.zeros((40, 48), np.uint8), "pixels L"),
        (".png", np.zeros((40, 48, 3), np.uint8), "pixels RGB"),
        (".npy", np.zeros((40, 48, 3), np.float32), "float32 of shape"),
        (".npy", np.zeros(40, np.float32), "float32 of shape"),
        (".npy", np.full((40, 48), "a"), "<U1"),
    ],
)
def test_pictures_of_depth_are_refused(tmp_path: Path, suffix: str, numbers: np.ndarray, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_depth_map(written(tmp_path, suffix, numbers), DepthEntry(), "mm", CAMERA)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy", ".npz", ".bin"])
def test_broken_files_are_refused_by_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"000003{suffix}"
    with pytest.raises(InputError, match=path.name):
        read_depth_map(path, DepthEntry(), "mm", CAMERA)
    whole = written(tmp_path, suffix, STEPS).read_bytes()
    for broken in (b"", b"&&&&&&&", whole[: len(whole) // 2], b"99999999&99999999&1&" + bytes(80)):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=path.name):
            read_depth_map(path, DepthEntry(), "mm", CAMERA)


@pytest.mark.parametrize(
    "entry",
    [
        {"unit": "mm", "metres_per_step": 1e-3},
        {"metres_per_step": 0},
        {"pattern": "depth/{camera}/{frame}.jpg"},
        {"pattern": "depth/{frame}.png"},
        {"kind": "disparity"},
    ],
)
def test_what_depth_maps_cannot_be_is_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DepthEntry(**entry)


def test_a_mask_of_another_size_cuts_the_map() -> None:
    left = np.zeros((20, 24), bool)
    left[:, :12] = True
    cut = DepthMap(DEPTH, CAMERA).within(left).depth
    assert not cut[:, 24:].any()
    np.testing.assert_array_equal(cut[:, :24], DEPTH[:, :24])


RIG = [camera_at(azimuth, 0.7, 160, 250.0) for azimuth in (-0.3, -0.1, 0.1, 0.3)]


def noisy(noise_m: float) -> list[DepthMap]:
    rng = np.random.default_rng(0)
    found = []
    for camera in RIG:
        depth = true_depth(camera)
        depth = np.where(depth > 0, depth + rng.normal(0, noise_m, depth.shape), 0)
        found.append(DepthMap(depth.astype(np.float32), camera))
    return found


def test_fused_maps_lie_nearer_to_the_surface_than_their_noise_and_are_the_same_every_time() -> None:
    maps = noisy(1e-3)
    mesh = fuse_depths(maps)
    off = np.linalg.norm(mesh.vertices / RADII, axis=1) - 1
    raw = np.concatenate([np.linalg.norm(m.points[0] / RADII, axis=1) - 1 for m in maps])
    assert np.median(np.abs(off)) < 0.9 * np.median(np.abs(raw))
    # Open3D's grid of pixels is ours: half a pixel aside, this would be twice as much.
    exact = np.linalg.norm(fuse_depths(noisy(0.0)).vertices / RADII, axis=1) - 1
    assert np.median(np.abs(exact)) * 0.09 < 0.4e-3
    again = fuse_depths(maps)
    np.testing.assert_array_equal(mesh.vertices, again.vertices)
    np.testing.assert_array_equal(mesh.faces, again.faces)
    # Counter-clockwise seen from outside.
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    outward = np.einsum("fd,fd->f", np.cross(b - a, c - a), a + b + c)
    assert (outward > 0).mean() > 0.99


def test_what_one_camera_alone_saw_is_kept() -> None:
    (alone,) = noisy(0.0)[:1]
    mesh = fuse_depths([alone])
    points, _ = alone.points
    away = cKDTree(mesh.vertices).query(points)[0]
    assert (away < 5e-3).mean() > 0.95


def test_what_is_far_from_the_head_is_left_out() -> None:
    maps = noisy(0.0)
    behind = [dataclasses.replace(m, depth=np.where(m.depth > 0, m.depth, np.float32(1.4))) for m in maps]
    assert np.ptp(fuse_depths(behind).vertices, axis=0).max() > 0.5
    near = fuse_depths(behind, np.zeros(3))
    assert np.linalg.norm(near.vertices, axis=1).max() < HEAD_RADIUS_M + 0.01
    with pytest.raises(MeshError, match="near the landmarks"):
        fuse_depths(maps, np.array([5.0, 0, 0]))
    with pytest.raises(MeshError, match="hold nothing"):
        fuse_depths([DepthMap(np.zeros((4, 4), np.float32), RIG[0])])


@pytest.mark.parametrize("kind", ["z", "ray"])
def test_a_map_of_a_distorted_picture_is_straightened_by_its_nearest_pixels(tmp_path: Path, kind: str) -> None:
    lens, stored = BrownLens(radial=(-0.35, 0.05)), look_at("front", [0.1, 0.05, 0.28], [0, 0, 0], 50.0, 48, 40)
    straight = straight_intrinsics(lens, stored.K, stored.width, stored.height, "front")
    camera = dataclasses.replace(stored, K=straight)
    # What the distorted picture's pixels see: straight rays through them, found by bending a fine grid of them.
    fine = dataclasses.replace(camera.crop(0, 0, 48, 480), height=400)
    depth = true_depth(fine)
    x, y = np.meshgrid(np.arange(480) + 0.5, np.arange(400) + 0.5)
    seen = source_pixels(lens, stored.K, fine.K, np.stack([x.ravel(), y.ravel()], 1))
    points = fine.unproject(depth).reshape(-1, 3)
    length = np.linalg.norm(points - camera.centre, axis=1) if kind == "ray" else depth.ravel()
    numbers = np.zeros((40, 48))
    column, row = np.floor(seen).astype(int).T
    off = np.abs(seen - np.floor(seen) - 0.5).max(axis=1)
    there = (column >= 0) & (row >= 0) & (column < 48) & (row < 40) & (depth.ravel() > 0) & (off < 0.08)
    numbers[row[there], column[there]] = length[there]
    path, entry = written(tmp_path, ".npy", numbers), DepthEntry(kind=kind, unit="m")
    found = read_depth_map(path, entry, "mm", camera, (lens, stored.K))
    assert (found.depth > 0).sum() > 0.8 * (true_depth(camera) > 0).sum()
    points, _ = found.points
    # A pixel here is 8 mm: its neighbour's depth is that much of a slope off.
    off_surface = np.median(np.abs(np.linalg.norm(points / RADII, axis=1) - 1))
    assert off_surface < 0.02
    unbent = read_depth_map(path, entry, "mm", camera)
    assert np.median(np.abs(np.linalg.norm(unbent.points[0] / RADII, axis=1) - 1)) > 1.5 * off_surface


def test_maps_without_a_single_triangle_are_refused() -> None:
    camera = look_at("c", [0, 0, 1], [0, 0, 0], 60.0, 48, 48)
    depth = np.zeros((48, 48), np.float32)
    for value in (1.0, 1e-4):
        depth[21, 22] = value  # beside those that Open3D looks for blocks at
        with pytest.raises(MeshError, match="do not fuse into a surface"):
            fuse_depths([DepthMap(depth, camera)])
