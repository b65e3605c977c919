"""What a build knows of files without reading them again: their digests, as long as size, time and inode stay.

``plan/state.sqlite`` in the build folder is read and written by the one process that holds the folder; workers of other
processes append what they learn to journals beside it, which the next build takes in. All of it may be lost: then
files are read again, and nothing else happens.

A file is only believed to be the one that was read if it was older than :data:`RACY_S` by then: an edit within the
grain of a file system's clock would leave its time as it was.
"""

from __future__ import annotations

import gc
import json
import os
import re
import socket
import sqlite3
import sys
import threading
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import count, islice, repeat
from pathlib import Path
from typing import TypeVar, cast
from urllib.parse import quote

from datagen.common.digests import digest_bytes
from datagen.common.errors import StorageError
from datagen.common.files import storage_errors
from datagen.flows.seen import SIGNATURE, Pack, Seen, packed, signature_of, signatures_of
from datagen.layout import BuildLayout

RACY_S = 2.0
_FILE, _ID = "state.sqlite", 0x63666163  # SQLite's application id: by it a file is known to be ours
_JOURNAL = re.compile(r"journal-[A-Za-z0-9._-]+-\d+-[0-9a-f]{8}\.jsonl")
_JOURNAL_HEAD = '{"format": "canonface-journal", "version": 1}\n'
_GROUPS_KEPT = 64
_PENDING = 2000  # entries that are written at a time
_AT_ONCE = 16  # groups whose files are looked at in one go, so that threads seldom wait for each other
_LOOKING = 4  # threads
_PACKS = 8  # of a group, before they are made one
T = TypeVar("T")
_RECKLESS = "PRAGMA synchronous=OFF"  # what a power cut takes is found again


def _changed_s(root: Path, paths: Iterable[str]) -> float:
    """Return when the latest of paths was changed."""
    latest = 0
    for path in paths:
        with suppress(OSError):
            latest = max(latest, os.stat(path if path[0] == os.sep else f"{root}{os.sep}{path}").st_mtime_ns)
    return latest / 1e9


def is_racy(changed_s: float, read_s: float) -> bool:
    """Whether a file that was changed at one time and read at another may have been changed again unseen."""
    return changed_s > read_s - RACY_S


