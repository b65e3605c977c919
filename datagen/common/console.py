"""What all our command lines share: errors become one message and an exit code, data becomes JSON."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NoReturn

from datagen.common.errors import CanonfaceError, InputError, StorageError
from datagen.common.files import json_ready

INTERRUPTED = 130


def run(app: Callable[[], Any]) -> NoReturn:
    """Run a command line to its end: errors made on purpose, and what the system refuses, end in one clean message."""
    # Ending politely runs the clean-up that a killed process skips.
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as end:
        # typer turns an interruption inside a command into this, without a word.
        if end.code == INTERRUPTED:
            _interrupted()
        raise
    except BrokenPipeError:
        # The reader of a pipe (head, less) has gone: not an error of ours, and nobody is left to read one.
        sys.stderr.close()
        sys.exit(0)
    except (CanonfaceError, OSError, MemoryError, RuntimeError) as error:
        known = error if isinstance(error, CanonfaceError) else from_the_system(error)
        if known is None:
            raise
        print(f"error: {known}", file=sys.stderr)
        sys.exit(known.exit_code)
    sys.exit(0)


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
    # torch has a class of its own for this on a GPU only; elsewhere just the words tell.
    if isinstance(error, MemoryError) or "memory" in str(error):
        reason = (str(error).strip().splitlines() or ["none is left"])[0][:160]
        return InputError(
            f"there is not enough memory ({reason})",
            "memory for what was asked",
            "Lower the size, the frames of a clip or of a batch, or the workers",
        )
    return None


def print_json(content: Any) -> None:
    """Print data for another program."""
    print(json.dumps(json_ready(content), indent=1, sort_keys=True, default=str))


def table(rows: Sequence[tuple[str, Any]]) -> None:
    """Print names and values in two aligned columns."""
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def _interrupted() -> NoReturn:
    print("interrupted; run the same command again to continue", file=sys.stderr)
    sys.exit(INTERRUPTED)


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
