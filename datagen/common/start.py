"""Where both programs begin: signals are answered before anything else is imported, which takes a while."""

from __future__ import annotations

import os
import signal
from typing import NoReturn

INTERRUPTED = 130
GOODBYE = "interrupted; run the same command again to continue"


def datagen() -> NoReturn:
    """Run ``datagen``."""
    _start("datagen.cli")


def trainer() -> NoReturn:
    """Run ``trainer``."""
    _start("trainer.cli")


def answer_signals(answer: signal._HANDLER) -> None:
    """Have Ctrl-C and SIGTERM answered in one way; what the caller has ignored (``nohup``) stays ignored."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, answer)


def _start(module: str) -> NoReturn:
    # Nothing has been made yet that would have to be tidied up, and many a package swallows an exception raised in the
    # middle of its import.
    answer_signals(lambda *_: _leave())
    from importlib import import_module

    try:
        import_module(module).main()
    except KeyboardInterrupt:  # that came while the command was ending already
        _leave()
    finally:
        # What is left to do at the end of an interpreter, such as joining threads, would answer with a traceback.
        answer_signals(lambda *_: _leave())
    raise SystemExit(0)


def _leave() -> NoReturn:
    os.write(2, f"{GOODBYE}\n".encode())
    os._exit(INTERRUPTED)
