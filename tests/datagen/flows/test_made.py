"""What workers say they made, held against what the driver finds, before it is believed."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from datagen.flows.build import build
from datagen.flows.folder_plan import plan_in
from datagen.flows.made import Made, doubt_of
from datagen.flows.records import read_result_record, write_result_record
from datagen.flows.runners import drive as driving
from datagen.flows.runners.contract import Answer, Job, RunnerConfig
from datagen.flows.runners.drive import drive
from datagen.flows.runners.here import SerialCarrier
from datagen.flows.stages.person import PersonStage
from datagen.flows.stages.render import RenderStage
from datagen.flows.stages.warp import WarpStage
from datagen.layout import BuildLayout
from datagen.manifest import Needs
from tests.support.build_trees import copy_build, tree

if TYPE_CHECKING:
    from datagen.flows.result import BuildResult

GOOD = "0" * 64


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (Made("a", GOOD, GOOD, "s"), ""),
        (Made("a", "1" * 64, "1" * 64, "s"), "content key 111111111111, not 000000000000"),
        (Made("a", "", GOOD, "s"), "content key of nothing, not 000000000000"),
        (Made("a", GOOD, GOOD, "other"), "other sizes or times"),
        (Made("b", GOOD, GOOD, "s"), "it made b, where a was asked for"),
        (None, "it made nothing, where a was asked for"),
    ],
)
def test_what_is_told_has_to_be_what_is_found(told: Made | None, says: str) -> None:
    reason = doubt_of([told] if told else [], [Made("a", GOOD, GOOD, "s")])
    assert says in reason
    assert bool(reason) == bool(says)


def test_what_is_not_here_is_no_result() -> None:
    assert "is not in the build folder here" in doubt_of([Made("a", GOOD)], [Made("a", "1" * 64, GOOD)])


class Elsewhere(SerialCarrier):
    """Answers as a worker of another machine does."""

    left_out = 0

    def begin(self, ticket: int, job: Job, *, suspect: bool = False) -> None:
        super().begin(ticket, job, suspect=suspect)
        ended, answer = self._ended.pop()
        self._ended.append((ended, replace(answer, made=(Made("a", GOOD),))))

    def distrust(self, stage: str, answer: Answer) -> None:
        assert (stage, answer.trouble) in (("look", "misfit"), ("x", "misfit"))
        self.left_out += 1


def test_what_a_file_system_shows_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driving, "LOOK_S", 0.01)
    seen = iter(["", "", GOOD])
    carrier, done = Elsewhere(), list[str]()
    job = Job("look", len, "a", Needs(), made=lambda _: [Made("a", next(seen))])
    drive(iter([job]), carrier, lambda job, _: done.append(job.name), lambda lost: pytest.fail(str(lost)), pytest.fail)
    assert done == ["a"]
    assert not carrier.left_out


def test_what_is_not_believed_is_disowned_before_it_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driving, "LOOK_S", 0.01)
    monkeypatch.setattr(driving, "UNSEEN_S", 0.0)
    carrier, disowned, done = Elsewhere(), list[str](), list[str]()
    job = Job("x", len, "a", Needs(), made=lambda _: [Made("a", GOOD if disowned else "")], disown=disowned.append)
    drive(iter([job]), carrier, lambda job, _: done.append(job.name), lambda lost: pytest.fail(str(lost)), pytest.fail)
    assert (disowned, done, carrier.left_out) == (["a"], ["a"], 1)


def test_stages_tell_keys_and_inputs_of_what_they_made(talk_build: BuildResult, tmp_path: Path) -> None:
    layout = BuildLayout(copy_build(talk_build.root, tmp_path / "out"))
    before = tree(layout.root)
    plan = plan_in(layout, layout.read_manifest())
    stages = (PersonStage(), WarpStage(), RenderStage())
    units = [(stage, stage.plan(plan, layout)[0]) for stage in stages]
    told = [stage.made(unit) for stage, unit in units]  # type: ignore[arg-type]
    for made in told:
        assert not doubt_of(made, made)
        assert all(one.key and one.stamp for one in made)
    assert [one.due for one in told[1]] == [one.key for one in told[1]]

    capture = next(layout.captures.rglob("capture.json"))
    os.utime(capture, (1, 1))
    for (stage, unit), made in zip(units, told, strict=True):
        assert "other sizes or times" in doubt_of(made, stage.made(unit))  # type: ignore[arg-type]

    folder = layout.frame_warp(plan.sequences[0].key, 0)
    record = read_result_record(folder)
    assert record is not None
    write_result_record(folder, replace(record, content_key="1" * 64))
    warp, unit = units[1]
    assert "is not in the build folder here" in doubt_of(told[1], warp.made(unit))  # type: ignore[arg-type]
    assert "content key 111111111111, not" in doubt_of(warp.made(unit), told[1])  # type: ignore[arg-type]
    write_result_record(folder, record)

    # A shard's key is what was asked for, whoever wrote it: it is only made again if it is disowned.
    render, shard = units[2]
    assert render.finished(shard)  # type: ignore[arg-type]
    render.disown(shard)  # type: ignore[arg-type]
    assert not render.finished(shard)  # type: ignore[arg-type]
    assert build(layout.read_manifest(), layout.root, RunnerConfig("serial")).rendered == 5
    after = tree(layout.root)
    assert {name for name, data in before.items() if after.get(name) != data} == set()
