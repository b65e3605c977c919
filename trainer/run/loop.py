"""The loop of every kind of run: named steps of a job. The same call resumes where a stopped run ended."""

from __future__ import annotations

import itertools
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from datagen.common.errors import InputError
from datagen.common.files import write_owned, write_owned_bytes
from datagen.common.ownership import refuse_strangers, strangers
from datagen.common.progress import Progress, announce
from datagen.shards import Dataset, open_dataset
from trainer.config import DataConfig, RunConfig, RunConfigT
from trainer.data import Loaded, TrainingBatches
from trainer.distributed import Team, full_state, parallelise, restore_state, team
from trainer.optimiser import MovingAverage, learning_rate, make_optimiser, set_rates
from trainer.run.checkpoint import pick_device, read_last, save_checkpoint
from trainer.run.folder import (
    BEST,
    BOARD,
    CONFIG,
    CURVE,
    HELD_OUT,
    LAST,
    STATE,
    TRACE,
    WORST,
    RunState,
    check_same_run,
    locked_run_folder,
)
from trainer.run.log import Journal, own_log_or_path
from trainer.run.signals import stop_on_signals
from trainer.run.throughput import Throughput

_LOG_EVERY = 10


def run_job(make: Callable[[Team, float], Job[RunConfigT]], run: Path, config: RunConfigT) -> RunState:
    """Begin a run, or resume one that was stopped; weights do not depend on where it was stopped.

    Under torchrun all processes share the run; one of them writes its files.

    Parameters
    ----------
    make : callable
        Makes the job, given the processes of the run, and when the call began.
    run : Path
        Folder of the run: ``last.pt`` (to resume from), ``best.pt`` (best on validation people), ``state.json``,
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
        job = make(group, started)
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
            if job.can_validate and (progress.step % settings.val_every == 0 or last_step):
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
        What its validation gave; less is better. Of the joint model, its canonical and its aligned depth error
        together, millimetres.
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


class Job(ABC, Generic[RunConfigT]):
    """What a run works with, and the named steps of its loop.

    What kinds of run differ in is abstract: the network, its loss, what is measured while fitting, and what a
    checkpoint holds besides.

    Attributes
    ----------
    model : nn.Module
    wrapped : nn.Module
        The same, or what stands in for it: compiled, or shared by several processes.
    """

    def __init__(self, dataset_path: Path | str, run: Path, config: RunConfigT, group: Team, started: float) -> None:
        self.run, self.config, self.group = run, config, group
        self.dataset: Dataset = open_dataset(dataset_path)
        state, saved = read_last(run, type(config))
        if state is not None:
            check_same_run(run, state, config, self.dataset.uuid)
        if group.is_main:
            _check_own(run)
        self.loader = self.open_loader()
        torch.manual_seed(config.seed)
        self.model = self.build(fresh=state is None).to(group.device)
        # Sharding replaces the parameters: the optimiser must be given the new ones.
        self.wrapped = parallelise(self.model, group, config.fit.sharding, compiled=config.fit.compile)
        self.optimiser = make_optimiser(self.model, config.fit)
        average = MovingAverage(self.model, config.fit.ema) if config.fit.ema else None
        self.progress = RunProgress(self.loader.state, average)
        self.resumed = saved is not None
        if saved is not None:
            restore_state(self.model, self.optimiser, saved)
            self.restore(saved)
            self.progress.load_state_dict(saved)
            self.loader.resume(self.progress.stream)
        self._began = started - self.progress.seconds  # as if there had been one call
        self.throughput = Throughput(group.device, run if group.is_main else None, config.fit.profile_steps)
        self.journal: Journal | None = None  # of the main process
        self._batches = iter(self.loader)

    @abstractmethod
    def open_loader(self) -> TrainingBatches:
        """Return the run's batches; complain early about an empty split or clips that do not fit."""

    @abstractmethod
    def build(self, *, fresh: bool) -> nn.Module:
        """Return the network; of a run that begins, with the weights it starts from."""

    def restore(self, saved: dict[str, Any]) -> None:
        """Take from a checkpoint what is neither weights nor progress."""

    @abstractmethod
    def describe(self) -> str:
        """Say what is about to begin."""

    @abstractmethod
    def add_gradients(self, loaded: Loaded) -> dict[str, torch.Tensor]:
        """Add the gradients of a batch's share of a step's loss; return its terms, the whole as ``loss``."""

    @abstractmethod
    def not_finite(self) -> InputError:
        """Return the error of a loss or gradient that is NaN or infinite."""

    @property
    @abstractmethod
    def can_validate(self) -> bool:
        """Whether anybody was held out."""

    @abstractmethod
    def validate(self) -> str:
        """Measure the held-out samples, keep the model if it is the best so far, and say what was found."""

    def preview(self, *, last: bool) -> None:
        """Draw what the run looks like, unless it was just drawn and more is to come; all processes take part."""

    @abstractmethod
    def content(self) -> dict[str, Any]:
        """Return what a checkpoint holds besides weights and progress."""

    def train_step(self) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Take one step; return the terms of its loss, and the norm its gradient had before it was clipped."""
        settings, progress = self.config.fit, self.progress
        set_rates(self.optimiser, learning_rate(progress.step, settings))
        self.optimiser.zero_grad(set_to_none=True)
        terms: dict[str, torch.Tensor] = {}
        for loaded in itertools.islice(self.throughput.waiting(self._batches), settings.accumulate):
            parts = self.add_gradients(loaded)
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
            raise self.not_finite()

    def log_training(self, terms: dict[str, torch.Tensor], norm: torch.Tensor) -> dict[str, float]:
        """Record a step and the pace since the last record; all processes take part."""
        metrics = self.group.mean(terms) | {"grad_norm": float(norm)} | self.throughput.metrics()
        self.record("train", metrics | {"learning_rate": learning_rate(self.progress.step - 1, self.config.fit)})
        return metrics

    def keep_best(self, score: float, metrics: dict[str, float]) -> None:
        """Keep the model if its score is lower than any before."""
        progress = self.progress
        if score < progress.best_score:
            progress.best_step, progress.best_score, progress.best_metrics = progress.step, score, metrics
            self.save_best()

    def save(self) -> RunState:
        """Write ``last.pt`` and the state file."""
        self.progress.seconds = time.monotonic() - self._began
        self._write(LAST, self.optimiser if self.progress.step else None, self.progress.state_dict())
        return self.write_state()

    def save_best(self) -> None:
        """Write ``best.pt``; with the averaged weights, if there are any."""
        with self.averaged():
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
        content = self.content() | {"config": self.config.text(), "model": weights} | extra
        save_checkpoint(self.run / name, content | ({"optimiser": moments} if name == LAST else {}), write_owned)

    def averaged(self) -> AbstractContextManager[None]:
        """Give the model its averaged weights, if there are any, inside a ``with`` block."""
        average = self.progress.average
        return average.applied(self.model) if average is not None else nullcontext()

    def record(self, kind: str, metrics: dict[str, float]) -> None:
        """Log the metrics of ``train`` or ``val``."""
        if self.journal is not None:
            self.journal.record(kind, self.progress.step, metrics)


def _check_own(run: Path) -> None:
    """Refuse, before the work begins, files of a run's names that no run in this folder wrote."""
    found = strangers(run, (LAST, BEST, STATE, CONFIG, TRACE, HELD_OUT, CURVE, WORST)) + own_log_or_path(run)
    if (run / BOARD).is_symlink() or (run / BOARD).is_file():
        found.append(run / BOARD)
    refuse_strangers(found)


def check_shares(loader: TrainingBatches, config: RunConfig, data: DataConfig, group: Team) -> None:
    """Refuse batches that the processes of a run cannot share."""
    if group.ranks > 1 and not data.drop_last:
        raise InputError(
            f"{group.ranks} processes and data.drop_last=false",
            "full batches, so that every process has clips",
            "Set data.drop_last=true",
        )
    fewest = min(max(data.frames_per_batch // length, 1) for length in loader.lengths)
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
