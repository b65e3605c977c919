"""``python -m benchmarks warp --real``: hiding, dispersion, confidence and verdicts, where the answer is known."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.warp import throughput
from benchmarks.warp.agreement import (
    StatedConfidence,
    error_about_others_mm,
    from_mean_mm,
    true_error_mm,
    verdict_shares,
)
from benchmarks.warp.cross_model import IctPerson, cross_model_sequence, spread_over
from benchmarks.warp.families import PARTS, FaceTemplate, Family, face_region, read_families, within
from benchmarks.warp.hidden import HiddenScan, hide
from benchmarks.warp.real import RealPlan, RealResult, run_real
from benchmarks.warp.real_figures import GOALS, as_json, as_text, real_figures
from benchmarks.warp.real_peers import canonical_by_peer
from benchmarks.warp.real_warps import OTHER_SIDE, Warper, made_wrong
from datagen.common.errors import InputError
from datagen.geometry.landmarks import Landmarks, validate_landmarks
from datagen.geometry.mesh import Mesh, face_cross
from datagen.heads.base import HeadModel
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.heads.registry import load_head
from datagen.manifest import WarpConfig
from datagen.warp.similarity import fit_similarity
from tests.support.places import SHARED_DATA

FIGURES = {
    *("families_ratio_median", "families_ratio_p95", "features_ratio", "smooth_ratio"),
    *("noisy_families_ratio_median", "noisy_families_ratio_p95", "noisy_features_ratio", "noisy_smooth_ratio"),
    *("sequence_ratio_single", "sequence_ratio_peer", "confidence_gap_max", "confidence_gap_sequence"),
    *("verdict_recall", "verdict_false", "seconds_per_frame"),
}
QUICK = WarpConfig(subdivisions=0)


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("anny")


@pytest.fixture(scope="module")
def root(head: HeadModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small folder of the real one's layout: three people of Anny's in one topology, Anny's face as the template."""
    folder = tmp_path_factory.mktemp("real")
    template = head.template
    face = mask_of(template.regions, (*FACE_REGIONS, "scalp", "neck", "right_ear", "left_ear"))
    order = np.argsort(~face, kind="stable")
    place = np.argsort(order)
    faces = place[template.faces[face[template.faces].all(axis=1)]]
    marks = template.landmarks()
    nearest = [int(np.linalg.norm(template.vertices[order][: face.sum()] - mark, axis=1).argmin()) for mark in marks]
    (folder / "ict_facekit").mkdir()
    np.savez(
        folder / "ict_facekit" / "ict_facekit.npz",
        neutral=template.vertices[order].astype(np.float32),
        faces=faces.astype(np.int32),
        faces_quad=np.arange(len(faces)),
        face_vertex_range=[0, face.sum()],
        face_quad_range=[0, len(faces)],
        narrow_face_vertex_range=[0, face.sum()],
        landmarks68=nearest,
    )
    rng = np.random.default_rng(0)
    names = head.expression_names
    people = [head.vertices(rng.uniform(-1, 1, head.identity_size), np.zeros(len(names))) for _ in range(3)]
    chosen = order[: face.sum()]
    (folder / "families").mkdir()
    np.savez(
        folder / "families" / "people.npz",
        vertices=(np.stack(people)[:, chosen] * 1000).astype(np.float32),
        faces=faces.astype(np.int32),
    )
    points = {str(i): {"vertices": [nearest[i]], "weights": [1.0]} for i in range(17, 68)}
    (folder / "families" / "landmarks.json").write_text(json.dumps({"families": {"people": {"points": points}}}))
    (folder / "arkit_motion").mkdir()
    weights = np.zeros((9, 2), np.float32)
    weights[:, 0] = np.linspace(0, 1, 9)
    np.savez(
        folder / "arkit_motion" / "motion.npz",
        weights=weights,
        to_ict=np.eye(2, dtype=np.float32),
        ict_expression_names=list(names[:2]),
        fps=np.float32(60),
    )
    return folder


