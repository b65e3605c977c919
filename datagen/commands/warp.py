"""``warp``, ``render`` and ``flow``: one scan, one view, one pair of frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from datagen.commands.options import JsonOption
from datagen.common.console import print_json, say, table
from datagen.common.errors import InputError
from datagen.manifest import BackendName, HeadName, WarpConfig

if TYPE_CHECKING:
    from datagen.audit.region_confidence import RegionConfidence
    from datagen.flows.one_scan import LandmarkFile
    from datagen.warp.result import Warp

HeadOption = Annotated[HeadName, typer.Option(help="Head model whose space is the canonical one.")]
HeadRootOption = Annotated[
    Path | None, typer.Option("--head-root", help="Folder with the head model's files, where it is not embedded.")
]
BackendOption = Annotated[
    BackendName,
    typer.Option(help="Renderer; auto takes a GPU where there is one, else numba."),
]
UnitOption = Annotated[
    str | None,
    typer.Option(help="Length unit of the scan: m, dm, cm, mm or in; by default the landmarks'."),
]


def warp_command(
    scan: Annotated[Path, typer.Argument(help="Mesh or point cloud: ply, obj, stl, off, glb, pcd or npz.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for warp.npz, verdict.json, pictures and meshes.")],
    landmarks: Annotated[
        Path | None,
        typer.Option(help="Landmark file, at least three points: JSON (scheme, unit, points), pp, pts, fcsv, txt, …"),
    ] = None,
    landmark_unit: Annotated[
        str | None, typer.Option(help="Length unit of landmarks that state none, where it is not the scan's.")
    ] = None,
    landmark_order: Annotated[
        str | None,
        typer.Option(help="Which points those of other programs are: ibug68, ibug51, …, or numbers: 36,45,30."),
    ] = None,
    registration: Annotated[
        Path | None, typer.Option(help="Mesh in the head model's topology or another, such as a tracker's fit.")
    ] = None,
    registration_head: Annotated[
        HeadName | None,
        typer.Option(help="Head model of the registration's topology, if it is not --head."),
    ] = None,
    registration_head_root: Annotated[Path | None, typer.Option(help="Folder with that head model's files.")] = None,
    registration_unit: Annotated[
        str | None, typer.Option(help="Length unit of the registration, where it is not the scan's.")
    ] = None,
    topology: Annotated[
        Path | None, typer.Option(help="Neutral mesh of the registration's topology, if it is not a head model's.")
    ] = None,
    topology_landmarks: Annotated[
        Path | None, typer.Option(help="Landmark file of that neutral mesh; it states the mesh's unit too.")
    ] = None,
    head: HeadOption = "anny",
    head_root: HeadRootOption = None,
    unit: UnitOption = None,
    mesh_format: Annotated[
        Literal["ply", "obj", "glb"],
        typer.Option("--mesh-format", help="Of the fitted template and the coloured scans."),
    ] = "ply",
    json_output: JsonOption = False,
) -> None:
    """Warp one raw scan into canonical space; exit code 1 if the verdict is fail.

    Without landmarks or a registration, the face is found from the scan alone. Meshes are written in metres, in the
    scan's axes: the fitted template and the scan, coloured alike by canonical coordinate, and the scan by confidence.

    Example: datagen warp scan.obj --unit mm --landmarks landmarks.json --head anny --out runs/scan
    """
    from datagen.audit.region_confidence import region_confidence
    from datagen.common.progress import Progress
    from datagen.flows.one_scan import STEPS, RegistrationFile, mesh_files, warp_scan

    named = (registration_head, registration_head_root, topology, topology_landmarks, registration_unit)
    if registration is None and any(option is not None for option in named):
        raise InputError(
            "a registration's topology or unit is named, but there is no registration",
            "a registration",
            "Pass --registration",
        )
    config = WarpConfig()
    with Progress("warp", STEPS, "") as progress:
        warp = warp_scan(
            scan,
            out,
            head=head,
            head_root=head_root,
            unit=unit,
            landmarks=_landmark_file(landmarks, landmark_unit, landmark_order),
            registration=RegistrationFile(registration, *named) if registration else None,
            config=config,
            mesh_format=mesh_format,
            on_step=progress.begin,
        )
    regions = region_confidence(warp)
    # What a face has to have as a whole is not much to ask of a part.
    low = [one for one in regions if one.mean < config.verdict.pass_confidence]
    files = sorted(path.name for path in out.iterdir() if path.is_file() and not path.name.startswith("."))
    if json_output:
        verdict = warp.verdict
        print_json(
            {
                "figures": dict(verdict.metrics),
                "files": files,
                "low_confidence": [one.region for one in low],
                "out": str(out),
                "reasons": list(verdict.reasons),
                "regions": {
                    one.region: {"confidence": one.mean, "points": one.points, "scanned": dict(one.scanned)}
                    for one in regions
                },
                "verdict": verdict.status,
            }
        )
    else:
        _print_warp(warp, regions)
        say(f"\nwritten to {out}:")
        for suffixes in ((".npz", ".json"), (".png",), (f".{mesh_format}",)):
            say(f"  {', '.join(name for name in files if name.endswith(suffixes))}")
        if low:
            named_low = ", ".join(f"{one.region.replace('_', ' ')} ({one.mean:.2f})" for one in low)
            say(f"\nwarning: low confidence (below {config.verdict.pass_confidence:g}) at: {named_low}")
            say(f"  look at confidence.png or {mesh_files(mesh_format)[-1]} before you use them")
    if warp.verdict.status == "fail":
        raise SystemExit(1)


def _landmark_file(path: Path | None, unit: str | None, order: str | None) -> LandmarkFile | None:
    from datagen.flows.one_scan import LandmarkFile
    from datagen.geometry.landmark_orders import parse_order

    if path is None:
        if unit is not None or order is not None:
            raise InputError("the landmarks' unit or order is named, but there are none", "--landmarks", "Pass a file")
        return None
    return LandmarkFile(path, unit, None if order is None else parse_order(order))


def _print_warp(warp: Warp, regions: Sequence[RegionConfidence]) -> None:
    known = int((warp.confidence > 0).sum())
    rows: list[tuple[str, object]] = [
        ("scan vertices", len(warp.scan_vertices)),
        ("with a canonical coordinate", known),
    ]
    metrics = warp.verdict.metrics
    # The coverage of regions stands beside their confidence.
    told = sorted(name for name in metrics if name != "scan_vertices" and not name.startswith("coverage_"))
    table([*rows, *((name.replace("_", " "), _plain(metrics[name])) for name in told)])
    mean = metrics["face_confidence"]
    say(f"\nconfidence of the face: {mean:.2f} (about {100 * mean:.0f} of 100 points right within 1 mm)")
    for one in regions:
        say(f"  {one}")
    say(f"\nverdict: {warp.verdict.status}")
    for reason in warp.verdict.reasons:
        say(f"  {reason}")


def _plain(value: float) -> str:
    """A count with all its digits, anything else with four."""
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}"


def _print_backends(asked: bool) -> None:
    if not asked:
        return
    from datagen.render.registry import backend_notes

    table(list(backend_notes().items()))
    raise typer.Exit


def render_command(
    warp_folder: Annotated[
        Path, typer.Argument(metavar="WARP", help="Folder with warp.npz: of `datagen warp`, or of a frame of a build.")
    ],
    cameras: Annotated[Path, typer.Option(help="Sequence folder whose capture.json holds the cameras.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for CAMERA.npz and CAMERA.png.")],
    camera: Annotated[list[str] | None, typer.Option(help="Only this camera; may be repeated.")] = None,
    frame: Annotated[int | None, typer.Option(help="The warp's frame number, where cameras move.")] = None,
    backend: BackendOption = "auto",
    backends: Annotated[  # noqa: ARG001 - its callback ends the command
        bool,
        typer.Option(
            "--backends",
            callback=_print_backends,
            is_eager=True,
            help="List the backends and whether each works here, and exit.",
        ),
    ] = False,
    head_root: Annotated[
        Path | None, typer.Option(help="Folder with the head model's files, for point clouds where it is not embedded.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Render the ground-truth maps of a warp into full camera images.

    Example: datagen render runs/demo/warps/s000/performance/000000 --cameras
    runs/demo/captures/s000/performance --out maps
    """
    from datagen.flows.one_scan import render_warp

    written = render_warp(warp_folder, cameras, out, names=camera, backend=backend, frame=frame, head_root=head_root)
    if json_output:
        print_json({"files": [str(path) for path in written]})
    else:
        say("\n".join(str(path) for path in written))


