"""The processors we may use, and linear algebra that keeps to one of them.

Two reasons for one BLAS thread. The last bits of a sum depend on how many threads share it, and what is computed once
per process (the modes of a template) would carry them into every frame: the same input must give the same bytes on
every machine and runner. And tasks are the unit of parallelism: threads that wait for each other inside one small
system cost several times what solving it does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

# How many processors the work at hand may use, where several such works share this machine.
_SHARE: ContextVar[int | None] = ContextVar("share of the processors", default=None)


@contextmanager
def share_of_cpus(count: int) -> Iterator[None]:
    """Have :func:`available_cpus` say ``count`` in a block, for whoever starts threads of its own there."""
    token = _SHARE.set(count)
    try:
        yield
    finally:
        _SHARE.reset(token)


def available_cpus() -> int:
    """Return how many processors this process may use, or the work at hand where others share them."""
    share = _SHARE.get()
    if share is not None:
        return share
    # Only Linux can tell that a container or a batch system leaves fewer than there are.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold every BLAS of this process to one thread for a block of work."""
    with _limit():
        yield


@cache
def use_one_blas_thread() -> None:
    """Make every BLAS of this process use one thread from now on, as a worker does."""
    _limit()


def _limit() -> AbstractContextManager[Any]:
    # scipy loads its library only when its linear algebra is first used, and only a loaded one can be limited.
    import scipy.linalg
    from threadpoolctl import threadpool_limits

    del scipy
    limits: AbstractContextManager[Any] = threadpool_limits(limits=1, user_api="blas")
    return limits
