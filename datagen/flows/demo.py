"""The demo: the whole path on simulated heads, with a page of its results."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datagen.audit.demo_page import DemoSummary, write_demo_page
from datagen.common.documents import parse_json, read_json
from datagen.common.errors import CanonfaceError, StorageError
from datagen.common.files import atomic_write_bytes
from datagen.flows.build import BuildResult, build
from datagen.layout import BuildLayout
from datagen.manifest import Manifest
from datagen.shards import open_dataset

SAMPLE_SECONDS = 0.25
GIB = 2**30


class Meter:
    """Adds up the seconds of each stage and watches the memory of this process and its children.

    Parameters
    ----------
    path : Path
        JSON file that keeps the sums; read if it exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seconds: dict[str, float] = {}
        self.counts: dict[str, float] = {}
        self.peak_gib = 0.0
        try:
            content = read_json(path)
            self.seconds = {str(k): float(v) for k, v in content["seconds"].items()}
            self.counts = {str(k): float(v) for k, v in content["counts"].items()}
            self.peak_gib = float(content["peak_gib"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # a first run, or a file nothing depends on but these sums

    def add(self, stage: str, seconds: float, **counts: float) -> None:
        """Add what a stage took and how much it made, and save the sums."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        for name, value in counts.items():
            self.counts[name] = self.counts.get(name, 0.0) + value
        content = {"seconds": self.seconds, "counts": self.counts, "peak_gib": self.peak_gib}
        atomic_write_bytes(self._path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())

    @contextmanager
    def watch_memory(self) -> Iterator[None]:
        """Record the peak memory while the block runs.

        Sums the resident memory of all processes; pages they share count once for each, so it never says too little.
        """
        stop = threading.Event()
        watcher = threading.Thread(target=self._sample, args=(stop,), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()

    def _sample(self, stop: threading.Event) -> None:
        import psutil

        me = psutil.Process(os.getpid())
        while not stop.wait(SAMPLE_SECONDS):
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.Error:
                    continue  # it ended between being listed and being asked
            self.peak_gib = max(self.peak_gib, total / GIB)


@contextmanager
def stopwatch() -> Iterator[list[float]]:
    """Yield a list that holds the seconds the block took once it has ended."""
    started = time.monotonic()
    taken: list[float] = []
    try:
        yield taken
    finally:
        taken.append(time.monotonic() - started)


MIB = 2**20
# The held-out splits the model is measured on, and the one a clip is predicted from.
EVALUATED = ("val", "test")
PREDICTED = "test"
PREDICTED_FRAMES = 4
# The trainer's command line, which saves and ends when the pipe to a killed demo breaks: left alone it would run on
# beside the one that the next demo starts.
TRAINER = """
import os, signal, threading
def end_with_parent():
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=end_with_parent, daemon=True).start()
from trainer.cli import main
main()
"""


class DemoError(CanonfaceError):
    """A step of the demo ended with an error of its own."""

    exit_code = 1


@dataclass(frozen=True)
class DemoLayout:
    """Files the demo adds to a build folder."""

    root: Path

    @property
    def run(self) -> Path:
        """The trainer's run."""
        return self.root / "train"

    @property
    def prediction(self) -> Path:
        """Maps predicted for one held-out clip."""
        return self.root / "prediction"

    @property
    def summary(self) -> Path:
        """All metrics, for other programs."""
        return self.root / "summary.json"

    @property
    def meter(self) -> Path:
        """Seconds and memory so far."""
        return self.root / "meter.json"

    def evaluation(self, split: str) -> Path:
        """Metrics and pictures of one split."""
        return self.root / "evaluation" / split


def run_demo(manifest: Manifest, out: Path, trainer_config: str, overrides: tuple[str, ...] = ()) -> DemoSummary:
    """Run or continue the demo and write ``index.html`` and ``summary.json``.

    Every step trusts what it finds whole on disk, so a killed demo resumes and a finished one only reports.

    Parameters
    ----------
    manifest : Manifest
        Of simulated captures.
    trainer_config : str
        Name or path, as ``trainer fit --config`` takes it.
    overrides : tuple of str
        For ``trainer fit --set``.

    Raises
    ------
    CanonfaceError
        If a step fails.
    """
    layout = DemoLayout(out)
    meter = Meter(layout.meter)
    with meter.watch_memory():
        result = _build(manifest, out, meter)
        _fit(layout, meter, trainer_config, overrides)
        key = _model_key(layout)
        measured = {split: _evaluate(layout, meter, split, key) for split in EVALUATED}
        _predict(layout, meter, key)
    summary = DemoSummary(_metrics(result, meter, measured), dict(result.verdicts), dict(meter.seconds), measured)
    content = {"figures": summary.metrics, "verdicts": summary.verdicts, "stages_s": summary.stages_s}
    atomic_write_bytes(layout.summary, (json.dumps(content, indent=1) + "\n").encode())
    write_demo_page(out, summary)
    return summary


def _build(manifest: Manifest, out: Path, meter: Meter) -> BuildResult:
    with stopwatch() as taken:
        result = build(manifest, out)
    if not result.verification.ok:
        raise DemoError(
            f"the dataset in {out} does not verify",
            "a dataset without problems",
            f"`datagen verify {result.dataset}` lists them",
        )
    if result.warped or result.rendered:
        # What Prefect's start and the planning took belongs to the build as well.
        stages = dict(result.seconds)
        render_s = stages.get("render", 0.0) if result.rendered else 0.0
        meter.add("build", taken[0], views_rendered=result.rendered, render_s=render_s)
    return result


def _fit(layout: DemoLayout, meter: Meter, config: str, overrides: tuple[str, ...]) -> None:
    options = [option for override in overrides for option in ("--set", override)]
    command = ["fit", str(layout.root), "--out", str(layout.run), "--config", config, *options]
    state = _read_json(layout.run / "state.json")
    if state and state.get("dataset_uuid") != open_dataset(layout.root).uuid:
        # A run on another dataset cannot be continued; here, both belong to the demo alone.
        shutil.rmtree(layout.run)
    before = _model_key(layout)
    with stopwatch() as taken:
        _trainer(*command)
    if _model_key(layout) != before:
        # A call that was interrupted is known to the run alone.
        spent = float(_read_json(layout.run / "state.json").get("seconds", 0.0)) - meter.seconds.get("fit", 0.0)
        meter.add("fit", max(spent, taken[0]))


def _evaluate(layout: DemoLayout, meter: Meter, split: str, key: str) -> dict[str, Any]:
    folder = layout.evaluation(split)
    stored = folder / "figures.json"
    done = _read_json(stored)
    if done.get("key") == key and (folder / "contact_sheet.png").is_file():
        return dict(done["figures"])
    with stopwatch() as taken:
        answer = _trainer(
            "evaluate", str(layout.run), str(layout.root), "--split", split, "--report", str(folder), "--json"
        )
        metrics = dict(parse_json(answer)["figures"])
        atomic_write_bytes(stored, (json.dumps({"key": key, "figures": metrics}, indent=1) + "\n").encode())
    meter.add("evaluate", taken[0])
    return metrics


def _predict(layout: DemoLayout, meter: Meter, key: str) -> None:
    marker = layout.prediction / "key.json"
    if _read_json(marker).get("key") == key and (layout.prediction / "strip.png").is_file():
        return
    with stopwatch() as taken:
        frames = ("--frames", str(PREDICTED_FRAMES))
        _trainer(
            "predict", str(layout.run), str(layout.root), "--out", str(layout.prediction), "--split", PREDICTED, *frames
        )
        atomic_write_bytes(marker, (json.dumps({"key": key}) + "\n").encode())
    meter.add("predict", taken[0])


def _trainer(*arguments: str) -> str:
    """Run the trainer in a process of its own: the two packages share a dataset, not code, and memory is returned."""
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINER, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE if "--json" in arguments else None,
        text=True,
    )
    try:
        answer = process.stdout.read() if process.stdout else ""
        process.wait()
    finally:
        process.terminate()
        process.wait()
    if process.returncode:
        raise DemoError(
            f"`trainer {arguments[0]}` ended with exit code {process.returncode} (see above)",
            "exit code 0",
            "Correct what it names and run the demo again; finished steps are kept",
        )
    return answer


