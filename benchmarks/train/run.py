"""The benchmark of training: what fitting does, at several clip lengths, with a clock beside it."""

from __future__ import annotations

import gc
import itertools
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch.nn.utils import clip_grad_norm_

from benchmarks.train.clock import Clock
from benchmarks.train.material import random_batch, random_clip
from benchmarks.train.peer import measure_ratio, open_peer
from benchmarks.train.result import DATA, OPTIMISER, LengthResult, StepSpeed, TrainBench
from datagen.common.errors import InputError
from datagen.common.progress import Progress
from datagen.shards import Dataset, open_dataset
from trainer.config import TrainConfig
from trainer.data import Loaded, TrainingLoader
from trainer.distributed import Team, parallelise
from trainer.evaluation.speed import measure_speed, memory_permitting, peak_mib, reset_peak, wait_for
from trainer.losses import arrays_of
from trainer.model.joint import DepthUnit, JointModel
from trainer.optimiser import MovingAverage, learning_rate, make_optimiser, set_rates
from trainer.run.checkpoint import pick_device
from trainer.step import Gradients

DEFAULT_SIZE = 504
_WARM_STEPS = 2  # the first brings the optimiser's moments, the second the memory that all others take
_READ_AHEAD = 2  # batches that each worker of the stream is ahead


@dataclass(frozen=True)
class BenchPlan:
    """What to measure.

    Attributes
    ----------
    dataset : Path, optional
        None: batches of random numbers.
    lengths : tuple of int
        Frames of a clip; empty: those of the configuration.
    steps : int
        Steps, batches and predictions that are timed at each length.
    seconds : float
        About how long each of these may take at each length; one is always made.
    device : str
    size : int, optional
        Pixels a side of random batches.
    against : bool
        Also time the network of the package ``depth-anything-3``.
    """

    dataset: Path | None
    lengths: tuple[int, ...] = ()
    steps: int = 10
    seconds: float = 30.0
    device: str = "auto"
    size: int | None = None
    against: bool = False


def run_bench(plan: BenchPlan, config: TrainConfig) -> TrainBench:
    """Measure steps, the stream and predictions at each clip length; nothing is written.

    Raises
    ------
    DatasetError, InputError, CheckpointError, StorageError
        If the dataset or the device cannot be used, clips are longer than the dataset has, images are not a multiple of
        the patch, or the model itself does not fit into memory.
    """
    if config.fit.threads:
        torch.set_num_threads(config.fit.threads)
    device = pick_device(config.fit.device if plan.device == "auto" else plan.device)
    dataset = None if plan.dataset is None else open_dataset(plan.dataset)
    size = _size(plan, config, dataset)
    lengths = _lengths(plan, config, dataset, device)
    bench = _Bench(plan, config, device, dataset, size, lengths)
    for missing in sorted(set(plan.lengths or config.data.clip_lengths) - set(lengths)):
        bench.result.notes.append(f"{missing} frames: the dataset has no such clips, and fitting leaves them out")
    with Progress(f"bench {config.name}", 2 * len(lengths), "measurements") as progress:
        bench.measure(progress)
    return bench.result


def _size(plan: BenchPlan, config: TrainConfig, dataset: Dataset | None) -> int:
    if dataset is not None and plan.size is not None:
        raise InputError(
            "--size and a dataset", "one of the two: a dataset's images have their size", "Leave --size out"
        )
    size = dataset.resolution if dataset is not None else (plan.size or DEFAULT_SIZE)
    patch = config.backbone.patch
    if size % patch:
        nearest = f"{size // patch * patch} or {(size // patch + 1) * patch}"
        raise InputError(
            f"images of {size} pixels",
            f"a multiple of the patch, {patch}, such as {nearest}",
            "Give another --size" if dataset is None else "Build the dataset with such a render.resolution",
        )
    return size


