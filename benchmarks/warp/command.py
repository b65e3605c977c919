"""``warp``, ``bridge`` and ``calibrate``: what the engine achieves where the truth is known."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from benchmarks.goal import Goal
from datagen.commands.options import JsonOption
from datagen.common.console import print_json
from datagen.common.errors import InputError
from datagen.common.files import json_ready
from datagen.manifest import HeadName

if TYPE_CHECKING:
    from benchmarks.warp.cases import CasePlan
    from benchmarks.warp.run import BenchResult
    from datagen.heads.base import HeadModel

# By track: subjects, frames of each, scan vertices.
SIZES = {
    "registration": (4, 4, 25_000),
    "landmarks": (4, 4, 25_000),
    "sequence": (1, 60, 50_000),
    "pictures": (1, 16, 25_000),
}
# Of those simulated with pictures, and without them.
IMAGE_PX, CAMERAS = 512, 8
FIGURE_ORDER = ("median_mm", "p95_mm", "p99_mm", "sliding_median_mm", "sliding_p95_mm")


@dataclass(frozen=True)
class TrackGoal(Goal):
    """A limit for one figure of some tracks."""

    tracks: tuple[str, ...] = tuple(SIZES)


GOALS = (
    TrackGoal("median_mm", 0.4, tracks=("registration",)),
    TrackGoal("p95_mm", 1.2, tracks=("registration",)),
    TrackGoal("median_mm", 0.8, tracks=("landmarks",)),
    TrackGoal("p95_mm", 2.5, tracks=("landmarks",)),
    TrackGoal("error_over_better_peer", 0.5, tracks=("landmarks",)),
    TrackGoal("flips", 0, tracks=("registration", "landmarks")),
    TrackGoal("dispersion_median_mm", 0.25, tracks=("sequence",)),
    TrackGoal("residual_median_mm", 0.08),
    TrackGoal("residual_p95_mm", 0.3),
    TrackGoal("calibration_error", 0.05),
    TrackGoal("seconds_per_frame", 1.5, tracks=("sequence",)),
    TrackGoal("speedup_amberg", 10, at_least=True),
)


def goals_of(track: str, figures: Mapping[str, float]) -> dict[str, TrackGoal]:
    """Return the goals of a track by figure, of the figures that were measured."""
    return {goal.figure: goal for goal in GOALS if track in goal.tracks and goal.figure in figures}


def warp_command(
    track: Annotated[
        Literal["registration", "landmarks", "sequence"] | None,
        typer.Option(
            help="What the warp is given: a registration with a smooth error (the default); 68 landmarks with noise; "
            "or both, for the consecutive frames of a sequence."
        ),
    ] = None,
    real: Annotated[
        Path | None,
        typer.Option(
            help="Folder with families/, ict_facekit/ and arkit_motion/: measure on these instead of simulated people."
        ),
    ] = None,
    against: Annotated[
        Literal["trimesh"] | None,
        typer.Option(help="Also run nricp_amberg and nricp_sumner of trimesh; with --real the latter, see --peers."),
    ] = None,
    evidence: Annotated[
        Literal["texture"] | None,
        typer.Option(
            help="On the sequence track: also warp with what the person's own texture says in pictures, and compare."
        ),
    ] = None,
    with_landmarks: Annotated[
        bool, typer.Option("--with-landmarks", help="Give the landmarks too, on the registration track.")
    ] = False,
    landmarks_only: Annotated[
        bool, typer.Option("--landmarks-only", help="Give no registration, on the sequence track.")
    ] = False,
    people: Annotated[
        Literal["model", "real"] | None,
        typer.Option(
            help="Of the head model with a smooth displacement on top (the default), or with the proportions of real "
            "faces and expressions of their own."
        ),
    ] = None,
    subjects: Annotated[
        int | None, typer.Option(min=1, max=1000, help="People; by default 4, for a sequence 1.")
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Frames of each; by default 4, of a sequence 60.")
    ] = None,
    scan_vertices: Annotated[
        int | None,
        typer.Option(min=500, max=1_000_000, help="Vertices of a scan; by default 25,000, in a sequence 50,000."),
    ] = None,
    registration_error_mm: Annotated[
        float | None, typer.Option(min=0, help="RMS of the supplied registration's smooth error, by default 2.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="A different seed gives different people or noise; by default 11, with --real 0."),
    ] = None,
    peer_frames: Annotated[
        int | None,
        typer.Option(min=1, help="Frames that trimesh is given too, up to a minute each: 2; with --real 6."),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Folder for pictures of the worst cases.")] = None,
    head: Annotated[HeadName | None, typer.Option(help="With --real: the head model, by default anny.")] = None,
    head_root: Annotated[Path | None, typer.Option(help="With --real: folder with the head model's files.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=2, help="With --real: meshes of each family, by default all.")
    ] = None,
    noise: Annotated[
        Literal["both", "none", "only"] | None,
        typer.Option(
            help="With --real: families with 1.5 mm of noise on their landmarks and without it (default both)."
        ),
    ] = None,
    judged: Annotated[
        int | None,
        typer.Option(min=2, help="With --real: frames of the sequence that are warped, evenly spread; by default 20."),
    ] = None,
    trials: Annotated[
        str | None,
        typer.Option(help="With --real: any of families, people, sequence, simulated; separated by commas."),
    ] = None,
    peers: Annotated[
        Literal["fast", "all"] | None,
        typer.Option(help="With --real --against trimesh: all adds nricp_amberg, up to a minute a mesh."),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Warp simulated scans and compare every vertex with where it truly belongs.

    The people have an identity of the head model, a smooth displacement on top (1.5 mm RMS, 4 to 25 cm wavelength)
    that no parameters reproduce, and skin detail; with --people real nothing of the model's shapes, but components of
    scanned people and what these lack, and expressions that are not quite the model's. The scans have holes, stray
    pieces and noise of 0.2 or 0.5 mm. By default four people with four frames each: half of them their strongest
    expressions, one neutral. A sequence is one person's 60 frames at 24 a second with 0.2 mm of noise. Exit code 0
    whether or not the goals are met.

    With --real, real faces in hidden topologies and people of another head model instead, ten minutes with peers:
    docs/benchmark.md says how they are judged.

    With --evidence texture, one person's 16 frames in pictures of 512 px by eight cameras, warped with and without, and
    with pictures of other instants among them.

    Example: python -m benchmarks warp --track landmarks --against trimesh
    """
    tracks_only = {
        "--track": track,
        "--evidence": evidence,
        "--with-landmarks": with_landmarks or None,
        "--landmarks-only": landmarks_only or None,
        "--people": people,
        "--subjects": subjects,
        "--scan-vertices": scan_vertices,
        "--registration-error-mm": registration_error_mm,
        "--report": report,
    }
    real_only = {
        "--head": head,
        "--head-root": head_root,
        "--limit": limit,
        "--noise": noise,
        "--judged": judged,
        "--trials": trials,
        "--peers": peers,
    }
    for name, value in (real_only if real is None else tracks_only).items():
        if value is not None:
            raise InputError(
                f"{name} {'without' if real is None else 'with'} --real",
                "options of one of the two benchmarks",
                "Leave it out, or " + ("add --real FOLDER" if real is None else "--real"),
            )
    if real is not None:
        if peers is not None and not against:
            raise InputError("--peers without --against", "--against trimesh", "Add it, or leave --peers out")
        methods = () if not against else ("sumner", "amberg") if peers == "all" else ("sumner",)
        _judge_real(
            real,
            head or "anny",
            head_root,
            json_output,
            peers=methods,
            limit=limit,
            noise=noise or "both",
            trials=trials,
            given={"frames": frames, "judged": judged, "peer_frames": peer_frames, "seed": seed},
        )
        return
    track = track or "registration"
    from benchmarks.warp.cases import CasePlan
    from benchmarks.warp.run import run_bench
    from datagen.common.blas import use_one_blas_thread
    from datagen.heads.registry import load_head
    from datagen.manifest import WarpConfig

    if with_landmarks and track != "registration":
        raise InputError(
            f"--with-landmarks on the {track} track", "the registration track", "That track gives landmarks anyway"
        )
    if landmarks_only and track != "sequence":
        raise InputError(
            f"--landmarks-only on the {track} track", "the sequence track", "Choose --track landmarks for single frames"
        )
    _check_evidence(evidence, track, {"--report": report, "--against": against})
    default_subjects, default_frames, default_vertices = SIZES["pictures" if evidence else track]
    plan = CasePlan(
        track=track,
        subjects=subjects or default_subjects,
        frames=frames or default_frames,
        seed=11 if seed is None else seed,
        scan_vertices=scan_vertices or default_vertices,
        registration=track == "registration" or (track == "sequence" and not landmarks_only),
        landmarks=track != "registration" or with_landmarks,
        registration_error_mm=2.0 if registration_error_mm is None else registration_error_mm,
        people=people or "model",
        image_px=IMAGE_PX if evidence else 0,
        cameras=CAMERAS,
    )
    use_one_blas_thread()
    anny = load_head("anny")
    if evidence:
        _judge_texture(plan, anny, json_output)
        return
    result = run_bench(
        plan,
        anny,
        WarpConfig(),
        peer_frames=(peer_frames or 2) if against else 0,
        progress=lambda line: print(line, file=sys.stderr),
    )
    if report is not None:
        from benchmarks.warp.pictures import write_bench_pictures

        write_bench_pictures(report, result, anny.template)
    if json_output:
        print_json(as_json(result))
    else:
        print("\n".join(as_text(result)))


