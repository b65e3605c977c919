"""The registered head of every frame: the frame tables of a dataset, and the template they are read by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from datagen.flows.history import Stored
from datagen.flows.made import Made
from datagen.flows.plan_store import refer
from datagen.flows.planning import BuildPlan
from datagen.flows.shard_plan import expected_shards, missing_shards, plan_shards
from datagen.flows.shard_store import ShardReference, ShardWork, freeze_shards, refer_to_shards
from datagen.flows.stage import Stage, StageStatus
from datagen.flows.stored_frames import stored_frames
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

    @property
    def sources(self) -> tuple[Stored, ...]:
        """None: warps are all that is read, and times of sequences."""
        return ()


@dataclass(frozen=True)
class FacesReference(ShardReference):
    """One shard of a frame table, or the template."""

    @property
    def weight(self) -> int:
        """Number of frames."""
        return 0 if self.shard.group == TEMPLATE else self.shard.samples

    @property
    def unit(self) -> FacesUnit:
        """The shard itself."""
        planned, shards = self.planned, self.planned_shards
        frames = shards.frames(self.number)
        return FacesUnit(self.root, planned.manifest, shards.dataset, self.shard, self.content_key, frames)


class FacesStage(Stage[FacesUnit | FacesReference, int]):
    """Stores the registered head of every frame that has a sample."""

    name = "faces"
    counts = "frames"
    doing = "storing"
    makes_results = False

    def plan(self, plan: BuildPlan, layout: BuildLayout) -> tuple[FacesReference, ...]:
        """Return one for each shard, and one for the template."""
        planned = plan_shards(plan, layout)
        digests = refer(plan, layout), refer_to_shards(planned, layout)
        return tuple(
            FacesReference(layout.root, *digests, number, each.shard, each.content_key)
            for number, each in enumerate(planned.faces, len(planned.shards))
        )

    def begin(self, plan: BuildPlan, layout: BuildLayout) -> None:
        """Write what tasks refer to."""
        super().begin(plan, layout)
        freeze_shards(plan_shards(plan, layout), layout)

    def finished(self, unit: FacesUnit | FacesReference) -> bool:
        """Whether the shard is whole and of these warps."""
        return unit.complete

    def known(self, unit: FacesUnit | FacesReference) -> bool:
        """Whether the build's index knows that."""
        return unit.known_complete

    def make(self, unit: FacesUnit | FacesReference) -> int:
        """Write one shard; return the number of rows written.

        Raises
        ------
        InputError
            If captures or warps changed since the shard was planned.
        """
        if self.finished(unit):
            return 0
        unit = unit.unit
        root, dataset = unit.layout.dataset, unit.dataset
        if unit.shard.group == TEMPLATE:
            manifest = unit.manifest
            contents = shared_contents(manifest.canonical.head, manifest.head_root, manifest.warp.subdivisions)
            record = write_template(root, dataset, unit.shard, unit.content_key, contents)
        else:
            record = write_frames(root, dataset, unit.shard, unit.content_key, _rows(unit))
        unit.checked(record)
        return len(unit.frames)

    def made(self, unit: FacesUnit | FacesReference) -> list[Made]:
        """Return the shard's key."""
        return [unit.unit.made]

    def disown(self, unit: FacesUnit | FacesReference) -> None:
        """Have the shard written again."""
        unit.unit.disown()

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
