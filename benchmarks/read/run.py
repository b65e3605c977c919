"""The benchmark of reading: the same samples in every format, every case in a process of its own."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.material import CLIP, MaterialPlan, build_material
from benchmarks.read.case import MAPS, ReadCase, ReadResult
from benchmarks.read.peers import (
    SETTINGS,
    check_installed,
    clip_item,
    encode,
    write_litdata,
    write_webdataset,
)
from benchmarks.read.readers import stored_bytes
from datagen.common.errors import CanonfaceError, InputError
from datagen.shards import Dataset, Sample, Split, open_dataset
from datagen.shards.schema import STANDARD, encode_confidence, encode_depth

# What `python -m` finds this package in: a child need not run where this process was started.
CHECKOUT = Path(__file__).resolve().parents[2]
OTHER_READERS = ("zarr", "zarrs", "tensorstore")
# They know the codecs of Zarr's specification alone.
_NEED_STANDARD = ("zarrs", "tensorstore")
# What the figures describe.
JUDGED = ("clips", "warm", 2)
FRAMES_PER_BATCH = 8
_CASE_TIMEOUT_S = 300
_SOURCE_SAMPLES = 8
_MAX_SAMPLES = 32  # that peers are given, and whose bytes are compared: PNG takes a second each
Progress = Callable[[str], None]


class BenchError(CanonfaceError):
    """A measurement ended with an error."""

    exit_code = 1


@dataclass(frozen=True)
class ReadPlan:
    """What is measured.

    Attributes
    ----------
    dataset : Path, optional
        A finished dataset; otherwise one of simulated heads is made.
    material : MaterialPlan
        Of the dataset that is made.
    against : tuple of str
        Of :data:`benchmarks.read.case.PEERS`.
    workers, accesses, caches
        The cases; every reader is measured in all of them.
    seconds : float
        Of each case.
    copies : int
        How many copies of the samples peers hold, so that an epoch of theirs is not over at once.
    rounds : int
        How often all cases are measured; the best counts, because other work on a machine can only slow it.
    others : bool
        Also read our files with other implementations of Zarr that are installed.
    """

    dataset: Path | None = None
    material: MaterialPlan = MaterialPlan()  # noqa: RUF009 - frozen
    against: tuple[str, ...] = ()
    workers: tuple[int, ...] = (JUDGED[2],)
    accesses: tuple[str, ...] = (JUDGED[0],)
    caches: tuple[str, ...] = (JUDGED[1],)
    seconds: float = 2.0
    copies: int = 8
    rounds: int = 1
    others: bool = True


@dataclass(frozen=True)
class Measured:
    """One case with its result; ``setting`` is how a peer stores the maps."""

    case: ReadCase
    setting: str
    result: ReadResult


@dataclass
class ReadBench:
    """All that was measured.

    Attributes
    ----------
    plan : ReadPlan
    samples, resolution : int
    bytes_per_sample : dict
        ``canonface``, and each peer with its setting, such as ``litdata small``.
    raw_bytes : int
        Of the four maps of a sample, as arrays.
    source_bytes, own_steps_bytes : float
        Of a sample in the small setting before our quantisation, and with images rounded to the steps that suit that
        setting, just as far as ours may be off; NaN if the samples before it are not known.
    source_stored_bytes : float
        What the dataset takes for the same samples.
    table : dict
        ``table_ratio`` and ``table_bytes_ratio``; empty if the dataset has no frame table.
    rows : list of Measured
    """

    plan: ReadPlan
    samples: int
    resolution: int
    bytes_per_sample: dict[str, float]
    raw_bytes: int
    source_bytes: float = math.nan
    own_steps_bytes: float = math.nan
    source_stored_bytes: float = math.nan
    table: dict[str, float] = field(default_factory=dict)
    rows: list[Measured] = field(default_factory=list)

    def result(self, reader: str, setting: str = "", where: tuple[str, str, int] = JUDGED) -> ReadResult | None:
        """Return what a reader reached in one case, None if it was not measured."""
        for row in self.rows:
            case = row.case
            cell = (case.access, "cold" if case.cold else "warm", case.workers)
            if (case.reader, row.setting, case.resume) == (reader, setting, False) and cell == where:
                return row.result
        return None

    def decompression(self, what: str, workers: int) -> float:
        """Return a rate or a time of decompression alone."""
        found = [
            r.result.rates[what] for r in self.rows if r.case.reader == "decompression" and r.case.workers == workers
        ]
        return found[0] if found else math.nan

    def figures(self) -> dict[str, float]:
        """Return the figures of docs/streaming.md, NaN where something was not measured."""
        found, own_bytes = self.result("canonface"), self.bytes_per_sample["canonface"]
        ours, cpu_ms = (math.nan, math.nan) if found is None else (found.samples_per_s, found.cpu_ms)
        peers = [self.result(peer, setting) for peer in self.plan.against for setting in SETTINGS]
        measured = [peer for peer in peers if peer is not None]
        sizes = [size for name, size in self.bytes_per_sample.items() if name != "canonface"]
        resumed = [r.result for r in self.rows if r.case.resume and r.case.reader == "canonface"]
        return {
            "samples_per_s": ours,
            "ratio_fastest_peer": ours / max((p.samples_per_s for p in measured), default=math.nan),
            "ratio_decompression": ours / self.decompression("decompression", JUDGED[2]),
            "ratio_blosc": ours / self.decompression("blosc", JUDGED[2]),
            "cpu_ms_per_sample": cpu_ms,
            "cpu_ratio_fastest_peer": min((p.cpu_ms for p in measured), default=math.nan) / cpu_ms,
            "cpu_ratio_decompression": self.decompression("decompression_cpu_ms", JUDGED[2]) / cpu_ms,
            "bytes_per_sample": own_bytes,
            "bytes_ratio_smallest_peer": own_bytes / min(sizes) if sizes else math.nan,
            "bytes_ratio_own_steps": self.source_stored_bytes / self.own_steps_bytes,
            "bytes_ratio_source": self.source_stored_bytes / self.source_bytes,
            "table_ratio": self.table.get("table_ratio", math.nan),
            "table_bytes_ratio": self.table.get("table_bytes_ratio", math.nan),
            "resume_s": resumed[0].first_batch_s if resumed else math.nan,
            "resume_exact": float(bool(resumed[0].exact)) if resumed else math.nan,
        }


def run_read_bench(plan: ReadPlan, work: Path, progress: Progress = lambda _line: None) -> ReadBench:
    """Make the material, store it in every format, and measure all cases one after another.

    Parameters
    ----------
    plan : ReadPlan
    work : Path
        A folder for all files; about a gigabyte with the default material.
    progress : callable
        Called with a line at each stage.

    Raises
    ------
    DependencyError
        If a peer is not installed.
    InputError
        If the dataset is too small for the cases.
    BenchError
        If a case fails.
    """
    for peer in plan.against:
        check_installed(peer)
    source: dict[int, Sample] = {}
    dataset = _material(plan, work, source, progress)
    split = dataset["train"]
    clips = _clips(split)
    bench = ReadBench(
        plan,
        len(split),
        dataset.resolution,
        {"canonface": stored_bytes(split, [i for clip in clips for i in clip])},
        12 * dataset.resolution**2,
    )
    if source:
        progress(f"encoding {len(source)} samples before they were quantised")
        bench.source_stored_bytes = stored_bytes(split, list(source))
        maps = [_source_maps(sample, dataset.depth_scale) for sample in source.values()]
        bench.source_bytes = _small_bytes(maps)
        stored = split.read(MAPS, list(source), decode=False)
        free = [{n: stored[n][k] for n in MAPS} | {"image": m["image"]} for k, m in enumerate(maps)]
        bench.own_steps_bytes = _small_bytes([_with_own_steps(m, dataset.plan.image_error) for m in free])
    folders = _write_peers(bench, split, clips, work, progress)
    folders["canonface", ""] = {"frames": dataset.path, "clips": dataset.path}
    others = [name for name in OTHER_READERS if dataset.plan.codecs == STANDARD or name not in _NEED_STANDARD]
    cases = _cases(plan, str(dataset.path), folders, others if plan.others else [])
    best: dict[int, Measured] = {}
    for turn in range(plan.rounds):
        if plan.rounds > 1:
            progress(f"round {turn + 1} of {plan.rounds}")
        for number, (case, setting) in enumerate(cases):
            row = _measure(case, setting, work, progress)
            best[number] = row if number not in best else better(best[number], row)
    bench.rows = [best[number] for number in range(len(cases))]
    if dataset.plan.faces:
        bench.table = _measure(
            ReadCase("table", str(dataset.path), "shuffled", 1, plan.seconds), "", work, progress
        ).result.rates
    return bench


def _cases(
    plan: ReadPlan, dataset: str, folders: dict[tuple[str, str], dict[str, Path]], others: Sequence[str]
) -> list[tuple[ReadCase, str]]:
    """List what is measured, so that what is compared is measured within seconds of each other."""
    cases = [(ReadCase("decompression", dataset, "shuffled", workers, plan.seconds), "") for workers in plan.workers]
    for access in plan.accesses:
        for cache in plan.caches:
            for workers in plan.workers:
                for (reader, setting), places in folders.items():
                    folder = str(places["clips" if access == "clips" else "frames"])
                    case = ReadCase(reader, folder, access, workers, plan.seconds, cache == "cold", clip=CLIP)
                    cases.append((case, setting))
    for (reader, setting), places in folders.items():
        if setting != "small":
            cases.append((ReadCase(reader, str(places["clips"]), "clips", JUDGED[2], resume=True, clip=CLIP), setting))
    for reader in others:
        if find_spec(reader) is not None:
            cases.append((ReadCase(reader, dataset, "shuffled", JUDGED[2], plan.seconds), ""))
    return cases


def better(one: Measured, other: Measured) -> Measured:
    """Return the better of two measurements of one case: other work on the machine only ever makes them worse."""
    if one.case.resume:
        return min(one, other, key=lambda m: m.result.first_batch_s)
    if one.case.reader == "decompression":
        rates = {
            what: (min if what.endswith("_ms") else max)(rate, other.result.rates[what])
            for what, rate in one.result.rates.items()
        }
        return replace(one, result=replace(one.result, rates=rates))
    faster = max(one, other, key=lambda m: m.result.samples_per_s)
    return replace(faster, result=replace(faster.result, cpu_ms=min(one.result.cpu_ms, other.result.cpu_ms)))


def _material(plan: ReadPlan, work: Path, source: dict[int, Sample], progress: Progress) -> Dataset:
    if plan.dataset is not None:
        return open_dataset(plan.dataset)
    from datagen.heads.registry import load_head

    progress(f"rendering {plan.material.samples} samples of {plan.material.resolution} pixels")
    every = max(plan.material.samples // _SOURCE_SAMPLES, 1)

    def look(number: int, sample: Sample) -> None:
        if number % every == 0:
            source[number] = sample

    return build_material(work / "dataset.zarr", plan.material, load_head("anny"), look)


def _clips(split: Split) -> list[list[int]]:
    clips = [clip.tolist() for clip in split.clips(CLIP, CLIP)]
    if len(clips) < FRAMES_PER_BATCH // CLIP:
        raise InputError(
            f"the training split of {split.dataset.url} holds {len(clips)} clips of {CLIP} frames",
            f"at least {FRAMES_PER_BATCH // CLIP}",
            "Give a larger --dataset",
        )
    spread = np.linspace(0, len(clips) - 1, min(len(clips), _MAX_SAMPLES // CLIP)).round().astype(int)
    return [clips[k] for k in np.unique(spread)]


def _source_maps(sample: Sample, depth_scale: float) -> dict[str, Any]:
    """Return the maps of a sample before ours are rounded further: exact image, 65,535 levels of canonical."""
    return {
        "image": sample.image,
        "depth": encode_depth(sample.depth, depth_scale),
        "canonical": np.rint((np.clip(sample.canonical.astype(np.float64), -1, 1) + 1) * 32767).astype(np.uint16),
        "confidence": encode_confidence(sample.confidence),
    }


def _with_own_steps(maps: dict[str, Any], error: int) -> dict[str, Any]:
    """Return maps whose image is rounded to the same steps everywhere, which PNG finds easiest."""
    step = 2 * error + 1
    image = np.minimum(maps["image"].astype(np.int16) // step * step + error, 255).astype(np.uint8)
    return {**maps, "image": image}


def _small_bytes(samples: Sequence[dict[str, Any]]) -> float:
    return float(np.mean([sum(map(len, encode(maps, "small").values())) for maps in samples]))


def _write_peers(
    bench: ReadBench, split: Split, clips: Sequence[Sequence[int]], work: Path, progress: Progress
) -> dict[tuple[str, str], dict[str, Path]]:
    folders: dict[tuple[str, str], dict[str, Path]] = {}
    if not bench.plan.against:
        return folders
    writers = {"webdataset": write_webdataset, "litdata": write_litdata}
    for setting in SETTINGS:
        progress(f"encoding for the peers, {setting}")
        frames = []
        for clip in clips:
            maps = split.read(MAPS, clip, decode=False)
            frames.append([encode({name: maps[name][k] for name in MAPS}, setting) for k in range(CLIP)])
        items = {"frames": [f for clip in frames for f in clip], "clips": [clip_item(clip) for clip in frames]}
        for peer in bench.plan.against:
            folders[peer, setting] = {}
            for kind, listed in items.items():
                folder = work / f"{peer}-{setting}-{kind}"
                writers[peer](folder, listed * bench.plan.copies, bench.resolution)
                folders[peer, setting][kind] = folder
            written = [p.stat().st_size for p in folders[peer, setting]["frames"].rglob("*") if p.is_file()]
            bench.bytes_per_sample[f"{peer} {setting}"] = sum(written) / (len(items["frames"]) * bench.plan.copies)
    return folders


def _measure(case: ReadCase, setting: str, work: Path, progress: Progress) -> Measured:
    scratch = work / "scratch"
    scratch.mkdir(exist_ok=True)
    # LitData empties folders of the temporary directory and caches below the home: both are ours alone here.
    environment = {**os.environ, "TMPDIR": str(scratch), "LITDATA_CACHE_DIR": str(scratch / "litdata")}
    environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "benchmarks.read.measure", json.dumps(asdict(case))]
    name = f"{case.reader} {setting} {case.access} {'cold' if case.cold else 'warm'} {case.workers} workers"
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_CASE_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"{name} took more than {_CASE_TIMEOUT_S} s", "", "Look at the machine's load") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise BenchError(f"measuring {name} failed: {lines[-1]}", "", "Run it again with fewer cases")
    result = ReadResult(**json.loads(done.stdout.strip().splitlines()[-1]))
    rate = f"resumed in {result.first_batch_s:.2f} s" if case.resume else f"{result.samples_per_s:.0f} samples/s"
    if case.reader == "table":
        rate = f"a batch with its frames takes {result.rates['table_ratio']:.3f} times as long"
    if case.reader == "decompression":
        rate = ", ".join(f"{what} {value:.0f} samples/s" for what, value in result.rates.items() if "_ms" not in what)
    progress(f"{name}: {rate}")
    return Measured(case, setting, result)
