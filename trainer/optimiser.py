"""The optimiser: AdamW, decay for matrices only, lower rates for earlier blocks; and an average of weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from trainer.config import FitConfig

_BLOCK = re.compile(r"^backbone\.blocks\.(\d+)\.")
_A_BLOCK = re.compile(r"backbone\.blocks\.\d+")


def make_optimiser(model: nn.Module, config: FitConfig) -> torch.optim.AdamW:
    """Return AdamW over the model's parameters, in groups.

    The rate of a backbone block is that of the decoders times ``backbone_rate`` times ``layer_decay`` to the number of
    blocks above it; embeddings lie below the first block (Clark et al., ELECTRA, ICLR 2020; BEiT). Biases, norms,
    scales and embeddings have no weight decay: they are not weights of a linear map, and decay would only pull them
    from where they belong.
    """
    # Networks of other kinds have no such blocks, and one rate.
    blocks = sum(1 for name, _ in model.named_modules() if _A_BLOCK.fullmatch(name))
    groups: dict[tuple[float, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        share = rate_share(name, blocks, config)
        groups.setdefault((share, _decays(name, parameter)), []).append(parameter)
    settings: list[dict[str, Any]] = [
        {"params": parameters, "rate_share": share, "weight_decay": config.weight_decay if decays else 0.0}
        for (share, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]
    return torch.optim.AdamW(settings, lr=config.learning_rate, betas=(0.9, config.beta2))


def rate_share(name: str, blocks: int, config: FitConfig) -> float:
    """Return what share of the learning rate a parameter has.

    Parameters
    ----------
    name : str
        As ``named_parameters`` gives it.
    blocks : int
        Of the backbone.
    """
    if not name.startswith("backbone."):
        return 1.0
    block = _BLOCK.match(name)
    if block is not None:
        above = blocks - 1 - int(block.group(1))
    else:
        above = 0 if name.startswith("backbone.norm.") else blocks
    return config.backbone_rate * config.layer_decay**above


def learning_rate(step: int, config: FitConfig) -> float:
    """Return the rate of a step (from 0): linear warm-up, then a cosine down to ``final_rate`` of the peak."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    share = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    cosine = 0.5 * (1 + math.cos(math.pi * min(share, 1)))
    return config.learning_rate * (config.final_rate + (1 - config.final_rate) * cosine)


def set_rates(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of a rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["rate_share"]


def _decays(name: str, parameter: torch.nn.Parameter) -> bool:
    return parameter.ndim >= 2 and "embeddings" not in name


# The average of few steps must forget its random start quickly: decay is at most (1 + n) / (10 + n) after n updates.
_EARLY = 10


class MovingAverage:
    """Averaged weights of a model, float32.

    Parameters
    ----------
    decay : float
        In [0, 1): what each update keeps of the average.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._updates = 0
        self._average = {name: p.detach().clone().float() for name, p in _learnt(model)}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Update the average with the model's weights after a step."""
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (_EARLY + self._updates))
        for name, p in _learnt(model):
            self._average[name].lerp_(p.detach().float(), 1 - decay)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Give the model the averaged weights inside a ``with`` block."""
        kept = {name: p.detach().clone() for name, p in _learnt(model)}
        try:
            _assign(model, self._average)
            yield
        finally:
            _assign(model, kept)

    def give(self, model: nn.Module) -> None:
        """Give the model the averaged weights for good."""
        _assign(model, self._average)

    def restart(self, model: nn.Module) -> None:
        """Begin again at the model's weights."""
        for name, p in _learnt(model):
            self._average[name].copy_(p.detach().float())

    def state_dict(self) -> dict[str, object]:
        """Return what a checkpoint keeps."""
        return {"updates": self._updates, "average": self._average}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on from a checkpoint; KeyError or ValueError if it belongs to another model."""
        average, updates = state["average"], state["updates"]
        if not isinstance(average, dict) or not isinstance(updates, int) or average.keys() != self._average.keys():
            raise ValueError("the averaged weights are those of another model")
        for name, value in average.items():
            self._average[name].copy_(value)
        self._updates = updates


def _learnt(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


@torch.no_grad()
def _assign(model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    for name, p in _learnt(model):
        p.copy_(weights[name])
