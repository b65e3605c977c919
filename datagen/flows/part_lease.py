"""Who works in a build folder, from whatever machine: files that are renewed as long as their owner lives.

An ordinary build holds the lease ``build``; parts of stages, of which many may run at once, hold one each. A build and
parts exclude each other. No locks of the file system are needed, which some network file systems do not have: a lease
is a file that only one process can make.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from datagen.common.documents import read_json
from datagen.common.errors import StorageError
from datagen.common.files import make_folders, storage_errors
from datagen.layout import BuildLayout
from datagen.shards.lease import is_dead, who_am_i

BEAT_S = 20.0  # between two signs of life
STALE_S = 300.0  # after the last one another may begin
BUILD = "build"
_FORMAT = "canonface-part-lease"


class Lease:
    """A lease that is held, and renewed by a thread.

    Attributes
    ----------
    name : str
        ``build``, or of a part as ``warp-3-of-10``.
    """

    def __init__(self, layout: BuildLayout, name: str, *, alone_here: bool = False, patient: bool = False) -> None:
        self.name, self._alone_here, self._patient = name, alone_here, patient
        self._layout, self._path, self._id = layout, layout.leases / name, uuid.uuid4().hex
        self._seen = time.monotonic()
        self._lost = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def take(self) -> None:
        """Make the file, after that of an owner that is dead.

        Raises
        ------
        StorageError
            If another holds it, what is there is no lease, or the disk refuses.
        """
        with storage_errors(f"writing to {self._layout.root}"):
            make_folders(self._layout.leases)
            if not self._make():
                self._take_over()
        self._thread.start()

    def check(self) -> None:
        """Refuse to go on if the lease may be another's by now.

        Raises
        ------
        StorageError
            If it is lost.
        """
        if self._lost or time.monotonic() - self._seen > STALE_S - 2 * BEAT_S:
            raise StorageError(
                f"the lease {self._path} is lost: no sign of life arrived for too long, or another took over",
                "a disk that answers",
                "Run the same command again; finished work is kept",
            )

    def release(self) -> None:
        """Remove the file, unless it is another's."""
        self._end.set()
        if self._thread.ident is not None:
            self._thread.join()
        with suppress(OSError):
            if _owner(self._path).get("id") == self._id:
                self._path.unlink()
        with suppress(OSError):
            self._layout.leases.rmdir()

    def _make(self) -> bool:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        content = json.dumps({"format": _FORMAT, "id": self._id, "since": since, **who_am_i()})
        try:
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return False
        try:
            os.write(file, content.encode())
            os.fsync(file)
        finally:
            os.close(file)
        return True

    def _take_over(self) -> None:
        owner = _owner(self._path)
        if not owner and os.path.lexists(self._path) and not _is_fresh(self._path):
            raise StorageError(f"{self._path} is no lease of ours", "a place for one", "Move it away")
        here = self._alone_here and owner.get("host") == who_am_i()["host"]
        if not here and not _is_over(self._path, owner, patient=self._patient):
            raise _busy(self._layout, self._path, owner)
        aside = self._path.with_name(f".{self.name}.{self._id}")
        os.rename(self._path, aside)
        if _owner(aside).get("id") != owner.get("id"):
            # Another was quicker: what was moved away is its new one.
            with suppress(OSError):
                os.link(aside, self._path)
            aside.unlink()
            raise _busy(self._layout, self._path, _owner(self._path))
        aside.unlink()
        if not self._make():
            raise _busy(self._layout, self._path, _owner(self._path))

    def _keep(self) -> None:
        while not self._end.wait(BEAT_S):
            began = time.monotonic()
            with suppress(OSError):  # tried again; `check` gives up when it takes too long
                if _owner(self._path).get("id") != self._id:
                    self._lost = True
                    return
                os.utime(self._path)
                self._seen = began


