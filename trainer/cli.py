"""The ``trainer`` command."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from datagen.common.console import add_version, print_json, run, say
from datagen.common.help import App
from datagen.common.progress import Progress
from datagen.shards import open_dataset
from trainer import __version__
from trainer.align.cli import app as align_app
from trainer.attributes.cli import app as attributes_app
from trainer.avatar.cli import adapt as adapt_command
from trainer.avatar.cli import app as avatar_app
from trainer.config import FitConfig, TrainConfig, load_config
from trainer.options import (
    AsJson,
    AsSchema,
    Box,
    Boxes,
    DatasetPath,
    Device,
    NamePattern,
    Overrides,
    PicturePattern,
    Pictures,
    PredictionOut,
    RunOut,
    Turn,
    fitted,
    picture_options,
    say_run,
    say_settings,
)
from trainer.run.folder import RunState
from trainer.weights.export import EXPORT_STEPS, FORMATS, TOLERANCE, export_model

app = App(
    name="trainer",
    help="Fit the joint depth and canonical-coordinate model on a dataset, measure it, use it.",
)
add_version(app, "trainer", __version__)
app.add_typer(align_app)
app.add_typer(attributes_app)
app.add_typer(avatar_app)
app.command("adapt")(adapt_command)

_SOME_STEPS = 400  # the one key without a default
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")]
if TYPE_CHECKING:
    from trainer.evaluation.frames import EvaluationOptions

    _FormatName = str  # type checkers cannot read a dictionary
else:
    _FormatName = Literal[tuple(FORMATS)]


@app.command()
def fit(
    dataset: DatasetPath,
    out: RunOut,
    config: Annotated[
        str, typer.Option("--config", "-c", help="A YAML file, or: tiny, demo, small, base, large, giant.")
    ] = "demo",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Fit a model on a dataset; the same command again resumes where it stopped.

    Example: `trainer fit runs/mine --out runs/model --config demo --set fit.steps=500`
    """
    settings = load_config(config, overrides or ())

    def begin(dataset: Path, out: Path, settings: TrainConfig) -> RunState:
        from trainer.fit import fit as run_fit

        return run_fit(dataset, out, settings)

    state = fitted(dataset, out, settings, begin)
    found = state.best_metrics.items()
    best = ", ".join(f"{name} {value:.2f}" for name, value in found if name.endswith("mean_mm") and value is not None)
    say_run(out, state, best, as_json=as_json)


