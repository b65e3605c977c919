"""``trainer align``: fit, measure and use the alignment network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from datagen.common.console import print_json, say
from datagen.common.help import App
from trainer.align.config import AlignConfig
from trainer.config import load_run_config
from trainer.options import (
    AsJson,
    AsSchema,
    Box,
    Boxes,
    DatasetPath,
    Device,
    Limit,
    NamePattern,
    Overrides,
    PicturePattern,
    Pictures,
    PredictionOut,
    RunOut,
    Split,
    Turn,
    fitted,
    picture_options,
    say_run,
    say_settings,
)
from trainer.run.folder import RunState

app = App(
    name="align",
    help="Find every vertex of the template in pictures, with its uncertainty: fit a network, measure it, use it.",
)
_Run = Annotated[Path, typer.Argument(help="A run folder of `trainer align fit` (its best.pt), or a checkpoint.")]
_Config = Annotated[str, typer.Option("--config", "-c", help="A YAML file, or: tiny, base, paper.")]


@app.command()
def fit(
    dataset: DatasetPath,
    out: RunOut,
    config: _Config = "tiny",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Fit an alignment network on a dataset with a frame table; the same command again resumes where it stopped.

    Example: `trainer align fit runs/align-data --out runs/align --config tiny`
    """
    settings = load_run_config(AlignConfig, config, overrides or (), prefix="align")

    def begin(dataset: Path, out: Path, settings: AlignConfig) -> RunState:
        from trainer.align.fit import fit_align

        return fit_align(dataset, out, settings)

    state = fitted(dataset, out, settings, begin)
    nme = state.best_metrics.get("nme_percent")
    say_run(out, state, f"{nme:.2f} % of the face's size off" if nme is not None else "", as_json=as_json)


@app.command()
def evaluate(
    run: _Run,
    dataset: DatasetPath,
    split: Split = "test",
    limit: Limit = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure a network on a split: distances, and how far its uncertainty is right; docs/align.md has every figure.

    Example: `trainer align evaluate runs/align runs/align-data --split test`
    """
    from trainer.align.evaluate import evaluate_align

    result = evaluate_align(run, dataset, split, limit=limit, device_name=device)
    if as_json:
        print_json(result.to_json())
        return
    say(result.text())


@app.command()
def predict(
    run: _Run,
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
    """Write where the face's vertices are in pictures, with covariance: a file of seen points for each.

    Without --box or --boxes a picture is taken for a square crop about the face, a fifth larger than it.

    Example: `trainer align predict runs/align captures/anna/talk --pictures images/{camera}/{frame:06d}.png --out seen`
    """
    from trainer.align.predict import predict_align

    options = picture_options(pictures, name, box, boxes, orientation)
    result = predict_align(run, sources, out, options, device_name=device)
    if as_json:
        print_json({"out": str(out), **result})
        return
    say(f"{result['pictures']} files in {out}; σ of their points {result['median_sigma_px']:.2f} px, median")


@app.command()
def schema(
    config: _Config = "tiny",
    as_json: AsSchema = False,
) -> None:
    """Print a configuration in full, with comments that say what each key means.

    Saved to a file, it can be fitted as it is.

    Example: `trainer align schema --config base > my.yaml`
    """
    say_settings(load_run_config(AlignConfig, config, prefix="align"), as_schema=as_json)
