"""The registered head of every frame: the frame tables of a dataset, and the template they are read by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from datagen.flows.history import Stored
from datagen.flows.planning import BuildPlan
from datagen.flows.shard_plan import ShardWork, expected_shards, missing_shards, plan_shards, stored_frames
from datagen.flows.stage import Stage, StageStatus
from datagen.flows.worker import shared_contents
from datagen.layout import BuildLayout
from datagen.shards.faces import FrameRow
from datagen.shards.schema import TEMPLATE
from datagen.shards.store import LocalStore
from datagen.shards.writer import write_frames, write_template
from datagen.warp.frames import frame_row
from datagen.warp.storage import read_warp


@dataclass(frozen=True)
class FacesUnit(ShardWork):
    """One shard of a frame table, or the template.

    Attributes
    ----------
    frames : tuple of (sequence, frame)
        In the order they are stored; empty for the template.
    """

    frames: tuple[Stored, ...]

    @property
    def weight(self) -> int:
        """Number of frames."""
        return len(self.frames)


class FacesStage(Stage[FacesUnit, int]):
    """Stores the registered head of every frame that has a sample."""

    name = "faces"
    counts = "frames"
    doing = "storing"

    def plan(self, plan: BuildPlan, layout: BuildLayout) -> tuple[FacesUnit, ...]:
        """Return one unit for each shard, and one for the template."""
        planned = plan_shards(plan, layout)
        return tuple(
            FacesUnit(layout.root, plan.manifest, planned.dataset, each.shard, each.content_key, each.frames)
            for each in planned.faces
        )

    def finished(self, unit: FacesUnit) -> bool:
        """Whether the shard is whole and of these warps."""
        return unit.complete

    def make(self, unit: FacesUnit) -> int:
        """Write one shard; return the number of rows written.

        Raises
        ------
        InputError
            If captures or warps changed since the shard was planned.
        """
        if self.finished(unit):
            return 0
        root, dataset = unit.layout.dataset, unit.dataset
        if unit.shard.group == TEMPLATE:
            manifest = unit.manifest
            contents = shared_contents(manifest.canonical.head, manifest.head_root, manifest.warp.subdivisions)
            write_template(root, dataset, unit.shard, unit.content_key, contents)
        else:
            write_frames(root, dataset, unit.shard, unit.content_key, _rows(unit))
        return len(unit.frames)

    def status(self, plan: BuildPlan, layout: BuildLayout) -> StageStatus:
        """Count the shards of the frames that are stored; those without a verdict yet are taken to pass."""
        shards = expected_shards(plan, layout, stored_frames(plan, layout), faces=True)
        missing, _ = missing_shards(LocalStore(layout.dataset), shards)
        return StageStatus(
            self.name,
            "shards",
            len(shards) - len(missing),
            len(shards),
            tuple(missing),
            "not stored yet" if missing else "",
        )


def _rows(unit: FacesUnit) -> Iterator[FrameRow]:
    captures, head = unit.captures(), unit.head()
    for key, index in unit.frames:
        warp = read_warp(unit.layout.frame_warp(key, index))
        time_s = captures.frame(key, index).time_s
        yield frame_row(warp, head, subject=key.subject, sequence=key.sequence, frame=index, time_s=time_s)
