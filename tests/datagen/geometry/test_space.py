"""Canonical space: normalising, millimetres, and its stored form."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen.geometry.space import CanonicalSpace

coordinate = st.floats(-1, 1, allow_subnormal=False)
few = settings(max_examples=40, deadline=None)


def space_of(extent: float = 0.13) -> CanonicalSpace:
    return CanonicalSpace("anny", (0.0012, 1.55, -0.02), extent, "shared", "d" * 64)


@few
@given(c=st.tuples(coordinate, coordinate, coordinate), extent=st.floats(0.05, 0.5))
def test_normalise_inverts_metres(c: tuple[float, float, float], extent: float):
    space = space_of(extent)
    np.testing.assert_allclose(space.normalise(space.metres(c)), c, atol=1e-9)


@few
@given(
    a=st.tuples(coordinate, coordinate, coordinate),
    b=st.tuples(coordinate, coordinate, coordinate),
    extent=st.floats(0.05, 0.5),
)
def test_distances_in_mm_are_those_in_metres(a: tuple[float, ...], b: tuple[float, ...], extent: float):
    space = space_of(extent)
    expected = np.linalg.norm(space.metres(a) - space.metres(b)) * 1000
    assert space.distance_mm(a, b) == pytest.approx(expected, abs=1e-6)


@few
@given(st.integers(0, 2**31))
def test_a_space_around_a_template_holds_it_all(seed: int):
    rng = np.random.default_rng(seed)
    vertices = rng.normal(size=(50, 3)) * rng.uniform(0.02, 0.2, 3) + rng.normal(size=3)
    c = CanonicalSpace.around(vertices, "h", "").normalise(vertices)
    assert np.abs(c).max() <= 1
    assert np.abs(c).max() > 0.9  # and wastes little of [-1, 1]


def test_attrs_survive_json():
    space = space_of()
    assert CanonicalSpace.from_attrs(json.loads(json.dumps(space.to_attrs()))) == space
