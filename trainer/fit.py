"""Fitting a model: one loop, readable from top to bottom. The same call goes on where a stopped run ended."""

from __future__ import annotations

import itertools
import math
import time
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_

from datagen.shards import Dataset, InputError, atomic_write_bytes, open_dataset
from trainer.config import TrainConfig
from trainer.data import ClipReader, TrainingLoader
from trainer.depth_unit import DepthUnit
from trainer.distributed import Team, full_state, restore_state, spread, team
from trainer.inference import predict_split, split_clips
from trainer.losses import arrays_of
from trainer.metrics import MapMetrics
from trainer.model.joint import JointModel
from trainer.optimiser import MovingAverage, learning_rate, make_optimiser, set_rates
from trainer.progress import Progress
from trainer.run.checkpoint import model_content, pick_device, read_last, save_checkpoint
from trainer.run.folder import own_folder
from trainer.run.log import Journal
from trainer.run.signals import not_finite, stop_on_signals
from trainer.run.state import BEST, CONFIG, LAST, RunState, check_same_run
from trainer.run.throughput import Meter
from trainer.step import Gradients
from trainer.weights.load import load_weights

_LOG_EVERY = 10
_UNIT_SAMPLES = 64  # training samples the depth unit is measured on


def fit(dataset_path: Path | str, run: Path, config: TrainConfig) -> RunState:
    """Fit a model, or go on with a run that was stopped; weights do not depend on where it was stopped.

    Under torchrun all processes share the run; one of them writes its files.

    Parameters
    ----------
    dataset_path : Path or str
    run : Path
        Folder of the run: ``last.pt`` (to go on), ``best.pt`` (lowest validation error), ``state.json``,
        ``config.json``, ``log.jsonl`` and TensorBoard events.
    config : TrainConfig

    Returns
    -------
    RunState
        Not ``finished`` if a signal or ``fit.max_minutes`` stopped it.

    Raises
    ------
    DatasetError, InputError, CheckpointError, StorageError
        Nothing half-written is left.
    """
    if config.fit.threads:
        torch.set_num_threads(config.fit.threads)
    with team(pick_device(config.fit.device)) as group, own_folder(run, leads=group.leads):
        return _fit(dataset_path, run, config, group)


