"""What no other benchmark measures of a device: model FLOPs utilisation, and whether it computes what a CPU does.

``python -m benchmarks.gpu.checks NAME …`` prints the figures of one check as JSON, so that it can be stopped in time.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.train.material import random_batch, random_clip
from trainer.config import TrainConfig, load_config
from trainer.evaluation.speed import wait_for
from trainer.model.joint import DepthUnit, JointModel
from trainer.run.checkpoint import pick_device
from trainer.step import Gradients

_ROUNDS = 5
_CPU_SIDE, _CUDA_SIDE = 512, 8192  # of the square matrices that tell what a device can do at best


def new_model(config: TrainConfig, size: int, device: torch.device) -> JointModel:
    """Return a model of random weights, the same numbers on every device."""
    torch.manual_seed(config.seed)
    return JointModel(config, size, DepthUnit(config.depth.normalisation, 1.0, 0.1, 1.0)).to(device)


def utilisation(config: TrainConfig, size: int, frames: int, device: torch.device) -> dict[str, float]:
    """Return model FLOPs utilisation of training steps: counted operations over time, over what matrices reach.

    The operations are those of forward and backward pass as torch counts them (matrix products and convolutions;
    recomputed ones count, as they are done). The denominator is measured: the best of plain products of large matrices
    in the same precision, not a number from a data sheet.
    """
    model = new_model(config, size, device).train()
    gradients = Gradients(model, model.depth_unit, config)
    batch = random_batch(1, frames, size, config.seed, device)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        gradients.add(batch)

    with FlopCounterMode(display=False) as counter:
        step()
    flops = float(counter.get_total_flops())
    seconds = _seconds(step, device)
    low = config.backbone.precision == "bfloat16" or (config.backbone.precision == "auto" and device.type == "cuda")
    best = matrix_flops(device, torch.bfloat16 if low else torch.float32)
    return {
        "mfu": flops / seconds / best,
        "step_tflop": flops / 1e12,
        "step_tflop_per_s": flops / seconds / 1e12,
        "matrix_tflop_per_s": best / 1e12,
    }


def matrix_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return operations a second of the product of two large square matrices."""
    side = _CUDA_SIDE if device.type == "cuda" else _CPU_SIDE
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / _seconds(lambda: a @ b, device)


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    call()
    taken = []
    for _ in range(_ROUNDS):
        wait_for(device)
        began = time.perf_counter()
        call()
        wait_for(device)
        taken.append(time.perf_counter() - began)
    return median(taken)


def agreement(config: TrainConfig, size: int, frames: int, device: torch.device) -> dict[str, float]:
    """Return how far a device's maps are from the CPU's, each relative to its largest value.

    ``float32`` with the full precision of its matrix products; ``low`` as the configuration computes there.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    exact = config.model_copy(update={"backbone": config.backbone.model_copy(update={"precision": "float32"})})
    images, intrinsics = random_clip(frames, size, config.seed, torch.device("cpu"))
    wanted = _maps(exact, size, torch.device("cpu"), images, intrinsics)
    found = {
        "float32": _maps(exact, size, device, images, intrinsics),
        "low": _maps(config, size, device, images, intrinsics),
    }
    return {
        f"{map_}_{how}": float(np.abs(maps[map_] - wanted[map_]).max() / np.abs(wanted[map_]).max())
        for how, maps in found.items()
        for map_ in wanted
    }


def _maps(
    config: TrainConfig, size: int, device: torch.device, images: torch.Tensor, intrinsics: torch.Tensor
) -> dict[str, np.ndarray]:
    model = new_model(config, size, torch.device("cpu")).to(device).eval()
    with torch.inference_mode():
        p = model(images.to(device), intrinsics.to(device))
    return {"depth": p.depth_m.float().cpu().numpy(), "canonical": p.canonical.float().cpu().numpy()}


CHECKS = {"utilisation": utilisation, "agreement": agreement}


def main() -> None:
    """Print the figures of a check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("check", choices=sorted(CHECKS))
    parser.add_argument("--config", default="small")
    parser.add_argument("--size", type=int, default=504)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    figures = CHECKS[given.check](load_config(given.config), given.size, given.frames, pick_device(given.device))
    print(json.dumps({"figures": figures}))


if __name__ == "__main__":
    main()
