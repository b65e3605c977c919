"""Where a frame begins and what the engine makes of its parts: limits from both sides, and values by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from datagen.common.errors import WarpError
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import Mesh, vertex_normals
from datagen.heads.base import HeadModel, LinearHead
from datagen.heads.regions import FACE_REGIONS, REGIONS, mask_of
from datagen.manifest import WarpConfig
from datagen.sources.frame import Registration
from datagen.warp import engine, personal_fit, start
from datagen.warp import face_search as initial
from datagen.warp.correspond import Gate
from datagen.warp.deform import FROM_LANDMARKS, FROM_PERSON, FROM_REGISTRATION, Start
from datagen.warp.engine import Registered, register_frame, warp_frame
from datagen.warp.fold_repair import Defects, RepairReport
from datagen.warp.held import Held
from datagen.warp.personal import SequencePrior
from datagen.warp.personal_fit import PERSONAL_ROUNDS
from datagen.warp.posterior import Round, ShapeFit, annealed
from datagen.warp.similarity import Similarity
from datagen.warp.surface import Surface
from datagen.warp.template import WarpTemplate
from tests.support.round_head import prepared

F64 = np.ndarray


@pytest.fixture(scope="module")
def template() -> WarpTemplate:
    return prepared(3)


def scan_of(template: WarpTemplate, offset_m: float = 0.0) -> Surface:
    """The skin alone, moved outwards."""
    skin = (template.regions != REGIONS["left_eyeball"])[template.faces].all(axis=1)
    return Surface(template.canonical_m + offset_m * template.canonical_normals, template.faces[skin])


def bare(template: WarpTemplate) -> HeadModel:
    none = np.zeros((0, len(template.head.vertices), 3), np.float32)
    return LinearHead(template.head, none, none, ())


def test_rounds_shrink_geometrically_between_their_ends() -> None:
    rounds = annealed(3, (0.016, 0.004), (0.009, 0.001), (0.004, 0.001))
    wanted = [(0.016, 0.009, 0.004), (0.008, 0.003, 0.002), (0.004, 0.001, 0.001)]
    for step, (distance, kernel, sigma) in zip(rounds, wanted, strict=True):
        assert step.gate is not None
        np.testing.assert_allclose(
            [step.gate.max_distance_m, step.gate.min_cosine, step.gate.sigma_m, step.sigma_m],
            [distance, 0.4, kernel, sigma],
        )


def test_each_way_to_begin_has_its_rounds() -> None:
    assert [step.gate is None for step in start.TRACKED_ROUNDS] == [False] * 5
    assert [step.gate is None for step in start.LANDMARK_ROUNDS] == [True] * 4 + [False] * 8
    assert [step.gate is None for step in PERSONAL_ROUNDS] == [True] * 2 + [False] * 5
    for rounds, first, last, correlated, hair, features in (
        (start.TRACKED_ROUNDS, (0.015, 0.006, 0.9e-3), (0.005, 0.002, 0.25e-3), 2.5, 1.0, 1.0),
        (start.LANDMARK_ROUNDS, (0.03, 0.015, 3e-3), (0.012, 0.004, 1.5e-3), 5.0, 0.1, 4.0),
        (PERSONAL_ROUNDS, (0.02, 0.008, 2e-3), (0.005, 0.002, 0.25e-3), 2.5, 1.0, 1.0),
    ):
        gated = [step for step in rounds if step.gate is not None]
        for step, (distance, kernel, sigma) in ((gated[0], first), (gated[-1], last)):
            gate = Gate(pytest.approx(distance), 0.4, pytest.approx(kernel))
            assert step == Round(gate, pytest.approx(sigma), correlated, hair, features)


@pytest.mark.parametrize(
    ("offset_mm", "wanted_mm"), [(1.0, 1.4826), (-1.0, 1.4826), (2.0, 2.9652), (0.05, 0.3), (-4.0, 4.0)]
)
def test_the_visible_error_is_the_scaled_median_height_on_either_side(
    template: WarpTemplate, offset_mm: float, wanted_mm: float
) -> None:
    found = start._visible_error_m(template, template.head.vertices, scan_of(template, offset_mm / 1000))
    assert found * 1000 == pytest.approx(wanted_mm, rel=0.03)


@dataclasses.dataclass
class Fits:
    """What fit_shape was asked, without doing it."""

    calls: list

    def __call__(self, template, shape, pose, rounds, surface, evidence=(), **_):  # type: ignore[no-untyped-def]
        self.calls.append((shape, pose, rounds, surface, list(evidence)))
        vertices, spread_m = pose.apply(shape.base), np.full(len(template.canonical_m), 0.001)
        # The unknowns are half as large as the prior expects: (5 + 5) / (35 + 5).
        held = Held({"prior": 0.3}, {"prior": 2.5}, unknowns=50)
        return ShapeFit(pose, np.zeros(0), np.zeros((0, 3)), vertices, spread_m, held=held, scatter_m=0.7e-3)


def test_each_way_to_begin_asks_for_its_own_fit(template: WarpTemplate, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = Fits([])
    monkeypatch.setattr(start, "fit_shape", fits)
    monkeypatch.setattr(personal_fit, "fit_shape", fits)
    surface, head = scan_of(template), bare(template)
    tracked = template.head.vertices + np.array([0.0, 0.0, 0.001])
    registration = Registration("round", tracked)
    marks = Landmarks(np.arange(68), template.head.landmarks())
    prior = SequencePrior("round", template.head.vertices * 1.02, (0, 1))

    begun = start._known(head, template, surface, start.Given(registration, marks), None)
    shape, pose, rounds, _, evidence = fits.calls[-1]
    assert (begun.schedule, begun.rotate) == (FROM_REGISTRATION, False)
    # The size of a tracker's error is read off the scan.
    np.testing.assert_allclose(begun.spread_m, 0.001)
    assert rounds == start.TRACKED_ROUNDS
    np.testing.assert_array_equal(shape.base, tracked)
    assert (pose.scale, pose.translation.tolist()) == (1.0, [0.0, 0.0, 0.0])
    assert [len(e.position) for e in evidence] == [68]

    begun = start._known(head, template, surface, start.Given(None, marks), None)
    shape, pose, rounds, _, evidence = fits.calls[-1]
    assert (begun.schedule, begun.rotate) == (FROM_LANDMARKS, True)
    np.testing.assert_allclose(begun.spread_m, 0.0005)
    assert rounds == start.LANDMARK_ROUNDS
    assert shape.stretch == 0.08
    assert [len(e.position) for e in evidence] == [68]

    begun = start._known(head, template, surface, start.Given(registration, marks, prior), None)
    shape, pose, rounds, _, evidence = fits.calls[-1]
    assert (begun.schedule, begun.rotate) == (FROM_PERSON, False)
    np.testing.assert_allclose(begun.spread_m, 0.0005)
    assert begun.notes["person_used"] == 1.0
    assert begun.notes["own_amplitude"] == pytest.approx(0.5)
    assert begun.notes["landmark_scatter_mm"] == pytest.approx(0.7)
    assert rounds == PERSONAL_ROUNDS
    np.testing.assert_array_equal(shape.base, prior.neutral)
    assert pose.scale == 1.0
    assert [e.sigma_m for e in evidence] == [(4e-3, 8e-3), (0.2e-3, 4e-3)]
    assert 60 <= len(evidence[0].position) < 120
    np.testing.assert_allclose(evidence[0].operator @ tracked, evidence[0].position)

    # Vertices that were guessed are no evidence, and neither are those that they have a part in.
    known = (template.head.vertices[:, 0] < 0.0).astype(np.float64)
    halfway = start.Given(dataclasses.replace(registration, trust=known), marks, prior)
    start._known(head, template, surface, halfway, None)
    operator = fits.calls[-1][4][0].operator
    assert np.abs(operator @ (1 - known)).max() == 0
    assert (operator @ known > 0.99).all()
    # Fewer than twelve known ones say nothing of the pose: the landmarks do, or the tracker as it is.
    few = np.zeros(len(known))
    few[:3] = 1
    start._known(head, template, surface, start.Given(dataclasses.replace(registration, trust=few), marks, prior), None)
    assert [e.sigma_m for e in fits.calls[-1][4]] == [(0.2e-3, 4e-3)]
    start._known(head, template, surface, start.Given(dataclasses.replace(registration, trust=few), None, prior), None)
    assert fits.calls[-1][2] == start.TRACKED_ROUNDS


def refused(template: WarpTemplate, vertices: F64, surface: Surface | None = None) -> str:
    """What a registration is refused with; empty if it is not."""
    surface = Surface(vertices, template.head.faces) if surface is None else surface
    try:
        start._checked_registration(template.head, Registration("round", vertices), surface)
    except WarpError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("scale", "word"), [(0.69, "size"), (0.71, ""), (1.44, ""), (1.46, "size")])
def test_a_registration_may_have_the_size_of_a_head(template: WarpTemplate, scale: float, word: str) -> None:
    found = refused(template, scale * template.head.vertices + 0.3)
    assert (word in found) if word else not found


def test_a_mirrored_registration_is_refused_and_a_turned_one_is_not(template: WarpTemplate) -> None:
    assert "mirror image" in refused(template, template.head.vertices * [-1, 1, 1])
    assert not refused(template, template.head.vertices @ Rotation.from_rotvec([1, 2, 0.5]).as_matrix().T + 3)


@pytest.mark.parametrize(("off_mm", "good"), [(24.5, True), (25.8, False)])
def test_a_registration_may_lie_some_way_off_the_scan(template: WarpTemplate, off_mm: float, good: bool) -> None:
    found = refused(template, template.head.vertices, scan_of(template, off_mm / 1000))
    assert ("from the scan" not in found) == good


@pytest.mark.parametrize(("share", "good"), [(0.06, True), (0.16, False)])
def test_a_tenth_of_the_edges_may_be_torn(template: WarpTemplate, share: float, good: bool) -> None:
    x = template.head.vertices.copy()
    edges = np.unique(np.sort(template.head.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1), axis=0)
    rng = np.random.default_rng(0)
    length = np.linalg.norm(x[edges[:, 0]] - x[edges[:, 1]], axis=1)
    for vertex in rng.permutation(len(x)):
        ratio = np.linalg.norm(x[edges[:, 0]] - x[edges[:, 1]], axis=1) / length
        torn = (ratio < np.median(ratio) / 3) | (ratio > np.median(ratio) * 3)
        if torn.mean() > share:
            break
        x[vertex] += 0.05 * x[vertex] / np.linalg.norm(x[vertex])
    assert abs(torn.mean() - share) < 0.02
    assert ("edges" not in refused(template, x)) == good


@pytest.mark.parametrize(("apart_mm", "good"), [(14.9, True), (15.1, False)])
def test_registration_and_landmarks_may_lie_this_far_apart(template: WarpTemplate, apart_mm: float, good: bool) -> None:
    head = template.head
    off = np.full(68, apart_mm / 1000)
    off[:30] = 0.2  # a minority does not decide
    direction = np.random.default_rng(0).normal(size=(68, 3))
    points = head.landmarks() + off[:, None] * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    marks = Landmarks(np.arange(68), points)
    if good:
        start._check_agreement(head, head.vertices, marks)
    else:
        with pytest.raises(WarpError, match=r"15 mm \(median\) apart"):
            start._check_agreement(head, head.vertices, marks)


@pytest.mark.parametrize(("scale", "good"), [(0.69, False), (0.71, True), (1.44, True), (1.46, False)])
def test_landmarks_may_span_the_size_of_a_head(template: WarpTemplate, scale: float, good: bool) -> None:
    some = np.arange(10, 60)
    marks = Landmarks(some, scale * template.head.landmarks()[some] + 1)
    if good:
        start._check_landmark_scale(template.head, marks)
    else:
        with pytest.raises(WarpError, match="times the template's size"):
            start._check_landmark_scale(template.head, marks)


def test_a_ball_faces_outwards_wholly_and_a_half_one_by_its_shape() -> None:
    ball = trimesh.creation.icosphere(4)
    v, f = np.asarray(ball.vertices), np.asarray(ball.faces)
    assert start._outwardness(Surface(v + 5, f)) == pytest.approx(1, abs=1e-3)
    assert start._outwardness(Surface(v + 5, f[:, ::-1])) == pytest.approx(-1, abs=1e-3)
    half = f[(v[f][:, :, 2].mean(axis=1)) > 0]
    # Of a half ball the middle is at half its height: the integral of 1 − z/2 over that of √(5/4 − z), z in [0, 1].
    wanted = 0.75 / ((1.25**1.5 - 0.25**1.5) * 2 / 3)
    assert start._outwardness(Surface(v, half)) == pytest.approx(wanted, abs=0.02)


def test_what_was_mended_is_neither_held_nor_sure(template: WarpTemplate, monkeypatch: pytest.MonkeyPatch) -> None:
    M = len(template.canonical_m)
    spread = np.linspace(0.0005, 0.012, M)
    moved = np.arange(M) % 3 == 0
    none = Defects(np.zeros(len(template.faces), bool), np.zeros((0, 2), int), np.zeros((0, 2), int))
    report = RepairReport(none, none, 0.0, 0, moved, 9)
    surface = scan_of(template)
    begun = Start(template.head.vertices, (), False, spread)
    monkeypatch.setattr(engine, "prepare_template", lambda *_: template)
    monkeypatch.setattr(engine, "begin", lambda *_: (surface, begun, False))
    monkeypatch.setattr(engine, "deform", lambda *_: (template.canonical_m, np.full(M, 0.7)))
    monkeypatch.setattr(engine, "repair", lambda *_: (template.canonical_m, report))
    scan = mesh_of(template)
    found = register_frame(scan, bare(template), WarpConfig(subdivisions=0))
    np.testing.assert_array_equal(found.anchored, np.where(moved, 0.0, 0.7))
    np.testing.assert_array_equal(found.spread_m, np.where(moved & (spread < 0.006), 0.006, spread))


def mesh_of(template: WarpTemplate) -> Mesh:
    surface = scan_of(template)
    return Mesh.of(surface.vertices, surface.faces)


def test_a_warp_is_put_together_from_its_parts(template: WarpTemplate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A template that lies on the scan exactly, but turned and larger: every field of the result by hand."""
    turn = Rotation.from_rotvec([0.2, -0.5, 0.1]).as_matrix()
    place = Similarity(1.1, turn, np.array([0.4, 0.2, -0.3]))
    registered = place.apply(template.canonical_m)
    skin = (template.regions != REGIONS["left_eyeball"])[template.faces].all(axis=1)
    scan = mesh_of(template)
    outer = place.apply(scan.vertices)
    none = Defects(np.zeros(len(template.faces), bool), np.zeros((0, 2), int), np.zeros((0, 2), int))
    report = RepairReport(none, none, 0.0, 0, np.zeros(len(registered), bool), 9)
    # One point is out of reach, sideways.
    outer[-43] += 0.02 * turn[:, 0]
    surface = Surface(outer, template.faces[skin])
    begun = Start(template.head.vertices, (), False, np.full(len(registered), 1e-3))
    answer = Registered(
        template,
        surface,
        np.arange(len(outer)),
        True,
        begun,
        registered,
        np.ones(len(registered)),
        report,
        begun.spread_m,
    )
    monkeypatch.setattr(engine, "register_frame", lambda *_, **__: answer)
    marks = Landmarks(
        np.array([3, 7, 30]), place.apply(template.head.landmarks()[[3, 7, 30]]) + np.array([0.003, 0, 0])
    )
    marks.points[0] -= [0.003, 0, 0]
    registration = Registration("round", place.apply(template.head.vertices) + np.array([0.0, 0.002, 0.0]))
    warp = warp_frame(scan, bare(template), WarpConfig(), registration=registration, landmarks=marks)
    metrics = warp.verdict.metrics
    assert metrics["landmark_rms_mm"] == pytest.approx(3 * np.sqrt(2 / 3))
    assert metrics["registration_shift_mm"] == pytest.approx(2.0)
    assert metrics["faces_turned"] == 1.0
    assert metrics["lip_overlap_mm"] == 0.0
    np.testing.assert_allclose(warp.head_to_world[:3, :3], turn, atol=1e-9)
    np.testing.assert_allclose(warp.head_to_world[:3, 3], place.translation, atol=1e-9)
    np.testing.assert_array_equal(warp.scan_faces, scan.faces[:, ::-1])
    np.testing.assert_array_equal(warp.registered_vertices, registered)
    matched = np.isfinite(warp.canonical).all(axis=1)
    used = np.isin(np.arange(len(outer)), scan.faces)
    assert matched[used].sum() == used.sum() - (not matched[-43])
    space = template.head.space
    back = (template.canonical_m - np.array(space.centre)) / space.half_extent
    np.testing.assert_allclose(warp.canonical[matched & used], back[matched & used], atol=1e-5)
    np.testing.assert_array_equal(warp.region[~matched], 0)
    np.testing.assert_array_equal(warp.confidence[~matched], 0)
    np.testing.assert_array_equal(warp.region[matched & used], template.regions[matched & used])
    plain = warp_frame(scan, bare(template), WarpConfig(use_registration=False), registration=registration)
    assert "registration_shift_mm" not in plain.verdict.metrics
    assert "landmark_rms_mm" not in plain.verdict.metrics


