"""The runners: Prefect with its own server, Dask, and how errors travel through them."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from datagen.common.errors import DependencyError, StorageError
from datagen.flows import prefect_flow
from datagen.flows.build import build
from datagen.flows.result import BuildResult
from datagen.flows.runners import prefect as prefect_runner
from datagen.flows.runners.contract import Answer, GivenUp, Job, RunnerConfig
from datagen.flows.runners.drive import drive, error_of
from datagen.flows.runners.here import ThreadCarrier
from datagen.flows.runners.local_api import LocalApi
from datagen.flows.runners.prefect import prefect_session, run_as_flow
from datagen.flows.runners.tracking import Tracker
from datagen.layout import BuildLayout
from datagen.manifest import Manifest, Needs, load_manifest, parse_manifest
from datagen.sources.frame import SequenceKey
from tests.support.build_trees import command, copy_build, tree


def squares(unit: int) -> int:
    if unit == 7:
        raise StorageError("the disk is full", "room", "Free some space")
    if unit == 8:
        raise ZeroDivisionError("a mistake of the program")
    return unit * unit


def as_flow(root: Path, units: list[int], config: RunnerConfig) -> dict[str, int]:
    """Square numbers in threads, as the flow of a build."""
    found: dict[str, int] = {}

    def body(tracker: Tracker) -> dict[str, int]:
        jobs = [Job("square", squares, unit, Needs()) for unit in units]
        tracker.planned("square", jobs)

        def done(job: Job, answer: Answer) -> None:
            found[job.name] = answer.result
            tracker.done(job, answer)

        def give_up(given_up: GivenUp) -> None:
            tracker.given_up(given_up)
            raise error_of(given_up)

        tracker.said("a word")
        with ThreadCarrier(2) as carrier:
            drive(iter(jobs), carrier, done, give_up, tracker.said)
        return found

    return run_as_flow("squares", root, some_manifest(), config, body)


def some_manifest() -> Manifest:
    return parse_manifest({"name": "squares", "source": {"kind": "simulated", "subjects": 3, "frames": 1}})


def test_a_flow_passes_results_and_errors_on_unchanged(
    tiny_build: BuildResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    config = RunnerConfig("threads", workers=2)
    with prefect_session(tmp_path / "home"):
        assert as_flow(tmp_path, list(range(6)), config) == {str(i): i * i for i in range(6)}
        assert "a word" in log_lines()
        assert [artifact["data"] for artifact in asked("artifacts") if artifact["key"] == "square"] == [100.0]
        with pytest.raises(StorageError, match=r"the disk is full\. Expected room"):
            as_flow(tmp_path, [1, 7, 2], config)
        # A command runs once, however often Prefect runs flows of deployments again.
        monkeypatch.setattr(prefect_flow, "build", prefect_flow.build.with_options(retries=2))
        with pytest.raises(ZeroDivisionError) as caught:
            as_flow(tmp_path, [8], config)
        assert log_lines().count("a word") == 3
        run_as_flow("built", tmp_path, some_manifest(), config, lambda tracker: tracker.finished(tiny_build))
        shown = {artifact["key"]: artifact["data"] for artifact in asked("artifacts")}
        runs = flow_runs()
    pictures = re.findall(r"!\[[^]]*\]\(data:image/jpeg;base64,([^)]+)\)", shown["worst-pictures"])
    assert len(pictures) == min(4, sum(tiny_build.verdicts.values()))
    for picture in pictures:
        assert Image.open(io.BytesIO(base64.b64decode(picture))).width == 720
    assert any("in squares" in note for note in caught.value.__notes__)
    assert "Traceback" not in capfd.readouterr().err
    assert "PREFECT_HOME" not in os.environ
    assert sorted(run.state.type.value for run in runs) == ["COMPLETED", "COMPLETED", "FAILED", "FAILED"]
    assert {tag for run in runs for tag in run.tags} == {"manifest:squares", f"folder:{tmp_path}"}


def flow_runs() -> list[Any]:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return list(client.read_flow_runs())


def log_lines() -> list[str]:
    """What the log of the runs has, once Prefect sent it."""
    from prefect.logging.handlers import APILogHandler

    APILogHandler().flush()
    return [entry["message"] for entry in asked("logs")]


def asked(what: str) -> list[dict[str, Any]]:
    """All of something that the server has."""
    from prefect.settings import PREFECT_API_URL

    url, kind = f"{PREFECT_API_URL.value()}/{what}/filter", {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, b"{}", kind, method="POST"), timeout=10) as answer:
        found: list[dict[str, Any]] = json.load(answer)
    return found


def test_a_run_whose_driver_died_is_marked_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claim_with_database: Callable[[Path], None]
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    program = (
        "import os, sys, tempfile\nfrom pathlib import Path\n"
        "from datagen.flows.runners.prefect import prefect_session, run_as_flow\n"
        "from datagen.flows.runners.contract import RunnerConfig\n"
        "from datagen.manifest import parse_manifest\n"
        "root = Path(sys.argv[1])\n"
        "manifest = parse_manifest({'name': 'squares', 'source': {'kind': 'simulated', 'subjects': 3, 'frames': 1}})\n"
        "with prefect_session(root / 'home'):\n"
        "    run_as_flow('dies', root, manifest, RunnerConfig(), lambda tracker: os._exit(9))\n"
    )
    claim_with_database(tmp_path / "home")
    died = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False, capture_output=True, text=True)
    assert died.returncode == 9, died.stderr
    with prefect_session(tmp_path / "home"):
        as_flow(tmp_path, [1], RunnerConfig())
        states = {run.name: run.state.type.value for run in flow_runs()}
    assert states == {"dies": "CRASHED", "squares": "COMPLETED"}


def test_a_build_goes_on_without_a_server_that_went_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    for name, value in (("PREFECT_CLIENT_MAX_RETRIES", "0"), ("PREFECT_CLIENT_RETRY_EXTRA_CODES", "")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(prefect_runner, "EVENTS_SECONDS", 0.1)
    stopped: list[LocalApi] = []
    monkeypatch.setattr(prefect_runner, "LocalApi", lambda home: stopped.append(LocalApi(home)) or stopped[0])
    with prefect_session(tmp_path / "home"):

        def body(tracker: Tracker) -> str:
            stopped[0].stop()
            tracker.planned("square", [Job("square", squares, 1, Needs())])
            tracker.said("something")
            return "done"

        assert run_as_flow("alone", tmp_path, some_manifest(), RunnerConfig(), body) == "done"
    errors = capfd.readouterr().err
    assert "told nothing more of this build" in errors
    assert "its run page is not" in errors
    assert "Traceback" not in errors


def test_what_a_dead_server_was_not_told_holds_up_no_exit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claim_with_database: Callable[[Path], None]
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    program = (
        "import sys\nfrom pathlib import Path\nfrom datagen.flows.runners import prefect\n"
        "from datagen.flows.runners.local_api import LocalApi\n"
        "prefect.EVENTS_SECONDS, apis = 0.1, []\n"
        "prefect.LocalApi = lambda home: apis.append(LocalApi(home)) or apis[0]\n"
        "with prefect.prefect_session(Path(sys.argv[1]) / 'home'):\n"
        "    from prefect.events import emit_event\n"
        "    from prefect.events.worker import EventsWorker\n"
        "    emit_event('heard', resource={'prefect.resource.id': 'canonface.test'})\n"
        "    EventsWorker.instance().wait_until_empty()\n"
        "    apis[0].stop()\n"
        "    for i in range(5):\n"
        "        emit_event('unheard', resource={'prefect.resource.id': 'canonface.test'})\n"
        "print('over', flush=True)\n"
    )
    claim_with_database(tmp_path / "home")
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "over\n"
    over = time.monotonic()
    _, errors = process.communicate()
    # Prefect tries each event for seven seconds.
    assert time.monotonic() - over < 6
    assert "unheard" not in errors


def test_a_server_of_our_own_ends_with_a_killed_parent(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom datagen.flows.runners.local_api import LocalApi\n"
        "api = LocalApi(Path(sys.argv[1]))\nprint(api._process.pid, flush=True)\ntime.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    server = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and _alive(server):
        time.sleep(0.1)
    assert not _alive(server)
    parent.stdout.close()


def _alive(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:4]
    except FileNotFoundError:
        return False


def test_a_server_that_cannot_start_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "uvicorn.py").write_text("raise RuntimeError('no server here')\n")
    api = LocalApi(tmp_path / "home")
    with pytest.raises(DependencyError, match=r"(?s)server ended.*no server here.*--runner serial"):
        api.wait()
    api.stop()


# In a process of its own, for Prefect reports from threads whenever it likes; without the head model, which takes long.
WITHOUT_HEAD = """
from datagen.flows import build
from datagen.flows.runners import prefect
prefect.EVENTS_SECONDS = 0.1
build._prepare = lambda *_, **__: None
"""


def test_a_prefect_server_that_does_not_answer_is_named(
    tiny_manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    process = command("build", tiny_manifest, "--out", tmp_path / "out", before=WITHOUT_HEAD)
    _, errors = process.communicate()
    assert process.returncode == 2, errors
    assert "the Prefect server failed" in errors
    assert "PREFECT_API_URL is http://127.0.0.1:9/api" in errors
    assert "Traceback" not in errors


def test_a_dask_scheduler_that_does_not_answer_is_named(
    tiny_manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import dask
    import distributed  # noqa: F401 - its defaults come first

    # Prefect's server, which would be waited for, has its tests above.
    monkeypatch.setattr(prefect_runner, "told_prefect", lambda *_: nullcontext(Tracker()))
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(DependencyError, match=r"Dask at tcp://127\.0\.0\.1:9 failed") as caught,
    ):
        build(load_manifest(tiny_manifest), tmp_path / "out", RunnerConfig("dask", dask_address="tcp://127.0.0.1:9"))
    assert caught.value.exit_code == 2
    assert "Traceback" not in capfd.readouterr().err


# What a worker runs first: at its first frame it says so, and waits to be killed.
AT_WORK = """
import time
from pathlib import Path
from datagen.flows.stages import warp
def waits(unit, state, own=warp._warp_and_store, mark=Path({mark!r})):
    if not mark.exists():
        mark.touch()
        time.sleep(120)
    own(unit, state)
