"""What a training step does with each of its batches; fitting and its benchmark share it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from trainer.augmentation import augment
from trainer.config import TrainConfig
from trainer.data import Batch, Loaded, normalise
from trainer.depth_unit import DepthUnit
from trainer.losses import joint_loss
from trainer.model.joint import Prediction


def _no_lap(_name: str) -> None:
    return


class Gradients:
    """Adds the gradients of one batch after another to a model's parameters.

    Parameters
    ----------
    called : nn.Module
        The model, or what stands in for it: compiled, or shared by several processes.
    unit : DepthUnit
        Of the model.
    config : TrainConfig
    lap : callable
        Called with ``augment``, ``forward`` (the loss included) and ``backward`` as each is done.

    Attributes
    ----------
    batch : Batch
        The last batch as the network saw it.
    prediction : Prediction
        What the network made of it.
    """

    batch: Batch
    prediction: Prediction

    def __init__(
        self, called: nn.Module, unit: DepthUnit, config: TrainConfig, lap: Callable[[str], None] = _no_lap
    ) -> None:
        self._called, self._unit, self._config, self._lap = called, unit, config, lap

    def add(self, loaded: Loaded) -> dict[str, torch.Tensor]:
        """Augment a batch, predict it, add the gradients of its share of a step's loss; return the terms."""
        self.batch = augment(loaded.batch, self._config.augment, loaded.seeds, views=loaded.views)
        self.batch["image"] = normalise(self.batch["image"])
        self._lap("augment")
        self.prediction = self._called(self.batch["image"], self.batch["intrinsics"])
        terms = joint_loss(self.prediction, self.batch, self._unit, self._config.loss)
        self._lap("forward")
        (terms["loss"] / self._config.fit.accumulate).backward()  # type: ignore[no-untyped-call]
        self._lap("backward")
        return terms
