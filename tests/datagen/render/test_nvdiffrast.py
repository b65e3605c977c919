"""The nvdiffrast backend without nvdiffrast: its clip matrices, its numbers, and all that happens to its triangles.

A rasteriser on the same 1/16-pixel grid stands for it: numba, on vertices moved to that grid.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.render.parity import compare_maps
from datagen.common.errors import DependencyError
from datagen.render.maps import render_views
from tests.support.render_backends import renderer, stood_in
from tests.support.render_scenes import attributes, camera_at, head_like, soup, sphere

if find_spec("warp") is None:
    pytest.skip("needs NVIDIA Warp", allow_module_level=True)

from datagen.render.nvdiffrast import (
    buffer_size,
    clip_matrix,
    clip_positions,
    cuda_rasteriser,
    depth_range,
    triangle_numbers,
)
from datagen.render.nvwarp.renderer import box_corners


@pytest.mark.parametrize("hide", [False, True])
def test_from_exact_triangles_the_maps_are_those_of_numba(hide):
    own, _ = stood_in(snap=False)
    vertices, faces = soup(np.random.default_rng(2), 200)
    cameras = [camera_at(0.3, size=60), camera_at(1.0, size=50, height=42, skew=1.0), camera_at(2.0, size=60)]
    surface = attributes(vertices, faces)
    for a, b in zip(
        render_views(surface, cameras, own, hide_back_faces=hide),
        render_views(surface, cameras, renderer("numba"), hide_back_faces=hide),
        strict=True,
    ):
        for field, tolerance in (("depth", 1e-6), ("canonical", 1e-5), ("normal", 1e-4), ("confidence", 1e-4)):
            np.testing.assert_allclose(getattr(a, field), getattr(b, field), atol=tolerance)
        for field in ("region", "mask", "edge"):
            np.testing.assert_array_equal(getattr(a, field), getattr(b, field))


def test_the_coarse_grid_costs_silhouette_pixels_only():
    """What a grid of 1/16 pixel leaves of parity with ray casting: every promise, and more pixels at shared edges."""
    own, _ = stood_in()
    vertices, faces = head_like(np.random.default_rng(1))
    cameras = [camera_at(a, size=200) for a in (-0.8, 0.0, 0.8)] + [camera_at(0.3, size=160, height=120, skew=2.0)]
    surface = attributes(vertices, faces)
    maps = [render_views(surface, cameras, backend) for backend in (own, renderer("open3d"))]
    seen = [[f.face for f in backend.rasterise(vertices, faces, cameras)] for backend in (own, renderer("open3d"))]
    found = compare_maps(*maps, *seen, 0.15)
    assert found.foreground > 30_000
    assert found.missed_inside == 0
    assert 0 < found.missed_share <= 0.001, found.missed_share
    # A neighbour across the shared edge: never another surface.
    assert found.other_share < 0.05
    assert found.other_jump <= 0.0005 * found.foreground
    assert found.depth_p99_mm <= 0.02
    assert found.canonical_p99_mm <= 0.02
    assert found.normal_p99_deg <= 0.1


def test_a_camera_inside_the_mesh():
    own, _ = stood_in(snap=False)
    vertices, faces = sphere(24)
    camera = camera_at(0.4, distance=0.03, size=64, focal=25.0)
    a, b = (render_views(attributes(vertices, faces), [camera], one)[0] for one in (own, renderer("numba")))
    assert b.mask.all()
    np.testing.assert_allclose(a.depth, b.depth, atol=1e-6)
    np.testing.assert_allclose(a.canonical, b.canonical, atol=1e-5)


def test_views_go_in_chunks_that_fit_the_budget():
    vertices, faces = head_like(np.random.default_rng(4), 24)
    cameras = [replace(camera_at(a, size=40), name=str(i)) for i, a in enumerate(np.linspace(-1, 1, 7))]
    surface = attributes(vertices, faces)
    whole, asked_whole = stood_in()
    need = whole.bytes_of_view(40, 40, len(vertices), len(faces))
    parts, asked = stood_in(budget_bytes=3 * need + 1)
    together, split = (render_views(surface, cameras, one) for one in (whole, parts))
    assert asked_whole.asked == [list("0123456")]
    assert asked.asked == [list("012"), list("345"), ["6"]]
    for a, b in zip(together, split, strict=True):
        np.testing.assert_array_equal(a.canonical, b.canonical)
        np.testing.assert_array_equal(a.edge, b.edge)


def test_memory_does_not_grow_with_the_batch():
    vertices, faces = head_like(np.random.default_rng(4), 24)
    surface = attributes(vertices, faces)
    own, _ = stood_in(budget_bytes=2 * stood_in()[0].bytes_of_view(32, 32, len(vertices), len(faces)))
    held = []
    for n in (2, 4, 12):
        render_views(surface, [camera_at(a, size=32) for a in np.linspace(-1, 1, n)], own)
        held.append(own.held_bytes)
    assert held[0] == held[1] == held[2] > 0


@settings(max_examples=30, deadline=None)
@given(st.floats(-3, 3), st.integers(1, 300), st.integers(1, 300), st.floats(-5, 5), st.integers(0, 1000))
def test_clip_matrix_agrees_with_the_camera(azimuth, width, height, skew, seed):
    camera = replace(camera_at(azimuth, size=128, skew=skew), width=width, height=height)
    points = np.random.default_rng(seed).uniform(-0.2, 0.2, (20, 3))
    buffer_width, buffer_height = buffer_size([camera])
    assert buffer_width % 8 == buffer_height % 8 == 0
    matrix = clip_matrix(camera, 0.01, 5.0, buffer_width, buffer_height)
    clip = np.column_stack([points, np.ones(20)]) @ matrix.T
    pixels, z = camera.project(points)
    np.testing.assert_allclose(clip[:, 3], z, atol=1e-12)
    ndc = clip[:, :3] / clip[:, 3:]
    np.testing.assert_allclose((ndc[:, 0] + 1) / 2 * buffer_width, pixels[:, 0], atol=1e-8)
    # Row 0 of an OpenGL buffer is at y = -1.
    np.testing.assert_allclose((ndc[:, 1] + 1) / 2 * buffer_height, pixels[:, 1], atol=1e-8)
    order = np.argsort(z)
    assert (np.diff(ndc[order, 2]) >= 0).all()


def test_clip_depth_reaches_from_near_to_far():
    camera = replace(camera_at(0.0), world_to_camera=np.eye(4))
    matrix = clip_matrix(camera, 0.01, 5.0, 128, 128)
    for z, expected in ((0.01, -1.0), (5.0, 1.0)):
        clip = matrix @ [0, 0, z, 1]
        np.testing.assert_allclose(clip[2] / clip[3], expected, atol=1e-9)


def test_positions_keep_the_mesh_between_the_planes_and_on_its_pixels():
    vertices, _ = head_like(np.random.default_rng(1), 24)
    offset = np.array([30.0, -12.0, 55.0])
    cameras = [camera_at(0.4, size=64), camera_at(1.4, size=64, distance=2.0)]
    shifted = []
    for camera in cameras:
        E = camera.world_to_camera.copy()
        E[:3, 3] -= E[:3, :3] @ offset
        shifted.append(replace(camera, world_to_camera=E))
    clip = clip_positions(vertices + offset, shifted, 64, 64, "cpu").numpy()
    assert clip.shape == (2, len(vertices), 4)
    assert clip.dtype == np.float32
    assert (np.abs(clip[..., :3] / clip[..., 3:]) <= 1).all()
    for camera, seen in zip(cameras, clip, strict=True):
        pixels, z = camera.project(vertices)
        # Far from the origin float32 alone would be off by more than the grid of 1/16 pixel.
        np.testing.assert_allclose((seen[:, :2] / seen[:, 3:] + 1) * 32, pixels, atol=1e-4)
        np.testing.assert_allclose(seen[:, 3], z, atol=1e-6)


def test_planes_enclose_what_is_ahead():
    vertices, _ = sphere(16)
    corners = box_corners(vertices)
    near, far = depth_range(corners, camera_at(0.3))
    z = camera_at(0.3).to_camera(vertices)[:, 2]
    assert 0.3 < near < z.min()
    assert z.max() < far < 1.0
    assert depth_range(corners, camera_at(0.3, distance=0.02))[0] == 0.001
    behind = depth_range(corners + np.array([0, 0, 5.0]), camera_at(0.0))
    assert 0 < behind[0] < behind[1]


def test_numbers_beyond_what_a_float_counts_are_bit_patterns():
    small = torch.tensor([0.0, 1.0, 51528.0, 2.0**24])
    assert triangle_numbers(small).tolist() == [-1, 0, 51527, 2**24 - 1]
    large = (torch.tensor([2**24 + 1, 30_000_001], dtype=torch.int32) + 0x4A800000).view(torch.float32)
    assert triangle_numbers(large).tolist() == [2**24, 30_000_000]


@pytest.mark.skipif(find_spec("nvdiffrast") is not None, reason="nvdiffrast is installed")
def test_without_nvdiffrast_the_rasteriser_says_what_is_missing():
    with pytest.raises(DependencyError, match=r"nvdiffrast 0\.4.*nvwarp or numba"):
        cuda_rasteriser("cuda:0")
