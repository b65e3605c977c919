"""One bridge per topology of registrations: found before any frame is warped, stored, and trusted from the disk."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datagen.audit.bridge_picture import bridge_picture
from datagen.audit.pictures import png_bytes
from datagen.common.errors import InputError
from datagen.common.files import DISK_ERRORS, storage_errors
from datagen.flows.planning import BuildPlan
from datagen.flows.records import ResultRecord, Stored, check_result_folder, content_key, store_result
from datagen.flows.stage import Stage, StageStatus, Unit
from datagen.flows.worker import open_captures, prepared_head, shared_head
from datagen.heads.base import HeadTemplate
from datagen.heads.registry import HEADS
from datagen.layout import BRIDGE_PICTURE, RECORD, BuildLayout
from datagen.manifest import Manifest
from datagen.sources.topology import Topology, topology_of
from datagen.warp.bridge import Bridge, bridge_key, build_bridge
from datagen.warp.result import BRIDGE_FILE, VERDICT_FILE
from datagen.warp.storage import bridge_bytes, read_bridge, verdict_bytes


class StoredBridge(Stored[Bridge]):
    """A bridge; its key says what it was made of."""

    what = "bridge"

    @staticmethod
    def read(folder: Path, template: HeadTemplate) -> Bridge:
        """Read it from its folder."""
        return read_bridge(folder, template)


@dataclass(frozen=True)
class BridgeUnit(Unit):
    """One bridge to be found.

    Attributes
    ----------
    topology : str
    stored : StoredBridge
        Where it goes.
    """

    topology: str
    stored: StoredBridge

    @property
    def name(self) -> str:
        """The topology's."""
        return self.topology


class BridgeStage(Stage[BridgeUnit, int]):
    """Finds the bridges from the topologies of registrations to the canonical one."""

    name = "bridge"
    counts = "topologies"
    doing = "finding the bridge of"

    def applies(self, plan: BuildPlan) -> bool:
        """Whether there are registrations in another topology than the canonical one."""
        return bool(bridged_topologies(plan))

    def plan(self, plan: BuildPlan, layout: BuildLayout) -> list[BridgeUnit]:
        """Return one unit for each topology."""
        bridges = stored_bridges(plan, layout)
        return [BridgeUnit(layout.root, plan.manifest, name, stored) for name, stored in bridges.items()]

    def finished(self, unit: BridgeUnit) -> bool:
        """Whether the bridge is whole."""
        return unit.stored.finished

    def make(self, unit: BridgeUnit) -> int:
        """Find and store a bridge; return 1 if it had to be found.

        Raises
        ------
        WarpError
            If the topology cannot be bridged.
        """
        if self.finished(unit):
            return 0
        manifest = unit.manifest
        topology = _topology(manifest, unit.layout, unit.topology)
        check_bridge_folder(unit.stored)
        head = prepared_head(manifest.canonical.head, manifest.head_root, None)
        store_bridge(unit.stored, topology, build_bridge(topology, head))
        return 1

    def stale(self, layout: BuildLayout, units: Sequence[BridgeUnit]) -> list[Path]:
        """Return the bridges that the build does not use: the report must cover this build only."""
        used = {unit.stored.folder for unit in units}
        return [folder for folder in sorted(layout.bridges.glob("*")) if folder not in used and folder.is_dir()]

    def status(self, plan: BuildPlan, layout: BuildLayout) -> StageStatus:
        """Count the topologies with a bridge."""
        names = bridged_topologies(plan)
        missing = [name for name in names if not any(layout.bridges.glob(f"{glob.escape(name)}-*/{RECORD}"))]
        return self._status(len(names), missing, "not found yet")


def bridged_topologies(plan: BuildPlan) -> list[str]:
    """Names of the topologies whose registrations need a bridge to the canonical one."""
    if not plan.manifest.warp.use_registration:
        return []
    return sorted({s.registration for s in plan.sequences if s.registration} - {plan.manifest.canonical.head})


def stored_bridges(plan: BuildPlan, layout: BuildLayout) -> dict[str, StoredBridge]:
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
    return {name: stored_bridge(layout.bridges, _topology(manifest, layout, name), template) for name in names}


def stored_bridge(folder: Path, topology: Topology, template: HeadTemplate) -> StoredBridge:
    """Return where the bridge from a topology to a template belongs under ``folder``."""
    return kept_bridge(folder, topology.name, content_key(bridge_key(topology, template)))


def kept_bridge(folder: Path, topology: str, key: str) -> StoredBridge:
    """Return where the bridge of a topology with this content key belongs under ``folder``."""
    return StoredBridge(folder / f"{topology}-{key[:12]}", key)


def store_bridge(stored: StoredBridge, topology: Topology, bridge: Bridge) -> None:
    """Write a bridge with its picture.

    Raises
    ------
    StorageError
        If something that is not ours is in the way, or the disk refuses.
    """
    contents = {
        BRIDGE_FILE: bridge_bytes(bridge),
        VERDICT_FILE: verdict_bytes(bridge.verdict),
        BRIDGE_PICTURE: png_bytes(bridge_picture(bridge, topology)),
    }
    with storage_errors(f"writing {stored.folder}", only=DISK_ERRORS):
        store_result(stored.folder, ResultRecord(stored.key, topology.digest, bridge.verdict.status, (), {}), contents)


def check_bridge_folder(stored: StoredBridge) -> None:
    """Refuse a folder with files of the names of a bridge's that are not ours.

    Raises
    ------
    StorageError
        Naming them.
    """
    check_result_folder(stored.folder, (BRIDGE_FILE, VERDICT_FILE, BRIDGE_PICTURE))


def _topology(manifest: Manifest, layout: BuildLayout, name: str) -> Topology:
    if name in HEADS:
        root_of_head = manifest.registration_root
        if root_of_head is None and HEADS[name].root is not None:
            raise InputError(
                f"the registrations are in the topology of {name}, which is not shipped, and no folder was given",
                str(HEADS[name].root),
                "Pass --set source.head_root=FOLDER, or --set warp.use_registration=false to start from landmarks",
            )
        return topology_of(shared_head(name, root_of_head).template)
    return open_captures(manifest.source, layout.captures).topology(name)
