"""The demo: the whole path on simulated heads, with a page of its results."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from datagen.audit.demo_page import PAGE, DemoSummary, Step, write_demo_page
from datagen.audit.demo_pictures import FOLDER as PICTURE_FOLDER
from datagen.audit.demo_pictures import draw_pictures
from datagen.common.documents import parse_json, read_json
from datagen.common.errors import CanonfaceError, ManifestError, StorageError
from datagen.common.files import write_owned_bytes
from datagen.common.ownership import listed, refuse_strangers, remove_ours, strangers
from datagen.flows.build import build
from datagen.flows.planning import BuildPlan, plan_build
from datagen.flows.stages import STAGES
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
        self.peak_gib = self._seen_gib = 0.0
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
        # Of a run that has nothing to do, the memory is not the demo's.
        self.peak_gib = max(self.peak_gib, self._seen_gib)
        content = {"seconds": self.seconds, "counts": self.counts, "peak_gib": self.peak_gib}
        write_owned_bytes(self._path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())

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
            self._seen_gib = max(self._seen_gib, total / GIB)


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
# Metrics of the report under the names they have here.
WARP_METRICS = {
    "warp_median_mm": "true_error_median_mm",
    "warp_p95_mm": "true_error_p95_mm",
    "residual_median_mm": "residual_median_mm",
    "confidence_gap": "confidence_gap",
}
# Those that follow the build's stages.
STEPS = ("fit", "evaluate", "predict")
PAGE_SECONDS = 3.0
# So long it takes to begin, even if no time is left.
SHORTEST_FIT_S = 10.0
# The held-out splits the model is measured on, where they hold anyone; a clip of the last is predicted.
HELD_OUT = ("val", "test")
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

    @property
    def page(self) -> Path:
        """The page of its results."""
        return self.root / PAGE

    @property
    def pictures(self) -> Path:
        """What is drawn while the demo runs."""
        return self.root / PICTURE_FOLDER

    def evaluation(self, split: str) -> Path:
        """Metrics and pictures of one split."""
        return self.root / "evaluation" / split

    def metrics_of(self, split: str) -> Path:
        """The metrics of one split alone, and the digest of the model they are of."""
        return self.evaluation(split) / "figures.json"


def run_demo(
    manifest: Manifest,
    out: Path,
    trainer_config: str,
    overrides: tuple[str, ...] = (),
    *,
    max_minutes: float | None = None,
) -> DemoSummary:
    """Run or continue the demo and write ``index.html`` and ``summary.json``.

    Every step trusts what it finds whole on disk, so a killed demo resumes and a finished one only reports. The page is
    there from the beginning, and grows.

    Parameters
    ----------
    manifest : Manifest
        Of simulated captures.
    trainer_config : str
        Name or path, as ``trainer fit --config`` takes it.
    overrides : tuple of str
        For ``trainer fit --set``.
    max_minutes : float, optional
        When this call has taken that long, fitting ends, and what there is of the model is measured.

    Raises
    ------
    CanonfaceError
        If a step fails.
    """
    layout, plan = DemoLayout(out), plan_build(manifest)
    if not plan.splits["val"]:
        raise ManifestError("nobody is held out", "one person or more to measure the model on", "Set splits.val=1")
    _check_places(layout)
    meter = Meter(layout.meter)
    ends = None if max_minutes is None else time.monotonic() + 60 * max_minutes
    with meter.watch_memory(), LivePage(layout, plan, meter) as page:
        _build(manifest, out, meter, page)
        page.begin("fit")
        _fit(layout, meter, trainer_config, overrides, ends)
        key = _model_key(layout)
        page.begin("evaluate")
        held_out = _held_out(layout)
        for split in held_out:
            _evaluate(layout, meter, split, key)
        page.begin("predict")
        _predict(layout, meter, held_out[-1], key)
        page.end()
    summary = gather(layout, meter, ("report", *STEPS))
    content = {"figures": summary.metrics, "verdicts": summary.verdicts, "stages_s": summary.stages_s}
    write_owned_bytes(layout.summary, (json.dumps(content, indent=1) + "\n").encode())
    write_demo_page(out, summary)
    return summary


def _check_places(layout: DemoLayout) -> None:
    """Refuse, before the work begins, what is in the way of the demo's own files and not ours."""
    found = strangers(layout.root, (layout.summary.name, layout.meter.name, layout.page.name), look=False)
    for folder in (layout.run, layout.prediction, layout.pictures, *(layout.evaluation(split) for split in HELD_OUT)):
        # What the trainer may replace in a folder of its own, it knows itself.
        found += strangers(folder, look=False) if listed(folder) is None else []
    refuse_strangers(found)


