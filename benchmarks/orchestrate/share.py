"""How much of a build's time its workers do not spend on units."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datagen.flows.runners.contract import RunnerConfig
    from datagen.manifest import Manifest

# Done by the build itself, one thread at a time: work on the dataset, not orchestration.
OF_THE_BUILD = ("verify", "report")


def orchestration_share(clock_s: float, workers: int, units_s: Iterable[float], own_s: float) -> float:
    """Return the share of a build's clock that its workers waited or coordinated.

    Parameters
    ----------
    clock_s : float
        From the call to its end.
    workers : int
        Units at a time.
    units_s : iterable of float
        Seconds of every unit that workers made.
    own_s : float
        Seconds of stages that the build does itself.
    """
    return 1 - (sum(units_s) / workers + own_s) / clock_s


def measure_share(manifest: Manifest, config: RunnerConfig, out: Path) -> dict[str, float]:
    """Build a dataset, and return what of its clock went where.

    Returns
    -------
    dict
        ``orchestration_share``; ``build_s``, the clock; ``units_s``, seconds in units by the journal in ``plan/``;
        ``own_s``, those of the check and the report; ``begin_s`` until the first stage (planning, head model, server).
    """
    from datagen.flows.build import build
    from datagen.flows.work_log import WorkRead
    from datagen.layout import BuildLayout

    first: list[float] = []

    def observe(_stage: str, _done: int, _total: int) -> None:
        if not first:
            first.append(time.perf_counter())

    began = time.perf_counter()
    result = build(manifest, out, config, observer=observe)
    clock_s = time.perf_counter() - began
    read = WorkRead(BuildLayout(result.root))
    read.look()
    units_s = [work.all.seconds for stage, work in read.stages.items() if stage not in OF_THE_BUILD]
    own_s = sum(result.seconds.get(stage, 0.0) for stage in OF_THE_BUILD)
    workers = 1 if config.name == "serial" else config.worker_count
    return {
        "orchestration_share": orchestration_share(clock_s, workers, units_s, own_s),
        "build_s": clock_s,
        "units_s": sum(units_s),
        "own_s": own_s,
        "begin_s": first[0] - began,
        "stages_s": sum(result.seconds.values()),
    }
