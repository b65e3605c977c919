"""One thread for linear algebra, whoever calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


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
