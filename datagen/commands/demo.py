"""``demo``: the whole path on simulated heads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from datagen.commands.options import JsonOption, SetOption
from datagen.common.console import print_json, say, table
from datagen.common.documents import read_json
from datagen.common.errors import ManifestError
from datagen.manifest import load_manifest


def demo_command(
    out: Annotated[Path, typer.Option("--out", help="Folder for everything the demo makes.")] = Path("runs/demo"),
    manifest: Annotated[Path | None, typer.Option("--manifest", help="Recipe; manifests/demo.yaml by default.")] = None,
    config: Annotated[str, typer.Option("--config", help="The trainer's configuration.")] = "demo",
    overrides: SetOption = None,
    fit_overrides: Annotated[
        list[str] | None, typer.Option("--fit-set", metavar="KEY=VALUE", help="Override a key of the configuration.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Simulate, warp, render, write, verify, report, fit, evaluate and predict; run again, it continues.

    Example: datagen demo --out runs/demo
    """
    recipe = load_manifest(manifest or _shipped_manifest(), overrides or ())
    if recipe.source.simulated_head is None:
        raise ManifestError("the demo's manifest names real captures", "a simulated source", "Use `datagen build`")
    from datagen.audit.demo_page import summary_rows
    from datagen.flows.demo import run_demo

    summary = run_demo(recipe, out, config, tuple(fit_overrides or ()))
    if json_output:
        print_json(read_json(out / "summary.json"))
        return
    say()
    table(list(summary_rows(summary)))
    say(f"\nopen {(out / 'index.html').resolve()}")


def _shipped_manifest() -> Path:
    """The recipe in the current folder, or in the checkout this package was installed from."""
    here = Path("manifests/demo.yaml")
    return here if here.is_file() else Path(__file__).parents[2] / here


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("demo")(demo_command)
