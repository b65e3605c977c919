"""``marks``: where the 68 landmarks lie on a head, found from real faces that others marked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from datagen.commands.options import JsonOption
from datagen.common.console import print_json, say
from datagen.common.errors import InputError
from datagen.common.files import npz_bytes, write_owned_bytes


def marks_command(
    real: Annotated[Path, typer.Option(help="Folder with families/, scans/menpo_james/ and ict_facekit/.")],
    head: Annotated[Literal["anny", "ict"], typer.Option(help="The head model to mark.")] = "anny",
    rounds: Annotated[int, typer.Option(min=0, max=20, help="Rounds of registering and marking again.")] = 2,
    detector: Annotated[bool, typer.Option(help="Hear MediaPipe's face mesh, too; see docs/heads.md.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the JSON files as in datagen/heads/data.")] = None,
    picture: Annotated[Path | None, typer.Option(help="PNG of the heads beside the faces marked by hand.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Find a head's landmarks: where those of other faces lie on it, by registrations that leave each landmark out.

    Prints how far each source's marks lie from the consensus of the others, and from where the head's marks were.
    With --rounds 0 only the picture is drawn; one with real faces in it is not for publication.

    Example: python -m benchmarks marks --real ../shared/data --rounds 0 --picture /tmp/landmarks.png
    """
    from benchmarks.marks.pictures import write_picture
    from benchmarks.marks.run import find_marks, write_marks
    from benchmarks.marks.sources import read_sources
    from datagen.heads.registry import load_head

    sources, model = read_sources(real), load_head(head, real)
    if rounds:
        detected = None
        if detector:
            from benchmarks.marks.detector import Witness, detected_marks, offsets

            witness, axes = Witness(), load_head("ict", real).template
            detected = detected_marks(witness, model.template, {s.name: offsets(witness, s, axes) for s in sources})
        tell = (lambda _: None) if json_output else say
        found = find_marks(model, sources, rounds=rounds, detected=detected, say=tell)
        if out is not None:
            write_marks(out, found)
        figures = found.figures()
        if json_output:
            print_json({"head": head, "moved_mm": found.moved_mm, "figures": figures})
        else:
            for name, value in figures["left_out"].items():
                say(f"{name}: {value:.2f} mm from the others' consensus, {figures['before'][name]:.2f} mm before")
    if picture is not None:
        write_picture(picture, [load_head("anny"), load_head("ict", real)], sources)


def typical_command(
    real: Annotated[Path, typer.Option(help="Folder with families/, scans/menpo_james/ and ict_facekit/.")],
    out: Annotated[Path, typer.Option(help="JSON file as in datagen/heads/data.")],
    source: Annotated[
        list[str] | None,
        typer.Option(help="Whose mean counts; by default facefuns and ict, whose licences are free. May be repeated."),
    ] = None,
) -> None:
    """Learn the typical real face in Anny's topology: the mean of sources that people registered to one topology.

    To judge it on a family, learn it from the others.

    Example: python -m benchmarks typical --real ../shared/data --source multiface --source ict --out /tmp/typical.json
    """
    from benchmarks.marks.sources import read_sources
    from benchmarks.marks.typical import learn_typical
    from datagen.heads.registry import load_head

    known = {one.name: one for one in read_sources(real)}
    wanted = source or ["facefuns", "ict"]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise InputError(f"there is no source {', '.join(unknown)}", f"some of {', '.join(known)}", "Change --source")
    content = learn_typical(load_head("anny"), [known[name] for name in wanted], say)
    write_owned_bytes(out, f"{json.dumps(content)}\n".encode())


def population_command(
    real: Annotated[Path, typer.Option(help="Folder with ict_facekit/.")],
    out: Annotated[Path, typer.Option(help="NPZ file as in datagen/heads/data.")],
) -> None:
    """Learn how people differ, in Anny's topology: the components of ICT's model of scans and their mirror images.

    Example: python -m benchmarks population --real ../shared/data --out /tmp/population.npz
    """
    from benchmarks.marks.population import learn_population
    from datagen.heads.base import LinearHead
    from datagen.heads.registry import load_head

    people = load_head("ict", real)
    assert isinstance(people, LinearHead)
    content, figures = learn_population(load_head("anny"), people)
    write_owned_bytes(out, npz_bytes(content))
    for name, value in figures.items():
        say(f"{name}: {value:.4g}")


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("marks")(marks_command)
    app.command("typical")(typical_command)
    app.command("population")(population_command)
