"""``evidence``: what the pictures of captures say of where points of the template are."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from datagen.commands.options import JsonOption
from datagen.common.console import print_json, say
from datagen.evidence.registry import MAKERS
from datagen.heads.registry import HEADS

if TYPE_CHECKING:
    from datagen.evidence.looking import Looked

    MakerName = str
    HeadName = str
else:
    MakerName = Literal[tuple(MAKERS)]
    HeadName = Literal[tuple(HEADS)]

MOST_SAID = 20


def evidence_command(
    captures: Annotated[Path, typer.Argument(help="Folder of <subject>/<sequence>/; see docs/capture-format.md.")],
    maker: Annotated[
        MakerName, typer.Option(help="; ".join(f"{name}: {entry.title}" for name, entry in MAKERS.items()) + ".")
    ] = "detector",
    head: Annotated[HeadName, typer.Option(help="Head model whose points are looked for.")] = "anny",
    head_root: Annotated[Path | None, typer.Option(help="Folder of the head model, where it has one.")] = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar="PATTERN", help="Captures to look at, such as 'anna/*'.")
    ] = None,
    every: Annotated[int, typer.Option("--every", help="Take each n-th frame.", min=1)] = 1,
    detector_python: Annotated[
        Path | None,
        typer.Option("--detector-python", help="Python of an environment with mediapipe; see docs/dependencies.md."),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Look at the pictures of captures, and write what they say of the template beside them, for the warp and the fit.

    Each picture that shows a face gets a file evidence/MAKER/CAMERA/FRAME.npz in its sequence; see docs/evidence.md.
    Pictures that show none, or several, are named. Exit code 1 if none says anything, or some cannot be read.

    Example: datagen evidence captures/ --maker detector --detector-python ~/face-mesh/bin/python
    """
    from datagen.common.progress import Progress
    from datagen.evidence.looking import chosen, look_at, unnamed
    from datagen.evidence.registry import MakerSettings, open_maker
    from datagen.heads.registry import load_head
    from datagen.sources.folder import FolderCaptures

    # What is looked for may be named already, and is not there yet.
    folder = FolderCaptures(captures, head_root=head_root, evidence=False)
    wanted = chosen(folder, only, every)
    total = sum(len(frames) for _, frames in wanted)
    model = load_head(head, head_root)
    with open_maker(maker, model, MakerSettings(detector_python)) as looking, Progress("look", total, "frames") as bar:
        looked = look_at(folder, wanted, captures, looking, bar.advance)
    if json_output:
        told = [one.to_json() for one in looked.told]
        print_json({"pictures": len(looked.told), "found": looked.found, "unread": looked.unread, "told": told})
    else:
        _say(looked)
        _say_next(captures, maker, unnamed(captures, wanted, maker))
    if not looked.found or looked.unread:
        raise SystemExit(1)


def _say(looked: Looked) -> None:
    lines = [*looked.unread, *(str(one) for one in looked.told if one.note)]
    for line in lines[:MOST_SAID]:
        say(line)
    if len(lines) > MOST_SAID:
        say(f"and {len(lines) - MOST_SAID} more such pictures; --json lists them")
    say(looked.counted())


def _say_next(captures: Path, maker: str, unnamed: list[str]) -> None:
    from datagen.evidence.looking import pattern_of

    if unnamed:
        more = f" and {len(unnamed) - 1} more" if len(unnamed) > 1 else ""
        say(f'to have it used, write "evidence": "{pattern_of(maker)}" into capture.json of {unnamed[0]}{more}')
    else:
        say(f"next: datagen check {shlex.quote(str(captures))}")


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("evidence")(evidence_command)
