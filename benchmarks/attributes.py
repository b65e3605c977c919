"""``attributes``: the parameter head on unseen people, its two fusions, and learning from landmarks alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from benchmarks.align import fit, trainer
from benchmarks.goal import Goal, judged, verdict
from datagen.common.console import print_json

GOALS = (
    Goal("vertices_ratio_mean", 0.7),
    Goal("nme_ratio_mean", 0.25),
    Goal("projection_gain", 0.2, at_least=True),
    Goal("projection_harm", 0.05),
    Goal("cpu_seconds", 900),
)
# Figure, heading, digits.
ROWS = (
    ("vertices_mm", "face's vertices after a rigid motion, mm", 2),
    ("mean_head_vertices_mm", "of the mean face, alike", 2),
    ("vertices_ratio_mean", "the first over the second", 2),
    ("nme_percent", "68 landmarks, % of the face's size", 2),
    ("mean_nme_percent", "of landmarks at their mean places", 2),
    ("nme_ratio_mean", "the first over the second", 3),
    ("turn_degrees", "rotation, degrees", 1),
    ("distance_percent", "distance, %", 1),
    ("visible_percent", "vertices rightly called seen or hidden, %", 0),
    ("cpu_seconds", "processor time, s", 0),
    ("steps", "steps", 0),
)


def attributes_command(
    dataset: Annotated[Path, typer.Argument(help="A dataset.zarr folder, or a build folder that holds one.")],
    others: Annotated[Path, typer.Argument(help="The same of other people, of whom only landmarks are used.")],
    out: Annotated[Path, typer.Option(help="Folder for the runs.")],
    config: Annotated[str, typer.Option(help="A YAML file, or a configuration of `trainer attributes`.")] = "tiny",
    tuning: Annotated[str, typer.Option(help="The same, for learning from landmarks alone.")] = "projection",
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="For the two runs with labels; may be repeated."),
    ] = None,
    tuning_options: Annotated[
        list[str] | None, typer.Option("--tune-set", metavar="KEY=VALUE", help="For the run without; may be repeated.")
    ] = None,
    split: Annotated[Literal["val", "test"], typer.Option(help="The people that each is measured on.")] = "test",
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON on standard output.")] = False,
) -> None:
    """Fit a parameter head with large-kernel and with plain fusion; tune the first on landmarks of other people.

    All are measured on people that no run has seen. A killed call resumes where it stopped. The datasets are meant to
    be those of `datagen build manifests/align-tiny.yaml --out runs/align-data`, and of the same with `--set seed=29
    --set source.subjects=24 --set splits.val=2 --out runs/others`: 16 people to tune on.

    Example: python -m benchmarks attributes runs/align-data runs/others --out runs/attributes-bench
    """
    given = options or []
    large = measured(dataset, out / "large-kernel", config, given, split)
    plain = measured(dataset, out / "plain", config, [*given, "network.fusion=dpt"], split)
    start = [f"start={out / 'large-kernel'}", *(tuning_options or [])]
    seconds, _ = fit(others, out / "tuned", tuning, start, _attributes)
    before = {part: _evaluated(out / "large-kernel", others, part) for part in (split, "train")}
    after = {part: _evaluated(out / "tuned", others, part) for part in (split, "train")}
    figures = {
        "vertices_ratio_mean": large["vertices_ratio_mean"],
        "nme_ratio_mean": large["nme_ratio_mean"],
        "projection_gain": _gain(before[split], after[split], "nme_percent"),
        "projection_harm": -_gain(before[split], after[split], "vertices_mm"),
        "projection_gain_tuned_people": _gain(before["train"], after["train"], "nme_percent"),
        "projection_harm_tuned_people": -_gain(before["train"], after["train"], "vertices_mm"),
        "vertices_ratio_large_kernel_plain": large["vertices_mm"] / plain["vertices_mm"],
        "nme_ratio_large_kernel_plain": large["nme_percent"] / plain["nme_percent"],
        "cpu_seconds": large["cpu_seconds"],
        "plain_cpu_seconds": plain["cpu_seconds"],
        "projection_cpu_seconds": seconds,
    }
    if as_json:
        print_json(figures)
        return
    print(table(large, plain))
    print()
    goals = judged(GOALS, figures)
    for name, value in figures.items():
        print(f"{name:<36} {value:8.3f}  {verdict(goals.get(name))}".rstrip())


def measured(dataset: Path, folder: Path, config: str, options: list[str], split: str) -> dict[str, Any]:
    """Fit a network unless that is done, measure it, and return its figures with ``cpu_seconds`` and ``steps``."""
    seconds, steps = fit(dataset, folder, config, options, _attributes)
    return {**_evaluated(folder, dataset, split), "cpu_seconds": seconds, "steps": steps}


def table(large: dict[str, Any], plain: dict[str, Any]) -> str:
    """Return the figures of both fusions as Markdown."""
    rows = [["", "large kernel", "plain"], ["---"] * 3]
    rows += [[heading, f"{large[n]:.{digits}f}", f"{plain[n]:.{digits}f}"] for n, heading, digits in ROWS]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _evaluated(folder: Path, dataset: Path, split: str) -> dict[str, Any]:
    answer = json.loads(_attributes("evaluate", str(folder), str(dataset), "--split", split, "--json"))
    figures: dict[str, Any] = answer["figures"]
    return figures


def _gain(before: dict[str, Any], after: dict[str, Any], figure: str) -> float:
    return float(1 - after[figure] / before[figure])


def _attributes(*words: str) -> str:
    return trainer("attributes", *words)


def register(group: typer.Typer) -> None:
    """Add this command."""
    group.command("attributes")(attributes_command)
