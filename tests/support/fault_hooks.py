"""Every durable step a process takes, counted; and a kill or a refusing disk at any chosen one of them.

Steps are found, not listed: Python's audit events of files opened for writing, made, renamed and removed, and the
fsyncs between them. New code that writes is covered as soon as it exists.
"""

from __future__ import annotations

import errno
import gc
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

EVENTS = frozenset({"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink"})
REMOVING = frozenset({"os.remove", "os.rmdir"})
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Steps:
    """Counts the steps of this process below a folder and acts at one of them; made once per process.

    Parameters
    ----------
    below : Path
        Only what happens in here counts.
    at : int
        The step to act at, from 1; 0 never acts.
    action : ``kill``, ``full``
        SIGKILL, or an ``OSError`` with ENOSPC.
    """

    def __init__(self, below: Path, at: int = 0, action: str = "kill") -> None:
        self.count = 0
        self.names: list[str] = []
        self._below, self._at, self._action = str(below), at, action
        self._folders: dict[int, str] = {}
        sys.addaudithook(self._audit)
        # A killed process loses no written bytes: a real fsync guards against power cuts and would only take time.
        os.fsync = self._fsync  # type: ignore[assignment]

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & WRITING:
                self._step("open", path)
        elif event in EVENTS:
            self._step(event, arguments[0])

    def _fsync(self, descriptor: int) -> None:
        self._step("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))

    def _step(self, name: str, path: Any) -> None:
        if not str(path).startswith(self._below):
            return
        self.count += 1
        self.names.append(f"{name} {path}")
        if not self._at or self.count < self._at:
            return
        if self._action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        # A full disk still removes; it refuses the next step that needs room.
        if name not in REMOVING:
            self._at = 0
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def in_child(work: Callable[[], None]) -> int:
    """Run ``work`` in a fork; return its wait status, 256 × the exit code or the signal."""
    # What the child never looks at stays shared with it: a collection would write to all of it.
    gc.freeze()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    return os.waitpid(process, 0)[1]
