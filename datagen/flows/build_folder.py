"""Whether a folder may be built in: one that is empty, or this build's own, and by one process at a time.

A build claims its folder before it writes anything else there: its listing names the manifest, and what lies in the
folder without a listing is somebody else's, whatever its name.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from datagen.common.errors import InputError, StorageError
from datagen.common.files import folder_lock, is_temporary, make_folders, storage_errors
from datagen.common.ownership import LISTING, listed, refuse_strangers
from datagen.common.settings import flatten
from datagen.flows.part_lease import BUILD, held_lease
from datagen.flows.planning import BuildPlan
from datagen.flows.stages import STAGES
from datagen.flows.state_index import state_index
from datagen.layout import BuildLayout
from datagen.manifest import Manifest
from datagen.shards.lease import only_writer
from datagen.shards.store import LocalStore
from datagen.sources.registry import SOURCES, Source

# A Prefect server, logs and records need some room before the first result does.
ROOM_BYTES = 8 * 2**20
_SHOWN = 3


def check_folder(layout: BuildLayout, manifest: Manifest, *, replace: bool = False) -> dict[str, Any]:
    """Refuse a folder with other people's files, or with the build of another dataset.

    Two manifests are of one dataset if they agree in name, in the captures they start from (kind, folder or head, seed
    of a simulation) and in the canonical head. All else may change between runs: what no longer fits is made again.

    Parameters
    ----------
    layout : BuildLayout
    manifest : Manifest
    replace : bool
        Whether the build of another dataset may be replaced.

    Returns
    -------
    dict
        The recipe of the earlier build of this dataset, as plain data; empty if there is none.

    Raises
    ------
    StorageError
    """
    root = layout.root
    if not root.is_dir():
        return {}
    if not layout.manifest.is_file():
        _refuse_foreign(layout)
        return {}
    try:
        earlier = _content(layout)
    except StorageError:
        if replace:
            return {}
        raise
    before, now = _identity(earlier), _identity(layout.told(manifest).model_dump(mode="json"))
    changed = [name for name in now if before.get(name) != now[name]]
    if changed and replace:
        return {}
    if changed:
        shown = ", ".join(f"{name} {before.get(name)!r}, now {now[name]!r}" for name in changed[:_SHOWN])
        raise StorageError(
            f"{root} holds the build of another dataset ({shown})",
            "an empty folder, or one that an earlier run of this manifest made",
            "Choose another --out, or pass --replace to have that dataset replaced",
        )
    return earlier


def check_places(plan: BuildPlan, layout: BuildLayout) -> None:
    """Refuse, before anything is done, files that are in the way of a stage's results and not ours.

    A quick look, at names and lengths: whoever replaces a file looks at its bytes.

    Raises
    ------
    StorageError
        Naming them.
    """
    with storage_errors(f"reading {layout.root}"):
        applied = [stage for stage in STAGES if stage.applies(plan)]
        refuse_strangers(path for stage in applied for path in stage.strangers(plan, layout))


def check_room(root: Path) -> None:
    """Refuse a disk that has no room even for what is written before the first result.

    Raises
    ------
    StorageError
        If the disk is full, read-only or refuses.
    """
    with storage_errors(f"writing to {root}"):
        make_folders(root)
        probe = root / f".probe.tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        try:
            with open(probe, "wb") as file:
                file.write(b"\0" * ROOM_BYTES)
                file.flush()
                os.fsync(file.fileno())
        finally:
            probe.unlink(missing_ok=True)


@contextmanager
def build_lock(layout: BuildLayout, *, check_inputs: bool = False, deep: bool = False) -> Iterator[None]:
    """Hold a build folder against other builds, and its dataset against pushes and merges into it.

    What is known of its files is known for as long: see :func:`datagen.flows.state_index.state_index`.

    Raises
    ------
    StorageError
        If another process holds it (its process id is in the message), or the folder cannot be written.
    """

    def busy(holder: str) -> StorageError:
        return StorageError(
            f"another build is working in {layout.root} (process {holder})",
            "one build at a time in one folder",
            "Wait until it ends, stop it, or choose another --out",
        )

    with ExitStack() as held:
        # The kernel's lock is dropped however the process ends; where there is none, or several machines, a lease
        # tells, which parts of stages look at too.
        locked = held.enter_context(folder_lock(layout.lock, busy))
        held.enter_context(held_lease(layout, BUILD, alone_here=locked))
        if layout.dataset.is_dir():
            held.enter_context(only_writer(LocalStore(layout.dataset)))
        held.enter_context(state_index(layout, check_inputs=check_inputs, deep=deep))
        yield


def _refuse_foreign(layout: BuildLayout) -> None:
    with storage_errors(f"reading {layout.root}"):
        # Without a listing, `report` or `captures` are no more ours than anything else.
        known = {layout.lock.name, layout.leases.name} | (
            set() if listed(layout.root) is None else {LISTING, *layout.own_names()}
        )
        strange = sorted(p.name for p in layout.root.iterdir() if p.name not in known and not is_temporary(p.name))
    if strange:
        more = f" and {len(strange) - _SHOWN} more" if len(strange) > _SHOWN else ""
        raise StorageError(
            f"{layout.root} is not a build folder and is not empty: it holds {', '.join(strange[:_SHOWN])}{more}",
            "an empty or new folder, or one that an earlier run made",
            "Choose another --out",
        )


def _content(layout: BuildLayout) -> dict[str, Any]:
    try:
        return layout.manifest_content()
    except InputError:
        raise StorageError(
            f"{layout.manifest} is not the manifest of a build",
            "what `datagen build` wrote",
            "Choose another --out, or remove the file",
        ) from None


def _identity(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return what makes two manifests recipes of one dataset."""
    flat = flatten(manifest)
    source = SOURCES.get(str(flat.get("source.kind")), Source)
    keys = ("name", "source.kind", "source.root", "canonical.head", *source.identity)
    return {key: flat.get(key) for key in keys}
