"""``fit``: captures without scans get registrations, of what was seen in their pictures."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from datagen.commands.options import JsonOption
from datagen.common.console import print_json, say
from datagen.common.errors import CanonfaceError
from datagen.common.files import check_writable
from datagen.heads.registry import HEADS

if TYPE_CHECKING:
    from datagen.fit.capture import Fitted

    HeadName = str
else:
    HeadName = Literal[tuple(HEADS)]

_INDENT = "  "


def fit_command(
    captures: Annotated[Path, typer.Argument(help="Folder of <subject>/<sequence>/; see docs/capture-format.md.")],
    out: Annotated[Path, typer.Option("--out", help="Folder that captures with registrations are written into.")],
    head: Annotated[HeadName, typer.Option(help="Head model that is fitted; evidence is of its template.")] = "anny",
    head_root: Annotated[Path | None, typer.Option(help="Folder of the head model, where it has one.")] = None,
    neutral: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The person's face at rest: a mesh in the head model's topology, in metres, or person.npz of a fit "
            "or a build.",
        ),
    ] = None,
    neutral_error_mm: Annotated[
        float, typer.Option("--neutral-error-mm", help="How far it is off (RMS).", min=0.05, max=20)
    ] = 1.0,
    focal: Annotated[
        Literal["known", "unknown"],
        typer.Option(help="unknown: one focal length a camera is found too, from that of its K; square pixels."),
    ] = "known",
    stereo: Annotated[
        bool,
        typer.Option(
            help="Pictures of an instant also tell where the skin is: where they agree. Not with --focal unknown."
        ),
    ] = True,
    only: Annotated[
        str | None, typer.Option("--only", metavar="PATTERN", help="Captures to fit, such as 'anna/*'.")
    ] = None,
    every: Annotated[int, typer.Option("--every", help="Take each n-th frame.", min=1)] = 1,
    json_output: JsonOption = False,
) -> None:
    """Fit a head model to what was seen in calibrated pictures, and write captures whose surface are registrations.

    Pictures and all else are linked, not copied; nothing of yours is changed. Scans are not looked at: where there are
    any, builds heed the same evidence beside them. Exit code 1 if one of several captures could not be fitted.

    Example: datagen fit captures/ --out registered
    """
    from datagen.common.progress import Progress
    from datagen.evidence.looking import chosen
    from datagen.fit.capture import fit_capture, read_neutral
    from datagen.fit.problem import FitSettings
    from datagen.fit.refine import LOOKS
    from datagen.heads.registry import load_head
    from datagen.sources.folder import FolderCaptures

    folder = FolderCaptures(captures, head_root=head_root)
    check_writable(out)
    wanted = chosen(folder, only, every)
    model = load_head(head, head_root)
    known = None if neutral is None else read_neutral(neutral, model, head)
    settings = FitSettings(neutral_error_m=neutral_error_mm / 1000, focal=focal == "unknown", stereo=stereo)
    results: list[tuple[str, Fitted | CanonfaceError]] = []
    times = 1 + (len(LOOKS) if settings.compares else 0)
    with Progress("fit", times * settings.rounds * len(wanted), "rounds") as progress:
        for info, frames in wanted:
            try:
                found = fit_capture(folder, captures, info, frames, out, model, settings, known, progress.advance)
                results.append((str(info.key), found))
            except CanonfaceError as error:
                if len(wanted) == 1:
                    raise
                results.append((str(info.key), error))
    if json_output:
        print_json({"sequences": [_as_json(name, result) for name, result in results]})
    else:
        for name, result in results:
            for line in _lines(name, result):
                say(line)
        if any(not isinstance(result, CanonfaceError) for _, result in results):
            say(f"next: datagen check {shlex.quote(str(out))}")
    if any(isinstance(result, CanonfaceError) for _, result in results):
        raise SystemExit(1)


def _as_json(name: str, result: Fitted | CanonfaceError) -> dict[str, Any]:
    if isinstance(result, CanonfaceError):
        return {"sequence": name, "problem": str(result)}
    return {
        "sequence": name,
        "problem": "",
        "kept": result.kept,
        "frames": list(result.frames),
        "left_out": list(result.left_out),
        "spread_median_mm": None if result.kept else result.spread_mm,
        "focal_px": result.focal_px,
        "disagreeing": result.disagreeing,
        "remarks": result.remarks,
    }


def _lines(name: str, result: Fitted | CanonfaceError) -> list[str]:
    if isinstance(result, CanonfaceError):
        return [f"{name}: not fitted", f"{_INDENT}problem   {result}"]
    rows = [("frames", str(len(result.frames)))]
    if not result.kept:
        rows.append(("spread", f"{result.spread_mm:.2f} mm, median of vertices"))
    rows += [("focal", f"{camera}: {length:.1f} px") for camera, length in result.focal_px.items()]
    rows += [("note", remark) for remark in result.remarks]
    state = "kept, it was there already" if result.kept else "written"
    return [f"{name}: {state}", *(f"{_INDENT}{title:<8}  {text}" for title, text in rows)]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("fit")(fit_command)
