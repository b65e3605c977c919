"""The parts of the run on a GPU: a command each, how long it may take, and which of its figures are told."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
Figures = dict[str, float]


@dataclass(frozen=True)
class Part:
    """One thing to be seen.

    Attributes
    ----------
    name : str
    words : tuple of str
        After ``python``.
    seconds : float
        The most it may take.
    read : callable
        Takes its standard output; returns the figures that are told.
    needs : tuple of str
        Packages without which it is left out.
    """

    name: str
    words: tuple[str, ...]
    seconds: float
    read: Callable[[str], Figures]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of a part.

    Attributes
    ----------
    state : str
        ``done``, ``failed``, ``late`` or ``left out``.
    figures : dict
    note : str
        Why, where it is not done.
    """

    name: str
    state: str
    seconds: float = 0.0
    figures: Figures = field(default_factory=dict)
    note: str = ""


def named(*names: str) -> Callable[[str], Figures]:
    """Return what reads figures out of a command's ``--json``; a name may end in ``*``."""

    def read(output: str) -> Figures:
        figures = json.loads(output[output.index("{") :])["figures"]
        chosen = [name for name in figures if any(re.fullmatch(n.replace("*", ".*"), name) for n in names)]
        return {name: figures[name] for name in chosen if figures[name] is not None}

    return read


def of_pytest(output: str) -> Figures:
    """Read how many tests passed, failed and were skipped from the last line of pytest."""
    found = {word: float(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", output)}
    return {f"tests_{word}": found.get(word, 0.0) for word in ("passed", "failed", "skipped")}


def parts(device: str, dataset: Path, *, rehearse: bool) -> list[Part]:
    """Return all parts; a rehearsal has the same on a CPU, of sizes that mean nothing."""
    config, size, frames = ("tiny", "28", "2") if rehearse else ("small", "504", "4")
    backend = "numba" if rehearse else "nvwarp"
    step = ("--config", config, "--device", device, "--steps", "2" if rehearse else "10", "--json")
    small = ("--heads", "1", "--views", "2", "--resolution", "56", "--faces", "3000", "--repeats", "1")
    render: tuple[str, ...] = small if rehearse else ("--heads", "2", "--repeats", "3")
    check = ("--config", config, "--size", size, "--frames", frames, "--device", device)
    pace = named("step_frames_per_s_n*", "step_memory_mib_n*", "predict_frames_per_s_n*", "longest_frames")
    marked = ("-m", "pytest", "-m", "gpu", *(("tests/datagen/render/test_parity.py",) if rehearse else ()))
    speed = named("views_per_s", "device_views_per_s", "bandwidth_share", "ratio_*", "parity_*")
    return [
        Part("pytest -m gpu", marked, 120, of_pytest),
        Part("agreement", ("-m", "benchmarks.gpu.checks", "agreement", *check), 60, named("*")),
        Part("render", _bench("render", "--backend", backend, *render, "--json"), 120, speed,
             () if rehearse else ("warp",)),
        Part("render, nvdiffrast", _bench("render", "--backend", "nvdiffrast", "--against", "", *render, "--json"), 60,
             speed, ("nvdiffrast",)),
        Part("train", _bench("train", "--size", size, "--frames", frames, "--seconds", "10", *step), 90, pace),
        Part("utilisation", ("-m", "benchmarks.gpu.checks", "utilisation", *check), 60, named("*")),
        Part("stall", _bench("train", str(dataset), "--frames", frames, "--seconds", "10", *step), 90,
             named("stall_share_n*", "ratio_stream_n*", "stream_frames_per_s_n*")),
        Part("fit", _fit(dataset, device), 60, named("loss*", "steps")),
    ]  # fmt: skip


def _bench(*words: str) -> tuple[str, ...]:
    return ("-m", "benchmarks", *words)


def _fit(dataset: Path, device: str) -> tuple[str, ...]:
    """Return a short fit of a tiny model on the device: the whole loop, checkpoints and all."""
    steps = ("fit.steps=20", "fit.val_every=20", f"fit.device={device}")
    settings = tuple(word for key in steps for word in ("--set", key))
    return ("-m", "benchmarks.gpu.fit", str(dataset), "--config", "tiny", *settings)


def run_part(part: Part, left_s: float) -> Outcome:
    """Run a part within what is left of the time."""
    missing = [name for name in part.needs if find_spec(name) is None]
    if missing:
        return Outcome(part.name, "left out", note=f"{', '.join(missing)} is not installed")
    if left_s <= 1:
        return Outcome(part.name, "left out", note="no time was left")
    began = time.perf_counter()
    limit = min(part.seconds, left_s)
    try:
        done = subprocess.run(
            [sys.executable, *part.words],
            cwd=CHECKOUT,
            timeout=limit,
            capture_output=True,
            text=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Outcome(part.name, "late", time.perf_counter() - began, note=f"stopped after {limit:.0f} s")
    taken = time.perf_counter() - began
    try:
        figures = part.read(done.stdout)
    except (ValueError, KeyError):
        figures = {}
    if done.returncode or not figures:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        why = lines[-1][:200] if lines else f"exit code {done.returncode}, and no figures"
        return Outcome(part.name, "failed", taken, figures, why)
    return Outcome(part.name, "done", taken, figures)


def as_table(outcomes: list[Outcome], machine: Mapping[str, Any]) -> str:
    """Return everything as one Markdown table."""
    head = ", ".join(f"{value}" for value in machine.values())
    rows = ["| part | state | s | figures |", "|---|---|---|---|"]
    for one in outcomes:
        told = ", ".join(f"`{name}` {value:.4g}" for name, value in one.figures.items())
        rows.append(f"| {one.name} | {one.state} | {one.seconds:.0f} | {told or one.note} |")
        if told and one.note:
            rows[-1] = rows[-1][:-2] + f" ({one.note}) |"
    return "\n".join([head, "", *rows])
