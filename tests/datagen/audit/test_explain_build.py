"""A build explained by reason: groups, their order, and commands that do what they say."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from datagen.audit.explain_build import Explanation, explain_build
from datagen.common.errors import InputError
from datagen.manifest import VerdictLimits, load_manifest
from datagen.warp.result import Verdict
from datagen.warp.storage import verdict_bytes
from datagen.warp.verdict import judge, metric_limits

GOOD = {"residual_median_mm": 0.2, "face_confidence": 0.8, "face_coverage": 0.9}


def _frame(build: Path, number: int, verdict: Verdict, *, warped: bool = True) -> None:
    folder = build / "warps" / "s000" / "talk" / f"{number:06d}"
    folder.mkdir(parents=True)
    (folder / "verdict.json").write_bytes(verdict_bytes(verdict))
    if warped:
        (folder / "warp.npz").touch()


@pytest.fixture
def build(tmp_path: Path, tiny_manifest: Path) -> Path:
    """Frames of every kind, in a folder whose name a shell would split."""
    build, limits = tmp_path / "my build", VerdictLimits()
    build.mkdir()
    (build / "manifest.json").write_text(load_manifest(tiny_manifest).text())
    for number, confidence in enumerate((0.8, 0.31, 0.214, 0.1)):
        _frame(build, number, judge(GOOD | {"face_confidence": confidence}, limits))
    _frame(build, 4, judge(GOOD | {"residual_median_mm": 0.6, "face_confidence": 0.3}, limits))
    _frame(build, 5, judge(GOOD | {"faces_turned": 1.0}, limits))
    for number in (6, 7):
        reason = f"MeshError: mesh {build}/captures/s000/talk/scans/{number:06d}.ply does not exist"
        _frame(build, number, Verdict("fail", (reason,)), warped=False)
    return build


def _groups(explanation: Explanation) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {group.reason: (group.status, tuple(name[-1] for name in group.frames)) for group in explanation.groups}


def test_frames_are_grouped_by_reason_worst_first(build: Path) -> None:
    explained = explain_build(build)
    assert explained.verdicts == {"pass": 2, "review": 3, "fail": 3}
    assert list(_groups(explained).items()) == [
        ("no warp could be made: MeshError: mesh … does not exist", ("fail", ("6", "7"))),
        ("mean confidence of the face is below 0.15", ("fail", ("3",))),
        ("mean confidence of the face is below 0.42", ("review", ("2", "4", "1"))),
        ("median surface residual is above 0.5 mm", ("review", ("4",))),
        ("note: the scan's faces point inwards; they were turned over before the warp", ("pass", ("5",))),
    ]
    text = explained.text()
    assert "review, 3 frames: mean confidence of the face is below 0.42 (0.214 at worst)" in text
    assert "s000/talk/000002, s000/talk/000004, s000/talk/000001\n" in text
    assert "frames to review are in the dataset" in text
    assert "the dataset is not finished: datagen status" in text
    told = [line for line in text.splitlines() if not line.startswith("    ") and "datagen status" not in line]
    assert max(map(len, told)) <= 80
    assert json.loads(json.dumps(explained.to_json()))["groups"][2]["values"] == [0.214, 0.3, 0.31]


def test_the_commands_can_be_pasted_and_the_limits_they_name_let_frames_pass(build: Path) -> None:
    commands = [shlex.split(command, comments=True) for group in explain_build(build).groups for command in group.next]
    assert {words[1] for words in commands} == {"check", "explain", "build"}
    assert all(words[2] == str(build) for words in commands if words[1] == "explain")
    builds = [words for words in commands if words[1] == "build"]
    assert {tuple(words[3:-1]) for words in builds} == {("--out", str(build), "--set")}
    overrides = [words[-1] for words in builds]
    assert overrides == ["warp.verdict.pass_confidence=0.21", "warp.verdict.pass_residual_mm=0.6"]
    limits = load_manifest(Path(builds[0][2]), overrides).warp.verdict
    for metrics in ({"face_confidence": 0.214}, {"residual_median_mm": 0.6, "face_confidence": 0.3}):
        assert judge(GOOD | metrics, limits).status == "pass"


def test_every_limit_is_one_of_the_manifest() -> None:
    limits = VerdictLimits(pass_residual_mm=0.4321)
    assert [limit.name for limit in metric_limits(limits) if limit.passing == 0.4321] == ["residual_median_mm"]
    judged = {f"pass_{limit.quantity}" for limit in metric_limits(limits)}
    assert judged == {name for name in VerdictLimits.model_fields if name.startswith("pass_")}


def test_where_all_is_well_the_least_sure_frame_is_named(tmp_path: Path) -> None:
    for number, confidence in enumerate((0.8, 0.5, 0.9)):
        _frame(tmp_path, number, judge(GOOD | {"face_confidence": confidence}, VerdictLimits()))
    text = explain_build(tmp_path).text()
    assert text.startswith("3 frames: 3 pass\n")
    assert re.search(r"datagen explain \S+ s000/talk/000001$", text)
    with pytest.raises(InputError, match="holds no warps"):
        explain_build(tmp_path / "gone")
