"""What a build tells other programs: events as lines of JSON, metrics for Prometheus, and what its work took."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from datagen.cli import app
from datagen.common.errors import InputError
from datagen.flows.build import build
from datagen.flows.cost import cost_of
from datagen.flows.runners.contract import Answer, Job, RunnerConfig
from datagen.flows.stage import StageStatus
from datagen.flows.watchers import watched
from datagen.flows.work_log import StageWork, Taken, WorkLog, WorkRead
from datagen.layout import BuildLayout
from datagen.manifest import Needs, load_manifest
from datagen.sources.frame import SequenceKey
from tests.support.build_trees import command, copy_build

if TYPE_CHECKING:
    from datagen.flows.result import BuildResult

FRAME = SequenceKey("s001", "performance")


@pytest.fixture
def unwarped(tiny_build: BuildResult, tmp_path: Path) -> Path:
    """A build with one of its two frames to be warped, and no log of what was."""
    out = copy_build(tiny_build.root, tmp_path / "out")
    shutil.rmtree(BuildLayout(out).frame_warp(FRAME, 0))
    for log in (out / "plan").glob("work-*"):
        log.unlink()
    return out


def lines_of(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    _, errors = process.communicate()
    return [json.loads(line) for line in errors.splitlines()]


def test_every_line_of_standard_error_is_an_object(unwarped: Path, tiny_manifest: Path) -> None:
    arguments = ["--out", unwarped, "--runner", "serial", "--log", "json", "--metrics-port", "0"]
    process = command("build", tiny_manifest, *arguments)
    told = lines_of(process)
    assert process.returncode == 0
    assert all({"time", "level", "event"} <= set(line) for line in told)
    made = [line for line in told if line["event"] == "unit_done" and line["stage"] == "warp" and line.get("made")]
    assert [line["unit"] for line in made] == [f"{FRAME}/000000"]
    assert socket.gethostname() in made[0]["host"]
    assert made[0]["seconds"] > 0
    assert made[0]["peak_bytes"] > 2**20
    stages = [line["stage"] for line in told if line["event"] == "stage_finished"]
    assert stages == ["simulate", "warp", "render", "faces", "verify", "report"]
    assert told[-1]["event"] == "build_finished"
    assert told[-1]["verified"] is True
    assert any("http://127.0.0.1:" in line.get("message", "") for line in told)
    # What it took is said by status, and what the rest would take.
    status = json.loads(CliRunner().invoke(app, ["status", str(unwarped), "--json", "--workers", "3"]).stdout)
    assert (status["work"]["warp"]["made"], status["work"]["warp"]["counts"]) == (1, "frames")
    assert list(status["work"]["warp"]["hosts"]) == [socket.gethostname()]
    assert status["work"]["warp"]["peak_gib"] > 0
    assert status["left"] == {"left_s": 0, "stages": {}, "text": "nothing", "unknown": [], "work_s": 0, "workers": 3}


def test_an_error_that_ends_the_program_is_an_object_too(tmp_path: Path) -> None:
    process = command("build", tmp_path / "none.yaml", "--out", tmp_path / "out", "--log", "json")
    (line,) = lines_of(process)
    assert process.returncode == 2
    assert (line["level"], line["event"]) == ("error", "message")
    assert "none.yaml" in line["message"]


def test_metrics_are_served_on_the_loopback_interface_as_long_as_a_build_runs(
    unwarped: Path, tiny_manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with watched(metrics_port=0) as watcher:
        build(load_manifest(tiny_manifest), unwarped, RunnerConfig("serial"), watcher=watcher)
        url = capsys.readouterr().err.partition("[metrics] ")[2].split()[0]
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(url) as answer:
            told = answer.read().decode()
        port = int(url.split(":")[2].split("/")[0])
        with pytest.raises(InputError, match=f"no metrics can be served on port {port}"), watched(metrics_port=port):
            pass
    host = socket.gethostname()
    assert 'canonface_stage_planned{stage="warp"} 2.0' in told
    assert 'canonface_stage_done{stage="warp"} 2.0' in told
    assert f'canonface_units_made_total{{host="{host}",stage="warp"}} 1.0' in told
    assert 'canonface_unit_seconds_count{stage="warp"} 1.0' in told
    assert "canonface_build_finished 1.0" in told
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url)


class Unit:
    """One frame."""

    name, weight = "s000/a/000000", 1


def some_job(stage: str) -> Job:
    return Job(stage, id, Unit(), Needs())


def test_logs_are_read_on_from_where_they_were_read(tmp_path: Path) -> None:
    layout = BuildLayout(tmp_path)
    layout.plan.mkdir()
    log, read = WorkLog(layout), WorkRead(layout)
    log.done(some_job("warp"), Answer(0, host="a (process 1)", seconds=9))
    assert not list(layout.plan.iterdir()), "what was found finished is no work"
    log.done(some_job("warp"), Answer(4, host="a (process 1)", seconds=8, peak_bytes=2**30))
    read.look()
    log.done(some_job("warp"), Answer(2, host="b (process 1)", seconds=2, peak_bytes=2**29))
    log.close()
    read.look()
    (path,) = layout.plan.iterdir()
    with open(path, "a") as file:
        file.write('{"ended": 1, "stage": "wa')  # a driver that was killed
    (layout.plan / "work-x-1-00000000.jsonl").write_text("somebody else's\n")
    read.look()
    assert {stage: work.to_json() for stage, work in read.stages.items()} == {
        "warp": {
            "made": 6,
            "peak_gib": 1.0,
            "seconds": 10,
            "units": 2,
            "hosts": {
                "a": {"made": 4, "peak_gib": 1.0, "seconds": 8, "units": 1},
                "b": {"made": 2, "peak_gib": 0.5, "seconds": 2, "units": 1},
            },
        }
    }


def test_the_rest_costs_what_the_first_units_took() -> None:
    warp, render = StageStatus("warp", "frames", 40, 100), StageStatus("render", "shards", 0, 10)
    work = {"warp": StageWork(Taken(units=10, made=40, seconds=400, peak_bytes=1))}
    cost = cost_of([warp, render], work, {"warp": "frames", "render": "views"}, 4)
    assert (cost.work_s, cost.left_s, cost.unknown) == (600, 150, ("render",))
    assert str(cost) == "2.5 minutes on 4 workers (10 minutes of work); render: not known before a unit of it is done"
    # One worker is at a unit, however many there are.
    assert cost_of([warp], work, {"warp": "frames"}, 1000).left_s == 40
    # Shards are counted, not the views in them.
    work["render"] = StageWork(Taken(units=2, made=128, seconds=20, peak_bytes=1))
    assert cost_of([render], work, {"render": "views"}, 1).work_s == 100
    assert cost_of([], work, {}, 1).to_json()["stages"] == {}
