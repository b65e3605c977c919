"""``align``: the alignment network beside plain dense regression of the same encoder, in the same processor time."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from datagen.common.console import print_json
from datagen.common.documents import read_json
from datagen.common.errors import InputError
from datagen.common.files import atomic_write_bytes

_REGRESSION = ("network.kind=regression", "coarse_steps=0")
_PILOTS = (20, 120)  # steps; what they differ in is a hundred steps' time
SECONDS = "seconds.json"
# Figure, heading, digits.
ROWS = (
    ("nme_percent", "distance of the face's vertices, % of its size", 2),
    ("visible_nme_percent", "of those that are seen", 2),
    ("hidden_nme_percent", "of those that are hidden", 2),
    ("surprise", "r² / 2σ² after the temperature", 2),
    ("sigma_rank_correlation", "rank correlation of σ and error", 2),
    ("hidden_sigma_ratio", "σ of hidden over seen vertices", 2),
    ("cpu_seconds", "processor time, s", 0),
    ("steps", "steps", 0),
)


def align_command(
    dataset: Annotated[Path, typer.Argument(help="A dataset.zarr folder, or a build folder that holds one.")],
    out: Annotated[Path, typer.Option(help="Folder for the runs.")],
    config: Annotated[str, typer.Option(help="A YAML file, or a configuration of `trainer align`.")] = "tiny",
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="For every run, such as fit.steps=400; may be repeated."),
    ] = None,
    split: Annotated[Literal["val", "test"], typer.Option(help="The people that each is measured on.")] = "test",
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON on standard output.")] = False,
) -> None:
    """Fit an alignment network and, in the same processor time, plain regression; measure both on unseen people.

    The regression says the positions of all vertices at once from the same encoder's deepest features. How many steps
    fit into the time is found by two short runs. A killed call resumes where it stopped. The dataset is meant to be
    that of `datagen build manifests/align-tiny.yaml --out runs/align-data`.

    Example: python -m benchmarks align runs/align-data --out runs/align-bench
    """
    given = options or []
    flow = measure(dataset, out / "flow", config, given, split)
    pilots = [
        fit(dataset, out / f"pilot{steps}", config, [*given, *_REGRESSION, f"fit.steps={steps}"])[0]
        for steps in _PILOTS
    ]
    pace = (pilots[1] - pilots[0]) / (_PILOTS[1] - _PILOTS[0])
    if pace <= 0:
        raise InputError("regression of more steps took no more time", "a processor that counts", "Run it again")
    steps = max(round((flow["cpu_seconds"] - pilots[0]) / pace) + _PILOTS[0], _PILOTS[0])
    regression = measure(dataset, out / "regression", config, [*given, *_REGRESSION, f"fit.steps={steps}"], split)
    figures = {
        "align_nme_percent": flow["nme_percent"],
        "align_start_nme_percent": flow["nme_percent_0"],
        "align_ratio_regression": flow["nme_percent"] / regression["nme_percent"],
        "align_sigma_ratio": flow["surprise"],
        "align_sigma_rank_correlation": flow["sigma_rank_correlation"],
        "align_hidden_sigma_ratio": flow["hidden_sigma_ratio"],
        "align_cpu_seconds": flow["cpu_seconds"],
        "regression_cpu_seconds": regression["cpu_seconds"],
    }
    if as_json:
        print_json(figures)
        return
    print(table(flow, regression))


def measure(dataset: Path, folder: Path, config: str, options: list[str], split: str) -> dict[str, Any]:
    """Fit a network unless that is done, measure it, and return its figures with ``cpu_seconds`` and ``steps``."""
    seconds, steps = fit(dataset, folder, config, options)
    answer = json.loads(_trainer("evaluate", str(folder), str(dataset), "--split", split, "--json"))
    return {**answer["figures"], "cpu_seconds": seconds, "steps": steps}


def fit(
    dataset: Path, folder: Path, config: str, options: list[str], call: Callable[..., str] | None = None
) -> tuple[float, int]:
    """Fit a network; return the processor time of all calls together, and the steps.

    Parameters
    ----------
    call : callable, optional
        Runs the words of a command and returns what it prints; by default of `trainer align`.
    """
    before = _children_s()
    command = ["fit", str(dataset), "--out", str(folder), "--config", config, "--json"]
    for option in options:
        command += ["--set", option]
    answer = json.loads((call or _trainer)(*command))
    # Beside the run, whose folder is its own.
    note = folder.with_name(f"{folder.name}-{SECONDS}")
    spent = float(read_json(note)["seconds"]) if note.is_file() else 0.0
    if spent and answer["finished"] and _children_s() - before < spent / 10:
        return spent, int(answer["steps"])  # it was finished already
    spent += _children_s() - before
    atomic_write_bytes(note, json.dumps({"seconds": spent}).encode())
    return spent, int(answer["steps"])


def table(flow: dict[str, Any], regression: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    rows = [["", "alignment", "regression"], ["---"] * 3]
    rows += [[heading, f"{flow[n]:.{digits}f}", f"{regression[n]:.{digits}f}"] for n, heading, digits in ROWS]
    path = ", ".join(f"{flow[n]:.2f}" for n in sorted(flow) if n.startswith("nme_percent_"))
    rows.insert(3, ["after each iteration, the start first", path, ""])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _trainer(*command: str) -> str:
    return trainer("align", *command)


def trainer(*words: str) -> str:
    """Run a command of `trainer` and return what it prints; an error of it ends the benchmark."""
    done = subprocess.run([sys.executable, "-m", "trainer.cli", *words], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)  # it has said why
    return done.stdout


def register(group: typer.Typer) -> None:
    """Add this command."""
    group.command("align")(align_command)
