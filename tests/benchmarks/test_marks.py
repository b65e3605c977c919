"""The search for landmarks: on what is known."""

from __future__ import annotations

import numpy as np

from benchmarks.marks.consensus import ALONG, Opinion, consensus, folds, placed, slid_along_edges
from benchmarks.marks.register import Marks, carried_marks
from benchmarks.marks.scatter import left_out_rms_m, scatter_m
from benchmarks.marks.sources import Person
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import Mesh
from datagen.heads.landmarks import COUNT, MIRROR
from datagen.heads.registry import load_head


def truth() -> np.ndarray:
    """Return landmarks (68, 3) that are their own mirror image to the last digit."""
    p = load_head("anny").template.landmarks()
    return (p + p[MIRROR] * [-1, 1, 1]) / 2


def test_one_source_that_stands_alone_counts_less() -> None:
    p = truth()
    shifted = p + np.where(np.arange(COUNT) == 27, 12e-3, 0.0)[:, None] * [0.0, 1.0, 0.0]
    given = [Opinion(str(k), (shifted if k == 3 else p)[None]) for k in range(4)]
    off = np.linalg.norm(consensus(given) - p, axis=1)
    assert off[27] < 1.5e-3 < 12e-3 / 4
    assert np.delete(off, 27).max() < 1e-9


def test_a_landmark_that_nobody_marks_stays_unknown() -> None:
    p = truth()
    some = np.where(np.arange(COUNT)[:, None] == 30, np.nan, p)
    centre = consensus([Opinion("a", some[None]), Opinion("b", some[None])])
    assert np.flatnonzero(np.isnan(centre).any(axis=1)).tolist() == [30]


def test_a_detector_counts_as_much_as_registration_where_it_says_something() -> None:
    p = truth()
    seen = np.full((COUNT, 3), np.nan)
    seen[33] = p[33] + [0.0, 2e-3, 0.0]
    mean = Opinion("a", p[None], seen).mean
    np.testing.assert_allclose(mean[33], p[33] + [0.0, 1e-3, 0.0], atol=1e-9)
    np.testing.assert_allclose(np.delete(mean, 33, axis=0), np.delete(p, 33, axis=0), atol=2e-7)


def test_scatter_is_what_was_put_in() -> None:
    rng = np.random.default_rng(0)
    p = truth()
    given = [
        Opinion(str(k), p + rng.normal(0, 1e-3, (200, COUNT, 3)) + rng.normal(0, 2e-3, (COUNT, 3))) for k in range(40)
    ]
    sigma = scatter_m(given, p)
    # Mirror images are averaged, which halves the variance of what differs between sources.
    np.testing.assert_allclose(sigma, np.sqrt(1e-6 + 2e-6), rtol=0.25)
    np.testing.assert_array_equal(sigma, sigma[MIRROR])


def test_leaving_out_leaves_out() -> None:
    p = truth()
    given = [Opinion("a", p[None]), Opinion("b", p[None] + [0.0, 3e-3, 0.0])]
    assert np.allclose(list(left_out_rms_m(given).values()), 3e-3)
    assert np.allclose(list(left_out_rms_m(given, p).values()), [0.0, 3e-3])


def test_registrations_leave_out_mirror_partners_together_and_neighbours_apart() -> None:
    fold = folds()
    assert (fold[MIRROR] == fold).all()
    assert len(np.unique(fold)) == 6
    for first, last in ((0, 8), (17, 21), (27, 33), (48, 51)):
        assert (np.diff(fold[first : last + 1]) != 0).all()


def test_marks_slide_along_their_edges() -> None:
    points = truth()
    angle = np.linspace(0, np.pi, 200)
    edges, wanted = {}, {}
    for (first, last), indices in ALONG.items():
        middle, half = (points[first] + points[last]) / 2, (points[last] - points[first]) / 2
        for index in indices:
            edges[index] = middle - np.cos(angle)[:, None] * half + np.sin(angle)[:, None] * [0, 5e-3, 0]
            wanted[index] = 0.3
    own = points.copy()
    for index, edge in edges.items():
        own[index] = edge[100]
    moved = slid_along_edges(points, edges, own, wanted)
    for (first, last), indices in ALONG.items():
        line = points[last] - points[first]
        for index in indices:
            assert abs((moved[index] - points[first]) @ line / (line @ line) - 0.3) < 0.01
            assert np.linalg.norm(edges[index] - moved[index], axis=1).min() < 3e-4
            np.testing.assert_allclose(moved[MIRROR[index]], moved[index] * [-1, 1, 1])


def test_placed_points_keep_to_their_lip() -> None:
    template = load_head("anny").template
    p = template.landmarks()
    swapped = p.copy()
    swapped[[62, 66]] = p[[66, 62]]
    marks = placed(template, swapped)
    names = template.regions[template.faces[marks.faces]]
    lower = template.regions[template.faces[template.landmark_faces[57]]].max()
    assert not (names[62] == lower).any()


def test_a_landmark_lands_where_it_belongs_though_its_mark_lies_elsewhere() -> None:
    """Nose tip and brow of another person, found from marks that are 6 mm off, by registrations that never saw them."""
    head = load_head("anny")
    template = head.template
    z = np.zeros(head.identity_size)
    z[[1, 4, 20, 40, 60]] = 0.8
    person = head.vertices(z, np.zeros(len(head.expression_names)))
    given = np.array([8, 17, 21, 22, 26, 27, 30, 31, 33, 35, 36, 39, 42, 45, 48, 51, 54, 57])
    right = Marks.of(template)
    begin = template.landmarks()
    begin[[17, 26, 27, 30]] += np.array([[0, 6e-3, 0]])
    wrong = placed(template, begin)
    fold = np.where(np.isin(np.arange(COUNT), (17, 26, 27, 30)), 0, 1 + np.arange(COUNT) % 2)
    one = Person(Mesh(person, template.faces), Landmarks(given, right.on(template, person)[given]))
    carried = carried_marks(head, one, wrong, fold)
    off = np.linalg.norm(carried - right.on(template)[given], axis=1)
    assert off[np.isin(given, (17, 26, 27, 30))].max() < 2.5e-3
