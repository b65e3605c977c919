"""``surfaces``: canonical maps of depth maps, clouds and registered templates beside those of a mesh."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.goal import Goal, judged, verdict
from datagen.commands.options import JsonOption
from datagen.common.console import print_json, table
from datagen.common.files import json_ready

GOALS = (
    Goal("measured_over_scan", 1.2),
    Goal("measured_covered", 0.95, at_least=True),
)


def surfaces_command(
    subjects: Annotated[int, typer.Option(min=1, max=1000, help="Simulated people.")] = 4,
    cameras: Annotated[int, typer.Option(min=2, max=100, help="Around each.")] = 8,
    noise_mm: Annotated[float, typer.Option(min=0, max=10, help="Of depth maps and scans.")] = 0.3,
    real: Annotated[
        Path | None, typer.Option(help="Folder with scans/menpo_james: how far the kinds agree on a real scan.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="A different seed gives different people.")] = 21,
    json_output: JsonOption = False,
) -> None:
    """Render what each kind of surface gives, and compare it pixel by pixel.

    Depth maps are true depth with noise and holes; scans have the same noise. ``*_mm`` is the distance of a face
    pixel's canonical coordinate from the truth, ``*_covered`` the share of face pixels with a coordinate, for
    ``measured`` of those that were measured. ``*_depth_mm`` is the error of depth. On a real scan nobody knows the
    truth: ``real_*_apart_mm`` is the distance from what the scan's own mesh gives in the same pixel. Exit code 0
    whether or not goals are met.

    Example: python -m benchmarks surfaces --subjects 2 --json
    """
    from benchmarks.surfaces.run import SurfacePlan, real_figures, run_surface_bench

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    plan = SurfacePlan(subjects, cameras, noise_mm, seed)
    figures = run_surface_bench(plan, say)
    if real is not None:
        figures |= real_figures(real, plan, say)
    goals = judged(GOALS, figures)
    if json_output:
        print_json({"figures": json_ready(figures), "goals": goals})
        return
    table([(name, f"{value:<8.4g} {verdict(goals.get(name))}".rstrip()) for name, value in figures.items()])


def register(group: typer.Typer) -> None:
    """Add this command."""
    group.command("surfaces")(surfaces_command)
