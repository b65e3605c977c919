"""What the 68 landmarks are, on every head."""

from __future__ import annotations

import numpy as np
import pytest

from datagen.heads.landmarks import COUNT, MIRROR, landmark_meanings, landmark_sigma_m
from datagen.heads.registry import load_head

LIP_PAIRS = ((61, 67), (62, 66), (63, 65))


def test_mirror_partners_lie_on_the_other_side() -> None:
    assert (MIRROR[MIRROR] == np.arange(COUNT)).all()
    p = load_head("anny").template.landmarks()
    np.testing.assert_allclose(p[MIRROR] * [-1, 1, 1], p, atol=1e-4)
    assert sorted(np.flatnonzero(np.arange(COUNT) == MIRROR)) == [8, 27, 28, 29, 30, 33, 51, 57, 62, 66]


def test_meanings_say_the_side() -> None:
    meanings = landmark_meanings()
    assert len(set(meanings)) == COUNT
    for index, text in enumerate(meanings):
        partner = meanings[MIRROR[index]]
        if index == MIRROR[index]:
            assert "left" not in text
            assert "right" not in text
        else:
            assert {"left", "right"} == {w for w in (*text.split(), *partner.split()) if w in ("left", "right")}


def test_each_landmark_has_a_standard_deviation() -> None:
    sigma = load_head("anny").template.landmark_sigma_m
    assert sigma is landmark_sigma_m()
    assert sigma.shape == (COUNT,)
    assert ((sigma >= 0.5e-3) & (sigma < 8e-3)).all()
    np.testing.assert_array_equal(sigma, sigma[MIRROR])
    # Hands agree on where a nose is, not on where a jaw begins.
    assert sigma[[0, 1, 15, 16]].min() > 2 * sigma[[30, 33]].max()
    with pytest.raises(ValueError, match="read-only"):
        sigma[0] = 0.0


def test_annys_nose_begins_between_the_deepest_point_of_the_bridge_and_the_lids() -> None:
    template = load_head("anny").template
    p, v = template.landmarks(), template.vertices
    ridge = v[(np.abs(v[:, 0]) < 1e-4) & (v[:, 1] > p[30, 1]) & (v[:, 1] < p[30, 1] + 0.075) & (v[:, 2] > 0.09)]
    ridge = ridge[np.argsort(ridge[:, 1])]
    chord = np.interp(ridge[:, 1], ridge[[0, -1], 1], ridge[[0, -1], 2])
    deepest = ridge[np.argmin(ridge[:, 2] - chord), 1]
    assert deepest < p[27, 1] < p[[37, 38, 43, 44], 1].min()


def test_annys_lids_are_marked_on_their_edges() -> None:
    """A quarter and two thirds in from the outer corner; between the lids lies nothing but the eyeball."""
    p = load_head("anny").template.landmarks()
    line = p[39] - p[36]
    for index, share in ((37, 0.275), (38, 0.66), (40, 0.67), (41, 0.275)):
        assert abs((p[index] - p[36]) @ line / (line @ line) - share) < 0.03
    opening = np.linalg.norm(p[[37, 38]].mean(axis=0) - p[[40, 41]].mean(axis=0))
    assert 6e-3 < opening < 10e-3


def test_inner_lips_lie_on_their_own_lip() -> None:
    head = load_head("anny")
    e = np.zeros(len(head.expression_names))
    e[head.expression_names.index("jawOpen")] = 1
    down = head.template.landmarks() - head.template.landmarks(head.vertices(np.zeros(head.identity_size), e))
    for upper, lower in LIP_PAIRS:
        assert down[lower, 1] > down[upper, 1] + 8e-3
