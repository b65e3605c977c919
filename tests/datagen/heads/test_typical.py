"""The typical real face in Anny's topology, as stored and as spread from the stored points."""

from __future__ import annotations

import dataclasses
import json
from importlib.resources import files

import numpy as np
import pytest
from scipy.spatial import cKDTree

from datagen.heads.base import HeadTemplate
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.heads.registry import load_head
from datagen.heads.typical import typical_offset_m
from tests.support.round_head import round_template


@pytest.fixture(scope="module")
def anny() -> HeadTemplate:
    return load_head("anny").template


@pytest.fixture(scope="module")
def offset_mm(anny: HeadTemplate) -> np.ndarray:
    return typical_offset_m(anny) * 1000


def test_it_is_the_same_on_both_sides(anny: HeadTemplate, offset_mm: np.ndarray) -> None:
    apart_m, twin = cKDTree(anny.vertices).query(anny.vertices * [-1, 1, 1])
    face = mask_of(anny.regions, FACE_REGIONS)
    twins = face & (apart_m < 1e-6)
    assert twins[face].mean() > 0.9
    np.testing.assert_allclose(offset_mm[twin[twins]], (offset_mm * [-1, 1, 1])[twins], atol=0.01)
    midline = face & (np.abs(anny.vertices[:, 0]) < 1e-6)
    assert midline.sum() > 10
    np.testing.assert_allclose(offset_mm[midline, 0], 0, atol=0.01)


def test_it_is_a_few_millimetres_on_the_face(anny: HeadTemplate, offset_mm: np.ndarray) -> None:
    size = np.linalg.norm(offset_mm, axis=1)
    face = mask_of(anny.regions, FACE_REGIONS)
    assert 1.0 < np.median(size[face]) < 6.0
    assert size.max() < 20.0


def test_it_is_smooth(anny: HeadTemplate, offset_mm: np.ndarray) -> None:
    """Along an edge it changes by a small share of the edge: it bends the face and folds nothing."""
    edges = np.unique(np.sort(anny.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1), axis=0)
    length_mm = np.linalg.norm(anny.vertices[edges[:, 0]] - anny.vertices[edges[:, 1]], axis=1) * 1000
    change_mm = np.linalg.norm(offset_mm[edges[:, 0]] - offset_mm[edges[:, 1]], axis=1)
    assert (change_mm <= 0.6 * length_mm + 1e-6).all()
    assert np.median(change_mm / np.maximum(length_mm, 1e-6)) < 0.15


def test_the_stored_points_move_as_stored(anny: HeadTemplate, offset_mm: np.ndarray) -> None:
    stored = json.loads((files("datagen.heads") / "data" / "anny_typical.json").read_text())
    assert stored["template"] == anny.digest
    points = anny.vertices[stored["vertices"]]
    assert (points[:, 0] > -1e-6).all()
    assert len(np.unique(stored["vertices"])) == len(points) > 100
    off_mm = np.abs(offset_mm[stored["vertices"]] - stored["offset_mm"])
    # The field between them is a little smoother than what is stored.
    assert off_mm.max() < 0.15
    assert np.quantile(off_mm, 0.99) < 0.1
    assert np.sqrt((off_mm**2).mean()) < 0.03


def test_heads_of_which_nothing_is_known_are_their_own_mean(anny: HeadTemplate) -> None:
    assert not typical_offset_m(round_template()).any()
    # Stored for another template of this name: the points may lie anywhere on this one.
    moved = dataclasses.replace(anny, vertices=anny.vertices * 1.01)
    assert moved.digest != anny.digest
    assert not typical_offset_m(moved).any()
    assert typical_offset_m(anny).any()
