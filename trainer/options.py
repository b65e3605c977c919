"""Options and answers that the commands of ``trainer`` have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from datagen.common.console import print_json, say
from datagen.common.settings import Section
from datagen.common.settings_text import commented_yaml
from datagen.shards import open_dataset
from trainer.config import RunConfigT
from trainer.run.folder import RunState, check_same_run, read_state

if TYPE_CHECKING:
    from trainer.prediction.boxed import PictureOptions

DatasetPath = Annotated[Path, typer.Argument(help="A dataset.zarr folder, or a build folder that holds one.")]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="auto, cpu or cuda.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
AsSchema = Annotated[bool, typer.Option("--json", help="Print the JSON schema instead.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Most samples, evenly spread.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the configuration.")
]
PredictionOut = Annotated[Path, typer.Option("--out", "-o", help="A new folder, or an earlier prediction to replace.")]
RunOut = Annotated[Path, typer.Option("--out", "-o", help="Folder of the run; an unfinished run there is resumed.")]
Split = Annotated[Literal["train", "val", "test"], typer.Option("--split")]

# Pictures that are cut to a face by a box.
Pictures = Annotated[list[Path], typer.Argument(help="Pictures; with --pictures, the folder they are below.")]
PicturePattern = Annotated[
    str | None, typer.Option("--pictures", help="Pattern of their names, such as images/{camera}/{frame:06d}.png.")
]
NamePattern = Annotated[
    str | None, typer.Option("--name", help="Pattern of the files' names; default: {camera}/{frame:06d}.npz.")
]
Box = Annotated[str | None, typer.Option("--box", help="The face in every picture: left,top,right,bottom in pixels.")]
Boxes = Annotated[Path | None, typer.Option("--boxes", help="JSON file with the box of each picture, by its name.")]
Turn = Annotated[
    Literal["stored", "upright"] | None,
    typer.Option("--orientation", help="Of pictures with a turn: pixels as stored, or as they are shown."),
]


def fitted(
    dataset: Path, out: Path, settings: RunConfigT, fit: Callable[[Path, Path, RunConfigT], RunState]
) -> RunState:
    """Begin or resume a run, unless it is finished.

    Parameters
    ----------
    fit : callable
        Imports torch, which a finished run can do without.
    """
    opened = open_dataset(dataset)
    state = read_state(out)
    if state is not None:
        check_same_run(out, state, settings, opened.uuid)
        if state.finished:
            return state
    return fit(dataset, out, settings)


def say_run(out: Path, state: RunState, best: str, *, as_json: bool) -> None:
    """Say how far a run has come.

    Parameters
    ----------
    best : str
        How good the best of it is, where that was measured; else empty.
    """
    if as_json:
        done = {"finished": state.finished, "step": state.step, "steps": state.steps, "seconds": state.seconds}
        print_json({"run": str(out), **done})
    elif state.finished:
        taken = f"{state.steps} steps in {state.seconds / 60:.1f} minutes, best at step {state.best_step}"
        say(f"{out} is finished: {taken}{f', {best}' if best else ''}")
    else:
        say(f"{out} is at step {state.step} of {state.steps}; the same command resumes it")


def say_settings(settings: Section, *, as_schema: bool) -> None:
    """Print a configuration with comments, or the schema of its kind."""
    if as_schema:
        print_json(type(settings).model_json_schema())
        return
    say(commented_yaml(settings).rstrip())


def picture_options(
    pictures: str | None,
    name: str | None,
    box: str | None,
    boxes: Path | None,
    orientation: Literal["stored", "upright"] | None,
) -> PictureOptions:
    """Return which pictures were asked for, and where the face is in them; InputError if a box is none."""
    from trainer.prediction.boxed import PictureOptions, parse_box

    return PictureOptions(pictures, name, parse_box(box) if box is not None else None, boxes, orientation)
