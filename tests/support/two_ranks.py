"""``python -m tests.support.two_ranks ARGUMENT...``: ``trainer`` as two processes that torchrun would have started.

They are forked from one that has imported everything, and spare two thirds of what torchrun and its processes take.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys

RANKS = 2
_IMPORTED = ("torch", "torch.distributed", "trainer.fit", "trainer.cli")


def main() -> int:
    """Start both, wait for both, return the larger exit code."""
    for name in _IMPORTED:
        importlib.import_module(name)
    # A fork has the thread that called it alone, and may wait for ever for another.
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("a library started a thread as it was imported: it cannot be loaded before the forks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [_fork(rank, port) for rank in range(RANKS)]
    return max(abs(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])) for process in started)


def _fork(rank: int, port: int) -> int:
    process = os.fork()
    if process:
        return process
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    code = 1
    try:
        from trainer.cli import main as trainer

        trainer()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
