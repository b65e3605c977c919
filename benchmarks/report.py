"""``report``: how long a report of many frames takes to write and to open, and how much memory its page needs."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import typer

from benchmarks.browser import DESK_PX, Browser, find_browser
from benchmarks.goal import Goal, judged, verdict
from datagen.commands.options import JsonOption
from datagen.common.console import print_json, table

GOALS = (Goal("report_open_s", 2.0), Goal("report_process_mib", 200.0))
FRAMES_A_SEQUENCE = 250
READY = "document.documentElement.dataset.ready === 'yes'"


@dataclass(frozen=True)
class ReportPlan:
    """What is measured.

    Attributes
    ----------
    frames : int
    rounds : int
        How often the page is opened; the median counts.
    """

    frames: int = 100_000
    rounds: int = 3


def write_verdicts(build: Path, frames: int, seed: int = 0) -> None:
    """Write the verdicts and records of a build of that many frames; no warps, as these would fill a disk."""
    rng = np.random.default_rng(seed)
    for number in range(frames):
        sequence, frame = divmod(number, FRAMES_A_SEQUENCE)
        folder = build / "warps" / f"s{sequence // 4:04d}" / f"take{sequence % 4}" / f"{frame:06d}"
        folder.mkdir(parents=True)
        coverage = float(np.clip(rng.normal(0.82, 0.06), 0, 1))
        low = coverage < 0.7
        reasons = [f"share of the face with scan data is {coverage:.3g}, below the review limit of 0.7"] if low else []
        figures = {f"coverage_{name}": round(coverage, 6) for name in ("brows", "chin", "forehead", "nose")}
        figures |= {
            "residual_median_mm": round(float(rng.gamma(4, 0.03)), 6),
            "residual_p95_mm": round(float(rng.gamma(4, 0.15)), 6),
            "face_coverage": round(coverage, 6),
            "face_confidence": round(float(rng.beta(8, 2)), 6),
            "flipped_fraction": 0.0,
            "crossing_fraction": 0.0,
            "lip_overlap_mm": 0.0,
            "landmark_rms_mm": round(float(rng.gamma(6, 0.2)), 6),
            "head_size": round(float(rng.normal(1, 0.04)), 6),
            "scan_vertices": 60_000.0,
        }
        content = {"verdict": "review" if low else "pass", "reasons": reasons, "figures": figures}
        (folder / "verdict.json").write_text(json.dumps(content))
        cameras = [f"cam{k:02d}" for k in range(16)]
        record = {"cameras": cameras, "content_key": "0" * 64, "input_digest": "1" * 64, "files": {}, "status": "pass"}
        (folder / "record.json").write_text(json.dumps({**record, "views": {"wrong": {}, "blind": {}}}))


def measure_report(plan: ReportPlan) -> dict[str, float]:
    """Write a report and open it; without a browser, only write it.

    Returns
    -------
    dict
        ``report_write_s``, ``report_mib`` (all files), ``report_page_kib`` (the page alone), and of the browser
        ``report_open_s`` (until the table is there) and ``report_process_mib`` (all of the process that shows it).
    """
    from datagen.audit.report import write_report

    with tempfile.TemporaryDirectory(prefix="report-") as folder:
        build = Path(folder)
        write_verdicts(build, plan.frames)
        began = time.monotonic()
        page = write_report(build)
        figures = {"frames": float(plan.frames), "report_write_s": time.monotonic() - began}
        sizes = [path.stat().st_size for path in page.parent.rglob("*") if path.is_file()]
        figures |= {"report_mib": sum(sizes) / 2**20, "report_page_kib": page.stat().st_size / 2**10}
        if find_browser() is None:
            return figures
        seconds, processes = [], []
        for _ in range(plan.rounds):
            with Browser() as browser:
                browser.look_like(DESK_PX)
                seconds.append(browser.open(page.as_uri(), ready=READY, timeout_s=120))
                processes.append(_renderer_mib(browser.process.pid))
        return figures | {
            "report_open_s": float(np.median(seconds)),
            "report_process_mib": float(np.median(processes)),
        }


def _renderer_mib(browser: int) -> float:
    """Return the resident memory of the largest process that shows a page."""
    shown = [p for p in psutil.Process(browser).children(recursive=True) if "--type=renderer" in p.cmdline()]
    return max((p.memory_info().rss for p in shown), default=0) / 2**20


def report_command(
    frames: Annotated[int, typer.Option(min=1, help="Frames of the build; they have verdicts and no warps.")] = 100_000,
    rounds: Annotated[int, typer.Option(min=1, help="How often the page is opened.")] = 3,
    json_output: JsonOption = False,
) -> None:
    """Measure the report of a build of many frames: writing it, opening its page, and the memory that takes.

    Example: python -m benchmarks report --frames 100000
    """
    figures = measure_report(ReportPlan(frames, rounds))
    goals = judged(GOALS, figures)
    if json_output:
        print_json({"figures": figures, "goals": goals})
        return
    table([(name, f"{value:<10.4g} {verdict(goals.get(name))}".rstrip()) for name, value in figures.items()])


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("report")(report_command)
