"""``schema``: what a manifest may say."""

from __future__ import annotations

import typer

from datagen.commands.options import JsonOption
from datagen.common.console import print_json, say
from datagen.common.settings import schema_lines
from datagen.manifest import Manifest


def schema_command(json_output: JsonOption = False) -> None:
    """Print every manifest key with its type, default, range and meaning; with --json, the JSON schema.

    Example: datagen schema
    """
    if json_output:
        print_json(Manifest.model_json_schema())
        return
    for line in schema_lines(Manifest):
        say(line)


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("schema")(schema_command)