def test_what_lies_outside_the_space_is_left_out(template: WarpTemplate, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = mesh_of(template)
    small = dataclasses.replace(template.head.space, half_extent=0.07)
    head = bare(template)
    monkeypatch.setitem(head.template.__dict__, "space", small)
    none = Defects(np.zeros(len(template.faces), bool), np.zeros((0, 2), int), np.zeros((0, 2), int))
    report = RepairReport(none, none, 0.0, 0, np.zeros(len(template.canonical_m), bool), 9)
    begun = Start(template.head.vertices, (), False, np.full(len(template.canonical_m), 1e-3))
    answer = Registered(
        template,
        scan_of(template),
        np.arange(len(scan.vertices)),
        False,
        begun,
        template.canonical_m,
        np.ones(len(template.canonical_m)),
        report,
        begun.spread_m,
    )
    monkeypatch.setattr(engine, "register_frame", lambda *_, **__: answer)
    warp = warp_frame(scan, head, WarpConfig())
    used = np.isin(np.arange(len(scan.vertices)), scan.faces)
    beyond = np.abs((template.canonical_m - np.array(small.centre)) / 0.07).max(axis=1)
    outside, inside = used & (beyond > 1.0001), used & (beyond < 0.9999)
    assert outside.sum() > 50
    assert inside.sum() > 50
    assert np.isnan(warp.canonical[outside]).all()
    assert (warp.confidence[outside] == 0).all()
    assert (warp.region[outside] == 0).all()
    assert np.isfinite(warp.canonical[inside]).all()
    assert (warp.confidence[inside] > 0).all()
    np.testing.assert_array_equal(warp.scan_faces, scan.faces)
    assert "faces_turned" not in warp.verdict.metrics


def test_belief_is_shares_of_area(template: WarpTemplate) -> None:
    """Against a loop: what is seen, what agrees, and the nose alone, on a scan that shows one half."""
    head = template.head
    surface = scan_of(template, 0.002)
    half = surface.faces[(surface.vertices[surface.faces][:, :, 0] > -0.01).all(axis=1)]
    shown = Surface(surface.vertices, half)
    rng = np.random.default_rng(0)
    judged = np.flatnonzero(mask_of(head.regions, FACE_REGIONS))
    area = rng.uniform(0.5, 2, len(judged)) * 1e-4
    target = initial._Target(None, judged, judged, judged, area, surface)  # type: ignore[arg-type]
    similarity = Similarity(1.02, np.eye(3), np.zeros(3))
    found = initial._believe(head, target, head.vertices, similarity, shown, (0.00015, 0.9))
    points = similarity.apply(head.vertices[judged])
    normals = vertex_normals(head.vertices, head.faces)[judged]
    hit = shown.closest(points)
    total = {"all": 0.0, "seen": 0.0, "agrees": 0.0, "features": 0.0, "agreeing features": 0.0, "telling": 0.0}
    nose = {"all": 0.0, "seen": 0.0, "agrees": 0.0}
    for k, vertex in enumerate(judged):
        distance = np.linalg.norm(hit.position[k] - points[k])
        cosine = hit.normal[k] @ normals[k]
        seen = distance < 0.012 and not hit.on_border[k]
        agrees = seen and distance < 0.00015 and cosine > 0.9
        name = next(n for n, label in REGIONS.items() if label == head.regions[vertex])
        feature = name in ("nose", "right_eye", "left_eye", "brows", "upper_lip", "lower_lip", "chin")
        for key, counts in (("all", True), ("seen", seen), ("agrees", agrees), ("features", seen and feature)):
            total[key] += area[k] * counts
        total["agreeing features"] += area[k] * (agrees and feature)
        total["telling"] += area[k] * (3 if feature else 1) * agrees * min(max(cosine, 0), 1)
        if name == "nose":
            for key, counts in (("all", True), ("seen", seen), ("agrees", agrees)):
                nose[key] += area[k] * counts
    assert 0.2 < total["seen"] / total["all"] < 0.9
    assert found.seen == pytest.approx(total["seen"] / total["all"])
    assert found.agreement == pytest.approx(total["agrees"] / total["seen"])
    assert found.features == pytest.approx(total["agreeing features"] / total["features"])
    assert found.nose == pytest.approx(nose["agrees"] / nose["seen"])
    assert found.nose_seen == pytest.approx(nose["seen"] / nose["all"])
    assert found.area_m2 == pytest.approx(total["agrees"] * 1.02**2)
    assert found.support_m2 == pytest.approx(total["telling"] * 1.02**2)
    assert 0.1 < found.agreement < 0.9
