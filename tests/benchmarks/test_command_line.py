"""``python -m benchmarks``: light to start, every example and every line of the short run is one it takes."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from benchmarks import short
from benchmarks.__main__ import app
from datagen.cli import app as datagen_app

ROOT = Path(__file__).parents[2]
NAMES = (
    "warp",
    "faces",
    "fit",
    "render",
    "read",
    "surfaces",
    "write",
    "train",
    "bridge",
    "marks",
    "typical",
    "population",
    "ablation",
    "calibrate",
    "detector",
    "align",
    "attributes",
    "proof",
    "adapt",
    "track",
    "submit",
    "gpu",
    "report",
    "orchestrate",
)
# What only measuring needs, and extras.
HEAVY = ("torch", "scipy", "numba", "open3d", "prefect", "dask", "trimesh", "litdata", "webdataset", "tensorstore")


def taken(app: typer.Typer, arguments: list[str]) -> None:
    """Parse a command without running it; typer raises for what it does not take."""
    command = typer.main.get_command(app).commands[arguments[0]]  # type: ignore[attr-defined]
    command.make_context(arguments[0], arguments[1:])


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_an_example_that_it_takes(name: str) -> None:
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    (example,) = re.findall(r"Example: python -m benchmarks (.*)", command.help)
    arguments = shlex.split(example)
    assert arguments[0] == name
    taken(app, arguments)
    with pytest.raises(Exception, match="No such option"):
        taken(app, [*arguments, "--unheard-of"])


def test_the_list_of_commands_is_there_at_once_from_a_bare_checkout() -> None:
    code = "import sys, benchmarks.__main__; print('\\n'.join(sys.modules))"
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=bare, capture_output=True, text=True, check=True)
    loaded = {line.partition(".")[0] for line in run.stdout.split()}
    assert "typer" in loaded
    assert not loaded & set(HEAVY)
    assert typer.main.get_command(app).commands.keys() == set(NAMES)  # type: ignore[attr-defined]


def test_the_short_run_has_all_benchmarks_and_only_peers_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for there in (True, False):
        monkeypatch.setattr(short, "installed", lambda _peer, there=there: there)
        lines = [short.arguments_of(line, tmp_path) for line in short.COMMANDS]
        # What is learnt from faces needs real ones, which are no part of the project, and the detector an environment
        # of its own; what is submitted are others' meshes, and there is no GPU.
        assert {line[0] for line in lines} == set(NAMES) - {
            "marks",
            "typical",
            "population",
            "detector",
            "submit",
            "gpu",
        }
        for line in lines:
            taken(app, line)
        text = " ".join(part for line in lines for part in line)
        assert ("webdataset,litdata" in text) == there
        assert ("depth-anything-3" in text) == there
    taken(datagen_app, short.arguments_of(short.BUILD, tmp_path))


def test_the_short_run_says_what_is_left_out_and_which_benchmark_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[list[str]] = []

    def call(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        called.append(command)
        return subprocess.CompletedProcess(command, int("render" in command))

    monkeypatch.setattr(short, "installed", lambda peer: peer != "litdata")
    monkeypatch.setattr(subprocess, "run", call)
    with pytest.raises(short.ShortRunError, match="failed: render"):
        short.short_run()
    assert capsys.readouterr().out.startswith("not installed, so left out: litdata;")
    assert [line[3] for line in called if line[2] == "benchmarks"] == [line.split()[0] for line in short.COMMANDS]
    assert [line[3] for line in called if line[2] == "datagen.cli"] == ["build"]
