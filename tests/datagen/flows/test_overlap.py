"""The next stage begins while a stage goes on: what is begun early is what would have been made anyway."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from datagen.flows.plan_store import refer
from datagen.flows.planning import BuildPlan, plan_build, settle
from datagen.flows.runners.contract import Answer, Carrier, Job
from datagen.flows.runners.drive import MaxFailed
from datagen.flows.runners.here import SerialCarrier, ThreadCarrier
from datagen.flows.runners.tracking import Tracker
from datagen.flows.stage import Stage, StageStatus, Unit
from datagen.flows.stage_run import Ahead, StageRun
from datagen.flows.stages.render import RenderReference, RenderStage
from datagen.layout import BuildLayout
from datagen.manifest import load_manifest, parse_manifest
from datagen.sources.frame import SequenceKey
from tests.support.build_trees import copy_build

if TYPE_CHECKING:
    from datagen.flows.result import BuildResult

NOTHING = {"name": "x", "source": {"kind": "simulated", "subjects": 6, "frames": 2}, "splits": {"val": 0, "test": 0}}
ORDER: list[str] = []


@dataclass(frozen=True)
class Named(Unit):
    called: str
    key: SequenceKey | None = None

    @property
    def name(self) -> str:
        return self.called


class Noted(Stage[Named, int]):
    counts, doing = "units", "noting"

    def plan(self, plan: BuildPlan, layout: BuildLayout) -> list[Named]:
        return [
            Named(layout.root, plan.manifest, f"{self.name} {s.key}/{f}", s.key)
            for s in plan.sequences
            for f in s.frames
        ]

    def leaves_out(self, unit: Named) -> Sequence[tuple[SequenceKey, int]]:
        return () if unit.key is None else ((unit.key, 0),)

    def early(self, plan: BuildPlan, layout: BuildLayout, settled: int) -> Sequence[Named]:
        return [Named(layout.root, plan.manifest, f"early {s.key}") for s in plan.sequences[:settled]]

    def finished(self, unit: Named) -> bool:
        return unit.name in ORDER

    def make(self, unit: Named) -> int:
        ORDER.append(unit.name)
        if unit.name == "warp s002/performance/1":
            raise ZeroDivisionError
        return 1

    def status(self, plan: BuildPlan, layout: BuildLayout) -> StageStatus:
        return self._status(len(self.plan(plan, layout)), ORDER, "as noted")


class First(Noted):
    name = "warp"


class Second(Noted):
    name = "render"


def test_the_next_stage_begins_with_the_first_sequences_in_their_order(tmp_path: Path) -> None:
    ORDER.clear()
    plan, layout = plan_build(parse_manifest(NOTHING)), BuildLayout(tmp_path)
    first, second = First(), Second()
    units = first.plan(plan, layout)
    ahead = Ahead(first, second, plan, layout, units, 2)
    tracked: list[str] = []

    class Noting(Tracker):
        def done(self, job: Job, answer: Answer) -> None:
            assert answer.trouble is None
            tracked.append(job.name)

    run = StageRun(first, "1", plan, layout, units, MaxFailed(count=1), Noting(), lambda *_: None, ahead)
    carrier: Carrier
    with ThreadCarrier(1) as carrier:
        results = run.run(carrier, StringIO())
    begun_early = [name for name in ORDER if name.startswith("early")]
    # All but the last, for then the stage is over; the one that was left out is settled too.
    assert begun_early == [f"early s{i:03d}/performance" for i in range(5)][: len(begun_early)]
    assert len(begun_early) >= 3
    assert ahead.results == [1] * len(begun_early)
    assert len(results) == len(units) - 1
    assert not any(name.startswith("early") for name in tracked)
    for i, name in enumerate(ORDER):
        if name.startswith("early"):
            whose = name.split()[1]
            assert {f"warp {whose}/0", f"warp {whose}/1"} <= set(ORDER[:i])


def test_what_the_index_knows_to_be_finished_is_not_handed_out(tmp_path: Path) -> None:
    ORDER.clear()

    class Half(First):
        def known(self, unit: Named) -> bool:
            return unit.name.endswith("/0")

    plan, layout = plan_build(parse_manifest(NOTHING)), BuildLayout(tmp_path)
    units = [unit for unit in Half().plan(plan, layout) if "s002" not in unit.name]
    told: list[tuple[int, int]] = []
    answers: list[Answer] = []

    class Noting(Tracker):
        def done(self, job: Job, answer: Answer) -> None:
            assert job.stage == "warp"
            answers.append(answer)

    run = StageRun(Half(), "1", plan, layout, units, MaxFailed(), Noting(), lambda *so_far: told.append(so_far))
    assert run.run(SerialCarrier(), StringIO()) == [1] * 5
    assert [unit.name for unit in units if unit.name.endswith("/1")] == ORDER
    assert told[-1] == (10, 10)
    assert sorted(bool(answer.host) for answer in answers) == [False] * 5 + [True] * 5
    # A stage that is known to be finished is passed over.
    again = StageRun(Half(), "1", plan, layout, units, MaxFailed(), Tracker(), lambda *so_far: told.append(so_far))
    assert again.pass_over(StringIO()) == []
    assert told[-1] == (10, 10)
    assert len(ORDER) == 5


@pytest.fixture
def unrendered(tiny_build: BuildResult, tiny_manifest: Path, tmp_path: Path) -> tuple[BuildPlan, BuildLayout]:
    layout = BuildLayout(copy_build(tiny_build.root, tmp_path / "out"))
    layout.history.unlink()
    layout.dataset.rename(tmp_path / "dataset")
    return plan_build(settle(load_manifest(tiny_manifest))), layout


def test_shards_begun_early_are_those_that_are_planned_in_the_end(unrendered: tuple[BuildPlan, BuildLayout]) -> None:
    plan, layout = unrendered
    stage = RenderStage()
    planned = {unit.shard: unit for unit in stage.plan(plan, layout)}
    early = stage.early(plan, layout, 1)
    assert [unit.name for unit in early] == ["shard train-00000", "shard train-00001"]
    for unit in early:
        assert isinstance(unit, RenderReference)
        assert unit.content_key == planned[unit.shard].content_key
        assert unit.unit.views == planned[unit.shard].unit.views
        assert unit.plan == refer(plan, layout)


def test_nothing_is_begun_early_that_later_names_could_change(unrendered: tuple[BuildPlan, BuildLayout]) -> None:
    plan, layout = unrendered
    stage = RenderStage()
    first, second = plan.sequences
    assert not stage.early(plan, layout, 0)
    assert not stage.early(plan, layout, 2)
    other_name = replace(second, key=SequenceKey(second.key.subject, "another"))
    assert not stage.early(replace(plan, sequences=(first, other_name)), layout, 1)
    other_rig = replace(second, cameras=second.cameras + 1)
    assert not stage.early(replace(plan, sequences=(first, other_rig)), layout, 1)
    # A build that grows adds to what it has: what is new is known only when all of it is.
    layout.history.write_bytes(_grown(plan, layout))
    assert not stage.early(plan, layout, 1)


def _grown(plan: BuildPlan, layout: BuildLayout) -> bytes:
    from datagen.flows.shard_plan import plan_shards

    return plan_shards(plan, layout).history.to_bytes()
