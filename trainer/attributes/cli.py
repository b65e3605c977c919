"""``trainer attributes``: fit, measure and use the parameter head."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from datagen.common.console import print_json, say
from datagen.common.help import App
from trainer.attributes.config import AttributesConfig
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
    name="attributes",
    help="Tell a head model's parameters from single pictures, with uncertainty: fit a network, measure it, use it.",
)
_Run = Annotated[Path, typer.Argument(help="A run folder of `trainer attributes fit` (its best.pt), or a checkpoint.")]
_Config = Annotated[str, typer.Option("--config", "-c", help="A YAML file, or: tiny, base, projection.")]


@app.command()
def fit(
    dataset: DatasetPath,
    out: RunOut,
    config: _Config = "tiny",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Fit a parameter head on a dataset with a frame table; the same command again resumes where it stopped.

    Example: `trainer attributes fit runs/people --out runs/attributes --config tiny`
    """
    settings = load_run_config(AttributesConfig, config, overrides or (), prefix="attributes")

    def begin(dataset: Path, out: Path, settings: AttributesConfig) -> RunState:
        from trainer.attributes.fit import fit_attributes

        return fit_attributes(dataset, out, settings)

    state = fitted(dataset, out, settings, begin)
    ratio = state.best_metrics.get("vertices_ratio_mean")
    best = f"faces {ratio:.2f} times as far off as the mean face" if ratio is not None else ""
    say_run(out, state, best, as_json=as_json)


@app.command()
def evaluate(
    run: _Run,
    dataset: DatasetPath,
    split: Split = "test",
    limit: Limit = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure a network on a split: shape, pose, landmarks, how far σ is right; docs/attributes.md has every figure.

    Example: `trainer attributes evaluate runs/attributes runs/people --split test`
    """
    from trainer.attributes.evaluate import evaluate_attributes

    result = evaluate_attributes(run, dataset, split, limit=limit, device_name=device)
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
    focal_px: Annotated[
        float | None,
        typer.Option(
            "--focal-px", min=1, help="Focal length of the pictures; without it sizes are the training people's mean."
        ),
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Write what each picture tells of the head in it, and person.npz: the face at rest of the person all show.

    Without --box or --boxes a picture is taken for a square crop about the face, a fifth larger than it.
    `datagen fit --neutral out/person.npz` takes the face at rest; --neutral-error-mm is printed.

    Example: `trainer attributes predict runs/attributes anna1.png anna2.png --box 80,60,300,310 --out told`
    """
    from trainer.attributes.predict import predict_attributes

    options = picture_options(pictures, name, box, boxes, orientation)
    result = predict_attributes(run, sources, out, options, focal_px=focal_px, device_name=device)
    if as_json:
        print_json({"out": str(out), **result})
        return
    say(
        f"{result['pictures']} files and person.npz in {out}; next: datagen fit CAPTURES --out OUT "
        f"--neutral {out / 'person.npz'} --neutral-error-mm {result['neutral_error_mm']:.1f}"
    )


@app.command()
def schema(
    config: _Config = "tiny",
    as_json: AsSchema = False,
) -> None:
    """Print a configuration in full, with comments that say what each key means.

    Saved to a file, it can be fitted as it is.

    Example: `trainer attributes schema --config base > my.yaml`
    """
    say_settings(load_run_config(AttributesConfig, config, prefix="attributes"), as_schema=as_json)