def _judge_texture(plan: CasePlan, head: HeadModel, json_output: bool) -> None:
    from benchmarks.warp import pictured
    from datagen.manifest import WarpConfig

    told = pictured.run(plan, head, WarpConfig(), lambda line: print(line, file=sys.stderr))
    if json_output:
        print_json(pictured.as_json(told))
    else:
        print("\n".join(pictured.as_text(told)))


def _check_evidence(evidence: str | None, track: str, others: Mapping[str, object]) -> None:
    given = [name for name, value in others.items() if value is not None]
    if evidence and (track != "sequence" or given):
        raise InputError(
            " with ".join([f"--evidence {evidence} on the {track} track", *given]),
            "the sequence track, by itself",
            "Add --track sequence, and leave others out",
        )


def _judge_real(
    root: Path,
    head_name: str,
    head_root: Path | None,
    json_output: bool,
    *,
    peers: tuple[str, ...],
    limit: int | None,
    noise: str,
    trials: str | None,
    given: Mapping[str, int | None],
) -> None:
    from benchmarks.warp import real_figures
    from benchmarks.warp.real import LANDMARK_NOISE_MM, TRIALS, RealPlan, run_real
    from datagen.common.blas import use_one_blas_thread
    from datagen.heads.registry import load_head
    from datagen.manifest import WarpConfig

    asked = TRIALS if trials is None else tuple(part.strip() for part in trials.split(",") if part.strip())
    if not asked or set(asked) - set(TRIALS):
        raise InputError(f"--trials {trials}", f"any of {', '.join(TRIALS)}; separated by commas", "")
    if head_name == "ict" and head_root is None:
        head_root = root
    plan = RealPlan(
        root=root,
        head_root=head_root,
        peers=peers,
        limit=limit,
        noises_mm={"both": (0.0, LANDMARK_NOISE_MM), "none": (0.0,), "only": (LANDMARK_NOISE_MM,)}[noise],
        trials=tuple(trial for trial in TRIALS if trial in asked),
        **{name: value for name, value in given.items() if value is not None},
    )
    use_one_blas_thread()
    head = load_head(head_name, head_root)
    result = run_real(plan, head, WarpConfig(), lambda line: print(line, file=sys.stderr))
    if json_output:
        print_json(real_figures.as_json(result))
    else:
        print("\n".join(real_figures.as_text(result)))


