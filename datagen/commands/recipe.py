"""``schema``: what a manifest may say."""

from __future__ import annotations

import typer

from datagen.commands.options import JsonOption
from datagen.common.console import print_json, say
from datagen.common.settings_text import commented_yaml
from datagen.manifest import Manifest
from datagen.sources.registry import SimulatedSource


def schema_command(json_output: JsonOption = False) -> None:
    """Print a manifest of all defaults, with comments that say what each key means; with --json, the JSON schema.

    Saved to a file, it can be built as it is. Captures of your own are named in its part for them.

    Example: datagen schema > my.yaml
    """
    if json_output:
        print_json(Manifest.model_json_schema())
        return
    say("# Saved as my.yaml: datagen build my.yaml --out runs/mine")
    say(commented_yaml(Manifest(name="mine", source=SimulatedSource(kind="simulated"))).rstrip())


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("schema")(schema_command)
