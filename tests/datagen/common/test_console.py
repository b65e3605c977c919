"""How a command ends: one message, the exit code of docs/flows.md, and no traceback unless one is asked for."""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer

from datagen.common.console import interruption_behind, run, say
from datagen.common.errors import CorruptDatasetError, InputError, ServiceLostError
from tests.support.places import ROOT

ENDINGS: dict[str, tuple[BaseException | None, int]] = {
    "well": (None, 0),
    "damage": (CorruptDatasetError("a"), 1),
    "bad input": (InputError("a"), 2),
    "nesting": (RecursionError("maximum recursion depth exceeded"), 2),
    "a number": (OverflowError("int too large to convert to float"), 2),
    "not UTF-8": (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), 2),
    "NUL": (ValueError("embedded null byte"), 2),
    "a long name": (OSError(errno.ENAMETOOLONG, "File name too long", "x"), 2),
    "a circle of links": (RuntimeError("Symlink loop from '/a'"), 2),
    "no memory": (MemoryError(), 2),
    "no memory for an array": (RuntimeError("not enough memory: you tried to allocate 9 bytes"), 2),
    "a service gone": (ServiceLostError("a"), 75),
    "a fault": (TypeError("NoneType\x1b[2J"), 70),
    "another": (ValueError("a"), 70),
    "Ctrl-C": (KeyboardInterrupt(), 130),
}


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give back what ``run`` takes for as long as its process lives."""
    answers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr("sys.unraisablehook", sys.unraisablehook)
    yield
    for number, answer in answers.items():
        signal.signal(number, answer)


def _raise(error: BaseException | None) -> None:
    if error is not None:
        raise error


@pytest.mark.parametrize("name", ENDINGS)
def test_every_end_has_its_code_and_one_message(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("CANONFACE_DEBUG", raising=False)
    error, code = ENDINGS[name]
    with pytest.raises(SystemExit) as ended:
        run(lambda: _raise(error))
    said = capsys.readouterr().err
    assert ended.value.code == code
    assert said.count("\n") == (1 if code else 0)
    assert "Traceback" not in said
    assert said.replace("\n", "").isprintable()
    # A fault can be reported, so that it is mended.
    kept = [path.read_text() for path in tmp_path.iterdir()]
    assert ["Traceback" in text and type(error).__name__ in text for text in kept] == ([True] if code == 70 else [])


def _in_a_clean_up(stop: BaseException, then: BaseException) -> None:
    try:
        raise stop
    finally:
        raise then


class _Archive(zipfile.ZipFile):
    def __del__(self) -> None:
        """Say nothing: it may go while a later test listens."""


def _in_an_archive(stop: BaseException) -> None:
    # As when a stop meets the moment between the opening and the closing of a member.
    with _Archive(io.BytesIO(), "w") as archive:
        member = archive.open("member", "w")
        member.write(b"a")
        raise stop


def _handed_on(stop: BaseException) -> None:
    try:
        _in_a_clean_up(stop, ValueError("a"))
    except ValueError as error:
        raise InputError("a") from error


def _hidden(stop: BaseException) -> None:
    try:
        raise stop
    except (KeyboardInterrupt, TypeError):
        try:
            raise OSError("a")
        except OSError:
            raise CorruptDatasetError("a") from None


def _in_a_group(stop: BaseException) -> None:
    raise BaseExceptionGroup("a", [ValueError("a"), stop])


STOPPED: dict[str, Callable[[BaseException], None]] = {
    "a fault": lambda stop: _in_a_clean_up(stop, TypeError("a")),
    "a refusal": lambda stop: _in_a_clean_up(stop, InputError("a")),
    "a refusal of the system": lambda stop: _in_a_clean_up(stop, PermissionError(errno.EACCES, "a", "x")),
    "a pipe": lambda stop: _in_a_clean_up(stop, BrokenPipeError()),
    "an exit": lambda stop: _in_a_clean_up(stop, SystemExit(1)),
    "no exception of a program": lambda stop: _in_a_clean_up(stop, GeneratorExit()),
    "an archive": _in_an_archive,
    "handed on": _handed_on,
    "hidden": _hidden,
    "a group": _in_a_group,
}


@pytest.mark.parametrize("name", STOPPED)
@pytest.mark.parametrize("within_typer", [False, True])
def test_a_clean_up_that_fails_while_the_program_is_stopped_is_no_fault(
    name: str, within_typer: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["program"])

    def work() -> None:
        STOPPED[name](KeyboardInterrupt())

    app = typer.Typer()
    app.command()(work)
    with pytest.raises(SystemExit) as ended:
        run(app if within_typer else work)
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted; run the same command again to continue\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "code"), [("a fault", 70), ("a refusal", 2), ("handed on", 2), ("hidden", 1)])
def test_an_error_that_arose_under_another_one_is_what_it_is(
    name: str, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("CANONFACE_DEBUG", raising=False)
    with pytest.raises(SystemExit) as ended:
        run(lambda: STOPPED[name](TypeError("b")))
    assert ended.value.code == code
    assert capsys.readouterr().err.startswith("error: ")


def test_a_circle_of_errors_ends() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__context__, second.__cause__ = second, first
    assert interruption_behind(first) is None
    second.__context__ = stop = KeyboardInterrupt()
    assert interruption_behind(first) is stop


def test_every_code_is_on_the_page() -> None:
    page = (ROOT / "docs/flows.md").read_text().partition("## Exit codes")[2].partition("\n## ")[0]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", page, flags=re.MULTILINE)} == {
        code for _, code in ENDINGS.values()
    }


def test_a_traceback_is_shown_to_those_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANONFACE_DEBUG", "1")
    with pytest.raises(TypeError):
        run(lambda: _raise(TypeError("a")))


def test_a_terminal_is_sent_nothing_that_it_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    say("name\x1b]0;title\x07\rname\u202e\nline")
    assert capsys.readouterr().out == "name\\x1b]0;title\\x07\\rname\\u202e\nline\n"


def _start(program: str, *arguments: str, **options: object) -> subprocess.Popen[str]:
    call = [sys.executable, "-c", f"from datagen.common.start import {program}; {program}()", *arguments]
    return subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload,no-any-return]


def test_a_reader_who_leaves_is_no_error() -> None:
    process = _start("datagen", "schema")
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""


def test_names_that_are_no_text_do_not_end_a_command() -> None:
    process = _start("datagen", "plan", os.fsdecode(b"/gone/\xff"), env={**os.environ, "PYTHONIOENCODING": "ascii"})
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "\\udcff does not exist" in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("program", ["datagen", "trainer"])
@pytest.mark.parametrize("module", ["enum", "typer", "pydantic"])
def test_a_signal_while_importing_is_an_interruption(
    program: str, number: signal.Signals, module: str, tmp_path: Path
) -> None:
    # Stands still in the middle of importing, as on a slow disk.
    hook = f"""