# ---------------------------------------------------------------- hiding
def test_hiding_is_undone_exactly() -> None:
    rng = np.random.default_rng(1)
    vertices = rng.normal(size=(50, 3))
    faces = np.argsort(rng.random((80, 50)), axis=1)[:, :3]
    hidden = hide(vertices, faces, {30: vertices[4], 36: vertices[9]}, rng, noise_mm=0.0)
    moved = hidden.undone(hidden.scan.vertices, 50)
    motion = fit_similarity(vertices, moved)
    assert motion.scale == pytest.approx(1)
    np.testing.assert_allclose(motion.apply(vertices), moved, atol=1e-12)
    assert np.abs(moved - vertices).max() > 0.1
    np.testing.assert_allclose(hidden.landmarks.points, moved[[4, 9]], atol=1e-12)
    # Triangles are the same, each turned the same way round as before.
    back = hidden.order[hidden.scan.faces]
    assert not np.array_equal(back, faces)
    first = back.argmin(axis=1)[:, None]
    turned = np.take_along_axis(back, (first + np.arange(3)) % 3, axis=1)
    own = np.take_along_axis(faces, (faces.argmin(axis=1)[:, None] + np.arange(3)) % 3, axis=1)
    assert sorted(map(tuple, turned)) == sorted(map(tuple, own))


def test_what_was_not_scanned_is_not_a_number() -> None:
    rng = np.random.default_rng(1)
    hidden = hide(rng.normal(size=(5, 3)), np.array([[0, 1, 2]]), {0: np.zeros(3)}, rng, noise_mm=0.0)
    values = hidden.undone(np.arange(5.0), 7)
    np.testing.assert_array_equal(values[hidden.order], np.arange(5.0))
    assert np.isnan(values[5:]).all()


def test_noise_of_landmarks_is_seeded_and_moves_nothing_else(root: Path) -> None:
    (family,) = read_families(root)
    clean, noisy, again, other = (family.hidden(1, seed, mm) for seed, mm in ((0, 0), (0, 1.5), (0, 1.5), (1, 1.5)))
    np.testing.assert_array_equal(clean.scan.vertices, noisy.scan.vertices)
    np.testing.assert_array_equal(noisy.landmarks.points, again.landmarks.points)
    assert not np.array_equal(noisy.order, other.order)
    off_mm = (noisy.landmarks.points - clean.landmarks.points) * 1000
    assert 1.0 < off_mm.std() < 2.0
    true = clean.undone(clean.scan.vertices, len(clean.order))
    np.testing.assert_allclose(clean.landmarks.points, true[[family.marks[i][0][0] for i in range(17, 68)]], atol=1e-3)


# ---------------------------------------------------------------- agreement
def test_dispersion_is_the_distance_from_the_mean() -> None:
    canonical = np.zeros((4, 4, 3))
    canonical[:, 0, 0] = np.array([3, -1, -1, -1]) * 1e-3
    canonical[:, 1] = [0.2, 0.1, 0.3]  # the same wherever: no dispersion
    canonical[0, 2] = np.nan
    canonical[1:, 2, 1] = np.array([2, -1, -1]) * 1e-3
    canonical[:3, 3] = np.nan  # one mesh alone has no mean
    np.testing.assert_allclose(
        from_mean_mm(canonical),
        [[3, 0, np.nan, np.nan], [1, 0, 2, np.nan], [1, 0, 1, np.nan], [1, 0, 1, np.nan]],
        atol=1e-9,
    )


def test_the_estimated_error_has_the_size_of_the_true_one() -> None:
    rng = np.random.default_rng(0)
    error = rng.normal(0, 1e-3, (3, 20_000, 3))
    canonical = error + rng.normal(size=(20_000, 3))
    estimate = true_error_mm(canonical)
    assert np.sqrt((estimate**2).mean()) == pytest.approx(np.sqrt(3), rel=0.02)
    assert np.sqrt((from_mean_mm(canonical) ** 2).mean()) < 0.85 * np.sqrt(3)
    # A member's error about the rest of the family is the same estimate.
    np.testing.assert_allclose(error_about_others_mm(canonical[1], canonical[[0, 2]]), estimate[1], rtol=1e-9)


