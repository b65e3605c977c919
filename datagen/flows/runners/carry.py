"""One try at a unit, where it is worked at: what goes wrong becomes an answer, which travels from any process."""

from __future__ import annotations

import errno
import os
import pickle
import platform
import resource
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from datagen.common.blas import share_of_cpus
from datagen.common.errors import CanonfaceError, DependencyError, ManifestError, StorageError, chain_of, may_pass
from datagen.flows.runners.contract import Answer, Call, Trouble
from datagen.flows.runners.preflight import misfit, own_code

# The same for every unit that writes: nothing is gained by trying the next one.
EVERYONES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})


class Sealed:
    """A unit as Dask sees it: it may neither look for futures inside, nor rebuild it."""

    def __init__(self, unit: Any) -> None:
        self.unit = unit


def carry(work: Callable[[Any], Any], sealed: Sealed, call: Call, began: Callable[[], object] = lambda: None) -> Answer:
    """Try a unit once. Never raises but for an interruption.

    Parameters
    ----------
    work : callable
        Takes the unit.
    began : callable
        Called when this process was looked at, and the unit begins.
    """
    started, host = time.monotonic(), f"{platform.node()} (process {os.getpid()})"
    code = ""
    if call.expected is not None:
        try:
            reason, code = misfit(call.expected), own_code()
        except Exception as error:
            reason = f"it cannot be looked at ({type(error).__name__}: {error})"
        if reason:
            return Answer(trouble="misfit", reason=reason, host=host, code=code)
    began()
    try:
        with share_of_cpus(call.cpus):
            result = work(sealed.unit)
        made = None if call.made is None else tuple(call.made(sealed.unit))
    except Exception as error:
        return Answer(
            trouble=trouble_of(error),
            error=_travelling(error),
            reason=reason_of(error),
            log="".join(traceback.format_exception(error)),
            host=host,
            seconds=time.monotonic() - started,
            peak_bytes=_peak_bytes(),
            code=code,
        )
    seconds = time.monotonic() - started
    return Answer(result, host=host, seconds=seconds, peak_bytes=_peak_bytes(), code=code, made=made)


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def trouble_of(error: BaseException) -> Trouble:
    """Return what the failure of a unit means for another try at it, and for the other units."""
    if isinstance(error, MemoryError) or may_pass(error):
        return "passing"
    number = next((e.errno for e in chain_of(error) if isinstance(e, OSError) and e.errno is not None), None)
    if isinstance(error, DependencyError | ManifestError):
        return "build"
    if isinstance(error, StorageError) or number in EVERYONES:
        return "build"
    return "unit"


def reason_of(error: BaseException) -> str:
    """Return an error in one line."""
    text = str(error) if isinstance(error, CanonfaceError) else f"{type(error).__name__}: {error}".rstrip(": ")
    return " ".join(text.split())


def _travelling(error: Exception) -> Exception | None:
    """Return an error as it can be sent, with its traceback as a note, which is all of it that survives the way."""
    if not isinstance(error, CanonfaceError):
        error.add_note("In the worker:\n" + "".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return None
    return error
