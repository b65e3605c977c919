"""Captures of an object store, brought into the build folder: whole objects, and of these only what changed.

They lie in ``inputs/<bucket>/<prefix>/``, where every worker sees them. An index, to which lines are only ever added,
names each copy before it is there: what it does not name is somebody else's, and is never replaced.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

from datagen.common.errors import InputError, MissingObjectError, StorageError
from datagen.common.files import atomic_write, claim_folder, make_folders, remove_half_written, storage_errors
from datagen.common.ownership import refuse_strangers
from datagen.common.progress import Progress
from datagen.flows.build_folder import build_lock
from datagen.flows.choice import Choice
from datagen.flows.folder_plan import NO_CHOICE, plan_in
from datagen.layout import BuildLayout
from datagen.manifest import Manifest
from datagen.shards.store import Found, ObjectStore, check_key
from datagen.sources.capture_file import CAPTURE_FILE
from datagen.sources.registry import RecordedSource
from datagen.sources.topology import FOLDER as TOPOLOGIES
from datagen.sources.whereabouts import url_of

INDEX = ".index.jsonl"  # no bucket is called so
AT_ONCE = 16
_HEADER = {"format": "canonface-inputs", "version": 1}
_ROOM = 2**20  # bytes beside the objects


@dataclass(frozen=True)
class _Copy:
    """What the index says of a copy: length and tag of its object, and the file's time in nanoseconds."""

    size: int
    tag: str
    time_ns: int

    def is_at(self, path: Path) -> bool:
        """Whether a file is this copy, by length and time."""
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return (found.st_size, found.st_mtime_ns) == (self.size, self.time_ns)


def brought(
    layout: BuildLayout,
    manifest: Manifest,
    choice: Choice = NO_CHOICE,
    stream: TextIO | None = None,
    *,
    afresh: bool = False,
) -> Manifest:
    """Bring the captures that a recipe has in an object store, and return the recipe with the folder they are in.

    Any other recipe is returned as it is. Of a build of some frames, only the sequences are brought that hold them, as
    far as these can be told without reading more.

    Parameters
    ----------
    choice : Choice
        Which frames are to be built.
    stream : text stream, optional
        Where progress goes; standard error by default.
    afresh : bool
        Whether nothing that was decided before counts; see :func:`datagen.flows.folder_plan.plan_in`.

    Raises
    ------
    datagen.common.errors.InputError
        If the URL is none, holds no objects, or objects whose keys can be no files.
    datagen.common.errors.DependencyError
        If the package for object stores is not installed.
    datagen.common.errors.StorageError
        If the store refuses, does not answer, or loses an object meanwhile; if the disk has no room or refuses; if a
        file is in the way that is no copy; if another build is working in the folder.
    """
    local, source = layout.local(manifest), manifest.source
    if local is manifest or not isinstance(source, RecordedSource):
        return manifest
    store = ObjectStore(url_of(source.root))
    objects = _objects(store)
    if not layout.manifest.is_file():
        claim_folder(layout.root, beside=(layout.lock.name, layout.leases.name))
    with build_lock(layout):
        copies = _Copies(layout, store, objects, stream)
        copies.remove_gone()
        # Which frames are chosen, and how large heads are, is told by files of all frames.
        if choice and source.select is None and source.scale == "given":
            copies.bring(key for key in objects if _describes(key))
            chosen = {f"{info.key}" for info in plan_in(layout, local, choice, afresh=afresh).sequences}
            copies.bring(key for key in objects if "/".join(key.split("/")[:2]) in chosen)
        else:
            copies.bring(objects)
    return local


def _describes(key: str) -> bool:
    """Whether an object belongs to what a plan is made of."""
    parts = key.split("/")
    return parts[0] == TOPOLOGIES or parts[-1] == CAPTURE_FILE


def _objects(store: ObjectStore) -> dict[str, Found]:
    """List a store; without the empty objects that some tools have stand for folders."""
    found = store.found()
    folders = {key.rpartition("/")[0] for key in found}
    for folder in tuple(folders):
        while folder := folder.rpartition("/")[0]:
            folders.add(folder)
    objects = {key: one for key, one in found.items() if one.size or key not in folders}
    if not objects:
        raise InputError(
            f"the captures {store.url} hold no objects", "<subject>/<sequence>/capture.json", "Correct source.root"
        )
    for key in objects:
        check_key(key)
        if key in folders:
            raise InputError(
                f"{store.url}/{key} is an object, and there are others below it, as if it were a folder",
                "keys that can be files of one folder",
                "Rename the object",
            )
    return objects


