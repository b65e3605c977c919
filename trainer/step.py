"""What a training step does with each of its batches; fitting and its benchmark share it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from datagen.common.errors import InputError
from datagen.shards import Split
from trainer.augmentation import augment
from trainer.config import TrainConfig
from trainer.data import Batch, Loaded, describe_sample, normalise
from trainer.losses import joint_loss
from trainer.model.joint import DepthUnit, Prediction

_NAMED = 8  # samples, where the loss is not finite


def _no_mark(_name: str) -> None:
    return


class Gradients:
    """Adds the gradients of one batch after another to a model's parameters.

    Parameters
    ----------
    wrapped : nn.Module
        The model, or what stands in for it: compiled, or shared by several processes.
    unit : DepthUnit
        Of the model.
    mark : callable
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
        self, wrapped: nn.Module, unit: DepthUnit, config: TrainConfig, mark: Callable[[str], None] = _no_mark
    ) -> None:
        self._wrapped, self._unit, self._config, self._mark = wrapped, unit, config, mark

    def add(self, loaded: Loaded) -> dict[str, torch.Tensor]:
        """Augment a batch, predict it, add the gradients of its share of a step's loss; return the terms."""
        self.batch = augment(loaded.batch, self._config.augment, loaded.seeds, views=loaded.views)
        self.batch["image"] = normalise(self.batch["image"])
        self._mark("augment")
        self.prediction = self._wrapped(self.batch["image"], self.batch["intrinsics"])
        terms = joint_loss(self.prediction, self.batch, self._unit, self._config.loss)
        self._mark("forward")
        (terms["loss"] / self._config.fit.accumulate).backward()  # type: ignore[no-untyped-call]
        self._mark("backward")
        return terms

    def not_finite(self, step: int, split: Split) -> InputError:
        """Return the error of a loss or gradient that is NaN or infinite, naming the samples it may come from."""
        batch, prediction = self.batch, self.prediction
        maps = [batch[name] for name in ("image", "depth", "canonical", "confidence")]
        maps += [prediction.depth_m, prediction.canonical, prediction.depth_confidence, prediction.canonical_confidence]
        finite = torch.stack([m.isfinite().flatten(2).all(-1) for m in maps]).all(0)
        suspects = batch["index"][~finite] if not finite.all() else batch["index"].flatten()
        names = ", ".join(describe_sample(split, int(i)) for i in suspects.flatten()[:_NAMED])
        more = f" and {suspects.numel() - _NAMED} more" if suspects.numel() > _NAMED else ""
        what = "samples with undefined values" if not finite.all() else "its samples, all of them finite,"
        return InputError(
            f"the loss or its gradient is not finite at step {step}; {what} are {names}{more}",
            "finite numbers",
            "Check these samples, or lower fit.learning_rate; last.pt is from before, and the run can resume from it",
        )
