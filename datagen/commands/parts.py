"""``finish`` and ``submit``: builds in parts, without a scheduler of our own."""

from __future__ import annotations

from typing import Annotated

import typer

from datagen.commands.build import LogOption, MetricsOption, WorkersOption, log_as, report_result
from datagen.commands.options import BuildArgument, JsonOption
from datagen.common.console import print_json, say
from datagen.common.help import App


def finish_command(
    out: BuildArgument,
    workers: WorkersOption = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Check every byte of the dataset at the end, as `datagen verify` does.")
    ] = False,
    log: LogOption = "text",
    metrics_port: MetricsOption = None,
    json_output: JsonOption = False,
) -> None:
    """Finish a build whose parts have run: frame tables, checks and report. Says which part is missing, if one is.

    Exit code 1 as for `datagen build`.

    Example: datagen finish runs/mine
    """
    log_as(log)
    from datagen.flows.parts import finish_build
    from datagen.flows.runners.contract import RunnerConfig
    from datagen.flows.watchers import watched

    with watched(log, metrics_port) as watcher:
        result = finish_build(out, RunnerConfig("serial", workers), deep=deep, watcher=watcher)
    report_result(result, out, json_output=json_output)


def slurm_command(
    out: BuildArgument,
    partition: Annotated[str, typer.Option(help="Partition; default: the cluster's.")] = "",
    account: Annotated[str, typer.Option(help="Account; default: yours.")] = "",
    array_size: Annotated[int, typer.Option(min=1, max=100_000, help="Parts of a stage, at most.")] = 100,
    throttle: Annotated[int, typer.Option(min=0, help="Parts at a time; 0: as many as there is room for.")] = 0,
    cpus: Annotated[int, typer.Option(min=1, max=1024, help="Of each part.")] = 1,
    memory: Annotated[str, typer.Option(help="Of each part, such as 4G; default: the cluster's.")] = "",
    time: Annotated[str, typer.Option(help="Longest time of a part, such as 04:00:00.")] = "",
    gpus: Annotated[int, typer.Option(min=0, max=64, help="Of each part that renders.")] = 0,
    sbatch: Annotated[list[str] | None, typer.Option(help="Another option of sbatch, as it is; repeatable.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write the scripts, submit nothing.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Write a build's array jobs, each waiting for the one before it, and submit them.

    The plan has to be frozen (`datagen plan MANIFEST --freeze OUT`). The scripts lie in OUT/plan/slurm, and so do their
    logs. Build folder and captures have to be on a file system that all nodes see under the same path.

    Example: datagen submit slurm runs/mine --partition cpu --array-size 200 --throttle 50
    """
    import sys

    from datagen.flows.slurm import SlurmOptions, submit_to_slurm
    from datagen.layout import BuildLayout

    options = SlurmOptions(partition, account, array_size, throttle, cpus, memory, time, gpus, tuple(sbatch or ()))
    layout = BuildLayout(out.resolve())
    numbers = submit_to_slurm(layout, options, lambda line: say(line, to=sys.stderr), dry_run=dry_run)
    if json_output:
        print_json(numbers)
    else:
        say("\n".join(f"{name} {number}" for name, number in numbers.items()) or "nothing submitted")


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("finish")(finish_command)
    group = App(help="Submit a build to a cluster.")
    group.command("slurm")(slurm_command)
    app.add_typer(group, name="submit")
