"""``report`` and ``compare``: what the audit says of builds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from datagen.commands.options import BuildArgument, JsonOption
from datagen.common.console import print_json, say
from datagen.common.errors import CanonfaceError


def report_command(
    out: BuildArgument,
    worst: Annotated[int, typer.Option(min=0, help="Worst frames shown with pictures.")] = 4,
    random: Annotated[int, typer.Option(min=0, help="Other frames, chosen at random, shown with pictures.")] = 4,
    training: Annotated[
        Path | None,
        typer.Option("--training", help="Run folder of `trainer fit` on this build: the frames it is worst at."),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Write the audit report of a build again: report/index.html, worst frame first.

    It also says which frames another version of the program or of the recipe made, and with --training which ones a
    model learns worst.

    Example: datagen report runs/demo --worst 12
    """
    from datagen.audit.report import write_report

    stale = stale_frames(out)
    index = write_report(out, worst=worst, random=random, stale=stale, training=training)
    if json_output:
        print_json({"report": str(index), "stale": sorted(stale) if stale is not None else None})
    else:
        say(index)
        if stale is None:
            say("note: whether its frames are of this version was not checked: the build's captures cannot be planned")


def stale_frames(out: Path) -> dict[str, str] | None:
    """Return the frames whose warp this program and the recipe would make otherwise; None if that cannot be told.

    Inputs are taken as recorded: reading all of them again is for `datagen build` to do.
    """
    from datagen.flows.folder_plan import plan_in
    from datagen.flows.records import read_result_record
    from datagen.flows.stages.warp import WarpStage
    from datagen.layout import BuildLayout

    layout, stale = BuildLayout(out.resolve()), {}
    try:
        plan = plan_in(layout)
        for unit in (task.unit for task in WarpStage().plan(plan, layout)):
            template = unit.head().template
            for frame, folder in zip(unit.sequence.frames, unit.folders, strict=True):
                record = read_result_record(folder)
                # A frame that could not be read has no digest of its input.
                if record is None or not record.input_digest:
                    continue
                if record.content_key != unit.key(record.input_digest, template):
                    stale[f"{unit.sequence.key}/{frame:06d}"] = (
                        "another algorithm, recipe, template or person made its warp than this program would take"
                    )
    except CanonfaceError:
        return None
    return stale


def compare_command(
    first: Annotated[Path, typer.Argument(help="Build folder.")],
    second: Annotated[Path, typer.Argument(help="Another build of the same captures.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for a page that measures and shows frames of both, side by side."),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Compare the verdicts and metrics of two builds; exit code 1 if any frame's verdict got worse.

    With --out, points of some frames are measured in both: paired differences in millimetres by region with a sign
    test, who got better and worse, and scans in three dimensions that turn together.

    Example: datagen compare runs/before runs/after --out runs/difference
    """
    from datagen.audit.compare import compare

    comparison = compare(first, second)
    page = None
    if out is not None:
        from datagen.audit.compare_page import write_comparison

        page = write_comparison(out, first, second, comparison)
    if json_output:
        content = {**asdict(comparison), "worse": comparison.worse}
        content["figures"] = content.pop("metrics")
        if page is not None:
            content["page"] = str(page)
        print_json(content)
    else:
        say(comparison.text())
        if page is not None:
            say(f"page: {page}")
    if comparison.worse:
        raise SystemExit(1)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("report")(report_command)
    app.command("compare")(compare_command)