def bridge_command(
    topologies: Annotated[int, typer.Option(min=1, help="Topologies, drawn at random.")] = 4,
    people: Annotated[int, typer.Option(min=1, help="People with an expression, in each topology.")] = 8,
    ict: Annotated[
        Path | None, typer.Option(help="The folder that contains ict_facekit/: also measure ICT's topology.")
    ] = None,
    family: Annotated[int, typer.Option(min=1, help="People of ICT's model.")] = 10,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures here.")
    ] = None,
) -> None:
    """Bridge foreign topologies of Anny's head, where the truth is known, and compare every vertex of the face.

    Each topology once with all skin and once as a mask of the face; 12,000 vertices, landmarks with 0.5 mm of noise.
    With ``--ict`` also how far the canonical coordinates of one vertex of ICT's topology differ between people: with
    the bridge, without it, and where scan and registration are one. Prints JSON.

    Example: python -m benchmarks bridge --topologies 1 --people 4
    """
    from benchmarks.warp.bridge import family_figures, foreign_figures
    from datagen.heads.regions import FACE_REGIONS
    from datagen.heads.registry import load_head

    head = load_head("anny")
    figures: dict[str, Any] = {
        "whole_head": foreign_figures(head, topologies, people, None),
        "face_mask": foreign_figures(head, topologies, people, FACE_REGIONS),
    }
    if ict is not None:
        figures["ict"] = family_figures(head, load_head("ict", ict), family)
    text = json.dumps(figures, indent=1)
    print(text)
    if json_file is not None:
        json_file.write_text(f"{text}\n")


