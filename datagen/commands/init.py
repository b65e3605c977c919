"""``init``: from a folder of pictures, with scans or without, to a commented ``capture.json``."""

from __future__ import annotations

import math
import shlex
import shutil
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from datagen.commands.options import JsonOption
from datagen.common.console import print_json, say
from datagen.common.errors import InputError
from datagen.geometry.space import METRES_PER_UNIT

if TYPE_CHECKING:
    from datagen.sources.capture_draft import Survey
    from datagen.sources.capture_folders import Drafted, Drafts

    Unit = str
else:
    Unit = Literal[tuple(METRES_PER_UNIT)]

_INDENT = "  "
_NO_SCANS = 'none: "surface": "none", and a build fits heads to the pictures. If there are scans, put them beside'
_NAMED = 8


def init_command(
    folder: Annotated[Path, typer.Argument(help="Folder with pictures and scans, of one sequence or of many.")],
    unit: Annotated[Unit | None, typer.Option("--unit", help="Unit of the scans.")] = None,
    fps: Annotated[float | None, typer.Option("--fps", help="Frames a second of the recordings.")] = None,
    calibration: Annotated[
        Path | None, typer.Option("--calibration", help="JSON file, or folder with files of COLMAP or OpenCV.")
    ] = None,
    pixel_center: Annotated[
        Literal["0", "0.5"] | None,
        typer.Option("--pixel-center", help="Centre of the top-left pixel in K: 0.5, or 0 as OpenCV has it."),
    ] = None,
    camera_unit: Annotated[
        Unit | None, typer.Option("--camera-unit", help="Unit of the cameras' translations, where it is another.")
    ] = None,
    scan: Annotated[
        str | None, typer.Option("--scan", metavar="PATTERN", help="Which meshes are the scans, where several are.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Look at a folder and write a capture.json, with notes, from what is found; nothing of yours is overwritten.

    What cannot be known is asked for: by a "?" in the file, and here in words. Exit code 1 if a folder with scans and
    pictures could not be described. Where there are no scans, pictures of two cameras or more are taken alone.

    Example: datagen init captures/ --unit mm
    """
    from datagen.sources.capture_draft import Answers
    from datagen.sources.capture_folders import draft_captures

    if fps is not None and not 0 < fps < math.inf:
        raise InputError(f"--fps {fps}", "a number of frames a second", "Give the recording's rate")
    centre = None if pixel_center is None else float(pixel_center)
    drafts = draft_captures(folder, Answers(unit, camera_unit, fps, centre, scan, calibration))
    if json_output:
        print_json({"depth": drafts.depth, "sequences": [_as_json(one) for one in drafts.sequences]})
    else:
        for line in _lines(folder, drafts):
            say(line)
    if any(one.problem for one in drafts.sequences):
        raise SystemExit(1)


def _as_json(one: Drafted) -> dict[str, Any]:
    found = one.found
    return {
        "folder": str(one.folder),
        "missing": [asdict(missing) for missing in one.missing],
        "problem": one.problem,
        "remarks": list(found.remarks) if found else [],
        "written": one.written,
        **({"cameras": list(found.pictures.cameras), "frames": list(found.frames)} if found else {}),
    }


def _lines(folder: Path, drafts: Drafts) -> list[str]:
    """Return what to tell: sequences of which the same is said are told of once."""
    told: dict[str, list[Drafted]] = {}
    for one in drafts.sequences:
        # The folder and the size of the scans may differ.
        alike = "\n".join(f"{name} {text}" for name, text in _told_of(one)).replace(str(one.folder), "")
        size = f"{one.found.extent.size:.4g}" if one.found and one.found.extent else " "
        told.setdefault(alike.replace(size, ""), []).append(one)
    lines = []
    for first, *others in told.values():
        lines += [f"{first.folder / 'capture.json'}: {_state(first)}", *_in_columns(_told_of(first))]
        if others:
            named = ", ".join(str(one.folder.relative_to(folder)) for one in others[:_NAMED])
            lines += [f"{_INDENT}alike: {named}" + (f" and {len(others) - _NAMED} more" if others[_NAMED:] else "")]
    return [*lines, "", *_next(folder, drafts)]


def _state(one: Drafted) -> str:
    return "written" if one.written else "not written" if one.problem else "kept"


def _size(found: Survey) -> str:
    return f"{found.extent.size:.4g} across" if found.extent else ""


def _in_columns(rows: list[tuple[str, str]]) -> list[str]:
    """Return names and texts side by side, folded to the terminal's width."""
    width = max((len(name) for name, _ in rows), default=0)
    lines = []
    for name, text in rows:
        room = max(shutil.get_terminal_size().columns - width - 2 * len(_INDENT), 40)
        folded = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)
        lines += [
            f"{_INDENT}{name:<{width}}  {folded[0]}",
            *(" " * (width + 2 * len(_INDENT)) + line for line in folded[1:]),
        ]
    return lines


def _told_of(one: Drafted) -> list[tuple[str, str]]:
    rows = _rows_of(one.found) if one.found else []
    if one.problem:
        rows.append(("problem", one.problem))
    elif not one.written:
        rows.append(("kept", "it was there, and is not as this command wrote it"))
    return rows + [(f'"?" {missing.key}', missing.hint) for missing in one.missing]


def _rows_of(found: Survey) -> list[tuple[str, str]]:
    frames, sizes = found.frames, sorted(set(found.sizes.values()))
    span = f"{frames[0]} to {frames[-1]}" if len(frames) > 1 else str(frames[0])
    rows = [
        ("frames", f"{len(frames)}, numbered {span}"),
        ("scans", f"{found.scans.text}, {_size(found)}" if found.scans else _NO_SCANS),
        ("pictures", f"{found.pictures.text}, {', '.join(f'{width}×{height}' for width, height in sizes)}"),
        ("cameras", f"{len(found.pictures.cameras)}: {', '.join(found.pictures.cameras)}"),
    ]
    if found.calibration is not None:
        rows.append(("calibration", f"{found.calibration_file} ({found.calibration.kind})"))
        rows += [("taken so", remark) for remark in found.calibration.remarks]
    for name, pattern in (("masks", found.masks), ("landmarks", found.landmarks)):
        if pattern is not None:
            rows.append((name, pattern.text))
    if found.registrations is not None:
        rows.append(("registrations", f"{found.registrations.text}, of the head model {found.registration_head}"))
    return [*rows, *(("note", remark) for remark in found.remarks)]


def _next(folder: Path, drafts: Drafts) -> list[str]:
    """Return what to do now."""
    lines = []
    keys = {missing.key for one in drafts.sequences for missing in one.missing}
    options = [
        option
        for key, option in (
            ("unit", "--unit …"),
            ("camera_unit", "--camera-unit …"),
            ("fps", "--fps …"),
            ("pixel_center", "--pixel-center …"),
            ("cameras", "--calibration …"),
        )
        if key in keys and any(one.written for one in drafts.sequences)
    ]
    if keys:
        again = f", or run again: datagen init {shlex.quote(str(folder))} {' '.join(options)}" if options else ""
        lines.append(f'next: replace every "?" in capture.json{again}')
    root = _root_of(folder, drafts.depth)
    if root is None:
        lines.append("the layout is <root>/<subject>/<sequence>/; to have it without moving a file:")
        lines += _links(drafts)
        root = Path("captures")
    return [*lines, f"{'then' if lines else 'next'}: datagen check {shlex.quote(str(root))}"]


def _root_of(folder: Path, depth: int) -> Path | None:
    """Return the folder that `check` and `build` are to be given; None if there is none in the layout they read."""
    from datagen.sources.capture_folders import DEPTH

    if depth == DEPTH:
        return folder
    above = [folder.resolve(), *folder.resolve().parents]
    root = above[min(DEPTH - depth, len(above) - 1)]
    try:
        subjects = [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
        inside = (path for subject in subjects for path in subject.iterdir() if not path.name.startswith("."))
        fits = all((path / "capture.json").is_file() for path in inside if path.is_dir())
    except OSError:
        return None
    return root if fits else None


def _links(drafts: Drafts) -> list[str]:
    links = []
    for one in drafts.sequences:
        if one.problem:
            continue
        place = one.folder.resolve()
        # Of folders side by side it cannot be known whether they are people or takes: people, until they are renamed.
        subject = f"captures/{place.name}" if drafts.depth else f"captures/{place.parent.name or 'subject'}"
        name = "take1" if drafts.depth else place.name
        link = shlex.join(["ln", "-s", str(place), f"{subject}/{name}"])
        links.append(f"{_INDENT}{shlex.join(['mkdir', '-p', subject])} && {link}")
    return links


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("init")(init_command)