def _model_key(layout: DemoLayout) -> str:
    """Digest of the dataset and the fitted weights: what evaluation and prediction depend on."""
    checkpoint = layout.run / "best.pt"
    if not checkpoint.is_file():
        return ""
    try:
        with checkpoint.open("rb") as stream:
            weights = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise StorageError(f"{checkpoint} cannot be read ({error})", "a readable file", "Check the disk") from None
    return hashlib.sha256(f"{open_dataset(layout.root).uuid} {weights}".encode()).hexdigest()


def _metrics(result: BuildResult, meter: Meter, measured: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    audit = _read_json(BuildLayout(result.root).report_summary)
    size = sum(path.stat().st_size for path in result.dataset.rglob("*") if path.is_file())
    rendered, render_s = meter.counts.get("views_rendered", 0.0), meter.counts.get("render_s", 0.0)
    val = measured["val"]
    splits = open_dataset(result.dataset).splits
    return {
        "subjects": sum(len(subjects) for subjects in splits.values()),
        "frames": sum(result.verdicts.values()),
        "views": sum(result.samples.values()),
        "samples_train": result.samples.get("train", 0),
        "samples_val": result.samples.get("val", 0),
        "samples_test": result.samples.get("test", 0),
        "warp_median_mm": audit.get("true_error_median_mm"),
        "warp_p95_mm": audit.get("true_error_p95_mm"),
        "residual_median_mm": audit.get("residual_median_mm"),
        "views_per_s": rendered / render_s if render_s > 0 else None,
        "dataset_mib": size / MIB,
        "val_canonical_mm": val["canonical_mean_mm"],
        "val_canonical_baseline_mm": val["mean_map_canonical_mean_mm"],
        "val_depth_mm": val["depth_mean_mm"],
        "val_depth_baseline_mm": val["mean_map_depth_mean_mm"],
        "seconds": sum(meter.seconds.values()),
        "peak_gib": meter.peak_gib,
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
