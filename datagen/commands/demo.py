"""``demo``: the whole path on simulated heads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from datagen.commands.options import JsonOption, SetOption
from datagen.common.console import print_json, say
from datagen.common.documents import read_json
from datagen.common.errors import ManifestError
from datagen.manifest import load_manifest

if TYPE_CHECKING:
    from datagen.audit.demo_page import Row

LABEL_WIDTH, VALUE_WIDTH = 46, 22


def demo_command(
    out: Annotated[Path, typer.Option("--out", help="Folder for everything the demo makes.")] = Path("runs/demo"),
    full: Annotated[bool, typer.Option("--full", help="More people, frames and steps: four times as long.")] = False,
    max_minutes: Annotated[
        float | None,
        typer.Option("--max-minutes", min=0.1, help="Stop fitting when this call has taken so long, and measure."),
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option("--manifest", help="A file, or one that comes along. [default: demo]")
    ] = None,
    config: Annotated[str | None, typer.Option("--config", help="The trainer's configuration. [default: demo]")] = None,
    overrides: SetOption = None,
    fit_overrides: Annotated[
        list[str] | None, typer.Option("--fit-set", metavar="KEY=VALUE", help="Override a key of the configuration.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Simulate, warp, render, write, verify, report, fit, evaluate and predict; run again, it continues.

    The page index.html in the folder is there from the start, and grows.

    Example: datagen demo --out runs/demo
    """
    usual = "demo-full" if full else "demo"
    recipe = load_manifest(manifest or Path(usual), overrides or ())
    if recipe.source.simulated_head is None:
        raise ManifestError("the demo's manifest names real captures", "a simulated source", "Use `datagen build`")
    from datagen.audit.demo_page import summary_rows
    from datagen.flows.demo import run_demo

    summary = run_demo(recipe, out, config or usual, tuple(fit_overrides or ()), max_minutes=max_minutes)
    if json_output:
        print_json(read_json(out / "summary.json"))
        return
    say()
    for row in summary_rows(summary):
        say(row_text(row))
    say(f"\nopen {(out / 'index.html').resolve()}")


def row_text(row: Row) -> str:
    """Return a row of the demo's table as lines of at most 80 characters."""
    line = f"{row.label:<{LABEL_WIDTH}}{row.value:>{VALUE_WIDTH}}  {row.judgement}".rstrip()
    return f"{line}\n    {row.meaning}" if row.meaning else line


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("demo")(demo_command)