class StateIndex:
    """What is known of the files of a build; see :func:`state_index`.

    Attributes
    ----------
    check_inputs : bool
        Whether inputs are read all the same.
    deep : bool
        Whether the finished dataset is checked byte by byte.
    generation : int
        Another number whenever something new is known of results.
    finished : set
        Tasks that this run found finished: it does not look again.
    settled : bool
        Whether nobody changes results for now: what was found unchanged is not looked at again.
    """

    def __init__(
        self,
        layout: BuildLayout,
        *,
        check_inputs: bool = False,
        deep: bool = False,
        writes: bool = True,
        journals: bool = False,
    ) -> None:
        self.layout, self.check_inputs, self.deep = layout, check_inputs, deep
        self.writes, self.journals = writes, journals
        self.generation = 0
        self.finished: set[Hashable] = set()
        self.settled = False
        self._unchanged: dict[str, set[str]] = {}
        # Files of the group that was looked at last: the frames of a sequence share some.
        self._looked: tuple[str, dict[str, bytes]] = "", {}
        self._memo: dict[str, tuple[str, int, object]] = {}
        self._lock = threading.RLock()
        # As it is stored until somebody asks for it: of some groups, one name of a hundred is wanted.
        self._groups: OrderedDict[str, dict[str, Seen | _Packed]] = OrderedDict()
        self._pending: dict[str, dict[str, Seen]] = {}
        self._pending_count = 0
        self._base: sqlite3.Connection | None = None

    def get(self, group: str, name: str) -> Seen | None:
        """Return what is known of a name in a group; whether it still holds is another question."""
        with self._lock:
            return _unpacked(self._group(group), name)

    def holding(self, group: str, name: str) -> Seen | None:
        """Return what is known of a name in a group, if the files are what they were."""
        seen = self.get(group, name)
        if seen is None or (self.settled and name in self._unchanged.get(group, ())):
            return seen
        if self._looked[0] != group:
            self._looked = group, {}
        if signature_of(self.layout.root, seen.paths, self._looked[1] if self.settled else None) != seen.signature:
            return None
        if self.settled:
            # Names are few, groups are many.
            self._unchanged.setdefault(group, set()).add(sys.intern(name))
        return seen

    def all_holding(self, group: str, names: Sequence[str]) -> list[str | None]:
        """Return what was found under each name in a group, None where the files are not what they were."""
        with self._lock:
            known = self._group(group)
            found = [known.get(name) for name in names]
        unchanged = self._unchanged.get(group, set())
        held: dict[int, list[str | None]] = {}
        told: list[str | None] = []
        for name, seen in zip(names, found, strict=True):
            if not isinstance(seen, tuple) or isinstance(seen, Seen) or name in unchanged:
                one = self.holding(group, name) if seen is not None else None
                told.append(one.told if one is not None else None)
                continue
            pack, place = seen
            if id(pack) not in held:
                held[id(pack)] = pack.holding(self.layout.root)
            text = held[id(pack)][place]
            told.append(text)
            if self.settled and text is not None:
                unchanged.add(sys.intern(name))
        if self.settled:
            self._unchanged[group] = unchanged
        return told

    def settle(self, settled: bool) -> None:
        """Say whether nobody changes results for now."""
        self.settled = settled
        self._unchanged = {}

    def put(self, group: str, name: str, seen: Seen) -> None:
        """Remember what is known from now on."""
        with self._lock:
            before = self.get(group, name)
            self._group(group)[name] = seen
            self._unchanged.get(group, set()).discard(name)
            if before is None or before.told != seen.told:
                self.generation += 1
            self._await(group, name, seen)

    def note(self, group: str, name: str, told: str) -> None:
        """Remember what was made of what is known, and is as good as that."""
        self._note(group, name, Seen((), b"\0" * SIGNATURE, told))

    def _note(self, group: str, name: str, seen: Seen) -> None:
        with self._lock:
            self._group(group)[name] = seen
            self._await(group, name, seen)

    def note_of(self, group: str, name: str, told: str, made_of: Seen) -> None:
        """Remember what was made of all that :meth:`as_one` gave: it holds as long as no file of that changes."""
        self._note(group, name, made_of._replace(told=f"{made_of.told} {told}"))

    def as_one(self, known: Sequence[Seen]) -> tuple[list[bool], Seen | None]:
        """Return of several what is known whether it holds, and if all of it does, all their files as one group."""
        signatures, of_all = signatures_of(self.layout.root, known)
        held = [signature == seen.signature for seen, signature in zip(known, signatures, strict=True)]
        if not all(held):
            return held, None
        return held, Seen(tuple(path for seen in known for path in seen.paths), of_all, _made_of(known))

    def ahead(self, groups: Iterable[str], name: str) -> Generator[Seen | None, None, None]:
        """Yield what is known under a name of one group after another, None where a file is not what it was.

        Threads look at the files of the next few meanwhile: a disk and a network answer many at once.
        """

        def begun(some: Sequence[str]) -> tuple[list[Seen], Future[tuple[list[bytes], bytes]]]:
            known = [self.get(group, name) or _UNKNOWN for group in some]
            return known, pool.submit(signatures_of, self.layout.root, known)

        def ended(known: list[Seen], looked: Future[tuple[list[bytes], bytes]]) -> Iterator[Seen | None]:
            for seen, signature in zip(known, looked.result()[0], strict=True):
                yield seen if signature == seen.signature else None

        with ThreadPoolExecutor(_LOOKING) as pool:
            waiting, left = deque[tuple[list[Seen], Future[tuple[list[bytes], bytes]]]](), iter(groups)
            while some := list(islice(left, _AT_ONCE)):
                waiting.append(begun(some))
                if len(waiting) > _LOOKING:
                    yield from ended(*waiting.popleft())
            for each in waiting:
                yield from ended(*each)

    def told_of(self, seen: Seen, of: str, names: Sequence[str]) -> str:
        """Return what :meth:`note_of` was told, whose files are what they were.

        Parameters
        ----------
        of, names : str and sequence of str
            What it was made of.
        """
        made_of, _, told = seen.told.partition(" ")
        if self.settled:
            known = self.known(of, names)
            # What was learnt of other files since then is not borne out by these.
            if known is not None and _made_of(known) == made_of:
                self._unchanged.setdefault(of, set()).update(map(sys.intern, names))
        return told

    def known(self, group: str, names: Sequence[str]) -> list[Seen] | None:
        """Return what is known under each of some names, whether it holds or not; None if one is not known."""
        with self._lock:
            group_known = self._group(group)
            known = [seen for name in names if (seen := _unpacked(group_known, name)) is not None]
        return known if len(known) == len(names) else None

    def remembered(self, kind: str, name: str, make: Callable[[], T]) -> T:
        """Return what was made of results, made again if any of them changed since; of each kind, the latest only."""
        known = self._memo.get(kind)
        if known is None or known[:2] != (name, self.generation):
            made = make()
            known = self._memo[kind] = (name, self.generation, made)
        return cast(T, known[2])

    def changed(self) -> None:
        """Say that results may have changed by the hands of other processes."""
        with self._lock:
            self.generation += 1

    def _await(self, group: str, name: str, seen: Seen) -> None:
        self._pending.setdefault(group, {})[name] = seen
        # By what they take: of the files of a whole sequence there are few.
        self._pending_count += 1 + len(seen.paths) // 16
        if self._pending_count >= _PENDING:
            self._flush()

    def _group(self, group: str) -> dict[str, Seen | _Packed]:
        found = self._groups.get(group)
        if found is None:
            # What is on its way to the file already is the latest.
            found = self._groups[group] = {**self._read(group), **self._pending.get(group, {})}
            while len(self._groups) > _GROUPS_KEPT:
                self._groups.popitem(last=False)
        else:
            self._groups.move_to_end(group)
        return found

    def _read(self, group: str) -> dict[str, Seen | _Packed]:
        found: dict[str, Seen | _Packed] = {}
        if self._base is None:
            return found
        packs: list[tuple[int, bytes]] = []
        with suppress(sqlite3.Error):
            packs = self._base.execute(
                "SELECT number, data FROM packs WHERE place = ? ORDER BY number", (group,)
            ).fetchall()
        for _, data in packs:
            with suppress(ValueError):  # damaged
                pack = Pack(data)
                found.update(zip(pack.names, zip(repeat(pack), count()), strict=False))
        if len(packs) > _PACKS and self.writes:
            names = list(found)
            with suppress(sqlite3.Error), self._base:
                self._base.execute("DELETE FROM packs WHERE place = ?", (group,))
                self._write(group, names, [seen for name in names if (seen := _unpacked(found, name)) is not None])
        return found

    def _write(self, group: str, names: Sequence[str], known: Sequence[Seen]) -> None:
        assert self._base is not None
        self._base.execute("INSERT INTO packs (place, data) VALUES (?, ?)", (group, packed(names, known)))

    def open(self) -> None:
        """Open what earlier runs left, and take in what workers wrote.

        Nothing is made where there is nothing: a build that is refused leaves no trace.

        Raises
        ------
        StorageError
            If a file that is not ours is in its place, or the disk refuses.
        """
        if not self.layout.plan.is_dir():
            return
        with storage_errors(f"reading {self.layout.plan}"):
            self._connect()
            if self.writes:
                for journal in _journals(self.layout):
                    entries = _read_journal(journal)
                    if entries is not None:
                        for entry in entries:
                            self._await(*entry)
                        self._flush()
                        journal.unlink(missing_ok=True)

    def _connect(self) -> None:
        path = self.layout.plan / _FILE
        if os.path.lexists(path) and not _is_ours(path):
            if not self.writes:
                return
            raise StorageError(
                f"{path} is in the way, and not what this program keeps there", "a place for it", "Move it away"
            )
        if not self.writes:
            with suppress(sqlite3.Error):
                self._base = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, check_same_thread=False)
            return
        for attempt in (path, path, Path(":memory:")):
            try:
                self._base = _connect(attempt)
                return
            except sqlite3.Error:  # damaged, or on a file system that it cannot lock: it is no loss
                with suppress(OSError):
                    path.unlink(missing_ok=True)

    def close(self) -> None:
        """Write what is not written yet."""
        with self._lock:
            self._flush()
            if self._base is not None:
                self._base.close()
                self._base = None

    def _flush(self) -> None:
        pending, self._pending, self._pending_count = self._pending if self.writes else {}, {}, 0
        if self._base is None and pending and self.layout.plan.is_dir():
            self._connect()
        if self._base is not None and pending:
            with suppress(sqlite3.Error), self._base:
                for group, known in pending.items():
                    self._write(group, list(known), list(known.values()))