import sys, time, pathlib
class Slow:
    def find_spec(self, name, *_):
        if name == {module!r}:
            pathlib.Path({str(tmp_path / "there")!r}).touch()
            try:
                time.sleep(60)
            except BaseException:  # as many a package does around what it can do without
                time.sleep(60)
sys.meta_path.insert(0, Slow())
sys.modules.pop({module!r}, None)
"""
    call = [sys.executable, "-c", f"from datagen.common.start import {program}\n{hook}\n{program}()", "--help"]
    process = subprocess.Popen(call, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "there").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == "interrupted; run the same command again to continue\n"


def test_nothing_is_printed_but_through_say() -> None:
    printing = re.compile(r"(?<![\w.])print\(")
    allowed = {"datagen/common/console.py", "datagen/common/progress.py"}
    sources = [path for name in ("datagen", "trainer") for path in (ROOT / name).rglob("*.py")]
    found = {path.relative_to(ROOT).as_posix() for path in sources if printing.search(path.read_text())}
    assert found == allowed


# What stands in ``__del__``, and what comes after it.
DESTRUCTORS = {
    "alone": ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.2)", "time.sleep(5)"),
    "and its clean-up fails": (
        "try:\n            os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.2)\n"
        "        finally:\n            raise ValueError('a')",
        "time.sleep(5)",
    ),
}


@pytest.mark.parametrize("name", DESTRUCTORS)
def test_an_interruption_that_meets_a_destructor_is_not_lost(name: str) -> None:
    within, after = DESTRUCTORS[name]
    ended = _run_app(within, after)
    assert (ended.returncode, ended.stdout) == (130, "")
    assert "Traceback" not in ended.stderr


def test_a_destructor_that_fails_while_the_program_is_stopped_says_nothing() -> None:
    # The object outlives the goodbye, for the traceback holds its frame.
    ended = _run_app("raise ValueError('a')", "os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)", keep=True)
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr == "interrupted; run the same command again to continue\n"


def test_a_destructor_that_fails_in_a_clean_up_does_not_stop_the_program_twice() -> None:
    after = (
        "\n    try:\n        os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)\n"
        "    finally:\n        Late(); time.sleep(0.3); os.write(1, b'tidied')"
    )
    ended = _run_app("raise ValueError('a')", after, keep=True)
    assert (ended.returncode, ended.stdout) == (130, "tidied")
    assert ended.stderr == "interrupted; run the same command again to continue\n"


def _run_app(within: str, after: str, *, keep: bool = False) -> subprocess.CompletedProcess[str]:
    program = (
        "import os, signal, time\n"
        "from datagen.common.console import run\n"
        "class Late:\n"
        "    def __del__(self):\n"
        f"        {within}\n"
        "def app():\n"
        "    late = Late()\n"
        f"    {'' if keep else 'del late'}\n"
        f"    {after}\n"
        "    print('went on')\n"
        "run(app)\n"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
