"""``build``, ``plan``, ``simulate`` and ``status``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from datagen.commands.options import BuildArgument, JsonOption, ManifestArgument, SetOption
from datagen.common.console import print_json, say, table
from datagen.common.digests import sha256_text
from datagen.common.errors import InputError, ManifestError
from datagen.common.progress import duration
from datagen.manifest import load_manifest

if TYPE_CHECKING:
    from datagen.flows.planning import BuildPlan
    from datagen.flows.result import BuildResult
    from datagen.flows.runners.contract import RunnerConfig
    from datagen.flows.runners.tracking import Tracker
    from datagen.manifest import Manifest

SHOWN_REASONS = 10
_NAMED_CAMERAS = 100
_NAMED_SUBJECTS = 16

OutOption = Annotated[Path, typer.Option("--out", help="Build folder; made if missing, continued if not.")]
RunnerOption = Annotated[
    Literal["threads", "dask", "serial"],
    typer.Option("--runner", help="threads, dask (processes), or serial (a loop without Prefect)."),
]
MaxFailedOption = Annotated[
    str, typer.Option("--max-failed", help="Units of a stage that may be given up and left out: 12, or 5%.")
]
WorkersOption = Annotated[int | None, typer.Option("--workers", min=1, help="Tasks at a time; default: all CPUs.")]
DaskOption = Annotated[
    str | None, typer.Option("--dask-address", help="Address of a running Dask scheduler; implies --runner dask.")
]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--only", metavar="PATTERN", help="Frames to try, such as 's003/*' or 's003/*/00000[0-4]'; repeatable."
    ),
]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="Try at most so many frames, the first ones.")]
LogForm = Literal["text", "json"]
LogOption = Annotated[
    LogForm, typer.Option("--log", help="Standard error as text, or as one JSON object a line, with every unit.")
]
MetricsOption = Annotated[
    int | None,
    typer.Option("--metrics-port", min=0, max=65535, help="Serve Prometheus metrics on 127.0.0.1; 0: any free port."),
]

ClusterOption = Annotated[
    Literal["local", "slurm", "kubernetes"] | None,
    typer.Option("--dask-cluster", help="Start a Dask cluster there for this build; implies --runner dask."),
]
ClusterConfigOption = Annotated[
    Path | None, typer.Option("--dask-config", help="YAML file with options of --dask-cluster.")
]


def build_command(
    manifest: ManifestArgument,
    out: OutOption,
    overrides: SetOption = None,
    runner: RunnerOption = "threads",
    workers: WorkersOption = None,
    dask_address: DaskOption = None,
    dask_cluster: ClusterOption = None,
    dask_config: ClusterConfigOption = None,
    max_failed: MaxFailedOption = "5%",
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Replace another dataset in --out, or this one's splits."),
    ] = False,
    check_inputs: Annotated[
        bool, typer.Option("--check-inputs", help="Read every input again, though its files look as they were.")
    ] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Check every byte of the dataset at the end, as `datagen verify` does.")
    ] = False,
    stage: Annotated[
        str | None, typer.Option("--stage", help="Only this stage, or a part of it; the plan has to be frozen.")
    ] = None,
    part: Annotated[str, typer.Option("--part", help="Which part of the stage, and of how many: 3/10.")] = "1/1",
    only: OnlyOption = None,
    limit: LimitOption = None,
    log: LogOption = "text",
    metrics_port: MetricsOption = None,
    json_output: JsonOption = False,
) -> None:
    """Build a dataset from a manifest, or finish an interrupted build.

    Exit code 1 if the finished dataset does not verify, or if a frame or a camera was left out because its input is
    broken or contradicts itself, or its work failed wherever it was tried; 75 if a service was lost: try again.

    With --only or --limit a recipe is tried: the dataset holds these frames alone and says so. A build of all of them
    keeps their warps, and ends as if they had not been tried.

    Example: datagen build manifests/demo.yaml --out runs/demo --set source.frames=3
    """
    log_as(log)
    from datagen.layout import load_recipe

    recipe = load_recipe(manifest, overrides or (), out)
    from datagen.flows.build import build
    from datagen.flows.choice import Choice
    from datagen.flows.runners.contract import RunnerConfig
    from datagen.flows.watchers import watched

    config = RunnerConfig.of(runner, workers, dask_address, dask_cluster, dask_config, max_failed)
    if stage is not None:
        for option, given in (("--replace", replace), ("--check-inputs", check_inputs), ("--deep", deep)):
            if given:
                raise InputError(f"{option} with --stage", "parts of a build that is frozen", f"Leave {option} out")
    choice = Choice(tuple(only or ()), limit)
    if choice and stage is not None:
        raise InputError(f"{choice} with --stage", "one of them: parts are of the build of all frames", "Leave one out")
    if part != "1/1" and stage is None:
        raise InputError("--part without --stage", "the stage that it is a part of", "Add --stage warp, for example")
    with watched(log, metrics_port) as watcher:
        if stage is not None:
            _build_part(recipe, out, stage, part, config, watcher, json_output=json_output)
            return
        result = build(
            recipe,
            out,
            config,
            replace=replace,
            check_inputs=check_inputs,
            deep=deep,
            choice=choice,
            watcher=watcher,
        )
    report_result(result, out, json_output=json_output)


def log_as(log: LogForm) -> None:
    """Have this process say what it says on standard error as text, or as lines of JSON until it ends."""
    if log == "json":
        from datagen.common.json_lines import speak_json

        speak_json()


def _build_part(
    recipe: Manifest,
    out: Path,
    stage: str,
    part: str,
    config: RunnerConfig,
    watcher: Tracker,
    *,
    json_output: bool,
) -> None:
    from datagen.flows.parts import Part, run_part

    if config.name == "dask":
        raise InputError("--runner dask with --stage", "threads or serial: parts are what is carried elsewhere")
    chosen = Part.parse(part)
    weight = run_part(recipe, out, stage, chosen, config, watcher=watcher)
    if json_output:
        print_json({"of": chosen.of, "part": chosen.number, "stage": stage, "units": weight})
    else:
        say(f"part {chosen.number} of {chosen.of} of {stage} is done")


def report_result(result: BuildResult, out: Path, *, json_output: bool) -> None:
    """Say what came out of a build, and what was left out of it; end with exit code 1 where that is not all well."""
    if json_output:
        print_json(_result_json(result))
    else:
        _print_result(result)
    broken = _report_broken_input(out)
    wrong = _report_left_out_cameras(result)
    for unit in result.quarantined[:SHOWN_REASONS]:
        say(f"left out {unit}", to=sys.stderr)
    if len(result.quarantined) > SHOWN_REASONS:
        more = len(result.quarantined) - SHOWN_REASONS
        say(f"… and {more} more in quarantine; `datagen explain {out}` lists them", to=sys.stderr)
    if broken or wrong or result.quarantined or not result.verification.ok:
        raise SystemExit(1)


def _report_left_out_cameras(result: BuildResult) -> bool:
    """Name the cameras that give no samples, those first that contradict their images; return if there are such."""
    ordered = sorted(result.cameras, key=lambda camera: not camera.wrong)
    for camera in ordered[:SHOWN_REASONS]:
        say(f"left out {camera}", to=sys.stderr)
    more = [f"{camera.key} camera {camera.camera}" for camera in ordered[SHOWN_REASONS:]]
    if more:
        named = ", ".join(more[:_NAMED_CAMERAS]) + (", …" if len(more) > _NAMED_CAMERAS else "")
        say(f"left out too, for such reasons (--json has them): {named}", to=sys.stderr)
    return any(camera.wrong for camera in ordered)


def _report_broken_input(out: Path) -> int:
    """Name the frames that could not be warped at all, and return how many there are."""
    from datagen.audit.results import read_results

    broken = [frame for frame in read_results(out) if not frame.has_warp]
    for frame in broken[:SHOWN_REASONS]:
        say(f"left out {frame.name}: {'; '.join(frame.verdict.reasons)}", to=sys.stderr)
    if len(broken) > SHOWN_REASONS:
        say(f"… and {len(broken) - SHOWN_REASONS} more; `datagen explain {out} --failed` lists them", to=sys.stderr)
    return len(broken)


def _result_json(result: BuildResult) -> dict[str, Any]:
    from datagen.flows.quarantine import plain

    return {
        "dataset": str(result.dataset),
        "left_out_cameras": [
            {"camera": c.camera, "frames": c.frames, "reason": c.reason, "sequence": str(c.key), "wrong": c.wrong}
            for c in result.cameras
        ],
        "left_out_frames": result.left_out,
        "quarantined": [plain(unit) for unit in result.quarantined],
        "problems": [str(problem) for problem in result.verification.problems],
        "rendered": result.rendered,
        "report": str(result.report),
        "samples": dict(result.samples),
        "seconds": {stage: round(seconds, 2) for stage, seconds in result.seconds.items()},
        "verdicts": dict(result.verdicts),
        "verified": result.verification.ok,
        "warped": result.warped,
    }


def _print_result(result: BuildResult) -> None:
    counts = result.verification.counts
    rows: list[tuple[str, Any]] = [
        ("verdicts", ", ".join(f"{status} {count}" for status, count in sorted(result.verdicts.items()))),
        ("samples", ", ".join(f"{split} {count}" for split, count in result.samples.items())),
        ("new", f"{result.warped} frames warped, {result.rendered} views rendered"),
        ("dataset", f"{result.dataset} ({counts['bytes'] / 2**20:.1f} MiB, {counts['shards']} shards)"),
        ("report", result.report),
        ("verified", "yes" if result.verification.ok else f"NO: {len(result.verification.problems)} problems"),
    ]
    if result.left_out:
        rows.insert(
            2, ("left out", f"{result.left_out} frames without a surface, or that no camera with an image sees")
        )
    table(rows)
    for problem in result.verification.problems[:10]:
        say(f"  {problem}")


def plan_command(
    manifest: ManifestArgument,
    overrides: SetOption = None,
    freeze: Annotated[
        Path | None, typer.Option("--freeze", help="Write the plan into this build folder, for parts of stages to run.")
    ] = None,
    only: OnlyOption = None,
    limit: LimitOption = None,
    json_output: JsonOption = False,
) -> None:
    """Say what a build would do, without doing it; with --freeze, write what parts of it need to run by themselves.

    Freeze again when all parts of the stage `warp` have ended: which shards there are follows from what was warped.

    Example: datagen plan manifests/demo.yaml
    """
    from datagen.layout import load_recipe

    recipe = load_recipe(manifest, overrides or (), freeze or manifest.parent)
    from datagen.flows.choice import Choice, choose
    from datagen.flows.fit_plan import check_fits
    from datagen.flows.planning import plan_build, settle

    choice = Choice(tuple(only or ()), limit)
    if freeze is not None:
        if choice:
            raise InputError(f"{choice} with --freeze", "a plan of all frames", "Leave one of them out")
        _freeze(recipe, freeze, json_output=json_output)
        return
    plan = plan_build(settle(recipe))
    plan = choose(plan, choice) if choice else plan
    # No such source makes captures itself: there is no build folder yet.
    fitted = check_fits(plan, Path())
    if json_output:
        print_json({**_plan_json(plan), "fitted": fitted})
        return
    views, units = plan.views(), plan.units()
    table(
        [
            ("name", recipe.name),
            ("source", recipe.source.kind),
            ("canonical head", recipe.canonical.head),
            ("sequences", len(plan.sequences)),
            ("frames", f"{plan.frames} of {plan.of_frames}" if plan.selected or plan.chosen else plan.frames),
            *([("selected", recipe.source.selection)] if plan.selected else []),
            *([("fitted", _fitted(plan, fitted))] if fitted else []),
            ("splits", plan.split_policy),
            *((f"{split} subjects", _named(subjects)) for split, subjects in plan.splits.items()),
            *((f"{split} views", views[split]) for split in plan.splits),
            ("resolution", f"{recipe.render.resolution} px"),
            ("shards", f"{len(units)} of up to {max((u.samples for u in units), default=0)} samples"),
        ]
    )


def _fitted(plan: BuildPlan, asked: Mapping[str, int]) -> str:
    bare = sum(info.bare for info in plan.sequences)
    told = ", ".join(f"{name} ({count})" for name, count in asked.items())
    return f"{bare} sequences have no surface: heads are fitted to what their pictures show, by {told}"


def _freeze(recipe: Manifest, out: Path, *, json_output: bool) -> None:
    from datagen.flows.parts import freeze_build

    frozen = freeze_build(recipe, out)
    if json_output:
        print_json(vars(frozen))
        return
    ready = ", ".join(f"{stage} ({count} units)" for stage, count in frozen.units.items())
    waiting = f"{frozen.waiting} frames wait for their warps" if frozen.waiting else "every frame is warped"
    table([("frozen", out), ("frames", waiting), ("parts can run of", ready or "nothing")])


def _named(subjects: Sequence[str]) -> str:
    """Return the names if a line holds them, else the first, the last and how many; --json has them all."""
    if len(subjects) <= _NAMED_SUBJECTS:
        return ", ".join(subjects) or "none"
    return f"{', '.join(subjects[:3])}, … {subjects[-1]} ({len(subjects)})"


def _plan_json(plan: BuildPlan) -> dict[str, Any]:
    return {
        "frames": plan.frames,
        "of_frames": plan.of_frames,
        "chosen": dict(plan.chosen),
        "selected": plan.manifest.source.selection,
        "manifest_digest": sha256_text(plan.manifest.recipe()),
        "name": plan.manifest.name,
        "sequences": [
            {"cameras": s.cameras, "frames": list(s.frames), "sequence": s.key.sequence, "subject": s.key.subject}
            for s in plan.sequences
        ],
        "shards": len(plan.units()),
        "split_policy": plan.split_policy,
        "splits": {split: list(subjects) for split, subjects in plan.splits.items()},
        "views": plan.views(),
    }


def simulate_command(
    manifest: ManifestArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder for captures/ and truth/.")],
    overrides: SetOption = None,
) -> None:
    """Simulate the captures of a manifest, with their truth apart, and stop there.

    Example: datagen simulate manifests/demo.yaml --out runs/captures
    """
    recipe = load_manifest(manifest, overrides or ())
    if recipe.source.simulated_head is None:
        raise ManifestError(
            f"the source of {manifest} is {recipe.source.kind}", "simulated", "See manifests/demo.yaml for one that is"
        )
    from datagen.common.files import claim_folder
    from datagen.common.progress import Progress
    from datagen.flows.build_folder import build_lock, check_folder, check_places
    from datagen.flows.planning import plan_build
    from datagen.flows.stages.simulate import SimulateStage
    from datagen.layout import BuildLayout

    stage, layout = SimulateStage(), BuildLayout(out.resolve())
    plan = plan_build(recipe)
    units = stage.plan(plan, layout)
    check_folder(layout, recipe)
    check_places(plan, layout)
    if not layout.manifest.is_file():
        claim_folder(layout.root, beside=(layout.lock.name, layout.leases.name))
    with build_lock(layout), Progress(stage.name, len(units), stage.counts) as progress:
        for unit in units:
            stage.run(unit)
            progress.advance(unit.weight)
    say(f"captures  {layout.captures}\ntruth     {layout.truth}")


def status_command(
    out: BuildArgument,
    watch: Annotated[
        float | None, typer.Option("--watch", min=0.1, help="Look again after so many seconds, until it is finished.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="That are to do the rest; default: as many as worked lately.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Say how far a build has got, stage by stage, and what is missing and why, from what is on disk.

    It also says what the work took, by stage and machine, and what the rest will take so many workers. With --watch it
    says how fast each stage gets on, and who works there.

    Example: datagen status runs/demo --workers 64
    """
    from datagen.flows.stage import StageStatus
    from datagen.flows.status import build_status
    from datagen.layout import BuildLayout

    if watch is not None:
        _watch(out, watch, workers, json_output=json_output)
        return
    status = build_status(BuildLayout(out), workers)
    if json_output:
        print_json(status)
    else:
        stages = [StageStatus(**{k: v for k, v in s.items() if k != "percent"}) for s in status.pop("stages")]
        table([(stage.stage, stage) for stage in stages])
        say()
        work, left = status.pop("work"), status.pop("left")
        rows = [(name.replace("_", " "), _flat(value)) for name, value in status.items()]
        table([*rows, *_work_rows(work, left)])


