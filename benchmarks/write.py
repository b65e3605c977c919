"""``write``: how fast whole shards are written, beside compressing the same values alone."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from numcodecs import blosc

from benchmarks.goal import Goal, judged, verdict
from datagen.commands.options import JsonOption
from datagen.common.blas import available_cpus
from datagen.common.console import print_json, table
from datagen.common.errors import InputError
from datagen.common.files import json_ready
from datagen.heads.base import HeadModel
from datagen.shards import DatasetPlan, Sample, write_unit
from datagen.shards.codec import ChunkCodec
from datagen.shards.encode import Row, encode_samples
from datagen.shards.metadata import is_map
from datagen.shards.pack import ShardPacker
from datagen.shards.schema import ARRAYS

GOALS = (Goal("ratio_compression", 0.85, at_least=True), Goal("encode_ms_sample", 15.0))


@dataclass(frozen=True)
class WritePlan:
    """What is measured.

    Attributes
    ----------
    resolution, samples : int
        Pixels a side, and samples of the one shard that is written.
    repeats : int
        Rounds; all measures take turns within each, and the median counts.
    folder : Path or None
        Where the shard goes; the system's temporary folder by default.
    image_error : int
        As ``shards.image_error``.
    seed : int
    """

    resolution: int = 504
    samples: int = 32
    repeats: int = 5
    folder: Path | None = None
    image_error: int = 1
    seed: int = 3


@dataclass(frozen=True)
class WriteResult:
    """What came out.

    Attributes
    ----------
    figures : dict of str to float
        ``samples_per_s``, ``mb_per_s`` (of decoded values), ``bytes_per_sample``, ``compression_samples_per_s``,
        ``ratio_compression``, ``ratio_compression_cpu`` and ``encode_ms_sample``: processor time from a sample to its
        bytes, checks, quantising and the check of the compression included, files not.
    parts_ms : dict of str to float
        Milliseconds a sample: ``encode`` (checks and quantising), ``pack`` (prediction, compression and its check),
        ``compress`` (prediction and compression alone), ``bytes`` (``encode`` and ``pack``),
        ``write`` (the whole shard, files and fsyncs included).
    cpu_ms : dict of str to float
        The same in processor time of all threads, the least of all rounds: what a busy machine leaves unchanged.
    array_bytes : dict of array name to float
        Compressed bytes a sample.
    cpus : int
    plan : WritePlan
    """

    figures: dict[str, float]
    parts_ms: dict[str, float]
    cpu_ms: dict[str, float]
    array_bytes: dict[str, float]
    cpus: int
    plan: WritePlan

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        content = asdict(self)
        content["plan"]["folder"] = str(self.plan.folder) if self.plan.folder else None
        return content


def run_write_bench(plan: WritePlan, head: HeadModel, say: Callable[[str], None]) -> WriteResult:
    """Simulate samples once, then write them as a shard again and again, in turns with compression alone.

    Raises
    ------
    datagen.common.errors.StorageError
        If the disk refuses.
    """
    from benchmarks.material import MaterialPlan, MaterialSamples, material_plan

    frames = max(1, -(-plan.samples // 4))
    material = MaterialPlan(plan.resolution, 1, frames, 4, seed=plan.seed, samples_per_shard=frames * 4)
    dataset = material_plan(material, head, image_error=plan.image_error)
    say(f"simulating {material.samples} samples of {plan.resolution} px")
    samples = list(MaterialSamples(material, head, dataset, lambda _number, _sample: None).between(0, material.samples))
    rows = list(encode_samples(dataset, dataset.units[0], samples))
    stored = [_stored(row) for row in rows]
    measures: dict[str, Callable[[], Any]] = {
        "compress": lambda: _compress(dataset, stored),
        "encode": lambda: list(encode_samples(dataset, dataset.units[0], samples)),
        "pack": lambda: _pack(dataset, rows),
        "bytes": lambda: _pack(dataset, encode_samples(dataset, dataset.units[0], samples)),
        "write": lambda: _write(dataset, samples, plan.folder),
    }
    seconds: dict[str, list[float]] = {name: [] for name in measures}
    cpu: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(plan.repeats):
        for name, measure in measures.items():
            started, busy = time.perf_counter(), time.process_time()
            measure()
            seconds[name].append(time.perf_counter() - started)
            cpu[name].append(time.process_time() - busy)
        say(f"round {number + 1} of {plan.repeats}: {seconds['write'][-1]:.2f} s a shard")
    cpu_ms = {name: 1000 * min(values) / len(samples) for name, values in cpu.items()}
    parts = {name: 1000 * median(values) / len(samples) for name, values in seconds.items()}
    packed = {name: len(data) / len(samples) for name, data in _pack(dataset, rows).items()}
    decoded = sum(values.nbytes for values in stored[0].values())
    figures = {
        "samples_per_s": 1000 / parts["write"],
        "mb_per_s": decoded / 1000 / parts["write"],
        "bytes_per_sample": sum(packed.values()),
        "compression_samples_per_s": 1000 / parts["compress"],
        "ratio_compression": parts["compress"] / parts["write"],
        "ratio_compression_cpu": cpu_ms["compress"] / cpu_ms["write"],
        "encode_ms_sample": cpu_ms["bytes"],
    }
    cpus = available_cpus()
    return WriteResult(figures, parts, cpu_ms, packed, cpus, plan)


def _stored(row: Row) -> dict[str, np.ndarray[Any, Any]]:
    return {name: np.ascontiguousarray(row[name], spec.dtype) for name, spec in ARRAYS.items() if is_map(spec)}


def _compress(dataset: DatasetPlan, stored: Sequence[dict[str, np.ndarray[Any, Any]]]) -> int:
    blosc.use_threads = False
    codecs = {name: ChunkCodec.of(ARRAYS[name], dataset.codecs, dataset.image_error) for name in stored[0]}
    return sum(len(codecs[name].compress(values)) for arrays in stored for name, values in arrays.items())


def _pack(dataset: DatasetPlan, rows: Iterable[Row]) -> dict[str, bytes]:
    packer = ShardPacker(dataset, dataset.units[0])
    for row in rows:
        packer.add(row)
    return {name: packer.file(name) for name in ARRAYS}


def _write(dataset: DatasetPlan, samples: Sequence[Sample], folder: Path | None) -> None:
    root = Path(tempfile.mkdtemp(prefix="canonface-bench-", dir=folder))
    try:
        write_unit(root / "dataset.zarr", dataset, dataset.units[0], "bench", samples)
    finally:
        shutil.rmtree(root)


def write_command(
    resolution: Annotated[int, typer.Option(min=8, max=8192, help="Pixels a side.")] = 504,
    samples: Annotated[int, typer.Option(min=4, max=4096, help="Samples of the shard.")] = 32,
    repeats: Annotated[int, typer.Option(min=1, max=1000, help="Rounds; medians count.")] = 5,
    folder: Annotated[Path | None, typer.Option(help="Where to write; default: the temporary folder.")] = None,
    image_error: Annotated[int, typer.Option(min=0, max=2, help="As shards.image_error.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="A different seed gives different people.")] = 3,
    json_output: JsonOption = False,
) -> None:
    """Write simulated samples as a whole shard, in turns with compressing the same values alone.

    ``ratio_compression`` is the time of compression alone, in one thread, over that of writing: checks, quantising,
    compression and its check, files, fsyncs, reading back and the record, where one thread compresses a sample while
    another checks the next. ``ratio_compression_cpu`` compares processor time. Exit code 0 whether or not the goal is
    met.

    Example: python -m benchmarks write --json
    """
    from datagen.heads.registry import load_head

    if folder is not None and not folder.is_dir():
        raise InputError(f"{folder} is not a folder", "a folder that can be written", "")
    plan = WritePlan(resolution, samples, repeats, folder, image_error, seed)
    result = run_write_bench(plan, load_head("anny"), lambda line: print(line, file=sys.stderr))
    goals = judged(GOALS, result.figures)
    if json_output:
        print_json({**result.to_json(), "figures": json_ready(result.figures), "goals": goals})
        return
    table([(name, f"{value:<8.4g} {verdict(goals.get(name))}".rstrip()) for name, value in result.figures.items()])
    print()
    table(
        [
            (f"{name}, ms a sample", f"{value:.2f} (processor {result.cpu_ms[name]:.2f})")
            for name, value in result.parts_ms.items()
        ]
    )


def register(group: typer.Typer) -> None:
    """Add this command."""
    group.command("write")(write_command)
