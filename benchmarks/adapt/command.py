"""``adapt``: an avatar before and after it has met another camera, and where that stops to help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.goal import Goal, judged, verdict
from datagen.commands.options import JsonOption
from datagen.common.console import print_json, say
from datagen.common.settings import parse, with_overrides

GOALS = (Goal("adapt_vertex_ratio", 0.75), Goal("adapt_jitter_ratio", 0.6), Goal("colour_error", 0.05))
# Figure, heading, digits.
COLUMNS = (
    ("vertices_mm", "vertices mm", 2),
    ("laid_mm", "laid mm", 2),
    ("pixels", "px", 2),
    ("jitter_mm", "jitter mm", 2),
    ("laid_jitter_mm", "laid jitter mm", 2),
    ("motion", "motion", 2),
)


def adapt_command(
    out: Annotated[Path, typer.Option(help="Folder for recordings, runs and results; a killed call resumes.")],
    options: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="For the avatar; may be repeated.")
    ] = None,
    adapting: Annotated[
        list[str] | None, typer.Option("--adapt-set", metavar="KEY=VALUE", help="For adaptations; may be repeated.")
    ] = None,
    studio_frames: Annotated[int, typer.Option(min=4, help="Instants before the studio's cameras.")] = 60,
    clip_frames: Annotated[int, typer.Option(min=4, help="Frames of the clip, at 30 a second.")] = 120,
    cameras: Annotated[int, typer.Option(min=2, help="Of the studio.")] = 8,
    resolution: Annotated[int, typer.Option(min=32, help="Pixels a side of pictures.")] = 192,
    person: Annotated[int, typer.Option(min=0, help="Seed: another person, in other light. 31 was tuned on.")] = 31,
    *,
    table: Annotated[bool, typer.Option(help="Also flicker, exposure, a shaking hand, and parts of the loss.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Film one simulated person in a studio and, in another take, before another camera; adapt without labels.

    The camera has other lamps, its own colours and noise, and rough boxes about the face. Its meshes are known, for
    judging only. `labels given` is the same network, taught with them: a bound.

    Example: python -m benchmarks adapt --out runs/adapt-bench
    """
    from benchmarks.adapt.run import CAMERAS, STEADY, WITHOUT, Comparison, Sizes, colour_error, ratio, seen_colour_error
    from trainer.avatar.config import AdaptConfig

    keys = f"`{AdaptConfig.schema_command}` prints every key"
    config = parse(AdaptConfig, with_overrides({}, adapting or (), "steps=100", keys), "--adapt-set", keys)
    made = Comparison(out, Sizes(studio_frames, cameras, clip_frames, resolution, person), options or [], config)
    before, after, oracle = made.before(STEADY), made.after(STEADY), made.oracle()
    figures = {
        "adapt_vertex_ratio": ratio(after, before, "vertices_mm"),
        "adapt_jitter_ratio": ratio(after, before, "jitter_mm"),
        "colour_error": colour_error(after, oracle),
        "seen_colour_error": seen_colour_error(after, oracle),
        "adapt_laid_ratio": ratio(after, before, "laid_mm"),
        "adapt_pixel_ratio": ratio(after, before, "pixels"),
        "oracle_vertex_ratio": ratio(oracle, before, "vertices_mm"),
        "oracle_jitter_ratio": ratio(oracle, before, "jitter_mm"),
        "studio_ratio": after["studio_after_mm"] / after["studio_before_mm"],
        "cpu_seconds": made.cpu_seconds,
    }
    rows = [("steady clip, before", before), ("adapted", after), ("labels given", oracle)]
    if table:
        rows += [(f"adapted by {name}", made.without(name)) for name in WITHOUT]
        for name in CAMERAS:
            if name != STEADY:
                rows += [(f"{name}, before", made.before(name)), ("adapted", made.after(name))]
                figures[f"vertex_ratio_{_key(name)}"] = ratio(made.after(name), made.before(name), "vertices_mm")
                figures[f"jitter_ratio_{_key(name)}"] = ratio(made.after(name), made.before(name), "jitter_mm")
    if as_json:
        print_json(figures)
        return
    print(as_table(rows))
    print()
    goals = judged(GOALS, figures)
    for name, value in figures.items():
        say(f"{name:<36} {value:8.3f}  {verdict(goals.get(name))}".rstrip())


def as_table(rows: list[tuple[str, dict[str, Any]]]) -> str:
    """Return rows of figures as Markdown."""
    lines = [["", *(heading for _, heading, _ in COLUMNS), "studio mm"], ["---"] * (len(COLUMNS) + 2)]
    for name, figures in rows:
        studio = figures.get("studio_after_mm")
        values = [f"{figures[key]:.{digits}f}" for key, _, digits in COLUMNS]
        ended = f" (ended at step {figures['stopped']})" if figures.get("stopped") else ""
        lines.append([name + ended, *values, "" if studio is None else f"{studio:.2f}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _key(name: str) -> str:
    return {"flicker 10 %": "flicker_10", "flicker 20 %": "flicker_20"}.get(
        name, "exposure" if "exposure" in name else "shake"
    )


def register(group: typer.Typer) -> None:
    """Add this command."""
    group.command("adapt")(adapt_command)
