"""One thread for linear algebra: for a block of work, or for a whole worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold every BLAS of this process to one thread.

    The last bits of a sum depend on how many threads share it, and what is computed once per process (the modes of a
    template) would carry them into every frame: the same input must give the same bytes in any process. Threads that
    wait for each other inside a small system also cost several times what the system does.
    """
    # scipy loads its library only when its linear algebra is first used.
    import scipy.linalg
    from threadpoolctl import threadpool_limits

    del scipy
    with threadpool_limits(limits=1, user_api="blas"):
        yield


@cache
def use_one_blas_thread() -> None:
    """Make every BLAS of this process use one thread from now on.

    Tasks are the unit of parallelism, and threads that wait for each other inside one small linear system cost several
    times what the system does. And the last bits of a sum depend on how many threads share it: with one, the same
    input gives the same bytes on every runner.
    """
    # scipy loads its library only when its linear algebra is first used.
    import scipy.linalg
    from threadpoolctl import threadpool_limits

    del scipy
    threadpool_limits(limits=1, user_api="blas")