def test_the_gap_is_that_of_the_bins() -> None:
    # States 0.85, true 0.5; states 0.25, true 0.25: the mean of 0.35 and 0. Unknown errors do not count.
    confidence = np.repeat([0.85, 0.25, 1.0], [100, 100, 50])
    error = np.concatenate([np.repeat([0.5, 2.0], 50), np.repeat([0.5, 2.0], [25, 75]), np.full(50, np.nan)])
    stated = StatedConfidence.of("here", [confidence], [error])
    assert stated.gap == pytest.approx(0.175)
    entry = stated.entry()
    assert (entry["stated"], entry["within_1mm"], entry["vertices"]) == (pytest.approx(0.55), 0.375, 200)
    # Too sure in one bin and too modest in another do not cancel out.
    both = StatedConfidence.of("here", [np.repeat([0.95, 0.05], 50)], [np.repeat([2.0, 0.5], 50)])
    assert both.gap == pytest.approx(0.95)
    assert both.entry()["stated"] == pytest.approx(both.entry()["within_1mm"])
    assert np.isnan(StatedConfidence.of("nothing", [confidence], [np.full(250, np.nan)]).gap)


def test_verdicts_count_the_worst_tenth_and_the_best_half() -> None:
    error = [*np.arange(1, 20), np.inf]
    passed = [True] * 20
    assert verdict_shares(error, passed) == (0, 0)
    passed[19] = passed[0] = passed[10] = False  # worst, best, and one of the middle that nobody asks for
    assert verdict_shares(error, passed) == (0.5, 0.1)
    order = np.random.default_rng(0).permutation(20)
    assert verdict_shares([error[k] for k in order], [passed[k] for k in order]) == (0.5, 0.1)
    assert np.isnan(verdict_shares([], [])).all()


# ---------------------------------------------------------------- what counts
def test_a_face_on_itself_is_all_face_but_borders_and_eyes(root: Path) -> None:
    template = FaceTemplate.read(root)
    (family,) = read_families(root)
    region = face_region(family, template)
    away = np.linalg.norm(region.placed - template.vertices, axis=1)[region.face]
    assert np.median(away) < 2e-3
    assert 0.6 < region.face.mean() < 0.99
    assert not region.face[template.surface.border].any()
    parts = np.stack([region.parts[name] for name in PARTS])
    np.testing.assert_array_equal(parts.sum(axis=0), region.face)
    assert parts.any(axis=1).all()
    tip, brow = template.marks[30], template.marks[19]
    assert region.parts["nose"][tip]
    assert region.parts["forehead"][brow]
    padded = region.padded(len(region.face) + 5)
    assert padded.face.sum() == region.face.sum()
    assert not padded.face[-5:].any()


def test_what_lies_between_the_marks_of_an_eye_is_no_face(root: Path) -> None:
    template = FaceTemplate.read(root)
    cheek = template.at([31, 48]).mean(axis=0) - [0.02, 0, 0]
    angle = -np.arange(6) * np.pi / 3
    ring = cheek + 0.01 * np.column_stack([np.cos(angle), np.sin(angle), np.zeros(6)])
    marks = template.marks.copy()
    marks[36:42] = [np.linalg.norm((template.vertices - p)[:, :2], axis=1).argmin() for p in ring]
    inside = np.linalg.norm((template.vertices - cheek)[:, :2], axis=1) < 0.006
    inside &= template.vertices[:, 2] > 0
    for judge, counts in ((template, True), (replace(template, marks=marks), False)):
        given = {i: mark for i, mark in judge.vertex_marks().items() if i > 16}
        region = face_region(Family("x", template.vertices[None], template.faces, given), judge)
        assert inside.any()
        assert (region.face[inside] == counts).all()


def test_within_a_polygon_whichever_way_round() -> None:
    square = np.array([[0.0, 0, 5], [1, 0, 5], [1, 1, 5], [0, 1, 5]])
    points = np.array([[0.5, 0.5, 0], [1.5, 0.5, 0], [-0.1, 0.5, 0]])
    for polygon in (square, square[::-1]):
        np.testing.assert_array_equal(within(points, polygon), [True, False, False])


def test_a_rigid_peer_puts_the_template_onto_itself(root: Path) -> None:
    template = FaceTemplate.read(root)
    marks = {i: template.vertices[template.marks[i]] for i in range(17, 68)}
    hidden = hide(template.vertices, template.faces, marks, np.random.default_rng(0), noise_mm=0.0)
    found = canonical_by_peer("rigid", hidden, template)
    back = hidden.undone(found.canonical, len(template.vertices))
    np.testing.assert_allclose(back, template.vertices, atol=1e-6)


