"""``report`` and ``compare``: what the audit says of builds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from datagen.commands.options import BuildArgument, JsonOption
from datagen.common.console import print_json, say


def report_command(
    out: BuildArgument,
    worst: Annotated[int, typer.Option(min=0, help="Worst frames shown with pictures.")] = 4,
    random: Annotated[int, typer.Option(min=0, help="Other frames, chosen at random, shown with pictures.")] = 4,
    json_output: JsonOption = False,
) -> None:
    """Write the audit report of a build again: report/index.html, worst frame first.

    Example: datagen report runs/demo --worst 12
    """
    from datagen.audit.report import write_report

    index = write_report(out, worst=worst, random=random)
    if json_output:
        print_json({"report": str(index)})
    else:
        say(index)


def compare_command(
    first: Annotated[Path, typer.Argument(help="Build folder.")],
    second: Annotated[Path, typer.Argument(help="Another build of the same captures.")],
    json_output: JsonOption = False,
) -> None:
    """Compare the verdicts and metrics of two builds; exit code 1 if any frame's verdict got worse.

    Example: datagen compare runs/before runs/after
    """
    from datagen.audit.compare import compare

    comparison = compare(first, second)
    if json_output:
        content = {**asdict(comparison), "worse": comparison.worse}
        content["figures"] = content.pop("metrics")
        print_json(content)
    else:
        say(comparison.text())
    if comparison.worse:
        raise SystemExit(1)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("report")(report_command)
    app.command("compare")(compare_command)