def _lengths(plan: BenchPlan, config: TrainConfig, dataset: Dataset | None, device: torch.device) -> tuple[int, ...]:
    """Return the lengths to measure, rising; all of those asked for must be there before anything is measured."""
    asked = tuple(sorted(set(plan.lengths or config.data.clip_lengths)))
    if dataset is None:
        return asked
    loader = _loader(dataset, config, asked, device)
    found = tuple(sorted(loader.lengths))
    loader.close()
    if plan.lengths and found != asked:
        missing = [n for n in asked if n not in found]
        raise InputError(
            f"--frames {', '.join(map(str, missing))}, but {dataset.url} has no such clips",
            f"lengths that its training split has, such as {', '.join(map(str, found))}",
            "Leave them out, or measure them without a dataset",
        )
    return found


def _loader(dataset: Dataset, config: TrainConfig, lengths: tuple[int, ...], device: torch.device) -> TrainingLoader:
    data = config.data.model_copy(update={"clip_lengths": lengths})
    return TrainingLoader(dataset, data, config.seed, device, arrays=arrays_of(config))


def _model(config: TrainConfig, size: int, device: torch.device) -> JointModel:
    torch.manual_seed(config.seed)
    # What the numbers mean makes no difference to how long they take.
    unit = DepthUnit(config.depth.normalisation, 1.0, 0.1, 1.0)
    with memory_permitting():
        return JointModel(config, size, unit).to(device)
    raise InputError(
        f"the model does not fit into the memory of {device_name(device)}",
        "a device with more memory, or a smaller model",
        "Give another --config or --device",
    )