# ---------------------------------------------------------------- wrong on purpose
def test_the_other_side_is_the_mirror_image(head: HeadModel) -> None:
    np.testing.assert_array_equal(OTHER_SIDE[OTHER_SIDE], np.arange(68))
    marks = head.template.landmarks()
    assert np.linalg.norm(marks[OTHER_SIDE] * [-1, 1, 1] - marks, axis=1).max() < 3e-3


def test_wrong_scans_are_wrong_as_they_say(root: Path) -> None:
    (family,) = read_families(root)
    left = family.mean[:, 0] > 0
    hidden = family.hidden(0, 0)
    found = dict(made_wrong(hidden, left, np.random.default_rng(0)))
    swapped, one, six, half = found.values()
    assert set(validate_landmarks(swapped.landmarks, "x").indices) == set(hidden.landmarks.indices)
    for wrong, count, low, high in ((one, 1, 15, 15), (six, 6, 10, 20)):
        off_mm = np.linalg.norm(wrong.landmarks.points - hidden.landmarks.points, axis=1) * 1000
        assert (off_mm > 0).sum() == count
        assert (off_mm[off_mm > 0] >= low - 1e-6).all()
        assert (off_mm <= high + 1e-6).all()
        assert wrong.scan is hidden.scan
    assert not left[half.order].any()
    assert 0.3 < len(half.order) / len(hidden.order) < 0.6
    true = hidden.undone(hidden.scan.vertices, len(left))
    np.testing.assert_array_equal(half.scan.vertices, true[half.order])
    assert {36, 39, 30} <= set(half.landmarks.indices)
    assert not {42, 45} & set(half.landmarks.indices)


# ---------------------------------------------------------------- the other model's people
def test_a_frame_is_the_same_whichever_others_are_asked_for(root: Path, head: HeadModel) -> None:
    sequence = cross_model_sequence(root, 3, seed=4, model=head)
    assert len(sequence) == 3
    assert sequence.times_s[1] == pytest.approx(0.05)
    frames = [sequence.hidden(k) for k in (0, 1, 2)]
    again = cross_model_sequence(root, 3, seed=4, model=head).frame(2)
    np.testing.assert_array_equal(again.scan.vertices, frames[2].scan.vertices)
    np.testing.assert_array_equal(again.landmarks.points, frames[2].landmarks.points)
    other = cross_model_sequence(root, 3, seed=5, model=head).hidden(2)
    assert other.scan.vertices.shape != frames[2].scan.vertices.shape or not np.allclose(
        other.scan.vertices, frames[2].scan.vertices
    )
    for k, hidden in enumerate(frames):
        true = sequence.motions[k].apply(head.vertices(sequence.person.identity, sequence.expressions[k]))
        off_mm = (hidden.scan.vertices - true[hidden.order]) * 1000
        assert off_mm.std() == pytest.approx(0.15, rel=0.05)
        marks_mm = (hidden.landmarks.points - head.template.landmarks(true)[hidden.landmarks.indices]) * 1000
        assert 0.5 < marks_mm.std() < 1.0


def test_scanners_see_the_outside_of_the_front(head: HeadModel) -> None:
    person = IctPerson(head, np.zeros(head.identity_size))
    hidden = person.scanned(np.zeros(len(head.expression_names)), np.random.default_rng(0), noise_mm=0.0)
    template = head.template
    seen = np.zeros(len(template.vertices), bool)
    seen[hidden.order] = True
    assert seen[mask_of(template.regions, ("forehead", "cheeks"))].mean() > 0.97
    assert not seen[mask_of(template.regions, ("mouth_interior",))].any()
    balls = mask_of(template.regions, ("right_eyeball", "left_eyeball"))
    assert 0.05 < seen[balls].mean() < 0.6
    # What is seen of an eyeball is its front.
    assert template.vertices[balls & seen, 2].mean() > template.vertices[balls & ~seen, 2].mean()
    assert face_cross(hidden.scan.vertices, hidden.scan.faces).any(axis=1).all()


def test_frames_are_spread_over_the_whole() -> None:
    np.testing.assert_array_equal(spread_over(60, 4), [0, 20, 39, 59])
    np.testing.assert_array_equal(spread_over(3, 8), [0, 1, 2])


