"""All figures together: of a method that is always right, of the baselines beside it, in tables and in a report."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen.common.errors import StorageError
from datagen.common.files import json_ready
from datagen.shards import open_dataset
from tests.support.evaluation_scene import LABELS, Ellipsoid, head_pose, turn, world_camera
from tests.support.places import ROOT
from tests.support.trainer_scene import build_scene
from trainer.config import load_config
from trainer.evaluate import evaluate, evaluate_several
from trainer.evaluation.baselines import flow_available
from trainer.evaluation.canonical import region_labels
from trainer.evaluation.charts import Showcase, motion_chart, pck_chart
from trainer.evaluation.comparison import comparison_text, names_of
from trainer.evaluation.frames import EvaluationOptions, View
from trainer.evaluation.gather import Evaluation, Run
from trainer.evaluation.shape import key_points
from trainer.evaluation.speed import SpeedPoint, measure_speed, speed_metrics
from trainer.evaluation.tables import MATCHING, comparison_tables, method_table, metric_tables, result_text
from trainer.evaluation.worst import WorstSamples, figure_of
from trainer.fit import fit

DOCS = (ROOT / "docs" / "metrics.md").read_text()
SIZE = 56
OPTIONS = EvaluationOptions(queries=120, region_queries=6, starts=2, seed=3)
FRAMES = [Ellipsoid(size=SIZE, pose=head_pose(turn(1, 6 * k), (0.004 * k, 0, 0))) for k in range(4)]
OTHER_VIEW = Ellipsoid(size=SIZE, camera=world_camera() @ head_pose(turn(1, 20)))
OTHER_PERSON = Ellipsoid(size=SIZE, radii=(0.082, 0.1, 0.085), pose=head_pose(turn(1, -8)))


def mean_view(view: View) -> View:
    """A training mean: the first frame's maps, whatever is shown."""
    first = FRAMES[0].truth()
    return View(view.truth, np.where(first.depth_m > 0, first.depth_m, 0.8), first.canonical_m)


def evaluation_of(change=lambda view: view, seed: int = 3) -> Evaluation:
    truth = FRAMES[0].truth()
    keys = key_points(truth.canonical_m.reshape(3, -1).T, truth.region.ravel(), LABELS)
    options = EvaluationOptions(queries=120, region_queries=6, starts=2, seed=seed)
    found = Evaluation(options, region_labels(LABELS), keys, SIZE, flow_available())
    views = [change(scene.perfect()) for scene in FRAMES]
    run = Run(np.arange(4), views, [mean_view(v) for v in views])
    found.add_run(run, np.array([True, False, False, True]))
    other, person = change(OTHER_VIEW.perfect()), change(OTHER_PERSON.perfect())
    found.add_views([views[0], other], [mean_view(views[0]), mean_view(other)])
    found.add_subjects(views[0], person, mean_view(views[0]), mean_view(person))
    return found


@pytest.fixture(scope="module")
def perfect() -> dict[str, float]:
    return evaluation_of().metrics()


def test_a_method_that_is_always_right_has_no_errors(perfect: dict[str, float]) -> None:
    f = perfect
    for kind in ("", "view_", "subject_"):
        assert f[f"{kind}correspondence_median_px"] < 0.02, kind
        assert f[f"{kind}correspondence_median_mm"] < 0.1, kind
        assert f[f"{kind}correspondence_pck2"] > 0.98, kind
        assert 0.5 < f[f"{kind}correspondence_visible"] <= 1, kind
    for region in ("face", "mouth", "nose", "eyes", "ears"):
        assert f[f"ssme_{region}_px"] < 0.05, region
    assert f["tracking_mean_px"] < 0.1
    assert f["tracking_survival"] > 0.99
    assert f["tracking_jitter_px"] < 0.2
    assert f["canonical_jitter_mm"] < 0.2
    assert f["canonical_p95_mm"] < 0.02
    assert f["depth_absrel"] == f["depth_affine_rmse_mm"] * 0
    assert f["normal_mean_deg"] == f["normal_floor_mean_deg"]
    assert f["surface_iou"] == f["silhouette_f1"] == 1
    assert f["scan_to_mesh_mm"] < 0.01
    assert f["ssme_windows"] == 3


