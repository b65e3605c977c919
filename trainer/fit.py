"""Fitting a model: one loop over named steps. The same call resumes where a stopped run ended."""

from __future__ import annotations

import itertools
import math
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_

from datagen.common.errors import InputError
from datagen.common.files import write_owned, write_owned_bytes
from datagen.common.ownership import refuse_strangers, strangers
from datagen.common.progress import Progress, announce
from datagen.shards import Dataset, open_dataset
from trainer.config import TrainConfig
from trainer.data import ClipReader, TrainingLoader
from trainer.distributed import Team, full_state, parallelise, restore_state, team
from trainer.evaluation.canonical import MapMetrics
from trainer.inference import predict_split, split_clips
from trainer.losses import arrays_of
from trainer.model.joint import DepthUnit, JointModel
from trainer.optimiser import MovingAverage, learning_rate, make_optimiser, set_rates
from trainer.preview import preview_views, write_preview
from trainer.run.checkpoint import model_content, pick_device, read_last, save_checkpoint
from trainer.run.folder import (
    BEST,
    BOARD,
    CONFIG,
    CURVE,
    HELD_OUT,
    LAST,
    STATE,
    TRACE,
    RunState,
    check_same_run,
    locked_run_folder,
)
from trainer.run.log import Journal, own_log_or_path
from trainer.run.signals import stop_on_signals
from trainer.run.throughput import Throughput
from trainer.step import Gradients
from trainer.weights.load import load_weights

_LOG_EVERY = 10
_PREVIEW_SECONDS = 30.0
_UNIT_SAMPLES = 64  # training samples the depth unit is measured on


def fit(dataset_path: Path | str, run: Path, config: TrainConfig) -> RunState:
    """Fit a model, or resume a run that was stopped; weights do not depend on where it was stopped.

    Under torchrun all processes share the run; one of them writes its files.

    Parameters
    ----------
    run : Path
        Folder of the run: ``last.pt`` (to resume from), ``best.pt`` (lowest validation error), ``state.json``,
        ``config.json``, ``log.jsonl`` and TensorBoard events.

    Returns
    -------
    RunState
        Not ``finished`` if a signal or ``fit.max_minutes`` stopped it.

    Raises
    ------
    DatasetError, InputError, CheckpointError, StorageError
        Nothing half-written is left.
    """
    started, settings = time.monotonic(), config.fit
    if settings.threads:
        torch.set_num_threads(settings.threads)
    with ExitStack() as at_end:
        group = at_end.enter_context(team(pick_device(settings.device)))
        at_end.enter_context(locked_run_folder(run, is_main=group.is_main))
        if group.is_main:
            announce(f"fit {config.name}", "reading the dataset and making the network")
        job = _Job(dataset_path, run, config, group, started)
        at_end.callback(job.loader.close)
        progress = job.progress
        screen = at_end.enter_context(
            Progress(f"fit {config.name}", settings.steps, "steps", done=progress.step, quiet=not group.is_main)
        )
        stopping = at_end.enter_context(stop_on_signals())
        if group.is_main:
            job.journal = at_end.enter_context(Journal(run, progress.step, config))
            write_owned_bytes(run / CONFIG, (config.text() + "\n").encode())
        screen.say(job.describe())
        # A kill may have come between the checkpoint and the state file.
        state = job.write_state() if job.resumed else job.save()
        at_end.enter_context(job.throughput)
        pace = ""
        job.model.train()
        while progress.step < settings.steps:
            terms, norm = job.train_step()
            last_step = progress.step == settings.steps
            if progress.step % _LOG_EVERY == 0 or last_step:
                metrics = job.log_training(terms, norm)
                pace = f"loss {metrics['loss']:.3f}, {metrics['frames_per_second']:.1f} frames/s"
            screen.update(progress.step, pace)
            out_of_time = settings.max_minutes is not None and time.monotonic() - started > 60 * settings.max_minutes
            stopped, out_of_time = group.any(stopping.is_set()), group.any(out_of_time)
            # Validation is tied to steps, not to where a run was stopped: best.pt must not depend on that. Every
            # process validates the same samples, so that none waits for another's part of the model.
            if job.validation is not None and (progress.step % settings.val_every == 0 or last_step):
                screen.say(job.validate())
                job.preview(last=last_step)
            if progress.best_step is None and last_step:  # nothing was held out, or nothing could be measured on it
                progress.best_step = progress.step
                job.save_best()
            if progress.step % settings.save_every == 0 or last_step or out_of_time or stopped:
                state = job.save()
            if stopped or (out_of_time and not last_step):
                why = "a signal" if stopped else f"fit.max_minutes={settings.max_minutes}"
                screen.say(
                    f"stopped by {why} after step {progress.step} of {settings.steps}; the same command resumes it"
                )
                break
        if progress.best_step is None:  # stopped before the first validation: what there is can still be evaluated
            job.save_best()
        group.wait()
    return state