# ---------------------------------------------------------------- the run
@pytest.fixture(scope="module")
def result(root: Path, head: HeadModel) -> RealResult:
    return run_real(RealPlan(root, trials=("families", "sequence"), processes=0), head, QUICK)


def test_a_family_is_judged_and_what_is_missing_is_said(result: RealResult) -> None:
    table = result.families["people"]
    assert set(table) == {"rigid", "ours"}
    assert set(table["ours"]) == {"face", *PARTS}
    # These people are the head model's own.
    assert table["ours"]["face"]["median"] < table["rigid"]["face"]["median"]
    assert result.noisy["people"]["ours"]["face"]["median"] > table["ours"]["face"]["median"]
    (line,) = result.left_out
    assert line.startswith("sequence: ")
    assert "ict_facekit.npz lacks" in line
    sources = {entry["source"] for entry in result.warps}
    assert sources == {"people", "people, wrong on purpose", "people, landmarks 1.5 mm off"}
    assert all(entry["verdict"] in ("pass", "review", "fail", "refused") for entry in result.warps)


def test_figures_are_exactly_those_of_the_issue(result: RealResult) -> None:
    figures = real_figures(result)
    assert {goal.figure for goal in GOALS} == FIGURES
    assert set(figures) == FIGURES | {"seconds_per_frame_one"}
    content = as_json(result)
    json.dumps(content, allow_nan=False)
    # No peer was asked for, and there is no sequence.
    assert content["figures"]["families_ratio_median"] is None
    assert content["figures"]["sequence_ratio_single"] is None
    assert content["figures"]["confidence_gap_max"] > 0
    assert content["figures"]["seconds_per_frame_one"] > 0
    # No process was started beside this one.
    assert content["figures"]["seconds_per_frame"] is None
    assert content["goals"]["sequence_ratio_single"] == {"goal": "≤ 0.7", "met": None}
    assert content["warp_counts"]["people, wrong on purpose"] == 4
    text = "\n".join(as_text(result))
    assert "left out: sequence" in text
    assert "people, noisy landmarks, ours" in text


def test_ratios_are_the_worst_of_families_over_the_best_of_peers(root: Path) -> None:
    def table(**medians: float) -> dict[str, dict[str, dict[str, float]]]:
        parts = ("face", *PARTS)
        return {m: {part: {"median": v, "p95": 4 * v} for part in parts} for m, v in medians.items()}

    result = RealResult(RealPlan(root), "anny", warps=[{"verdict": "pass", "median_mm": 1.0, "seconds": 2.0}])
    result.families = {"a": table(rigid=2, sumner=1, ours=0.5), "b": table(rigid=1, sumner=2, ours=0.75)}
    result.families["a"]["ours"]["mouth"]["median"] = 3.0
    result.families["b"]["sumner"]["cheeks"]["median"] = 0.25
    result.families["b"]["ours"]["face"]["p95"] = 2.0
    result.sequence = {"ours": table(x=1.0)["x"], "ours in sequence": table(x=0.5)["x"]}
    result.peer_frames = {"sumner": table(x=0.4)["x"], "ours in sequence": table(x=0.6)["x"]}
    figures = real_figures(result)
    assert figures["families_ratio_median"] == 0.75
    assert figures["families_ratio_p95"] == 0.5
    assert figures["features_ratio"] == 3
    assert figures["smooth_ratio"] == 3
    assert figures["sequence_ratio_single"] == 0.5
    assert figures["sequence_ratio_peer"] == pytest.approx(1.5)
    assert figures["seconds_per_frame_one"] == 2
    assert real_figures(replace(result, seconds_together=1.25))["seconds_per_frame"] == 1.25
    assert np.isnan(figures["noisy_smooth_ratio"])
    result.families = {"a": table(rigid=2, ours=0.5)}
    assert np.isnan(real_figures(result)["families_ratio_median"])


def test_what_is_not_there_is_a_clear_error(tmp_path: Path, head: HeadModel) -> None:
    with pytest.raises(InputError, match=r"nowhere does not exist.*families/"):
        run_real(RealPlan(tmp_path / "nowhere"), head, QUICK)
    with pytest.raises(InputError, match=r"nothing asked for can be measured.*ict_facekit"):
        run_real(RealPlan(tmp_path, trials=("families", "people", "sequence")), head, QUICK)
    with pytest.raises(InputError, match=r"landmarks\.json does not exist"):
        read_families(tmp_path)


