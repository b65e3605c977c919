"""``trainer avatar`` and ``trainer adapt``: one person's appearance model, driven by pictures and adapted to clips."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from datagen.common.console import print_json, say
from datagen.common.help import App
from datagen.common.settings import parse, with_overrides
from datagen.common.settings_text import commented_yaml
from datagen.shards import open_dataset
from trainer.avatar.config import AdaptConfig, AvatarConfig
from trainer.config import load_run_config
from trainer.run.folder import check_same_run, read_state

app = App(
    name="avatar",
    help="One person's appearance model, and a network that drives it from single pictures: fit it in a studio, "
    "measure it, use it; `trainer adapt` adapts it to other cameras.",
)
_Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="auto, cpu or cuda.")]
_Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
_Run = Annotated[Path, typer.Argument(help="A run folder of `trainer avatar fit` or `trainer adapt`, or a checkpoint.")]
_Dataset = Annotated[Path, typer.Argument(help="A dataset.zarr folder, or a build folder that holds one.")]
_Clip = Annotated[
    list[Path],
    typer.Argument(metavar="CLIP", help="Pictures of one camera in their order, or the folder they are in."),
]
_Pictures = Annotated[
    str | None,
    typer.Option("--pictures", help="Pattern of their names below the folder, such as cam0/{frame:06d}.png."),
]
_Box = Annotated[str | None, typer.Option("--box", help="The face in every picture: left,top,right,bottom in pixels.")]
_Boxes = Annotated[Path | None, typer.Option("--boxes", help="JSON file with the box of each picture, by its name.")]
_Orientation = Annotated[
    Literal["stored", "upright"] | None,
    typer.Option("--orientation", help="Of pictures with a turn: pixels as stored, or as they are shown."),
]
_Focal = Annotated[
    float | None,
    typer.Option("--focal-px", min=1, help="Focal length of the pictures; default: 1.2 times the larger side."),
]


@app.command()
def fit(
    dataset: _Dataset,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run; an unfinished run there is resumed.")],
    config: Annotated[str, typer.Option("--config", "-c", help="A YAML file, or: tiny.")] = "tiny",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the configuration.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Fit an avatar of the one person of a dataset; the same command again resumes where it stopped.

    Example: `trainer avatar fit runs/studio --out runs/avatar --config tiny`
    """
    settings = load_run_config(AvatarConfig, config, overrides or (), prefix="avatar")
    opened = open_dataset(dataset)
    state = read_state(out)
    if state is not None:
        check_same_run(out, state, settings, opened.uuid)
    if state is None or not state.finished:
        from trainer.avatar.fit import fit_avatar  # imports torch, which a finished run can do without

        state = fit_avatar(dataset, out, settings)
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
    say(f"{out} is finished: {state.steps} steps in {state.seconds / 60:.1f} minutes")


@app.command()
def evaluate(
    run: _Run,
    dataset: _Dataset,
    split: Annotated[Literal["train", "val", "test"], typer.Option("--split")] = "train",
    limit: Annotated[
        int | None, typer.Option("--limit", min=3, help="Most samples of each camera, from the first.")
    ] = None,
    device: _Device = "auto",
    as_json: _Json = False,
) -> None:
    """Measure an avatar on recordings of its person whose meshes are known; docs/adapt.md has every figure.

    Example: `trainer avatar evaluate runs/avatar runs/studio`
    """
    from trainer.avatar.evaluate import evaluate_avatar

    result = evaluate_avatar(run, dataset, split, limit=limit, device_name=device)
    if as_json:
        print_json(result.to_json())
        return
    say(result.text())


@app.command()
def predict(
    run: _Run,
    clip: _Clip,
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder, or an earlier prediction to replace.")],
    pictures: _Pictures = None,
    box: _Box = None,
    boxes: _Boxes = None,
    orientation: _Orientation = None,
    focal_px: _Focal = None,
    device: _Device = "auto",
    as_json: _Json = False,
) -> None:
    """Write the meshes that a clip's frames tell, as motion.npz.

    Without --box or --boxes a picture is taken for a square crop about the face, a fifth larger than it.

    Example: `trainer avatar predict runs/adapted phone --boxes boxes.json --out motion`
    """
    from trainer.avatar.output import predict_avatar
    from trainer.prediction.boxed import PictureOptions, parse_box

    options = PictureOptions(pictures, None, parse_box(box) if box is not None else None, boxes, orientation)
    result = predict_avatar(run, clip, out, options, focal_px=focal_px, device_name=device)
    if as_json:
        print_json({"out": str(out), **result})
        return
    say(f"{result['frames']} frames of {result['subject']} in {out}")


@app.command()
def schema(
    config: Annotated[str, typer.Option("--config", "-c", help="A YAML file, or: tiny.")] = "tiny",
    adaptation: Annotated[bool, typer.Option("--adapt", help="Print what `trainer adapt --set` takes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON schema instead.")] = False,
) -> None:
    """Print a configuration in full, with comments that say what each key means.

    Saved to a file, that of a fit can be fitted as it is.

    Example: `trainer avatar schema > my.yaml`
    """
    if as_json:
        print_json((AdaptConfig if adaptation else AvatarConfig).model_json_schema())
        return
    shown = AdaptConfig() if adaptation else load_run_config(AvatarConfig, config, prefix="avatar")
    say(commented_yaml(shown).rstrip())


def adapt(
    run: _Run,
    clip: _Clip,
    studio: Annotated[Path, typer.Option("--studio", help="The dataset that the avatar was learnt from.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder, or an earlier adaptation to replace.")],
    pictures: _Pictures = None,
    box: _Box = None,
    boxes: _Boxes = None,
    orientation: _Orientation = None,
    focal_px: _Focal = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the adaptation.")
    ] = None,
    device: _Device = "auto",
    as_json: _Json = False,
) -> None:
    """Adapt an avatar to a clip of another camera without labels: textures of near frames must agree.

    Without --box or --boxes a picture is taken for a square crop about the face, a fifth larger than it.

    Example: `trainer adapt runs/avatar phone --studio runs/studio --boxes boxes.json --out runs/adapted`
    """
    keys = f"`{AdaptConfig.schema_command}` prints every key with its type, range and meaning"
    settings = parse(AdaptConfig, with_overrides({}, overrides or (), "steps=100", keys), "the adaptation", keys)
    from trainer.avatar.output import adapt_avatar
    from trainer.prediction.boxed import PictureOptions, parse_box

    options = PictureOptions(pictures, None, parse_box(box) if box is not None else None, boxes, orientation)
    result = adapt_avatar(run, clip, studio, out, options, settings, focal_px=focal_px, device_name=device)
    if as_json:
        print_json({"out": str(out), **result})
        return
    ended = f", ended by the guard at step {result['stopped_at_step']}" if result["stopped_at_step"] else ""
    say(
        f"{out} is adapted to {result['frames']} frames{ended}; "
        f"the studio error is {result['studio_after_mm']:.1f} mm, it was {result['studio_before_mm']:.1f}"
    )
