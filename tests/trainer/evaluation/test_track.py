"""Tracks of meshes: what is seen, how motion is carried, distances to a mesh, what is read and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datagen.common.errors import InputError
from datagen.shards import open_dataset
from datagen.shards.meshes import MaterialPoints
from tests.support.evaluation_scene import Ellipsoid
from tests.support.face_scene import CAMERAS, FRAMES, build_faces, template
from tests.support.track_scene import shot as make_shot
from trainer.evaluation.surface import closest_on_triangles
from trainer.evaluation.track.baselines import (
    rigid_track,
    shifted_track,
    smoothed,
    smoothed_reader,
    still_track,
    true_track,
)
from trainer.evaluation.track.motion import MeshMotion, true_pixels
from trainer.evaluation.track.prediction import Track, folder_reader, read_track
from trainer.evaluation.track.score import TrackOptions, score
from trainer.evaluation.track.shot import Shot, shots_of
from trainer.evaluation.track.surface import NONE, MeshSurface, carried, see, vertex_normals

SHOT = make_shot()
OPTIONS = TrackOptions(pixels=800, shape_frames=2)


def figures(track: Track, shot: Shot = SHOT) -> dict[str, Any]:
    return score([shot], {"it": lambda _: track}, OPTIONS)["it"].metrics()


def test_a_mesh_is_seen_as_rays_meet_it() -> None:
    ball = make_shot(1, 56, detail=5)
    seen = see(ball.screen[0], ball.in_camera[0, :, 2], ball.topology.faces, ball.size)
    depth = Ellipsoid(size=56).truth().depth_m
    inside = (depth > 0) & (seen.triangles != NONE)
    assert ((depth > 0) != (seen.triangles != NONE)).sum() <= 0.02 * inside.sum()
    assert np.abs(seen.depth - depth)[inside & (depth < 0.76)].max() < 2e-4
    # Carried nowhere, a place is the centre of its own pixel.
    row, column = np.nonzero(inside)
    there = carried(ball.screen[0], ball.topology.faces, seen.triangles[row, column], seen.weights[row, column])
    np.testing.assert_allclose(there, np.column_stack([column, row]) + 0.5, atol=1e-9)


def test_what_lies_behind_the_camera_or_outside_is_not_seen() -> None:
    triangles = np.array([[0, 1, 2]])
    screen = np.array([[10.0, 10, 1], [90, 10, 1], [10, 90, 1]])
    ones = np.ones(3)
    assert (see(screen, ones, triangles, (20, 30)).triangles == 0).sum() == 10 * 20
    assert (see(screen * [1, 1, -1], ones, triangles, (20, 30)).triangles == NONE).all()
    assert (see(screen + np.array([500, 0, 0]), ones, triangles, (20, 30)).triangles == NONE).all()
    twice = np.array([[0, 1, 2], [3, 4, 5]])
    nearer = see(np.concatenate([screen, screen]), np.repeat([2.0, 1.0], 3), twice, (20, 30))
    assert set(np.unique(nearer.triangles)) == {NONE, 1}


def test_the_truth_is_right_in_everything() -> None:
    found = figures(true_track(SHOT))
    for name in ("ssme_face_px", "ssme_mouth_px", "ssme_ears_px", "chamfer_face_mean_mm", "nme2d_percent"):
        assert found[name] == pytest.approx(0, abs=1e-9), name
    assert found["normal_angle_rad"] == pytest.approx(0, abs=1e-6)
    assert found["covered_face"] == 1
    assert (found["shots"], found["frames"], found["shape_frames"]) == (1, 8, 2)


def test_motion_that_is_missed_is_the_error_and_hidden_points_count() -> None:
    far = make_shot(2, 84, step_deg=70, bend_m=0)
    true = [
        true_pixels(far, 0, 10_000, np.random.default_rng(0)),
        true_pixels(far, 1, 10_000, np.random.default_rng(0)),
    ]
    first = true[0]
    points = carried(far.screen, far.topology.faces, first.triangles, first.weights)
    moved = np.linalg.norm(points[1] - points[0], axis=-1)
    motion = MeshMotion(["face"])
    motion.add(far, still_track(far), true)
    inside = np.isin(first.labels, far.topology.regions["face"])
    assert motion.curve("face")[0] == pytest.approx(moved[inside].mean())
    # Of these pixels many show skin that has turned away a frame later.
    away = far.in_camera[1][far.topology.faces[first.triangles, 0]][:, 2]
    assert (away > 0.8).sum() > 50


def test_a_region_that_the_prediction_lacks_has_no_figure_and_others_have_theirs() -> None:
    whole = true_track(SHOT)
    no_ear = ~np.isin(SHOT.topology.label[SHOT.topology.faces], SHOT.topology.regions["ears"]).any(1)
    found = figures(replace(whole, faces=whole.faces[no_ear]))
    assert np.isnan(found["ssme_ears_px"])
    assert found["covered_ears"] < 0.1
    assert found["ssme_face_px"] == pytest.approx(0, abs=1e-9)
    # Other triangles: nobody says which vertices are the same.
    assert np.isnan(found["nme2d_percent"])
    assert found["shape_keys_from_screen"] == 2


@pytest.mark.parametrize(("share", "told"), [(0.25, False), (0.75, True)])
def test_half_of_a_region_has_to_be_covered(share: float, told: bool) -> None:
    whole = true_track(SHOT)
    ear = np.isin(SHOT.topology.label[whole.faces], SHOT.topology.regions["ears"]).any(1)
    # Triangles on the far side would show through the holes.
    away = (vertex_normals(SHOT.in_camera[0], whole.faces) * SHOT.in_camera[0]).sum(1) > 0.02
    left_out = away[whole.faces].all(1) | (ear & (np.random.default_rng(0).random(len(ear)) > share))
    found = figures(replace(whole, faces=whole.faces[~left_out]))
    assert found["covered_ears"] == pytest.approx(share, abs=0.15)
    assert np.isfinite(found["ssme_ears_px"]) == told


def test_places_on_the_screen_alone_are_enough_for_motion() -> None:
    flat = smoothed(SHOT, true_track(SHOT), 1e-3)
    assert flat.vertices is None
    found = figures(flat)
    # Triangles of 2 mm are divided evenly on the screen, nearly.
    assert found["ssme_face_px"] < 0.01
    assert found["nme2d_percent"] == pytest.approx(0, abs=1e-6)
    assert np.isnan(found["chamfer_face_mean_mm"])
    shaken = shifted_track(SHOT, np.random.default_rng(0).normal(0, 0.5, (8, 2)))
    trackers = {"it": lambda _: shaken, "smooth": smoothed_reader(lambda _: shaken, 1.5), "none": true_track}
    found_by = {name: one.metrics()["ssme_face_h1_px"] for name, one in score([SHOT], trackers, OPTIONS).items()}
    assert found_by["none"] < found_by["smooth"] < 0.5 * found_by["it"]


def test_an_offset_that_stays_is_no_motion_error_but_a_place_error() -> None:
    still = replace(SHOT, vertices=np.repeat(SHOT.vertices[:1], 8, 0))
    found = figures(shifted_track(still, np.full((8, 2), (1.5, 2.0))), still)
    assert found["ssme_face_px"] == pytest.approx(0, abs=1e-9)
    face = still.screen[0, still.topology.is_face]
    width, height = np.ptp(face[:, :2] / face[:, 2:], axis=0)
    assert found["nme2d_percent"] == pytest.approx(100 * 2.5 / np.sqrt(width * height))


def test_rigid_poses_miss_what_bends() -> None:
    assert figures(rigid_track(SHOT))["ssme_face_px"] > 0.02
    stiff = make_shot(8, 84, bend_m=0)
    assert figures(rigid_track(stiff), stiff)["ssme_face_px"] == pytest.approx(0, abs=1e-6)


def test_shape_is_compared_after_alignment_whatever_the_place() -> None:
    true = true_track(SHOT)
    assert true.vertices is not None
    away = replace(true, vertices=true.vertices @ np.diag([1.0, 1, 1]) + [0.02, 0.01, 0.1])
    assert figures(away)["chamfer_face_mean_mm"] < 0.02
    # One side of the nose stands out by 3 mm.
    dented = true.vertices.copy()
    nose = np.isin(SHOT.topology.label, SHOT.topology.regions["nose"])
    dented[:, nose] -= [0, 0, 0.003]
    found = figures(replace(true, vertices=dented))
    assert 1.5 < found["chamfer_nose_median_mm"] < 3.1
    assert found["chamfer_eyes_median_mm"] < 0.3
    assert found["chamfer_face_std_mm"] > found["chamfer_eyes_std_mm"]
    assert found["normal_angle_rad"] > 0.01


def test_a_mesh_finds_its_nearest_place_exactly_however_uneven() -> None:
    rng = np.random.default_rng(0)
    vertices = np.concatenate([rng.normal(size=(60, 3)), 0.02 * rng.normal(size=(200, 3)) + [2, 0, 0]])
    faces = np.concatenate([rng.integers(0, 60, (40, 3)), rng.integers(60, 260, (300, 3))])
    faces = faces[(np.diff(np.sort(faces, 1), axis=1) > 0).all(1)]
    queries = rng.normal(size=(300, 3)) * 1.5
    _, every = closest_on_triangles(queries[:, None], np.repeat(vertices[faces][None], len(queries), 0))
    surface = MeshSurface(vertices, faces)
    found = surface.closest(queries)
    np.testing.assert_allclose(found.distance_m, every.min(1), atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(found.points - queries, axis=1), found.distance_m, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(surface.normals(found), axis=1), 1)


def arrays(**changes: Any) -> dict[str, Any]:
    values = {"frames": SHOT.frames, "faces": SHOT.topology.faces, "vertices": SHOT.in_camera}
    return {name: value for name, value in {**values, **changes}.items() if value is not None}


def test_a_file_of_a_shot_comes_back(tmp_path: Path) -> None:
    pose = np.linalg.inv(SHOT.world_to_camera)
    world = SHOT.in_camera @ pose[0, :3, :3].T + pose[0, :3, 3]
    keys = SHOT.topology.key_points.on(world[0], SHOT.topology.faces)
    path = tmp_path / "track.npz"
    doubled = np.diag([2.0, 2, 1]) @ SHOT.intrinsics[0]
    content = arrays(vertices=world, world_to_camera=SHOT.world_to_camera[0], intrinsics=doubled)
    # Frames in any order, pictures of twice the size, faces of another order: no correspondence but what is named.
    order = np.random.default_rng(0).permutation(8)
    content |= {"frames": SHOT.frames[order], "vertices": world[order], "faces": SHOT.topology.faces[::-1]}
    content["key_points"] = SHOT.topology.key_points.on(world[order[0]], SHOT.topology.faces)
    np.savez(path, **content, image_size=np.array([168, 168]))
    track = read_track(path, SHOT.size)
    assert track.key_points is not None
    found = track.of(SHOT)
    np.testing.assert_allclose(found.in_camera(), SHOT.in_camera, atol=1e-12)
    np.testing.assert_allclose(found.intrinsics, SHOT.intrinsics, atol=1e-12)
    placed = found.key_points.on(world[0], found.faces)  # type: ignore[union-attr]
    np.testing.assert_allclose(placed, keys, atol=1e-9)
    assert figures(found)["chamfer_face_mean_mm"] == pytest.approx(0, abs=1e-6)


def test_a_correspondence_says_which_points_are_the_same(tmp_path: Path) -> None:
    shuffled = np.random.default_rng(1).permutation(SHOT.vertices.shape[1])
    place = np.argsort(shuffled)
    faces = place[SHOT.topology.faces]
    first = np.argwhere(faces.ravel() == place[:, None])
    at = np.unique(first[:, 0], return_index=True)[1]
    face, corner = np.divmod(first[at, 1], 3)
    track = replace(true_track(SHOT), vertices=SHOT.in_camera[:, shuffled], faces=faces)
    assert np.isnan(figures(track)["nme2d_percent"])
    known = replace(track, correspondence=MaterialPoints(face, np.eye(3)[corner]))
    assert figures(known)["nme2d_percent"] == pytest.approx(0, abs=1e-9)
    assert figures(known)["shape_keys_from_screen"] == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"frames": None}, "no array 'frames'"),
        ({"vertices": None}, "both or neither"),
        ({"pixels": SHOT.in_camera}, "both or neither"),
        ({"verts": SHOT.in_camera}, "'verts'"),
        ({"vertices": SHOT.in_camera[:7]}, "8 × N × 3"),
        ({"vertices": np.where(SHOT.in_camera > 0.07, np.nan, SHOT.in_camera)}, "finite"),
        ({"faces": SHOT.topology.faces + 3}, "from 3 to"),
        ({"frames": np.zeros(8, int)}, "each frame once"),
        ({"frames": SHOT.frames.astype(float)}, "whole numbers"),
        ({"intrinsics": np.zeros((3, 3))}, "not those of a camera"),
        ({"image_size": np.array([84, 84])}, "without intrinsics"),
        ({"intrinsics": SHOT.intrinsics, "image_size": np.array([84, 60])}, "84 × 60"),
        ({"world_to_camera": np.diag([1.0, -1, 1, 1])}, "not rigid"),
        ({"vertices": None, "pixels": SHOT.in_camera, "intrinsics": SHOT.intrinsics}, "beside `pixels`"),
        ({"key_points": np.zeros((6, 3))}, "key_points"),
        ({"correspondence_faces": np.zeros(3, int)}, "one of correspondence"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    np.savez(tmp_path / "track.npz", **arrays(**changes))
    with pytest.raises(InputError, match=words):
        read_track(tmp_path / "track.npz", SHOT.size)


def test_missing_frames_and_shots_are_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no frame 9, 10"):
        replace(true_track(SHOT), frames=np.arange(8) + 1).of(SHOT)
    with pytest.raises(InputError, match="not a folder"):
        folder_reader(tmp_path / "nowhere")
    read = folder_reader(tmp_path)
    with pytest.raises(InputError, match="no prediction of any of 1 shots"):
        score([SHOT], {"it": read}, OPTIONS)
    place = tmp_path / "ada" / "turn" / "cam0"
    place.mkdir(parents=True)
    np.savez(place / "track.npz", **arrays())
    other = replace(SHOT, camera="cam1")
    found = score([SHOT, other], {"it": read}, OPTIONS)["it"]
    assert found.missing == ["ada/turn/cam1"]
    assert found.metrics()["shots_missing"] == 1


def test_shots_of_a_dataset_are_what_its_pictures_show(tmp_path: Path) -> None:
    few = template()
    with pytest.raises(InputError, match="5 landmarks"):
        next(iter(shots_of(build_faces(tmp_path / "few.zarr"), "train")))
    marks = {
        "landmark_faces": np.arange(68, dtype=np.int32),
        "landmark_weights": np.tile(np.float32([1, 0, 0]), (68, 1)),
    }
    build_faces(tmp_path / "dataset.zarr", replace(few, **marks))
    dataset = open_dataset(tmp_path / "dataset.zarr")
    shots = list(shots_of(dataset, "val"))
    # Frames 3, 4 and 9: a gap ends a shot.
    assert [(s.name, s.frames.tolist()) for s in shots] == [
        (f"cleo/turn/{CAMERAS[0]}", list(FRAMES[:2])),
        (f"cleo/turn/{CAMERAS[0]}", list(FRAMES[2:])),
        (f"cleo/turn/{CAMERAS[1]}", list(FRAMES[:2])),
    ]
    for one in shots:
        seen = see(one.screen[0], one.in_camera[0, :, 2], one.topology.faces, one.size)
        assert one.depth is not None
        both = (seen.triangles != NONE) & (one.depth[0] > 0)
        assert both.sum() > 0.97 * (one.depth[0] > 0).sum()
        assert np.median(np.abs(seen.depth - one.depth[0])[both]) < 1e-4
    found = score(shots, {"it": true_track}, OPTIONS)["it"].metrics()
    assert found["ssme_face_px"] == pytest.approx(0, abs=1e-9)
    # Where a picture shows something else than the mesh, nothing is compared.
    hidden = replace(shots[0], depth=np.full_like(shots[0].depth, 0.3))
    assert len(true_pixels(hidden, 0, 100, np.random.default_rng(0)).pixels) == 0
    with pytest.raises(InputError, match="holds no samples"):
        next(iter(shots_of(dataset, "test")))