@dataclass
class RunProgress:
    """How far the loop has come: with the weights and the optimiser's moments, all that resuming needs.

    Attributes
    ----------
    step : int
        Steps done.
    stream : dict
        Where the stream of batches stands.
    best_score : float
        Its canonical and its aligned depth error together, millimetres.
    best_metrics : dict
        All that was measured then.
    seconds : float
        Time spent on these steps, in all calls.
    """

    stream: dict[str, Any]
    average: MovingAverage | None
    step: int = 0
    best_step: int | None = None
    best_score: float = math.inf
    best_metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, under the names it has always had there."""
        best = {"best_step": self.best_step, "best_score": self.best_score, "best_figures": self.best_metrics}
        average = self.average.state_dict() if self.average is not None else None
        return {"step": self.step, "stream": self.stream, "average": average, "seconds": self.seconds, **best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what :meth:`state_dict` gave."""
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.step, self.stream, self.best_step = state["step"], state["stream"], state["best_step"]
        self.best_score, self.best_metrics = state["best_score"], state["best_figures"]
        self.seconds = state.get("seconds", 0.0)  # runs of before had none


class _Job:
    """What a run works with, and the named steps of its loop."""

    def __init__(self, dataset_path: Path | str, run: Path, config: TrainConfig, group: Team, started: float) -> None:
        self.run, self.config, self.group = run, config, group
        self.dataset = open_dataset(dataset_path)
        state, saved = read_last(run)
        if state is not None:
            check_same_run(run, state, config, self.dataset.uuid)
        if group.is_main:
            _check_own(run)
        # Complains early about an empty split or clips that do not fit.
        self.loader = TrainingLoader(
            self.dataset,
            config.data,
            config.seed,
            group.device,
            arrays=arrays_of(config),
            rank=group.rank,
            ranks=group.ranks,
        )
        _check_shares(self.loader, config, group)
        held_out = len(self.dataset["val"])
        self.validation = ClipReader(self.dataset, "val", config.data.cache_mb) if held_out else None
        torch.manual_seed(config.seed)
        unit = _measure_depth_unit(self.dataset, config)
        self.model = JointModel(config, self.dataset.resolution, unit).to(group.device)
        fresh = state is None and config.weights.source is not None
        self._weights = load_weights(self.model, config.weights) if fresh else None
        # Sharding replaces the parameters: the optimiser must be given the new ones.
        wrapped = parallelise(self.model, group, config.fit.sharding, compiled=config.fit.compile)
        self.optimiser = make_optimiser(self.model, config.fit)
        average = MovingAverage(self.model, config.fit.ema) if config.fit.ema else None
        self.progress = RunProgress(self.loader.state, average)
        self.resumed = saved is not None
        if saved is not None:
            restore_state(self.model, self.optimiser, saved)
            self.model.depth_unit = DepthUnit(**saved["depth_unit"])
            self.progress.load_state_dict(saved)
            self.loader.resume(self.progress.stream)
        self._began = started - self.progress.seconds  # as if there had been one call
        self.throughput = Throughput(group.device, run if group.is_main else None, config.fit.profile_steps)
        self.journal: Journal | None = None  # of the main process
        self._drawn = -math.inf
        self._gradients = Gradients(wrapped, self.model.depth_unit, config)
        self._batches = iter(self.loader)

    def describe(self) -> str:
        """Say what is about to begin."""
        parameters = sum(p.numel() for p in self.model.parameters())
        line = (
            f"{parameters / 1e6:.1f} M parameters on {self.group.ranks} × {self.group.device}, "
            f"{len(self.dataset['train'])} samples of {self.dataset.resolution} px, clips of {self.loader.lengths} "
            f"frames, from step {self.progress.step} of {self.config.fit.steps}"
        )
        return line if self._weights is None else f"{line}\n{self._weights.text()}"

    def train_step(self) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Take one step; return the terms of its loss, and the norm its gradient had before it was clipped."""
        settings, progress = self.config.fit, self.progress
        set_rates(self.optimiser, learning_rate(progress.step, settings))
        self.optimiser.zero_grad(set_to_none=True)
        terms: dict[str, torch.Tensor] = {}
        for loaded in itertools.islice(self.throughput.waiting(self._batches), settings.accumulate):
            parts = self._gradients.add(loaded)
            self._check_finite(parts["loss"])
            for name, value in parts.items():
                terms[name] = terms.get(name, 0) + value.detach() / settings.accumulate
            self.throughput.frames += loaded.batch["index"].numel() * self.group.ranks
            progress.stream = loaded.state
        norm = clip_grad_norm_(self.model.parameters(), settings.clip_norm)
        self._check_finite(norm)
        self.optimiser.step()
        if progress.average is not None:
            progress.average.update(self.model)
        progress.step += 1
        self.throughput.step()
        return terms, norm

    def _check_finite(self, value: torch.Tensor) -> None:
        if not torch.isfinite(value):
            raise self._gradients.not_finite(self.progress.step, self.dataset["train"])

    def log_training(self, terms: dict[str, torch.Tensor], norm: torch.Tensor) -> dict[str, float]:
        """Record a step and the pace since the last record; all processes take part."""
        metrics = self.group.mean(terms) | {"grad_norm": float(norm)} | self.throughput.metrics()
        self._record("train", metrics | {"learning_rate": learning_rate(self.progress.step - 1, self.config.fit)})
        return metrics

    def validate(self) -> str:
        """Measure the held-out samples, keep the model if it is the best so far, and say what was found."""
        assert self.validation is not None
        progress, measured = self.progress, MapMetrics(self.dataset.half_extent_m)
        clips = split_clips(self.validation.split, max(self.loader.lengths), self.config.fit.val_samples)
        self.model.eval()
        with self._averaged():
            for _, truth, maps in predict_split(self.model, self.validation, clips):
                true = (truth[name] for name in ("depth", "canonical", "confidence"))
                for sample in zip(maps.depth_m, maps.canonical, *true, strict=True):
                    measured.add(*sample)
        self.model.train()
        metrics = measured.metrics()
        self._record("val", metrics)
        score = metrics["canonical_mean_mm"] + metrics["depth_aligned_mean_mm"]
        if score < progress.best_score:
            progress.best_step, progress.best_score, progress.best_metrics = progress.step, score, metrics
            self.save_best()
        self.throughput.pause()
        return (
            f"step {progress.step}: canonical {metrics['canonical_mean_mm']:.1f} mm, depth "
            f"{metrics['depth_mean_mm']:.1f} mm ({metrics['depth_aligned_mean_mm']:.1f} mm aligned), held out"
        )

    def preview(self, *, last: bool) -> None:
        """Draw what the run looks like, unless it was just drawn and more is to come; all processes take part."""
        due = last or time.monotonic() - self._drawn >= _PREVIEW_SECONDS
        if not self.config.fit.preview or not self.group.any(due):
            return
        self.model.eval()
        with self._averaged():
            views = preview_views(self.model, self.dataset)
        self.model.train()
        if self.journal is not None:
            heading = f"{self.config.name}, step {self.progress.step}, held out"
            write_preview(self.run, views, self.dataset.half_extent_m, heading)
        self._drawn = time.monotonic()
        self.throughput.pause()

    def save(self) -> RunState:
        """Write ``last.pt`` and the state file."""
        self.progress.seconds = time.monotonic() - self._began
        self._write(LAST, self.optimiser if self.progress.step else None, self.progress.state_dict())
        return self.write_state()

    def save_best(self) -> None:
        """Write ``best.pt``; with the averaged weights, if there are any."""
        with self._averaged():
            self._write(BEST, None, {"step": self.progress.step})

    def write_state(self) -> RunState:
        """Write the state file."""
        progress = self.progress
        steps, digest = self.config.fit.steps, self.config.digest
        best: dict[str, float | None] = {**progress.best_metrics}
        uuid, taken = self.dataset.uuid, progress.seconds
        state = RunState(progress.step, steps, digest, uuid, progress.best_step, best, taken)
        if self.group.is_main:
            state.write(self.run)
        return state

    def _write(self, name: str, optimiser: torch.optim.Optimizer | None, extra: dict[str, Any]) -> None:
        """Write a checkpoint; all processes take part where each holds a part of the model."""
        weights, moments = full_state(self.model, optimiser)
        if not self.group.is_main:
            return
        about = {
            "uuid": self.dataset.uuid,
            "resolution": self.dataset.resolution,
            "half_extent_m": self.dataset.half_extent_m,
            "space": dict(self.dataset.attrs.get("space", {})),
        }
        content = model_content(self.model, self.config, about) | {"model": weights} | extra
        save_checkpoint(self.run / name, content | ({"optimiser": moments} if name == LAST else {}), write_owned)

    def _averaged(self) -> AbstractContextManager[None]:
        average = self.progress.average
        return average.applied(self.model) if average is not None else nullcontext()

    def _record(self, kind: str, metrics: dict[str, float]) -> None:
        if self.journal is not None:
            self.journal.record(kind, self.progress.step, metrics)


def _check_own(run: Path) -> None:
    """Refuse, before the work begins, files of a run's names that no run in this folder wrote."""
    found = strangers(run, (LAST, BEST, STATE, CONFIG, TRACE, HELD_OUT, CURVE)) + own_log_or_path(run)
    if (run / BOARD).is_symlink() or (run / BOARD).is_file():
        found.append(run / BOARD)
    refuse_strangers(found)


