"""``import``: captures that another program calibrated, written into the folder layout by reference."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from datagen.commands.options import JsonOption
from datagen.common.console import print_json, say
from datagen.common.errors import CanonfaceError, InputError
from datagen.common.files import check_writable
from datagen.geometry.space import METRES_PER_UNIT
from datagen.sources.imports.registry import AXES, FACINGS, IMPORTERS

if TYPE_CHECKING:
    from datagen.sources.frame import Frame, SequenceKey
    from datagen.sources.imports.imported import Found, ImportedSequence, ImportSettings
    from datagen.sources.imports.registry import Importer
    from datagen.sources.imports.writer import Written

    Unit = str
    LayoutName = str
    Facing = str
    Axes = str
else:
    Unit = Literal[tuple(METRES_PER_UNIT)]
    LayoutName = Literal[tuple(IMPORTERS)]
    Facing = Literal[FACINGS]
    Axes = Literal[AXES]

_INDENT = "  "
_MOST_DOUBTS = 3
_LOOKED_AT = 6  # cameras whose pictures are read
# Half of a scan is hidden behind the other half; of what is seen, depth maps and scan agree within that.
_SAME_DEPTH = 0.03
_LEAST_AGREEING = 0.2


def import_command(
    layout: Annotated[
        LayoutName,
        typer.Argument(help="; ".join(f"{name}: {importer.title}" for name, importer in IMPORTERS.items()) + "."),
    ],
    root: Annotated[Path, typer.Argument(help="One workspace, a folder of them, or of subjects with them.")],
    out: Annotated[Path, typer.Option("--out", help="Folder that captures are written into.")],
    unit: Annotated[Unit | None, typer.Option("--unit", help="Unit of scans and cameras.")] = None,
    metres_per_unit: Annotated[
        float | None, typer.Option("--metres-per-unit", help="Or its length, where it is arbitrary.")
    ] = None,
    scales: Annotated[
        Path | None,
        typer.Option("--scales", metavar="FILE", help="FaceScape's Rt_scale_dict.json."),
    ] = None,
    scan: Annotated[str | None, typer.Option("--scan", metavar="PATH", help="The scan, below each workspace.")] = None,
    images: Annotated[
        Path | None, typer.Option("--images", metavar="FOLDER", help="The pictures, where they lie elsewhere.")
    ] = None,
    subject: Annotated[str | None, typer.Option("--subject", help="Name of the person.")] = None,
    original_world: Annotated[
        bool, typer.Option("--original-world", help="The scan lies in the world before applied_transform.")
    ] = False,
    fps: Annotated[float | None, typer.Option("--fps", help="Frames a second, where the set's are other.")] = None,
    pixel_center: Annotated[
        Literal["0", "0.5"] | None, typer.Option("--pixel-center", help="Centre of the top-left pixel in the set's K.")
    ] = None,
    distorted: Annotated[
        bool, typer.Option("--distorted", help="The set's pictures have the lens distortion of its calibration.")
    ] = False,
    axes: Annotated[Axes | None, typer.Option("--axes", help="Axes of the cameras, if they are other.")] = None,
    depth_unit: Annotated[Unit | None, typer.Option("--depth-unit", help="Unit of depth maps.")] = None,
    topology: Annotated[
        Path | None, typer.Option("--topology", metavar="FILE", help="A mesh with the faces of vertices without.")
    ] = None,
    landmarks: Annotated[
        Path | None,
        typer.Option("--landmarks", metavar="FILE", help="The set's list of the vertices that are landmarks."),
    ] = None,
    tracking: Annotated[
        str | None, typer.Option("--tracking", metavar="PATH", help="Tracked FLAME, below each person's folder.")
    ] = None,
    cameras: Annotated[int | None, typer.Option("--cameras", help="Of simulated pictures.", min=1, max=100)] = None,
    image_size: Annotated[
        int | None, typer.Option("--image-size", help="Pixels a side of simulated pictures.", min=32, max=8192)
    ] = None,
    facing: Annotated[
        Facing | None, typer.Option("--facing", help="Axis out of the face, of meshes without pictures; +y is up.")
    ] = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar="PATTERN", help="Captures to import, such as 'anna/*'.")
    ] = None,
    head_root: Annotated[
        Path | None, typer.Option("--head-root", help="FLAME's files, to hold parameters against the pictures.")
    ] = None,
    every: Annotated[int, typer.Option("--every", help="Take each n-th frame.", min=1)] = 1,
    licence: Annotated[str | None, typer.Option("--licence", help="Of the captures; datasets state it.")] = None,
    citation: Annotated[str | None, typer.Option("--citation", help="What to cite; datasets state it.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Bring captures of another program's layout, or of a public set, into ours: cameras, pictures, surfaces and more.

    Nothing of yours is moved or changed, and what needs no change is linked, not copied. Exit code 1 if one of several
    captures could not be imported.

    Example: datagen import colmap workspaces/ --out captures --unit mm
    """
    from datagen.sources.imports.imported import ImportSettings
    from datagen.sources.imports.registry import importer_of

    if metres_per_unit is not None and not 0 < metres_per_unit < math.inf:
        raise InputError(f"--metres-per-unit {metres_per_unit}", "a length above 0", "Give the length of one unit")
    if fps is not None and not 0 < fps < math.inf:
        raise InputError(f"--fps {fps}", "a number of frames a second", "Give the recording's rate")
    centre = None if pixel_center is None else float(pixel_center)
    settings = ImportSettings(
        unit=unit,
        metres_per_unit=metres_per_unit,
        scales=scales,
        scan=scan,
        images=images,
        subject=subject,
        original_world=original_world,
        fps=fps,
        pixel_center=centre,
        distorted=distorted,
        axes=axes,
        depth_unit=depth_unit,
        topology=topology,
        landmarks=landmarks,
        tracking=tracking,
        cameras=cameras,
        image_size=image_size,
        facing=facing,
        licence=licence,
        citation=citation,
    )
    importer = importer_of(layout, settings)
    check_writable(out)
    found = _chosen(importer.find(root, settings), only)
    results = _imported(layout, importer, found, settings, out, every, head_root)
    if json_output:
        print_json({"sequences": [_as_json(one, *result) for one, result in zip(found, results, strict=True)]})
    else:
        for one, result in zip(found, results, strict=True):
            for line in _lines(one, *result):
                say(line)
        if any(not isinstance(written, CanonfaceError) for _, written in results):
            say(f"next: datagen check {shlex.quote(str(out))}")
    problems = [written for _, written in results if isinstance(written, CanonfaceError)]
    if problems and len(found) == 1:
        raise problems[0]
    if problems:
        raise SystemExit(1)


