"""Fitting the joint model: what the loop of :mod:`trainer.run.loop` works with."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from datagen.common.errors import InputError
from datagen.shards import Dataset
from trainer.config import DataConfig, TrainConfig
from trainer.curriculum import SinglesFirst
from trainer.data import ClipReader, Loaded, TrainingBatches, TrainingLoader
from trainer.evaluation.canonical import MapMetrics, canonical_errors_mm
from trainer.evaluation.depth import MM_PER_M
from trainer.inference import predict_split, split_clips
from trainer.losses import arrays_of, frame_errors_mm
from trainer.model.joint import DepthUnit, JointModel
from trainer.preview import preview_views, write_preview
from trainer.run.checkpoint import model_content
from trainer.run.folder import RunState
from trainer.run.loop import Job, check_shares, run_job
from trainer.run.worst import Kind, WorstLog
from trainer.step import Gradients
from trainer.weights.load import WeightsReport, load_weights

_PREVIEW_SECONDS = 30.0
_UNIT_SAMPLES = 64  # training samples the depth unit is measured on


def fit(dataset_path: Path | str, run: Path, config: TrainConfig) -> RunState:
    """Fit the joint model, or resume a run that was stopped; parameters and errors as :func:`run_job`."""
    return run_job(partial(_Job, dataset_path, run, config), run, config)


class _Job(Job[TrainConfig]):
    """The joint model being fitted."""

    model: JointModel
    _weights: WeightsReport | None = None
    _drawn = -math.inf

    def open_loader(self) -> TrainingBatches:
        """Return batches of clips, after those of single frames if there are to be any."""
        config = self.config
        clips = self._loader_of(config.data)
        batches = round(config.data.singles * config.fit.steps) * config.fit.accumulate
        loader: TrainingBatches = clips
        if batches:
            singles = self._loader_of(config.data.model_copy(update={"clip_lengths": (1,)}))
            loader = SinglesFirst(singles, clips, batches)
        check_shares(loader, config, config.data, self.group)
        held_out = len(self.dataset["val"])
        self._validation = ClipReader(self.dataset, "val", config.data.cache_mb) if held_out else None
        return loader

    def _loader_of(self, data: DataConfig) -> TrainingLoader:
        config, group = self.config, self.group
        arrays = arrays_of(config)
        return TrainingLoader(
            self.dataset, data, config.seed, group.device, arrays=arrays, rank=group.rank, ranks=group.ranks
        )

    def build(self, *, fresh: bool) -> JointModel:
        """Return the model, with published weights if it begins from some."""
        config = self.config
        unit = _measure_depth_unit(self.dataset, config)
        model = JointModel(config, self.dataset.resolution, unit).to(self.group.device)
        if fresh and config.weights.source is not None:
            self._weights = load_weights(model, config.weights)
        return model

    def restore(self, saved: dict[str, Any]) -> None:
        """Take the depth unit."""
        self.model.depth_unit = DepthUnit(**saved["depth_unit"])

    def describe(self) -> str:
        """Say what is about to begin."""
        parameters = sum(p.numel() for p in self.model.parameters())
        line = (
            f"{parameters / 1e6:.1f} M parameters on {self.group.ranks} × {self.group.device}, "
            f"{len(self.dataset['train'])} samples of {self.dataset.resolution} px, clips of {self.loader.lengths} "
            f"frames, from step {self.progress.step} of {self.config.fit.steps}"
        )
        return line if self._weights is None else f"{line}\n{self._weights.text()}"

    @cached_property
    def _gradients(self) -> Gradients:
        return Gradients(self.wrapped, self.model.depth_unit, self.config)

    def add_gradients(self, loaded: Loaded) -> dict[str, torch.Tensor]:
        """Augment a batch and predict it."""
        return self._gradients.add(loaded)

    @cached_property
    def _worst(self) -> WorstLog:
        return WorstLog(self.run, self.progress.step)

    def log_training(self, terms: dict[str, torch.Tensor], norm: torch.Tensor) -> dict[str, float]:
        """Also note how far off the frames of the last batch are, of the process that writes the run's files."""
        if self.journal is not None:
            seen = self._gradients
            errors = frame_errors_mm(seen.prediction, seen.batch, self.dataset.half_extent_m)
            self._worst.note("train", errors)
        return super().log_training(terms, norm)

    def not_finite(self) -> InputError:
        """Name the samples it may come from."""
        return self._gradients.not_finite(self.progress.step, self.dataset["train"])

    @property
    def can_validate(self) -> bool:
        """Whether anybody was held out."""
        return self._validation is not None

    def validate(self) -> str:
        """Measure the held-out samples, keep the model if it is the best so far, and say what was found."""
        assert self._validation is not None
        progress, measured = self.progress, MapMetrics(self.dataset.half_extent_m)
        clips = split_clips(self._validation.split, max(self.loader.lengths), self.config.fit.val_samples)
        self.model.eval()
        with self.averaged():
            for indices, truth, maps in predict_split(self.model, self._validation, clips):
                true = (truth[name] for name in ("depth", "canonical", "confidence"))
                for index, *sample in zip(indices.tolist(), maps.depth_m, maps.canonical, *true, strict=True):
                    measured.add(*sample)
                    self._note_held_out(index, sample)
        self.model.train()
        metrics = measured.metrics()
        self.record("val", metrics)
        if self.journal is not None:
            names: dict[Kind, Callable[[int], str]] = {"val": self._validation.split.sample_name}
            names["train"] = self.dataset["train"].sample_name
            self._worst.write(progress.step, names)
        score = metrics["canonical_mean_mm"] + metrics["depth_aligned_mean_mm"]
        self.keep_best(score, metrics)
        self.throughput.pause()
        return (
            f"step {progress.step}: canonical {metrics['canonical_mean_mm']:.1f} mm, depth "
            f"{metrics['depth_mean_mm']:.1f} mm ({metrics['depth_aligned_mean_mm']:.1f} mm aligned), held out"
        )

    def _note_held_out(self, index: int, sample: Sequence[npt.NDArray[Any]]) -> None:
        depth_m, canonical, true_depth_m, true_canonical, confidence = sample
        unit, known, on = self.dataset.half_extent_m, confidence > 0, true_depth_m > 0
        if not known.any() or not on.any():
            return
        off_mm = canonical_errors_mm(canonical * unit, true_canonical * unit)[known]
        scale = np.median(true_depth_m[on]) / max(float(np.median(depth_m[on])), 1e-9)
        depth_mm = float(np.abs(depth_m[on] * scale - true_depth_m[on]).mean()) * MM_PER_M
        self._worst.note("val", {index: {"canonical_mm": float(off_mm.mean()), "depth_mm": depth_mm}})

    def preview(self, *, last: bool) -> None:
        """Draw what the run looks like, unless it was just drawn and more is to come; all processes take part."""
        due = last or time.monotonic() - self._drawn >= _PREVIEW_SECONDS
        if not self.config.fit.preview or not self.group.any(due):
            return
        self.model.eval()
        with self.averaged():
            views = preview_views(self.model, self.dataset)
        self.model.train()
        if self.journal is not None:
            heading = f"{self.config.name}, step {self.progress.step}, held out"
            write_preview(self.run, views, self.dataset.half_extent_m, heading)
        self._drawn = time.monotonic()
        self.throughput.pause()

    def content(self) -> dict[str, Any]:
        """Return depth unit, and what was learnt from."""
        about = {
            "uuid": self.dataset.uuid,
            "resolution": self.dataset.resolution,
            "half_extent_m": self.dataset.half_extent_m,
            "space": dict(self.dataset.attrs.get("space", {})),
        }
        return model_content(self.model, self.config, about)


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
