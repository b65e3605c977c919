"""``read``: how fast the stream is, beside its peers and beside decompression alone."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks.goal import Goal, judged, verdict
from benchmarks.read.case import ACCESSES, CACHES, PEERS
from datagen.commands.options import JsonOption
from datagen.common.console import print_json
from datagen.common.errors import InputError
from datagen.common.files import json_ready

if TYPE_CHECKING:
    from benchmarks.read.run import ReadBench

GOALS = (
    Goal("ratio_fastest_peer", 3.0, at_least=True),
    Goal("ratio_decompression", 0.95, at_least=True),
    Goal("bytes_ratio_smallest_peer", 0.75),
    Goal("table_ratio", 1.05),
    Goal("table_bytes_ratio", 1.03),
    Goal("resume_s", 1.0),
)


def read_command(
    against: Annotated[
        str | None,
        typer.Option(
            help="Peers to measure in the same run: any of webdataset, litdata; by default what is installed."
        ),
    ] = None,
    dataset: Annotated[
        Path | None, typer.Option(help="A finished dataset; by default one of simulated heads is rendered, in minutes.")
    ] = None,
    workers: Annotated[str, typer.Option(help="Numbers of workers, separated by commas.")] = "2",
    access: Annotated[str, typer.Option(help="Any of sequential, shuffled, clips; separated by commas.")] = "clips",
    cache: Annotated[str, typer.Option(help="Any of warm, cold; separated by commas.")] = "warm",
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="How long each case is measured.")] = 2.0,
    rounds: Annotated[
        int, typer.Option(min=1, max=100, help="How often all cases are measured; the best of each counts.")
    ] = 1,
    resolution: Annotated[int, typer.Option(min=14, max=4096, help="Pixels a side of the rendered samples.")] = 504,
    work: Annotated[
        Path | None, typer.Option(help="Folder for the files, which is kept; by default a temporary one.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Stream samples and measure how fast they come, what they take on disk, and how soon a run resumes.

    Depth, canonical coordinates, image and confidence of simulated heads; batches of 8 frames. Peers hold the very
    numbers that the dataset holds, lossless, in two settings: PNG at its best level (small), and Blosc (fast). Every
    case runs in a process of its own. Figures are for shuffled clips of 4 frames, a warm cache and 2 workers, which is
    what is measured by default, in three minutes on two cores; more --workers, --access and --cache take a few seconds
    for each reader. ``bytes_ratio_own_steps`` is against PNG of images rounded to the steps that suit PNG, as far
    off as ours. Exit code 0 whether or not the goals are met.

    Example: python -m benchmarks read --json
    """
    from benchmarks.material import MaterialPlan
    from benchmarks.read.peers import installed_peers
    from benchmarks.read.run import ReadPlan, run_read_bench

    numbers = _listed(workers, None, "--workers")
    if not all(number.isdigit() and int(number) > 0 for number in numbers):
        raise InputError(f"--workers {workers}", "numbers of 1 or more, separated by commas", "")
    plan = ReadPlan(
        dataset=dataset,
        material=MaterialPlan(resolution=resolution, frames=4, cameras=4),
        against=installed_peers() if against is None else _listed(against, PEERS, "--against"),
        workers=tuple(int(number) for number in numbers),
        accesses=_listed(access, ACCESSES, "--access"),
        caches=_listed(cache, CACHES, "--cache"),
        seconds=seconds,
        rounds=rounds,
    )
    with tempfile.TemporaryDirectory(prefix="canonface-bench-") as temporary:
        folder = Path(temporary) if work is None else work
        folder.mkdir(parents=True, exist_ok=True)
        bench = run_read_bench(plan, folder, lambda line: print(line, file=sys.stderr))
    if json_output:
        print_json(as_json(bench))
    else:
        print("\n".join(as_text(bench)))


def _listed(text: str, known: tuple[str, ...] | None, option: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    unknown = [name for name in names if known is not None and name not in known]
    if unknown:
        raise InputError(f"{option} {unknown[0]}", f"some of {', '.join(known or ())}, separated by commas", "")
    return names


def as_json(bench: ReadBench) -> dict[str, Any]:
    """Return a benchmark as plain data; what was not measured is null."""
    figures = bench.figures()
    return {
        "setup": {
            "samples": bench.samples,
            "resolution": bench.resolution,
            "raw_bytes_per_sample": bench.raw_bytes,
            "seconds": bench.plan.seconds,
            "rounds": bench.plan.rounds,
        },
        "figures": json_ready({name: round(value, 4) for name, value in figures.items()}),
        "goals": judged(GOALS, figures),
        "bytes_per_sample": {name: round(size) for name, size in bench.bytes_per_sample.items()},
        "decompression": {
            str(row.case.workers): {what: round(rate, 3) for what, rate in row.result.rates.items()}
            for row in bench.rows
            if row.case.reader == "decompression"
        },
        "cases": [
            {
                "reader": row.case.reader,
                "setting": row.setting,
                "access": row.case.access,
                "workers": row.case.workers,
                "cache": "cold" if row.case.cold else "warm",
                "samples_per_s": round(row.result.samples_per_s, 1),
                "mb_per_s": round(row.result.mb_per_s, 1),
                "p99_ms": round(row.result.p99_ms, 1),
                "first_batch_s": round(row.result.first_batch_s, 3),
                "cpu_ms": round(row.result.cpu_ms, 3),
                "memory_mb": round(row.result.memory_mb),
            }
            for row in bench.rows
            if row.case.reader != "decompression" and not row.case.resume
        ],
        "resume": [
            {
                "reader": row.case.reader,
                "setting": row.setting,
                "seconds": round(row.result.first_batch_s, 3),
                "exact": row.result.exact,
            }
            for row in bench.rows
            if row.case.resume
        ],
    }


def as_text(bench: ReadBench) -> list[str]:
    """Return a benchmark as lines: the figures beside their goals, then every case."""
    content = as_json(bench)
    lines = []
    for name, value in content["figures"].items():
        lines.append(
            f"{name:<26} {'–' if value is None else f'{value:.3f}':>12}  {verdict(content['goals'].get(name))}".rstrip()
        )
    lines += ["", "bytes a sample: " + ", ".join(f"{n} {size:,}" for n, size in content["bytes_per_sample"].items())]
    for workers, rates in content["decompression"].items():
        told = ", ".join(f"{what} {rate:.0f} samples/s" for what, rate in rates.items() if "_ms" not in what)
        lines.append(f"alone, {workers} threads: {told}")
    lines += [
        "",
        f"{'':<34} {'workers':>7} {'samples/s':>9} {'MB/s':>7} {'p99 ms':>7} {'first s':>8} {'cpu ms':>7} {'MB':>6}",
    ]
    for case in content["cases"]:
        name = f"{case['access']} {case['cache']} {case['reader']} {case['setting']}"
        lines.append(
            f"{name:<34} {case['workers']:>7} {case['samples_per_s']:>9.0f} {case['mb_per_s']:>7.0f} "
            f"{case['p99_ms']:>7.1f} {case['first_batch_s']:>8.2f} {case['cpu_ms']:>7.2f} {case['memory_mb']:>6}"
        )
    for resumed in content["resume"]:
        exact = "exact" if resumed["exact"] else "other samples"
        lines.append(f"{resumed['reader']} {resumed['setting']}: resumes in {resumed['seconds']:.2f} s, {exact}")
    return lines


def register(group: typer.Typer) -> None:
    """Add this command."""
    group.command("read")(read_command)
