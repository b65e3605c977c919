"""The last stages of a build: the shards become a dataset whose every byte is checked, and the report is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from datagen.audit.report import write_report
from datagen.common.errors import CanonfaceError
from datagen.common.files import write_owned_bytes
from datagen.common.ownership import strangers
from datagen.flows.history import is_partial
from datagen.flows.plan_store import prune
from datagen.flows.planning import BuildPlan
from datagen.flows.records import content_key
from datagen.flows.shard_plan import plan_shards
from datagen.flows.shard_store import shard_is_known
from datagen.flows.stage import Stage, StageStatus, Unit
from datagen.flows.stages.render import RenderStage
from datagen.flows.state_index import open_index
from datagen.flows.stored_frames import NO_VIEW, LeftOutCamera, stored_frames
from datagen.layout import BuildLayout
from datagen.shards import VerifyReport, finalise, open_dataset, read_record, verify_dataset
from datagen.shards.plan import DatasetPlan
from datagen.shards.store import LocalStore


@dataclass(frozen=True)
class VerifyUnit(Unit):
    """The dataset.

    Attributes
    ----------
    dataset : DatasetPlan
    verdicts : mapping of status to number of frames
    left_out : int
        Frames with a usable verdict that give no view.
    cameras : tuple of LeftOutCamera
    plans : tuple of str
        Digests of the frozen plans that stay, all others being of earlier runs; if none are named, all stay.
    """

    dataset: DatasetPlan
    verdicts: Mapping[str, int]
    left_out: int
    cameras: tuple[LeftOutCamera, ...]
    plans: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its name in messages."""
        return "the dataset"


class VerifyStage(Stage[VerifyUnit, VerifyReport]):
    """Turns the shards into a dataset and checks it, in every run.

    Shards that were checked when they were written, or by an earlier run, and whose files are what they were, are not
    read again unless the build is told to.
    """

    name = "verify"
    counts = "dataset"
    doing = "finishing"
    carried = False

    def plan(self, plan: BuildPlan, layout: BuildLayout) -> list[VerifyUnit]:
        """Return the one dataset."""
        shards = plan_shards(plan, layout)
        frames = shards.frames
        left_out = frames.left_out.get(NO_VIEW, 0)
        # Where some frames are tried, parts of the whole build may have their plan there.
        plans = (plan.digest, shards.digest) if not plan.chosen else ()
        return [
            VerifyUnit(layout.root, plan.manifest, shards.dataset, frames.verdicts, left_out, frames.cameras, plans)
        ]

    def finished(self, unit: VerifyUnit) -> bool:
        """Never: bytes that were whole may be damaged by now."""
        del unit
        return False

    def make(self, unit: VerifyUnit) -> VerifyReport:
        """Write the dataset's root and verify it.

        Raises
        ------
        StorageError
            If a shard is missing.
        """
        path = unit.layout.dataset
        finalise(path, unit.dataset, [read_record(LocalStore(path), shard) for shard in unit.dataset.units])
        index = open_index(unit.root)
        if index is not None and unit.plans:
            prune(unit.layout, unit.plans)
        if index is None or index.deep:
            return verify_dataset(path)
        return verify_dataset(path, known=partial(shard_is_known, unit.root))

    def status(self, plan: BuildPlan, layout: BuildLayout) -> StageStatus:
        """Say whether there is a dataset that opens."""
        root = f"{layout.dataset.name}/zarr.json"
        try:
            dataset = open_dataset(layout.dataset)
        except CanonfaceError as error:
            waiting = RenderStage().status(plan, layout).missing
            return self._status(1, [root], "waiting for shards" if waiting else error.found)
        if is_partial(dataset.plan.manifest) and not plan.chosen:
            return self._status(1, [root], "it holds chosen frames only (--only, --limit)")
        return self._status(1, [], "")


@dataclass(frozen=True)
class ReportUnit(Unit):
    """The report.

    Attributes
    ----------
    key : str
        Content key of the warps and the dataset it describes.
    """

    key: str

    @property
    def name(self) -> str:
        """Its name in messages."""
        return "the report"


class ReportStage(Stage[ReportUnit, int]):
    """Writes the audit report, unless the one on disk describes the same warps and dataset."""

    name = "report"
    counts = "page"
    doing = "writing"
    carried = False

    def plan(self, plan: BuildPlan, layout: BuildLayout) -> list[ReportUnit]:
        """Return the one report."""
        # A digest of each sequence's: a list of a million keys would be as large as all else.
        results = stored_frames(plan, layout).results
        told = [(str(sequence.key), digest) for sequence, digest in zip(plan.sequences, results, strict=True)]
        key = content_key({"dataset": open_dataset(layout.dataset).uuid, "sequences": told})
        return [ReportUnit(layout.root, plan.manifest, key)]

    def finished(self, unit: ReportUnit) -> bool:
        """Whether the page is there, and of these warps and this dataset."""
        page, key = unit.layout.report_page, unit.layout.report_key
        return page.is_file() and key.is_file() and key.read_bytes().strip() == unit.key.encode()

    def make(self, unit: ReportUnit) -> int:
        """Write the page; return 1 if that had to be done."""
        if self.finished(unit):
            return 0
        write_report(unit.root)
        write_owned_bytes(unit.layout.report_key, f"{unit.key}\n".encode())
        return 1

    def strangers(self, plan: BuildPlan, layout: BuildLayout) -> list[Path]:
        """Return what is in the report's folder, which is replaced as a whole, and is not ours."""
        del plan
        return strangers(layout.report, look=False)

    def status(self, plan: BuildPlan, layout: BuildLayout) -> StageStatus:
        """Say whether there is a page."""
        del plan
        page = layout.report_page
        return self._status(1, [] if page.is_file() else [page.relative_to(layout.root).as_posix()], "")
