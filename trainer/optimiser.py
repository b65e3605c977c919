"""The optimiser: AdamW, decay for matrices only, and lower rates for earlier blocks of a pretrained backbone."""

from __future__ import annotations

import math
import re
from typing import Any

import torch

from trainer.config import FitConfig
from trainer.model.joint import JointModel

_BLOCK = re.compile(r"^backbone\.blocks\.(\d+)\.")


def make_optimiser(model: JointModel, config: FitConfig) -> torch.optim.AdamW:
    """Return AdamW over the model's parameters, in groups.

    The rate of a backbone block is that of the decoders times ``backbone_rate`` times ``layer_decay`` to the number of
    blocks above it; embeddings lie below the first block (Clark et al., ELECTRA, ICLR 2020; BEiT). Biases, norms,
    scales and embeddings have no weight decay: they are no weights of a linear map, and decay would only pull them
    from where they belong.
    """
    blocks = len(model.backbone.blocks)
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
    config : FitConfig
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
