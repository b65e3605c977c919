"""``browse``: a dataset walked through on a page of this machine."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from datagen.commands.inspect import DatasetArgument
from datagen.common.console import say


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
) -> None:
    """Walk through a dataset, local or s3://: cameras, time, maps over each other, a point of the skin followed.

    The page is served to this machine alone, under an address that nobody can guess; Ctrl-C ends it. Marked samples are
    kept in a file that `datagen subset --where name=@FILE` takes. With --export a page of a few samples is written, to
    be sent to somebody.

    Example: datagen browse runs/demo
    """
    from datagen.audit.browsing import Browsing
    from datagen.layout import BuildLayout
    from datagen.shards import open_dataset

    build = Path(dataset) if BuildLayout(Path(dataset)).warps.is_dir() else None
    with open_dataset(dataset) as opened:
        browsing = Browsing(opened, build)
        if export is not None:
            from datagen.audit.browse_export import export_page

            say(export_page(browsing, export, samples))
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


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("browse")(browse_command)
