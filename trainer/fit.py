"""Fitting a model: one loop, readable from top to bottom. The same call goes on where a stopped run ended."""

from __future__ import annotations

import itertools
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_
from torch.utils.tensorboard import SummaryWriter

from datagen.shards import CheckpointError, Dataset, InputError, Split, atomic_write_bytes, open_dataset
from trainer.augmentation import augment
from trainer.checkpoint import model_content, pick_device, read_checkpoint, save_checkpoint
from trainer.config import AugmentConfig, FitConfig, TrainConfig
from trainer.data import Batch, ClipReader, TrainingLoader, describe_sample, normalise
from trainer.depth_unit import DepthUnit
from trainer.inference import predict_split, split_clips
from trainer.losses import joint_loss
from trainer.metrics import MapMetrics
from trainer.model.joint import JointModel, Prediction
from trainer.progress import Progress
from trainer.run_state import BEST, CONFIG, LAST, RunLog, RunState, check_same_run, read_state

_LOG_EVERY = 10
_UNIT_SAMPLES = 64  # training samples the depth unit is measured on


def fit(dataset_path: Path, run: Path, config: TrainConfig) -> RunState:  # noqa: PLR0912, PLR0915 - one loop, top to bottom
    """Fit a model, or go on with a run that was stopped; weights do not depend on where it was stopped.

    Parameters
    ----------
    dataset_path : Path
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
    started = time.monotonic()
    settings = config.fit
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = pick_device(settings.device)
    dataset = open_dataset(dataset_path)
    state = read_state(run)
    if state is not None:
        check_same_run(run, state, config, dataset.uuid)
    # Complains early about an empty split or clips that do not fit.
    loader = TrainingLoader(dataset, config.data, config.seed, device)
    changes = AugmentConfig(photometric=config.data.augment, mirror=config.data.mirror)
    validation = ClipReader(dataset, "val", config.data.cache_mb) if len(dataset["val"]) else None
    eval_length = max(loader.lengths)

    torch.manual_seed(config.seed)
    model = JointModel(config, dataset.resolution, _measure_depth_unit(dataset, config)).to(device)
    optimiser = _make_optimiser(model, settings)
    step, best_step, best_score, best_figures = 0, None, math.inf, {}
    if state is not None:
        saved = read_checkpoint(run / LAST)
        _load(saved, model, optimiser, run)
        loader.go_on(saved["stream"])
        step, best_step = saved["step"], saved["best_step"]
        best_score, best_figures = saved["best_score"], saved["best_figures"]

    about = {
        "uuid": dataset.uuid,
        "resolution": dataset.resolution,
        "half_extent_m": dataset.half_extent_m,
        "space": _plain(dataset.attrs.get("space", {})),
    }
    atomic_write_bytes(run / CONFIG, (config.text() + "\n").encode())
    log, board = RunLog(run, step), SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def save() -> RunState:
        progress_so_far = {
            "step": step,
            "best_step": best_step,
            "best_score": best_score,
            "best_figures": best_figures,
            "optimiser": optimiser.state_dict(),
            "stream": loader.state,
        }
        save_checkpoint(run / LAST, model_content(model, config, about) | progress_so_far)
        now = RunState(step, settings.steps, config.digest, dataset.uuid, best_step, best_figures)
        now.write(run)
        return now

    with Progress(f"fit {config.name}", settings.steps, step) as progress, _stop_on_signals() as stopping:
        parameters = sum(p.numel() for p in model.parameters())
        progress.say(
            f"{parameters / 1e6:.1f} M parameters on {device}, {len(dataset['train'])} training samples of "
            f"{dataset.resolution} px, clips of {loader.lengths} frames, from step {step} of {settings.steps}"
        )
        # A kill may have come between the checkpoint and the state file.
        now = state if state is not None and state.step == step else save()
        window_start, window_frames = time.monotonic(), 0
        model.train()
        for loaded in itertools.islice(loader, settings.steps - step):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(step, settings)
            batch = augment(loaded.batch, changes, loaded.seeds, views=loaded.views)
            batch["image"] = normalise(batch["image"])
            prediction = model(batch["image"], batch["intrinsics"])
            terms = joint_loss(prediction, batch, model.depth_unit, config.loss)
            optimiser.zero_grad(set_to_none=True)
            terms["loss"].backward()  # type: ignore[no-untyped-call]
            norm = clip_grad_norm_(model.parameters(), settings.clip_norm)
            if not (torch.isfinite(terms["loss"]) and torch.isfinite(norm)):
                raise _not_finite(step, batch, prediction, dataset["train"])
            optimiser.step()
            step += 1
            window_frames += batch["index"].numel()

            if step % _LOG_EVERY == 0 or step == settings.steps:
                seconds = time.monotonic() - window_start
                figures = {name: float(value.detach()) for name, value in terms.items()}
                figures |= {"grad_norm": float(norm), "learning_rate": learning_rate(step - 1, settings)}
                figures["frames_per_second"] = window_frames / max(seconds, 1e-9)
                log.write("train", step, figures)
                for name, value in figures.items():
                    board.add_scalar(f"train/{name}", value, step)
                window_start, window_frames = time.monotonic(), 0
                text = f"loss {figures['loss']:.3f}, {figures['frames_per_second']:.1f} frames/s"
                progress.update(step, text)

            out_of_time = settings.max_minutes is not None and time.monotonic() - started > 60 * settings.max_minutes
            last_step = step == settings.steps
            # Validation is tied to steps, not to where a run was stopped: best.pt must not depend on that.
            if validation is not None and (step % settings.val_every == 0 or last_step):
                val = _validate(model, validation, eval_length, settings.val_samples, dataset.half_extent_m, device)
                log.write("val", step, val)
                for name, value in val.items():
                    board.add_scalar(f"val/{name}", value, step)
                progress.say(
                    f"step {step}: canonical {val['canonical_mean_mm']:.1f} mm, depth {val['depth_mean_mm']:.1f} mm "
                    f"({val['depth_aligned_mean_mm']:.1f} mm aligned), held out"
                )
                score = val["canonical_mean_mm"] + val["depth_aligned_mean_mm"]
                if score < best_score:
                    best_step, best_score, best_figures = step, score, val
                    save_checkpoint(run / BEST, model_content(model, config, about) | {"step": step})
                window_start, window_frames = time.monotonic(), 0
            if validation is None and last_step:
                best_step = step
                save_checkpoint(run / BEST, model_content(model, config, about) | {"step": step})
            if step % settings.save_every == 0 or last_step or out_of_time or stopping.is_set():
                now = save()
            if stopping.is_set() or (out_of_time and not last_step):
                why = "a signal" if stopping.is_set() else f"fit.max_minutes={settings.max_minutes}"
                progress.say(f"stopped by {why} after step {step} of {settings.steps}; the same command goes on")
                break
    loader.close()
    log.close()
    board.close()
    if best_step is None:  # stopped before the first validation: what there is can still be looked at
        save_checkpoint(run / BEST, model_content(model, config, about) | {"step": step})
    return now


def learning_rate(step: int, config: FitConfig) -> float:
    """Return the rate of a step (from 0): linear warm-up, then a cosine down to ``final_rate`` of the peak."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    share = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    cosine = 0.5 * (1 + math.cos(math.pi * min(share, 1)))
    return config.learning_rate * (config.final_rate + (1 - config.final_rate) * cosine)


