"""An exponential moving average of the weights, which is often better than the last ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

# The average of few steps must forget its random start quickly: decay is at most (1 + n) / (10 + n) after n updates.
_EARLY = 10


class MovingAverage:
    """Averaged weights of a model, float32.

    Parameters
    ----------
    model : nn.Module
    decay : float
        In [0, 1): what each update keeps of the average.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._updates = 0
        self._average = {name: p.detach().clone().float() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the model's weights after a step."""
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (_EARLY + self._updates))
        for name, p in model.named_parameters():
            self._average[name].lerp_(p.detach().float(), 1 - decay)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Give the model the averaged weights for the length of a block."""
        kept = {name: p.detach().clone() for name, p in model.named_parameters()}
        try:
            _assign(model, self._average)
            yield
        finally:
            _assign(model, kept)

    def state_dict(self) -> dict[str, object]:
        """Return what a checkpoint keeps."""
        return {"updates": self._updates, "average": self._average}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on from a checkpoint; KeyError or ValueError if it is of another model."""
        average, updates = state["average"], state["updates"]
        if not isinstance(average, dict) or not isinstance(updates, int) or average.keys() != self._average.keys():
            raise ValueError("the averaged weights are those of another model")
        for name, value in average.items():
            self._average[name].copy_(value)
        self._updates = updates


@torch.no_grad()
def _assign(model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    for name, p in model.named_parameters():
        p.copy_(weights[name])
