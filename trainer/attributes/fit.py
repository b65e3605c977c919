"""Fitting the parameter head: what the loop of :mod:`trainer.run.loop` works with."""

from __future__ import annotations

from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datagen.common.arrays import F64
from datagen.common.errors import DatasetError, InputError
from trainer.attributes.albedo import learn_albedo
from trainer.attributes.config import AttributesConfig
from trainer.attributes.data import ARRAYS, HeadTruth, skin_labels
from trainer.attributes.face_model import FaceModel, learn_face_model
from trainer.attributes.loss import attributes_loss
from trainer.attributes.measure import Measured, mean_places, measure_split
from trainer.attributes.network import AttributeNetwork, posed
from trainer.attributes.store import Head, head_content, read_head
from trainer.data import Loaded, TrainingLoader, clip_seed, describe_sample
from trainer.run.folder import RunState
from trainer.run.loop import Job, check_shares, run_job

_NAMED = 8


def fit_attributes(dataset_path: Path | str, run: Path, config: AttributesConfig) -> RunState:
    """Fit a parameter head, or resume a run that was stopped; parameters and errors as :func:`run_job`.

    Raises
    ------
    DatasetError
        Also if the dataset has no frame table, or its head model no parameters or landmarks.
    """
    return run_job(partial(AttributesJob, dataset_path, run, config), run, config)


