"""Meshes, landmarks and tracks against a scene whose geometry is known, and rays cast through it."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen.common.errors import DatasetError, InputError
from datagen.shards import Dataset, MaterialPoints, Split, Tracks, open_dataset
from tests.support.face_scene import FRAMES, RESOLUTION, build_faces, rig, shape, surface, template
from tests.support.shard_samples import build

STEP_M = 9e-6  # half a step of 10 µm along each axis, turned: at most √3 times as much


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build_faces(tmp_path_factory.mktemp("faces") / "dataset.zarr")


@pytest.fixture(scope="module")
def train(dataset: Dataset) -> Split:
    return dataset["train"]


@pytest.fixture(scope="module")
def tracks(train: Split) -> Tracks:
    """400 points of Ben in his three frames and both cameras."""
    _, ben = train.performances()
    return train.tracks(400, ben.rows, seed=3)


def test_a_mesh_lies_where_the_person_was(train: Split) -> None:
    for performance in train.performances():
        assert performance.sequence == "turn"
        for row, frame in zip(performance.rows, FRAMES, strict=True):
            vertices, faces = train.mesh(row)
            assert vertices.dtype == np.float32
            np.testing.assert_allclose(vertices, surface(performance.subject, frame).vertices, atol=STEP_M)
            np.testing.assert_array_equal(faces, template().faces)


def test_landmarks_lie_on_their_triangles(train: Split) -> None:
    marks, (vertices, faces) = train.landmarks(2), train.mesh(2)
    np.testing.assert_allclose(marks, vertices[faces[template().landmark_faces]].mean(axis=1), atol=1e-6)
    points = MaterialPoints.landmarks(template())
    np.testing.assert_allclose(train.tracks(points, [2], []).positions[0], marks, atol=1e-6)


def test_points_stay_on_their_skin_and_project_as_pinholes_do(train: Split, tracks: Tracks) -> None:
    points = tracks.points
    for f, frame in enumerate(FRAMES):
        truth = surface("ben", frame)
        corners = truth.vertices[truth.faces[points.faces]]
        np.testing.assert_allclose(tracks.positions[f], (points.weights[..., None] * corners).sum(1), atol=STEP_M)
        for c in range(2):
            if (c, f) == (1, 2):
                continue
            sample = train.sample(int(tracks.samples[c, f]))
            assert (sample.subject, sample.camera, sample.frame) == ("ben", f"cam{c}", frame)
            camera = rig(frame)[c]
            pixels, depth = camera.project(tracks.positions[f].astype(np.float64))
            np.testing.assert_allclose(tracks.pixels[c, f], pixels, atol=2e-3)
            np.testing.assert_allclose(tracks.depth[c, f], depth, atol=1e-6)
    spread = np.linspace(1e-4, 2e-3, len(template().vertices))[template().faces[points.faces]]
    expected = (points.weights * spread).sum(1)
    assert (tracks.spread_m >= expected - 1e-7).all()  # stored rounded up, in steps of 1/16 mm
    assert (tracks.spread_m <= expected + 6.3e-5).all()


def hidden(start: np.ndarray, points: np.ndarray, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Whether a triangle lies between a camera's centre and each point, by casting rays."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    blocked = np.zeros(len(points), bool)
    for i, point in enumerate(points):
        ray = point - start
        p = np.cross(ray, c - a)
        det = np.einsum("fi,fi->f", b - a, p)
        with np.errstate(divide="ignore", invalid="ignore"):
            s = start - a
            u = np.einsum("fi,fi->f", s, p) / det
            q = np.cross(s, b - a)
            v, t = q @ ray / det, np.einsum("fi,fi->f", c - a, q) / det
            hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0) & (t < 1 - 1e-4)
        blocked[i] = hit.any()
    return blocked


def test_visible_is_what_rays_reach(train: Split, tracks: Tracks) -> None:
    wrong = total = 0
    behind_the_ball = 0
    for f, frame in enumerate(FRAMES):
        scene = surface("ben", frame)
        for c, camera in enumerate(rig(frame)):
            if tracks.samples[c, f] < 0:
                continue
            blocked = hidden(camera.centre, tracks.positions[f].astype(np.float64), scene.vertices, scene.faces)
            inside = ((tracks.pixels[c, f] >= 0) & (tracks.pixels[c, f] < RESOLUTION)).all(axis=1)
            differ = tracks.visible[c, f] != (inside & ~blocked)
            sample = train.sample(int(tracks.samples[c, f]))
            # Near silhouettes and steps a pixel may hold another surface than the point.
            column, row = np.clip(tracks.pixels[c, f].astype(int), 1, RESOLUTION - 2).T
            near = np.max([sample.edge[row + i, column + j] for i in (-1, 0, 1) for j in (-1, 0, 1)], axis=0)
            assert not (differ & ~near & (sample.depth[row, column] > 0)).any()
            wrong += int(differ.sum())
            total += len(differ)
            of_head = scene.region[scene.faces[tracks.points.faces, 0]] == 1
            turned = blocked & of_head & ~near & (sample.region[row, column] == 2)
            behind_the_ball += int(turned.sum())
            assert not tracks.visible[c, f][turned].any()
    assert behind_the_ball > 10
    # Pixels are 4 mm wide here: 2.6 % are wrong. At 504 pixels a side, where they are 0.7 mm, 0.75 % are.
    assert wrong / total < 0.03
    assert 0.3 < tracks.visible.mean() < 0.6


def test_what_no_sample_shows_is_not_visible(tracks: Tracks) -> None:
    assert tracks.samples[1, 2] == -1
    assert np.isnan(tracks.pixels[1, 2]).all()
    assert np.isnan(tracks.depth[1, 2]).all()
    assert not tracks.visible[1, 2].any()
    assert np.isfinite(tracks.pixels[0]).all()


def test_the_canonical_map_shows_the_very_points_that_are_visible(train: Split, tracks: Tracks) -> None:
    corners = template().vertices[template().faces[tracks.points.faces]]
    neutral = (tracks.points.weights[..., None] * corners).sum(axis=1)
    distances = []
    for c, f in np.argwhere(tracks.samples >= 0):
        sample = train.sample(int(tracks.samples[c, f]))
        known = (sample.confidence > 0) & ~sample.edge
        column, row = (corner := np.floor(tracks.pixels[c, f] - 0.5)).astype(int).T
        inside = tracks.visible[c, f] & (np.minimum(column, row) >= 0) & (np.maximum(column, row) < RESOLUTION - 1)
        right, down = (tracks.pixels[c, f] - 0.5 - corner).T
        between, whole = np.zeros((3, len(row))), inside.copy()
        for i, j in ((0, 0), (1, 0), (0, 1), (1, 1)):
            share = np.abs(1 - i - right) * np.abs(1 - j - down)
            at = np.where(inside, row + j, 0), np.where(inside, column + i, 0)
            between += share * sample.canonical[:, *at]
            whole &= known[at]
        there = between.T * train.dataset.half_extent_m
        distances.append(np.linalg.norm(there - neutral, axis=1)[whole])
    # Of pixels 4 mm wide: half a pixel more to a side would be 2 mm.
    assert np.median(np.concatenate(distances)) < 2e-4
    assert len(np.concatenate(distances)) > 300


def test_rows_and_cameras_are_those_asked_for(train: Split) -> None:
    some = train.tracks(5, [4, 1], ["cam1"])
    assert (some.rows.tolist(), some.cameras, some.positions.shape) == ([4, 1], ("cam1",), (2, 5, 3))
    both = train.tracks(some.points, np.arange(6))
    assert both.cameras == ("cam0", "cam1")
    np.testing.assert_array_equal(both.positions[[4, 1]], some.positions)
    np.testing.assert_array_equal(both.visible[1, [4, 1]], some.visible[0])
    none = train.tracks(some.points, [])
    assert (none.positions.shape, none.cameras) == ((0, 5, 3), ())
    again = pickle.loads(pickle.dumps(train)).tracks(5, [4, 1], ["cam1"])
    np.testing.assert_array_equal(again.pixels, some.pixels)


def test_questions_without_an_answer_are_refused(train: Split, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no camera 'cam9'"):
        train.tracks(5, [0], ["cam9"])
    with pytest.raises(InputError, match="tolerance of 0 m"):
        train.tracks(5, [0], tolerance_m=0)
    with pytest.raises(IndexError):
        train.mesh(6)
    with pytest.raises(IndexError):
        train.tracks(5, [-1])
    stray = MaterialPoints(np.array([len(template().faces)]), np.full((1, 3), 1 / 3))
    with pytest.raises(InputError, match="triangles 0 to"):
        train.tracks(stray, [0])
    with pytest.raises(InputError, match="0 points on"):
        train.tracks(0, [0])
    with pytest.raises(InputError, match="that sum to 1"):
        MaterialPoints(np.array([0]), np.array([[0.5, 0.6, 0.0]]))
    with pytest.raises(InputError, match="that sum to 1"):
        MaterialPoints(np.array([0]), np.array([[np.nan, 0.5, 0.5]]))
    plain = open_dataset(build(tmp_path / "plain"))["train"]
    with pytest.raises(DatasetError, match="holds no frame table"):
        plain.tracks(5, [0])


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 9))
def test_every_triangle_carries_its_share_of_the_points(count: int, seed: int) -> None:
    points = MaterialPoints.spread_over(template(), count, seed=seed)
    corners = template().vertices[template().faces].astype(np.float64)
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    found = np.bincount(points.faces, minlength=len(area))
    assert np.abs(found - count * area / area.sum()).max() < 1 + 1e-6
    assert (points.weights >= 0).all()
    np.testing.assert_allclose(points.weights.sum(axis=1), 1)


def test_points_are_drawn_where_they_are_wanted_and_alike_each_time() -> None:
    points = MaterialPoints.spread_over(template(), 50, seed=1, labels=(2,))
    assert (template().region[template().faces[points.faces]] == 2).all()
    again = MaterialPoints.spread_over(template(), 50, seed=1, labels=(2,))
    np.testing.assert_array_equal(points.weights, again.weights)
    assert not np.array_equal(points.weights, MaterialPoints.spread_over(template(), 50, seed=2, labels=(2,)).weights)
    with pytest.raises(InputError, match="5 points on 0 triangles"):
        MaterialPoints.spread_over(template(), 5, labels=(7,))
    assert shape("ada", 3)[0].shape == template().vertices.shape
