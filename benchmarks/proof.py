"""``proof``: the joint model on unseen people: its error, that of optical flow, what clips add, confidence of depth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from benchmarks.align import SECONDS, fit, trainer
from benchmarks.goal import Goal, judged, verdict
from datagen.common.console import print_json
from trainer.run.folder import read_state

_CLIP = 4
# What the model must at most be off by is flow's own figure, so it is no fixed limit: see `frames_below_flow_px`.
GOALS = (
    Goal("canonical_mean_mm", 4.5),
    Goal("frames_below_flow_px", 0.0, at_least=True),
    Goal("clip_gain", 0.1, at_least=True),
    Goal("depth_confidence_rank", 0.4, at_least=True),
)


def proof_command(
    dataset: Annotated[Path, typer.Argument(help="A dataset.zarr folder, or a build folder that holds one.")],
    run: Annotated[Path, typer.Option("--out", help="Folder of the run; it is fitted first, unless it is finished.")],
    config: Annotated[str, typer.Option(help="A YAML file, or a configuration of the trainer.")] = "proof",
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="For the run, such as fit.steps=400; may be repeated."),
    ] = None,
    split: Annotated[Literal["val", "test"], typer.Option(help="The people that it is measured on.")] = "test",
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON on standard output.")] = False,
) -> None:
    """Fit the joint model, unless that is done, and measure it on people it has not seen, four frames together and one.

    The gain of clips is what the mean canonical error of single frames falls by when four are seen together; the same
    of the median error of matching is beside it. A killed call resumes where it stopped. The dataset is meant to be
    that of `datagen build manifests/proof.yaml --out runs/proof`.

    Example: python -m benchmarks proof runs/proof --out runs/proof-model --set fit.threads=1
    """
    effort = _fitted(dataset, run, config, options or [])
    figures = compared(*(_evaluated(run, dataset, split, frames) for frames in (_CLIP, 1))) | effort
    if as_json:
        print_json(figures)
        return
    goals = judged(GOALS, figures)
    for name, value in figures.items():
        print(f"{name:<28} {value:8.3f}  {verdict(goals.get(name))}".rstrip())


def _fitted(dataset: Path, run: Path, config: str, options: list[str]) -> dict[str, float]:
    """Fit the model unless that is done; return its steps and, where all of them were taken here, their time."""
    state = read_state(run)
    if state is not None and not run.with_name(f"{run.name}-{SECONDS}").is_file():
        # Begun by `trainer fit`: nobody knows what it took. A run of another configuration is refused here.
        words = [word for option in options for word in ("--set", option)]
        answer = json.loads(trainer("fit", str(dataset), "--out", str(run), "--config", config, "--json", *words))
        return {"steps": answer["steps"]}
    seconds, steps = fit(dataset, run, config, options, trainer)
    return {"cpu_seconds": seconds, "steps": steps}


def compared(clips: dict[str, Any], singles: dict[str, Any]) -> dict[str, float]:
    """Return the figures of four frames seen together, and what they gain over single ones.

    Parameters
    ----------
    clips, singles : dict
        What ``trainer evaluate`` found with four frames together and with one.
    """
    frames, flow = clips["correspondence_median_px"], clips["flow_correspondence_median_px"]
    return {
        "canonical_mean_mm": clips["canonical_mean_mm"],
        "frames_median_px": frames,
        "flow_median_px": flow,
        "frames_below_flow_px": flow - frames,
        "clip_gain": 1 - clips["canonical_mean_mm"] / singles["canonical_mean_mm"],
        "clip_gain_matching": 1 - frames / singles["correspondence_median_px"],
        "depth_confidence_rank": clips["depth_confidence_rank_correlation"],
        "single_canonical_mean_mm": singles["canonical_mean_mm"],
        "single_frames_median_px": singles["correspondence_median_px"],
        "canonical_confidence_rank": clips["canonical_confidence_rank_correlation"],
        "depth_aligned_mean_mm": clips["depth_aligned_mean_mm"],
        "normal_mean_deg": clips["normal_mean_deg"],
    }


def _evaluated(run: Path, dataset: Path, split: str, frames: int) -> dict[str, Any]:
    words = ["--split", split, "--frames", str(frames), "--json", "--speed-seconds", "0"]
    answer = json.loads(trainer("evaluate", str(run), str(dataset), *words))
    figures: dict[str, Any] = answer["figures"]
    return figures


def register(group: typer.Typer) -> None:
    """Add this command."""
    group.command("proof")(proof_command)