def flow_command(
    first: Annotated[Path, typer.Argument(metavar="WARP", help="Folder with the warp.npz of one frame.")],
    second: Annotated[Path, typer.Argument(metavar="OTHER", help="Folder with the warp.npz of another frame.")],
    cameras: Annotated[Path, typer.Option(help="Sequence folder whose capture.json holds the cameras.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for CAMERA.npz and CAMERA.png.")],
    camera: Annotated[list[str] | None, typer.Option(help="Only this camera; may be repeated.")] = None,
    frames: Annotated[
        tuple[int, int] | None, typer.Option(help="Frame numbers of the two warps, where cameras move.")
    ] = None,
    crop: Annotated[
        int | None, typer.Option(min=1, help="Pixels a side of head crops; by default the full images.")
    ] = None,
    margin: Annotated[
        float, typer.Option(min=0.1, help="Side of the crop, as a multiple of the projected head's extent.")
    ] = 1.25,
    head_root: Annotated[
        Path | None, typer.Option(help="Folder with the head model's files, for crops where it is not embedded.")
    ] = None,
    backend: BackendOption = "auto",
    json_output: JsonOption = False,
) -> None:
    """Write scene flow, optical flow and occlusion from one warped frame to another.

    Example: datagen flow runs/demo/warps/s000/performance/000000 runs/demo/warps/s000/performance/000001
    --cameras runs/demo/captures/s000/performance --out flow
    """
    from datagen.flows.frame_pair import PairCrop, motion_of_pair

    cut = None if crop is None else PairCrop(crop, margin, head_root)
    written = motion_of_pair(first, second, cameras, out, names=camera, backend=backend, crop=cut, frames=frames)
    if json_output:
        print_json({"files": [str(path) for path in written]})
    else:
        say("\n".join(str(path) for path in written))


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("warp")(warp_command)
    app.command("render")(render_command)
    app.command("flow")(flow_command)
