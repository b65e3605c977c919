"""Builds on SLURM without a scheduler of our own: array jobs of parts, each waiting for those before it."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from datagen.common.digests import canonical_json
from datagen.common.errors import DependencyError, ServiceLostError
from datagen.common.files import write_owned_bytes
from datagen.flows.folder_plan import plan_in
from datagen.flows.stages import STAGES
from datagen.flows.stages.warp import FRAMES_PER_UNIT
from datagen.layout import BuildLayout

_SBATCH = "sbatch"
_LEAST_UNITS = 1
_RESTARTS = 5  # of a part, whatever for
_NOTICE_S = 60  # before its time is over
_REASON = 300  # characters


@dataclass(frozen=True)
class SlurmOptions:
    """What the jobs of a build ask for.

    Attributes
    ----------
    partition, account : str
        Empty for the cluster's own.
    array_size : int
        Parts of a stage, at most; fewer where there are fewer units.
    throttle : int
        Parts at a time; 0 for as many as the cluster gives.
    cpus : int
        Of each part, which works at as many units at a time.
    memory, time : str
        As sbatch takes them; empty for the cluster's own.
    gpus : int
        Of each part that renders.
    more : tuple of str
        Other options of sbatch, as they are.
    """

    partition: str = ""
    account: str = ""
    array_size: int = 100
    throttle: int = 0
    cpus: int = 1
    memory: str = ""
    time: str = ""
    gpus: int = 0
    more: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """One job.

    Attributes
    ----------
    name : str
    parts : int
        Of an array; 0 for a single one.
    words : tuple of str
        What it runs; ``{part}`` is the number of the array's task.
    options : tuple of str
        Of sbatch, for this job alone.
    """

    name: str
    parts: int
    words: tuple[str, ...]
    options: tuple[str, ...] = ()


def slurm_jobs(layout: BuildLayout, options: SlurmOptions) -> list[Job]:
    """Return the jobs of a build, in their order: each waits for the one before it.

    Raises
    ------
    datagen.common.errors.CanonfaceError
        If this is not a build folder, or its captures cannot be planned.
    """
    plan = plan_in(layout)
    recipe, out = str(layout.manifest), str(layout.root)
    counts = {
        "simulate": len(plan.sequences),
        "bridge": 1,
        "fit": sum(info.bare for info in plan.sequences),
        "person": len(plan.sequences),
        "warp": sum(-(-len(info.frames) // FRAMES_PER_UNIT) for info in plan.sequences),
        "render": len(plan.units()),
    }
    jobs: list[Job] = []
    for stage in STAGES:
        if not (stage.carried and stage.applies(plan)) or stage.name not in counts:
            continue
        if stage.name == "render":
            jobs.append(Job("freeze", 0, ("plan", recipe, "--freeze", out)))
        parts = max(_LEAST_UNITS, min(options.array_size, counts[stage.name]))
        words = ("build", recipe, "--out", out, "--stage", stage.name, "--part", f"{{part}}/{parts}")
        gpus = (f"--gpus={options.gpus}",) if stage.name == "render" and options.gpus else ()
        jobs.append(Job(stage.name, parts, (*words, "--workers", str(options.cpus)), gpus))
    return [*jobs, Job("finish", 0, ("finish", out, "--workers", str(options.cpus)))]


def script_of(job: Job, layout: BuildLayout, options: SlurmOptions, name: str) -> str:
    """Return the batch script of a job."""
    limit = f"%{options.throttle}" if options.throttle else ""
    log = "%x-%A_%a.log" if job.parts else "%x-%j.log"
    directives = [
        f"--job-name=canonface-{name}-{job.name}",
        f"--output={layout.plan / 'slurm' / log}",
        "--ntasks=1",
        f"--cpus-per-task={options.cpus}",
        # After a node is lost the part runs again, and does what is left of it; its log goes on.
        "--requeue",
        "--open-mode=append",
        f"--signal=B:USR1@{_NOTICE_S}",
        *([f"--array=1-{job.parts}{limit}"] if job.parts else []),
        *([f"--partition={options.partition}"] if options.partition else []),
        *([f"--account={options.account}"] if options.account else []),
        *([f"--mem={options.memory}"] if options.memory else []),
        *([f"--time={options.time}"] if options.time else []),
        *job.options,
        *options.more,
    ]
    words = [shlex.quote(word) for word in (sys.executable, "-m", "datagen.cli", *job.words)]
    command = " ".join(words).replace(shlex.quote(f"{{part}}/{job.parts}"), f'"${{SLURM_ARRAY_TASK_ID}}/{job.parts}"')
    lines = ["#!/bin/bash", *(f"#SBATCH {directive}" for directive in directives), "set -uo pipefail"]
    return "\n".join([*lines, f"cd {shlex.quote(str(Path.cwd()))} || exit 2", f"{command} &", _AFTERWARDS])


# A job that fails ends all that wait for it. What may go better another time is begun again instead: it was killed (by
# the kernel, for its memory, say), it lost a service, or its time was nearly over. What was cancelled stays so.
_AFTERWARDS = f"""\
child=$!
again=
trap 'again=1; kill -TERM "$child" 2>/dev/null' USR1
wait "$child"
code=$?
while [ "$code" -gt 128 ] && kill -0 "$child" 2>/dev/null; do
    wait "$child"
    code=$?
done
case "$code" in
    0) exit 0 ;;
    75) again=1 ;;
    130 | 143) ;;
    *) [ "$code" -gt 128 ] && again=1 ;;
esac
if [ -n "$again" ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {_RESTARTS} ]; then
    echo "it ended with code $code, and runs again" >&2
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


def submit_to_slurm(
    layout: BuildLayout, options: SlurmOptions, say: Callable[[str], None], *, dry_run: bool = False
) -> dict[str, str]:
    """Write the batch scripts of a build and submit them; return the jobs' numbers by name, none in a dry run.

    Raises
    ------
    datagen.common.errors.CanonfaceError
        As :func:`slurm_jobs`; if there is no ``sbatch``, or it refuses; or the disk does.
    """
    if not dry_run and shutil.which(_SBATCH) is None:
        raise DependencyError(
            f"there is no {_SBATCH} on PATH", "a login node of a SLURM cluster", "Log in there, or pass --dry-run"
        )
    name = layout.read_manifest().name
    numbers: dict[str, str] = {}
    before = ""
    for job in slurm_jobs(layout, options):
        path = layout.plan / "slurm" / f"{job.name}.sh"
        write_owned_bytes(path, script_of(job, layout, options, name).encode())
        words = [_SBATCH, "--parsable", *_after(before), str(path)]
        say(shlex.join(words))
        if dry_run:
            before = f"<{job.name}>"
            continue
        before = numbers[job.name] = _submit(words)
    if numbers:
        write_owned_bytes(layout.plan / "slurm" / "jobs.json", canonical_json(numbers).encode() + b"\n")
    return numbers


def _after(number: str) -> list[str]:
    # One that waits for what failed would wait for ever.
    return [f"--dependency=afterok:{number}", "--kill-on-invalid-dep=yes"] if number else []


def _submit(words: Sequence[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    number = done.stdout.strip().partition(";")[0]
    if done.returncode or not number:
        reason = (done.stderr or done.stdout).strip()[:_REASON] or f"exit code {done.returncode}"
        raise ServiceLostError(
            f"{_SBATCH} refused {words[-1]}: {reason}",
            "a job's number",
            "Correct the options; jobs submitted before it wait in the queue: `squeue --me` names them",
        )
    return number
