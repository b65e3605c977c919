"""One BLAS thread per task."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

# numpy and scipy each bring an OpenBLAS of their own, whose symbols carry a prefix and a suffix
# (a bare trailing underscore would be the Fortran interface, which takes a pointer).
SETTERS = tuple(
    f"{prefix}openblas_set_num_threads{suffix}" for prefix in ("", "scipy_") for suffix in ("", "64_", "_64")
)


def use_one_blas_thread() -> None:
    """Make every OpenBLAS of this process use one thread from now on.

    Tasks are the unit of parallelism. And the last bits of a sum depend on how many threads share it: with one, the
    same input gives the same bytes on every runner. Where libraries cannot be listed (other systems than Linux),
    ``OPENBLAS_NUM_THREADS=1`` in the environment does the same.
    """
    # scipy loads its library only when its linear algebra is first used.
    import scipy.linalg

    del scipy
    _set_once()


@cache
def _set_once() -> None:
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return
    for path in sorted({line.split(maxsplit=5)[-1] for line in maps.splitlines() if "openblas" in line}):
        library = ctypes.CDLL(path)
        for name in SETTERS:
            setter = getattr(library, name, None)
            if setter is not None:
                setter(ctypes.c_int(1))
