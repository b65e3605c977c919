"""``check``, ``explain`` and ``requeue``: frames one by one."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from datagen.commands.options import BuildArgument, JsonOption, OverwriteOption
from datagen.common.console import print_json, say
from datagen.common.errors import InputError

if TYPE_CHECKING:
    from datagen.flows.check import CheckResult
    from datagen.flows.mend import Mended
    from datagen.flows.planning import BuildPlan
    from datagen.layout import BuildLayout
    from datagen.sources.frame import SequenceKey

FramesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="FRAME", help="subject, subject/sequence or subject/sequence/frame.")
]
FailedOption = Annotated[bool, typer.Option("--failed", help="Every frame whose verdict is fail.")]
ReviewOption = Annotated[bool, typer.Option("--review", help="Every frame whose verdict is review.")]


def check_command(
    captures: Annotated[Path, typer.Argument(help="Folder of <subject>/<sequence>/; see docs/capture-format.md.")],
    fix: Annotated[
        bool,
        typer.Option("--fix", help="Write capture.json as the convention that fits says, where that is sure."),
    ] = False,
    page: Annotated[
        Path | None, typer.Option("--page", help="Also write a page of pictures: each camera with the scan's outline.")
    ] = None,
    overwrite: OverwriteOption = False,
    head_root: Annotated[
        Path | None, typer.Option(help="Folder with FLAME's files, where registrations are parameters of it.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Read every frame, image and mask of a capture folder and list what is wrong; exit code 1 if anything is.

    Cameras that contradict their pictures are told which convention fits: the inverse matrix, OpenGL axes, K of another
    image size, …. With --fix the old file stays beside the new one, as capture.json.before-fix.

    Example: datagen check captures/ --page check.html
    """
    from datagen.common.ownership import check_output_file
    from datagen.common.progress import Progress
    from datagen.flows.check import check_captures, fix_captures

    if page is not None:
        check_output_file(page, overwrite=overwrite)
    with Progress("check", 0, "frames") as progress:
        found = check_captures(captures, progress, head_root, pictures=page is not None)
    if page is not None:
        _write_page(page, captures, found)
    mended: list[Mended] = []
    if fix:
        with Progress("check again", 0, "frames") as progress:
            mended, found = fix_captures(captures, found, progress, head_root)
    if json_output:
        content = {"frames": found.frames, "notes": found.notes, "problems": found.problems}
        fits = [one.to_json() for one in found.explained]
        print_json({**content, "fits": fits, "fixed": [one.to_json() for one in mended], "sequences": found.sequences})
    else:
        _say_found(captures, found, mended, fix=fix)
        if page is not None:
            say(f"page: {page}")
    if found.problems:
        raise SystemExit(1)


def _say_found(captures: Path, found: CheckResult, mended: list[Mended], *, fix: bool) -> None:
    for problem in found.problems:
        say(f"{problem['where']}: {problem['problem']}")
    for note in found.notes:
        say(f"note: {note['where']}: {note['problem']}")
    for done in mended:
        say(str(done))
    if not fix:
        for one in found.explained:
            say(f"fits: {one}")
    say(f"{found.sequences} sequences, {found.frames} frames, {len(found.problems)} problems")
    if not fix and any(one.sure for one in found.explained):
        say(f"next: datagen check {shlex.quote(str(captures))} --fix")
    if not found.problems:
        root = shlex.quote(f"source.root={captures}")
        scale = " --set source.scale=landmarks" if found.unscaled else ""
        say(f"next: datagen build folder --set {root}{scale} --out runs/mine")


def _write_page(page: Path, captures: Path, found: CheckResult) -> None:
    from datagen.flows.check import PICTURED_SEQUENCES
    from datagen.flows.check_page import write_check_page

    counted = f"{found.sequences} sequences, {found.frames} frames, {len(found.problems)} problems"
    pictured = sorted(found.pictured, key=lambda one: -one.poor)[:PICTURED_SEQUENCES]
    left = len(found.pictured) - len(pictured)
    more = f"{left} more sequences are not pictured; those with problems came first." if left else ""
    fits = [str(one) for one in found.explained]
    said = {"counted": counted, "more": more, "problems": found.problems, "notes": found.notes, "fits": fits}
    write_check_page(page, captures, pictured, said)


