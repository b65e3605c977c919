"""What is told of a run of the benchmark, and what it has to reach."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from benchmarks.goal import Goal

if TYPE_CHECKING:
    from benchmarks.orchestrate.measure import CarriedTasks

GOALS = (
    Goal("plan_s", 30.0),
    Goal("driver_gib", 1.0),
    Goal("first_result_s", 3.0),
    Goal("overhead_ms_threads", 5.0),
    Goal("overhead_ms_dask", 30.0),
    Goal("resume_s", 20.0),
    Goal("scaling", 1.1),
    Goal("orchestration_share", 0.05),
)
_GROWS = ("plan_s", "plan_calls", "pickled_mib", "resume_s", "resume_calls", "build_calls")


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return the exponent of the power law between the smallest and the largest size; NaN of fewer than two."""
    known = [(size, cost) for size, cost in zip(sizes, costs, strict=True) if cost > 0 and not math.isnan(cost)]
    if len(known) < 2 or known[0][0] == known[-1][0]:
        return math.nan
    (small, low), (large, high) = known[0], known[-1]
    return math.log(high / low) / math.log(large / small)


def figures_of(sizes: Sequence[Mapping[str, float]], carried: Mapping[str, CarriedTasks]) -> dict[str, float]:
    """Return the figures: of the largest size, of the largest that was built, and the largest exponent of any cost."""
    frames = [size["frames"] for size in sizes]
    grows = {name: exponent(frames, [size.get(name, math.nan) for size in sizes]) for name in _GROWS}
    largest = sizes[-1]
    built = [size for size in sizes if "resume_s" in size]
    return {
        "plan_s": largest["plan_s"],
        "plan_cpu_s": largest["plan_cpu_s"],
        "driver_gib": largest["driver_gib"],
        "task_bytes": largest["task_bytes"],
        "resume_s": built[-1]["resume_s"] if built else math.nan,
        "resume_cpu_s": built[-1]["resume_cpu_s"] if built else math.nan,
        "resume_frames": built[-1]["frames"] if built else math.nan,
        "first_result_s": max((found.first_result_s for found in carried.values()), default=math.nan),
        "overhead_ms_threads": carried["threads"].overhead_ms if "threads" in carried else math.nan,
        "overhead_ms_dask": carried["dask"].overhead_ms if "dask" in carried else math.nan,
        "scaling": max((value for value in grows.values() if not math.isnan(value)), default=math.nan),
        **{f"scaling_{name}": value for name, value in grows.items()},
    }
