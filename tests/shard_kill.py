"""Builds a small dataset in forked children that kill themselves; run as a script by test_shards_durable.py.

The parent never writes with zarr, so a fork is safe; each child dies by SIGKILL right before its k-th call of
``os.replace``, ``os.fsync`` or ``os.unlink``, and a second child then runs the same build to its end.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zarr  # noqa: F401 (imported once, before the forks)
from shard_samples import build, make_plan

PLAN = {"counts": {"train": 6}, "samples_per_shard": 4}
HOOKED = ("replace", "fsync", "unlink")


def count_calls(before: Callable[[int], None]) -> None:
    """Call ``before(k)`` ahead of the k-th durable step of this process."""
    calls, fsync = 0, os.fsync

    def hook(real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            before(calls)
            # A killed process loses no written bytes; fsync guards against power cuts and would only take time here.
            return None if real is fsync else real(*args, **kwargs)

        return wrapped

    for name in HOOKED:
        setattr(os, name, hook(getattr(os, name)))


def in_child(work: Callable[[], None]) -> int:
    """Run ``work`` in a fork; return its wait status."""
    process = os.fork()
    if process == 0:
        work()
        os._exit(0)
    return os.waitpid(process, 0)[1]


def main(folder: Path, points: int) -> None:
    """Build undisturbed into ``whole``, then with a kill at ``points`` places into ``killed-<k>``."""
    plan = make_plan(**PLAN)
    counter = folder / "calls"

    def undisturbed() -> None:
        count_calls(lambda k: counter.write_text(str(k)) and None)
        build(folder / "whole", plan)

    if in_child(undisturbed) != 0:
        sys.exit("the undisturbed build failed")
    total = int(counter.read_text())
    for k in sorted({round(1 + i * (total - 1) / (points - 1)) for i in range(points)}):
        root = folder / f"killed-{k}"

        def killed(k: int = k, root: Path = root) -> None:
            count_calls(lambda call: os.kill(os.getpid(), signal.SIGKILL) if call == k else None)
            build(root, plan)

        def resumed(root: Path = root) -> None:
            build(root, plan)

        if in_child(killed) != signal.SIGKILL:
            sys.exit(f"the child was not killed at step {k}")
        # Whether the half-built folder opens is for the test to judge; it must not before the last step.
        (folder / f"opens-{k}").write_text(str((root / "zarr.json").exists()))
        if in_child(resumed) != 0:
            sys.exit(f"the build did not resume after a kill at step {k}")
    print(total)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
