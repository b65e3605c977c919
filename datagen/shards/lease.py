"""One writer at a time: the kernel's lock on a local folder, a lease that is kept alive in an object store."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from datagen.common.digests import canonical_json
from datagen.common.documents import parse_json
from datagen.common.errors import DatasetError, MissingObjectError, StorageError
from datagen.common.files import folder_lock, make_folders, storage_errors
from datagen.shards.store import LocalStore, ObjectStore, no_conditions

LEASE = ".push-lease.json"
_FORMAT = "canonface-lease"
BEAT_S = 20.0  # between two signs of life
GIVE_UP_S = 150.0  # without a sign of life that arrived, a writer stops
STALE_S = 300.0  # after the last sign of life another may begin: well after the last put of one that gave up has ended


@contextmanager
def only_writer(store: LocalStore | ObjectStore) -> Iterator[Callable[[], None]]:
    """Be the only one who writes at a place; yield what is to be called before every write and removal.

    A local folder is locked by the kernel until the process ends, however it ends. An object store holds an object,
    put only where there is none, that says who writes and is renewed while the block runs. Another may take it over
    when its owner is a process of this machine that is dead, or gave no sign of life for :data:`STALE_S` seconds.

    Raises
    ------
    StorageError
        If another writes there; if the store cannot put conditionally; and, from what is yielded, if the lease is lost.
    """
    if isinstance(store, ObjectStore):
        lease = _Lease(store)
        try:
            lease.take()
            yield lease.check
        finally:
            lease.release()
        return
    with storage_errors(f"making the folder {store.root}"):
        make_folders(store.root)
    with folder_lock(store.root, lambda _: _busy(store.url, "another push, merge, subset or build of this machine")):
        yield lambda: None


def _busy(url: str, who: str, fix: str = "Wait until it ends, then run the same command again") -> StorageError:
    return StorageError(f"{url} is being written by {who}", "one writer at a time", fix)


class _Lease:
    """The lease of one writer, renewed by a thread."""

    def __init__(self, store: ObjectStore) -> None:
        self._store, self._id, self._beats = store, uuid.uuid4().hex, 0
        self._since = datetime.now(UTC).isoformat(timespec="seconds")
        self._tag: str | None = None
        self._data = b""
        self._seen = 0.0
        self._lost = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def take(self) -> None:
        """Put the lease and keep it alive."""
        if not self._put(None):
            self._take_over()
        self._thread.start()
        if self._store.write_if(LEASE, b"", None) is not None:
            self._store.delete(LEASE)
            raise no_conditions(self._store.url)

    def _take_over(self) -> None:
        try:
            data, tag, put = self._store.read_tagged(LEASE)
        except MissingObjectError:  # released a moment ago
            if self._put(None):
                return
            raise _busy(self._store.url, "another push that began at this moment") from None
        holder = _parse(data)
        if holder is None:
            raise DatasetError(
                f"{self._store.url} holds {LEASE}, which is no lease of a push", "no such object", "Move it away"
            )
        age = (datetime.now(UTC) - put).total_seconds()
        who = (
            f"process {holder.get('process')} of {holder.get('host')} since {holder.get('since')} "
            f"(last sign of life {age:.0f} s ago)"
        )
        busy = _busy(
            self._store.url,
            who,
            f"Wait until it ends, then run the same command again; if it was killed, "
            f"that takes over {STALE_S / 60:.0f} minutes after the last sign of life",
        )
        if not is_dead(holder):
            if age < STALE_S:
                raise busy
            # The clocks of two machines and a store may differ: one that still moves is alive, whatever they say.
            time.sleep(2 * BEAT_S)
        if not self._put(tag):
            raise busy

    def _put(self, over: str | None) -> bool:
        """Put the lease where that of tag ``over`` is; whether it is there now."""
        self._beats += 1
        started = time.monotonic()
        content = {"format": _FORMAT, "id": self._id, "beat": self._beats, "since": self._since, **who_am_i()}
        self._data = canonical_json(content).encode()
        tag = self._store.write_if(LEASE, self._data, over)
        if tag is None:
            # A put that arrived though its answer did not is refused when the client tries again.
            with suppress(MissingObjectError):
                data, found, _ = self._store.read_tagged(LEASE)
                tag = found if data == self._data else None
        if tag is not None:
            self._tag, self._seen = tag, started
        return tag is not None

    def _keep(self) -> None:
        while not self._end.wait(BEAT_S):
            with suppress(StorageError):  # tried again; `check` gives up when it takes too long
                if not self._put(self._tag):
                    self._lost = True
                    return

    def check(self) -> None:
        """Raise StorageError if the lease may be another's by now."""
        if self._lost or time.monotonic() - self._seen > GIVE_UP_S:
            raise StorageError(
                f"the lease of {self._store.url} is lost: no sign of life arrived for too long, or another took over",
                "a store that answers, and one push at a time",
                "Run the same command again",
            )

    def release(self) -> None:
        """Remove the lease, unless it is another's."""
        self._end.set()
        if self._tag is None:
            return
        if self._thread.ident is not None:
            self._thread.join()
        with suppress(StorageError):
            # Renewed first: what is fresh and ours nobody takes over before it is gone.
            if not self._lost and self._put(self._tag):
                self._store.delete(LEASE)


def _parse(data: bytes) -> Mapping[str, Any] | None:
    try:
        content = parse_json(data)
    except ValueError:
        return None
    return content if isinstance(content, dict) and content.get("format") == _FORMAT else None


def who_am_i() -> dict[str, Any]:
    """Name this process, so that another one can tell whether it is dead."""
    return {
        "host": socket.gethostname(),
        "kernel": _kernel(),
        "process": os.getpid(),
        "started": _started(os.getpid()),
    }


def _kernel() -> str:
    """Name this run of this machine's kernel and its process numbers; "" where that cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        numbers = os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
    return hashlib.sha256(f"{boot} {numbers}".encode()).hexdigest()[:16]


def _started(process: int) -> str:
    """When a process of this machine started, in the kernel's ticks; "" if there is none."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def is_dead(holder: Mapping[str, Any]) -> bool:
    """Whether the holder was a process of this very machine that has ended."""
    process, kernel = holder.get("process"), _kernel()
    here = bool(kernel) and holder.get("kernel") == kernel and isinstance(process, int)
    return here and _started(int(process or 0)) != holder.get("started")