def _work_rows(work: Mapping[str, Any], left: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what each stage took, on which machines, and what the rest will take."""
    rows = []
    for stage, taken in work.items():
        each_s = taken["seconds"] / taken["made"]
        hosts = ", ".join(f"{host} {on['made']}" for host, on in taken["hosts"].items())
        made, peak_gib = f"{taken['made']} {taken['counts']}", taken["peak_gib"]
        told = f"{made}, {duration(each_s)} each, {peak_gib:.2f} GiB at most, on {hosts}"
        rows.append((f"{stage} took", told))
    return [*rows, ("left", left["text"])]


def _watch(out: Path, every_s: float, workers: int | None, *, json_output: bool) -> None:
    import json

    from datagen.flows.watch import looks_at
    from datagen.layout import BuildLayout

    for look in looks_at(BuildLayout(out.resolve()), every_s, workers):
        if json_output:
            say(json.dumps(look.to_json()))  # a line for each look
            continue
        who = ", ".join(look.at_work) or "nobody"
        table([*((stage.stage, stage) for stage in look.stages), ("at work", who), *_work_rows(look.work, look.left)])
        say()


def _flat(value: Any) -> Any:
    if isinstance(value, dict):
        return ", ".join(f"{name} {count}" for name, count in value.items()) or "none"
    return value


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("simulate")(simulate_command)
    app.command("plan")(plan_command)
    app.command("build")(build_command)
    app.command("status")(status_command)
