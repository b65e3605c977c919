"""``verify``, ``stats`` and ``inspect``: looking at a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from datagen.commands.options import JsonOption, OverwriteOption
from datagen.common.console import print_json, say, table
from datagen.common.errors import InputError

if TYPE_CHECKING:
    from datagen.flows.rerender import RenderedAgain
    from datagen.shards import Dataset

DatasetArgument = Annotated[
    str, typer.Argument(help="A dataset.zarr folder, the build folder that holds one, or s3://bucket/prefix.")
]

BARS = " ▁▂▃▄▅▆▇█"


def verify_command(
    dataset: DatasetArgument,
    quick: Annotated[bool, typer.Option("--quick", help="Lengths and ends of chunks, not every byte.")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Also decode every map and check every value.")] = False,
    rerender: Annotated[
        int, typer.Option(metavar="K", min=0, help="Also render K random samples again from the build's warps.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Which samples --rerender takes.")] = 0,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Shards looked at at a time; default: all CPUs.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Check a dataset's structure, records, index, splits and bytes; exit code 1 if anything is wrong.

    Example: datagen verify runs/demo --deep --rerender 4
    """
    from datagen.common.blas import available_cpus
    from datagen.common.progress import Progress
    from datagen.shards import verify_dataset
    from datagen.shards.tools.verify import LEVELS, Level

    if quick and deep:
        raise InputError("--quick and --deep exclude each other", "one of them", "Leave one of them out")
    level: Level = "quick" if quick else "deep" if deep else "digests"
    with Progress("verify", _shard_count(dataset), "shards") as progress:
        count = workers or available_cpus()
        report = verify_dataset(dataset, level, lambda _: progress.advance(1), workers=count)
    again = _render_again(dataset, rerender, seed) if rerender and report.ok else []
    wrong = [sample for sample in again if not sample.ok]
    if json_output:
        content = report.to_json()
        print_json({**content, "ok": report.ok and not wrong, "rerendered": [sample.to_json() for sample in again]})
    else:
        for problem in (*report.problems, *wrong):
            say(problem)
        examined = ", ".join(f"{count} {name}" for name, count in report.counts.items())
        say(f"{'ok' if report.ok else f'{len(report.problems)} problems'}: {examined}")
        say(f"checked ({level}): {LEVELS[level]}")
        if again:
            say(f"rendered again: {len(again)} samples, {len(wrong)} of them different")
    if wrong or not report.ok:
        raise SystemExit(1)


def _shard_count(dataset: str) -> int:
    """Return how many shards there are, 0 where the dataset is too damaged to say."""
    from datagen.common.errors import CorruptDatasetError
    from datagen.shards import open_dataset

    try:
        return len(open_dataset(dataset).plan.units)
    except CorruptDatasetError:
        return 0


def _render_again(dataset: str, count: int, seed: int) -> list[RenderedAgain]:
    from datagen.common.progress import Progress
    from datagen.flows.rerender import render_again
    from datagen.layout import BuildLayout

    root = Path(dataset)
    if not BuildLayout(root).manifest.is_file():
        raise InputError(
            f"{dataset} is not a build folder, so there are no warps to render from",
            "the --out of `datagen build`",
            "Name the build folder, or leave out --rerender",
        )
    with Progress("render again", count, "samples") as progress:
        return render_again(root, count, seed, progress.update)


def stats_command(dataset: DatasetArgument, json_output: JsonOption = False) -> None:
    """Print counts, coverage and value distributions of a dataset.

    Example: datagen stats runs/demo/dataset.zarr --json
    """
    from datagen.common.progress import Progress
    from datagen.shards import open_dataset, stats

    with Progress("stats", len(open_dataset(dataset).plan.sample_units), "shards") as progress:
        content = stats(dataset, lambda _: progress.advance(1))
    if json_output:
        print_json(content)
    else:
        for line in outline(_with_bars(content)):
            say(line)


def _with_bars(content: Any) -> Any:
    """Return statistics whose histograms are drawn in a line of text."""
    if not isinstance(content, dict):
        return content
    if set(content) == {"edges", "counts"}:
        top = max(content["counts"])
        return "".join(BARS[-(-count * (len(BARS) - 1) // top)] for count in content["counts"])
    return {name: _with_bars(value) for name, value in content.items()}


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
    overwrite: OverwriteOption = False,
    json_output: JsonOption = False,
) -> None:
    """Draw one sample and say where it comes from.

    The picture shows the image, all maps and the edges; for a build whose captures are simulated also the true error.

    Example: datagen inspect runs/demo --split val --sample 3 --out sample.png
    """
    from datagen.audit.pictures import write_png
    from datagen.audit.samples import sample_sheet
    from datagen.common.ownership import check_output_file
    from datagen.shards import open_dataset, sample_provenance

    check_output_file(out, overwrite=overwrite)
    opened = open_dataset(dataset)
    count = len(opened[split])
    if sample >= count:
        raise InputError(f"{split} has no sample {sample}", f"0 to {count - 1}" if count else "a split with samples")
    provenance = sample_provenance(opened, split, sample)
    write_png(out, sample_sheet(opened[split].sample(sample), build_of(opened)))
    if json_output:
        print_json({**provenance, "picture": str(out)})
    else:
        keys = (
            "split",
            "sample",
            "subject",
            "sequence",
            "camera",
            "frame",
            "time_s",
            "epoch_s",
            "verdict",
            "shard",
            "content_key",
        )
        table([*((key, provenance[key]) for key in keys), ("picture", out)])


def build_of(dataset: Dataset) -> Path | None:
    """Return the build folder around a dataset, or None if it was moved out of one."""
    from datagen.layout import BuildLayout
    from datagen.shards.store import LocalStore

    if not isinstance(dataset.store, LocalStore):
        return None
    layout = BuildLayout(dataset.store.root.resolve().parent)
    return layout.root if layout.manifest.is_file() and layout.warps.is_dir() else None


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("inspect")(inspect_command)
    app.command("verify")(verify_command)
    app.command("stats")(stats_command)