def _build(manifest: Manifest, out: Path, meter: Meter, page: LivePage) -> None:
    with stopwatch() as taken:
        result = build(manifest, out, observer=page.observe)
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


def _fit(layout: DemoLayout, meter: Meter, config: str, overrides: tuple[str, ...], ends: float | None) -> None:
    if ends is not None:
        left_minutes = max(ends - time.monotonic(), SHORTEST_FIT_S) / 60
        overrides = (*overrides, f"fit.max_minutes={left_minutes:.3f}")
    options = [option for override in overrides for option in ("--set", override)]
    command = ["fit", str(layout.root), "--out", str(layout.run), "--config", config, *options]
    state = _read_json(layout.run / "state.json")
    if state and state.get("dataset_uuid") != open_dataset(layout.root).uuid:
        # A run on another dataset cannot be continued; here, both belong to the demo alone.
        refuse_strangers(strangers(layout.run))
        remove_ours(layout.run)
    before = _model_key(layout)
    with stopwatch() as taken:
        _trainer(*command)
    if _model_key(layout) != before:
        # A call that was interrupted is known to the run alone.
        spent = float(_read_json(layout.run / "state.json").get("seconds", 0.0)) - meter.seconds.get("fit", 0.0)
        meter.add("fit", max(spent, taken[0]))


def _held_out(layout: DemoLayout) -> tuple[str, ...]:
    dataset = open_dataset(layout.root)
    return tuple(split for split in HELD_OUT if len(dataset[split]))


def _evaluate(layout: DemoLayout, meter: Meter, split: str, key: str) -> dict[str, Any]:
    folder, stored = layout.evaluation(split), layout.metrics_of(split)
    done = _read_json(stored)
    if done.get("key") == key and (folder / "contact_sheet.png").is_file():
        return dict(done["figures"])
    with stopwatch() as taken:
        answer = _trainer(
            "evaluate",
            str(layout.run),
            str(layout.root),
            "--split",
            split,
            "--report",
            str(folder),
            "--json",
            "--speed-seconds",
            "0",
        )
        metrics = dict(parse_json(answer)["figures"])
        write_owned_bytes(stored, (json.dumps({"key": key, "figures": metrics}, indent=1) + "\n").encode())
    meter.add("evaluate", taken[0])
    return metrics