def test_baselines_are_wrong_by_what_they_do_not_see(perfect: dict[str, float]) -> None:
    f = perfect
    # The head turns and moves; matching in world space sees the turn of an ellipsoid hardly at all.
    assert f["posed_correspondence_median_px"] > 20 * f["correspondence_median_px"]
    assert f["posed_head_correspondence_median_px"] < 0.05  # rigid motion is all there is, and the pose is given
    # The cameras are known: at one instant, the same place in the world is the same point.
    assert f["posed_view_correspondence_median_px"] < 0.05
    assert f["mean_map_correspondence_median_px"] > 0.5
    assert f["mean_map_canonical_median_mm"] > 1
    assert "flow_view_correspondence_median_px" not in f


def test_a_map_that_never_changes_misses_the_whole_motion() -> None:
    # 2 pixels a frame at the middle of the surface's depths, 0.71 to 0.8 m: 2, 4 and 6 pixels for h = 1, 2, 3.
    shift = 2 * 0.755 / (2.6 * SIZE)
    scenes = [Ellipsoid(size=SIZE, pose=head_pose(shift=(k * shift, 0, 0))) for k in range(4)]
    found = Evaluation(OPTIONS, region_labels(LABELS), None, SIZE, False)
    views = [scene.perfect() for scene in scenes]
    found.add_run(Run(np.arange(4), views, [mean_view(v) for v in views]), np.zeros(4, bool))
    np.testing.assert_allclose(found.matches["mean_map_"].motion.curve("nose")[:3], [2, 4, 6], rtol=0.08)
    assert found.metrics()["mean_map_ssme_nose_px"] == pytest.approx(4, rel=0.08)
    assert found.metrics()["ssme_nose_px"] < 0.05


def test_metrics_follow_the_seed() -> None:
    noisy = np.random.default_rng(0).normal(0, 0.003, (3, SIZE, SIZE)).astype(np.float32)

    def shake(view: View) -> View:
        return View(view.truth, view.depth_m, view.canonical_m + noisy, view.depth_confidence)

    one, same, other = (evaluation_of(shake, seed).metrics() for seed in (3, 3, 4))
    assert json.dumps(one) == json.dumps(same)
    assert one["correspondence_median_px"] != other["correspondence_median_px"]
    assert one["canonical_mean_mm"] == other["canonical_mean_mm"]  # nothing is drawn for it
    # A constant canonical shift per pixel: 3 mm on each axis have a median length of 1.54 × 3 mm.
    assert one["canonical_median_mm"] == pytest.approx(4.6, abs=0.2)


def test_an_undefined_prediction_is_neither_fatal_nor_passed_over() -> None:
    def broken(view: View) -> View:
        nothing = np.full_like(view.depth_m, np.nan)
        return View(view.truth, nothing, np.stack([nothing] * 3), nothing + 1, nothing + 1, nothing)

    found = evaluation_of(broken)
    figures = found.metrics()
    assert math.isnan(figures["canonical_mean_mm"])
    assert math.isnan(figures["depth_absrel"])
    assert figures["correspondence_mean_px"] == math.inf
    assert figures["correspondence_pck5"] == figures["tracking_survival"] == 0
    assert figures["geometry_skipped"] == 2
    assert figures["mean_map_correspondence_median_px"] < 10  # the baseline beside it is whole
    curves = found.curves()
    assert motion_chart(curves["ssme"])
    assert pck_chart(curves["pck"], curves["pck_shares"])
    json.dumps(json_ready(figures | {"curves": curves}), allow_nan=False)


def test_one_frame_is_not_a_run() -> None:
    found = Evaluation(OPTIONS, region_labels(LABELS), None, SIZE, False)
    view = FRAMES[0].perfect()
    found.add_run(Run(np.arange(1), [view], [mean_view(view)]), np.array([False]))
    figures = found.metrics()
    assert figures["canonical_median_mm"] < 0.02
    assert math.isnan(figures["correspondence_median_px"])
    assert math.isnan(figures["ssme_face_px"])
    assert math.isnan(figures["scan_to_mesh_mm"])
    assert "–" not in result_text(figures).splitlines()[0]


