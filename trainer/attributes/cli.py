"""``trainer attributes``: fit, measure and use the parameter head."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from datagen.common.console import print_json, say
from datagen.common.help import App
from datagen.common.settings_text import commented_yaml
from datagen.shards import open_dataset
from trainer.attributes.config import AttributesConfig
from trainer.config import load_run_config
from trainer.run.folder import check_same_run, read_state

app = App(
    name="attributes",
    help="Tell a head model's parameters from single pictures, with uncertainty: fit a network, measure it, use it.",
)
_Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="auto, cpu or cuda.")]
_Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
_Run = Annotated[Path, typer.Argument(help="A run folder of `trainer attributes fit` (its best.pt), or a checkpoint.")]
_Dataset = Annotated[Path, typer.Argument(help="A dataset.zarr folder, or a build folder that holds one.")]


@app.command()
def fit(
    dataset: _Dataset,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run; an unfinished run there is resumed.")],
    config: Annotated[str, typer.Option("--config", "-c", help="A YAML file, or: tiny, base, projection.")] = "tiny",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the configuration.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Fit a parameter head on a dataset with a frame table; the same command again resumes where it stopped.

    Example: `trainer attributes fit runs/people --out runs/attributes --config tiny`
    """
    settings = load_run_config(AttributesConfig, config, overrides or (), prefix="attributes")
    opened = open_dataset(dataset)
    state = read_state(out)
    if state is not None:
        check_same_run(out, state, settings, opened.uuid)
    if state is None or not state.finished:
        from trainer.attributes.fit import fit_attributes  # imports torch, which a finished run can do without

        state = fit_attributes(dataset, out, settings)
    if as_json:
        print_json(
            {
                "run": str(out),
                "finished": state.finished,
                "step": state.step,
                "steps": state.steps,
                "seconds": state.seconds,
            }
        )
        return
    if not state.finished:
        say(f"{out} is at step {state.step} of {state.steps}; the same command resumes it")
        return
    ratio = state.best_metrics.get("vertices_ratio_mean")
    best = f", best at step {state.best_step}" + (
        f", faces {ratio:.2f} times as far off as the mean face" if ratio is not None else ""
    )
    say(f"{out} is finished: {state.steps} steps in {state.seconds / 60:.1f} minutes{best}")


@app.command()
def evaluate(
    run: _Run,
    dataset: _Dataset,
    split: Annotated[Literal["train", "val", "test"], typer.Option("--split")] = "test",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Most samples, evenly spread.")] = None,
    device: _Device = "auto",
    as_json: _Json = False,
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
    sources: Annotated[list[Path], typer.Argument(help="Pictures; with --pictures, the folder they are below.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder, or an earlier prediction to replace.")],
    pictures: Annotated[
        str | None, typer.Option("--pictures", help="Pattern of their names, such as images/{camera}/{frame:06d}.png.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Pattern of the files' names; default: {camera}/{frame:06d}.npz.")
    ] = None,
    box: Annotated[
        str | None, typer.Option("--box", help="The face in every picture: left,top,right,bottom in pixels.")
    ] = None,
    boxes: Annotated[
        Path | None, typer.Option("--boxes", help="JSON file with the box of each picture, by its name.")
    ] = None,
    orientation: Annotated[
        Literal["stored", "upright"] | None,
        typer.Option("--orientation", help="Of pictures with a turn: pixels as stored, or as they are shown."),
    ] = None,
    focal_px: Annotated[
        float | None,
        typer.Option("--focal-px", min=1, help="Focal length of the pictures; default: 1.2 times the larger side."),
    ] = None,
    device: _Device = "auto",
    as_json: _Json = False,
) -> None:
    """Write what each picture tells of the head in it, and person.npz: the face at rest of the person all show.

    Without --box or --boxes a picture is taken for a square crop about the face, a fifth larger than it.
    `datagen fit --neutral out/person.npz` takes the face at rest; --neutral-error-mm is printed.

    Example: `trainer attributes predict runs/attributes anna1.png anna2.png --box 80,60,300,310 --out told`
    """
    from trainer.attributes.predict import predict_attributes
    from trainer.prediction.boxed import PictureOptions, parse_box

    options = PictureOptions(pictures, name, parse_box(box) if box is not None else None, boxes, orientation)
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
    config: Annotated[str, typer.Option("--config", "-c", help="A YAML file, or: tiny, base, projection.")] = "tiny",
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON schema instead.")] = False,
) -> None:
    """Print a configuration in full, with comments that say what each key means.

    Saved to a file, it can be fitted as it is.

    Example: `trainer attributes schema --config base > my.yaml`
    """
    if as_json:
        print_json(AttributesConfig.model_json_schema())
        return
    say(commented_yaml(load_run_config(AttributesConfig, config, prefix="attributes")).rstrip())