def _owner(path: Path) -> dict[str, Any]:
    """Return who holds a lease; empty if there is none."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and content.get("format") == _FORMAT else {}


def _is_fresh(path: Path) -> bool:
    """Whether a file without content was made a moment ago: its owner may be about to write it."""
    with suppress(OSError):
        status = path.lstat()
        return not status.st_size and not path.is_symlink()
    return True


def _age_s(path: Path) -> float:
    with suppress(OSError):
        return time.time() - path.stat().st_mtime
    return 0.0


def _is_over(path: Path, owner: dict[str, Any], *, patient: bool = False) -> bool:
    """Whether the owner of a lease is dead, or gave no sign of life for too long.

    Parameters
    ----------
    patient : bool
        Whether an owner on another machine is watched until it gives a sign of life, or is over.
    """
    if owner and is_dead(owner):
        return True
    if patient and owner.get("host") != who_am_i()["host"]:
        _watch(path)
    if _age_s(path) < STALE_S:
        return False
    # The clocks of two machines may differ: one that still moves is alive, whatever they say.
    with suppress(OSError):
        before = path.stat().st_mtime_ns
        time.sleep(2 * BEAT_S)
        return path.stat().st_mtime_ns == before
    return True


def _watch(path: Path) -> None:
    """Wait until a lease is renewed, goes, or is as old as one whose owner is gone."""
    with suppress(OSError):
        before = path.stat().st_mtime_ns
        while path.stat().st_mtime_ns == before and _age_s(path) < STALE_S:
            time.sleep(min(BEAT_S / 4, STALE_S))


def _busy(layout: BuildLayout, path: Path, owner: dict[str, Any]) -> StorageError:
    what = "another build" if path.name == BUILD else f"part {path.name.replace('-', ' ')}"
    who = f"process {owner.get('process')} of {owner.get('host')}" if owner else "a process that just began"
    return StorageError(
        f"{what} is working in {layout.root} ({who}, last sign of life {max(0.0, _age_s(path)):.0f} s ago)",
        "one build, or parts of its stages, at a time in one folder",
        f"Wait until it ends, or stop it; one that was killed is forgotten {STALE_S / 60:.0f} minutes after its last "
        "sign of life, at once on its own machine",
    )


def _others(layout: BuildLayout, own: str, among: Callable[[str], bool]) -> Iterator[Path]:
    with suppress(OSError):
        for path in sorted(layout.leases.iterdir()):
            if path.name != own and not path.name.startswith(".") and among(path.name):
                yield path


def holders(layout: BuildLayout) -> tuple[str, ...]:
    """Say who works in a build folder: name, process and host of each, as far as they gave a sign of life of late."""
    found = []
    for path in _others(layout, "", lambda _: True):
        owner = _owner(path)
        if owner and not is_dead(owner) and _age_s(path) < STALE_S:
            found.append(f"{path.name} (process {owner.get('process')} of {owner.get('host')})")
    return tuple(found)


@contextmanager
def held_lease(layout: BuildLayout, name: str, *, alone_here: bool = False, patient: bool = False) -> Iterator[Lease]:
    """Hold the lease of a build or a part for as long as the block runs.

    Parameters
    ----------
    alone_here : bool
        Whether no process of this machine can hold it: a lock of the kernel says so.
    patient : bool
        Whether one that another machine holds is watched, for minutes, until it gives a sign of life or is known to be
        dead: what was killed there may run again here at once.

    Raises
    ------
    StorageError
        If another process holds it, or one that it excludes: parts exclude a build, and a build parts.
    """
    lease = Lease(layout, name, alone_here=alone_here, patient=patient)
    lease.take()
    try:
        # Made first and looked at then: of two that begin at once, one at least sees the other.
        for path in _others(layout, name, lambda other: BUILD in {name, other}):
            owner = _owner(path)
            if not owner and not _is_fresh(path):
                raise StorageError(f"{path} is no lease of ours", "nothing but leases there", "Move it away")
            if not owner or not _is_over(path, owner):
                raise _busy(layout, path, owner)
            with suppress(OSError):
                path.unlink()
        yield lease
    finally:
        lease.release()
