"""``track``: trackers' meshes against true ones, in motion on the screen and in shape."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from benchmarks.goal import Goal, judged, verdict
from datagen.commands.options import JsonOption
from datagen.common.console import print_json, say
from datagen.common.errors import InputError
from datagen.common.files import json_ready

if TYPE_CHECKING:
    from trainer.evaluation.track.shot import Shot

GOALS = (
    Goal("track_topology_px", 0.01),
    Goal("track_velocity_error", 0.001),
    Goal("track_jitter_error", 0.02),
)
# Figure, heading, digits.
COLUMNS = (
    ("ssme_face_px", "SSME face px", 2),
    ("ssme_mouth_px", "mouth", 2),
    ("ssme_nose_px", "nose", 2),
    ("ssme_eyes_px", "eyes", 2),
    ("ssme_ears_px", "ears", 2),
    ("ssme_face_h1_px", "h = 1", 2),
    ("covered_face", "covered", 3),
    ("chamfer_face_median_mm", "CD median mm", 2),
    ("chamfer_face_mean_mm", "mean", 2),
    ("chamfer_face_std_mm", "std", 2),
    ("normal_angle_rad", "normals rad", 3),
    ("nme2d_percent", "2-D NME %", 2),
)


def track_command(
    dataset: Annotated[
        Path | None, typer.Argument(help="A dataset with a frame table; default: the public split of simulated people.")
    ] = None,
    predictions: Annotated[
        list[Path] | None,
        typer.Option(help="Folder with subject/sequence/camera/ of a tracker; may be repeated. Default: baselines."),
    ] = None,
    split: Annotated[Literal["train", "val", "test"], typer.Option(help="Of the dataset.")] = "test",
    pictures: Annotated[
        Path | None, typer.Option(help="Write the public split's pictures and cameras for trackers, and end.")
    ] = None,
    flame_root: Annotated[Path | None, typer.Option(help="FLAME's model, for parameters and key points.")] = None,
    unit: Annotated[str, typer.Option(help="Unit of mesh files.")] = "m",
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change manifests/track.yaml: no longer the public split."),
    ] = None,
    smooth: Annotated[
        float | None, typer.Option(min=0.1, help="Also score each tracker smoothed by a Gaussian of so many frames.")
    ] = None,
    pixels: Annotated[int, typer.Option(min=50, help="Of a frame, whose motion is compared.")] = 2000,
    shape_frames: Annotated[int, typer.Option(min=1, help="Of each shot, that are aligned.")] = 2,
    exact: Annotated[bool, typer.Option(help="Also measure how exact the measure is.")] = True,
    json_output: JsonOption = False,
) -> None:
    """Score trackers: FlowFace's screen-space motion error, chamfer and normals after alignment, 2-D NME.

    Meshes may have any topology; docs/track-benchmark.md says what is read, and what each figure is.

    Example: python -m benchmarks track --predictions runs/tracked --json
    """
    from benchmarks.track.people import simulated_shots, write_pictures
    from trainer.evaluation.track.score import TrackOptions, score

    altered = tuple(changes or ())
    if dataset is not None and (altered or pictures is not None):
        raise InputError("--set or --pictures with a dataset", "the public split", "Leave one of them out")
    if pictures is not None:
        count = write_pictures(pictures, changes=altered, done=lambda name: print(name, file=sys.stderr))
        say(f"{count} pictures in {pictures}")
        return
    shots: Iterable[Shot]
    if dataset is None:
        shots = list(simulated_shots(changes=altered))
    else:
        from datagen.shards import open_dataset
        from trainer.evaluation.track.shot import shots_of

        shots = list(shots_of(open_dataset(dataset), split))
    trackers = _trackers(predictions or [], flame_root, unit)
    if smooth is not None:
        from trainer.evaluation.track.baselines import smoothed_reader

        also = {f"{name}, Gaussian of {smooth:g}": smoothed_reader(read, smooth) for name, read in trackers.items()}
        trackers = {**trackers, **also}
    scores = score(shots, trackers, TrackOptions(pixels=pixels, shape_frames=shape_frames))
    metrics = {name: found.metrics() for name, found in scores.items()}
    for name, found in scores.items():
        if found.missing:
            some = ", ".join(found.missing[:4]) + (", ..." if len(found.missing) > 4 else "")
            print(f"{name}: no prediction of {len(found.missing)} shots: {some}", file=sys.stderr)
    figures: dict[str, float] = {}
    if exact:
        from benchmarks.track.exact import exactness

        figures = exactness(shots[0])
    goals = judged(GOALS, figures)
    if json_output:
        curves = {name: found.motion.curve("face").tolist() for name, found in scores.items()}
        print_json(json_ready({"figures": figures, "goals": goals, "trackers": metrics, "ssme_face_by_window": curves}))
        return
    say(markdown(metrics))
    for name, value in figures.items():
        say(f"{name:<22} {value:<9.2g} {verdict(goals.get(name))}".rstrip())


def _trackers(folders: list[Path], flame_root: Path | None, unit: str) -> Mapping[str, Any]:
    if folders:
        from benchmarks.track.readers import Predictions

        names = [folder.resolve().name for folder in folders]
        if len(set(names)) < len(names):
            raise InputError("two folders of predictions of one name", "a name for each tracker", "Rename one")
        for folder in folders:
            if not folder.is_dir():
                raise InputError(
                    f"{folder} is not a folder", "a folder with subject/sequence/camera/", "Check the path"
                )
        return {name: Predictions(folder, flame_root, unit) for name, folder in zip(names, folders, strict=True)}
    from benchmarks.track.peers import baselines

    return baselines()


def markdown(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the figures of trackers as a table."""
    rows = [["", *(heading for _, heading, _ in COLUMNS)], ["---"] * (len(COLUMNS) + 1)]
    for name, found in metrics.items():
        cells = ["–" if math.isnan(value := found[key]) else f"{value:.{digits}f}" for key, _, digits in COLUMNS]
        rows.append([name, *cells])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def register(group: typer.Typer) -> None:
    """Add this command."""
    group.command("track")(track_command)
