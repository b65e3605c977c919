"""What orchestration costs: builds of next to nothing are whole, and their costs are told and judged."""

from __future__ import annotations

import math
import shutil
import time
from io import StringIO
from pathlib import Path

import pytest

from benchmarks.orchestrate import nothing
from benchmarks.orchestrate.counting import calls_counted
from benchmarks.orchestrate.figures import exponent, figures_of
from benchmarks.orchestrate.measure import CarriedTasks, SizePlan, carry_tasks, measure_size
from benchmarks.orchestrate.share import measure_share, orchestration_share
from datagen.flows.build import build
from datagen.flows.runners.contract import RunnerConfig
from datagen.flows.seen import Seen, signatures_of
from datagen.flows.stages.finish import VerifyUnit
from datagen.shards import VerifyReport, open_dataset


def test_an_exponent_is_that_of_the_smallest_and_the_largest_size() -> None:
    assert exponent([10, 100, 1000], [1, 7, 100]) == pytest.approx(1)
    assert exponent([10, 1000], [1, 10_000]) == pytest.approx(2)
    assert math.isnan(exponent([10], [1]))
    assert math.isnan(exponent([10, 100], [1, math.nan]))


def test_calls_of_the_file_system_are_counted_while_asked(tmp_path: Path) -> None:
    with calls_counted() as calls:
        (tmp_path / "a").write_text("x")
        assert (tmp_path / "a").is_file()
        assert list(tmp_path.iterdir())
    assert calls["open"] == 1
    assert calls["stat"] >= 1
    # Compiled code asks for many, past Python.
    with calls_counted() as many:
        looked, _ = signatures_of(tmp_path, [Seen(("a",), b"", "")] * 100)
    assert len(looked) == 100
    assert many["statx"] + many["stat"] >= 100
    assert calls["listdir"] + calls["scandir"] == 1
    before = calls.total()
    assert (tmp_path / "a").read_text() == "x"
    assert calls.total() == before


def test_a_build_of_nothing_is_whole_and_found_finished(tmp_path: Path) -> None:
    figures = measure_size(SizePlan(12, 2, True, str(tmp_path), 6))
    dataset = open_dataset(tmp_path / "build")
    assert sum(dataset.plan.counts.values()) == 24
    assert figures["frames"] == 12
    assert figures["tasks"] >= 2 + 4 + 2
    assert 0 < figures["resume_s"] < 60
    assert figures["resume_calls"] > 0
    assert figures["task_bytes"] > 100


def test_a_size_that_is_planned_only_needs_no_files_of_captures(tmp_path: Path) -> None:
    figures = measure_size(SizePlan(8, 1, False, str(tmp_path), 4))
    assert not list((tmp_path / "captures").glob("*/*/scans"))
    assert "resume_s" not in figures
    told = figures_of([figures, {**figures, "frames": 80, "plan_s": 10 * figures["plan_s"]}], {})
    assert told["scaling_plan_s"] == pytest.approx(1)
    assert math.isnan(told["resume_s"])
    assert math.isnan(told["overhead_ms_threads"])


def test_tasks_of_no_work_are_carried_and_timed(tmp_path: Path) -> None:
    carried = carry_tasks("serial", 5, 1, tmp_path)
    assert isinstance(carried, CarriedTasks)
    assert 0 <= carried.first_result_s < 10
    assert 0 <= carried.overhead_ms < 1000


class Slow(nothing.TasksStage):
    tasks = 5

    def make(self, unit: nothing.NothingUnit) -> int:
        time.sleep(0.1)
        return super().make(unit)


class Checks(nothing.NoVerify):
    def make(self, unit: VerifyUnit) -> VerifyReport:
        time.sleep(1)
        return super().make(unit)


def test_the_share_of_a_build_that_is_no_work_is_told(tmp_path: Path) -> None:
    nothing.write_captures(tmp_path / "captures", 2, 1, 1, whole=True)
    with nothing.instead((Slow(), nothing.NoneStage(), Checks())):
        manifest = nothing.nothing_manifest(tmp_path / "captures")
        figures = measure_share(manifest, RunnerConfig("serial"), tmp_path / "build")
    # The check takes a second, and is no unit of a worker.
    assert 0.5 <= figures["units_s"] < 1
    assert figures["own_s"] >= 1
    assert 0 < figures["begin_s"] < figures["build_s"]
    assert figures["orchestration_share"] == pytest.approx(
        1 - (figures["units_s"] + figures["own_s"]) / figures["build_s"]
    )
    # Two workers that are busy for half of a build of ten seconds, which checks itself for two.
    assert orchestration_share(10, 2, [4, 6], 2) == pytest.approx(0.3)


def test_the_files_of_a_capture_are_links_to_a_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nothing, "MOST_LINKS", 4)
    nothing.write_captures(tmp_path / "captures", 5, 3, 1, whole=True)
    files = [path for path in (tmp_path / "captures").glob("*/*/*/**/*") if path.is_file()]
    assert len(files) == 10
    assert len({path.stat().st_ino for path in files}) == 3


def test_one_more_subject_among_many_renders_what_holds_them_alone(tmp_path: Path) -> None:
    captures, out = tmp_path / "captures", tmp_path / "build"
    manifest = nothing.nothing_manifest(captures)
    nothing.write_captures(captures, 120, 1, 20, whole=True)
    last = captures / "s000119"
    shutil.move(last, tmp_path / "aside")
    serial = RunnerConfig("serial")
    with nothing.without_fsync(), nothing.instead(nothing.whole_stages()):
        assert build(manifest, out, serial, StringIO()).warped == 119
        before = records(out)
        # First in the alphabet, so that sorted tables would number everybody anew.
        shutil.move(tmp_path / "aside", captures / "a")
        shutil.rmtree(out / "report")  # no record names it
        grown = build(manifest, out, serial, StringIO())
    assert (grown.warped, grown.rendered) == (1, 20)
    after = records(out)
    assert {name: after.get(name) for name in before} == before
    assert len(after) - len(before) == 2  # one of their views, one of their frame


def records(out: Path) -> dict[str, bytes]:
    """Records of the shards, which name the bytes of their files."""
    folder = out / "dataset.zarr" / "records"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
