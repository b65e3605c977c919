"""What happens on two hosts when something dies: workers, their host, the scheduler, the driver."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.places import ROOT
from tests.support.two_hosts import UNITS, UNSHARED, the_driver_dies, the_scheduler_dies
from tests.support.two_hosts import workers_that_do_not_fit_and_one_that_dies as workers_die

ALL = [f"{i:03d}" for i in range(UNITS)]


def _allowed() -> bool:
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    made = subprocess.run([*UNSHARED, "ip", "netns", "list"], capture_output=True, check=False)
    return made.returncode == 0


pytestmark = pytest.mark.skipif(not _allowed(), reason="this machine allows no network namespaces")


def on_two_hosts(what: Any, folder: Path) -> dict[str, Any]:
    command = [*UNSHARED, sys.executable, "-m", "tests.support.two_hosts", what.__name__, str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def test_workers_that_do_not_fit_are_left_out_and_a_host_that_dies_loses_nothing(tmp_path: Path) -> None:
    found = on_two_hosts(workers_die, tmp_path)
    assert found["code"] == 0, found["errors"]
    assert found["done"] == ALL
    assert "does not see the build folder" in found["errors"]
    assert "it runs canonface of files" in found["errors"]
    assert found["errors"].count("is left out of the write") == 2


def test_a_scheduler_that_dies_is_a_service_that_was_lost(tmp_path: Path) -> None:
    found = on_two_hosts(the_scheduler_dies, tmp_path)
    assert found["code"] == 75, found["errors"]
    assert "the Dask scheduler at tcp://10.77.0.1:8786 is gone" in found["errors"]
    assert "Traceback" not in found["errors"]


def test_nothing_begins_any_more_once_the_driver_died_and_the_next_run_ends(tmp_path: Path) -> None:
    found = on_two_hosts(the_driver_dies, tmp_path)
    assert found["after"] == found["later"] < UNITS
    assert found["code"] == 0, found["errors"]
    assert found["done"] == ALL
