"""A store that is not a local folder, and to which things happen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from datagen.common.errors import StorageError
from datagen.shards import Dataset, open_dataset
from datagen.shards.store import LocalStore


class Remote:
    """A store that is not a local folder, to which things happen.

    Parameters
    ----------
    root : Path
    refuse : int
        Reads that fail before one succeeds.
    wait_s : float
        Before each read.
    """

    def __init__(self, root: Path, refuse: int = 0, wait_s: float = 0.0) -> None:
        self.inner, self.url = LocalStore(root), f"remote://{root.name}"
        self.refuse, self.wait_s = refuse, wait_s
        self.reads = 0

    def read(self, key: str, start: int | None = None, length: int | None = None) -> bytes:
        self.reads += 1
        time.sleep(self.wait_s)
        if self.refuse > 0:
            self.refuse -= 1
            raise StorageError("the store is busy")
        return self.inner.read(key, start, length)

    def size(self, key: str) -> int:
        return self.inner.size(key)

    def exists(self, key: str) -> bool:
        return self.inner.exists(key)

    def list(self, prefix: str = "") -> Iterator[str]:
        return self.inner.list(prefix)

    def write(self, key: str, data: bytes) -> None:
        raise AssertionError(key, data)

    def delete(self, key: str) -> None:
        raise AssertionError(key)


def remote(root: Path, **trouble: float) -> tuple[Dataset, Remote]:
    """A dataset in a store that misbehaves from now on."""
    store = Remote(root)
    opened = Dataset(store, open_dataset(root).attrs)
    for name, value in trouble.items():
        setattr(store, name, value)
    return opened, store