class AttributesJob(Job[AttributesConfig]):
    """The parameter head being fitted."""

    model: AttributeNetwork
    _measured: Measured | None = None

    @cached_property
    def began_with(self) -> Head | None:
        """The network that the run starts from, if it is another run's."""
        if self.config.start is None:
            return None
        head = read_head(Path(self.config.start), self.group.device)
        head.check_fits(self.dataset)
        if head.config.network != self.config.network or head.config.backbone != self.config.backbone:
            raise InputError(
                f"start={self.config.start} has another network than this configuration",
                "the same keys of network and backbone",
                "Copy them from that run's config.json",
            )
        return head.to_learn_from()

    @cached_property
    def skin(self) -> torch.Tensor:
        """Labels of the face's skin."""
        return skin_labels(self.dataset)

    @cached_property
    def learnt(self) -> tuple[FaceModel, torch.Tensor, F64]:
        """The face model, the components of each subject's skin, and the mean places of landmarks."""
        dataset, network, before = self.dataset, self.config.network, self.began_with
        if before is not None:
            return before.face, before.face.albedo_std.new_zeros(len(dataset.plan.subjects), 0), before.mean_places
        face = learn_face_model(dataset, dataset.attrs.get("regions", {})).to(self.group.device)
        truth = HeadTruth(dataset["train"], face, self.skin, self.config.data.cache_mb)
        face, known = learn_albedo(dataset, face, truth, network.albedo, network.image_size)
        return face, known, mean_places(dataset, face, self.skin)

    @property
    def face(self) -> FaceModel:
        """The face model."""
        return self.learnt[0]

    @cached_property
    def truth(self) -> HeadTruth:
        """The training people's heads."""
        return HeadTruth(self.dataset["train"], self.face, self.skin, self.config.data.cache_mb)

    def open_loader(self) -> TrainingLoader:
        """Return batches of a few pictures of each person."""
        config = self.config
        self.dataset.require_faces()
        if not len(self.dataset["train"]):
            raise DatasetError(
                f"{self.dataset.url} has no training split", "people to learn from", "Build it with other splits"
            )
        loader = TrainingLoader(
            self.dataset,
            config.data,
            config.seed,
            self.group.device,
            arrays=ARRAYS,
            rank=self.group.rank,
            ranks=self.group.ranks,
        )
        check_shares(loader, config, config.data, self.group)
        return loader

    def build(self, *, fresh: bool) -> AttributeNetwork:
        """Return the network; of a run that begins, as the run it starts from left it."""
        model = AttributeNetwork(self.config, self.face)
        before, weights = self.began_with, self.config.network.weights
        if before is not None:
            model.load_state_dict(before.model.state_dict())
        elif fresh and weights is not None:
            model.scales.load(weights)
        return model

    def describe(self) -> str:
        """Say what is about to begin."""
        face, parameters = self.face, sum(p.numel() for p in self.model.parameters())
        return (
            f"{parameters / 1e6:.2f} M parameters on {self.group.ranks} × {self.group.device}, "
            f"{len(self.dataset['train'])} pictures, {len(face.identity_mean)} of identity, "
            f"{len(face.expression_mean)} of expression, {len(face.albedo_std)} of albedo, "
            f"from step {self.progress.step} of {self.config.fit.steps}"
        )

    def add_gradients(self, loaded: Loaded) -> dict[str, torch.Tensor]:
        """Crop and change pictures, and tell their parameters."""
        config, face = self.config, self.face
        length = loaded.batch["index"].shape[1]
        batch = {name: loaded.batch[name].flatten(0, 1) for name in ARRAYS}
        self._samples = loaded.batch["index"].flatten().cpu().numpy()
        seeds = [clip_seed(seed, 0, k, 0) for seed in loaded.seeds for k in range(length)]
        views, target = self.truth.crops(batch, self._samples, config.network.image_size, config.augment, seeds)
        told = self.wrapped(views.seen)
        known, before = self.learnt[1], self.began_with
        albedo = None
        if known.shape[1]:
            albedo = known[torch.from_numpy(self.dataset["train"].index.subject[self._samples].astype(np.int64))]
        anchor = None
        if config.loss.anchor and before is not None:
            with torch.no_grad():
                anchor = posed(before.model(views.seen), face, views).shape
        terms = attributes_loss(
            told, posed(told, face, views), views, target, face, config.loss, clip=length, albedo=albedo, anchor=anchor
        )
        (terms["loss"] / config.fit.accumulate).backward()  # type: ignore[no-untyped-call]
        # A head that no term asks has no gradient, and a checkpoint would lack its moments.
        for parameter in self.model.parameters():
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return terms

    def not_finite(self) -> InputError:
        """Name the last batch's samples."""
        split = self.dataset["train"]
        names = ", ".join(describe_sample(split, int(i)) for i in self._samples[:_NAMED])
        return InputError(
            f"the loss or its gradient is not finite at step {self.progress.step}; its last samples are {names}",
            "finite numbers",
            "Check these samples, or lower fit.learning_rate; last.pt is from before, and the run can resume from it",
        )

    @property
    def can_validate(self) -> bool:
        """Whether anybody was held out."""
        return len(self.dataset["val"]) > 0

    def _measure(self) -> Measured:
        """Measure the validation people, with the averaged weights if there are any."""
        spread = np.linspace(0, len(self.dataset["val"]) - 1, self.config.fit.val_samples)
        chosen = np.unique(spread.round().astype(np.int64))
        self.model.eval()
        with self.averaged():
            measured = measure_split(self.model, self.dataset, "val", self.face, self.skin, chosen)
        self.model.train()
        return measured

    def validate(self) -> str:
        """Measure the validation people, keep the network if it is the best so far, and say what was found."""
        self._measured = self._measure()
        metrics = self._measured.metrics(self.learnt[2])
        self.record("val", metrics)
        labelled = self.config.loss.vertices or self.config.loss.parameters
        # Without labels, only what pictures' landmarks say may choose.
        score = metrics["nme_ratio_mean"] + (metrics["vertices_ratio_mean"] if labelled else 0)
        self.keep_best(score, metrics)
        self.throughput.pause()
        return (
            f"step {self.progress.step}: held-out faces are {metrics['vertices_mm']:.2f} mm off (the mean face "
            f"{metrics['mean_head_vertices_mm']:.2f}), landmarks {metrics['nme_percent']:.2f} % of the face's size"
        )

    def save_best(self) -> None:
        """Write ``best.pt``, which says what its uncertainty is worth also where the run ends before any validation."""
        if self._measured is None and self.can_validate:
            self._measured = self._measure()
        super().save_best()

    def content(self) -> dict[str, Any]:
        """Return what rebuilds the network elsewhere, and how far its uncertainty can be trusted."""
        measured = self._measured
        temperatures = measured.temperatures() if measured is not None else None
        error = measured.neutral_error_mm() if measured is not None else None
        return head_content(self.dataset, self.face, self.learnt[2], temperatures, error)
