"""Commands run in forks of this process, with limits of time and memory, every write outside the sandbox noted."""

from __future__ import annotations

import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datagen.common import start
from tests.support.fault_hooks import EVENTS, WRITING, Steps

LIMIT_S = 40.0
LIMIT_BYTES = 3 << 30  # on top of what the libraries have mapped already
KILLED = -signal.SIGKILL
_OPEN_FILES = 256


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes
    ----------
    code : int
        Exit status; minus the signal that ended it.
    output : str
        All it printed.
    seconds : float
    hung : bool
        Whether it was killed for the time it took.
    outside : tuple of str
        Paths outside the sandbox that it opened for writing, made, renamed or removed.
    """

    code: int
    output: str
    seconds: float
    hung: bool = False
    outside: tuple[str, ...] = ()

    def faults(self, allowed: Sequence[int] = (0, 1, 2)) -> list[str]:
        """Say what no command may do, however wrong its input."""
        last = self.output.strip().splitlines()[-1:] or [""]
        found = []
        if self.hung:
            found.append(f"still running after {self.seconds:.0f} s")
        elif self.code not in allowed:
            found.append(f"exit code {self.code}: {last[0][:300]}")
        if "Traceback (most recent call last)" in self.output or "fault of canonface" in self.output:
            found.append(f"a fault of the program: {last[0][:300]}")
        if self.code == 2 and not self.hung and "rror" not in self.output:
            found.append(f"exit code 2 without an error message: {last[0][:300]}")
        if self.outside:
            found.append(f"wrote outside its folder: {', '.join(self.outside[:3])}")
        return found


def command(arguments: Sequence[str | Path]) -> Callable[[], None]:
    """Return the work of ``datagen …`` or ``trainer …`` in this process."""

    def work() -> None:
        program = str(arguments[0])
        sys.argv = [program, *(str(argument) for argument in arguments[1:])]
        getattr(start, program)()

    return work


def run(
    work: Callable[[], None],
    sandbox: Path,
    *,
    kill_at: int = 0,
    below: Path | None = None,
    interrupt_after_s: float | None = None,
    limit_s: float = LIMIT_S,
) -> Outcome:
    """Run ``work`` in a fork whose working folder is the sandbox.

    Parameters
    ----------
    kill_at : int
        Kill it at this durable step below ``below``; 0 never does.
    interrupt_after_s : float, optional
        Send it a polite SIGTERM after this time.
    """
    read, write = os.pipe()
    begin = time.monotonic()
    # Held back until the child answers it, as a program's first act is to.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    process = os.fork()
    if process == 0:
        os.close(read)
        _child(work, sandbox, write, kill_at, below)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    os.close(write)
    output, hung = bytearray(), False
    interrupt = begin + interrupt_after_s if interrupt_after_s is not None else None
    while True:
        now = time.monotonic()
        if interrupt is not None and now >= interrupt:
            os.kill(process, signal.SIGTERM)
            interrupt = None
        if now - begin > limit_s and not hung:
            os.kill(process, signal.SIGKILL)
            hung = True
        wait = 0.5 if interrupt is None else max(interrupt - now, 0.0)
        if select.select([read], [], [], min(wait, 0.5))[0]:
            data = os.read(read, 1 << 16)
            if not data:
                break
            output += data
    os.close(read)
    _, status = os.waitpid(process, 0)
    code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    text = output.decode(errors="replace")
    lines = text.splitlines()
    outside = tuple(dict.fromkeys(line.removeprefix(_NOTE) for line in lines if line.startswith(_NOTE)))
    shown = "\n".join(line for line in lines if not line.startswith(_NOTE))
    return Outcome(code, shown, time.monotonic() - begin, hung, outside)


def steps_of(work: Callable[[], None], sandbox: Path, below: Path) -> tuple[int, Outcome]:
    """Run ``work`` undisturbed and count its durable steps below a folder."""
    counter = sandbox / "steps.count"

    def counted() -> None:
        steps = Steps(below)
        try:
            work()
        finally:
            counter.write_text(str(steps.count))

    outcome = run(counted, sandbox)
    return (int(counter.read_text()) if counter.exists() else 0), outcome


_NOTE = "\x01outside "


def _child(work: Callable[[], None], sandbox: Path, output: int, kill_at: int, below: Path | None) -> None:
    code = 1
    try:
        os.setsid()
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = os.fdopen(1, "w", buffering=1, errors="backslashreplace", closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
        os.chdir(sandbox)
        os.environ["TMPDIR"] = os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(sandbox)
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
        resource.setrlimit(resource.RLIMIT_AS, (mapped + LIMIT_BYTES,) * 2)
        resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
        sys.dont_write_bytecode = True
        _note_writes(sandbox)
        start.answer_signals(lambda *_: os._exit(start.INTERRUPTED))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        if below is not None:
            Steps(below, kill_at)
        else:
            os.fsync = lambda _: None  # type: ignore[assignment]
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code & 0xFF)


def _note_writes(sandbox: Path) -> None:
    allowed = (str(sandbox), "/dev/", "/proc/", *_caches())

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not (isinstance(flags, int) and flags & WRITING):
                return
        elif event in EVENTS:
            path = arguments[0]
        else:
            return
        if isinstance(path, int):
            return
        where = os.path.realpath(os.fsdecode(path))
        if not where.startswith(allowed):
            os.write(1, f"\n{_NOTE}{where!a}\n".encode())

    sys.addaudithook(audit)


def _caches() -> tuple[str, ...]:
    """Folders where libraries keep what they compile and download."""
    home = Path.home()
    given = (os.environ.get(name) for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "MPLCONFIGDIR"))
    sources = Path(__file__).parents[3]
    places = [home / ".cache", home / ".config", sources / "datagen" / "__pycache__", *(Path(g) for g in given if g)]
    return (*(str(place.resolve()) for place in places), sys.prefix)
