"""Builds on SLURM: what is submitted, and what becomes of a job that ends badly."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main

from datagen import cli
from datagen.flows.parts import freeze_build
from datagen.flows.slurm import Job, SlurmOptions, script_of, slurm_jobs, submit_to_slurm
from datagen.layout import BuildLayout
from datagen.manifest import load_manifest
from tests.support.command_line import call


@pytest.fixture
def frozen(tiny_manifest: Path, tmp_path: Path) -> Path:
    """A build of which nothing is there but its plan."""
    freeze_build(load_manifest(tiny_manifest), tmp_path / "out")
    return tmp_path / "out"


def program(path: Path, text: str) -> Path:
    """Write a program of the shell."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


SBATCH = """#!/bin/sh
# A stand-in: writes down how it was called, and gives the next number.
echo "$@" >> {log}
wc -l < {log}
"""


def test_slurm_gets_array_jobs_that_wait_for_each_other(
    frozen: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Wherever this runs: nothing is to be submitted for real.
    monkeypatch.setenv("PATH", str(tmp_path))
    assert call("submit", "slurm", frozen) == 2
    assert "no sbatch on PATH" in capsys.readouterr().err
    log = tmp_path / "log"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text(SBATCH.format(log=log))
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    options = ("--partition", "cpu", "--array-size", "3", "--throttle", "2", "--time", "01:00:00", "--gpus", "1")
    assert call("submit", "slurm", frozen, *options, "--sbatch=--nice=7", "--json") == 0
    numbers = json.loads(capsys.readouterr().out)
    names = ["simulate", "warp", "freeze", "render", "finish"]
    assert numbers == {name: str(number) for number, name in enumerate(names, 1)}
    folder = frozen / "plan" / "slurm"
    assert log.read_text().splitlines() == [
        f"--parsable {f'--dependency=afterok:{number - 1} --kill-on-invalid-dep=yes ' if number > 1 else ''}"
        f"{folder / name}.sh"
        for number, name in enumerate(names, 1)
    ]
    scripts = {name: (folder / f"{name}.sh").read_text() for name in names}
    directives = {name: set(re.findall(r"^#SBATCH (.*)$", text, re.M)) for name, text in scripts.items()}
    assert all(
        {"--requeue", "--partition=cpu", "--time=01:00:00", "--nice=7"} <= found for found in directives.values()
    )
    assert [name for name in names if "--gpus=1" in directives[name]] == ["render"]
    assert "--array=1-2%2" in directives["warp"]
    assert "--array=1-3%2" in directives["render"]
    assert not any(found.startswith("--array") for found in directives["finish"])
    for name in names:
        subprocess.run(["bash", "-n", folder / f"{name}.sh"], check=True)
    # What they run are commands that there are, as the tests of parts call them.
    recipe, out = str(frozen / "manifest.json"), str(frozen)
    for name in names:
        (line,) = re.findall(r"^(.* -m datagen\.cli .*) &$", scripts[name], re.M)
        line = line.replace("${SLURM_ARRAY_TASK_ID}", "2")
        python, module, program, *words = shlex.split(line)
        assert (python, module, program) == (sys.executable, "-m", "datagen.cli")
        command = typer.main.get_command(cli.app).commands[words[0]]  # type: ignore[attr-defined]
        given = command.make_context(words[0], words[1:]).params
        if name == "finish":
            assert (str(given["out"]), given["workers"]) == (out, 1)
        elif name == "freeze":
            assert (str(given["manifest"]), str(given["freeze"])) == (recipe, out)
        else:
            of = {"simulate": 2, "warp": 2, "render": 3}[name]
            assert (str(given["manifest"]), str(given["out"])) == (recipe, out)
            assert (given["stage"], given["part"], given["workers"]) == (name, f"2/{of}", 1)


def test_a_refusal_of_sbatch_is_told(
    frozen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho 'invalid partition specified: gold' >&2\nexit 1\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert call("submit", "slurm", frozen, "--partition", "gold") == 75
    assert "invalid partition specified: gold" in capsys.readouterr().err


def test_a_stage_is_cut_into_no_more_parts_than_it_has_units(frozen: Path) -> None:
    jobs = slurm_jobs(BuildLayout(frozen), SlurmOptions(array_size=50))
    assert {job.name: job.parts for job in jobs} == {"simulate": 2, "warp": 2, "freeze": 0, "render": 4, "finish": 0}


Ending = Callable[..., tuple[int, str]]


@pytest.fixture
def ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ending:
    """Run a job whose program is of the shell; return its exit code and what it asked SLURM for."""
    asked = tmp_path / "asked"
    program(tmp_path / "bin" / "scontrol", f'echo "$@" >> {asked}')

    def end(text: str, restarts: int = 0, send: signal.Signals | None = None) -> tuple[int, str]:
        asked.unlink(missing_ok=True)
        began = tmp_path / "began"
        began.unlink(missing_ok=True)
        path = program(tmp_path / "python", f'echo "$@" > {began}\n{text}')
        monkeypatch.setattr(sys, "executable", str(path))
        script = tmp_path / "job.sh"
        script.write_text(
            script_of(Job("warp", 4, ("build", "--part", "{part}/4")), BuildLayout(tmp_path), SlurmOptions(), "x")
        )
        variables = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restarts)}
        path_of = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}
        with subprocess.Popen(["bash", script], env=variables | path_of, stderr=subprocess.DEVNULL) as job:
            if send is not None:
                end_s = time.monotonic() + 30
                while not began.exists() or not began.read_text():
                    assert time.monotonic() < end_s
                    time.sleep(0.01)
                job.send_signal(send)
            code = job.wait(30)
        assert began.read_text() == "-m datagen.cli build --part 3/4\n"
        return code, asked.read_text().strip() if asked.exists() else ""

    return end


