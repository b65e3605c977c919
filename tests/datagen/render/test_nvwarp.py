"""The NVIDIA Warp backend as such: its queue, its chunks, its memory, and that CUDA takes its kernels."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.render.device import device_figures
from datagen.common.errors import DependencyError
from datagen.geometry.mesh import vertex_normals
from datagen.render.maps import render_views
from tests.support.render_backends import renderer
from tests.support.render_scenes import attributes, camera_at, head_like, soup

if find_spec("warp") is None:
    pytest.skip("needs NVIDIA Warp", allow_module_level=True)

import warp as wp

from datagen.render.nvwarp import edges as nvwarp_edges
from datagen.render.nvwarp import maps as nvwarp_maps
from datagen.render.nvwarp import mesh as nvwarp_mesh
from datagen.render.nvwarp import raster as nvwarp_raster
from datagen.render.nvwarp import renderer as nvwarp_backend
from datagen.render.nvwarp.renderer import NvwarpRenderer, box_corners, may_be_cut

MODULES = (nvwarp_mesh, nvwarp_raster, nvwarp_edges, nvwarp_maps)


def assert_same(a, b):
    for one, other in zip(a, b, strict=True):
        for field in fields(one):
            assert getattr(one, field.name).tobytes() == getattr(other, field.name).tobytes(), field.name


def torn(rng):
    """A surface with holes, contrary windings, corners on a lattice: seams, triangles without area, exact ties."""
    vertices, faces = head_like(rng, 24)
    faces = faces[rng.random(len(faces)) < 0.7]
    faces[::3] = faces[::3, ::-1]
    return np.round(vertices, int(rng.integers(2, 4))), faces


def split(rng):
    """A closed surface of which every triangle has vertices of its own."""
    vertices, faces = head_like(rng, 16)
    return vertices[faces].reshape(-1, 3), np.arange(faces.size, dtype=np.int32).reshape(-1, 3)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 100_000), st.sampled_from([torn, split, soup]), st.booleans())
def test_sees_what_numba_sees(seed, make, hide):
    """Two implementations of the same integers: the same triangles and edges, the same numbers to their last bits."""
    rng = np.random.default_rng(seed)
    vertices, faces = make(rng)
    cameras = [
        camera_at(
            rng.uniform(-3, 3),
            distance=rng.choice([0.02, 0.1, 0.3, 2.0]),
            size=int(rng.integers(4, 60)),
            height=int(rng.integers(4, 60)),
            skew=rng.uniform(-4, 4),
            focal=rng.choice([10.0, 60.0, 400.0]),
        )
        for _ in range(2)
    ]
    surface = attributes(vertices, faces)
    maps = [render_views(surface, cameras, renderer(name), hide_back_faces=hide) for name in ("nvwarp-cpu", "numba")]
    seen = [renderer(name).rasterise(vertices, faces, cameras) for name in ("nvwarp-cpu", "numba")]
    for a, b, face_a, face_b in zip(*maps, *seen, strict=True):
        same = face_a.face == face_b.face
        # Coplanar triangles that overlap: a tie but for the rounding of either.
        assert (~same).sum() <= 0.01 * (face_b.face >= 0).sum()
        np.testing.assert_array_equal(a.edge, b.edge)
        np.testing.assert_array_equal(a.mask[same], b.mask[same])
        np.testing.assert_allclose(a.depth[same], b.depth[same], rtol=1e-5)
        np.testing.assert_allclose(a.canonical[:, same], b.canonical[:, same], atol=1e-4)
        # An interpolated normal square to its triangle has no side: on a lattice some are, to the last bit.
        turned = np.linalg.norm(a.normal - b.normal, axis=0)[same] > 1e-3
        assert turned.sum() <= (0.1 if make is torn else 0) * max(same.sum(), 1)


def big_and_small():
    """Triangles of all sizes, a camera among them: blocks, clipped blocks and single pixels."""
    vertices, faces = soup(np.random.default_rng(5), 150)
    wall = np.array([[-3.0, -3, -0.2], [3, -3, -0.2], [0, 4, -0.15]])
    floor = np.array([[-9.0, -0.15, -9], [0, -0.15, 9], [9, -0.15, -9]])
    more = np.arange(len(vertices), len(vertices) + 6, dtype=np.int32).reshape(2, 3)
    surface = attributes(np.concatenate([vertices, wall, floor]), np.concatenate([faces, more]))
    return surface, [camera_at(0.1, size=100), camera_at(0.4, size=100, distance=0.05, focal=60.0)]


@pytest.mark.parametrize("hide", [False, True])
def test_the_same_bytes_for_any_number_of_lanes_and_however_full_the_queue(hide, monkeypatch):
    surface, cameras = big_and_small()
    plain = render_views(surface, cameras, NvwarpRenderer("cpu"), hide_back_faces=hide)
    assert sum(int(view.edge.sum()) for view in plain) > 300
    assert_same(plain, render_views(surface, cameras, NvwarpRenderer("cpu", lanes=64), hide_back_faces=hide))
    # Room for no block at all, and for some of them.
    for slots in (1, 40):
        monkeypatch.setattr(nvwarp_backend, "QUEUE_SLOTS", slots)
        assert_same(plain, render_views(surface, cameras, NvwarpRenderer("cpu", lanes=5), hide_back_faces=hide))


def test_room_for_edge_samples_is_made_when_it_runs_out(monkeypatch):
    surface, cameras = big_and_small()
    plain = render_views(surface, cameras, NvwarpRenderer("cpu"))
    monkeypatch.setattr(nvwarp_backend, "SAMPLES_VIEW", 10)
    small = NvwarpRenderer("cpu")
    assert_same(plain, render_views(surface, cameras, small))
    held = small.held_bytes
    assert_same(plain, render_views(surface, cameras, small))
    assert small.held_bytes == held


def test_views_of_several_sizes_keep_their_order_and_chunks_do_not_show():
    vertices, faces = head_like(np.random.default_rng(2), 24)
    surface = attributes(vertices, faces)
    cameras = [camera_at(a, size=s) for a, s in ((0.0, 40), (0.5, 30), (1.0, 40), (1.5, 30), (2.0, 40))]
    plain = render_views(surface, cameras, renderer("nvwarp-cpu"))
    assert [view.depth.shape[0] for view in plain] == [40, 30, 40, 30, 40]
    own = NvwarpRenderer("cpu")
    need = own.bytes_of_view(40, 40, len(vertices), len(faces))
    for budget, chunks in ((1, 5), (2 * need, 3)):
        own = NvwarpRenderer("cpu", budget_bytes=budget)
        assert sum(1 for _ in own.render_on_device(surface, cameras)) == chunks
        assert_same(plain, render_views(surface, cameras, own))


def test_memory_is_reused_and_bounded_by_the_budget():
    vertices, faces = head_like(np.random.default_rng(2), 24)
    surface = attributes(vertices, faces)
    own = NvwarpRenderer("cpu")
    need = own.bytes_of_view(48, 48, len(vertices), len(faces))
    own = NvwarpRenderer("cpu", budget_bytes=3 * need)
    held = []
    for n in (3, 8, 20, 1):
        render_views(surface, [camera_at(a, size=48) for a in np.linspace(-1, 1, n)], own)
        held.append(own.held_bytes)
    assert len(set(held)) == 1


def test_results_outlive_the_next_call():
    vertices, faces = head_like(np.random.default_rng(2), 24)
    own = renderer("nvwarp-cpu")
    first = render_views(attributes(vertices, faces), [camera_at(0.0, size=40)], own)[0]
    fragments = own.rasterise(vertices, faces, [camera_at(0.0, size=40)])[0]
    kept, kept_face = first.canonical.copy(), fragments.face.copy()
    render_views(attributes(vertices * 0.5, faces), [camera_at(1.0, size=40)], own)
    own.rasterise(vertices * 0.5, faces, [camera_at(1.0, size=40)])
    np.testing.assert_array_equal(first.canonical, kept)
    np.testing.assert_array_equal(fragments.face, kept_face)


def test_threads_may_share_one_renderer():
    own = renderer("nvwarp-cpu")
    surfaces = [attributes(*head_like(np.random.default_rng(i), 20)) for i in range(4)]
    cameras = [camera_at(0.3, size=40)]
    alone = [render_views(surface, cameras, own) for surface in surfaces]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda surface: render_views(surface, cameras, own), surfaces * 3))
    for i, views in enumerate(together):
        assert_same(alone[i % 4], views)


def test_maps_left_on_the_device_are_torch_tensors_on_the_same_memory():
    vertices, faces = head_like(np.random.default_rng(2), 24)
    surface, cameras = attributes(vertices, faces), [camera_at(a, size=40) for a in (0.0, 1.0)]
    host = render_views(surface, cameras, renderer("nvwarp-cpu"))
    (chunk,) = renderer("nvwarp-cpu").render_on_device(surface, cameras)
    tensors = chunk.torch()
    assert chunk.views == [0, 1]
    assert tuple(tensors["canonical"].shape) == (2, 3, 40, 40)
    assert sum(t.element_size() for t in tensors.values()) + 2 * 4 * 2 == nvwarp_backend.MAP_BYTES_PX
    for i, view in enumerate(host):
        for field in fields(view):
            np.testing.assert_array_equal(tensors[field.name][i].numpy(), getattr(view, field.name))


def test_ties_go_to_the_lowest_index():
    vertices, faces = soup(np.random.default_rng(5), 100)
    doubled = np.concatenate([faces, faces[::-1]])
    for seen in renderer("nvwarp-cpu").rasterise(vertices, doubled, [camera_at(0.0, size=64), camera_at(1.0, size=64)]):
        assert (seen.face >= 0).sum() > 0
        assert seen.face.max() < len(faces)


def test_normals_are_those_of_the_mesh():
    vertices, faces = head_like(np.random.default_rng(6), 20)
    own = NvwarpRenderer("cpu")
    from datagen.geometry.mesh import Mesh

    # A vertex that no triangle uses has no normal, and takes none from its neighbours.
    spread = np.concatenate([vertices[:7], [[9.0, 9, 9]], vertices[7:]])
    moved = (faces + (faces >= 7)).astype(np.int32)
    normals, _ = own._prepared(Mesh.of(spread, moved))
    np.testing.assert_allclose(normals.numpy(), vertex_normals(spread, moved), atol=1e-14)
    assert (normals.numpy()[7] == 0).all()


def test_only_views_that_need_it_are_clipped():
    corners = box_corners(head_like(np.random.default_rng(6), 20)[0])
    assert corners.shape == (8, 3)
    assert not may_be_cut(corners, camera_at(0.3))
    assert may_be_cut(corners, camera_at(0.3, distance=0.1))
    assert may_be_cut(corners + np.array([0, 0, 5.0]), camera_at(0.0))
    far_off = camera_at(0.3)
    K = far_off.K.copy()
    K[0, 2] = 20_000
    assert may_be_cut(corners, replace(far_off, K=K))


def test_an_unknown_device_is_named_with_what_there_is():
    with pytest.raises(DependencyError, match=r"no device 'cuda:17'.*cpu.*numba"):
        NvwarpRenderer("cuda:17")


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_cuda_takes_the_kernels(module, tmp_path):
    """Compiled by Warp's own NVRTC, which needs no GPU; sums must not be fused, or CUDA would see other pixels."""
    wp.init()
    if not wp.get_cuda_supported_archs():
        pytest.skip("this build of Warp cannot compile for CUDA")
    (path,) = wp.compile_aot_module(module, arch=90, module_dir=tmp_path, use_ptx=True)
    code = path.read_text()
    assert code.count(".visible .entry") == len(wp.get_module(module.__name__).kernels)
    assert "fma.rn.f64" not in code
    if module is nvwarp_raster:
        assert "atom.global.min.u64" in code
        # What every triangle goes through keeps to registers.
        hot = [part for part in code.split(".visible .entry") if part.lstrip().startswith(("rasterise_", "project_"))]
        assert len(hot) >= 2
        assert not any(".local" in part for part in hot if not part.lstrip().startswith("rasterise_cut"))


def test_the_benchmark_of_maps_left_on_the_device_counts_all_their_bytes():
    surface = attributes(*head_like(np.random.default_rng(2), 24))
    cameras = [camera_at(a, size=64) for a in (0.0, 0.6, 1.2)]
    # A small budget: several chunks must add up.
    own = NvwarpRenderer("cpu", budget_bytes=1)
    figures = device_figures(own, [surface], cameras, 2, copied_bytes=2**22)
    per_view = figures["device_maps_gb_per_s"] * 1e9 / figures["device_views_per_s"]
    assert round(per_view) == 64 * 64 * nvwarp_backend.MAP_BYTES_PX
    assert 0 < figures["bandwidth_share"] < 1
    ratio = figures["device_maps_gb_per_s"] / figures["device_copy_gb_per_s"]
    assert np.isclose(figures["bandwidth_share"], ratio)
