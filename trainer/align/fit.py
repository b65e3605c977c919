"""Fitting the alignment network: what the loop of :mod:`trainer.run.loop` works with."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datagen.common.arrays import I64
from trainer.align.calibration import Calibration, calibrate
from trainer.align.config import AlignConfig
from trainer.align.data import ARRAYS, Crops, FaceTruth, mean_positions, training_crops
from trainer.align.loss import align_loss
from trainer.align.measure import Measured, measure_split
from trainer.align.network import FlowNetwork, RegressionNetwork, make_network
from trainer.align.store import network_content
from trainer.align.uv_space import UVSpace, uv_space
from trainer.align.whole import Stage, begin_whole
from trainer.data import Loaded, decode
from trainer.run.folder import RunState
from trainer.run.loop import run_job
from trainer.run.pictures import PictureJob, fill_gradients

_MEAN_SAMPLES = 256


def fit_align(dataset_path: Path | str, run: Path, config: AlignConfig) -> RunState:
    """Fit an alignment network, or resume a run that was stopped; parameters and errors as :func:`run_job`.

    Raises
    ------
    DatasetError
        Also if the dataset has no frame table, or its template no texture coordinates.
    """
    return run_job(partial(AlignJob, dataset_path, run, config), run, config)


class AlignJob(PictureJob[AlignConfig, Measured]):
    """The alignment network being fitted."""

    model: FlowNetwork | RegressionNetwork
    arrays = ARRAYS
    _calibration: Calibration | None = None
    _whole_at: int | None = None

    @cached_property
    def space(self) -> UVSpace:
        """The template's UV space."""
        config, regions = self.config, self.dataset.attrs.get("regions", {})
        return uv_space(self.dataset.template, regions, config.loss, config.network.uv).to(self.group.device)

    @cached_property
    def truth(self) -> FaceTruth:
        """The training people's faces."""
        return FaceTruth(self.dataset["train"], self.space, self.config.data.cache_mb)

    def build(self, *, fresh: bool) -> FlowNetwork | RegressionNetwork:
        """Return the network, which begins at the training set's mean face."""
        network = self.config.network
        mean = mean_positions(self.dataset, self.truth, _MEAN_SAMPLES)
        model = make_network(network, self.space.uv.cpu(), mean.cpu())
        if fresh and network.weights is not None:
            model.encoder.load(network.weights)
        return model

    def describe(self) -> str:
        """Say what is about to begin."""
        return (
            f"{self.size_text()}, {len(self.space.vertices)} vertices "
            f"({int(self.space.is_face.sum())} of the face), from step {self.progress.step} of {self.config.fit.steps}"
        )

    def _begin_whole(self) -> None:
        """Fit the whole-flow head to what the start leaves on some training crops; go on from averaged weights."""
        model, config, split = self.model, self.config, self.dataset["train"]
        assert isinstance(model, FlowNetwork)
        average = self.progress.average
        if average is not None:
            average.give(model)
        rng = np.random.default_rng([config.seed, config.coarse_steps])
        stages = []
        for chosen in np.array_split(rng.integers(len(split), size=config.whole_samples), config.whole_samples // 16):
            stored = split.read(ARRAYS, chosen, decode=False)
            batch = {
                name: decode(name, torch.from_numpy(value).to(self.group.device), self.dataset.depth_scale)
                for name, value in stored.items()
            }
            seeds = rng.integers(2**62, size=len(chosen)).tolist()
            crops = self._crops(batch, chosen, seeds)
            people = torch.from_numpy(split.index.subject[chosen].astype(np.int64)).to(self.group.device)
            stages.append(Stage(crops.images, crops.truth, people))
        model.eval()
        left = begin_whole(model, stages, self.space)
        model.train()
        if average is not None:
            average.restart(model)
        self.record("whole", {"left": left})
        self.throughput.pause()

    def _crops(self, batch: Mapping[str, torch.Tensor], samples: I64, seeds: list[int]) -> Crops:
        seen = self.truth.seen(samples, batch["intrinsics"], batch["world_to_camera"])
        network = self.config.network
        return training_crops(batch, seen, seeds, self.config.augment, self.space, network.image_size)

    def add_gradients(self, loaded: Loaded) -> dict[str, torch.Tensor]:
        """Crop and change pictures, and align them."""
        config, step = self.config, self.progress.step
        flow = config.network.kind == "flow"
        if flow and config.network.whole and step == config.coarse_steps and self._whole_at != step:
            self._whole_at = step  # once, however many batches make a step
            self._begin_whole()
        batch = {name: loaded.batch[name][:, 0] for name in ARRAYS}
        self._samples = loaded.batch["index"][:, 0].cpu().numpy()
        crops = self._crops(batch, self._samples, loaded.seeds)
        iterations = 0 if step < config.coarse_steps else None
        terms = align_loss(self.wrapped(crops.images, iterations), crops.truth, self.space, config.loss)
        (terms["loss"] / config.fit.accumulate).backward()  # type: ignore[no-untyped-call]
        if iterations == 0:
            fill_gradients(self.model)
        return terms

    def measure(self, split: str, samples: I64) -> Measured:
        """Measure some samples."""
        return measure_split(self.model, self.dataset, split, self.space, samples)

    def validate(self) -> str:
        """Measure the validation people, keep the network if it is the best so far, and say what was found."""
        measured = self.held_out()
        metrics = measured.metrics()
        self.record("val", metrics)
        self._calibration = calibrate(measured)
        self.keep_best(metrics["nme_percent"], metrics)
        self.throughput.pause()
        return f"step {self.progress.step}: the face is {metrics['nme_percent']:.2f} % of its size off, held out"

    def save_best(self) -> None:
        """Write ``best.pt``, which says what its uncertainty is worth also where the run ends before any validation."""
        if self._calibration is None and self.can_validate:
            self._calibration = calibrate(self.held_out())
        super().save_best()

    def content(self) -> dict[str, Any]:
        """Return what rebuilds the network elsewhere, and how far its uncertainty can be trusted."""
        return network_content(self.dataset, self.space, self._calibration)
