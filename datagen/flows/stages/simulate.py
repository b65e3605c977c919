"""The simulation of one capture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from datagen.common.blas import use_one_blas_thread
from datagen.common.files import DISK_ERRORS, storage_errors
from datagen.flows.worker import shared_head
from datagen.layout import BuildLayout
from datagen.simulation.plan import SequencePlan, simulate_sequence


@dataclass(frozen=True)
class SimulateTask:
    """One task of the simulation stage.

    Attributes
    ----------
    root : Path
        The build folder.
    plan : SequencePlan
    """

    root: Path
    plan: SequencePlan

    @property
    def name(self) -> str:
        """Name used in messages."""
        return str(self.plan.key)


def simulate(task: SimulateTask) -> None:
    """Simulate a capture and its truth, unless they are finished.

    Raises
    ------
    StorageError
        If the disk refuses.
    """
    layout = BuildLayout(task.root)
    use_one_blas_thread()
    with storage_errors(f"simulating {task.name}", only=DISK_ERRORS):
        shared_head(task.plan.config.head, task.plan.config.root)
        simulate_sequence(task.plan, layout.captures, layout.truth)
