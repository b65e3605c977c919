"""``browse``: a dataset walked through on a page of this machine."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from datagen.commands.inspect import DatasetArgument
from datagen.commands.options import OverwriteOption
from datagen.common.console import say
from datagen.common.errors import InputError


def browse_command(
    dataset: DatasetArgument,
    marks: Annotated[
        Path, typer.Option("--marks", help="File that samples marked by hand are added to, one a line.")
    ] = Path("marks.txt"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0: any that is free.")] = 0,
    export: Annotated[
        Path | None, typer.Option("--export", help="Write a page of a few samples into this folder, and serve nothing.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, max=500, help="With --export: how many, evenly spread.")] = 12,
    rerun: Annotated[
        Path | None,
        typer.Option("--rerun", help="Write a sequence into this .rrd file (extra rerun), and serve nothing."),
    ] = None,
    sequence: Annotated[
        str | None, typer.Option("--sequence", help="With --rerun: as subject/sequence; default: the first.")
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Walk through a dataset, local or s3://: cameras, time, maps over each other, a point of the skin followed.

    The page is served to this machine alone, under an address that nobody can guess; Ctrl-C ends it. Marked samples are
    kept in a file that `datagen subset --where name=@FILE` takes. With --export a page of a few samples is written, to
    be sent to somebody; with --rerun a sequence for the viewer Rerun.

    Example: datagen browse runs/demo
    """
    from datagen.audit.browsing import Browsing
    from datagen.layout import BuildLayout
    from datagen.shards import open_dataset

    _check_options(export, rerun, sequence, overwrite=overwrite)
    build = Path(dataset) if BuildLayout(Path(dataset)).warps.is_dir() else None
    with open_dataset(dataset) as opened:
        browsing = Browsing(opened, build)
        if export is not None:
            from datagen.audit.browse_export import export_page

            say(export_page(browsing, export, samples))
            return
        if rerun is not None:
            from datagen.audit.rerun_export import export_recording
            from datagen.common.ownership import check_output_file

            check_output_file(rerun, overwrite=overwrite)
            say(f"{rerun}: {export_recording(opened, rerun, sequence)} samples")
            return
        from datagen.audit.browse_server import BrowseServer, Marks

        listed = shlex.quote(str(marks))
        commands = {
            "A dataset of the marked samples": f"datagen subset {shlex.quote(dataset)} --where name=@{listed} --out "
            "runs/marked/dataset.zarr"
        }
        if build is not None:
            again = f"cut -d/ -f1-3 {listed} | sort -u | xargs -d '\\n' datagen requeue {shlex.quote(dataset)}"
            commands["Their frames made again by the next build"] = again
        server = BrowseServer(browsing, Marks(marks), commands, port)
        say(server.url)
        server.serve()


def _check_options(export: Path | None, rerun: Path | None, sequence: str | None, *, overwrite: bool) -> None:
    """Refuse options that do not go together."""
    if export is not None and rerun is not None:
        raise InputError("--export and --rerun are given", "one of them", "Give one after the other")
    if rerun is None and (sequence is not None or overwrite):
        option = "--sequence" if sequence is not None else "--overwrite"
        raise InputError(
            f"{option} without --rerun", "both, or neither", f"Leave {option} out, or add --rerun FILE.rrd"
        )


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("browse")(browse_command)
