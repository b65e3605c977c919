"""Every command of both programs, with a hostile path in the place of each: a message and an exit code of the page."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest
import typer
from typer.core import TyperCommand, TyperGroup

from datagen.cli import app as datagen_app
from datagen.common.console import run
from tests.datagen.sources.test_folder import write_sequence
from tests.support import shard_samples
from trainer.cli import app as trainer_app

PROGRAMS = {"datagen": datagen_app, "trainer": trainer_app}
# 0 too: some take any name for a new folder, and nothing is a fine thing to list.
CODES = {0, 1, 2}
SECONDS = 60
RECIPE = """name: x
source: {kind: simulated, subjects: 3, frames: 1, cameras: 1, image_size: 32, scan_vertices: 500}
render: {resolution: 14}
"""
# Values that a command needs before it comes to its paths, or that spare it work: a large model is made first.
VALUES = {"where": "camera=*", "config": "tiny", "layout": "colmap"}
ALWAYS = ("manifest", "config")
# What a path stands for in each command, by the name of its parameter; every other gets a folder that is not there.
GOOD = {"manifest": "recipe.yaml", "captures": "captures", "dataset": "data", "datasets": "data"}
OUTPUTS = {"out", "page", "url", "report", "freeze", "marks", "export"}
# The demo hands its configuration to the trainer, once there is a dataset.
LATE = {("demo", "config")}
GOOD["cameras"] = "captures/anna/speech"


class _Hung(BaseException):
    pass


def _commands() -> Iterator[tuple[str, list[str], TyperCommand]]:
    def inside(program: str, path: list[str], command: object) -> Iterator[tuple[str, list[str], TyperCommand]]:
        if isinstance(command, TyperGroup):
            for name, inner in command.commands.items():
                yield from inside(program, [*path, name], inner)
        elif isinstance(command, TyperCommand):
            yield program, path, command

    for program, app in PROGRAMS.items():
        yield from inside(program, [], typer.main.get_command(app))


def _is_path(parameter: object) -> bool:
    kind = str(getattr(parameter, "type_descriptor", ""))
    name = str(getattr(parameter, "name", ""))
    return "Path" in kind or name in {"dataset", "datasets", "source", "url", "config"}


CASES = [
    pytest.param(program, path, command, parameter.name, id=f"{program} {' '.join(path)} {parameter.name}")
    for program, path, command in _commands()
    for parameter in command.params
    if _is_path(parameter) and (path[0], parameter.name) not in LATE
]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with good things, and with bad ones."""
    room = tmp_path_factory.mktemp("room")
    write_sequence(room / "captures")
    (room / "recipe.yaml").write_text(RECIPE)
    shard_samples.build(room / "data")
    (room / "folder").mkdir()
    (room / "folder/file").write_text("mine")
    (room / "empty").touch()
    (room / "noise").write_bytes(bytes(range(256)) * 9)
    (room / "self").symlink_to("self")
    os.mkfifo(room / "pipe")
    return room


def hostile(room: Path, output: bool) -> list[str]:
    """Return paths that no command can do anything with."""
    names = ["empty", "noise", "self", "pipe", "empty/below", "self/below", "a\0b", "x" * 5000, "x/" * 3000]
    # Good names of something new.
    names += [] if output else ["folder", "gone", "\udcff", "\x1b[2Jx"]
    return [*(f"{room}/{name}" for name in names), "/dev/null", *([] if output else [""])]


@contextmanager
def _not_for_ever() -> Iterator[None]:
    def ring(_number: int, _frame: FrameType | None) -> None:
        raise _Hung

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(("program", "path", "command", "name"), CASES)
def test_a_hostile_path_is_one_message(
    program: str,
    path: list[str],
    command: TyperCommand,
    name: str,
    room: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(room / "folder")
    for value in hostile(room, name in OUTPUTS):
        words = [*path]
        for parameter in command.params:
            key = str(parameter.name)
            if not parameter.required and key not in {name, *ALWAYS}:
                continue
            other = room / GOOD.get(key, "made" if key in OUTPUTS else "gone")
            given = value if key == name else VALUES.get(key) or str(other)
            for _ in range(2 if key == "datasets" else 1):
                words += [given] if parameter.param_type_name == "argument" else [parameter.opts[0], given]
        monkeypatch.setattr(sys, "argv", [program, *words])
        with pytest.raises(SystemExit) as ended, _not_for_ever():
            run(PROGRAMS[program])
        assert not (room / "gone").exists()
        shutil.rmtree(room / "made", ignore_errors=True)
        out, err = capfd.readouterr()
        said = f"{words}\n{out}{err}"
        assert ended.value.code in CODES, said
        assert "Traceback" not in err, said
        assert err.replace("\n", "").isprintable(), said
        assert (room / "folder/file").read_text() == "mine", said