Result = tuple["ImportedSequence | None", "Written | CanonfaceError"]


def _imported(
    layout: str,
    importer: Importer,
    found: Sequence[Found],
    settings: ImportSettings,
    out: Path,
    every: int,
    head_root: Path | None,
) -> list[Result]:
    """Import one after the other; what is wrong with one is kept for the end."""
    from datagen.common.errors import StorageError
    from datagen.common.progress import Progress
    from datagen.sources.imports.writer import write_capture

    settings = replace(
        settings, licence=settings.licence or importer.licence, citation=settings.citation or importer.citation
    )
    results: list[Result] = []
    with Progress("import", 0, "files") as progress:
        for one in found:
            sequence = None
            try:
                sequence = one.read()
                sequence = replace(sequence, frames=sequence.frames[::every])
                progress.expect(sum(len(sequence.cameras) for _ in sequence.frames))
                written = write_capture(out, one.key, sequence, layout, settings, progress.advance)
                written.remarks += _seen(out, one.key, sequence, head_root)
                results.append((sequence, written))
            except StorageError:
                raise  # the next one would meet the same disk
            except CanonfaceError as error:
                results.append((sequence, error))
    return results


def _chosen(found: Sequence[Found], only: str | None) -> Sequence[Found]:
    chosen = [one for one in found if only is None or fnmatchcase(str(one.key), only)]
    if not chosen:
        raise InputError(
            f"--only {only} fits none of {len(found)} captures",
            f"such as {found[0].key}, or a pattern: {found[0].key.subject}/*",
            "Check the pattern",
        )
    return chosen


