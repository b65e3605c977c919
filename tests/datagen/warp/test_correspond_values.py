"""Correspondences on flat sheets: each reason for a refusal alone, and the weight as written."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from datagen.heads.regions import INTERIOR_REGIONS, REGIONS
from datagen.warp.correspond import BackCheck, Gate, Targets, find_targets, regions_compatible
from datagen.warp.surface import Surface

F64 = np.ndarray
GATE = Gate(0.01, 0.5, 0.002)


def sheet(n: int, spacing: float) -> tuple[F64, F64]:
    x, y = np.meshgrid(np.arange(n) * spacing, np.arange(n) * spacing, indexing="ij")
    index = np.arange(n * n).reshape(n, n)
    a, b, c, d = (index[i : n - 1 + i, j : n - 1 + j].ravel() for i, j in ((0, 0), (1, 0), (1, 1), (0, 1)))
    return np.stack([x.ravel(), y.ravel(), np.zeros(n * n)], axis=1), np.concatenate(
        [np.stack([a, b, c], 1), np.stack([a, c, d], 1)]
    ).astype(np.int32)


FLAT, FACES = sheet(21, 0.005)
SCAN = Surface(FLAT, FACES)
MIDDLE = np.array([0.0512, 0.0487, 0.0])


def ask(
    vertices: F64,
    normals: F64 | None = None,
    *,
    region: int = 1,
    rest: F64 | None = None,
    attract: bool = True,
    back_region: int = 1,
    back_rest: F64 | None = None,
    gate: Gate = GATE,
) -> Targets:
    """Targets of vertices of which the template consists."""
    n = len(vertices)
    normals = np.tile([0, 0, 1.0], (n, 1)) if normals is None else normals
    rest = vertices if rest is None else rest
    back = BackCheck(cKDTree(vertices), np.full(n, back_region, np.uint8), rest if back_rest is None else back_rest)
    return find_targets(SCAN, vertices, normals, np.full(n, region, np.uint8), rest, np.full(n, attract), back, gate)


@pytest.mark.parametrize("height_m", [0.0, 0.001, -0.001, 0.003, -0.006, 0.0099, -0.0099])
@pytest.mark.parametrize("cosine", [1.0, 0.8, 0.51])
def test_a_weight_is_geman_mcclure_of_the_height_times_the_squared_cosine(height_m: float, cosine: float) -> None:
    normal = np.array([[np.sqrt(1 - cosine**2), 0, cosine]])
    found = ask(MIDDLE[None] + [0, 0, height_m], normal)
    assert found.weight[0] == pytest.approx(cosine**2 / (1 + (height_m / 0.002) ** 2) ** 2, rel=1e-3)
    np.testing.assert_allclose(found.position, MIDDLE[None], atol=1e-7)
    np.testing.assert_allclose(found.normal, [[0, 0, 1]], atol=1e-7)


def test_the_height_is_along_the_scans_interpolated_normal_not_the_way_to_the_target() -> None:
    """Over a coarse bump the two differ."""
    bumpy = FLAT.copy()
    bumpy[220, 2] = 0.004
    scan = Surface(bumpy, FACES)
    vertex = bumpy[220] + np.array([[0.0021, 0.0013, 0.003]])
    hit = scan.closest(vertex)
    way = hit.position - vertex
    height = float((way * hit.normal).sum())
    assert abs(height) < 0.95 * np.linalg.norm(way)
    back = BackCheck(cKDTree(vertex), np.array([1], np.uint8), vertex)
    found = find_targets(
        scan, vertex, hit.normal, np.array([1], np.uint8), vertex, np.array([True]), back, Gate(0.01, 0.5, 0.002)
    )
    assert found.weight[0] == pytest.approx(1 / (1 + (height / 0.002) ** 2) ** 2)


def test_beyond_its_distance_or_inclination_a_target_does_not_count() -> None:
    heights = np.array([0.00999, 0.01001, -0.00999, -0.01001])
    assert (ask(MIDDLE + heights[:, None] * [0, 0, 1.0]).weight > 0).tolist()[0] is True
    for height, counts in zip(heights, (True, False, True, False), strict=True):
        assert (ask(MIDDLE[None] + [0, 0, height]).weight[0] > 0) == counts
    for cosine, counts in ((0.501, True), (0.499, False), (-0.9, False)):
        normal = np.array([[0, np.sqrt(1 - cosine**2), cosine]])
        assert (ask(MIDDLE[None], normal).weight[0] > 0) == counts


def test_targets_on_the_scans_border_do_not_count() -> None:
    inside, beside = np.array([[0.0073, 0.05, 0.001]]), np.array([[0.0033, 0.05, 0.001]])
    assert ask(inside).weight[0] > 0
    assert ask(beside).weight[0] == 0


def test_only_vertices_that_may_follow_the_scan_do() -> None:
    assert ask(MIDDLE[None]).weight[0] == pytest.approx(1)
    assert ask(MIDDLE[None], attract=False).weight[0] == 0


def test_the_way_back_must_end_near_the_asking_vertex_on_the_neutral_template() -> None:
    for apart, counts in ((0.0199, True), (0.0201, False)):
        shifted = MIDDLE[None] + [apart, 0, 0]
        assert (ask(MIDDLE[None], back_rest=shifted).weight[0] > 0) == counts


def test_the_way_back_starts_at_the_scan_not_at_the_vertex() -> None:
    """Another part of the template lies nearer to the scan point: that part's region and place count."""
    asking, between = MIDDLE + np.array([0, 0, 0.004]), MIDDLE + np.array([0, 0, 0.001])
    back = BackCheck(cKDTree(np.stack([asking, between])), np.array([7, 8], np.uint8), np.stack([asking, between]))
    one = (np.array([[0, 0, 1.0]]), np.array([7], np.uint8), asking[None], np.array([True]))
    assert find_targets(SCAN, asking[None], *one, back, GATE).weight[0] == 0
    same = BackCheck(back.tree, np.array([7, 7], np.uint8), back.rest)
    assert find_targets(SCAN, asking[None], *one, same, GATE).weight[0] > 0


def test_every_pair_of_regions() -> None:
    interior = {REGIONS[name] for name in INTERIOR_REGIONS}
    labels = np.array(sorted(REGIONS.values()), np.uint8)
    for a in labels:
        allowed = regions_compatible(np.full(len(labels), a), labels)
        for b, may in zip(labels, allowed, strict=True):
            lips = {int(a), int(b)} == {REGIONS["upper_lip"], REGIONS["lower_lip"]}
            assert may == (not lips and (int(a) in interior) == (int(b) in interior)), (a, b)
    assert ask(MIDDLE[None], region=REGIONS["upper_lip"], back_region=REGIONS["lower_lip"]).weight[0] == 0
    assert ask(MIDDLE[None], region=REGIONS["upper_lip"], back_region=REGIONS["chin"]).weight[0] > 0
    assert ask(MIDDLE[None], region=REGIONS["cheeks"], back_region=REGIONS["mouth_interior"]).weight[0] == 0
