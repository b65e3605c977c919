"""What a dataset holds of its head model."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from datagen.heads import contents as contents_module
from datagen.heads import registry
from datagen.heads.base import HeadModel, LinearHead
from datagen.heads.contents import model_digest, skin_operator, template_contents
from datagen.heads.registry import HeadEntry, load_head
from datagen.warp.template import prepare_template, subdivision_levels
from tests.support.round_head import round_template


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("anny")


def linear(scale: float = 1.0) -> LinearHead:
    template = round_template()
    rng = np.random.default_rng(0)
    shapes = (scale * rng.normal(0, 1e-3, (5, *template.vertices.shape))).astype(np.float32)
    return LinearHead(template, shapes[:3], shapes[3:], ("smile", "frown"))


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.HEADS, "round", HeadEntry("nowhere:load", 204, "CC0"))


def test_anny_brings_all_but_the_bases_that_are_not_linear(head: HeadModel) -> None:
    levels = subdivision_levels(head.template, None)
    assert levels == 1
    found = template_contents(head, levels)
    prepared = prepare_template(head.template, None)
    V = len(head.template.vertices)
    np.testing.assert_allclose(found.vertices, prepared.canonical_m[:V], atol=1e-7)
    assert found.licence.startswith("Apache-2.0")
    assert (len(found.identity_names), len(found.expression_names)) == (head.identity_size, len(head.expression_names))
    assert found.identity_basis.shape == (0, V, 3)
    smile = 0.7 * np.eye(len(head.expression_names))[list(head.expression_names).index("mouthSmileLeft")]
    true = skin_operator(head.template, levels) @ head.vertices(np.zeros(head.identity_size), smile)
    made = found.mean + np.tensordot(smile, found.expression_basis.astype(np.float64), 1)
    np.testing.assert_allclose(made, true, atol=1e-7)
    marks = np.einsum("lc,lcd->ld", found.landmark_weights, found.vertices[found.faces[found.landmark_faces]])
    np.testing.assert_allclose(marks, head.template.landmarks(found.vertices), atol=1e-6)


def test_it_is_small_and_always_the_same(head: HeadModel) -> None:
    first, again = template_contents(head, 1), template_contents(head, 1)
    arrays = [f.name for f in fields(first) if isinstance(getattr(first, f.name), np.ndarray)]
    assert sum(getattr(first, name).nbytes for name in arrays) < 4 << 20
    for name in arrays:
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert first.model_digest == again.model_digest


@pytest.mark.usefixtures("known")
def test_a_linear_model_is_its_bases() -> None:
    head = linear()
    found = template_contents(head, 1)
    identity, expression = np.array([0.5, -1.0, 2.0]), np.array([0.2, 1.0])
    made = (
        found.mean
        + np.tensordot(identity, found.identity_basis, 1)
        + np.tensordot(expression, found.expression_basis, 1)
    )
    true = skin_operator(head.template, 1) @ head.vertices(identity, expression)
    np.testing.assert_allclose(made, true, atol=1e-7)
    assert found.identity_names == ("identity_000", "identity_001", "identity_002")


def test_bases_stay_out_where_a_licence_or_their_size_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    head = linear()
    closed = HeadEntry("nowhere:load", 204, "ask first", redistributable=False)
    for entry, most in ((closed, contents_module.MOST_BASIS_BYTES), (HeadEntry("nowhere:load", 204, "CC0"), 1000)):
        monkeypatch.setitem(registry.HEADS, "round", entry)
        monkeypatch.setattr(contents_module, "MOST_BASIS_BYTES", most)
        found = template_contents(head, 0)
        assert len(found.mean) == len(found.identity_basis) == len(found.expression_basis) == 0
        assert found.expression_names == ("smile", "frown")
        assert found.licence == entry.licence
    assert not registry.HEADS["flame"].redistributable


def test_the_digest_names_the_model() -> None:
    assert model_digest(linear()) == model_digest(linear())
    assert model_digest(linear()) != model_digest(linear(1.001))