def explain_command(
    out: BuildArgument,
    names: FramesArgument = None,
    failed: FailedOption = False,
    review: ReviewOption = False,
    json_output: JsonOption = False,
) -> None:
    """Say why frames got their verdicts; without a name, group all of a build by reason, with what to do next.

    Example: datagen explain runs/demo s003/performance/000002
    """
    from datagen.audit.explain import explain
    from datagen.flows.status import explain_frame

    if not names and not failed and not review:
        from datagen.audit.explain_build import explain_build
        from datagen.flows.quarantine import plain, read_quarantine
        from datagen.layout import BuildLayout

        explanation, layout = explain_build(out), BuildLayout(out.resolve())
        left_out = read_quarantine(layout, layout.read_manifest()).units
        if json_output:
            print_json({**explanation.to_json(), "quarantine": [plain(unit) for unit in left_out]})
            return
        say(explanation.text())
        for unit in left_out:
            say(f"\nin quarantine: {unit}")
        if left_out:
            say(
                f"    datagen requeue {shlex.quote(str(out))} --quarantined    # they are tried again by the next build"
            )
        return
    layout, _, frames = _choose(out, names, failed, review)
    if json_output:
        print_json([explain_frame(layout, key, frame) for key, frame in frames])
    else:
        texts = [explain(layout.root, key.subject, key.sequence, frame) for key, frame in frames]
        say("\n\n".join(texts) if texts else "no frame has such a verdict")


def requeue_command(
    out: BuildArgument,
    names: FramesArgument = None,
    failed: FailedOption = False,
    review: ReviewOption = False,
    quarantined: Annotated[bool, typer.Option("--quarantined", help="Those in quarantine.")] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A key of warp that these frames have of their own; repeatable."
        ),
    ] = None,
    unset: Annotated[
        list[str] | None,
        typer.Option("--unset", metavar="KEY", help="Take such a setting back; all: every one. Repeatable."),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Forget the results of frames, so that the next build makes them again, with settings of their own if need be.

    A sequence's person is forgotten only with the last of its frames: until then, frames are held to the same person.
    Settings of their own are kept in the build, and said in its status, report and dataset; whole sequences with the
    same ones learn their person by them.

    Example: datagen requeue runs/demo s003/performance --set warp.max_distance_mm=12
    """
    from datagen.flows.build_folder import build_lock
    from datagen.flows.own_settings import ask
    from datagen.flows.status import requeue

    layout, plan, frames = _choose(out, names, failed, review, quarantined)
    settings = {}
    with build_lock(layout):
        if (overrides or unset) and frames:
            settings = ask(layout, plan, frames, overrides or (), unset or ())
        persons = requeue(plan, layout, frames).get("person", [])
    listed = [f"{key}/{frame:06d}" for key, frame in frames]
    if json_output:
        print_json({"persons": persons, "requeued": listed, "set": settings, "unset": unset or []})
    else:
        lines = [*listed, *(f"{key}: the person" for key in persons)]
        lines += [f"with {key} {value} of their own" for key, value in settings.items()]
        say("\n".join([*lines, f"{len(listed)} frames will be made again by the next `datagen build`"]))


def _choose(
    out: Path, names: list[str] | None, failed: bool, review: bool, quarantined: bool = False
) -> tuple[BuildLayout, BuildPlan, list[tuple[SequenceKey, int]]]:
    from datagen.flows.folder_plan import plan_in
    from datagen.flows.quarantine import quarantined_frames
    from datagen.flows.status import FrameName, chosen_frames
    from datagen.layout import BuildLayout

    if not names and not failed and not review and not quarantined:
        raise InputError("no frame is named", "names, --failed or --review", "For example: s003/performance/000002")
    layout = BuildLayout(out.resolve())
    plan = plan_in(layout)
    statuses = {status for status, wanted in (("fail", failed), ("review", review)) if wanted}
    chosen = chosen_frames(plan, layout, [FrameName.parse(name) for name in names or ()], statuses)
    if quarantined:
        held = quarantined_frames(layout)
        chosen += [(s.key, frame) for s in plan.sequences for frame in s.frames if (s.key, frame) in held]
    return layout, plan, list(dict.fromkeys(chosen))


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("check")(check_command)
    app.command("explain")(explain_command)
    app.command("requeue")(requeue_command)
