"""The command line ``datagen``: assembles the commands and turns errors into messages and exit codes."""

from __future__ import annotations

import errno
import signal
import sys
from types import FrameType
from typing import NoReturn

import typer

from datagen.commands import bench, build, demo, frames, inspect, recipe, report, share, warp
from datagen.errors import CanonfaceError, StorageError

INTERRUPTED = 130

app = typer.Typer(
    name="datagen",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Turn multi-view face captures into canonical training sets. Exit codes: 0 well, 1 verdict not met, "
    "2 wrong use or bad input.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
for group in (demo, build, warp, frames, inspect, share, report, bench, recipe):
    group.register(app)


def main() -> NoReturn:
    """Entry point of the script ``datagen``."""
    # A polite end runs the clean-up that a killed process skips.
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except CanonfaceError as error:
        _fail(error)
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as end:
        # typer turns an interruption inside a command into this, without a word.
        if end.code == INTERRUPTED:
            _interrupted()
        raise
    except BrokenPipeError:
        # The reader of a pipe (head, less) has gone: not an error of ours, and nothing can be told to it any more.
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" ({error.filename})" if error.filename else ""
        _fail(
            StorageError(
                f"the disk is full{where}",
                "room for the output",
                "Free some space and run the same command again; finished work is kept",
            )
        )
    sys.exit(0)


def _interrupted() -> NoReturn:
    print("interrupted; run the same command again to continue", file=sys.stderr)
    sys.exit(INTERRUPTED)


def _fail(error: CanonfaceError) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