def _seen(out: Path, key: SequenceKey, sequence: ImportedSequence, head_root: Path | None) -> list[str]:
    """Hold the first frame, as it was written, against its pictures: a layout's conventions may have been mistaken."""
    from datagen.flows.views import NO_IMAGE, look_at_views
    from datagen.sources.folder import FolderCaptures

    first = sequence.frames[0].index
    if sequence.registration is not None and sequence.registration.kind == "parameters" and head_root is None:
        return ["not held against its pictures: that needs FLAME's model file (--head-root, or datagen check)"]
    try:
        frame = _thinned(FolderCaptures(out, head_root=head_root).frame(key, first))
        views = look_at_views(frame)
        found = [f"frame {first}: {reason}" for reason in views.wrong.values()]
        found += [f"frame {first}, camera {name}: {why}" for name, why in views.blind.items() if why != NO_IMAGE]
        found += _depth_doubts(frame)
    except CanonfaceError as error:
        return [f"doubtful: {error}"]
    more = f" and {len(found) - _MOST_DOUBTS} more such" if len(found) > _MOST_DOUBTS else ""
    return [f"doubtful: {text}" for text in found[:_MOST_DOUBTS]] + ([more.strip()] if more else [])


def _thinned(frame: Frame) -> Frame:
    """Return a frame with a few of its cameras: straightening the pictures of many takes minutes."""
    step = max(1, -(-len(frame.cameras) // _LOOKED_AT))
    return replace(frame, cameras=frame.cameras[::step])


def _depth_doubts(frame: Frame) -> list[str]:
    """Hold depth maps against the scan: what it shows in a pixel lies as far away as the map says."""
    import numpy as np

    found = []
    names = [camera.name for camera in frame.cameras if camera.name in frame.depths and not frame.fused]
    for name in names:
        measured = frame.depths[name]()
        pixels, z = measured.camera.project(frame.scan.vertices)
        height, width = measured.depth.shape
        inside = (z > 0) & (pixels >= 0).all(axis=1) & (pixels < (width, height)).all(axis=1)
        column, row = pixels[inside].astype(np.int64).T
        depth = measured.depth[row, column]
        ratio = depth[depth > 0] / z[inside][depth > 0]
        if not len(ratio):
            found.append(f"frame {frame.index}: the depth map of camera {name} is empty where the scan is")
        elif (np.abs(ratio - 1) < _SAME_DEPTH).mean() < _LEAST_AGREEING:
            found.append(
                f"frame {frame.index}: the depth map of camera {name} has {float(np.median(ratio)):.3g} times the "
                "depth of the scan; see --depth-unit"
            )
    return found


def _as_json(one: Found, sequence: ImportedSequence | None, written: Written | CanonfaceError) -> dict[str, Any]:
    content: dict[str, Any] = {"sequence": str(one.key), "from": str(one.folder)}
    if isinstance(written, CanonfaceError):
        return {**content, "problem": str(written)}
    counts = {name: getattr(written, name) for name in ("kept", "linked", "copied", "made", "unpacked")}
    content |= {**counts, "straightened": list(written.straightened), "problem": ""}
    if sequence is not None:
        content |= {
            "cameras": [camera.name for camera in sequence.cameras],
            "frames": [frame.index for frame in sequence.frames],
            "shaded": sequence.shaded,
            "missing": list(sequence.missing),
            "remarks": [*sequence.remarks, *written.remarks],
        }
    return content


def _lines(one: Found, sequence: ImportedSequence | None, written: Written | CanonfaceError) -> list[str]:
    if isinstance(written, CanonfaceError):
        return [f"{one.key}: not imported", f"{_INDENT}problem   {written}"]
    if sequence is None:
        return []
    rows = [
        ("frames", str(len(sequence.frames))),
        ("cameras", f"{len(sequence.cameras)}: {_named([camera.name for camera in sequence.cameras])}"),
    ]
    if not written.kept:
        counts = (
            (written.linked, "linked"),
            (written.copied, "copied"),
            (written.unpacked, "unpacked"),
            (written.made, "written anew"),
        )
        rows.append(("files", ", ".join(f"{count} {what}" for count, what in counts if count)))
    if written.straightened:
        rows.append(("lens", f"pictures of {len(written.straightened)} cameras straightened when they are read"))
    if sequence.shaded:
        rows.append(("shaded", "pictures are simulated shading of the meshes; datasets say so"))
    rows += [("missing", gap) for gap in sequence.missing]
    rows += [("note", remark) for remark in (*sequence.remarks, *written.remarks)]
    state = "kept, it was there already" if written.kept else "written"
    return [f"{one.key}: {state}", *(f"{_INDENT}{name:<8}  {text}" for name, text in rows)]


def _named(names: list[str], shown: int = 8) -> str:
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("import")(import_command)
