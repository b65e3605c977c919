"""``trainer avatar`` and ``trainer adapt``: one person's appearance model, driven by pictures and adapted to clips."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from datagen.common.console import print_json, say
from datagen.common.help import App
from datagen.common.settings import parse, with_overrides
from trainer.avatar.config import AdaptConfig, AvatarConfig
from trainer.config import RunConfig, load_run_config
from trainer.options import (
    AsJson,
    AsSchema,
    Box,
    Boxes,
    DatasetPath,
    Device,
    Overrides,
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
    name="avatar",
    help="One person's appearance model, and a network that drives it from single pictures: fit it in a studio, "
    "measure it, use it; `trainer adapt` adapts it to other cameras.",
)
_Run = Annotated[Path, typer.Argument(help="A run folder of `trainer avatar fit` or `trainer adapt`, or a checkpoint.")]
_Clip = Annotated[
    list[Path],
    typer.Argument(metavar="CLIP", help="Pictures of one camera in their order, or the folder they are in."),
]
_Names = Annotated[
    str | None,
    typer.Option("--pictures", help="Pattern of their names below the folder, such as cam0/{frame:06d}.png."),
]
_Config = Annotated[str, typer.Option("--config", "-c", help="A YAML file, or: tiny.")]
_Focal = Annotated[
    float | None,
    typer.Option("--focal-px", min=1, help="Focal length of the pictures; default: 1.2 times the larger side."),
]


@app.command()
def fit(
    dataset: DatasetPath,
    out: RunOut,
    config: _Config = "tiny",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Fit an avatar of the one person of a dataset; the same command again resumes where it stopped.

    Example: `trainer avatar fit runs/studio --out runs/avatar --config tiny`
    """
    settings = load_run_config(AvatarConfig, config, overrides or (), prefix="avatar")

    def begin(dataset: Path, out: Path, settings: AvatarConfig) -> RunState:
        from trainer.avatar.fit import fit_avatar

        return fit_avatar(dataset, out, settings)

    say_run(out, fitted(dataset, out, settings, begin), "", as_json=as_json)


@app.command()
def evaluate(
    run: _Run,
    dataset: DatasetPath,
    split: Split = "train",
    limit: Annotated[
        int | None, typer.Option("--limit", min=3, help="Most samples of each camera, from the first.")
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
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
    out: PredictionOut,
    pictures: _Names = None,
    box: Box = None,
    boxes: Boxes = None,
    orientation: Turn = None,
    focal_px: _Focal = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Write the meshes that a clip's frames tell, as motion.npz.

    Without --box or --boxes a picture is taken for a square crop about the face, a fifth larger than it.

    Example: `trainer avatar predict runs/adapted phone --boxes boxes.json --out motion`
    """
    from trainer.avatar.output import predict_avatar

    options = picture_options(pictures, None, box, boxes, orientation)
    result = predict_avatar(run, clip, out, options, focal_px=focal_px, device_name=device)
    if as_json:
        print_json({"out": str(out), **result})
        return
    say(f"{result['frames']} frames of {result['subject']} in {out}")


@app.command()
def schema(
    config: _Config = "tiny",
    adaptation: Annotated[bool, typer.Option("--adapt", help="Print what `trainer adapt --set` takes.")] = False,
    as_json: AsSchema = False,
) -> None:
    """Print a configuration in full, with comments that say what each key means.

    Saved to a file, that of a fit can be fitted as it is.

    Example: `trainer avatar schema > my.yaml`
    """
    shown: RunConfig | AdaptConfig = AdaptConfig()
    if not adaptation:
        shown = load_run_config(AvatarConfig, config, prefix="avatar")
    say_settings(shown, as_schema=as_json)


def adapt(
    run: _Run,
    clip: _Clip,
    studio: Annotated[Path, typer.Option("--studio", help="The dataset that the avatar was learnt from.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder, or an earlier adaptation to replace.")],
    pictures: _Names = None,
    box: Box = None,
    boxes: Boxes = None,
    orientation: Turn = None,
    focal_px: _Focal = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the adaptation.")
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Adapt an avatar to a clip of another camera without labels: textures of near frames must agree.

    Without --box or --boxes a picture is taken for a square crop about the face, a fifth larger than it.

    Example: `trainer adapt runs/avatar phone --studio runs/studio --boxes boxes.json --out runs/adapted`
    """
    keys = f"`{AdaptConfig.schema_command}` prints every key with its type, range and meaning"
    settings = parse(AdaptConfig, with_overrides({}, overrides or (), "steps=100", keys), "the adaptation", keys)
    from trainer.avatar.output import adapt_avatar

    options = picture_options(pictures, None, box, boxes, orientation)
    result = adapt_avatar(run, clip, studio, out, options, settings, focal_px=focal_px, device_name=device)
    if as_json:
        print_json({"out": str(out), **result})
        return
    ended = f", ended by the guard at step {result['stopped_at_step']}" if result["stopped_at_step"] else ""
    say(
        f"{out} is adapted to {result['frames']} frames{ended}; "
        f"the studio error is {result['studio_after_mm']:.1f} mm, it was {result['studio_before_mm']:.1f}"
    )
