"""``push``, ``merge`` and ``subset``: datasets sent to others, and new ones made from old."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from datagen.commands.inspect import DatasetArgument
from datagen.commands.options import JsonOption
from datagen.common.console import print_json, table
from datagen.common.errors import InputError

if TYPE_CHECKING:
    from datagen.shards import ShardUnit

OutOption = Annotated[
    Path, typer.Option("--out", help="The dataset.zarr folder to make: empty, new, or this dataset unfinished.")
]
PerShardOption = Annotated[
    int | None, typer.Option("--samples-per-shard", min=1, help="By default that of the first dataset.")
]


def push_command(
    dataset: DatasetArgument,
    url: Annotated[str, typer.Argument(help="s3://bucket/prefix, or a folder.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace another dataset that is there; never other files.")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Send a finished dataset to an object store; run again, it sends what is missing.

    Credentials, region and endpoint come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION,
    AWS_ENDPOINT_URL), never from the URL. Readers open the dataset only once all of it is there. A place that holds
    anything else, or that another push is writing to, is refused.

    Example: datagen push runs/demo s3://bucket/demo
    """
    from datagen.common.progress import Progress
    from datagen.shards import open_dataset
    from datagen.shards.tools.publish import publish

    units = len(open_dataset(dataset).plan.units)
    with Progress("push", units, "shards") as progress:
        report = publish(dataset, url, replace=replace, on_shard=lambda _: progress.advance(1))
    if json_output:
        print_json(vars(report))
        return
    table(
        [
            ("dataset", f"{report.url} ({report.uuid})"),
            ("sent", f"{report.sent} files, {report.sent_bytes / 2**20:.1f} MiB"),
            ("there already", f"{report.kept} files, {report.kept_bytes / 2**20:.1f} MiB"),
            *([("removed", f"{report.removed} files")] if report.removed else []),
        ]
    )


def merge_command(
    datasets: Annotated[list[str], typer.Argument(help="Datasets or build folders, at least two.")],
    out: OutOption,
    labels: Annotated[
        str | None, typer.Option("--labels", help="Comma-separated; put before subjects' names, one per dataset.")
    ] = None,
    samples_per_shard: PerShardOption = None,
    json_output: JsonOption = False,
) -> None:
    """Make one dataset from several; compressed maps are copied byte for byte, nothing is rendered again.

    They must agree in canonical space, resolution, depth scale and regions, and no subject may be in two splits.

    Example: datagen merge runs/a runs/b --out runs/both/dataset.zarr --labels a,b
    """
    from datagen.common.progress import Progress
    from datagen.shards import open_dataset
    from datagen.shards.tools.combine import merge

    if len(datasets) < 2:
        raise InputError("only one dataset is given", "two or more", "For a part of one use `datagen subset`")
    names = [name.strip() for name in labels.split(",")] if labels else []
    samples = sum(sum(open_dataset(dataset).plan.counts.values()) for dataset in datasets)
    with Progress("merge", samples, "samples") as progress:
        merged = merge(
            datasets,
            out,
            names,
            samples_per_shard=samples_per_shard,
            on_shard=lambda unit: progress.advance(_samples_of(unit)),
        )
    _tell(merged, json_output)


def subset_command(
    dataset: DatasetArgument,
    out: OutOption,
    where: Annotated[
        list[str],
        typer.Option("--where", metavar="KEY=VALUES", help="Condition; may be repeated, all of them must hold."),
    ],
    samples_per_shard: PerShardOption = None,
    json_output: JsonOption = False,
) -> None:
    """Make a dataset from some samples of another; compressed maps are copied byte for byte.

    Keys are split, subject, sequence, camera, verdict (names or patterns, comma-separated), frame (a number or
    start:stop:step) and name (subject/sequence/frame, with /camera or without; @FILE reads a list, such as `datagen
    browse` makes).

    Example: datagen subset runs/demo --where camera=cam0* --where frame=0:100:2 --out runs/half/dataset.zarr
    """
    from datagen.common.progress import Progress
    from datagen.shards.tools.combine import Selection, subset

    selection = Selection.parse(where)
    # How many there will be is known only once the index is read.
    with Progress("subset", 0, "samples") as progress:
        chosen = subset(
            dataset,
            out,
            selection,
            samples_per_shard=samples_per_shard,
            on_shard=lambda unit: progress.advance(_samples_of(unit)),
        )
    _tell(chosen, json_output)


def _samples_of(unit: ShardUnit) -> int:
    from datagen.shards.schema import SPLITS

    return unit.samples if unit.group in SPLITS else 0  # rows of frames are no samples


def _tell(dataset: Any, json_output: bool) -> None:
    content = {"dataset": dataset.url, "samples": dict(dataset.plan.counts), "uuid": dataset.uuid}
    if json_output:
        print_json(content)
        return
    samples = ", ".join(f"{split} {count}" for split, count in dataset.plan.counts.items())
    table([("dataset", dataset.url), ("samples", samples), ("uuid", dataset.uuid)])


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("push")(push_command)
    app.command("merge")(merge_command)
    app.command("subset")(subset_command)
