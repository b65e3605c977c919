"""What all our command lines share: errors become one message and an exit code, data becomes JSON."""

from __future__ import annotations

import errno
import json
import logging
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from datagen.common.errors import CanonfaceError, InputError, StorageError, printable
from datagen.common.files import json_ready
from datagen.common.start import GOODBYE, INTERRUPTED, answer_signals

if TYPE_CHECKING:
    import typer

FAULT = 70
DEBUG = "CANONFACE_DEBUG"
_MOMENT_S = 0.02
# What Python says, with or without a class of its own, where something given to it cannot be.
_REFUSALS: tuple[tuple[type[Exception], str, str, str, str], ...] = (
    (RecursionError, "", "something that was given is nested too deeply", "a few levels", "Check the files named"),
    (OverflowError, "", "a number is too large ({})", "a number that fits its purpose", "Lower it"),
    (UnicodeError, "", "a text cannot be read or written ({})", "UTF-8", "Check the names and files given"),
    (ValueError, "embedded null", "a path holds a NUL character", "a file or folder", "Check the paths given"),
    (RuntimeError, "Symlink loop", "{}", "a link that leads somewhere", "Check the path"),
)


def run(app: Callable[[], Any]) -> NoReturn:
    """Run a command line to its end: whatever happens becomes one clean message and an exit code of docs/flows.md."""
    try:
        # Ending politely runs the clean-up that a killed process skips.
        answer_signals(_interrupt)
        sys.unraisablehook = _interrupt_again
        # A shell may have closed one (``2>&-``); what is said there must not land on the other.
        sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - for as long as the program runs
        sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
        for stream in (sys.stdout, sys.stderr):
            # A name that is not UTF-8, or a terminal that is not, must not end a command.
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        app()
        sys.stdout.flush()
    except BaseException as error:
        # typer turns an interruption inside a command into a SystemExit, without a word.
        code = error.code if isinstance(error, SystemExit) else None
        if code == INTERRUPTED or interruption_behind(error) is not None:
            _interrupted()
        if isinstance(error.__context__ if isinstance(error, SystemExit) else error, BrokenPipeError):
            _nobody_reads()
        if isinstance(error, SystemExit):
            with suppress(BrokenPipeError):
                sys.stdout.flush()
                raise
            _nobody_reads()
        if not isinstance(error, Exception):
            raise
        known = error if isinstance(error, CanonfaceError) else from_the_system(error)
        if known is None:
            _fault(error)
        say(f"error: {known}", to=sys.stderr)
        sys.exit(known.exit_code)
    sys.exit(0)


def interruption_behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """Return the interruption that an error is, or that it arose under.

    What is tidied up when a program is stopped finds things half done and may fail at that (a ``ZipFile`` with an open
    member refuses to be closed), and its error takes the place of the interruption.
    """
    met: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if isinstance(one, KeyboardInterrupt):
            return one
        if one is None or id(one) in met:
            continue
        met.add(id(one))
        # ``raise ... from None`` hides the context, but keeps it.
        waiting += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
    return None


def from_the_system(error: Exception) -> CanonfaceError | None:
    """Return the system's refusal as an error of ours; None if the fault is this program's."""
    if isinstance(error, OSError):
        path = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return StorageError(
                f"{path}the disk is full",
                "room for the output",
                "Free some space and run the same command again; finished work is kept",
            )
        return InputError(f"{path}{error.strerror or error}", "a path that can be read and written", "Check the path")
    for kind, words, found, expected, fix in _REFUSALS:
        if isinstance(error, kind) and words in str(error):
            return InputError(found.format(str(error)[:160]), expected, fix)
    # torch has a class of its own for this on a GPU only; elsewhere just the words tell.
    if isinstance(error, MemoryError) or "memory" in str(error):
        reason = (str(error).strip().splitlines() or ["none is left"])[0][:160]
        return InputError(
            f"there is not enough memory ({reason})",
            "memory for what was asked",
            "Lower the size, the frames of a clip or of a batch, or the workers",
        )
    return None


def add_version(app: typer.Typer, program: str, version: str) -> None:
    """Give a command line the option ``--version``."""
    import typer

    def show(asked: bool) -> None:
        if asked:
            say(f"{program} {version_text(version)}")
            raise typer.Exit

    def options(
        asked: bool = typer.Option(False, "--version", callback=show, is_eager=True, help="Print it and exit."),
    ) -> None:
        del asked

    app.callback()(options)


def version_text(version: str) -> str:
    """Return a version, its commit in a checkout, and the versions of what decides most, without importing any."""
    root = Path(__file__).parents[2]
    commit = ""
    if (root / ".git").exists():
        call = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
        with suppress(OSError, subprocess.SubprocessError):
            commit = subprocess.run(call, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    versions = [f"Python {platform.python_version()}"]
    for name in ("torch", "zarr"):
        with suppress(metadata.PackageNotFoundError):
            versions.append(f"{name} {metadata.version(name)}")
    return f"{version}{f' ({commit})' if commit else ''}, {', '.join(versions)}"


def say(text: object = "", *, to: TextIO | None = None) -> None:
    """Print a text, on standard output by default, with nothing in it that a terminal would obey."""
    print(printable(str(text)), file=to or sys.stdout)


def print_json(content: Any) -> None:
    """Print data for another program."""
    print(json.dumps(json_ready(content), indent=1, sort_keys=True, default=str))


def table(rows: Sequence[tuple[str, Any]]) -> None:
    """Print names and values in two aligned columns."""
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        say(f"{name:<{width}}  {value}")


def _interrupted() -> NoReturn:
    # Whoever is impatient now is answered already.
    answer_signals(lambda *_: os._exit(INTERRUPTED))
    # What was left half done may also fail to go.
    sys.unraisablehook = lambda _: None
    # Workers that are still at it find the interpreter closing, which libraries log at length.
    logging.disable(logging.CRITICAL)
    threading.excepthook = lambda _: None
    say(GOODBYE, to=sys.stderr)
    sys.exit(INTERRUPTED)


def _interrupt_again(lost: sys.UnraisableHookArgs) -> None:
    """Repeat an interruption that met a destructor or a callback, where Python drops what is raised."""
    stopped = interruption_behind(lost.exc_value)
    if stopped is not None and stopped is interruption_behind(sys.exception()):
        return  # the program is being stopped by it already
    if stopped is not None:
        # A moment later: at once it would be answered, and dropped, in here.
        again = threading.Timer(_MOMENT_S, os.kill, (os.getpid(), signal.SIGTERM))
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(lost)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _nobody_reads() -> NoReturn:
    """End well: the reader of a pipe (head, less) has gone, which is not an error of ours."""
    # Python would complain about what it cannot write when it ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(0)


def _fault(error: Exception) -> NoReturn:
    """Say that this program is at fault, and keep the traceback for those who mend it."""
    if os.environ.get(DEBUG):
        raise error
    details = f"Set {DEBUG}=1 to see where"
    with (
        suppress(OSError),
        tempfile.NamedTemporaryFile(
            "w", prefix="canonface-", suffix=".txt", delete=False, errors="backslashreplace"
        ) as file,
    ):
        file.write(f"{sys.argv}\n{traceback.format_exc()}")
        details = f"{file.name} says where"
    reason = (str(error).strip().splitlines() or [""])[0][:300]
    say(
        f"error: this is a fault of canonface, not yours: {type(error).__name__}: {reason}. {details}; "
        "please report it with the command",
        to=sys.stderr,
    )
    sys.exit(FAULT)
