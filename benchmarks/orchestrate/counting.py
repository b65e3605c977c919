"""How often a file system is asked something."""

from __future__ import annotations

import builtins
import io
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from datagen.flows import stamps

_ASKED = ("stat", "lstat", "scandir", "listdir", "open", "readlink", "mkdir", "unlink", "replace")


@contextmanager
def calls_counted() -> Iterator[Counter[str]]:
    """Count the metadata calls of this process by their names, as they go through :mod:`os` and :func:`open`.

    Those of compiled code are counted as ``statx``, one for each file.
    """
    counts: Counter[str] = Counter()
    stamps_of = stamps.stamps_of

    def stamps_counted(root: Path, paths: bytes, count: int) -> npt.NDArray[np.uint64]:
        counts["statx"] += count
        return stamps_of(root, paths, count)

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def ask(*arguments: Any, **named: Any) -> Any:
            counts[name] += 1
            return call(*arguments, **named)

        return ask

    with ExitStack() as stack:
        for name in _ASKED:
            stack.enter_context(patch.object(os, name, counted(name, getattr(os, name))))
        stack.enter_context(patch.object(stamps, "stamps_of", stamps_counted))
        opened = counted("open", open)
        for module in (builtins, io):
            stack.enter_context(patch.object(module, "open", opened))
        yield counts
