"""People with the proportions of real faces: fields of the covariance they claim, expressions of their own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from datagen.common.errors import InputError
from datagen.heads.base import HeadModel
from datagen.heads.regions import REGIONS
from datagen.heads.registry import load_head
from datagen.heads.typical import typical_offset_m
from datagen.simulation.capture import SimulatedCapture
from datagen.simulation.plan import plan_sequences
from datagen.simulation.real_people import OWN_SHARE, RealPerson, smooth_field
from datagen.sources.registry import SimulatedSource
from datagen.warp.similarity import fit_similarity
from tests.support.round_head import round_template

SMALL = SimulatedSource(
    kind="simulated", people="real", subjects=1, frames=2, cameras=3, image_size=64, scan_vertices=4000
)


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("anny")


@pytest.fixture(scope="module")
def person(head: HeadModel) -> RealPerson:
    return RealPerson.draw(head, np.random.default_rng(3))


def test_fields_have_the_covariance_they_are_drawn_from() -> None:
    length_m = 0.03
    points = np.array([[0, 0, 0], [0.01, 0, 0], [0, 0.03, 0], [0, 0, 0.06], [0.2, 0.1, 0]])
    drawn = np.stack([smooth_field(points, length_m, np.random.default_rng(k), 4) for k in range(400)])
    found = np.einsum("kpc,kqc->pq", drawn, drawn) / (400 * 4)
    squared = ((points[:, None] - points) ** 2).sum(axis=2)
    np.testing.assert_allclose(found, np.exp(-0.5 * squared / length_m**2), atol=0.08)


def test_people_differ_from_the_typical_face_as_much_as_scanned_people(head: HeadModel) -> None:
    """Landmarks lie 2.0 and 2.4 mm (median) from the typical face in two families of real ones."""
    template = head.template
    typical = template.landmarks(template.vertices + typical_offset_m(template))
    off_mm = []
    for k in range(8):
        marks = template.landmarks(RealPerson.draw(head, np.random.default_rng(k)).neutral)
        off_mm.append(1e3 * np.linalg.norm(fit_similarity(marks, typical).apply(marks) - typical, axis=1))
    assert 1.5 < np.median(off_mm) < 4.5


def test_expressions_are_nearly_the_models_and_eyes_turn_as_they_do(head: HeadModel, person: RealPerson) -> None:
    rest = np.zeros(len(head.expression_names))
    np.testing.assert_allclose(person.shape(rest), person.neutral, atol=1e-12)
    neutral = head.vertices(np.zeros(head.identity_size), rest)
    wide = rest.copy()
    wide[[name.lower() for name in head.expression_names].index("jawopen")] = 0.8
    models, own = head.vertices(np.zeros(head.identity_size), wide) - neutral, person.shape(wide) - person.neutral
    moved = np.linalg.norm(models, axis=1) > 5e-3
    off = np.linalg.norm(own - models, axis=1)[moved] / np.linalg.norm(models, axis=1)[moved]
    assert 0.3 * OWN_SHARE < np.sqrt((off**2).mean()) < 2 * OWN_SHARE
    eyeballs = np.isin(head.template.regions, [REGIONS["right_eyeball"], REGIONS["left_eyeball"]])
    np.testing.assert_allclose(own[eyeballs], models[eyeballs], atol=1e-9)


def test_a_capture_of_such_a_person_keeps_its_truth(head: HeadModel) -> None:
    capture = SimulatedCapture(SMALL, 11, 0, head, images=False)
    posed = capture.subject.pose(capture.expressions[1], capture.poses[1])
    plain = SimulatedCapture(SMALL.model_copy(update={"people": "model"}), 11, 0, head, images=False)
    # Another face, the same skin points.
    others = plain.subject.pose(plain.expressions[1], plain.poses[1])
    assert np.abs(posed.template_vertices - others.template_vertices).max() > 2e-3
    frame = capture.frame(1)
    known = np.isfinite(frame.truth).all(axis=1)
    assert known.mean() > 0.9
    other = SimulatedCapture(SMALL.model_copy(update={"take": 1}), 11, 0, head, images=False)
    rest = np.zeros(len(head.expression_names))
    np.testing.assert_array_equal(other.subject.shape(rest), capture.subject.shape(rest))


def test_heads_whose_real_people_are_unknown_are_refused() -> None:
    with pytest.raises(InputError, match=r"source\.people to model"):
        plan_sequences(SMALL.model_copy(update={"head": "ict", "root": "/nowhere"}), 0)
    with pytest.raises(InputError, match="not known"):
        RealPerson.draw(cast(HeadModel, SimpleNamespace(template=round_template())), np.random.default_rng(0))
