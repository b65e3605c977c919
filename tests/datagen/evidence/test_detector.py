"""The detector as a maker: which face is meant, what is refused and said, and what comes out for the fit."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from datagen.common.arrays import F64
from datagen.common.seen_points import validate_seen_points
from datagen.evidence.contract import Seen
from datagen.evidence.detector import FaceDetector
from datagen.evidence.detector_model import places
from datagen.geometry.camera import Camera
from tests.support.seen import cameras_around
from tests.support.stand_in_detector import anny_model, detected, in_turn

TEMPLATE, MODEL = anny_model()
# Without what it leans to and how it errs by view, so that an ideal detector is right.
PLAIN = replace(MODEL, shift_m=MODEL.shift_m * 0, lean_to_m=MODEL.lean_to_m * 0)
FACE = TEMPLATE.landmarks().mean(axis=0)
CAMERAS = cameras_around(FACE, ((-0.5, 0.1), (0.0, 0.0), (0.5, -0.1)), size_px=512)
AWAY = np.array([0.25, 0.0, 0.0])


def face(camera: Camera, shift: F64 | None = None, turn_deg: float = 0.0) -> F64:
    turn = Rotation.from_euler("y", turn_deg, degrees=True).as_matrix()
    vertices = (TEMPLATE.vertices - FACE) @ turn.T + FACE + (0 if shift is None else shift)
    return detected(MODEL, TEMPLATE, vertices, camera)


def look(answers: list[list[F64]], cameras: list[Camera] = CAMERAS) -> list[Seen]:
    maker = FaceDetector(TEMPLATE, PLAIN, in_turn(answers))
    picture = np.zeros((512, 512, 3), np.uint8)
    found = maker.look({c.name: picture for c in cameras}, {c.name: c for c in cameras})
    return [found[c.name] for c in cameras]


def off_px(seen: Seen, camera: Camera, shift: F64 | None = None) -> float:
    assert seen.points is not None
    at, _ = places(TEMPLATE, seen.points.faces, seen.points.barycentric)
    there = camera.project(at + (0 if shift is None else shift))[0]
    return float(np.median(np.linalg.norm(there - seen.points.pixels, axis=1)))


def test_points_that_look_at_the_camera_come_with_their_pixels_and_covariance():
    for seen, camera in zip(look([[face(c)] for c in CAMERAS]), CAMERAS, strict=True):
        assert seen.faces == 1
        assert seen.note == ""
        assert seen.points is not None
        validate_seen_points(seen.points, "the maker's")
        assert seen.points.template == TEMPLATE.digest
        assert 200 < len(seen.points) <= len(MODEL.points)
        assert off_px(seen, camera) < 0.2
        # A face of 15 cm on 270 pixels: a point is known to some pixels.
        assert 0.5 < np.sqrt(np.median(seen.points.covariance[:, 0, 0])) < 20
    # Seen from the side, some are hidden and the others less sure.
    cameras = cameras_around(FACE, ((0.9, 0.0), (0.0, 0.0)), size_px=512)
    side, front = look([[face(c)] for c in cameras], cameras)
    assert len(side.points) < len(front.points)
    assert np.median(side.points.covariance[:, 0, 0]) > 1.5 * np.median(front.points.covariance[:, 0, 0])


def test_of_two_faces_the_one_that_other_cameras_see_is_meant_though_it_is_the_smaller():
    near = CAMERAS[1].centre * 0.4 + FACE * 0.6 + [0.02, 0, 0]
    nearer = face(CAMERAS[1], near - FACE)
    first, second, third = look([[face(CAMERAS[0])], [nearer, face(CAMERAS[1])], [face(CAMERAS[2])]])
    assert (first.note, third.note) == ("", "")
    assert second.faces == 2
    assert "2 faces were found; the one that other cameras see" in second.note
    assert off_px(second, CAMERAS[1]) < 0.2


def test_of_two_faces_in_a_single_picture_the_largest_is_taken_and_it_is_said():
    camera = CAMERAS[1]
    back = np.array([0.1, 0.0, -0.4])
    (seen,) = look([[face(camera, back), face(camera)]], [camera])
    assert seen.note == "2 faces were found; the largest was taken"
    assert off_px(seen, camera) < 0.2
    # What is only known from several pictures is then part of what is uncertain.
    assert len(seen.points.shared_m) == len(MODEL.modes_m) + len(MODEL.lean_to_m)


def test_two_people_whom_all_cameras_see_are_not_mixed_up():
    answers = [[face(c, AWAY), face(c)] for c in CAMERAS]
    found = look(answers)
    assert all("2 faces were found" in seen.note for seen in found)
    one = [off_px(seen, c) < 0.5 for seen, c in zip(found, CAMERAS, strict=True)]
    other = [off_px(seen, c, AWAY) < 0.5 for seen, c in zip(found, CAMERAS, strict=True)]
    assert all(one) != all(other)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([], "no face was found"),
        ([face(CAMERAS[1], turn_deg=85)], "a profile"),
        ([face(CAMERAS[1]) * 0.05], "too small"),
        ([np.random.default_rng(0).normal(size=(478, 3)) * 60 + 200], "from those of any face|too small|profile"),
    ],
)
def test_a_picture_without_a_usable_face_says_nothing_and_why(answer: list[F64], said: str):
    seen = look([[face(CAMERAS[0])], answer, [face(CAMERAS[2])]])
    assert seen[0].points is not None
    assert seen[2].points is not None
    assert seen[1].points is None
    assert seen[1].faces == len(answer)
    assert re.search(said, seen[1].note)


def test_a_camera_that_sees_a_face_where_no_other_does_is_refused_from_three_on():
    wrong = face(CAMERAS[2], np.array([0.0, 0.12, 0.0]))
    found = look([[face(CAMERAS[0])], [face(CAMERAS[1])], [wrong]])
    assert found[2].points is None
    assert "its camera may be wrong" in found[2].note
    # Of two nobody knows which is right.
    assert all(seen.points is not None for seen in look([[face(CAMERAS[0])], [wrong]], [CAMERAS[0], CAMERAS[2]]))


def test_no_picture_with_a_face_gives_nothing():
    assert [seen.points for seen in look([[], [], []])] == [None] * 3
    assert FaceDetector(TEMPLATE, PLAIN, in_turn([])).look({}, {}) == {}


def test_a_picture_and_its_mirror_image_are_averaged_where_both_show_the_face():
    camera, width = CAMERAS[1], 512
    aside = np.array([3.0, 0, 0])
    right, left = face(camera) + aside, face(camera) - aside
    places_m, _ = MODEL.places(TEMPLATE)
    partner = np.linalg.norm((places_m * [-1.0, 1.0, 1.0])[:, None] - places_m, axis=2).argmin(axis=1)
    in_mirror = left.copy()
    in_mirror[MODEL.points[partner]] = left[MODEL.points]
    in_mirror[:, 0] = width - in_mirror[:, 0]
    answers = [in_mirror[None], right[None]]
    maker = FaceDetector(TEMPLATE, PLAIN, lambda _: answers.pop(0))
    seen = maker.look({camera.name: np.zeros((width, width, 3), np.uint8)}, {camera.name: camera})[camera.name]
    assert off_px(seen, camera) < 0.3


def test_where_pictures_contradict_each_other_the_face_is_left_out_and_it_is_said():
    places_m, _ = MODEL.places(TEMPLATE)
    below = places_m[:, 1] < TEMPLATE.landmarks()[33, 1]
    answers = []
    for k, camera in enumerate(CAMERAS):
        points = face(camera)
        # A mask: every picture tells another place of mouth and chin.
        points[MODEL.points[below], 1] += [-15.0, 15.0, -15.0][k]
        answers.append([points])
    for seen, camera in zip(look(answers), CAMERAS, strict=True):
        assert "of the face is left out" in seen.note
        at, _ = places(TEMPLATE, seen.points.faces, seen.points.barycentric)
        # Far back on the jaw a single picture sees a point: nothing contradicts it there.
        assert not ((at[:, 1] < TEMPLATE.landmarks()[33, 1]) & (np.abs(at[:, 0]) < 0.045)).any()
        assert len(seen.points) > 100
        assert off_px(seen, camera) < 2
