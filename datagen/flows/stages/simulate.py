"""The simulation of captures, where a build has no others."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from datagen.common.errors import InputError
from datagen.common.ownership import strangers
from datagen.flows.plan_store import refer
from datagen.flows.planning import BuildPlan
from datagen.flows.stage import Reference, Stage, StageStatus, Unit
from datagen.flows.worker import shared_head
from datagen.layout import BuildLayout
from datagen.simulation.plan import SequencePlan, is_simulated, plan_sequence, simulate_sequence
from datagen.sources.capture_file import CAPTURE_FILE
from datagen.sources.registry import SimulatedSource
from datagen.sources.truth import truth_path


@dataclass(frozen=True)
class SimulateUnit(Unit):
    """One capture to be simulated.

    Attributes
    ----------
    capture : SequencePlan
    """

    capture: SequencePlan

    @property
    def name(self) -> str:
        """Subject and sequence."""
        return str(self.capture.key)


@dataclass(frozen=True)
class SimulateReference(Reference):
    """One capture to be simulated, by the number of its subject."""

    subject: int

    @property
    def name(self) -> str:
        """Subject and sequence."""
        return str(self.unit.capture.key)

    @property
    def unit(self) -> SimulateUnit:
        """The capture's plan."""
        manifest = self.planned.manifest
        if not isinstance(manifest.source, SimulatedSource):
            raise InputError(f"the source is {manifest.source.kind}", "simulated", "Run `datagen build` again")
        return SimulateUnit(self.root, manifest, plan_sequence(manifest.source, manifest.seed, self.subject))


class SimulateStage(Stage[SimulateUnit | SimulateReference, int]):
    """Simulates captures, and their truth apart."""

    name = "simulate"
    counts = "sequences"
    doing = "simulating"

    def applies(self, plan: BuildPlan) -> bool:
        """Whether the source is simulated."""
        return plan.manifest.source.simulated_head is not None

    def plan(self, plan: BuildPlan, layout: BuildLayout) -> list[SimulateReference]:
        """Return one for each capture."""
        source = plan.manifest.source
        if not isinstance(source, SimulatedSource):
            return []
        digest = refer(plan, layout)
        tasks = [SimulateReference(layout.root, digest, subject) for subject in range(source.subjects)]
        if not plan.chosen:
            return tasks
        keys = {str(info.key) for info in plan.sequences}
        return [task for task in tasks if task.name in keys]

    def finished(self, unit: SimulateUnit | SimulateReference) -> bool:
        """Whether capture and truth are there, made from the same plan."""
        unit = unit.unit
        head = shared_head(unit.capture.config.head, unit.capture.config.root)
        return is_simulated(unit.capture, unit.layout.captures, unit.layout.truth, head.template.digest)

    def make(self, unit: SimulateUnit | SimulateReference) -> int:
        """Simulate one capture; return 1 if it had to be."""
        unit = unit.unit
        # Loaded once per process, however many threads ask.
        shared_head(unit.capture.config.head, unit.capture.config.root)
        return int(simulate_sequence(unit.capture, unit.layout.captures, unit.layout.truth))

    def strangers(self, plan: BuildPlan, layout: BuildLayout) -> list[Path]:
        """Return what is where captures go that have to be made, and is not ours."""
        found = []
        for unit in self.plan(plan, layout):
            key = unit.unit.capture.key
            folders = [layout.captures / key.subject / key.sequence, truth_path(layout.truth, key, 0).parent]
            if any(map(os.path.lexists, folders)) and not self.finished(unit):
                found += [path for folder in folders for path in strangers(folder, look=False)]
        return found

    def status(self, plan: BuildPlan, layout: BuildLayout) -> StageStatus:
        """Count the captures that are there."""
        keys = [sequence.key for sequence in plan.sequences]
        missing = [str(k) for k in keys if not (layout.captures / k.subject / k.sequence / CAPTURE_FILE).is_file()]
        return self._status(len(keys), missing, "not simulated yet")
