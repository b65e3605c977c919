"""The simulation of captures, where a build has no others."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from datagen.common.ownership import strangers
from datagen.flows.planning import BuildPlan
from datagen.flows.stage import Stage, StageStatus, Unit
from datagen.flows.worker import shared_head
from datagen.layout import BuildLayout
from datagen.simulation.plan import SequencePlan, is_simulated, plan_sequences, simulate_sequence
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


class SimulateStage(Stage[SimulateUnit, int]):
    """Simulates captures, and their truth apart."""

    name = "simulate"
    counts = "sequences"
    doing = "simulating"

    def applies(self, plan: BuildPlan) -> bool:
        """Whether the source is simulated."""
        return plan.manifest.source.simulated_head is not None

    def plan(self, plan: BuildPlan, layout: BuildLayout) -> list[SimulateUnit]:
        """Return one unit for each capture."""
        manifest = plan.manifest
        if not isinstance(manifest.source, SimulatedSource):
            return []
        captures = plan_sequences(manifest.source, manifest.seed)
        return [SimulateUnit(layout.root, manifest, capture) for capture in captures]

    def finished(self, unit: SimulateUnit) -> bool:
        """Whether capture and truth are there, made from the same plan."""
        head = shared_head(unit.capture.config.head, unit.capture.config.root)
        return is_simulated(unit.capture, unit.layout.captures, unit.layout.truth, head.template.digest)

    def make(self, unit: SimulateUnit) -> int:
        """Simulate one capture; return 1 if it had to be."""
        # Loaded once per process, however many threads ask.
        shared_head(unit.capture.config.head, unit.capture.config.root)
        return int(simulate_sequence(unit.capture, unit.layout.captures, unit.layout.truth))

    def strangers(self, plan: BuildPlan, layout: BuildLayout) -> list[Path]:
        """Return what is where captures go that have to be made, and is not ours."""
        found = []
        for unit in self.plan(plan, layout):
            key = unit.capture.key
            folders = [layout.captures / key.subject / key.sequence, truth_path(layout.truth, key, 0).parent]
            if any(map(os.path.lexists, folders)) and not self.finished(unit):
                found += [path for folder in folders for path in strangers(folder, look=False)]
        return found

    def status(self, plan: BuildPlan, layout: BuildLayout) -> StageStatus:
        """Count the captures that are there."""
        keys = [sequence.key for sequence in plan.sequences]
        missing = [str(k) for k in keys if not (layout.captures / k.subject / k.sequence / CAPTURE_FILE).is_file()]
        return self._status(len(keys), missing, "not simulated yet")
