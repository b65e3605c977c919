"""Random numbers that cost what the images and maps of a dataset cost."""

from __future__ import annotations

import torch

from trainer.data import Loaded

_DISTANCE_M = 0.8
_RELIEF_M = 0.1
_FOCAL_OVER_SIZE = 2.5


def random_batch(clips: int, frames: int, size: int, seed: int, device: torch.device) -> Loaded:
    """Return ``clips`` clips of ``frames`` frames of ``size`` pixels: a noisy disc on a noisy background.

    Every array that a loss may ask for is there.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand((clips, frames, *shape), generator=generator).to(device)

    across = torch.linspace(-1, 1, size, device=device)
    disc = (across[:, None] ** 2 + across**2 < 0.6).float()
    intrinsics = torch.tensor([[_FOCAL_OVER_SIZE, 0, 0.5], [0, _FOCAL_OVER_SIZE, 0.5], [0, 0, 1 / size]]) * size
    pose = torch.eye(4)
    pose[2, 3] = _DISTANCE_M
    batch = {
        "image": uniform(3, size, size),
        "depth": (_DISTANCE_M + _RELIEF_M * uniform(size, size)) * disc,
        "canonical": (2 * uniform(3, size, size) - 1) * disc,
        "confidence": uniform(size, size) * disc,
        "intrinsics": intrinsics.to(device).expand(clips, frames, 3, 3).contiguous(),
        "world_to_camera": pose.to(device).expand(clips, frames, 4, 4).contiguous(),
        "index": torch.arange(clips * frames).reshape(clips, frames),
    }
    return Loaded(batch, views=False, seeds=list(range(seed, seed + clips)), state={})


def random_clip(frames: int, size: int, seed: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the network takes of one clip: images (1, S, 3, H, W) and intrinsics (1, S, 3, 3)."""
    images = torch.randn((1, frames, 3, size, size), generator=torch.Generator().manual_seed(seed))
    return images.to(device), (size * torch.eye(3)).expand(1, frames, 3, 3).to(device)
