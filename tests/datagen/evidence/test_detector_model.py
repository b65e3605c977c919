"""The model that comes along: its shapes, and what it claims, on what the real detector saw of one simulated person.

``held_out.npz`` holds the points of the real detector in eight pictures of a person that it was not learnt from.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from datagen.common.arrays import F64
from datagen.common.errors import InputError
from datagen.evidence.detector import FaceDetector
from datagen.evidence.detector_model import DetectorModel, ViewOfFace, detector_model, on_smooth_surface
from datagen.geometry.camera import Camera
from datagen.geometry.pixel_evidence import PixelEvidence
from datagen.heads.base import HeadTemplate
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.heads.registry import load_head
from datagen.warp.pixel_start import place_by_pictures
from datagen.warp.posterior import Round, fit_shape
from datagen.warp.shape_model import model_shape
from datagen.warp.template import prepare_template
from tests.support.stand_in_detector import anny_model, in_turn

TEMPLATE, MODEL = anny_model()
SAMPLE = Path(__file__).with_name("held_out.npz")


@lru_cache(maxsize=4)
def seen(model: DetectorModel) -> tuple[tuple[PixelEvidence, ...], F64]:
    """What the maker says of the stored pictures, and the true vertices."""
    with np.load(SAMPLE) as stored:
        width, height = (int(n) for n in stored["size"])
        cameras = {
            f"cam{k}": Camera(f"cam{k}", K, pose, width, height)
            for k, (K, pose) in enumerate(zip(stored["K"], stored["pose"], strict=True))
        }
        maker = FaceDetector(TEMPLATE, model, in_turn([[points] for points in stored["points"].astype(np.float64)]))
        vertices = stored["vertices"].astype(np.float64)
    found = maker.look({name: np.zeros((height, width, 3), np.uint8) for name in cameras}, cameras)
    kept = [PixelEvidence(one.points, cameras[name]) for name, one in found.items() if one.points is not None]
    assert len(kept) >= 7
    return tuple(kept), vertices


def off_mm(model: DetectorModel) -> list[F64]:
    """How far each picture's points lie from the true ones, at the face."""
    evidence, vertices = seen(model)
    surface = on_smooth_surface(TEMPLATE, vertices)
    result = []
    for one in evidence:
        points = one.points
        at = np.einsum("pc,pcd->pd", points.barycentric, surface[TEMPLATE.faces[points.faces]])
        pixels, z = one.camera.project(at)
        result.append(np.linalg.norm(points.pixels - pixels, axis=1) * (z / one.camera.K[0, 0]) * 1e3)
    return result


def test_it_is_small_and_whole_and_of_the_template():
    assert MODEL.template == TEMPLATE.digest
    assert "0.10.21" in MODEL.detector
    count = len(MODEL.points)
    assert 440 <= count <= 468
    assert (np.diff(MODEL.points) > 0).all()
    assert MODEL.points[-1] < 468
    assert MODEL.barycentric.shape == (count, 3)
    np.testing.assert_allclose(MODEL.barycentric.sum(axis=1), 1, atol=1e-5)
    assert MODEL.shift_m.shape == (count, 6, 2)
    assert MODEL.modes_m.shape[1:] == MODEL.lean_from.shape[1:] == MODEL.lean_to_m.shape[1:] == (count, 3)
    for array in (MODEL.shift_m, MODEL.modes_m, MODEL.common_m, MODEL.alone_m, MODEL.growth, MODEL.turn_growth):
        assert np.isfinite(array).all()
    assert 0.1e-3 < MODEL.alone_m.min() < MODEL.alone_m.max() < 6e-3
    assert (np.diff(MODEL.growth) <= 0).all()
    assert (np.diff(MODEL.turn_growth) >= 0).all()


def test_points_lie_where_the_landmarks_of_the_same_name_do():
    # The detector's outer and inner corners of the eyes, tip of the nose, corners of the mouth, as iBUG counts them.
    pairs = {33: 36, 133: 39, 362: 42, 263: 45, 4: 30}
    places, _ = MODEL.places(TEMPLATE)
    marks = TEMPLATE.landmarks()
    for point, mark in pairs.items():
        (at,) = places[np.searchsorted(MODEL.points, [point])]
        assert np.linalg.norm(at - marks[mark]) < 7e-3, point
    # And left is left.
    assert places[np.searchsorted(MODEL.points, 263), 0] > 0.02


def test_what_is_taken_off_brings_the_points_of_somebody_unknown_nearer_to_the_truth():
    nothing = replace(MODEL, shift_m=MODEL.shift_m * 0, lean_to_m=MODEL.lean_to_m * 0)
    as_seen, less = (np.median(np.concatenate(off_mm(model))) for model in (nothing, MODEL))
    assert less < 0.9 * as_seen
    assert less < 2.0


def test_a_head_of_pictures_alone_is_as_far_off_as_it_says():
    head = load_head("anny")
    evidence, vertices = seen(MODEL)
    template = prepare_template(TEMPLATE, None)
    shape = model_shape(head, template)
    placed = place_by_pictures(template, shape.base, evidence)
    assert placed is not None
    fit = fit_shape(template, shape, placed.pose, (Round(None),) * 4, None, pixels=evidence)
    face = mask_of(TEMPLATE.regions, FACE_REGIONS)
    apart = on_smooth_surface(TEMPLATE, fit.vertices) - on_smooth_surface(TEMPLATE, vertices)
    off = np.linalg.norm(apart, axis=1)[face] * 1e3
    assert np.median(off) < 2.5
    ratio = np.sqrt(np.mean((off / (fit.spread_m[: len(face)][face] * 1e3)) ** 2))
    assert 0.5 < ratio < 1.5


def test_a_view_knows_which_way_the_face_is_turned_and_rolled():
    frontal = ViewOfFace(np.diag([1.0, -1.0, -1.0]), 1000.0)
    assert frontal.turned_deg == pytest.approx(0)
    np.testing.assert_allclose(frontal.roll, np.eye(2), atol=1e-12)
    # A quarter turn in the picture: what was down lies to the left.
    turned = ViewOfFace(np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, -1]]), 1000.0)
    np.testing.assert_allclose(turned.roll @ [0, 1], [-1, 0], atol=1e-12)
    assert turned.turned_deg == pytest.approx(0)


def test_a_head_that_nothing_is_known_of_is_refused():
    other = HeadTemplate(
        "anny", TEMPLATE.vertices * 1.01, *(getattr(TEMPLATE, n) for n in list(TEMPLATE.__dataclass_fields__)[2:])
    )
    with pytest.raises(InputError, match="learnt for another template"):
        detector_model(other)
    with pytest.raises(InputError, match="points lie on 'nobody' is not known"):
        detector_model(replace(other, name="nobody"))
