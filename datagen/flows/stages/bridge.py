"""One bridge per topology of registrations: found before any frame is warped, stored, and trusted from the disk."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from datagen.audit.bridge_picture import bridge_picture
from datagen.audit.pictures import write_png
from datagen.common.blas import use_one_blas_thread
from datagen.common.errors import InputError
from datagen.common.files import disk_refusals
from datagen.flows.planning import BuildPlan
from datagen.flows.records import ResultRecord, Stored, content_key, digest_files, write_result_record
from datagen.flows.worker import prepared_head, shared_head
from datagen.heads.base import HeadTemplate
from datagen.heads.registry import HEAD_NAMES, WHAT_GOES_WHERE
from datagen.layout import BRIDGE_PICTURE, RECORD, BuildLayout
from datagen.manifest import Manifest
from datagen.sources.folder import FolderCaptures
from datagen.sources.topology import Topology, topology_of
from datagen.warp.bridge import Bridge, bridge_key, build_bridge
from datagen.warp.result import BRIDGE_FILE, VERDICT_FILE
from datagen.warp.storage import read_bridge, write_bridge


class StoredBridge(Stored[Bridge]):
    """A bridge; its key says what it was made of."""

    what = "bridge"

    @staticmethod
    def read(folder: Path, template: HeadTemplate) -> Bridge:
        """Read it from its folder."""
        return read_bridge(folder, template)


@dataclass(frozen=True)
class BridgeTask:
    """One task of the bridge stage.

    Attributes
    ----------
    root : Path
        The build folder.
    manifest : Manifest
    topology : str
    stored : StoredBridge
        Where it goes.
    """

    root: Path
    manifest: Manifest
    topology: str
    stored: StoredBridge

    @property
    def name(self) -> str:
        """Name used in messages."""
        return self.topology


def bridged_topologies(plan: BuildPlan) -> list[str]:
    """Names of the topologies whose registrations need a bridge to the canonical one."""
    if not plan.manifest.warp.use_registration:
        return []
    return sorted({s.registration for s in plan.sequences if s.registration} - {plan.manifest.canonical.head})


def plan_bridges(plan: BuildPlan, layout: BuildLayout) -> dict[str, BridgeTask]:
    """Return the bridges a build needs, by topology: none where all registrations are in the canonical one.

    Raises
    ------
    InputError
        If a topology is not known, or its files are missing or broken.
    """
    manifest, names = plan.manifest, bridged_topologies(plan)
    if not names:
        return {}
    template = shared_head(manifest.canonical.head, manifest.head_root).template
    tasks = {}
    for name in names:
        topology = _topology(manifest, layout.root, name)
        tasks[name] = BridgeTask(layout.root, manifest, name, stored_bridge(layout.bridges, topology, template))
    return tasks


def stored_bridge(folder: Path, topology: Topology, template: HeadTemplate) -> StoredBridge:
    """Return where the bridge from a topology to a template belongs under ``folder``."""
    key = content_key(bridge_key(topology, template))
    return StoredBridge(folder / f"{topology.name}-{key[:12]}", key)


def bridge_of(bridges: Mapping[str, BridgeTask], registration: str | None) -> StoredBridge | None:
    """Return the bridge that registrations of a head model or topology pass, None where they need none."""
    task = bridges.get(registration or "")
    return task.stored if task else None


def make_bridge(task: BridgeTask) -> bool:
    """Find and store the bridge of a task unless it is finished; return whether it had to be found.

    Raises
    ------
    WarpError
        If the topology cannot be bridged.
    StorageError
        If the disk refuses.
    """
    use_one_blas_thread()
    if task.stored.finished:
        return False
    manifest = task.manifest
    topology = _topology(manifest, task.root, task.topology)
    head = prepared_head(manifest.canonical.head, manifest.head_root, None)
    store_bridge(task.stored, topology, build_bridge(topology, head))
    return True


def store_bridge(stored: StoredBridge, topology: Topology, bridge: Bridge) -> None:
    """Write a bridge with its picture, the record last.

    Raises
    ------
    StorageError
        If the disk refuses.
    """
    with disk_refusals(f"writing {stored.folder}"):
        if stored.folder.is_dir():
            (stored.folder / RECORD).unlink(missing_ok=True)
        write_bridge(stored.folder, bridge)
        write_png(stored.folder / BRIDGE_PICTURE, bridge_picture(bridge, topology))
        files = digest_files(stored.folder, (BRIDGE_FILE, VERDICT_FILE, BRIDGE_PICTURE))
        record = ResultRecord(stored.key, topology.digest, bridge.verdict.status, (), files)
        write_result_record(stored.folder, record)


def remove_stale_bridges(layout: BuildLayout, bridges: Mapping[str, BridgeTask]) -> None:
    """Remove bridges the build does not use: the report must speak of this build only."""
    used = {task.stored.folder for task in bridges.values()}
    for folder in sorted(layout.bridges.glob("*")):
        if folder not in used and folder.is_dir():
            (folder / RECORD).unlink(missing_ok=True)
            shutil.rmtree(folder)


def _topology(manifest: Manifest, root: Path, name: str) -> Topology:
    if name in HEAD_NAMES:
        root_of_head = manifest.registration_root
        if root_of_head is None and name in WHAT_GOES_WHERE:
            raise InputError(
                f"the registrations are in the topology of {name}, which is not shipped, and no folder was given",
                WHAT_GOES_WHERE[name],
                "Pass --set source.head_root=FOLDER, or --set warp.use_registration=false to start from landmarks",
            )
        return topology_of(shared_head(name, root_of_head).template)
    return FolderCaptures(BuildLayout(root).captures_of(manifest)).topology(name)