class _Copies:
    """The copies in a build folder, and the store they are of.

    Parameters
    ----------
    objects : mapping of key to Found
        All that the store has.
    """

    def __init__(
        self, layout: BuildLayout, store: ObjectStore, objects: Mapping[str, Found], stream: TextIO | None
    ) -> None:
        self._inputs, self._store, self._objects, self._stream = layout.inputs, store, objects, stream
        self._prefix = store.url.partition("://")[2]
        self._index = layout.inputs / INDEX
        self._lock = threading.Lock()
        with storage_errors(f"reading {self._index}"):
            self._copies = self._read()

    def _read(self) -> dict[str, list[_Copy]]:
        """Return what the index says of each file of the folder, the latest last; half a line is of a killed run."""
        copies: dict[str, list[_Copy]] = {}
        if not self._index.is_file():
            return copies
        for line in self._index.read_text(errors="replace").splitlines():
            try:
                name, size, tag, time_ns = json.loads(line)
                copies.setdefault(name, []).append(_Copy(size, tag, time_ns))
            except (ValueError, TypeError):
                continue
        return copies

    def _path(self, name: str) -> Path:
        return self._inputs / name

    def _name(self, key: str) -> str:
        return f"{self._prefix}/{key}"

    def _is_whole(self, key: str) -> bool:
        known, found = self._copies.get(self._name(key)), self._objects[key]
        if not known or (known[-1].size, known[-1].tag) != (found.size, found.tag):
            return False
        return known[-1].is_at(self._path(self._name(key)))

    def _strangers(self, names: Iterable[str]) -> list[Path]:
        """Return files in the way that are no copies, or were changed since."""
        paths = {self._path(name): self._copies.get(name, ()) for name in names}
        return [
            path for path, known in paths.items() if os.path.lexists(path) and not any(one.is_at(path) for one in known)
        ]

    def remove_gone(self) -> None:
        """Remove copies of objects that are no more, and of other captures that this folder was built from."""
        there = set(map(self._name, self._objects))
        gone = [name for name in self._copies if name not in there and os.path.lexists(self._path(name))]
        refuse_strangers(self._strangers(gone))
        for name in gone:
            path = self._path(name)
            with storage_errors(f"removing {path}"):
                path.unlink()
                for folder in path.relative_to(self._inputs).parents:
                    with suppress(OSError):  # it holds something else
                        (self._inputs / folder).rmdir()

    def bring(self, keys: Iterable[str]) -> None:
        """Have these objects in the folder; what is whole is left alone."""
        missing = [key for key in keys if not self._is_whole(key)]
        if not missing:
            return
        refuse_strangers(self._strangers(map(self._name, missing)))
        self._check_room(missing)
        by_folder: dict[Path, list[str]] = {}
        for key in missing:
            path = self._path(self._name(key))
            by_folder.setdefault(path.parent, []).append(path.name)
        for folder, names in by_folder.items():
            with storage_errors(f"reading {folder}"):
                remove_half_written(folder, names)
        with self._progress(len(missing)) as progress, ThreadPoolExecutor(AT_ONCE, "fetch") as pool:
            futures = [pool.submit(self._fetch, key) for key in missing]
            try:
                for future in futures:
                    future.result()
                    progress.advance(1)
            finally:
                # After an error nothing more begins.
                pool.shutdown(wait=True, cancel_futures=True)

    def _progress(self, count: int) -> Progress:
        return Progress(f"fetching {self._store.url}", count, "objects", self._stream)

    def _check_room(self, keys: Collection[str]) -> None:
        wanted = sum(self._objects[key].size for key in keys) + _ROOM
        with storage_errors(f"making {self._inputs}"):
            make_folders(self._inputs)
            free = shutil.disk_usage(self._inputs).free
        if wanted > free:
            raise StorageError(
                f"the captures {self._store.url} need {wanted / 2**20:.0f} MiB in {self._inputs}, "
                f"whose disk has {free / 2**20:.0f} MiB left",
                "a disk that holds a copy of the captures",
                "Free some space, or build some of the frames (--only); what was fetched is kept",
            )

    def _fetch(self, key: str) -> None:
        name = self._name(key)
        got: list[Found] = []

        def write(file: BinaryIO) -> None:
            got.append(self._store.copy(key, file))

        def claim(temporary: Path) -> None:
            self._append(name, _Copy(got[0].size, got[0].tag, temporary.stat().st_mtime_ns))

        try:
            atomic_write(self._path(name), write, before=claim)
        except MissingObjectError:
            raise StorageError(
                f"{self._store.url}/{key} is gone since the captures were listed",
                "captures that stay as they are while they are fetched",
                "Run the same command again, once nobody changes them",
            ) from None

    def _append(self, name: str, copy: _Copy) -> None:
        """Name a copy, durably, before it is there."""
        line = json.dumps([name, copy.size, copy.tag, copy.time_ns]) + "\n"
        with self._lock:
            is_new = not self._index.exists()
            with open(self._index, "ab") as file:
                # What was killed may have left half a line.
                file.write((json.dumps(_HEADER) if is_new else "").encode() + b"\n" + line.encode())
                file.flush()
                os.fsync(file.fileno())
            self._copies.setdefault(name, []).append(copy)
