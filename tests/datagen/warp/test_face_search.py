"""The start without landmarks or registration: found in any position, refused where there is no face."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from datagen.common.errors import WarpError
from datagen.geometry.mesh_io import read_mesh
from datagen.heads.base import HeadModel
from datagen.heads.registry import load_head
from datagen.simulation.capture import SimulatedCapture, SimulatedFrame
from datagen.sources.registry import SimulatedSource
from datagen.warp.face_search import global_start
from datagen.warp.similarity import fit_similarity
from datagen.warp.surface import PointSurface, Surface
from tests.support.places import SHARED_DATA

SCANS = SHARED_DATA / "scans"
SUBJECTS = 3


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("anny")


@pytest.fixture(scope="module")
def frames(head: HeadModel) -> list[SimulatedFrame]:
    config = SimulatedSource(
        kind="simulated", subjects=SUBJECTS, frames=3, fps=2, cameras=6, image_size=32, scan_vertices=8000
    )
    return [SimulatedCapture(config, 21, subject, head).frame(subject) for subject in range(SUBJECTS)]


def turned(seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """Any rotation, and a place far from the origin."""
    rng = np.random.default_rng(seed)
    rotation, shift = Rotation.random(rng=rng).as_matrix(), rng.normal(size=3)
    return lambda points: points @ rotation.T + shift


def landmark_error_mm(head: HeadModel, surface: Surface, points: np.ndarray, indices: np.ndarray) -> np.ndarray:
    start = global_start(head, surface)
    return np.linalg.norm(start.similarity.apply(head.template.landmarks()[indices]) - points, axis=1) * 1000


@pytest.mark.parametrize("subject", range(SUBJECTS))
@pytest.mark.parametrize("seed", [0, 1])
def test_a_face_is_found_in_any_position(
    head: HeadModel, frames: list[SimulatedFrame], subject: int, seed: int
) -> None:
    frame, place = frames[subject], turned(10 * subject + seed)
    marks = frame.landmarks
    error = landmark_error_mm(
        head, Surface(place(frame.scan.vertices), frame.scan.faces), place(marks.points), marks.indices
    )
    # A similarity cannot follow identity and expression: the best one, fitted to the landmarks, is off by 2 mm RMS.
    assert np.median(error) < 8
    assert error.max() < 25


def test_people_smaller_and_larger_are_found(head: HeadModel, frames: list[SimulatedFrame]) -> None:
    frame, place = frames[0], turned(3)
    plain = fit_similarity(head.template.landmarks(), frame.landmarks.points).scale
    for factor in (0.87, 1.15):
        start = global_start(head, Surface(place(frame.scan.vertices * factor), frame.scan.faces))
        assert start.similarity.scale == pytest.approx(plain * factor, rel=0.06)


@pytest.mark.parametrize("part", ["half", "mask", "cloud", "strays", "shoulders"])
def test_parts_of_heads_and_more_than_heads_are_found(head: HeadModel, frames: list[SimulatedFrame], part: str) -> None:
    frame, place = frames[1], turned(7)
    marks, vertices, faces = frame.landmarks, frame.scan.vertices, frame.scan.faces
    pose = fit_similarity(head.template.landmarks(), marks.points)
    local = (vertices - pose.translation) @ pose.rotation / pose.scale
    if part == "half":
        faces = faces[(local[:, 0] > 0)[faces].all(axis=1)]
    elif part == "mask":
        faces = faces[((local[:, 2] > 0.04) & (np.abs(local[:, 0]) < 0.07))[faces].all(axis=1)]
    elif part == "shoulders":
        torso = trimesh.creation.icosphere(5)
        torso.vertices = torso.vertices * [0.22, 0.14, 0.12] + [0, -0.27, -0.06]
        faces = np.concatenate([faces, torso.faces + len(vertices)])
        vertices = np.concatenate([vertices, pose.apply(torso.vertices)])
    elif part == "strays":
        rng = np.random.default_rng(0)
        vertices = np.concatenate([vertices, vertices.mean(axis=0) + rng.uniform(-0.3, 0.3, (10 * len(vertices), 3))])
    vertices = place(vertices)
    surface = Surface(vertices, faces)
    if part in {"cloud", "strays"}:
        surface = PointSurface(vertices, vertices.mean(axis=0))
    error = landmark_error_mm(head, surface, place(marks.points), marks.indices)
    assert np.median(error) < 10


def test_same_scan_same_start_to_the_last_bit(head: HeadModel, frames: list[SimulatedFrame]) -> None:
    first, second = (
        global_start(head, Surface(frames[2].scan.vertices, frames[2].scan.faces)).similarity for _ in range(2)
    )
    assert first.scale == second.scale
    np.testing.assert_array_equal(first.rotation, second.rotation)
    np.testing.assert_array_equal(first.translation, second.translation)


def hand() -> trimesh.Trimesh:
    palm = trimesh.creation.icosphere(4)
    palm.vertices = palm.vertices * [0.055, 0.06, 0.02]
    parts = [palm]
    for x, angle, length in ((-0.05, 0.9, 0.06), (-0.03, 0.2, 0.08), (-0.01, 0.05, 0.09), (0.02, -0.1, 0.08)):
        finger = trimesh.creation.capsule(length, 0.01, count=[24, 24])
        upright = Rotation.from_euler("xz", [-90, np.rad2deg(angle)], degrees=True).as_matrix()
        finger.vertices = finger.vertices @ upright.T + [x, 0.05, 0]
        parts.append(finger)
    return trimesh.util.concatenate(parts)


def long_ball() -> trimesh.Trimesh:
    ball = trimesh.creation.icosphere(5)
    ball.vertices = ball.vertices * [0.08, 0.12, 0.1]
    return ball


def box() -> trimesh.Trimesh:
    return trimesh.creation.box((0.16, 0.22, 0.2)).subdivide().subdivide().subdivide().subdivide()


@pytest.mark.parametrize("shape", [long_ball, box, hand, lambda: trimesh.creation.capsule(0.1, 0.07, count=[64, 64])])
def test_what_is_no_head_is_refused(head: HeadModel, shape: Callable[[], trimesh.Trimesh]) -> None:
    solid = shape()
    with pytest.raises(WarpError, match="no face was found in the scan"):
        global_start(head, Surface(turned(1)(np.asarray(solid.vertices)), np.asarray(solid.faces)))


def test_the_back_of_a_head_is_refused(head: HeadModel, frames: list[SimulatedFrame]) -> None:
    # A laser scan has the back too, which the simulated cameras do not see: the template itself serves.
    v, faces = head.template.vertices, head.template.faces
    for behind in (v[:, 2] < 0.02, v[:, 1] > 0.06):
        with pytest.raises(WarpError, match="no face was found in the scan"):
            global_start(head, Surface(turned(2)(v), faces[behind[faces].all(axis=1)]))
    assert global_start(head, Surface(turned(2)(v), faces)).belief.agreement > 0.95


def test_a_handful_of_points_is_refused(head: HeadModel, frames: list[SimulatedFrame]) -> None:
    points = frames[0].scan.vertices[:50]
    with pytest.raises(WarpError, match="no face was found"):
        global_start(head, PointSurface(points, points.mean(axis=0)))


@pytest.mark.realdata
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("person", ["menpo_james", "meshmonk_demoface"])
def test_real_faces_are_found_and_the_backs_of_their_heads_are_not(head: HeadModel, person: str, seed: int) -> None:
    if not SCANS.is_dir():
        pytest.skip("the development scans are not beside the checkout")
    if person == "menpo_james":
        stored = json.loads((SCANS / person / "landmarks.json").read_text())
        indices = np.arange(17, 68)
        points = np.array(stored["points"])[stored["ibug68_order"]][indices] * 0.001
        scan = read_mesh(SCANS / person / "james.obj", "mm")
    else:
        stored = json.loads((SCANS / person / "demoface_landmarks.json").read_text())
        indices, points = np.array([39, 42, 30, 48, 54]), np.array(stored["points"]) * 0.001
        scan = read_mesh(SCANS / person / "DemoFace_10K.obj", "mm")
    place = turned(seed)
    error = landmark_error_mm(head, Surface(place(scan.vertices), scan.faces), place(points), indices)
    # Measured: medians of 6 to 8 mm. This is a start; the fit that follows has the model's parameters.
    assert np.median(error) < 12
    pose = fit_similarity(head.template.landmarks()[indices], points)
    behind = ((scan.vertices - pose.translation) @ pose.rotation)[:, 2] / pose.scale < 0.03
    with pytest.raises(WarpError, match="no face was found in the scan"):
        global_start(head, Surface(place(scan.vertices), scan.faces[behind[scan.faces].all(axis=1)]))
