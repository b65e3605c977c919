"""What runs share that learn from single pictures with the frame table's truth: networks beside the joint model."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import nn

from datagen.common.arrays import I64
from datagen.common.errors import CheckpointError, DatasetError, InputError
from datagen.common.files import json_ready
from datagen.shards import Dataset
from trainer.config import RunConfigT
from trainer.data import TrainingLoader, describe_sample
from trainer.inference import filled_split
from trainer.run.loop import Job, check_shares

MeasuredT = TypeVar("MeasuredT")
_NAMED = 8


class PictureJob(Job[RunConfigT], Generic[RunConfigT, MeasuredT]):
    """A run whose batches are pictures of a dataset with a frame table, each measured by itself.

    Attributes
    ----------
    arrays : tuple of str
        What is read of each sample.
    """

    arrays: ClassVar[tuple[str, ...]]
    _samples: I64  # of the last batch

    @abstractmethod
    def measure(self, split: str, samples: I64) -> MeasuredT:
        """Measure some samples with the model as it is."""

    def open_loader(self) -> TrainingLoader:
        """Return batches of pictures."""
        self.dataset.require_faces()
        if not len(self.dataset["train"]):
            raise DatasetError(
                f"{self.dataset.url} has no training split", "people to learn from", "Build it with other splits"
            )
        group = self.group
        loader = TrainingLoader(
            self.dataset,
            self.config.data,
            self.config.seed,
            group.device,
            arrays=self.arrays,
            rank=group.rank,
            ranks=group.ranks,
        )
        check_shares(loader, self.config, self.config.data, group)
        return loader

    def size_text(self) -> str:
        """Say how large the network is, where it is fitted, and on how many pictures."""
        parameters = sum(p.numel() for p in self.model.parameters())
        return (
            f"{parameters / 1e6:.2f} M parameters on {self.group.ranks} × {self.group.device}, "
            f"{len(self.dataset['train'])} pictures"
        )

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

    def held_out(self) -> MeasuredT:
        """Measure the validation people, with the averaged weights if there are any."""
        chosen = spread_samples(self.dataset, "val", self.config.fit.val_samples)
        self.model.eval()
        with self.averaged():
            measured = self.measure("val", chosen)
        self.model.train()
        return measured


@dataclass(frozen=True)
class SplitMetrics:
    """What was measured of a network on a split.

    Attributes
    ----------
    samples : int
        Measured.
    step : int or None
        Of the network's run.
    metrics : dict
        By name, as the network's page has them.
    """

    split: str
    samples: int
    step: int | None
    metrics: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        content = {"split": self.split, "samples": self.samples, "step": self.step, "figures": self.metrics}
        found: dict[str, Any] = json_ready(content)
        return found

    @property
    def heading(self) -> str:
        """What was measured, in a line."""
        return f"{self.samples} pictures of {self.split}, step {self.step}"


def spread_samples(dataset: Dataset, split: str, count: int | None) -> I64:
    """Return at most so many samples of a split, evenly spread; all by default.

    Raises
    ------
    InputError
        If the split holds none.
    """
    held = len(filled_split(dataset, split))
    return np.unique(np.linspace(0, held - 1, min(count or held, held)).round().astype(np.int64))


def fill_gradients(model: nn.Module) -> None:
    """Give every parameter a gradient: what no term asks has none, and a checkpoint would lack its moments."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def learnt_from(dataset: Dataset) -> dict[str, Any]:
    """Return what a checkpoint says of the dataset that a network learnt from."""
    space = dataset.attrs.get("space", {})
    return {
        "uuid": dataset.uuid,
        "template": str(space.get("template_digest", "")),
        "head": str(space.get("head")),
    }


def check_template(dataset: Dataset, template: str, head: str, task: str) -> None:
    """Refuse a dataset of another template than a network has learnt; CheckpointError.

    Parameters
    ----------
    template, head : str
        Digest and name of what the network knows.
    task : str
        What it does, such as "aligns the template".
    """
    given = learnt_from(dataset)
    if given["template"] != template:
        raise CheckpointError(
            f"the network {task} of {head} ({template[:12]}), the dataset's template is of {given['head']} "
            f"({given['template'][:12]})",
            "a dataset of the same template",
            "Give one, or fit a network on this dataset",
        )


def nobody_held_out() -> CheckpointError:
    """Return the error of a network whose uncertainty was never held against people it has not learnt from."""
    return CheckpointError(
        "the run had no validation people, so that nobody knows what its uncertainty is worth",
        "a network fitted on a dataset with a val split",
        "Build the dataset with splits.val, and fit again",
    )
