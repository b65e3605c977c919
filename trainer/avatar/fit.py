"""Fitting an avatar: what the loop of :mod:`trainer.run.loop` works with."""

from __future__ import annotations

from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datagen.common.arrays import I64
from datagen.common.errors import InputError
from trainer.attributes.face_model import lay_on
from trainer.avatar.appearance import Basis, principal_shapes
from trainer.avatar.config import AvatarConfig
from trainer.avatar.data import ARRAYS, Studio, studio_person
from trainer.avatar.loss import studio_loss
from trainer.avatar.network import Avatar
from trainer.avatar.skin import Skin, learn_skin
from trainer.avatar.store import avatar_content
from trainer.data import Loaded, TrainingLoader, clip_seed
from trainer.run.folder import RunState
from trainer.run.loop import run_job
from trainer.run.pictures import PictureJob, fill_gradients

_MOST_ROWS, _MOST_PICTURES = 4096, 64
_TOGETHER = 16


def fit_avatar(dataset_path: Path | str, run: Path, config: AvatarConfig) -> RunState:
    """Fit an avatar of the one person of a dataset, or resume a run that was stopped.

    Parameters and errors as :func:`run_job`.

    Raises
    ------
    DatasetError
        Also if the dataset has no frame table, or not one person to learn from.
    """
    return run_job(partial(AvatarJob, dataset_path, run, config), run, config)


class AvatarJob(PictureJob[AvatarConfig, None]):
    """The avatar being fitted."""

    model: Avatar
    arrays = ARRAYS

    @cached_property
    def skin(self) -> Skin:
        """The skin of the template."""
        found = learn_skin(self.dataset.template, self.dataset.attrs.get("regions", {}), self.config.network.texture)
        return found.to(self.group.device)

    @cached_property
    def basis(self) -> Basis:
        """What the person's meshes and textures count from."""
        return learn_basis(self.studio_of(self.template_mean), self.config)

    @property
    def template_mean(self) -> torch.Tensor:
        """The template's own vertices."""
        return torch.from_numpy(self.dataset.template.vertices).to(self.group.device).float()[self.skin.vertices]

    def studio_of(self, mean: torch.Tensor) -> Studio:
        """Return the pictures, with the face's axes laid on a mesh."""
        return Studio(self.dataset, self.skin, mean, self.config.data.cache_mb)

    @cached_property
    def studio(self) -> Studio:
        """The pictures, with the face's axes laid on the person's mean mesh."""
        return self.studio_of(self.model.appearance.mean)

    def open_loader(self) -> TrainingLoader:
        """Return batches of a few cameras of each instant."""
        studio_person(self.dataset)
        if self.group.ranks > 1:
            raise InputError(
                f"an avatar fitted by {self.group.ranks} processes",
                "one: it is a person's, and small",
                "Leave torchrun out",
            )
        return super().open_loader()

    def build(self, *, fresh: bool) -> Avatar:
        """Return the avatar, before it has learnt anything."""
        del fresh
        return Avatar(self.config.network, self.basis, self.skin)

    def describe(self) -> str:
        """Say what is about to begin."""
        return (
            f"{self.size_text()}, {len(self.skin.vertices)} vertices, {len(self.skin.texels)} "
            f"texels, from step {self.progress.step} of {self.config.fit.steps}"
        )

    def add_gradients(self, loaded: Loaded) -> dict[str, torch.Tensor]:
        """Crop and change pictures, and tell their states."""
        config, length = self.config, loaded.batch["index"].shape[1]
        batch = {name: loaded.batch[name].flatten(0, 1) for name in ARRAYS}
        self._samples = loaded.batch["index"].flatten().cpu().numpy()
        seeds = [clip_seed(seed, 0, k, 0) for seed in loaded.seeds for k in range(length)]
        views, truth = self.studio.crops(batch, self._samples, config.network.image_size, config.augment, seeds)
        draws = torch.Generator().manual_seed(seeds[0] % 2**63)
        noise = torch.randn(len(seeds), config.network.state, generator=draws).to(self.group.device)
        terms = studio_loss(self.model, views, truth, config.loss, clip=length, noise=noise)
        (terms["loss"] / config.fit.accumulate).backward()  # type: ignore[no-untyped-call]
        fill_gradients(self.model)
        return terms

    @property
    def can_validate(self) -> bool:
        """Nobody is held out: there is one person."""
        return False

    def measure(self, split: str, samples: I64) -> None:
        """Not called."""

    def validate(self) -> str:
        """Not called."""
        return ""

    def content(self) -> dict[str, Any]:
        """Return what rebuilds the avatar elsewhere."""
        return avatar_content(self.dataset, self.skin)


def learn_basis(studio: Studio, config: AvatarConfig) -> Basis:
    """Return the person's mean mesh, principal shapes and mean texture."""
    frames, skin = studio.split.frames, studio.skin
    rows = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), _MOST_ROWS)).round().astype(np.int64))
    heads = torch.from_numpy(frames.vertices(rows)).to(studio.mean.device)[:, skin.vertices]
    mean = studio.mean
    for _ in range(2):
        laid, _ = lay_on(heads, mean, skin.is_face)
        mean = laid.mean(0)
    laid, _ = lay_on(heads, mean, skin.is_face)
    _, shapes = principal_shapes(laid, config.network.components)
    total = torch.zeros(len(skin.texels), 3, device=mean.device)
    count = torch.zeros(len(skin.texels), 1, device=mean.device)
    own = Studio(studio.dataset, skin, mean)
    chosen = studio.spread(_MOST_PICTURES)
    for first in range(0, len(chosen), _TOGETHER):
        samples = chosen[first : first + _TOGETHER]
        _, truth = own.crops(own.batch(samples), samples, config.network.image_size)
        weights = truth.texture.weights[..., None]
        total += (truth.texture.colours * weights).sum(0)
        count += weights.sum(0)
    seen = count[:, 0] > 0
    texture = total / count.clamp(min=1e-6)
    texture[~seen] = texture[seen].mean(0) if bool(seen.any()) else 0.5
    return Basis(mean, shapes, texture)
