"""Choosing a backend, and the parts of the CUDA backend that need no GPU."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from render_scenes import camera_at, head_like

from datagen.errors import CanonfaceError, DependencyError, InputError
from datagen.render.backends import make_renderer
from datagen.render.backends.nvdiffrast_backend import buffer_size, chunks, clip_matrix


def cuda_and_nvdiffrast():
    if find_spec("nvdiffrast") is None:
        return False
    import torch

    return torch.cuda.is_available()


needs_gpu = pytest.mark.skipif(not cuda_and_nvdiffrast(), reason="needs nvdiffrast and a CUDA device")


def test_names():
    assert make_renderer("numba").name == "numba"
    assert make_renderer("open3d").name == "open3d"


def test_auto_takes_a_gpu_backend_only_where_there_is_a_gpu():
    import torch

    gpu = [name for name, package in (("nvdiffrast", "nvdiffrast"), ("nvwarp", "warp")) if find_spec(package)]
    assert make_renderer().name == (gpu[0] if gpu and torch.cuda.is_available() else "numba")


def test_unknown_names_list_the_choices():
    with pytest.raises(InputError, match="numba, open3d, nvdiffrast, nvwarp"):
        make_renderer("opengl")


@pytest.mark.skipif(find_spec("nvdiffrast") is not None, reason="nvdiffrast is installed")
def test_a_missing_backend_says_how_to_get_it():
    with pytest.raises(DependencyError, match=r"research use only.*numba") as caught:
        make_renderer("nvdiffrast")
    assert isinstance(caught.value, CanonfaceError)


@pytest.mark.skipif(find_spec("warp") is not None, reason="NVIDIA Warp is installed")
def test_missing_warp_names_the_package_and_the_extra():
    with pytest.raises(DependencyError, match=r"warp-lang.*nvwarp.*numba"):
        make_renderer("nvwarp")


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


def test_rigs_are_split_in_order():
    cameras = [camera_at(a) for a in np.linspace(0, 3, 7)]
    batches = list(chunks(cameras, 3))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert [camera for batch in batches for camera in batch] == cameras
    assert list(chunks([], 3)) == []


@pytest.mark.gpu
@needs_gpu
def test_nvdiffrast_agrees_with_open3d():
    vertices, faces = head_like(np.random.default_rng(1))
    cameras = [camera_at(a, size=256) for a in (-0.8, 0.0, 0.8)] + [camera_at(0.3, size=200, height=150, skew=2.0)]
    for a, b in zip(
        make_renderer("nvdiffrast").rasterise(vertices, faces, cameras),
        make_renderer("open3d").rasterise(vertices, faces, cameras),
        strict=True,
    ):
        hit = b.face >= 0
        # The 1/16-pixel grid moves silhouettes, so more pixels differ there than between the CPU backends.
        assert ((a.face >= 0) != hit).sum() <= 0.005 * hit.sum()
        same = hit & (a.face == b.face)
        assert same.sum() > 0.9 * hit.sum()
        assert np.percentile(np.abs(a.depth - b.depth)[same], 99) < 2e-4
        np.testing.assert_allclose(a.barycentric[same].sum(axis=-1), 1, atol=1e-4)
