"""The benchmark of fits: what it simulates is what it says, and its figures are those of the fit."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.fit.people import displaced, looked_at, simulated_person
from benchmarks.fit.run import FitBench, FitPlan, unknown_focal
from datagen.heads.base import HeadModel
from datagen.heads.registry import load_head
from datagen.warp.template import prepare_template


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("anny")


def test_points_are_seen_where_the_surface_is_and_err_as_stated(head: HeadModel) -> None:
    template = prepare_template(head.template, 0)
    person = simulated_person(head, 3, 0, 2, 1.0)
    (one, _) = looked_at(template, person, person.cameras[:2], 1.5, np.random.default_rng(0))
    assert one.time_s == 0.0
    look = one.evidence[1]
    corners = head.template.faces[look.points.faces]
    where = np.einsum("nc,ncd->nd", look.points.barycentric, person.vertices[0][corners])
    off = look.points.pixels - look.camera.project(where)[0]
    assert off.std() == pytest.approx(1.5, rel=0.05)
    assert (look.camera.width, look.camera.height) == (96, 96)
    # About half of the head is seen.
    assert 0.25 < len(look.points) / len(head.template.vertices) < 0.75


def test_what_is_displaced_is_what_was_asked_for(head: HeadModel) -> None:
    template = prepare_template(head.template, 0)
    person = simulated_person(head, 3, 0, 1, 1.0)
    frames = looked_at(template, person, person.cameras, 1.0, np.random.default_rng(0))
    points = displaced(frames, 1 / 3, 32.0, np.random.default_rng(0), views=False)
    views = displaced(frames, 1 / 3, 32.0, np.random.default_rng(0), views=True)
    moved = [
        [(b.points.pixels != a.points.pixels).any(axis=1).mean() for a, b in zip(x.evidence, y.evidence, strict=True)]
        for x, y in zip([*frames, *frames], [*points, *views], strict=True)
    ]
    assert np.mean(moved[0]) == pytest.approx(1 / 3, abs=0.03)
    assert sorted(moved[1]) == [0, 0, 0, 0, 1, 1]


def test_a_focal_length_to_be_found_is_wrong_and_all_else_right(head: HeadModel) -> None:
    template = prepare_template(head.template, 0)
    person = simulated_person(head, 3, 0, 1, 1.0)
    frames = looked_at(template, person, person.cameras[:1], 0.05, np.random.default_rng(0))
    ((look,), true) = unknown_focal(frames, 1.4)[0].evidence, person.cameras[0]
    assert look.camera.K[0, 0] == pytest.approx(1.4 * true.K[0, 0])
    K = np.array([[true.K[0, 0], 0, 48], [0, true.K[0, 0], 48], [0, 0, 1]])
    corners = head.template.faces[look.points.faces]
    where = np.einsum("nc,ncd->nd", look.points.barycentric, person.vertices[0][corners])
    at = true.to_camera(where) @ K.T
    np.testing.assert_allclose(at[:, :2] / at[:, 2:], look.points.pixels, atol=0.5)


def test_errors_are_distances_of_the_face(head: HeadModel) -> None:
    bench = FitBench(FitPlan(subjects=1, frames=1), head, lambda _: None)
    person = bench.people[0]
    world, aligned = bench.errors([person.vertices[0] + [0.003, 0, 0]], person)
    assert world == pytest.approx(3.0)
    assert aligned == pytest.approx(0.0, abs=1e-6)
