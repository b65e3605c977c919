"""The runners: Prefect with its own server, Dask, and how errors travel through them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from datagen.common.errors import DependencyError, StorageError
from datagen.flows.build import BuildResult, build
from datagen.flows.runners.local_api import LocalApi
from datagen.flows.runners.prefect import prefect_session, run_as_flow
from datagen.flows.runners.serial import RunnerConfig, SerialRunner, StageRunner
from datagen.layout import BuildLayout
from datagen.manifest import load_manifest
from datagen.sources.frame import SequenceKey
from tests.support.build_trees import command, copy_build, tree

SERVER_SECONDS = 40


def work(number: int) -> int:
    if number == 7:
        raise StorageError("the disk is full", "room", "Free some space")
    if number == 8:
        raise ZeroDivisionError("a mistake of the program")
    return number * number


def ignore(_task: int, _result: int) -> None:
    pass


def test_the_serial_runner_keeps_order_and_reports_each_task() -> None:
    seen: list[tuple[int, int]] = []
    assert SerialRunner().run("square", work, [3, 1, 2], lambda t, r: seen.append((t, r))) == [9, 1, 4]
    assert seen == [(3, 9), (1, 1), (2, 4)]


def test_threads_through_prefect_keep_order_and_pass_errors_on_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    config = RunnerConfig("threads", workers=2)

    def squares(runner: StageRunner) -> list[int]:
        return runner.run("square", work, list(range(6)), ignore)

    def full_disk(runner: StageRunner) -> list[int]:
        return runner.run("square", work, [1, 7, 2], ignore)

    def mistake(runner: StageRunner) -> list[int]:
        return runner.run("square", work, [8], ignore)

    with prefect_session(tmp_path / "home", lambda: None):
        assert run_as_flow("squares", config, squares) == [0, 1, 4, 9, 16, 25]
        with pytest.raises(StorageError, match=r"the disk is full\. Expected room"):
            run_as_flow("full", config, full_disk)
        with pytest.raises(ZeroDivisionError) as caught:
            run_as_flow("mistake", config, mistake)
    assert any("in work" in note for note in caught.value.__notes__)
    assert "Traceback" not in capfd.readouterr().err
    assert "PREFECT_HOME" not in os.environ


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


def test_dask_without_a_server_is_refused_before_anything_is_written(tiny_manifest: Path, tmp_path: Path) -> None:
    environment = "import os; os.environ.pop('PREFECT_API_URL', None)"
    process = command("build", tiny_manifest, "--out", tmp_path / "out", "--runner", "dask", before=environment)
    _, errors = process.communicate()
    assert process.returncode == 2
    assert "PREFECT_API_URL" in errors
    assert "prefect server start" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "out").exists()


_HURRY = "from datagen.flows.runners import prefect; prefect.EVENTS_SECONDS = 0.1"


def test_a_prefect_server_that_does_not_answer_is_named(
    tiny_manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    process = command("build", tiny_manifest, "--out", tmp_path / "out", before=_HURRY)
    _, errors = process.communicate()
    assert process.returncode == 2, errors
    assert "the Prefect server failed" in errors
    assert "PREFECT_API_URL is http://127.0.0.1:9/api" in errors
    assert "Traceback" not in errors


def test_a_dask_scheduler_that_does_not_answer_is_named(
    tiny_manifest: Path, prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("PREFECT_API_URL", prefect_server),
        ("PREFECT_HOME", str(tmp_path / "prefect")),
        ("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "1s"),
    ):
        monkeypatch.setenv(name, value)
    build_there = ("build", tiny_manifest, "--out", tmp_path / "out", "--dask-address", "tcp://127.0.0.1:9")
    process = command(*build_there, before=_HURRY)
    _, errors = process.communicate()
    assert process.returncode == 2, errors
    assert "Dask at tcp://127.0.0.1:9 failed" in errors
    assert "Traceback" not in errors


@pytest.fixture(scope="module")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server as a user starts it; skips where it does not answer in time."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "DO_NOT_TRACK": "1",
        "PREFECT_HOME": str(tmp_path_factory.mktemp("prefect")),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    arguments = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(arguments, env=environment, **quiet)  # type: ignore[call-overload]
    url = f"http://127.0.0.1:{port}/api"
    try:
        deadline = time.monotonic() + SERVER_SECONDS
        while not _answers(url):
            if time.monotonic() > deadline or process.poll() is not None:
                pytest.skip(f"no Prefect server in {SERVER_SECONDS} s on this machine")
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def kill_a_worker(when: Path, killed: list[int]) -> None:
    """Wait for a file, then kill the Dask worker that is at the next task."""
    deadline = time.monotonic() + 120
    while not when.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    for process in psutil.Process().children(recursive=True):
        if any("spawn_main" in part for part in process.cmdline()):
            process.kill()
            killed.append(process.pid)
            return


def test_dask_workers_make_the_same_bytes_even_if_one_is_killed_at_work(
    talk_build: BuildResult, talk_manifest: Path, prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    out = copy_build(talk_build.root, tmp_path / "out")
    before = tree(out)
    layout, key = BuildLayout(out), SequenceKey("s000", "performance")
    (layout.person(key) / "person.npz").unlink()
    shutil.rmtree(layout.frame_warp(key, 1))
    shutil.rmtree(out / "dataset.zarr")
    killed: list[int] = []
    # The person is learnt first: what the worker then works at is the frame.
    killer = threading.Thread(target=kill_a_worker, args=(layout.person(key) / "person.npz", killed))
    killer.start()
    result = build(load_manifest(talk_manifest), out, RunnerConfig("dask", workers=1))
    killer.join()
    assert len(killed) == 1
    # The task may have written its last byte when it was killed: then there is nothing left to compute.
    assert result.warped in (0, 1)
    assert result.rendered == 5
    assert tree(out) == before