def _check_shares(loader: TrainingLoader, config: TrainConfig, group: Team) -> None:
    if group.ranks > 1 and not config.data.drop_last:
        raise InputError(
            f"{group.ranks} processes and data.drop_last=false",
            "full batches, so that every process has clips",
            "Set data.drop_last=true",
        )
    fewest = min(max(config.data.frames_per_batch // length, 1) for length in loader.lengths)
    if fewest < group.ranks:
        raise InputError(
            f"a batch of {fewest} clips for {group.ranks} processes",
            "at least one clip for each",
            f"Set data.frames_per_batch to {group.ranks * max(loader.lengths)} or more",
        )
    if group.ranks > 1 and config.fit.sharding == "full" and config.fit.ema:
        raise InputError(
            "fit.ema with fit.sharding=full", "one of the two", "Set fit.ema=0: averages of a part are not gathered"
        )


def _measure_depth_unit(dataset: Dataset, config: TrainConfig) -> DepthUnit:
    split = dataset["train"]
    chosen = np.unique(np.linspace(0, len(split) - 1, min(len(split), _UNIT_SAMPLES)).round().astype(int))
    maps = split.read(("depth", "confidence", "intrinsics"), chosen)
    if not ((maps["depth"] > 0) & (maps["confidence"] > 0)).any():
        raise InputError(
            f"no surface with canonical coordinates in {len(chosen)} training samples",
            "depth and confidence above 0",
            "Inspect the dataset with `datagen stats`",
        )
    return DepthUnit.measure(config.depth.normalisation, maps["depth"], maps["intrinsics"])
