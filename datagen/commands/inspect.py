"""``verify``, ``stats`` and ``inspect``: looking at a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from datagen.commands.options import JsonOption, print_json, table
from datagen.errors import InputError

DatasetArgument = Annotated[Path, typer.Argument(help="A dataset.zarr folder, or the build folder that holds one.")]

INSPECT_PX = 280


def dataset_path(path: Path) -> Path:
    """Return the dataset of a build folder, or the path itself."""
    inside = path / "dataset.zarr"
    return inside if inside.is_dir() else path


def verify_command(
    dataset: DatasetArgument,
    quick: Annotated[bool, typer.Option("--quick", help="Metadata, lengths and index only, no bytes.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Check a dataset's structure, records, bytes and values; exit code 1 if anything is wrong.

    Example: datagen verify runs/demo/dataset.zarr
    """
    from datagen.shards import verify_dataset

    report = verify_dataset(dataset_path(dataset), deep=not quick)
    if json_output:
        print_json(report.to_json())
    else:
        for problem in report.problems:
            print(problem)
        examined = ", ".join(f"{count} {name}" for name, count in report.counts.items())
        print(f"{'ok' if report.ok else f'{len(report.problems)} problems'}: {examined}")
    if not report.ok:
        raise SystemExit(1)


def stats_command(dataset: DatasetArgument, json_output: JsonOption = False) -> None:
    """Print counts, coverage and value distributions of a dataset.

    Example: datagen stats runs/demo/dataset.zarr --json
    """
    from datagen.shards import stats

    content = stats(dataset_path(dataset))
    if json_output:
        print_json(content)
    else:
        for line in outline(content):
            print(line)


def outline(content: Any, indent: int = 0) -> list[str]:
    """Return nested data as indented lines, numbers to four digits."""
    pad, lines = "  " * indent, []
    for name, value in content.items():
        if isinstance(value, dict):
            lines += [f"{pad}{name}", *outline(value, indent + 1)]
        else:
            lines.append(f"{pad}{name}: {_short(value)}")
    return lines


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(_short(item) for item in value)
    return str(value)


def inspect_command(
    dataset: DatasetArgument,
    split: Annotated[Literal["train", "val", "test"], typer.Option(help="Split to look in.")] = "train",
    sample: Annotated[int, typer.Option(min=0, help="Number of the sample in its split.")] = 0,
    out: Annotated[Path, typer.Option("--out", help="Picture to write.")] = Path("sample.png"),
    json_output: JsonOption = False,
) -> None:
    """Draw one sample, image and maps side by side, and say where it comes from.

    Example: datagen inspect runs/demo --split val --sample 3 --out sample.png
    """
    from datagen.audit.pictures import write_png
    from datagen.audit.samples import sample_row
    from datagen.shards import open_dataset, sample_provenance

    opened = open_dataset(dataset_path(dataset))
    count = len(opened[split])
    if sample >= count:
        raise InputError(f"{split} has no sample {sample}", f"0 to {count - 1}" if count else "a split with samples")
    provenance = sample_provenance(opened, split, sample)
    write_png(out, sample_row(opened[split].sample(sample), tile=INSPECT_PX))
    if json_output:
        print_json({**provenance, "picture": str(out)})
    else:
        keys = ("split", "sample", "subject", "sequence", "camera", "frame", "time_s", "shard", "content_key")
        table([*((key, provenance[key]) for key in keys), ("picture", out)])


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("inspect")(inspect_command)
    app.command("verify")(verify_command)
    app.command("stats")(stats_command)
