"""``render``: how fast and how exact the rendering backends are."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from benchmarks.goal import Goal, judged, verdict
from datagen.commands.options import JsonOption
from datagen.common.console import print_json
from datagen.common.errors import InputError
from datagen.common.files import json_ready

if TYPE_CHECKING:
    from benchmarks.render.run import RenderResult

# Ratios to peers are times of theirs over ours.
GOALS = (
    Goal("ratio_open3d", 4.0, at_least=True),
    Goal("ratio_write_bound", 2.0),
    Goal("parity_missed_share", 1e-3),
    Goal("parity_depth_p99_mm", 0.02),
    Goal("parity_canonical_p99_mm", 0.02),
    Goal("parity_normal_p99_deg", 0.1),
)


def render_command(
    backend: Annotated[
        Literal["auto", "numba", "nvwarp", "nvdiffrast", "open3d"], typer.Option(help="The backend to measure.")
    ] = "auto",
    against: Annotated[
        str,
        typer.Option(help="Peers in the same run, separated by commas: numba, nvwarp, nvdiffrast, open3d, pytorch3d."),
    ] = "open3d",
    heads: Annotated[int, typer.Option(min=1, max=1000, help="Random people.")] = 4,
    views: Annotated[int, typer.Option(min=1, max=1000, help="Cameras around each.")] = 8,
    resolution: Annotated[int, typer.Option(min=1, max=8192, help="Pixels a side.")] = 504,
    faces: Annotated[int, typer.Option(min=1000, max=5_000_000, help="Triangles of a head.")] = 52_000,
    repeats: Annotated[int, typer.Option(min=1, max=1000, help="Rounds; medians count.")] = 5,
    threads: Annotated[int, typer.Option(min=0, help="Threads of the numba backend; 0: one per core.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="A different seed gives different people.")] = 5,
    json_output: JsonOption = False,
) -> None:
    """Render all maps of random heads with a backend and its peers in turns, and compare times and maps.

    The scene or mesh is set up anew for every head and round, as a build does. ``ratio_NAME`` is the time of a peer
    over ours, ``ratio_write_bound`` our time over that of filling newly allocated arrays of the maps' size with as
    many threads. Parity is against open3d, if it takes part. Exit code 0 whether or not the goals are met.

    Example: python -m benchmarks render --against open3d --json
    """
    from benchmarks.render.run import PEERS, RenderPlan, run_render_bench
    from datagen.heads.registry import load_head

    names = tuple(name.strip() for name in against.split(",") if name.strip())
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise InputError(f"--against names {', '.join(unknown)}", f"some of {', '.join(PEERS)}, separated by commas")
    plan = RenderPlan(backend, names, heads, views, repeats, faces, resolution, threads, seed)
    result = run_render_bench(plan, load_head("anny"), lambda line: print(line, file=sys.stderr))
    if json_output:
        print_json(as_json(result))
    else:
        print("\n".join(as_text(result)))


def as_json(result: RenderResult) -> dict[str, Any]:
    """Return a result as plain data; what could not be measured is null."""
    return {
        "setup": {**asdict(result.plan), "faces_rendered": result.faces},
        "figures": json_ready(result.figures),
        "goals": judged(GOALS, result.figures),
        "backends": {name: json_ready(figures) for name, figures in result.backends.items()},
        "stages": json_ready(result.stages),
        "threads": {str(count): value for count, value in result.threads.items()},
        "parity": {name: json_ready(found.to_dict()) for name, found in result.parity.items()},
    }


def as_text(result: RenderResult) -> list[str]:
    """Return a result as lines."""
    goals, width = judged(GOALS, result.figures), max(len(name) for name in result.figures)
    lines = [f"{result.faces} faces, {result.plan.resolution}² pixels, all maps", ""]
    for name, figures in result.backends.items():
        lines.append(
            f"{name:<12} {figures['ms_per_view']:9.2f} ms a view {figures['views_per_s']:9.1f} views/s "
            f"{figures['megapixels_per_s']:8.1f} Mpixel/s {figures['cpu_ms_per_view']:9.2f} ms of processor time"
        )
    lines.append("")
    for name, value in result.figures.items():
        lines.append(f"{name:<{width}}  {value:>10.4g}  {verdict(goals.get(name))}".rstrip())
    if result.stages:
        lines += ["", "one view on one thread: " + ", ".join(f"{n} {v:.0%}" for n, v in result.stages.items())]
    if result.threads:
        lines.append("views/s by threads: " + ", ".join(f"{n}: {v:.1f}" for n, v in result.threads.items()))
    return lines


def register(group: typer.Typer) -> None:
    """Add this command."""
    group.command("render")(render_command)
