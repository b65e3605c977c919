"""``trainer align``: fit, measure and use the alignment network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from datagen.common.console import print_json, say
from datagen.common.help import App
from datagen.common.settings_text import commented_yaml
from datagen.shards import open_dataset
from trainer.align.config import AlignConfig
from trainer.config import load_run_config
from trainer.run.folder import check_same_run, read_state

app = App(
    name="align",
    help="Find every vertex of the template in pictures, with its uncertainty: fit a network, measure it, use it.",
)
_Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="auto, cpu or cuda.")]
_Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
_Run = Annotated[Path, typer.Argument(help="A run folder of `trainer align fit` (its best.pt), or a checkpoint.")]
_Dataset = Annotated[Path, typer.Argument(help="A dataset.zarr folder, or a build folder that holds one.")]


@app.command()
def fit(
    dataset: _Dataset,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run; an unfinished run there is resumed.")],
    config: Annotated[str, typer.Option("--config", "-c", help="A YAML file, or: tiny, base, paper.")] = "tiny",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the configuration.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Fit an alignment network on a dataset with a frame table; the same command again resumes where it stopped.

    Example: `trainer align fit runs/align-data --out runs/align --config tiny`
    """
    settings = load_run_config(AlignConfig, config, overrides or (), prefix="align")
    opened = open_dataset(dataset)
    state = read_state(out)
    if state is not None:
        check_same_run(out, state, settings, opened.uuid)
    if state is None or not state.finished:
        from trainer.align.fit import fit_align  # imports torch, which a finished run can do without

        state = fit_align(dataset, out, settings)
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
    nme = state.best_metrics.get("nme_percent")
    best = f", best at step {state.best_step}" + (f", {nme:.2f} % of the face's size off" if nme is not None else "")
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
    device: _Device = "auto",
    as_json: _Json = False,
) -> None:
    """Write where the face's vertices are in pictures, with covariance: a file of seen points for each.

    Without --box or --boxes a picture is taken for a square crop about the face, a fifth larger than it.

    Example: `trainer align predict runs/align captures/anna/talk --pictures images/{camera}/{frame:06d}.png --out seen`
    """
    from trainer.align.predict import predict_align
    from trainer.prediction.boxed import PictureOptions, parse_box

    options = PictureOptions(pictures, name, parse_box(box) if box is not None else None, boxes, orientation)
    result = predict_align(run, sources, out, options, device_name=device)
    if as_json:
        print_json({"out": str(out), **result})
        return
    say(f"{result['pictures']} files in {out}; σ of their points {result['median_sigma_px']:.2f} px, median")


@app.command()
def schema(
    config: Annotated[str, typer.Option("--config", "-c", help="A YAML file, or: tiny, base, paper.")] = "tiny",
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON schema instead.")] = False,
) -> None:
    """Print a configuration in full, with comments that say what each key means.

    Saved to a file, it can be fitted as it is.

    Example: `trainer align schema --config base > my.yaml`
    """
    if as_json:
        print_json(AlignConfig.model_json_schema())
        return
    say(commented_yaml(load_run_config(AlignConfig, config, prefix="align")).rstrip())
