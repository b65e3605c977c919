"""A small model that has learnt the ellipsoids of trainer_scene, and clips of them, for the tests of prediction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from tests.support.trainer_scene import DISTANCE_M, HALF_EXTENT_M, SPACE, render
from trainer.config import load_config
from trainer.data import normalise
from trainer.model.joint import DepthUnit, JointModel
from trainer.prediction.store import PredictedFrame
from trainer.prediction.video import VideoWriter
from trainer.run.checkpoint import model_content, save_checkpoint

SIDE = 28
FOCAL_OVER_WIDTH = 2.6


def clip(subject: int, frames: int, side: int = SIDE) -> list[dict[str, np.ndarray]]:
    """Return all true maps of a turning ellipsoid."""
    return [render(subject, frame, 0, 1, side) for frame in range(frames)]


def truth(view: dict[str, np.ndarray]) -> PredictedFrame:
    """Return the frame a perfect model would predict."""
    surface = view["depth"] > 0
    sure = np.where(surface, 100.0, 1.0).astype(np.float32)
    return PredictedFrame(
        view["image"],
        view["depth"],
        view["normal"].astype(np.float32),
        view["canonical"],
        sure,
        sure,
        surface.astype(np.float32),
        surface,
        view["intrinsics"],
        np.eye(4, dtype=np.float32),
    )


def write_video(path: Path) -> None:
    """Write twelve frames of 56 × 42: the middle of the ellipsoid's square."""
    with VideoWriter(path, 12.5) as writer:
        for view in clip(1, 12, 56):
            writer.add(np.ascontiguousarray(view["image"].transpose(1, 2, 0)[7:49]))


def write_photos(folder: Path) -> None:
    """Write three pictures, f8 to f10."""
    folder.mkdir()
    for k, view in enumerate(clip(3, 3)):
        Image.fromarray(view["image"].transpose(1, 2, 0)).save(folder / f"f{k + 8}.png")


def write_learnt_checkpoint(path: Path, steps: int = 150) -> None:
    """Fit the tiny model on a handful of views, briefly, and save it; the same numbers every time."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = load_config("tiny")
    model = JointModel(config, SIDE, DepthUnit("dataset", DISTANCE_M, 0.04, FOCAL_OVER_WIDTH)).train()
    views = [view for subject in range(4) for view in clip(subject, 4)]
    arrays = {
        name: torch.from_numpy(np.stack([v[name] for v in views])) for name in ("depth", "canonical", "intrinsics")
    }
    images = normalise(torch.from_numpy(np.stack([v["image"] for v in views])))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * min(1.0, 2 * (1 - step / steps))
        chosen = torch.randperm(len(views), generator=generator)[:8].reshape(4, 2)
        p = model(images[chosen], arrays["intrinsics"][chosen])
        depth, canonical = arrays["depth"][chosen], arrays["canonical"][chosen]
        shown = (depth > 0).float()
        loss = F.binary_cross_entropy_with_logits(p.surface_logit, shown)
        loss = loss + 20 * (shown * (p.depth_m - depth).abs()).mean()
        loss = loss + 5 * (shown.unsqueeze(2) * (p.canonical - canonical).abs()).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    dataset = {"resolution": SIDE, "half_extent_m": HALF_EXTENT_M, "space": SPACE}
    save_checkpoint(path, {**model_content(model, config, dataset), "step": steps})