@app.command()
def evaluate(
    places: Annotated[
        list[Path],
        typer.Argument(
            metavar="[CHECKPOINT]... DATASET",
            help="Run folders (their best.pt) or checkpoint files, one or several to compare, unless there are "
            "--predictions; then a dataset.zarr folder, or a build folder that holds one.",
        ),
    ],
    predictions: Annotated[
        Path | None,
        typer.Option("--predictions", help="Measure maps that any program predicted, below this folder, not a model."),
    ] = None,
    own_space: Annotated[
        bool, typer.Option("--own-space", help="Their canonical maps are of another space than the dataset's.")
    ] = False,
    pictures: Annotated[
        Path | None, typer.Option("--pictures", help="Write the split's pictures for other programs, and end.")
    ] = None,
    split: Annotated[Literal["train", "val", "test"], typer.Option("--split")] = "val",
    frames: Annotated[
        int | None, typer.Option("--frames", min=1, help="Frames predicted together; default: the longest trained.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="About how many samples to measure, in evenly spread runs; default: all."),
    ] = None,
    starts: Annotated[
        int,
        typer.Option("--starts", min=1, help="Start frames of each run whose points are followed; 48 is every frame."),
    ] = 4,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the draw of points, views and pairs.")] = 0,
    speed_seconds: Annotated[
        float, typer.Option("--speed-seconds", min=0, help="Time spent on measuring speed and memory; 0: none.")
    ] = 5.0,
    report: Annotated[Path | None, typer.Option("--report", help="Folder for an HTML page and pictures.")] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure a model on a split, beside the baselines; docs/metrics.md defines every metric.

    Several models are measured on the same samples: one table, and with --report a page that compares them.

    Example: `trainer evaluate runs/model runs/mine --split val --report runs/model/report`
    """
    _check_places(places, predictions, pictures, own_space=own_space)
    if pictures is not None:
        from trainer.evaluation.predicted import write_pictures

        count = write_pictures(open_dataset(places[-1]), split, pictures)
        if as_json:
            print_json({"out": str(pictures), "pictures": count})
        else:
            say(f"{count} pictures in {pictures}")
        return
    from trainer.evaluate import evaluate as run_evaluate
    from trainer.evaluate import evaluate_predictions
    from trainer.evaluation.frames import EvaluationOptions
    from trainer.evaluation.tables import result_text

    options = EvaluationOptions(frames=frames, limit=limit, starts=starts, seed=seed)
    if len(places) > 2:
        _evaluate_several(places, split, options, report, device, speed_seconds, as_json)
        return
    if predictions is not None:
        result = evaluate_predictions(
            predictions, places[-1], split, own_space=own_space, options=options, report=report
        )
    else:
        result = run_evaluate(
            places[0],
            places[1],
            split,
            options=options,
            report=report,
            device_name=device,
            speed_seconds=speed_seconds,
        )
    if as_json:
        print_json(result.to_json())
        return
    by = f"step {result.step}" if predictions is None else f"predictions in {predictions}"
    say(f"{result.samples} samples of {split}, {by}\n")
    say(result_text(result.metrics))
    if report is not None:
        say(f"report in {report}/index.html")


@app.command()
def predict(
    checkpoint: Annotated[Path, typer.Argument(help="A run folder (its best.pt), or a checkpoint file.")],
    source: Annotated[Path, typer.Argument(help="An image, a folder of images, a video, or a dataset.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder, or an earlier prediction to replace.")],
    frames: Annotated[
        int, typer.Option("--frames", min=1, help="Frames predicted together (a window); 1: frame by frame.")
    ] = 4,
    overlap: Annotated[
        int | None, typer.Option("--overlap", min=0, help="Frames two windows share; default: a quarter of --frames.")
    ] = None,
    drift: Annotated[
        Literal["fade", "chain"] | None,
        typer.Option(
            "--drift",
            help="A window's scale correction fades out (metric depth) or is kept; default: as suits the model.",
        ),
    ] = None,
    start: Annotated[int, typer.Option("--start", min=0, help="First frame of a folder or video.")] = 0,
    stop: Annotated[int | None, typer.Option("--stop", min=1, help="The frame to stop before.")] = None,
    step: Annotated[int, typer.Option("--step", min=1, help="Take only every STEP-th frame.")] = 1,
    size: Annotated[
        int | None, typer.Option("--size", min=14, help="Pixels of the longer side; default: as trained.")
    ] = None,
    masks: Annotated[Path | None, typer.Option("--masks", help="Folder of foreground masks, white on black.")] = None,
    crop: Annotated[
        str | None,
        typer.Option(
            "--crop", help="Part to use: left,top,right,bottom in pixels; each or all: around each mask, or all masks."
        ),
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(
            "--box",
            metavar="LEFT,TOP,WIDTH,HEIGHT",
            help="Where a head is, chin to crown, pixels, the same in all frames; may be repeated.",
        ),
    ] = None,
    detector_python: Annotated[
        Path | None,
        typer.Option(
            "--detector-python", help="A Python with MediaPipe: its face detector finds the heads (docs/prediction.md)."
        ),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option("--head", help="Which of several heads, 1 the largest; all: each into OUT/head1, OUT/head2, …"),
    ] = None,
    foreground: Annotated[
        Literal["auto", "surface", "confidence", "all"],
        typer.Option(
            "--foreground", help="Without masks: the model's surface, high depth confidence, or the whole image."
        ),
    ] = "auto",
    cameras: Annotated[Path | None, typer.Option("--cameras", help="A cameras.json with known cameras.")] = None,
    orientation: Annotated[
        Literal["stored", "upright"] | None,
        typer.Option(
            "--orientation",
            help="Whether masks and cameras are of the stored pixels or of the picture turned as its file says.",
        ),
    ] = None,
    fov: Annotated[
        float | None, typer.Option("--fov", help="Field of view along the longer side, degrees; default: as trained.")
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option("--without", help="Leave out maps, ply, tracks, raw, videos or viewer; may be repeated."),
    ] = None,
    tracks: Annotated[int, typer.Option("--tracks", min=1, help="Number of tracks.")] = 100,
    track_radius_mm: Annotated[
        float,
        typer.Option("--track-radius-mm", min=0.01, help="A track is lost where no canonical coordinate is this near."),
    ] = 10.0,
    rate: Annotated[
        float | None, typer.Option("--rate", min=0.1, help="Frames per second of the videos; default: the source's.")
    ] = None,
    split: Annotated[
        Literal["train", "val", "test"] | None,
        typer.Option("--split", help="Split, if the source is a dataset; default: val."),
    ] = None,
    index: Annotated[
        int | None, typer.Option("--index", help="A sample of the clip, if the source is a dataset; default: 0.")
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Predict depth, normals, canonical coordinates, tracks and point clouds of images or a video of any length.

    Example: `trainer predict runs/model talk.mp4 --out predictions --frames 8`
    """
    from trainer.predict import PredictOptions
    from trainer.predict import predict as run_predict
    from trainer.prediction.tracks import TrackConfig

    options = PredictOptions(
        frames=frames,
        overlap=overlap,
        drift=drift,
        start=start,
        stop=stop,
        step=step,
        size=size,
        masks=masks,
        crop=crop,
        boxes=tuple(box or ()),
        detector_python=detector_python,
        head=_head(head),
        foreground=foreground,
        cameras=cameras,
        orientation=orientation,
        fov_deg=fov,
        without=tuple(without or ()),
        tracks=TrackConfig(count=tracks, radius_mm=track_radius_mm),
        rate=rate,
        split=split,
        index=index,
    )
    summary = run_predict(checkpoint, source, out, options, device_name=device)
    if as_json:
        print_json({"out": str(out), **summary})
        return
    if "heads" in summary:
        say(f"{len(summary['heads'])} heads in {out}/head1 and so on; docs/prediction.md says what every file holds")
        return
    page = "open viewer.html" if "viewer" in summary["written"] else "strip.png shows the first"
    say(f"{summary['frames']} frames in {out}; {page}; docs/prediction.md says what every file holds")


@app.command()
def points(
    run: Annotated[Path, typer.Argument(help="A run folder of `trainer fit` (its best.pt), or a checkpoint.")],
    dataset: Annotated[Path, typer.Argument(help="What it was fitted on: its template, and people held out.")],
    sources: Pictures,
    out: PredictionOut,
    pictures: PicturePattern = None,
    name: NamePattern = None,
    box: Box = None,
    boxes: Boxes = None,
    orientation: Turn = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Write where the face's vertices are in pictures, with covariance, as the canonical maps of a model have them.

    A file of seen points for each picture: evidence for the warps of the next dataset. How far off they are is measured
    on the dataset's validation people. Without --box or --boxes a picture is taken for a square about the whole head.

    Example: `trainer points runs/model runs/mine anna/talk --pictures images/{camera}/{frame:06d}.png --out seen`
    """
    from trainer.points import predict_points

    options = picture_options(pictures, name, box, boxes, orientation)
    result = predict_points(run, dataset, sources, out, options, device_name=device)
    if as_json:
        print_json({"out": str(out), **result})
        return
    if result["without"]:
        say(f"{len(result['without'])} pictures show the model no face: {', '.join(result['without'][:3])}")
    say(f"{result['pictures']} files in {out}; σ of their points {result['median_sigma_px']:.2f} px, median")


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="A run folder (its best.pt), or a checkpoint file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write; usually .pt2 or .onnx.")],
    kind: Annotated[_FormatName, typer.Option("--format", help="A torch.export program, or ONNX.")] = "torch",
    frames: Annotated[
        int | None, typer.Option("--frames", min=1, help="A fixed number of frames; default: any number from 3 to 64.")
    ] = None,
    size: Annotated[int | None, typer.Option("--size", min=14, help="Pixels a side; default: as trained.")] = None,
    overwrite: _Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Export a model to one file and check the file against the model on random images.

    Example: `trainer export runs/model --out model.onnx --format onnx`
    """
    with Progress("export", EXPORT_STEPS, "") as progress:
        result = export_model(
            checkpoint, out, kind, frames=frames, size=size, overwrite=overwrite, on_step=progress.begin
        )
    if as_json:
        differences = {str(count): value for count, value in result.differences.items()}
        what = {"out": str(out), "frames": result.frames, "size": result.size, "outputs": result.outputs}
        print_json({**what, "differences": differences, "passed": result.passed, "mib": result.mib})
    else:
        for count, value in result.differences.items():
            say(f"{count} frames: largest relative difference {value:.1e}, at most {TOLERANCE:.0e} is allowed")
        size_text = f"{result.frames} frames of {result.size} pixels, {result.mib:.1f} MiB, {result.seconds:.0f} s"
        say(f"{out}: {size_text}" if result.passed else f"{out} was not written: it does not agree with the model")
    if not result.passed:
        raise typer.Exit(1)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="Published weights: a file, a folder, or a hub id.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The checkpoint to write.")],
    config: Annotated[
        str, typer.Option("--config", "-c", help="A configuration that matches the weights' size.")
    ] = "giant",
    size: Annotated[int, typer.Option("--size", min=14, help="Pixels of the longer side to predict at.")] = 504,
    overwrite: _Overwrite = False,
) -> None:
    """Turn published weights with a canonical decoder (Face Anything) into a checkpoint, without fitting.

    Example: `trainer convert downloads/faceanything/checkpoint.pt --out faceanything.pt`
    """
    from trainer.weights.convert import CONVERT_STEPS, convert_weights

    with Progress("convert", CONVERT_STEPS, "") as progress:
        report = convert_weights(source, out, config, size=size, overwrite=overwrite, on_step=progress.begin)
    say(report.text())
    say(f"{out} is ready for `trainer predict` and `trainer export`")


