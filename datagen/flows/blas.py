"""One BLAS thread per task."""

from __future__ import annotations

from functools import cache


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