if warp._warp_and_store.__name__ != "waits":
    warp._warp_and_store = waits
"""


def kill_a_worker(when: Path, killed: list[int]) -> None:
    """Wait for a file, then kill the Dask worker that wrote it."""
    deadline = time.monotonic() + 120
    while not when.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in psutil.Process().children(recursive=True):
        if any("spawn_main" in part for part in process.cmdline()):
            process.kill()
            killed.append(process.pid)
            return


def test_dask_workers_make_the_same_bytes_even_if_one_is_killed_at_work(
    talk_build: BuildResult, talk_manifest: Path, tmp_path: Path
) -> None:
    import dask
    import distributed  # noqa: F401 - its defaults come first

    out = copy_build(talk_build.root, tmp_path / "out")
    before = tree(out)
    shutil.rmtree(BuildLayout(out).frame_warp(SequenceKey("s000", "performance"), 1))
    shutil.rmtree(out / "dataset.zarr")
    preload, mark, killed = tmp_path / "preload.py", tmp_path / "at work", list[int]()
    preload.write_text(AT_WORK.format(mark=str(mark)))
    killer = threading.Thread(target=kill_a_worker, args=(mark, killed))
    killer.start()
    with dask.config.set({"distributed.worker.preload": [str(preload)]}):
        result = build(load_manifest(talk_manifest), out, RunnerConfig("dask", workers=1))
    killer.join()
    assert len(killed) == 1
    assert result.warped == 1
    assert result.rendered == 5
    assert tree(out) == before