def _measure_depth_unit(dataset: Dataset, config: TrainConfig) -> DepthUnit:
    split = dataset["train"]
    chosen = np.unique(np.linspace(0, len(split) - 1, min(len(split), _UNIT_SAMPLES)).round().astype(int))
    maps = split.read(("depth", "intrinsics"), chosen)
    return DepthUnit.measure(config.depth.normalisation, maps["depth"], maps["intrinsics"])


def _make_optimiser(model: JointModel, config: FitConfig) -> torch.optim.AdamW:
    # Biases, norms and embeddings are not weights of a linear map: decay would only pull them from where they belong.
    matrices = [p for name, p in model.named_parameters() if p.ndim >= 2 and "embeddings" not in name]
    others = [p for name, p in model.named_parameters() if not (p.ndim >= 2 and "embeddings" not in name)]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95))


def _load(saved: dict[str, Any], model: JointModel, optimiser: torch.optim.Optimizer, run: Path) -> None:
    try:
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        model.depth_unit = DepthUnit(**saved["depth_unit"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{run / LAST} does not fit the run: {str(error).splitlines()[0]}",
            "the last.pt this run wrote",
            "Use the version of canonface that began the run, or another --out",
        ) from None


def _validate(
    model: JointModel, reader: ClipReader, length: int, samples: int, half_extent_m: float, device: torch.device
) -> dict[str, float]:
    metrics = MapMetrics(half_extent_m)
    model.eval()
    for _, truth, maps in predict_split(model, reader, split_clips(reader.split, length, samples), device):
        for k in range(len(maps.depth_m)):
            metrics.add(
                maps.depth_m[k], maps.canonical[k], truth["depth"][k], truth["canonical"][k], truth["confidence"][k]
            )
    model.train()
    return metrics.figures()


def _not_finite(step: int, batch: Batch, prediction: Prediction, split: Split) -> InputError:
    """Return the error of a loss or gradient that is NaN or infinite, naming the samples it may come from."""
    maps = [batch[name] for name in ("image", "depth", "canonical", "confidence")]
    maps += [prediction.depth_m, prediction.canonical, prediction.depth_confidence, prediction.canonical_confidence]
    finite = torch.stack([m.isfinite().flatten(2).all(-1) for m in maps]).all(0)
    suspects = batch["index"][~finite] if not finite.all() else batch["index"].flatten()
    names = ", ".join(describe_sample(split, int(i)) for i in suspects.flatten()[:8])
    more = f" and {suspects.numel() - 8} more" if suspects.numel() > 8 else ""
    what = "samples with undefined values" if not finite.all() else "its samples, all of them finite,"
    return InputError(
        f"the loss or its gradient is not finite at step {step}; {what} are {names}{more}",
        "finite numbers",
        "Look at these samples, or lower fit.learning_rate; last.pt is from before and the run can go on from it",
    )


@contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """Set an event on SIGTERM or Ctrl-C, once; a second Ctrl-C ends at once."""
    stopping = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return

    def handle(number: int, _frame: object) -> None:
        stopping.set()
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)

    previous = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopping
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _plain(value: Any) -> Any:
    return dict(value) if hasattr(value, "items") else value
