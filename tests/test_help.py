"""Help of every command of both programs, as it looks on a terminal of 80 columns."""

from __future__ import annotations

import re
import shlex
import sys

import pytest
import typer
from typer.core import TyperCommand, TyperGroup

from datagen.cli import app as datagen_app
from datagen.common.console import run
from trainer.cli import app as trainer_app

PROGRAMS = {"datagen": datagen_app, "trainer": trainer_app}


def _paths(command: object, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    inner = command.commands.items() if isinstance(command, TyperGroup) else ()
    return [path, *(found for name, one in inner for found in _paths(one, (*path, name)))]


CASES = [(program, path) for program, app in PROGRAMS.items() for path in _paths(typer.main.get_command(app))]
NAMES = [" ".join((program, *path)) for program, path in CASES]


def _help(
    program: str,
    path: tuple[str, ...],
    columns: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "argv", [program, *path, "--help"])
    with pytest.raises(SystemExit) as ended:
        run(PROGRAMS[program])
    out, err = capsys.readouterr()
    assert (ended.value.code, err) == (0, "")
    return out


def _command(program: str, path: tuple[str, ...]) -> TyperCommand | TyperGroup:
    command = typer.main.get_command(PROGRAMS[program])
    for name in path:
        assert isinstance(command, TyperGroup)
        command = command.commands[name]
    assert isinstance(command, TyperCommand | TyperGroup)
    return command


@pytest.mark.parametrize(("program", "path"), CASES, ids=NAMES)
@pytest.mark.parametrize("columns", [80, 200, 40])
def test_help_fits_its_terminal_and_cuts_nothing(
    program: str,
    path: tuple[str, ...],
    columns: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = _help(program, path, columns, monkeypatch, capsys)
    lines = text.splitlines()
    # Below 52 columns the terminal has to break lines itself.
    assert max(map(len, lines)) <= max(columns, 52)
    # Nobody reads lines across a whole wide screen.
    assert max(map(len, lines)) <= 100
    assert not re.search(r"[a-z]\.\.\.$", text, re.MULTILINE)  # a sentence that was cut short
    assert not re.search(r"<(path|int|float|str|list|bool)\b|\blist\[", text)  # types of Python
    words = "".join(text.split())
    command = _command(program, path)
    for parameter in command.params:
        told = "".join(str(getattr(parameter, "help", "") or "").split())
        assert told in words, parameter.name
        assert parameter.param_type_name == "argument" or parameter.opts[0] in words
    if isinstance(command, TyperGroup):
        for name, inner in command.commands.items():
            assert re.search(rf"^  {name} +{re.escape(str(inner.help).split()[0])}", text, re.MULTILINE)
    if columns == 80:
        # Wide enough for words beside the names of options.
        start = min((len(line) - len(line.lstrip()) for line in lines if line.startswith(" " * 8)), default=0)
        assert start <= 30


@pytest.mark.parametrize(("program", "path"), CASES, ids=NAMES)
def test_the_example_can_be_pasted(
    program: str, path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = _command(program, path)
    if isinstance(command, TyperGroup):
        return
    text = _help(program, path, 80, monkeypatch, capsys)
    example = text.partition("Example:\n")[2].partition("\n\n")[0]
    assert all(line.endswith("\\") for line in example.splitlines()[:-1])
    words = shlex.split(example.replace("\\\n", " ").partition(" > ")[0])
    assert words[: 1 + len(path)] == [program, *path]
    # The parser takes it, and every option that must be given is there.
    command.make_context(program, words[1 + len(path) :])
