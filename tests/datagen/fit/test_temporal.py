"""Accelerations: which frames follow each other, and how their unknowns move them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from datagen.fit.temporal import EXPRESSION_S2, SHIFT_M_S2, acceleration, following


def test_frames_follow_each_other_where_steps_are_short_and_even() -> None:
    assert following([0.0, 0.04, 0.08, 0.12]) == [(1, pytest.approx(0.04)), (2, pytest.approx(0.04))]
    assert following([0.0, 0.04, 0.12]) == []
    assert following([0.0, 0.5, 1.0]) == []
    assert following([0.0]) == []


def test_steady_motion_has_none_and_a_jump_has_its_own() -> None:
    steady = np.arange(3)[:, None] * np.array([[0.01, 0.0, 0.02]])
    turns = Rotation.from_rotvec(np.arange(3)[:, None] * np.array([[0.0, 0.02, 0.0]])).as_matrix()
    weights = np.arange(3)[:, None] * np.array([[0.1, 0.05]])
    _, value = acceleration(1, 0.04, weights, turns, steady, 1.0)
    np.testing.assert_allclose(value, 0, atol=1e-12)
    weights[2, 0] += 0.1
    steady[2, 2] += 0.003
    _, value = acceleration(1, 0.04, weights, turns, steady, 1.0)
    assert value[0] == pytest.approx(0.1 / (EXPRESSION_S2 * 0.04**2))
    assert value[7] == pytest.approx(0.003 / (SHIFT_M_S2 * 0.04**2))


def test_derivatives_are_those_of_small_steps() -> None:
    rng = np.random.default_rng(0)
    weights, centres = rng.random((3, 2)), 0.01 * rng.normal(size=(3, 3))
    turns = Rotation.from_rotvec([0.3, 0.2, -0.4] + 0.01 * rng.normal(size=(3, 3))).as_matrix()
    parts, value = acceleration(1, 0.04, weights, turns, centres, 1.1)
    step = 1e-6
    for k in range(3):
        for column in range(8):
            w, c, R = weights.copy(), centres.copy(), turns.copy()
            if column < 2:
                w[k, column] += step
            elif column < 5:
                R[k] = R[k] @ Rotation.from_rotvec(step * np.eye(3)[column - 2]).as_matrix()
            else:
                c[k] += 1.1 * R[k] @ np.eye(3)[column - 5] * step
            moved = acceleration(1, 0.04, w, R, c, 1.1)[1]
            # Of turns to first order of how far frames are turned against each other.
            np.testing.assert_allclose((moved - value) / step, parts[k][:, column], rtol=0.03, atol=0.5)
