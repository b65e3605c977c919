"""Builds of some frames, to try a recipe: which these are, and that a build of all ends as if none had been tried."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from datagen.cli import app
from datagen.common.errors import InputError
from datagen.flows.build import build
from datagen.flows.choice import Choice, choice_of, choose
from datagen.flows.history import History, read_history
from datagen.flows.planning import BuildPlan, plan_build
from datagen.flows.runners.contract import RunnerConfig
from datagen.flows.status import build_status
from datagen.layout import BuildLayout
from datagen.manifest import load_manifest, parse_manifest
from datagen.shards import open_dataset
from datagen.sources.frame import SequenceKey
from tests.support.build_trees import copy_build, tree

if TYPE_CHECKING:
    from datagen.flows.result import BuildResult

KEY = SequenceKey("s000", "performance")


@pytest.fixture(scope="module")
def plan() -> BuildPlan:
    source = {"kind": "simulated", "subjects": 4, "frames": 3, "cameras": 1}
    return plan_build(parse_manifest({"name": "some", "source": source, "splits": {"val": 1, "test": 1}}))


def names(plan: BuildPlan) -> list[str]:
    return [f"{info.key.subject}/{frame}" for info in plan.sequences for frame in info.frames]


@pytest.mark.parametrize(
    ("only", "limit", "expected"),
    [
        (("s001",), None, ["s001/0", "s001/1", "s001/2"]),
        (("s00[12]/perf*",), 4, ["s001/0", "s001/1", "s001/2", "s002/0"]),
        (("*/*/000001",), None, ["s000/1", "s001/1", "s002/1", "s003/1"]),
        (("s003/*/2", "s000/*/00000[01]"), None, ["s000/0", "s000/1", "s003/2"]),
        ((), 2, ["s000/0", "s000/1"]),
        ((), 100, [f"s00{s}/{f}" for s in range(4) for f in range(3)]),
    ],
)
def test_patterns_and_numbers_choose(plan: BuildPlan, only: tuple[str, ...], limit: int | None, expected: list[str]):
    some = choose(plan, Choice(only, limit))
    assert names(some) == expected
    # Persons and splits are of all frames.
    assert {len(info.frames) for info in some.whole_sequences} == {3}
    assert some.splits == plan.splits
    assert some.chosen["of_frames"] == 12
    assert some.digest != plan.digest


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("s0001", "covers no frame.*s001, s000"),
        ("s001/perfomance", "s001/performance"),
        ("s001/*/9", "s001/performance/000000 to 000002"),
        ("s001/a/b/c", "no pattern of frames"),
        ("", "no pattern of frames"),
    ],
)
def test_a_pattern_that_covers_nothing_is_refused_with_what_is_close(plan: BuildPlan, pattern: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        choose(plan, Choice((pattern, "s000")))


def test_a_recipe_is_tried_and_then_built_as_if_it_had_not_been(
    talk_build: BuildResult, talk_manifest: Path, tmp_path: Path
) -> None:
    out = copy_build(talk_build.root, tmp_path / "out")
    layout = BuildLayout(out.resolve())
    for frame in (1, 2, 4):
        shutil.rmtree(layout.frame_warp(KEY, frame))
    shutil.rmtree(layout.dataset)
    layout.history.unlink()
    recipe, serial = load_manifest(talk_manifest), RunnerConfig("serial")
    choice = Choice(("s000/*/00000[12]",))
    tried = build(recipe, out, serial, choice=choice)
    assert (tried.warped, tried.verification.ok) == (2, True)
    dataset = open_dataset(layout.dataset)
    assert dataset["train"].frames.frame.tolist() == [1, 2]
    assert json.loads(dataset.plan.manifest)["partial"] == {
        "frames": 2,
        "limit": None,
        "of_frames": 5,
        "only": ["s000/*/00000[12]"],
    }
    assert choice_of(dataset.plan.manifest) == choice
    # Nothing is decided by it, others' warps stay, and it is no dataset of this build.
    assert not layout.history.exists()
    assert read_history(layout) == History()
    assert layout.frame_warp(KEY, 3).is_dir()
    status = build_status(layout)
    assert (status["dataset_finished"], status["dataset_partial"]) == (True, True)
    assert {s["stage"]: s["done"] for s in status["stages"]}["verify"] == 0
    assert build(recipe, out, serial, choice=choice).warped == 0
    whole = build(recipe, out, serial)
    assert whole.warped == 1
    assert tree(out) == tree(talk_build.root)
    # The dataset of all frames is not given up for a trial.
    with pytest.raises(InputError, match="--limit 1 would replace"):
        build(recipe, out, serial, choice=Choice((), 1))
    assert tree(out) == tree(talk_build.root)


def test_the_command_says_what_would_be_tried(talk_manifest: Path, tmp_path: Path) -> None:
    run = CliRunner()
    told = json.loads(run.invoke(app, ["plan", str(talk_manifest), "--only", "s000", "--limit", "2", "--json"]).stdout)
    assert (told["frames"], told["chosen"]) == (2, {"limit": 2, "of_frames": 5, "only": ["s000"]})
    for arguments in (["build", "--out", str(tmp_path / "x"), "--stage", "warp"], ["plan", "--freeze", str(tmp_path)]):
        refused = run.invoke(app, [arguments[0], str(talk_manifest), *arguments[1:], "--limit", "2"])
        assert isinstance(refused.exception, InputError)
        assert "--limit 2 with" in str(refused.exception)