_UNKNOWN = Seen((), b"", "")


def _made_of(known: Iterable[Seen]) -> str:
    return digest_bytes(b"".join(seen.signature for seen in known)).sha256


_Packed = tuple[Pack, int]


def _unpacked(known: dict[str, Seen | _Packed], name: str) -> Seen | None:
    found = known.get(name)
    if found is None or isinstance(found, Seen):
        return found
    pack, place = found
    seen = known[name] = pack.seen(place)
    return seen


def _connect(path: Path) -> sqlite3.Connection:
    base = sqlite3.connect(path, check_same_thread=False, timeout=5)
    try:
        base.execute(_RECKLESS)
        base.execute(f"PRAGMA application_id={_ID}")
        base.execute("DROP TABLE IF EXISTS seen")  # of earlier versions
        base.execute("CREATE TABLE IF NOT EXISTS packs (number INTEGER PRIMARY KEY, place TEXT, data BLOB)")
        base.execute("CREATE INDEX IF NOT EXISTS places ON packs (place)")
        base.execute("SELECT count(*) FROM (SELECT 1 FROM packs LIMIT 1)").fetchone()
    except sqlite3.Error:
        base.close()
        raise
    return base


def _is_ours(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with open(path, "rb") as file:
        head = file.read(72)
    return not head or (head.startswith(b"SQLite format 3\0") and head[68:72] == _ID.to_bytes(4, "big"))


def _journals(layout: BuildLayout) -> list[Path]:
    named = (path for path in layout.plan.iterdir() if _JOURNAL.fullmatch(path.name))
    return sorted(path for path in named if path.is_file() and not path.is_symlink())


def _read_journal(path: Path) -> list[tuple[str, str, Seen]] | None:
    """Return what a journal tells; None if it is somebody else's file."""
    found = []
    with open(path, errors="replace") as file:
        if file.readline() != _JOURNAL_HEAD:
            return None
        for line in file:
            with suppress(ValueError, KeyError, TypeError):  # the last line of a process that was killed
                entry = json.loads(line)
                signature = bytes.fromhex(entry["signature"])
                if len(signature) != SIGNATURE:
                    continue
                seen = Seen(tuple(map(str, entry["paths"])), signature, str(entry["told"]))
                found.append((str(entry["group"]), str(entry["name"]), seen))
    return found


_OPEN: dict[Path, StateIndex] = {}
_JOURNAL_LOCK = threading.Lock()
_OWN_NAMES: dict[Path, tuple[int, Path]] = {}


@contextmanager
def state_index(layout: BuildLayout, *, check_inputs: bool = False, deep: bool = False) -> Iterator[StateIndex]:
    """Know the files of a build for as long as the block runs; whoever enters holds the build folder.

    Parameters
    ----------
    check_inputs : bool
        Whether every input is read again, whatever is known of it.
    deep : bool
        Whether the dataset is checked byte by byte at the end.

    Raises
    ------
    StorageError
        If a file that is not ours is in the way, or the disk refuses.
    """
    with _opened(StateIndex(layout, check_inputs=check_inputs, deep=deep)) as index:
        yield index


@contextmanager
def reading_index(layout: BuildLayout, *, journals: bool = False) -> Iterator[None]:
    """Know what a build knows of its files, and leave that as it is: others may be working there.

    Parameters
    ----------
    journals : bool
        Whether what is learnt goes to a journal, for the next build.
    """
    if open_index(layout.root) is not None:
        yield
        return
    with _opened(StateIndex(layout, writes=False, journals=journals)):
        yield


@contextmanager
def _opened(index: StateIndex) -> Iterator[StateIndex]:
    index.open()
    layout = index.layout
    before = _OPEN.get(layout.root)
    _OPEN[layout.root] = index
    # Collecting garbage goes through whatever lives, again and again while a million frames are planned. What is there
    # by now, modules and heads, stays.
    gc.freeze()
    try:
        yield index
    finally:
        gc.unfreeze()
        if before is None:
            _OPEN.pop(layout.root, None)
        else:
            _OPEN[layout.root] = before
        index.close()


def open_index(root: Path) -> StateIndex | None:
    """Return what this process knows of a build; None outside of :func:`state_index`."""
    return _OPEN.get(root)


def remember(root: Path, group: str, name: str, seen: Seen) -> None:
    """Remember what is known of files: in this process's index, or in a journal for the next build."""
    index = open_index(root)
    if index is not None:
        index.put(group, name, seen)
        if not index.journals:
            return
    plan = BuildLayout(root).plan
    if not plan.is_dir():
        return
    entry: Mapping[str, object] = {
        "group": group,
        "name": name,
        "paths": seen.paths,
        "signature": seen.signature.hex(),
        "told": seen.told,
    }
    # A journal that cannot be written is no reason to stop the work.
    with suppress(OSError), _JOURNAL_LOCK:
        path = _own_journal(plan)
        with open(path, "a") as file:
            if not file.tell():
                file.write(_JOURNAL_HEAD)
            file.write(json.dumps(entry) + "\n")


def _own_journal(plan: Path) -> Path:
    process, path = _OWN_NAMES.get(plan, (0, plan))
    if process != os.getpid():
        host = re.sub(r"[^A-Za-z0-9._-]", "_", socket.gethostname()) or "host"
        path = plan / f"journal-{host}-{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
        _OWN_NAMES[plan] = os.getpid(), path
    return path


def look(root: Path, group: str, name: str) -> Seen | None:
    """Return what is known of files if it still holds; None where they have to be read."""
    index = open_index(root)
    return None if index is None else index.holding(group, name)


def read_and_remember(
    root: Path, group: str, name: str, paths: Iterable[str], told: str, *, read_s: float | None
) -> None:
    """Remember what was found in files, unless one of them may have changed since unseen.

    Parameters
    ----------
    read_s : float or None
        When reading began, on this machine's clock; None for files that this process has just written itself.
    """
    above = f"{root}{os.sep}"
    listed = tuple(path.removeprefix(above) if path.startswith(above) else os.path.abspath(path) for path in paths)
    signature = signature_of(root, listed)
    if read_s is None or not is_racy(_changed_s(root, listed), read_s):
        remember(root, group, name, Seen(listed, signature, told))


def clock_s() -> float:
    """The time, as files are stamped with it."""
    return time.time()