@app.command()
def schema(
    config: Annotated[
        str | None,
        typer.Option("--config", "-c", help="Print this configuration instead: a YAML file, or tiny, demo, small, …"),
    ] = None,
    as_json: AsSchema = False,
) -> None:
    """Print a configuration of all defaults, with comments that say what each key means.

    Saved to a file, it can be fitted as it is.

    Example: `trainer schema --config small > my.yaml`
    """
    settings = TrainConfig(fit=FitConfig(steps=_SOME_STEPS)) if config is None else load_config(config)
    if not as_json:
        say("# Saved as my.yaml: trainer fit runs/mine --out runs/model --config my.yaml")
    say_settings(settings, as_schema=as_json)


def main() -> None:
    """Run the command line; known errors end in one clean message and their exit code."""
    # OpenMP threads that wait spin by default: on a machine with other work, two threads then take twice the
    # processor time for less than one thread's speed. Read when torch loads, so it must be set before.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    run(app)


def _evaluate_several(
    places: list[Path],
    split: str,
    options: EvaluationOptions,
    report: Path | None,
    device: str,
    speed_seconds: float,
    as_json: bool,
) -> None:
    from trainer.evaluate import evaluate_several
    from trainer.evaluation.comparison import comparison_text

    found = evaluate_several(
        places[:-1],
        places[-1],
        split,
        options=options,
        report=report,
        device_name=device,
        speed_seconds=speed_seconds,
    )
    if as_json:
        print_json({"models": [{"name": one.name, **one.result.to_json()} for one in found]})
        return
    say(f"{found[0].result.samples} samples of {split}, {len(found)} models\n")
    say(comparison_text(found))
    if report is not None:
        say(f"report in {report}/index.html")


def _head(text: str | None) -> int | Literal["all"] | None:
    if text is None or text == "all":
        return "all" if text else None
    if not text.isdecimal() or int(text) < 1:
        raise typer.BadParameter(f"--head {text}: give a number from 1, or all")
    return int(text)


def _check_places(places: list[Path], predictions: Path | None, pictures: Path | None, *, own_space: bool) -> None:
    """Refuse as many paths as do not go with the options, and options that do not go together."""
    if own_space and predictions is None:
        raise typer.BadParameter("--own-space is said of --predictions; a model has the dataset's space")
    if predictions is not None and pictures is not None:
        raise typer.BadParameter("--pictures and --predictions: write pictures first, predict, then measure")
    alone = predictions is not None or pictures is not None
    if (len(places) != 1) if alone else (len(places) < 2):
        names = "DATASET alone" if alone else "CHECKPOINT, one or several, and DATASET"
        raise typer.BadParameter(f"{len(places)} paths are given: give {names}")


if __name__ == "__main__":
    main()
