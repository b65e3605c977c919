"""Arguments and small helpers the commands share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from datagen.common.errors import InputError
from datagen.manifest import Manifest, parse_manifest

ManifestArgument = Annotated[Path, typer.Argument(help="Manifest (YAML); see manifests/ and `datagen schema`.")]
BuildArgument = Annotated[Path, typer.Argument(help="Build folder, the --out of `datagen build`.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a manifest key; may be repeated.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def manifest_of_build(root: Path) -> Manifest:
    """Read the manifest a build folder was made from.

    Raises
    ------
    InputError
        If ``root`` is no build folder.
    ManifestError
        If its manifest is of another version.
    """
    path = root / "manifest.json"
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{root} is not a build folder ({path.name}: {error})",
            "the --out of `datagen build`",
            "Check the path",
        ) from None
    return parse_manifest(content, str(path))