def test_a_family_that_does_not_fit_its_landmarks_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "families"
    folder.mkdir()
    np.savez(folder / "a.npz", vertices=np.zeros((2, 5, 3)), faces=np.array([[0, 1, 2]]))
    points = {"30": {"vertices": [7], "weights": [1.0]}}
    (folder / "landmarks.json").write_text(json.dumps({"families": {"a": {"points": points}}}))
    with pytest.raises(InputError, match="do not fit each other"):
        read_families(tmp_path)


def test_a_refused_warp_is_a_result(root: Path, head: HeadModel) -> None:
    (family,) = read_families(root)
    hidden = family.hidden(0, 0)
    scan = type(hidden.scan)(hidden.scan.vertices * 1000, hidden.scan.faces)
    warp = Warper(head, QUICK).warp(type(hidden)(scan, hidden.landmarks, hidden.order), len(hidden.order))
    assert warp.status == "refused"
    assert np.isnan(warp.canonical_m).all()
    assert "metres" in warp.reasons[0]


@pytest.mark.parametrize(("processes", "expected_s"), [(1, 0.06), (2, 0.03), (3, 0.02)])
def test_a_frames_seconds_are_those_of_all_processes_at_work(
    processes: int, expected_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that wait stand for processes that work; the first warp of each, which is slow, does not count."""
    calls = []

    class Waiting:
        def __init__(self, head: object, config: object) -> None:
            pass

        def warp(self, scan: HiddenScan, vertices: int) -> None:
            calls.append((scan.landmarks.points[0, 0], vertices))
            time.sleep(0.3 if len(calls) <= processes else 0.06)

    def pool(count: int, context: object, begin: Callable[..., None], given: tuple[object, ...]) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(count, initializer=begin, initargs=given)

    monkeypatch.setattr(throughput, "ProcessPoolExecutor", pool)
    monkeypatch.setattr(throughput, "Warper", Waiting)
    monkeypatch.setattr(throughput, "load_head", lambda *_: None)
    vertices = np.eye(3)
    scans = [
        HiddenScan(Mesh(vertices, np.array([[0, 1, 2]])), Landmarks(np.array([30]), vertices[:1] * k), np.arange(3) + 4)
        for k in range(1, 7)
    ]
    found = throughput.seconds_per_frame(scans, "anny", None, QUICK, processes)
    assert found == pytest.approx(expected_s, rel=0.5)
    assert found > 0.9 * expected_s
    # Each scan once, after one for each process that is not counted; a hidden topology of seven vertices.
    assert sorted(k for k, _ in calls[processes:]) == [1, 2, 3, 4, 5, 6]
    assert {count for _, count in calls} == {7}


# ---------------------------------------------------------------- the command line
def run(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "warp", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--real", "{root}", "--track", "landmarks"], "--track with --real"),
        (["--real", "{root}", "--subjects", "3"], "--subjects with --real"),
        (["--limit", "3"], "--limit without --real"),
        (["--head", "ict"], "--head without --real"),
        (["--real", "{root}", "--peers", "all"], "--peers without --against"),
        (["--real", "{root}", "--trials", "nonsense"], "--trials nonsense"),
        (["--real", "{root}/nowhere"], "does not exist"),
    ],
)
def test_options_of_the_other_benchmark_are_refused(
    arguments: list[str],
    said: str,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(*[part.format(root=root) for part in arguments], monkeypatch=monkeypatch) == 2
    assert said in capsys.readouterr().err


@pytest.mark.realdata
@pytest.mark.skipif(not (SHARED_DATA / "families").is_dir(), reason="needs the development data beside the checkout")
def test_the_real_families_have_a_face_each() -> None:
    template = FaceTemplate.read(SHARED_DATA)
    families = read_families(SHARED_DATA)
    assert len(families) >= 2
    for family in families:
        region = face_region(family, template)
        assert region.face.sum() > 2000
        assert all(mask.sum() > 100 for mask in region.parts.values())
        assert set(family.marks) <= set(range(68))
