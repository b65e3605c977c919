"""Frozen plans: what tasks refer to is found by any process, is never stale, and is refused where it is damaged."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from datagen.common.errors import InputError, StorageError
from datagen.flows import plan_store
from datagen.flows.plan_store import freeze, open_plan, prune, refer
from datagen.flows.planning import BuildPlan, plan_build
from datagen.flows.row_file import RowFile, write_rows
from datagen.flows.stages.warp import WarpReference, WarpStage
from datagen.layout import BuildLayout
from datagen.manifest import parse_manifest
from datagen.sources.frame import SequenceInfo, SequenceKey

ODD = SequenceInfo(SequenceKey("mia", "talk"), (0, 1, 2, 7, 9, 10), 3, "ict", 1.5, True, False)


def a_plan(**sections: object) -> BuildPlan:
    source = {"kind": "simulated", "subjects": 3, "frames": 6, "cameras": 2}
    manifest = parse_manifest({"name": "x", "source": source, "splits": {"val": 1, "test": 1}, **sections})
    return plan_build(manifest)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Know of no plan, as another process."""
    monkeypatch.setattr(plan_store, "_PLANS", plan_store.PlanCache())


def test_rows_are_read_one_by_one_and_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "plan" / "rows"
    rows = [b"", b"one", bytes(range(256)) * 9]
    write_rows(path, b"head", iter(rows))
    file = RowFile(path)
    assert (file.head, len(file)) == (b"head", 3)
    assert [file.row(number) for number in range(3)] == rows
    for number in (-1, 3):
        with pytest.raises(InputError, match=f"it has no row {number}"):
            file.row(number)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"one", b"onf"))
    with pytest.raises(InputError, match="row 2 is damaged"):
        RowFile(path).row(1)
    for cut in (b"", data[:-1], data[20:], b"x" * 40):
        path.write_bytes(cut)
        with pytest.raises(InputError, match="cannot be read"):
            RowFile(path)
    with pytest.raises(InputError, match="No such file"):
        RowFile(tmp_path / "nowhere")


def test_a_frozen_plan_says_what_the_plan_says(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    layout, plan = BuildLayout(tmp_path), replace(a_plan(), sequences=(ODD, *a_plan().sequences))
    path = freeze(plan, layout)
    times = path.stat().st_mtime_ns, path.stat().st_ino
    request.getfixturevalue("elsewhere")
    found = open_plan(tmp_path, plan.digest)
    assert found is open_plan(tmp_path, plan.digest)
    assert found.manifest == plan.manifest
    assert [found.sequence(number) for number in range(4)] == list(plan.sequences)
    freeze(plan, layout)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == times


def test_every_change_of_a_plan_gives_it_another_name(tmp_path: Path) -> None:
    plan = a_plan()
    others = [
        a_plan(seed=1),
        a_plan(render={"resolution": 56}),
        replace(plan, sequences=plan.sequences[:2]),
        replace(plan, sequences=(replace(plan.sequences[0], frames=(0, 1)), *plan.sequences[1:])),
        replace(plan, sequences=(replace(plan.sequences[0], cameras=3), *plan.sequences[1:])),
        replace(plan, sequences=(replace(plan.sequences[0], gated=True), *plan.sequences[1:])),
    ]
    assert len({plan.digest, *(other.digest for other in others)}) == 7
    assert a_plan().digest == plan.digest
    layout = BuildLayout(tmp_path)
    assert len({freeze(one, layout) for one in (plan, *others)}) == 7


def test_a_task_is_some_hundred_bytes_and_means_the_same_elsewhere(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    layout, plan = BuildLayout(tmp_path), a_plan(warp={"share_identity": False})
    tasks = WarpStage().plan(plan, layout)
    assert not layout.plan.exists()  # what only looks writes nothing
    assert [(task.name, task.weight) for task in tasks][:3] == [
        ("s000/performance/000000-000003", 4),
        ("s000/performance/000004-000005", 2),
        ("s001/performance/000000-000003", 4),
    ]
    units = [task.unit for task in tasks]
    sent = [pickle.dumps(task) for task in tasks]
    assert max(map(len, sent)) < 400
    WarpStage().begin(plan, layout)
    request.getfixturevalue("elsewhere")
    received: list[WarpReference] = [pickle.loads(data) for data in sent]
    assert received == tasks
    assert [task.unit for task in received] == units
    assert units[1].sequence.frames == (4, 5)


def test_a_plan_that_is_not_there_is_named(tmp_path: Path, elsewhere: None) -> None:
    task = WarpReference(tmp_path, "0" * 24, 0, 0, 1)
    with pytest.raises(InputError, match="every worker has to see the build folder"):
        _ = task.unit


def test_what_lies_where_a_plan_goes_is_kept(tmp_path: Path) -> None:
    layout, plan = BuildLayout(tmp_path), a_plan()
    layout.plan.mkdir()
    (layout.plan / f"frames-{refer(plan, layout)}").write_text("of the user")
    with pytest.raises(StorageError, match="in the way"):
        freeze(plan, layout)
    assert (layout.plan / f"frames-{plan.digest}").read_text() == "of the user"


def test_plans_that_nobody_refers_to_are_removed_and_nothing_else(tmp_path: Path) -> None:
    layout, plans = BuildLayout(tmp_path), [a_plan(seed=seed) for seed in range(3)]
    paths = [freeze(plan, layout) for plan in plans]
    edited, strange = paths[1], layout.plan / f"frames-{'0' * 24}"
    edited.write_bytes(b"x" + edited.read_bytes()[1:])
    strange.write_text("mine")
    prune(layout, [plans[0].digest])
    assert sorted(layout.plan.glob("frames-*")) == sorted([paths[0], edited, strange])
    assert strange.read_text() == "mine"
    assert freeze(plans[2], layout).is_file()
