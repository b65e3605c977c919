"""Fitting the parameter head: what the loop of :mod:`trainer.run.loop` works with."""

from __future__ import annotations

from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datagen.common.arrays import I64
from datagen.common.errors import InputError
from trainer.attributes.albedo import learn_albedo
from trainer.attributes.config import AttributesConfig
from trainer.attributes.data import ARRAYS, HeadTruth, skin_labels
from trainer.attributes.face_model import FaceModel, learn_face_model
from trainer.attributes.loss import attributes_loss, point_distance
from trainer.attributes.measure import Measured, mean_crops, measure_split
from trainer.attributes.network import AttributeNetwork, posed
from trainer.attributes.store import FOCAL, NO_FOCAL, Head, head_content, read_head
from trainer.data import Loaded, clip_seed
from trainer.run.folder import RunState
from trainer.run.loop import run_job
from trainer.run.pictures import PictureJob, fill_gradients


def fit_attributes(dataset_path: Path | str, run: Path, config: AttributesConfig) -> RunState:
    """Fit a parameter head, or resume a run that was stopped; parameters and errors as :func:`run_job`.

    Raises
    ------
    DatasetError
        Also if the dataset has no frame table, or its head model no parameters or landmarks.
    """
    return run_job(partial(AttributesJob, dataset_path, run, config), run, config)


class AttributesJob(PictureJob[AttributesConfig, Measured]):
    """The parameter head being fitted."""

    model: AttributeNetwork
    arrays = ARRAYS
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
    def learnt(self) -> tuple[FaceModel, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The face model, components of each subject's skin, mean places of vertices, and angles of crops."""
        dataset, network, before = self.dataset, self.config.network, self.began_with
        if before is not None:
            nobody = before.face.albedo_std.new_zeros(len(dataset.plan.subjects), 0)
            return before.face, nobody, before.model.mean_points, before.model.angles
        face = learn_face_model(dataset, dataset.attrs.get("regions", {}), network.form).to(self.group.device)
        truth = HeadTruth(dataset["train"], face, self.skin, self.config.data.cache_mb)
        face, known = learn_albedo(dataset, face, truth, network.albedo, network.image_size)
        return face, known, *mean_crops(dataset, face, self.skin)

    @property
    def face(self) -> FaceModel:
        """The face model."""
        return self.learnt[0]

    @cached_property
    def truth(self) -> HeadTruth:
        """The training people's heads."""
        return HeadTruth(self.dataset["train"], self.face, self.skin, self.config.data.cache_mb)

    def build(self, *, fresh: bool) -> AttributeNetwork:
        """Return the network; of a run that begins, as the run it starts from left it."""
        model = AttributeNetwork(self.config, self.face)
        model.mean_points.copy_(self.learnt[2])
        model.angles.copy_(self.learnt[3])
        before, weights = self.began_with, self.config.network.weights
        if before is not None:
            model.load_state_dict(before.model.state_dict())
        elif fresh and weights is not None:
            model.scales.load(weights)
        return model

    def describe(self) -> str:
        """Say what is about to begin."""
        face = self.face
        return (
            f"{self.size_text()}, {len(face.form_dual)} of form, "
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
        alone = self.progress.step < config.points_steps
        views, target = self.truth.crops(
            batch, self._samples, config.network.image_size, config.augment, seeds, length, light=not alone
        )
        if alone:
            points = config.loss.points * point_distance(self.wrapped(views.seen, None), target)
            return self._backward({"points": points, "loss": points})
        told = self.wrapped(views.seen, views.angle)
        known, before = self.learnt[1], self.began_with
        albedo = None
        if known.shape[1]:
            albedo = known[torch.from_numpy(self.dataset["train"].index.subject[self._samples].astype(np.int64))]
        anchor = None
        if config.loss.anchor and before is not None:
            with torch.no_grad():
                anchor = posed(before.model(views.seen, views.angle), face, views).shape
        terms = attributes_loss(
            told, posed(told, face, views), views, target, face, config.loss, clip=length, albedo=albedo, anchor=anchor
        )
        return self._backward(terms)

    def _backward(self, terms: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        (terms["loss"] / self.config.fit.accumulate).backward()  # type: ignore[no-untyped-call]
        fill_gradients(self.model)
        return terms

    def measure(self, split: str, samples: I64) -> Measured:
        """Measure some samples."""
        return measure_split(self.model, self.dataset, split, self.face, self.skin, samples)

    def validate(self) -> str:
        """Measure the validation people, keep the network if it is the best so far, and say what was found."""
        self._measured = self.held_out()
        metrics = self._measured.metrics(self.model.mean_places(self.face))
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
            self._measured = self.held_out()
        super().save_best()

    def content(self) -> dict[str, Any]:
        """Return what rebuilds the network elsewhere, and how far its uncertainty can be trusted."""
        measured = self._measured
        temperatures = measured.temperatures() if measured is not None else None
        error = (
            {name: measured.neutral_error_mm(focal=name == FOCAL) for name in (FOCAL, NO_FOCAL)} if measured else None
        )
        return head_content(self.dataset, self.face, temperatures, error)