def calibrate_command(
    subjects: Annotated[int, typer.Option(min=1, max=1000, help="Simulated people.")] = 6,
    frames: Annotated[int, typer.Option(min=1, max=10_000, help="Frames of each.")] = 2,
    real: Annotated[
        Path | None,
        typer.Option(help="Folder with families/, ict_facekit/ and arkit_motion/: also calibrate on these."),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="People other than those of `warp`, so that its reliability is held out.")
    ] = 2024,
) -> None:
    """Fit the weights of the warp's confidence, and print them for datagen/warp/confidence.py.

    Simulated people with a registration, with landmarks, with both, and in sequence mode; with --real also real
    families without and with noise on their landmarks, people of ICT's model, and two of these in a sequence, one by
    one and in sequence mode. Every source weighs the same. Before the weights it prints what each source would be told
    by weights fitted without its people: gap (expected calibration error), mean stated and true share within a
    millimetre of the face, the gap of the whole head, that of the face with the final weights, and stated / true by
    region. The weights in use are those of --real; without it, this is a short check.

    Example: python -m benchmarks calibrate --subjects 1 --frames 1
    """
    from benchmarks.warp.calibrate import fitted_weights
    from benchmarks.warp.calibrate_sources import Gatherer
    from datagen.common.blas import use_one_blas_thread
    from datagen.heads.registry import load_head

    use_one_blas_thread()
    gather = Gatherer(load_head("anny"), seed, lambda line: print(line, file=sys.stderr))
    sources = [*gather.simulated(subjects, frames), *gather.simulated_sequences(subjects)]
    if real is not None:
        sources += [*gather.families(real), *gather.people(real), *gather.sequences(real)]
    weights = fitted_weights(sources, lambda line: print(line, flush=True))
    for name, value in weights.items():
        print(f"    {value:.4f},  # {name}")


def as_json(result: BenchResult) -> dict[str, Any]:
    """Return a result as plain data; what could not be measured is null."""
    goals = goals_of(result.plan.track, result.figures)
    return {
        "setup": asdict(result.plan),
        "figures": json_ready(result.figures),
        "regions": {name: json_ready(figures) for name, figures in result.regions.items()},
        "reliability": [
            {"stated": float(stated), "correct": float(correct), "count": int(count)}
            for stated, correct, count in zip(
                result.curve.stated, result.curve.correct, result.curve.count, strict=True
            )
        ],
        "goals": {name: {"goal": goal.text, "met": goal.met_by(result.figures[name])} for name, goal in goals.items()},
        "by_noise": {level: json_ready(figures) for level, figures in result.by_noise.items()},
        "frames": [json_ready(entry) for entry in result.frames],
    }


def as_text(result: BenchResult) -> list[str]:
    """Return a result as lines: figures of the face beside their goals, then regions and the reliability curve."""
    goals = goals_of(result.plan.track, result.figures)
    width = max(len(name) for name in result.figures)
    lines = [f"{'face':<{width}}  {'value':>9}  goal"]
    for name, value in result.figures.items():
        goal = goals.get(name)
        verdict = "" if goal is None else f"{goal.text:<8} {'met' if goal.met_by(value) else 'MISSED'}"
        lines.append(f"{name:<{width}}  {_number(value)}  {verdict}".rstrip())
    columns = [*FIGURE_ORDER, "residual_median_mm", "coverage", "calibration_error"]
    titles = ["median", "p95", "p99", "sliding", "slid. p95", "residual", "coverage", "calibr."]
    lines += ["", f"{'region':<{width}}  " + " ".join(f"{title:>9}" for title in titles)]
    for name, figures in result.regions.items():
        lines.append(f"{name:<{width}}  " + " ".join(_number(figures[column]) for column in columns))
    for level, figures in result.by_noise.items():
        name = f"face, noise {level} mm"
        lines.append(f"{name:<{width}}  " + " ".join(_number(figures[column]) for column in columns))
    lines += ["", "stated confidence, share within 1 mm, vertices"]
    for stated, correct, count in zip(result.curve.stated, result.curve.correct, result.curve.count, strict=True):
        lines.append(f"  {stated:.3f}  {correct:.3f}  {count}")
    return lines


def _number(value: float) -> str:
    return f"{value:>9.0f}" if value == round(value) and abs(value) >= 2 else f"{value:>9.3f}"


def register(group: typer.Typer) -> None:
    """Add these commands."""
    group.command("warp")(warp_command)
    group.command("bridge")(bridge_command)
    group.command("calibrate")(calibrate_command)