def test_what_may_go_better_another_time_runs_again(ending: Ending) -> None:
    again = "requeue 7"
    assert ending("exit 0") == (0, "")
    assert ending("exit 75") == (75, again)  # a service was lost
    assert ending("kill -KILL $$") == (137, again)  # as the kernel does where memory is short
    assert ending("kill -SEGV $$") == (139, again)
    assert ending("kill -KILL $$", restarts=4) == (137, again)
    assert ending("kill -KILL $$", restarts=5) == (137, "")
    for code in (1, 2, 70, 130):  # it would be the same, or somebody ended it
        assert ending(f"exit {code}") == (code, "")
    assert ending("kill -TERM $$") == (143, "")


def test_a_job_whose_time_is_nearly_over_is_ended_and_runs_again(ending: Ending) -> None:
    waits = "trap 'exit 130' TERM\nwhile :; do sleep 0.05; done"
    assert ending(waits, send=signal.SIGUSR1) == (130, "requeue 7")
    assert ending("trap 'exit 0' TERM\nwhile :; do sleep 0.05; done", send=signal.SIGUSR1) == (0, "")


def _answers() -> bool:
    """Whether there is a SLURM with a node that is ready."""
    if not all(map(shutil.which, ("sbatch", "sinfo", "scontrol"))):
        return False
    told = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True, check=False, timeout=30)
    return told.returncode == 0 and bool({"idle", "mixed"} & set(told.stdout.split()))


@pytest.mark.skipif(not _answers(), reason="needs a SLURM with an idle node: sbatch, sinfo and scontrol answer")
def test_a_real_slurm_runs_parts_in_their_order_and_ends_what_waits_for_a_failure(
    frozen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    monkeypatch.setattr(
        sys, "executable", str(program(tmp_path / "python", f'echo "$@" >> {log}\ncase "$@" in *warp*) exit 2; esac'))
    )
    numbers = submit_to_slurm(BuildLayout(frozen), SlurmOptions(array_size=2, memory="100M"), lambda _: None)
    try:
        states: dict[str, set[str]] = {}
        end_s = time.monotonic() + 120
        while any(states.get(name) != {"CANCELLED"} for name in ("freeze", "render", "finish")):
            assert time.monotonic() < end_s, states
            time.sleep(1)
            for name, number in numbers.items():
                told = subprocess.run(["scontrol", "show", "job", number], capture_output=True, text=True, check=True)
                states[name] = set(re.findall(r"JobState=(\w+)", told.stdout))
    finally:
        subprocess.run(["scancel", *numbers.values()], check=False)
    assert states == {
        "simulate": {"COMPLETED"},
        "warp": {"FAILED"},
        "freeze": {"CANCELLED"},
        "render": {"CANCELLED"},
        "finish": {"CANCELLED"},
    }
    ran = log.read_text().splitlines()
    assert [line.partition("--stage ")[2] for line in sorted(ran)] == [
        f"{stage} --part {part}/2 --workers 1" for stage in ("simulate", "warp") for part in (1, 2)
    ]
    assert ["simulate" in line for line in ran] == [True, True, False, False]
    assert sorted(path.name for path in (frozen / "plan" / "slurm").glob("*.log"))
