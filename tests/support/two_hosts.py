"""Two hosts on one machine: network namespaces with a cable between them, a Dask scheduler on one, workers on both.

Run inside ``unshare --user --map-root-user --net --mount`` (:data:`UNSHARED`) as ``python -m tests.support.two_hosts
WHAT FOLDER``; prints what happened as JSON. Units only write a file each, so that what dies, and when, is all that
matters; workers are looked at as those of any build.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from tests.support.places import ROOT

UNSHARED = ("unshare", "--user", "--map-root-user", "--net", "--mount", "--kill-child")
HERE, THERE = "10.77.0.1", "10.77.0.2"
SCHEDULER = f"tcp://{HERE}:8786"
UNITS = 40
UNIT_S = 0.1


@dataclass(frozen=True)
class Written:
    """A unit: a file to be written."""

    path: str

    @property
    def name(self) -> str:
        return Path(self.path).name


def write(unit: Written) -> int:
    time.sleep(UNIT_S)
    Path(unit.path).write_text(f"{os.getpid()}\n")
    return 1


def without_head() -> None:
    """Spare this process the head model, seconds each: one whose template is another is met by test_drive.py."""
    from datagen.flows.runners import preflight

    vars(preflight)["shared_head"] = lambda *_: SimpleNamespace(template=SimpleNamespace(digest="of nobody"))


def dask_setup(worker: object) -> None:
    """Do so in a worker, which has preloaded this file."""
    without_head()


def drive_units(root: Path, units: int) -> None:
    """Have files written by the workers of the scheduler; what a driver on the first host does."""
    from datagen.common.errors import CanonfaceError
    from datagen.flows.runners.contract import Job, RunnerConfig
    from datagen.flows.runners.dask import DaskCarrier
    from datagen.flows.runners.drive import drive
    from datagen.flows.runners.preflight import Expected, mark_run
    from datagen.layout import BuildLayout
    from datagen.manifest import Needs, parse_manifest

    manifest = parse_manifest({"name": "x", "source": {"kind": "simulated", "subjects": 3, "frames": 1}})
    without_head()
    run = f"run-{os.getpid()}"
    mark_run(BuildLayout(root), run)
    expected = Expected.of(BuildLayout(root), manifest, run)
    done: list[str] = []
    lost_units: list[str] = []
    jobs = (Job("write", write, Written(str(root / f"{i:03d}")), Needs()) for i in range(units))
    try:
        with DaskCarrier(RunnerConfig("dask", dask_address=SCHEDULER), expected) as carrier:
            drive(
                jobs,
                carrier,
                lambda job, _: done.append(job.name),
                lambda lost: done.append(f"-{lost.job.name}"),
                print,
            )
    except CanonfaceError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    finally:
        print("lost", *sorted(lost_units))
        print("done", *sorted(done), flush=True)


class Hosts:
    """Both hosts, and what runs on them."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "build"
        self.root.mkdir()
        self._stack = ExitStack()
        for command in (
            "mount -t tmpfs none /run",
            "ip link set lo up",
            "ip netns add there",
            "ip link add cable type veth peer name end netns there",
            f"ip addr add {HERE}/24 dev cable",
            "ip link set cable up",
            f"ip -n there addr add {THERE}/24 dev end",
            "ip -n there link set end up",
            "ip -n there link set lo up",
        ):
            subprocess.run(command.split(), check=True)
        self.scheduler = self.start(["-m", "dask", "scheduler", "--host", HERE, "--no-dashboard", "--no-show"])

    def start(
        self, arguments: Sequence[str], *, there: bool = False, code: Path = ROOT, hidden: Path | None = None
    ) -> subprocess.Popen[str]:
        """Start Python on a host; ``hidden`` is a folder that it does not see."""
        command = [sys.executable, *arguments]
        if hidden is not None:
            command = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none "{hidden}" && exec "$@"', "sh", *command]
        if there:
            command = ["ip", "netns", "exec", "there", *command]
        quiet = {**os.environ, "PYTHONPATH": str(code), "DASK_LOGGING__DISTRIBUTED": "critical"}
        process = subprocess.Popen(
            command,
            cwd=code,
            env=quiet,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._stack.callback(kill, process)
        return process

    def worker(self, *, there: bool, code: Path = ROOT, hidden: Path | None = None) -> subprocess.Popen[str]:
        """Start a worker of one thread."""
        arguments = ["-m", "dask", "worker", SCHEDULER, "--nthreads", "1", "--no-dashboard"]
        arguments += ["--preload", "tests.support.two_hosts", "--host"]
        return self.start([*arguments, THERE if there else HERE], there=there, code=code, hidden=hidden)

    def driver(self, units: int = UNITS) -> subprocess.Popen[str]:
        """Start a driver on the first host."""
        return self.start(["-m", "tests.support.two_hosts", "drive", str(self.root), str(units)])

    def written(self) -> int:
        """How many files there are."""
        return len(list(self.root.glob("[0-9][0-9][0-9]")))

    def wait_for(self, files: int) -> None:
        """Wait until so many units are done."""
        deadline = time.monotonic() + 120
        while self.written() < files and time.monotonic() < deadline:
            time.sleep(0.02)

    def close(self) -> None:
        """End everything."""
        self._stack.close()


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a process with all that it started, as a host that loses power."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def another_version(folder: Path) -> Path:
    """Copy the program, with a change."""
    code = folder / "another"
    for name in ("datagen", "tests/support"):
        shutil.copytree(ROOT / name, code / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("tests/__init__.py",):
        (code / name).write_text((ROOT / name).read_text())
    with open(code / "datagen" / "flows" / "gate.py", "a") as file:
        file.write("\n# changed\n")
    return code


def workers_that_do_not_fit_and_one_that_dies(hosts: Hosts, folder: Path) -> dict[str, object]:
    hosts.worker(there=True, hidden=hosts.root)
    hosts.worker(there=True, code=another_version(folder))
    dies = hosts.worker(there=True)
    driver = hosts.driver()
    hosts.wait_for(5)
    hosts.worker(there=False)
    kill(dies)
    output, errors = driver.communicate(timeout=180)
    return {"code": driver.returncode, "done": output.splitlines()[-1].split()[1:], "said": output, "errors": errors}


def the_scheduler_dies(hosts: Hosts, folder: Path) -> dict[str, object]:
    del folder
    hosts.worker(there=True)
    driver = hosts.driver()
    hosts.wait_for(5)
    kill(hosts.scheduler)
    _, errors = driver.communicate(timeout=180)
    return {"code": driver.returncode, "errors": errors}


def the_driver_dies(hosts: Hosts, folder: Path) -> dict[str, object]:
    del folder
    hosts.worker(there=True)
    driver = hosts.driver()
    hosts.wait_for(5)
    kill(driver)
    time.sleep(1.5)
    after = hosts.written()
    time.sleep(1.0)
    later = hosts.written()
    again = hosts.driver()
    output, errors = again.communicate(timeout=180)
    return {
        "after": after,
        "later": later,
        "code": again.returncode,
        "done": output.splitlines()[-1].split()[1:],
        "errors": errors,
    }


WHAT = {
    each.__name__: each for each in (workers_that_do_not_fit_and_one_that_dies, the_scheduler_dies, the_driver_dies)
}


def main() -> None:
    what, folder = sys.argv[1], Path(sys.argv[2])
    if what == "drive":
        drive_units(folder, int(sys.argv[3]))
        return
    hosts = Hosts(folder)
    try:
        print(json.dumps(WHAT[what](hosts, folder)))
    finally:
        hosts.close()


if __name__ == "__main__":
    main()
