"""``faces``: how right parameters, spread and texture coordinates of a dataset's faces are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.goal import Goal, judged, verdict
from datagen.commands.options import JsonOption
from datagen.common.console import print_json, table
from datagen.common.files import atomic_write_bytes, json_ready

GOALS = (
    Goal("exact_rms_mm_max", 0.05),
    Goal("registration_rms_mm", 1.0),
    Goal("landmarks_rms_mm", 1.0),
    Goal("fit_ms", 100.0),
    Goal("flipped_triangles", 0.0),
)


def faces_command(
    subjects: Annotated[int, typer.Option(min=1, max=1000, help="Simulated people.")] = 4,
    frames: Annotated[int, typer.Option(min=1, max=1000, help="Of each.")] = 2,
    departure_mm: Annotated[float, typer.Option(min=0, max=10, help="RMS of what no model has of them.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="A different seed gives different people.")] = 11,
    picture: Annotated[Path | None, typer.Option(help="Write the texture frame here (.webp, .png).")] = None,
    json_output: JsonOption = False,
) -> None:
    """Warp simulated people, and compare what is kept of their faces with the truth.

    ``exact_rms_mm`` is of faces that the head model makes itself, ``registration_rms_mm`` and ``landmarks_rms_mm`` are
    of registered ones, by what the warp began from (medians over frames): the distance between registered vertices and
    those of the parameters. ``*_within_sigma`` is the share of coordinates that err by less than their spread (normal
    errors: 0.68; within two, 0.95). ``face_area_*`` are percentiles of the texels a square millimetre gets, over their
    median. Exit code 0 whether or not goals are met.

    Example: python -m benchmarks faces --subjects 2 --frames 1 --json
    """
    from benchmarks.faces.run import FacePlan, run_face_bench
    from datagen.heads.registry import load_head

    head = load_head("anny")
    plan = FacePlan(subjects, frames, departure_mm, seed)
    figures = run_face_bench(plan, head, lambda line: print(line, file=sys.stderr))
    if picture is not None:
        from benchmarks.faces.picture import texture_picture

        atomic_write_bytes(picture, texture_picture(head.template, picture.suffix))
    goals = judged(GOALS, figures)
    if json_output:
        print_json({"figures": json_ready(figures), "goals": goals})
        return
    table([(name, f"{value:<8.4g} {verdict(goals.get(name))}".rstrip()) for name, value in figures.items()])


def register(group: typer.Typer) -> None:
    """Add this command."""
    group.command("faces")(faces_command)
