"""Arguments and small helpers the commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ManifestArgument = Annotated[
    Path,
    typer.Argument(help="Manifest (YAML), or the name of one that comes along: demo, …; see `datagen schema`."),
]
BuildArgument = Annotated[Path, typer.Argument(help="Build folder, the --out of `datagen build`.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a manifest key; may be repeated.")
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
