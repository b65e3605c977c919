"""``orchestrate``: planning, carrying tasks and finding that all is done, of builds whose units do no work."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.goal import judged, verdict
from datagen.commands.options import JsonOption
from datagen.common.console import print_json, table
from datagen.common.errors import InputError
from datagen.common.files import json_ready

RUNNERS = ("threads", "dask", "serial")
DEMO = Path(__file__).resolve().parents[2] / "manifests" / "demo.yaml"


def orchestrate_command(
    frames: Annotated[str, typer.Option(help="Sizes of builds, in frames, separated by commas.")] = "10000,100000",
    cameras: Annotated[int, typer.Option(min=1, max=64, help="Of every capture.")] = 1,
    whole_up_to: Annotated[
        int, typer.Option(min=0, help="Builds of more frames are planned only, from results written without a build.")
    ] = 100_000,
    runners: Annotated[str, typer.Option(help=f"To be timed, of {', '.join(RUNNERS)}.")] = "threads,dask",
    tasks: Annotated[int, typer.Option(min=1, max=100_000, help="Tasks that each runner carries.")] = 400,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Of each runner.")] = 2,
    demo: Annotated[bool, typer.Option("--demo", help="Build the demo instead: how much of it is no work.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Plan, build and resume builds whose captures and results are a few bytes a file, 100 frames a sequence.

    ``plan_s`` is the time until all units of all stages are known, shards included, and ``driver_gib`` the most memory
    of the process, both of the largest size; ``resume_s`` the time in which a finished build finds that nothing is
    left to do, of the largest that is built. ``first_result_s`` and ``overhead_ms_*`` are of tasks of no work, from the
    beginning of their stage. ``scaling`` is the largest exponent of a cost over the number of frames: seconds, calls
    of the file system, pickled bytes. ``*_cpu_s`` are
    seconds of the processor. Nothing is fsynced. Exit code 0 whether or not goals are met.

    With ``--demo``, manifests/demo.yaml is built on threads, and nothing else measured: ``orchestration_share`` is the
    share of its clock that its workers did not spend on units, nor the build on its check and report.

    Example: python -m benchmarks orchestrate --frames 10000,100000,1000000 --json
    """
    from benchmarks.orchestrate.measure import run_orchestrate_bench

    if demo:
        _tell(_demo(workers), [], json_output)
        return
    sizes, carriers = _numbers(frames), [name for name in runners.split(",") if name]
    unknown = [name for name in carriers if name not in RUNNERS]
    if unknown:
        raise InputError(f"--runners names {unknown[0]!r}", f"some of {', '.join(RUNNERS)}", "Correct --runners")
    figures, found = run_orchestrate_bench(
        sizes, cameras, whole_up_to, carriers, tasks, workers, lambda line: print(line, file=sys.stderr)
    )
    _tell(figures, found, json_output)


def _demo(workers: int) -> dict[str, float]:
    from benchmarks.orchestrate.share import measure_share
    from datagen.flows.runners.contract import RunnerConfig
    from datagen.manifest import load_manifest

    with tempfile.TemporaryDirectory(prefix="canonface-bench-") as folder:
        return measure_share(load_manifest(DEMO), RunnerConfig("threads", workers), Path(folder) / "build")


def _tell(figures: dict[str, float], sizes: list[dict[str, float]], json_output: bool) -> None:
    from benchmarks.orchestrate.figures import GOALS

    goals = judged(GOALS, figures)
    if json_output:
        print_json({"figures": json_ready(figures), "goals": goals, "sizes": json_ready(sizes)})
        return
    table([(name, f"{value:<8.4g} {verdict(goals.get(name))}".rstrip()) for name, value in figures.items()])


def _numbers(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) >= 2 for part in parts):
        raise InputError(f"--frames is {text!r}", "numbers of frames, 2 or more, separated by commas", "Correct it")
    return [int(part) for part in parts]


def register(group: typer.Typer) -> None:
    """Add this command."""
    group.command("orchestrate")(orchestrate_command)
