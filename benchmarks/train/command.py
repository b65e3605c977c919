"""``train``: frames a second, memory and waiting for data of training steps, by length of clip."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from datagen.commands.options import JsonOption
from datagen.common.console import print_json
from trainer.config import load_config


def train_command(
    dataset: Annotated[
        Path | None,
        typer.Argument(help="A dataset.zarr folder, or a build folder that holds one; without: random numbers."),
    ] = None,
    config: Annotated[
        str, typer.Option("--config", "-c", help="A YAML file, or: tiny, demo, small, base, large, giant.")
    ] = "small",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the configuration.")
    ] = None,
    frames: Annotated[
        str | None, typer.Option("--frames", help="Lengths of clips, such as 1,2,4,8; default: the configuration's.")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps that are timed at each length.")] = 10,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.0, help="About how long each measurement may take at each length.")
    ] = 30.0,
    size: Annotated[
        int | None, typer.Option("--size", min=14, help="Pixels a side, without a dataset; default: 504.")
    ] = None,
    against: Annotated[
        Literal["depth-anything-3"] | None,
        typer.Option("--against", help="Also time the network of this package, if it is importable."),
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Measure training: frames per second, memory, and whether the data keeps up, by length of clip.

    Example: python -m benchmarks train runs/mine --config small --frames 1,4,8,16 --set data.workers=8
    """
    settings = load_config(config, overrides or ())
    lengths = _lengths(frames)
    from benchmarks.train.result import as_json as content
    from benchmarks.train.result import as_text
    from benchmarks.train.run import BenchPlan, run_bench

    plan = BenchPlan(dataset, lengths, steps, seconds, device, size, against is not None)
    result = run_bench(plan, settings)
    if as_json:
        print_json(content(result))
    else:
        print("\n".join(as_text(result)))


def _lengths(text: str | None) -> tuple[int, ...]:
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise typer.BadParameter(f"--frames {text}: numbers of 1 or more, separated by commas")
    return tuple(int(part) for part in parts)


def register(group: typer.Typer) -> None:
    """Add this command."""
    group.command("train")(train_command)
