"""Units of several frames that fail: which frame it is, is found, and the rest is made as if it had never been."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from datagen.flows.planning import BuildPlan, plan_build
from datagen.flows.quarantine import read_quarantine
from datagen.flows.runners.contract import Carrier
from datagen.flows.runners.drive import MaxFailed
from datagen.flows.runners.here import SerialCarrier, ThreadCarrier
from datagen.flows.runners.tracking import Tracker
from datagen.flows.stage import Stage, StageStatus, Unit
from datagen.flows.stage_run import Ahead, StageRun
from datagen.layout import BuildLayout
from datagen.manifest import parse_manifest
from datagen.sources.frame import SequenceKey

SEQUENCES, FRAMES = 3, 20
MANIFEST = {
    "name": "x",
    "source": {"kind": "simulated", "subjects": SEQUENCES, "frames": FRAMES},
    "splits": {"val": 0, "test": 0},
}
# Of a sequence, so many frames are looked at, the first ones.
LOOKED_AT, FEWEST = 4, 3


@dataclass(frozen=True)
class Whole(Unit):
    key: SequenceKey
    frames: tuple[int, ...]

    @property
    def name(self) -> str:
        return str(self.key)


@dataclass(frozen=True)
class Single(Unit):
    key: SequenceKey
    frame: int

    @property
    def name(self) -> str:
        return f"{self.key}/{self.frame}"


class Sums(Stage[Any, int]):
    """Adds up the first frames of each sequence, but for those that cannot be added."""

    name, counts, doing = "person", "sequences", "adding up"
    inquires = True

    def __init__(self, bad: dict[str, set[int]], whole: frozenset[str] = frozenset()) -> None:
        self._bad, self._whole = bad, whole
        self.tried: list[str] = []
        self.made: dict[str, int] = {}

    def plan(self, plan: BuildPlan, layout: BuildLayout) -> list[Whole]:
        return [Whole(layout.root, plan.manifest, s.key, s.frames) for s in plan.sequences]

    def suspects(self, unit: Any) -> Sequence[Single]:
        if isinstance(unit, Single):
            return []
        return [Single(unit.root, unit.manifest, unit.key, frame) for frame in unit.frames[:LOOKED_AT]]

    def without(self, unit: Whole, guilty: Sequence[Single]) -> Whole | None:
        out = {single.frame for single in guilty}
        left = replace(unit, frames=tuple(frame for frame in unit.frames if frame not in out))
        return left if len(left.frames) >= FEWEST else None

    def leaves_out(self, unit: Any) -> Sequence[tuple[SequenceKey, int]]:
        return [(unit.key, frame) for frame in ((unit.frame,) if isinstance(unit, Single) else unit.frames)]

    def finished(self, unit: Any) -> bool:
        del unit
        return False

    def make(self, unit: Any) -> int:
        self.tried.append(unit.name)
        frames = (unit.frame,) if isinstance(unit, Single) else unit.frames[:LOOKED_AT]
        bad = self._bad.get(unit.key.subject, set())
        if bad & set(frames) or (isinstance(unit, Whole) and unit.key.subject in self._whole):
            raise ZeroDivisionError("a mistake of the program")
        if isinstance(unit, Whole):
            self.made[unit.key.subject] = sum(frames)
        return sum(frames)

    def status(self, plan: BuildPlan, layout: BuildLayout) -> StageStatus:
        del plan, layout
        return self._status(SEQUENCES, (), "")


class Next(Sums):
    name = "warp"


@dataclass
class Ran:
    stage: Sums
    quarantined: set[str]
    done: list[str]
    text: str
    settled: bool


@pytest.fixture(params=["serial", "threads"])
def carrier(request: pytest.FixtureRequest) -> Iterator[Carrier]:
    if request.param == "serial":
        yield SerialCarrier()
        return
    with ThreadCarrier(3) as threads:
        yield threads


def run(stage: Sums, root: Path, carrier: Carrier, most: str = "5%") -> Ran:
    plan, layout, text = plan_build(parse_manifest(MANIFEST)), BuildLayout(root), StringIO()
    units, done = stage.plan(plan, layout), list[str]()

    class Noting(Tracker):
        def done(self, job: Any, answer: Any) -> None:
            del answer
            done.append(job.name)

    ahead = Ahead(stage, Next({}), plan, layout, units, 3)
    StageRun(stage, "1", plan, layout, units, MaxFailed.parse(most), Noting(), lambda *_: None, ahead).run(
        carrier, text
    )
    quarantined = {f"{unit.unit}" for unit in read_quarantine(layout, plan.manifest).units}
    return Ran(stage, quarantined, done, text.getvalue(), ahead.over)


def test_nothing_is_tried_twice_where_nothing_fails(tmp_path: Path, carrier: Carrier) -> None:
    ran = run(Sums({}), tmp_path, carrier)
    assert sorted(ran.stage.tried) == [f"s{i:03d}/performance" for i in range(SEQUENCES)]
    assert not ran.quarantined


def test_a_bad_frame_is_left_out_and_the_rest_is_made(tmp_path: Path, carrier: Carrier) -> None:
    ran = run(Sums({"s001": {2}}), tmp_path, carrier)
    assert ran.quarantined == {"s001/performance/2"}
    # The next frame takes its place, as in a sequence that never had it.
    assert ran.stage.made == {"s000": 0 + 1 + 2 + 3, "s001": 0 + 1 + 3 + 4, "s002": 0 + 1 + 2 + 3}
    assert sorted(ran.done) == [f"s{i:03d}/performance" for i in range(SEQUENCES)]
    assert "which of its frames it is, is tried one by one" in ran.text
    assert ran.settled


def test_a_frame_that_takes_its_place_may_be_bad_too(tmp_path: Path, carrier: Carrier) -> None:
    ran = run(Sums({"s001": {0, 4}, "s002": {3}}), tmp_path, carrier)
    assert ran.quarantined == {"s001/performance/0", "s001/performance/4", "s002/performance/3"}
    assert ran.stage.made == {"s000": 6, "s001": 1 + 2 + 3 + 5, "s002": 0 + 1 + 2 + 4}
    # Those that were cleared once are not tried again.
    assert ran.stage.tried.count("s001/performance/2") == 1
    assert ran.settled


@pytest.mark.parametrize("bad", [set(), set(range(FRAMES))])
def test_a_unit_with_no_frame_to_blame_is_what_failed(tmp_path: Path, carrier: Carrier, bad: set[int]) -> None:
    ran = run(Sums({"s001": bad}, frozenset({"s001"})), tmp_path, carrier)
    assert ran.quarantined == {"s001/performance"}
    plan = plan_build(parse_manifest(MANIFEST))
    frames = read_quarantine(BuildLayout(tmp_path), plan.manifest).frames_of("person")
    assert frames == {(plan.sequences[1].key, frame) for frame in range(FRAMES)}
    assert sorted(ran.stage.made) == ["s000", "s002"]
    assert ran.settled


def test_too_many_bad_frames_end_the_build(tmp_path: Path, carrier: Carrier) -> None:
    bad = {"s000": {0}, "s001": {1}, "s002": {2}}
    with pytest.raises(ZeroDivisionError):
        run(Sums(bad), tmp_path / "a", carrier, "2")
    assert len(run(Sums(bad), tmp_path / "b", carrier, "3").quarantined) == 3


def test_where_too_few_frames_are_left_nothing_is_made_and_the_others_stay(
    tmp_path: Path, carrier: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MANIFEST["source"], "frames", 4)  # type: ignore[arg-type]
    ran = run(Sums({"s001": {1, 3}}), tmp_path, carrier, "2")
    assert ran.quarantined == {"s001/performance/1", "s001/performance/3"}
    assert sorted(ran.stage.made) == ["s000", "s002"]
    assert sorted(ran.done) == [f"s{i:03d}/performance" for i in range(SEQUENCES)]
    assert ran.settled
