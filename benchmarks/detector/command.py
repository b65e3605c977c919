"""``detector``: what a face detector's points are worth as evidence, and learning where they lie."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks.goal import Goal, judged, verdict
from datagen.commands.options import JsonOption
from datagen.common.console import print_json, say

if TYPE_CHECKING:
    from datagen.common.face_mesh import FaceMesh
    from datagen.heads.base import HeadModel

GOALS = (
    Goal("fit_detector_median_mm", 1.5),
    Goal("warp_raw_median_mm", 0.87),
    Goal("warp_raw_p95_mm", 2.8),
    Goal("real_warp_marks_mm", 2.5),
)
TRAINING_SEED, JUDGING_SEED = 101, 77
# Of the judged; the first people of the seed helped to choose what is learnt.
FIRST = 60
VIEWS, LEARNT_VIEWS = 8, 7
SIZE, LEARNT_SIZE = 768, 512
BLUR_PX = 5.0


def detector_command(
    detector_python: Annotated[
        Path | None,
        typer.Option("--detector-python", help="Python of an environment with mediapipe; see docs/dependencies.md."),
    ] = None,
    subjects: Annotated[int, typer.Option(min=1, max=1000, help="People to judge on.")] = 6,
    frames: Annotated[int, typer.Option(min=1, max=1000, help="Expressions of each.")] = 2,
    real: Annotated[
        Path | None, typer.Option(help="Folder with scans/menpo_james: also a real face, in its own texture.")
    ] = None,
    learn: Annotated[
        Path | None, typer.Option(help="Learn first, and write the file, as of datagen/evidence/data.")
    ] = None,
    people: Annotated[int, typer.Option(min=8, max=10_000, help="To learn from; two expressions of each.")] = 200,
    json_output: JsonOption = False,
) -> None:
    """Fit heads to what a face detector sees of simulated people: alone, beside raw scans, and on a real face.

    The detector runs in an environment of its own. People who are judged are not those who were learnt from.

    Example: python -m benchmarks detector --detector-python ~/face-mesh/bin/python --real ../shared/data
    """
    from datagen.common.face_mesh import FaceMesh
    from datagen.heads.registry import load_head

    head = load_head("anny")
    tell = (lambda _: None) if json_output else say
    with FaceMesh(detector_python) as mesh:
        if learn is not None:
            _learn(head, mesh, learn, people, tell)
        figures, regions = _judge(head, mesh, subjects, frames, real, learn, tell)
    goals = judged(GOALS, figures)
    if json_output:
        print_json({"figures": figures, "goals": goals, "regions": regions})
        return
    for name, value in figures.items():
        say(f"{name:<34} {value:7.2f}  {verdict(goals.get(name))}".rstrip())
    for name, row in regions.items():
        say(f"{name}: " + ", ".join(f"{region} {value:.2f}" for region, value in row.items()))


def _learn(head: HeadModel, mesh: FaceMesh, out: Path, people: int, tell: Any) -> None:
    import numpy as np

    from benchmarks.detector.learn import Detected
    from benchmarks.detector.learn import learn as learnt
    from benchmarks.detector.people import simulated_instants
    from datagen.common.files import write_owned_bytes
    from datagen.evidence.detector_model import detector_model_bytes

    detected = []
    for one in simulated_instants(
        head, range(people), seed=TRAINING_SEED, frames=2, cameras=LEARNT_VIEWS, image_size=LEARNT_SIZE
    ):
        tell(f"learning from {one.name}")
        seen = {camera: mesh(one.images[camera.name]) for camera in one.cameras}
        found = {camera: faces[0] for camera, faces in seen.items() if len(faces) == 1}
        if len(found) >= 2:
            rotation = one.head_to_world[:3, :3]
            points = np.array(list(found.values()))
            detected.append(Detected(list(found), points, one.vertices, rotation, one.person))
    model = learnt(head.template, detected, f"mediapipe {mesh.version}")
    write_owned_bytes(out, detector_model_bytes(model))


def _judge(
    head: HeadModel, mesh: FaceMesh, subjects: int, frames: int, real: Path | None, model: Path | None, tell: Any
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    import numpy as np

    from benchmarks.detector.judge import blurred, evidence_of, fit_errors, hidden_mouth, real_marks_mm, warp_errors
    from benchmarks.detector.people import simulated_instants
    from datagen.evidence.detector import FaceDetector
    from datagen.evidence.detector_model import detector_model, read_detector_model

    known = detector_model(head.template) if model is None else read_detector_model(model)
    maker = FaceDetector(head.template, known, mesh)
    wanted = range(FIRST, FIRST + subjects)
    tell(f"photographing {subjects} people")
    instants = list(
        simulated_instants(head, wanted, seed=JUDGING_SEED, frames=frames, cameras=VIEWS, image_size=SIZE, scans=True)
    )
    tell("fitting heads to pictures alone")
    fit, points = fit_errors(head, instants, maker), fit_errors(head, instants, maker, stereo=False)
    tell("fitting heads to pictures with masks over mouths, and blurred ones")
    masked = fit_errors(head, [replace(one, images=hidden_mouth(one, head)) for one in instants], maker)
    dim = fit_errors(head, [replace(one, images=blurred(one, BLUR_PX)) for one in instants], maker)
    tell("warping their scans")
    given = {one.name: evidence_of(maker, one.images, one.cameras) for one in instants}
    pictured = warp_errors(head, instants, lambda one: {"pixels": given[one.name]})
    bare = warp_errors(head, instants, lambda _: {})
    marked = warp_errors(head, instants, lambda one: {"landmarks": one.frame.landmarks} if one.frame else {})
    both = warp_errors(
        head,
        instants,
        lambda one: {"pixels": given[one.name], "landmarks": one.frame.landmarks} if one.frame else {},
    )
    figures = fit.figures("fit_detector") | pictured.figures("warp_raw")
    figures |= points.figures("fit_points") | masked.figures("fit_masked") | dim.figures("fit_blurred")
    figures |= bare.figures("warp_scan") | marked.figures("warp_landmarks") | both.figures("warp_both")
    regions = {
        "pictures alone": fit.by_region(),
        "what the detector sees alone": points.by_region(),
        "masked": masked.by_region(),
        "scan and pictures": pictured.by_region(),
    }
    regions |= {
        "scan alone": bare.by_region(),
        "scan and landmarks": marked.by_region(),
        "scan and both": both.by_region(),
    }
    if real is not None:
        tell("a real face")
        for name, off in real_marks_mm(head, real, maker).items():
            figures[f"real_{name}_mm" if name.endswith("surface") else f"real_{name}_marks_mm"] = float(np.median(off))
    return figures, regions


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("detector")(detector_command)
