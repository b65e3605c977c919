"""How often a file system is asked something."""

from __future__ import annotations

import builtins
import io
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

_ASKED = ("stat", "lstat", "scandir", "listdir", "open", "readlink", "mkdir", "unlink", "replace")


@contextmanager
def calls_counted() -> Iterator[Counter[str]]:
    """Count the metadata calls of this process by their names, as they go through :mod:`os` and :func:`open`."""
    counts: Counter[str] = Counter()

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def ask(*arguments: Any, **named: Any) -> Any:
            counts[name] += 1
            return call(*arguments, **named)

        return ask

    with ExitStack() as stack:
        for name in _ASKED:
            stack.enter_context(patch.object(os, name, counted(name, getattr(os, name))))
        opened = counted("open", open)
        for module in (builtins, io):
            stack.enter_context(patch.object(module, "open", opened))
        yield counts
