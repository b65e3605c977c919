"""Systems whose frames meet their neighbours only: as the dense ones."""

from __future__ import annotations

import numpy as np
import pytest

from datagen.fit.block_band import BlockBand
from datagen.fit.system import Bounds, Equations

T, n, S = 5, 3, 4


def dense(band: BlockBand) -> np.ndarray:
    whole = np.zeros((T * n, T * n))
    for t in range(T):
        whole[t * n : (t + 1) * n, t * n : (t + 1) * n] = band.diagonal[t]
        for apart, blocks in ((1, band.first), (2, band.second)):
            if t + apart < T and len(blocks):
                whole[(t + apart) * n : (t + apart + 1) * n, t * n : (t + 1) * n] = blocks[t]
                whole[t * n : (t + 1) * n, (t + apart) * n : (t + apart + 1) * n] = blocks[t].T
    return whole


@pytest.fixture(params=[True, False], ids=["neighbours meet", "frames alone"])
def band(request: pytest.FixtureRequest) -> BlockBand:
    rng = np.random.default_rng(0)
    none = np.zeros((0, n, n))
    diagonal = rng.normal(size=(T, n, n))
    diagonal = diagonal @ diagonal.transpose(0, 2, 1) + 6 * np.eye(n)
    if not request.param:
        return BlockBand(diagonal, none, none)
    return BlockBand(diagonal, rng.normal(size=(T - 1, n, n)), rng.normal(size=(T - 2, n, n)))


def test_products_factor_and_solutions_are_the_dense_ones(band: BlockBand) -> None:
    rng = np.random.default_rng(1)
    whole = dense(band)
    x, right = rng.normal(size=(T, n)), rng.normal(size=(T, n, 2))
    np.testing.assert_allclose(band.times(x).ravel(), whole @ x.ravel(), atol=1e-12)
    factor = band.factor()
    solved = factor.unwhitened(factor.whitened(right))
    np.testing.assert_allclose(whole @ solved.reshape(T * n, 2), right.reshape(T * n, 2), atol=1e-10)


def equations(band: BlockBand) -> tuple[Equations, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    shared = rng.normal(size=(S, S))
    shared = shared @ shared.T + 20 * np.eye(S)
    coupling, pull = rng.normal(size=(T, n, S)), 10 * rng.normal(size=S + T * n)
    flat = coupling.reshape(-1, S)
    whole = np.block([[shared, flat.T], [flat, dense(band)]])
    assert np.linalg.eigvalsh(whole)[0] > 0
    return Equations(shared, band, coupling, pull[:S], pull[S:].reshape(T, n)), whole, pull


def test_bounded_steps_are_least_among_all_within_bounds(band: BlockBand) -> None:
    system, whole, pull = equations(band)
    where = np.array([0, 2, S, S + 1, S + 2 * n, S + 4 * n + 2])
    bounds = Bounds(where, np.full(len(where), -0.1), np.full(len(where), 0.2))
    shared, own, held = system.least(bounds, np.zeros(len(where), np.int8))
    step = np.concatenate([shared, own.ravel()])
    assert (step[where] >= -0.1).all()
    assert (step[where] <= 0.2).all()
    assert (held != 0).any()
    slope = whole @ step - pull
    free = np.ones(len(step), bool)
    free[where[held != 0]] = False
    np.testing.assert_allclose(slope[free], 0, atol=1e-8)
    assert (slope[where[held > 0]] <= 0).all()
    assert (slope[where[held < 0]] >= 0).all()


def test_variances_are_those_of_the_inverse(band: BlockBand) -> None:
    system, whole, _ = equations(band)
    rng = np.random.default_rng(3)
    rows_shared, rows_own = rng.normal(size=(2, S)), rng.normal(size=(2, n))
    rows = np.zeros((2, S + T * n))
    rows[:, :S], rows[:, S + 3 * n : S + 4 * n] = rows_shared, rows_own
    expected = np.einsum("ri,ij,rj->r", rows, np.linalg.inv(whole), rows)
    found = system.reduced(np.zeros(len(whole), bool)).variance(3, rows_shared, rows_own)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