def test_tables_set_the_best_in_bold() -> None:
    figures = {
        "correspondence_median_px": 1.0, "posed_correspondence_median_px": 2.0,
        "correspondence_pck2": 0.5, "posed_correspondence_pck2": 0.9, "flow_correspondence_pck2": float("nan"),
    }  # fmt: skip
    table = method_table("t", "", MATCHING, figures, ("", "posed_", "flow_"))
    assert table.header == ["", "frames, median px", "within 2 %"]
    assert table.rows == [["model", "1.00", "50.0 %"], ["nearest in world space", "2.00", "90.0 %"]]
    assert table.best == {(0, 1), (1, 2)}


def test_speed_stops_in_time() -> None:
    import torch

    asked: list[int] = []
    points = measure_speed(asked.append, (4, 1, 2), torch.device("cpu"), 60)
    assert asked == [1, 1, 2, 2, 4, 4]
    assert [p.frames for p in points] == [1, 2, 4]
    assert all(p.frames_per_s > 0 and p.memory_mib > 1 for p in points)
    assert len(measure_speed(asked.append, (1, 2), torch.device("cpu"), 0)) == 1
    assert speed_metrics([SpeedPoint(2, 10.0, 5.0)]) == {"speed_frames_per_s_n2": 10.0, "memory_mib_n2": 5.0}


def documented(name: str) -> bool:
    """Whether docs/metrics.md has a name, with its prefixes, regions and numbers."""
    for prefix in ("posed_head_", "posed_", "flow_", "mean_map_"):
        name = name.removeprefix(prefix)
    return any(re.fullmatch(pattern, name) for pattern in PATTERNS)


PATTERNS = [
    re.escape(name)
    .replace("<region>", "(face|mouth|nose|eyes|ears)")
    .replace("<pairs>", "(|view_|subject_)")
    .replace("<align>", "(|aligned_|affine_)")
    .replace("<map>", "(canonical|depth)")
    .replace("<n>", r"\d+")
    for name in re.findall(r"`([a-z<][a-z0-9_<>]*)`", DOCS)
]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    """From a dataset to figures and a report, of a model that has hardly learnt."""
    folder = tmp_path_factory.mktemp("evaluated")
    build_scene(folder / "dataset.zarr", subjects={"train": 2, "val": 2}, frames=3, cameras=2)
    changes = ["fit.steps=1", "fit.val_every=1", "fit.val_samples=2", "fit.device=cpu", "fit.threads=1"]
    assert fit(folder, folder / "run", load_config("tiny", changes)).finished
    options = EvaluationOptions(queries=60, region_queries=6, geometry_views=2, instants=2, subject_pairs=2)
    evaluate(folder / "run", folder, options=options, report=folder / "report", device_name="cpu", speed_seconds=0.2)
    return json.loads((folder / "report" / "evaluation.json").read_text()), folder / "report"


def test_every_metric_is_defined_in_the_documentation(evaluated, perfect: dict[str, float]) -> None:
    names = {*evaluated[0]["figures"], *perfect}
    assert len(names) > 150
    assert sorted(name for name in names if not documented(name)) == []
    assert not documented("canonical_median_px")


def test_the_report_holds_everything_in_one_page(evaluated) -> None:
    stored, folder = evaluated
    page = (folder / "index.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', page)
    assert len(sources) > 5
    anchors = {source[1:] for source in sources if source.startswith("#")}
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in sources)
    assert {"worst-canonical", "worst-depth", "worst-canonical_face"} <= anchors
    assert all(f'id="{anchor}"' in page for anchor in anchors)
    for title in ("Correspondence", "Over time", "Shape", "Motion over time", "Best tracks", "Worst tracks"):
        assert title in page, title
    assert f"{stored['figures']['canonical_median_mm']:.2f}" in page
    assert stored["samples"] == 12
    for table in metric_tables(stored["figures"]):
        assert table.title in page


