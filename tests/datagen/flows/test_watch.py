"""Watching a build: paces and times left of what came to the disk between two looks, and who works there."""

from __future__ import annotations

import json
import os
import shutil
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from datagen.cli import app
from datagen.flows.build_folder import build_lock
from datagen.flows.watch import looks_at
from datagen.layout import BuildLayout
from datagen.sources.frame import SequenceKey
from tests.support.build_trees import copy_build

if TYPE_CHECKING:
    from datagen.flows.build import BuildResult


def test_what_came_between_two_looks_is_the_pace(tiny_build: BuildResult, tmp_path: Path) -> None:
    layout = BuildLayout(copy_build(tiny_build.root, tmp_path / "out").resolve())
    second = layout.frame_warp(SequenceKey("s001", "performance"), 0)
    aside = tmp_path / "aside"
    shutil.move(second, aside)

    def wait(seconds: float) -> None:
        assert seconds == 4
        shutil.move(aside, second)

    ticks = count(100, 4)
    with build_lock(layout):
        first, last = looks_at(layout, 4, None, wait, lambda: next(ticks))
    before = {stage.stage: stage for stage in first.stages}
    assert (before["warp"].done, before["warp"].planned, before["warp"].per_s) == (1, 2, 0)
    assert before["warp"].left_s is None
    assert str(before["warp"]) == "1 of 2 frames"
    assert not first.finished
    assert first.at_work == (f"build (process {os.getpid()} of {os.uname().nodename})",)
    after = {stage.stage: stage for stage in last.stages}
    assert (after["warp"].done, after["warp"].per_s, after["warp"].left_s) == (2, 0.25, 0)
    assert last.finished


def test_a_finished_build_is_looked_at_once(tiny_build: BuildResult) -> None:
    run = CliRunner().invoke(app, ["status", str(tiny_build.root), "--watch", "60", "--json"])
    assert run.exit_code == 0
    (line,) = run.stdout.splitlines()
    look = json.loads(line)
    assert (look["finished"], look["at_work"]) == (True, [])
    assert {stage["left_s"] for stage in look["stages"]} == {0}
    shown = CliRunner().invoke(app, ["status", str(tiny_build.root), "--watch", "60"]).stdout
    assert "2 of 2 frames" in shown
    assert "nobody" in shown


def test_a_pace_says_how_long_the_rest_takes() -> None:
    from datagen.flows.watch import Pace

    assert str(Pace("warp", "frames", 10, 110, 0.5)) == "10 of 110 frames, 2 s a frame, 3.3 minutes left"
    assert str(Pace("warp", "frames", 10, 110, 20.0)) == "10 of 110 frames, 20.0 frames/s, 5 s left"
    assert Pace("warp", "frames", 10, 110, 0.5).to_json()["left_s"] == pytest.approx(200)
