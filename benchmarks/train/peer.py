"""Depth Anything 3's own network, from its public package, with the sizes of one of our configurations.

The package (``depth-anything-3``) is not a dependency. tests/trainer/model/test_model_parity.py shows that both
networks compute the same: a ratio of times is thus one of implementations.
"""

from __future__ import annotations

import importlib
import os
import statistics
import time
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from trainer.config import TrainConfig, load_config
from trainer.evaluation.speed import memory_permitting, wait_for

_NAMES = {"small": "vits", "base": "vitb", "large": "vitl", "giant": "vitg"}
_MODULES = ("dinov2.dinov2", "dualdpt", "dpt", "cam_dec")


class Peer:
    """Their transformer, depth and ray decoder, camera decoder, and Face Anything's decoder, random weights.

    Parameters
    ----------
    theirs : SimpleNamespace
        Modules of the package, by the last part of their names.
    size : str
        A configuration of ours with a counterpart.
    config : TrainConfig
    device : torch.device
    """

    def __init__(self, theirs: SimpleNamespace, size: str, config: TrainConfig, device: torch.device) -> None:
        b, d = config.backbone, config.decoder
        sizes = {"features": d.channels, "out_channels": list(d.reassemble)}
        backbone = theirs.dinov2.DinoV2(_NAMES[size], list(b.taken), b.start, b.start, b.start, True)
        canonical = theirs.dpt.DPT(
            b.width, output_dim=4, head_name="deformation", use_sky_head=False, activation="linear", **sizes
        )
        parts = {
            "backbone": backbone,
            "head": theirs.dualdpt.DualDPT(b.width, output_dim=2, **sizes),
            "canonical": canonical,
            "camera": theirs.cam_dec.CameraDec(b.width),
        }
        self._parts: Any = nn.ModuleDict(parts).to(device).eval()
        self._low = b.precision == "bfloat16" or (b.precision == "auto" and device.type == "cuda")
        self._frames_at_once = d.frames_at_once

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> object:
        """Predict clips (B, S, 3, H, W), the transformer in the precision that ours has, decoders in float32."""
        height, width, device = images.shape[-2], images.shape[-1], images.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self._low):
            features, _ = self._parts["backbone"](images)
        with torch.autocast(device, enabled=False):
            features = [(patches.float(), camera.float()) for patches, camera in features]
            where = {"patch_start_idx": 0, "chunk_size": self._frames_at_once}
            maps = self._parts["head"](features, height, width, **where)
            canonical = self._parts["canonical"](features, height, width, **where)
            return maps, canonical, self._parts["camera"](features[-1][1])


def open_peer(config: TrainConfig, device: torch.device) -> Peer | str:
    """Return their network, or why there is none to compare with, in one line."""
    size = counterpart(config)
    if size is None:
        return f"configuration {config.name} has no counterpart in Depth Anything 3; {', '.join(_NAMES)} have"
    os.environ.setdefault("DA3_LOG_LEVEL", "ERROR")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            modules = [importlib.import_module(f"depth_anything_3.model.{name}") for name in _MODULES]
    except ImportError as error:
        return f"no ratio to depth-anything-3: {error.name} is not importable (docs/trainer.md, Parity, says how)"
    theirs = SimpleNamespace(**{name.rpartition(".")[2]: m for name, m in zip(_MODULES, modules, strict=True)})
    with memory_permitting():
        return Peer(theirs, size, config, device)
    return "no ratio to depth-anything-3: there is not enough memory for both networks"


def counterpart(config: TrainConfig) -> str | None:
    """Return the published size whose network a configuration has; None if it has none."""
    how = {"precision", "checkpoint_every"}, {"frames_at_once"}

    def network(c: TrainConfig) -> tuple[Any, ...]:
        return c.backbone.model_dump(exclude=how[0]), c.decoder.model_dump(exclude=how[1]), c.heads

    return next((size for size in _NAMES if network(load_config(size)) == network(config)), None)


def measure_ratio(
    ours: Callable[[], object], theirs: Callable[[], object], device: torch.device, seconds: float, repeats: int
) -> float:
    """Return the median of their time over ours, measured in turns."""
    theirs()
    ratios: list[float] = []
    began = time.perf_counter()
    while len(ratios) < repeats and not (ratios and time.perf_counter() - began > seconds):
        ratios.append(_seconds(theirs, device) / _seconds(ours, device))
    return statistics.median(ratios)


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    wait_for(device)
    start = time.perf_counter()
    call()
    wait_for(device)
    return time.perf_counter() - start