def test_several_models_are_compared_on_one_page(evaluated: tuple[dict, Path], tmp_path: Path) -> None:
    stored, folder = evaluated
    run, options = folder.parent / "run", EvaluationOptions(limit=2, instants=1, subject_pairs=0, geometry_views=1)
    given = [run, run / "last.pt"]
    quick = {"options": options, "device_name": "cpu", "speed_seconds": 0}
    found = evaluate_several(given, folder.parent, report=tmp_path / "r", **quick)
    assert [one.name for one in found] == ["run", "run-last"]
    page = (tmp_path / "r" / "index.html").read_text()
    for text in ("2 models on val", "run-last/index.html", "training mean", "tiny", stored["split"], "↓"):
        assert text in page
    assert (tmp_path / "r" / "run-last" / "index.html").is_file()
    kept = json.loads((tmp_path / "r" / "comparison.json").read_text())
    assert [one["figures"]["canonical_median_mm"] for one in kept] == [
        one.result.metrics["canonical_median_mm"] for one in found
    ]
    # The best of each column is one of these rows, and the training mean stands once.
    table = comparison_tables([(one.name, one.result.metrics) for one in found])[0]
    assert [row[0] for row in table.rows][:2] == ["run", "run-last"]
    assert "run-last" in comparison_text(found)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("mine")
    with pytest.raises(StorageError):
        evaluate_several(given, folder.parent, report=tmp_path / "mine", **quick)


def test_models_of_one_name_are_told_apart(tmp_path: Path) -> None:
    places = [tmp_path / a / "model" for a in "xyz"]
    for place in places:
        place.mkdir(parents=True)
    assert names_of([*places, tmp_path / "other.pt"]) == ["model", "model-2", "model-3", "other"]


def test_the_worst_samples_of_a_figure_are_kept_the_worst_first() -> None:
    scene, worst = Ellipsoid(size=28), WorstSamples({"nose": np.array([LABELS["nose"]])})
    truth = scene.truth()
    for k in range(7):
        shift = np.array([0.001 * ((3 * k) % 7), 0, 0], np.float32)[:, None, None]
        worst.offer(Run(np.array([k]), [scene.perfect(canonical_m=truth.canonical_m + shift)], []))
    assert [sample.index for sample in worst.found["canonical"]] == [2, 4, 6, 1]
    assert worst.found["canonical_nose"][0].value_mm == pytest.approx(6, abs=1e-3)
    assert figure_of("canonical_nose_median_mm", worst.found) == "canonical_nose"
    assert figure_of("depth_aligned_absrel", worst.found) == "depth_aligned"
    assert figure_of("scan_to_mesh_mm", worst.found) is None
    assert figure_of("depth_confidence_aurc_mm", worst.found) is None


@given(st.lists(st.one_of(st.floats(0, 50), st.just(math.nan)), max_size=12))
@settings(max_examples=60, deadline=None)
def test_every_run_is_shown_once_the_best_and_the_worst_of_them(
    evaluated: tuple[dict, Path], scores: list[float]
) -> None:
    showcase = Showcase(open_dataset(evaluated[1].parent), "val")
    for k, score in enumerate(scores):
        views: list = [None, None]
        places = np.zeros((2, 1, 2))
        indices = np.array([k, k + 1]) % 12
        run = Run(indices, views, [], {"true": places, "": places + k}, np.ones((2, 1), bool), score)
        showcase.views.clear()
        showcase.offer(run)
    shown = [run.run for run in (*showcase.best, *reversed(showcase.worst))]
    kinds = [int(run.tracks[""][0, 0, 0]) for run in shown]
    measured = sorted((score, k) for k, score in enumerate(scores) if not math.isnan(score))
    assert len(set(kinds)) == len(kinds) == min(len(measured), 6)
    assert len(showcase.best) - len(showcase.worst) in {0, 1}
    found = [run.score_px for run in shown]
    ranked = [score for score, _ in measured]
    assert found == (ranked if len(ranked) <= 6 else ranked[:3] + ranked[-3:])


def test_printed_tables_name_every_method(evaluated) -> None:
    text = result_text(evaluated[0]["figures"])
    for name in ("model", "nearest in world space", "training mean", "SSME face px", "AbsRel", "frames/s"):
        assert name in text
    assert ("optical flow" in text) == flow_available()