def _predict(layout: DemoLayout, meter: Meter, split: str, key: str) -> None:
    marker = layout.prediction / "key.json"
    if _read_json(marker).get("key") == key and (layout.prediction / "strip.png").is_file():
        return
    index = open_dataset(layout.root)[split].index
    # From the front, which the cameras in the middle of the arc see.
    middle = np.unique(index.camera)[len(np.unique(index.camera)) // 2]
    options = ("--split", split, "--index", str(int(np.argmax(index.camera == middle))))
    with stopwatch() as taken:
        frames = ("--frames", str(PREDICTED_FRAMES))
        _trainer("predict", str(layout.run), str(layout.root), "--out", str(layout.prediction), *options, *frames)
        write_owned_bytes(marker, (json.dumps({"key": key}) + "\n").encode())
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


def gather(layout: DemoLayout, meter: Meter, done: Collection[str]) -> DemoSummary:
    """Return what the steps that are ``done`` have left on disk, as figures."""
    metrics: dict[str, float | None] = {"seconds": sum(meter.seconds.values()), "peak_gib": meter.peak_gib}
    if "first_picture_s" in meter.counts:
        metrics["first_picture_s"] = meter.counts["first_picture_s"]
    verdicts: dict[str, int] = {}
    measured: dict[str, dict[str, Any]] = {}
    if "report" in done:
        audit = _read_json(BuildLayout(layout.root).report_summary)
        verdicts = {status: int(audit.get(f"frames_{status}", 0)) for status in ("pass", "review", "fail")}
        metrics |= _dataset_metrics(layout)
        metrics["frames"] = float(sum(verdicts.values()))
        rendered, render_s = meter.counts.get("views_rendered", 0.0), meter.counts.get("render_s", 0.0)
        metrics["views_per_s"] = rendered / render_s if render_s > 0 else None
        for name, key in WARP_METRICS.items():
            metrics[name] = audit.get(key)
    if "fit" in done:
        state = _read_json(layout.run / "state.json")
        metrics |= {"fit_steps": state.get("step"), "fit_steps_planned": state.get("steps")}
    if "evaluate" in done:
        measured = {split: _read_json(layout.metrics_of(split)).get("figures", {}) for split in _held_out(layout)}
        for what in ("canonical", "depth"):
            ours, guess = (measured["val"][f"{prefix}{what}_mean_mm"] for prefix in ("", "mean_map_"))
            metrics |= {f"val_{what}_mm": ours, f"val_{what}_baseline_mm": guess}
            metrics[f"val_{what}_ratio_mean_map"] = ours / guess if ours is not None and guess else None
    return DemoSummary(metrics, verdicts, dict(meter.seconds), measured)


def _dataset_metrics(layout: DemoLayout) -> dict[str, float | None]:
    dataset = open_dataset(layout.root)
    size = sum(path.stat().st_size for path in BuildLayout(layout.root).dataset.rglob("*") if path.is_file())
    samples: dict[str, float | None] = {f"samples_{split}": float(len(dataset[split])) for split in dataset}
    return {
        "subjects": float(sum(len(subjects) for subjects in dataset.splits.values())),
        "views": float(sum(len(dataset[split]) for split in dataset)),
        "dataset_mib": size / MIB,
        **samples,
    }


class LivePage:
    """The demo's page while it runs, written every few seconds from what is on disk by then.

    It waits until the build has made the folder its own. Used as a context: leaving it by an error says on the page
    that the demo stopped.
    """

    def __init__(self, layout: DemoLayout, plan: BuildPlan, meter: Meter) -> None:
        self._layout, self._manifest, self._meter = layout, plan.manifest, meter
        self._started = time.monotonic()
        self._steps = [*(stage.name for stage in STAGES if stage.applies(plan)), *STEPS]
        self._done: list[str] = []
        self._now, self._said = self._steps[0], ""
        self._begun = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> LivePage:
        self._thread.start()
        return self

    def observe(self, stage: str, done: int, total: int) -> None:
        """Take note of how far a stage of the build is."""
        self._begun = True
        if stage != self._now:
            self.begin(stage)
        self._said = f"{done} of {total}" if total > 1 else ""

    def begin(self, step: str) -> None:
        """Take note that a step begins, and that those before it are done."""
        self._done = self._steps[: self._steps.index(step)]
        self._now, self._said = step, ""

    def end(self) -> None:
        """Take note that every step is done."""
        self._done = self._steps

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if error is not None and self._begun:
            why = str(error) if isinstance(error, CanonfaceError) else "it was interrupted"
            # What went wrong must not be hidden by a page that cannot be written because of it.
            with suppress(CanonfaceError, OSError):
                self._write(f"Stopped at {self._now}: {why}. The same command continues where it stopped.")

    def _keep(self) -> None:
        while not self._stop.wait(PAGE_SECONDS):
            if not self._begun:
                continue
            # It is a by-product: a step that cannot read or write the same will say why.
            with suppress(CanonfaceError, OSError):
                drawn = draw_pictures(BuildLayout(self._layout.root), self._manifest)
                self._write()
                if drawn and "first_picture_s" not in self._meter.counts:
                    self._meter.counts["first_picture_s"] = time.monotonic() - self._started

    def _write(self, stopped: str = "") -> None:
        said = self._said or (self._steps_fitted() if self._now == "fit" else "")
        steps = [Step(name, "done") for name in self._done]
        for name in self._steps[len(self._done) :]:
            steps.append(Step(name, "running", said) if name == self._now else Step(name, "waiting"))
        summary = gather(self._layout, self._meter, self._done)
        so_far = {**summary.metrics, "seconds": time.monotonic() - self._started}
        write_demo_page(self._layout.root, replace(summary, metrics=so_far), steps, stopped=stopped)

    def _steps_fitted(self) -> str:
        """How far the fit is, by its own log."""
        planned = _read_json(self._layout.run / "config.json").get("fit", {}).get("steps")
        try:
            last = (self._layout.run / "log.jsonl").read_text().splitlines()[-1]
            return f"{json.loads(last)['step']} of {planned}"
        except (OSError, ValueError, LookupError, TypeError):
            return ""


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