class _Bench:
    """A model being measured at one clip length after another."""

    def __init__(
        self,
        plan: BenchPlan,
        config: TrainConfig,
        device: torch.device,
        dataset: Dataset | None,
        size: int,
        lengths: tuple[int, ...],
    ) -> None:
        self._plan, self._config, self._device, self._dataset, self._size = plan, config, device, dataset, size
        self._model = _model(config, size, device)
        self._wrapped = parallelise(self._model, Team(0, 1, device), "none", compiled=config.fit.compile)
        per_batch = config.data.frames_per_batch
        precision = config.backbone.precision
        low = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
        self.result = TrainBench(
            machine={
                "device": device_name(device),
                "memory_mib": _memory_mib(device),
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
            },
            setup={
                "config": config.name,
                "parameters_m": round(sum(p.numel() for p in self._model.parameters()) / 1e6, 2),
                "precision": "bfloat16" if low else "float32",
                "compiled": config.fit.compile,
                "size": size,
                "dataset": None if dataset is None else dataset.url,
                "frames_per_batch": per_batch,
                "accumulate": config.fit.accumulate,
                "workers": None if dataset is None else config.data.workers,
                "steps": plan.steps,
                "seconds": plan.seconds,
            },
            streamed=dataset is not None,
            against=plan.against,
            lengths=[LengthResult(n, max(per_batch // n, 1)) for n in lengths],
        )

    def measure(self, progress: Progress) -> None:
        """Predict first, while the device holds nothing but the model; then with the peer; then train."""
        self._model.eval()
        for k, result in enumerate(self.result.lengths):
            progress.update(k, f"{result.frames} frames: predicting")
            self._predict(result)
        if self._plan.against:
            self._compare()
            self._free()
        self._model.train()
        optimiser = make_optimiser(self._model, self._config.fit)
        for k, result in enumerate(self.result.lengths, len(self.result.lengths)):
            progress.update(k, f"{result.frames} frames: training")
            with memory_permitting():
                self._train(result, optimiser)
            # Moments may be there for a part of the parameters only.
            optimiser.zero_grad(set_to_none=True)
            optimiser.state.clear()
            self._free()
        progress.update(2 * len(self.result.lengths))

    def _predict(self, result: LengthResult) -> None:
        plan = self._plan
        with memory_permitting():
            clip = random_clip(result.frames, self._size, self._config.seed, self._device)
            points = measure_speed(
                lambda _frames: self._ours(*clip), (result.frames,), self._device, plan.seconds, repeats=plan.steps
            )
            result.predict = points[0] if points else None
        self._free()

    @torch.inference_mode()
    def _ours(self, images: torch.Tensor, intrinsics: torch.Tensor) -> object:
        return self._wrapped(images, intrinsics)

    def _compare(self) -> None:
        peer = open_peer(self._config, self._device)
        if isinstance(peer, str):
            self.result.notes.append(peer)
            return
        plan = self._plan
        for result in self.result.lengths:
            with memory_permitting():
                clip = random_clip(result.frames, self._size, self._config.seed, self._device)
                calls = partial(self._ours, *clip), partial(peer, clip[0])
                result.ratio_peer = measure_ratio(*calls, self._device, plan.seconds, plan.steps)
            self._free()

    def _train(self, result: LengthResult, optimiser: torch.optim.Optimizer) -> None:
        with ExitStack() as at_end:
            if self._dataset is None:
                one = random_batch(result.clips, result.frames, self._size, self._config.seed, self._device)
                batches: Iterator[Loaded] = itertools.repeat(one)
            else:
                loader = _loader(self._dataset, self._config, (result.frames,), self._device)
                at_end.callback(loader.close)
                batches = iter(loader)
            clock = Clock(self._device)
            step = self._stepper(optimiser, batches, clock)
            began = time.perf_counter()
            for _ in range(_WARM_STEPS):
                step()
                if time.perf_counter() - began > self._plan.seconds:
                    break
            if self._dataset is not None:
                result.stream_frames_per_s = self._stream(batches)
            reset_peak(self._device)
            began, steps, frames = time.perf_counter(), 0, 0
            clock.start()
            while steps < self._plan.steps and not (steps and time.perf_counter() - began > self._plan.seconds):
                frames += step()
                steps += 1
            seconds = clock.seconds()
            if self._dataset is None:
                seconds.pop(DATA)
            result.step = StepSpeed(steps, frames, seconds, peak_mib(self._device))

    def _stepper(self, optimiser: torch.optim.Optimizer, batches: Iterator[Loaded], clock: Clock) -> Callable[[], int]:
        """Return what makes one step, as :func:`trainer.fit.fit` does, and gives its number of frames."""
        settings = self._config.fit
        gradients = Gradients(self._wrapped, self._model.depth_unit, self._config, clock.mark)
        average = MovingAverage(self._model, settings.ema) if settings.ema else None

        def step() -> int:
            frames = 0
            set_rates(optimiser, learning_rate(0, settings))
            optimiser.zero_grad(set_to_none=True)
            for loaded in itertools.islice(batches, settings.accumulate):
                clock.mark(DATA)
                loss = gradients.add(loaded)["loss"]
                # Fitting looks at both the loss and the norm, which waits for the device.
                bool(torch.isfinite(loss))
                frames += loaded.batch["index"].numel()
            norm = clip_grad_norm_(self._model.parameters(), settings.clip_norm)
            bool(torch.isfinite(norm))
            optimiser.step()
            if average is not None:
                average.update(self._model)
            clock.mark(OPTIMISER)
            return frames

        return step

    def _stream(self, batches: Iterator[Loaded]) -> float:
        """Return the frames a second of the loader alone; afterwards the readers are as far behind as they can be.

        Batches that were read ahead before do not count: they would flatter a short run.
        """
        plan, ahead = self._plan, _READ_AHEAD * self._config.data.workers
        for _ in itertools.islice(batches, ahead):
            pass
        wait_for(self._device)
        began, frames = time.perf_counter(), 0
        for count, loaded in enumerate(batches, 1):
            frames += loaded.batch["index"].numel()
            if count >= max(plan.steps, ahead) or time.perf_counter() - began > plan.seconds:
                break
        wait_for(self._device)
        return frames / (time.perf_counter() - began)

    def _free(self) -> None:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def device_name(device: torch.device) -> str:
    """Return the name by which people know a device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_mib(device: torch.device) -> int | None:
    if device.type != "cuda":
        return None
    return int(torch.cuda.get_device_properties(device).total_memory // 2**20)