def _fit(dataset_path: Path | str, run: Path, config: TrainConfig, group: Team) -> RunState:  # noqa: PLR0912, PLR0915 - one loop
    started, settings, device = time.monotonic(), config.fit, group.device
    dataset = open_dataset(dataset_path)
    state, saved = read_last(run)
    if state is not None:
        check_same_run(run, state, config, dataset.uuid)
    # Complains early about an empty split or clips that do not fit.
    arrays = arrays_of(config)
    loader = TrainingLoader(
        dataset, config.data, config.seed, device, arrays=arrays, rank=group.rank, ranks=group.ranks
    )
    _check_shares(loader, config, group)
    validation = ClipReader(dataset, "val", config.data.cache_mb) if len(dataset["val"]) else None
    eval_length = max(loader.lengths)

    torch.manual_seed(config.seed)
    model = JointModel(config, dataset.resolution, _measure_depth_unit(dataset, config)).to(device)
    start = load_weights(model, config.weights) if state is None and config.weights.source is not None else None
    # Sharding replaces the parameters: the optimiser must be given the new ones.
    called = spread(model, group, settings.sharding, compiled=settings.compile)
    optimiser = make_optimiser(model, settings)
    average = MovingAverage(model, settings.ema) if settings.ema else None
    step, best_step, best_score, best_figures = 0, None, math.inf, {}
    if saved is not None:
        restore_state(model, optimiser, saved)
        model.depth_unit = DepthUnit(**saved["depth_unit"])
        if average is not None:
            average.load_state_dict(saved["average"])
        loader.go_on(saved["stream"])
        step, best_step = saved["step"], saved["best_step"]
        best_score, best_figures = saved["best_score"], saved["best_figures"]

    about = {
        "uuid": dataset.uuid,
        "resolution": dataset.resolution,
        "half_extent_m": dataset.half_extent_m,
        "space": dict(dataset.attrs.get("space", {})),
    }

    def write(name: str, extra: dict[str, Any], *, optimiser_too: bool) -> None:
        """Write a checkpoint; all processes take part where each holds a part of the model."""
        weights, moments = full_state(model, optimiser if optimiser_too and step else None)
        if group.leads:
            content = model_content(model, config, about) | {"model": weights, "step": step}
            save_checkpoint(run / name, content | ({"optimiser": moments} if optimiser_too else {}) | extra)

    def save() -> RunState:
        so_far = {"best_step": best_step, "best_score": best_score, "best_figures": best_figures}
        so_far |= {"stream": loader.state, "average": average.state_dict() if average else None}
        write(LAST, so_far, optimiser_too=True)
        now = RunState(step, settings.steps, config.digest, dataset.uuid, best_step, best_figures)
        if group.leads:
            now.write(run)
        return now

    def save_best() -> None:
        with average.applied(model) if average else nullcontext():
            write(BEST, {}, optimiser_too=False)

    with ExitStack() as at_end:
        at_end.callback(loader.close)
        progress = at_end.enter_context(Progress(f"fit {config.name}", settings.steps, step, quiet=not group.leads))
        stopping = at_end.enter_context(stop_on_signals())
        journal = at_end.enter_context(Journal(run, step, config)) if group.leads else None
        if group.leads:
            atomic_write_bytes(run / CONFIG, (config.text() + "\n").encode())

        def record(kind: str, figures: dict[str, float]) -> None:
            if journal is not None:
                journal.record(kind, step, figures)

        parameters = sum(p.numel() for p in model.parameters())
        progress.say(
            f"{parameters / 1e6:.1f} M parameters on {group.ranks} × {device}, {len(dataset['train'])} samples "
            f"of {dataset.resolution} px, clips of {loader.lengths} frames, from step {step} of {settings.steps}"
        )
        if start is not None:
            progress.say(start.text())
        # A kill may have come between the checkpoint and the state file.
        now = save() if state is None else state
        if group.leads:
            now.write(run)
        meter = at_end.enter_context(Meter(device, run if group.leads else None, settings.profile_steps))
        batches, gradients = iter(loader), Gradients(called, model.depth_unit, config)
        model.train()
        while step < settings.steps:
            set_rates(optimiser, learning_rate(step, settings))
            optimiser.zero_grad(set_to_none=True)
            terms: dict[str, torch.Tensor] = {}
            for loaded in itertools.islice(meter.waiting(batches), settings.accumulate):
                parts = gradients.add(loaded)
                if not torch.isfinite(parts["loss"]):
                    raise not_finite(step, gradients.batch, gradients.prediction, dataset["train"])
                for name, value in parts.items():
                    terms[name] = terms.get(name, 0) + value.detach() / settings.accumulate
                meter.frames += loaded.batch["index"].numel() * group.ranks
            norm = clip_grad_norm_(model.parameters(), settings.clip_norm)
            if not torch.isfinite(norm):
                raise not_finite(step, gradients.batch, gradients.prediction, dataset["train"])
            optimiser.step()
            if average is not None:
                average.update(model)
            step += 1
            meter.step()

            if step % _LOG_EVERY == 0 or step == settings.steps:
                figures = group.mean(terms) | {"grad_norm": float(norm)} | meter.figures()
                record("train", figures | {"learning_rate": learning_rate(step - 1, settings)})
                progress.update(step, f"loss {figures['loss']:.3f}, {figures['frames_per_second']:.1f} frames/s")

            out_of_time = settings.max_minutes is not None and time.monotonic() - started > 60 * settings.max_minutes
            stopped, out_of_time = group.any(stopping.is_set()), group.any(out_of_time)
            last_step = step == settings.steps
            # Validation is tied to steps, not to where a run was stopped: best.pt must not depend on that. Every
            # process validates the same samples, so that none waits for another's part of the model.
            if validation is not None and (step % settings.val_every == 0 or last_step):
                with average.applied(model) if average else nullcontext():
                    val = _validate(model, validation, eval_length, settings.val_samples, dataset.half_extent_m)
                record("val", val)
                progress.say(
                    f"step {step}: canonical {val['canonical_mean_mm']:.1f} mm, depth {val['depth_mean_mm']:.1f} mm "
                    f"({val['depth_aligned_mean_mm']:.1f} mm aligned), held out"
                )
                score = val["canonical_mean_mm"] + val["depth_aligned_mean_mm"]
                if score < best_score:
                    best_step, best_score, best_figures = step, score, val
                    save_best()
                meter.pause()
            if best_step is None and last_step:  # nothing was held out, or nothing could be measured on it
                best_step = step
                save_best()
            if step % settings.save_every == 0 or last_step or out_of_time or stopped:
                now = save()
            if stopped or (out_of_time and not last_step):
                why = "a signal" if stopped else f"fit.max_minutes={settings.max_minutes}"
                progress.say(f"stopped by {why} after step {step} of {settings.steps}; the same command goes on")
                break
        if best_step is None:  # stopped before the first validation: what there is can still be looked at
            save_best()
        group.wait()
    return now


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
            "a clip for each at least",
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
            "Look at the dataset with `datagen stats`",
        )
    return DepthUnit.measure(config.depth.normalisation, maps["depth"], maps["intrinsics"])


def _validate(
    model: JointModel, reader: ClipReader, length: int, samples: int, half_extent_m: float
) -> dict[str, float]:
    metrics = MapMetrics(half_extent_m)
    model.eval()
    for _, truth, maps in predict_split(model, reader, split_clips(reader.split, length, samples)):
        for k in range(len(maps.depth_m)):
            metrics.add(
                maps.depth_m[k], maps.canonical[k], truth["depth"][k], truth["canonical"][k], truth["confidence"][k]
            )
    model.train()
    return metrics.figures()
