"""``export``: a dataset in the formats of others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from datagen.commands.inspect import DatasetArgument
from datagen.commands.options import JsonOption
from datagen.common.console import print_json, table
from datagen.common.help import App

export = App(help="Write a dataset in another format.")
OutOption = Annotated[Path, typer.Option("--out", help="Folder to write; continued if unfinished.")]


def webdataset_command(
    dataset: DatasetArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder of the tar files; continued if unfinished.")],
    samples_per_tar: Annotated[int, typer.Option("--samples-per-tar", min=1, help="Samples in one tar.")] = 256,
    json_output: JsonOption = False,
) -> None:
    """Write tar files of PNG, npz and JSON members, for webdataset and the like.

    Example: datagen export webdataset runs/demo --out runs/tars
    """
    from datagen.common.progress import Progress
    from datagen.flows.export_webdataset import export_webdataset
    from datagen.shards import open_dataset

    samples = sum(open_dataset(dataset).plan.counts.values())
    with Progress("export", samples, "samples") as progress:
        content = export_webdataset(dataset, out, samples_per_tar, progress.advance)
    if json_output:
        print_json(content)
        return
    tars = content["tars"].values()
    size = sum(tar["bytes"] for tar in tars) / 2**20
    table([("tars", f"{len(tars)} in {out} ({size:.1f} MiB)"), ("samples", sum(tar["samples"] for tar in tars))])


def tracks_command(
    dataset: DatasetArgument,
    out: OutOption,
    points: Annotated[int, typer.Option("--points", min=1, help="Points drawn evenly over the head.")] = 1024,
    seed: Annotated[int, typer.Option("--seed", help="Of the draw.")] = 0,
    regions: Annotated[
        str | None, typer.Option("--regions", help="Comma-separated names of regions that carry points; default: all.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Write exact tracks of skin points with their pictures, an npz for each performance and camera.

    Keys are those of TAPVid-3D (tracks_XYZ, visibility, queries_xyt, fx_fy_cx_cy, images_jpeg_bytes); docs/reading.md
    lists them all.

    Example: datagen export tracks runs/demo --out runs/tracks --regions nose,cheeks
    """
    from datagen.flows.export_performances import export_tracks

    names = tuple(name.strip() for name in (regions or "").split(",") if name.strip())
    _export(
        dataset,
        out,
        lambda advance: export_tracks(dataset, out, points=points, seed=seed, regions=names, on_frames=advance),
        json_output,
    )


def meshes_command(
    dataset: DatasetArgument,
    out: OutOption,
    kind: Annotated[
        Literal["ply", "glb"], typer.Option("--format", help="PLY, or glTF (binary) with texture coordinates.")
    ] = "ply",
    axes: Annotated[
        Literal["world", "head"], typer.Option("--axes", help="Where the cameras are, or with the head at rest.")
    ] = "world",
    json_output: JsonOption = False,
) -> None:
    """Write the registered head of every frame as a mesh, in metres; all have the same triangles.

    Example: datagen export meshes runs/demo --out runs/meshes --format glb
    """
    from datagen.flows.export_performances import export_meshes

    _export(dataset, out, lambda advance: export_meshes(dataset, out, kind, axes, advance), json_output)


def flame_command(
    dataset: DatasetArgument,
    out: OutOption,
    head_root: Annotated[
        Path, typer.Option("--head-root", help="The FLAME file the dataset was built with, or its folder.")
    ],
    json_output: JsonOption = False,
) -> None:
    """Write FLAME parameters as trackers do, an npz for each performance; only of datasets whose head is FLAME.

    Example: datagen export flame runs/flame --out runs/parameters --head-root models/flame
    """
    from datagen.flows.export_performances import export_flame

    _export(dataset, out, lambda advance: export_flame(dataset, out, head_root, advance), json_output)


def _export(
    dataset: str, out: Path, write: Callable[[Callable[[int], None]], dict[str, Any]], json_output: bool
) -> None:
    from datagen.common.progress import Progress
    from datagen.flows.export_performances import performance_frames

    with Progress("export", performance_frames(dataset), "frames") as progress:
        content = write(progress.advance)
    if json_output:
        print_json(content)
        return
    files = content["files"].values()
    size = sum(file["bytes"] for file in files) / 2**20
    table([("files", f"{len(files)} in {out} ({size:.1f} MiB)")])


# Formats by name: a new one is a file that writes it, and an entry with its command.
EXPORTS: dict[str, Callable[..., None]] = {
    "webdataset": webdataset_command,
    "tracks": tracks_command,
    "meshes": meshes_command,
    "flame": flame_command,
}


def register(app: typer.Typer) -> None:
    """Add this command."""
    for name, command in EXPORTS.items():
        export.command(name)(command)
    app.add_typer(export, name="export")
