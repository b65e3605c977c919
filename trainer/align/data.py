"""Batches for the alignment network: crops, and where every vertex of the template lies in them, hidden ones too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from datagen.common.arrays import I64
from datagen.common.errors import DatasetError
from datagen.shards import Dataset, Split
from trainer.align.config import AlignAugmentConfig
from trainer.align.crops import crop_transform, square_about, take_crops, to_crop
from trainer.align.loss import Truth
from trainer.align.uv_space import UVSpace
from trainer.augmentation import augment
from trainer.config import AugmentConfig
from trainer.data import normalise

ARRAYS = ("image", "depth", "intrinsics", "world_to_camera")
_HALF = 0.5
# How far behind the surface that a picture shows a vertex may lie and count as seen.
_BEHIND_M = 0.004
_NEAREST_M = 0.05  # in front of a camera: nothing of a head that a dataset shows is nearer


@dataclass(frozen=True)
class Seen:
    """Vertices in whole pictures.

    Attributes
    ----------
    pixels : tensor (B, V, 2)
    spread_px : tensor (B, V)
    depth_m : tensor (B, V)
        Along the camera's axis.
    boxes : tensor (B, 4)
        Left, top, right and bottom of the face's vertices, pixels.
    to_head : tensor (B, 2, 3)
        What one pixel along x, or y, is in the head's axes at the face's distance, metres.
    """

    pixels: torch.Tensor
    spread_px: torch.Tensor
    depth_m: torch.Tensor
    boxes: torch.Tensor
    to_head: torch.Tensor


@dataclass(frozen=True)
class Crops:
    """What the network sees, and the truth.

    Attributes
    ----------
    images : tensor (B, 3, n, n)
        Normalised.
    truth : Truth
    transform : tensor (B, 2, 3)
        From places in crops to pixels.
    """

    images: torch.Tensor
    truth: Truth
    transform: torch.Tensor


@dataclass(frozen=True)
class ChangedCrops:
    """Training crops, changed.

    Attributes
    ----------
    images : tensor (B, 3, n, n)
        In [0, 1].
    maps : tensor (B, C, n, n)
        Other maps of the batch that were asked for, cropped alike; 0 where something hides the head.
    transform : tensor (B, 2, 3)
        From places in crops to pixels.
    mirror : tensor (B,) bool or None
        Which are seen left to right; None where none is.
    """

    images: torch.Tensor
    maps: torch.Tensor
    transform: torch.Tensor
    mirror: torch.Tensor | None


class VertexChoice(Protocol):
    """Vertices of the template that are looked at: their numbers (V,), and which of them are the face's (V,)."""

    @property
    def vertices(self) -> torch.Tensor: ...
    @property
    def is_face(self) -> torch.Tensor: ...


class FaceTruth:
    """The rows of a split's frame table, projected into its samples.

    Parameters
    ----------
    cache_mb : int
        Keep the rows in memory if they take no more.

    Raises
    ------
    DatasetError
        If the dataset has no frame table.
    """

    def __init__(self, split: Split, space: VertexChoice, cache_mb: int = 0) -> None:
        self._frames, self._index, self._space = split.frames, split.index, space
        self._chosen = space.vertices.cpu().numpy()
        count = len(self._frames)
        self._kept: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None = None
        if 0 < count * len(self._chosen) * 16 <= cache_mb * 2**20:
            self._kept = self._read(np.arange(count))

    def _read(self, rows: I64) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        return self._frames.vertices(rows)[:, self._chosen], self._frames.spread(rows)[:, self._chosen]

    def in_head_axes(self, samples: I64) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return the vertices of samples (B,) in head axes, (B, V, 3) metres, and their spread (B, V)."""
        rows = self._index.frame_row[samples]
        if self._kept is not None:
            return self._kept[0][rows], self._kept[1][rows]
        wanted, place = np.unique(rows, return_inverse=True)
        vertices, spread = (part[place] for part in self._read(wanted))
        return vertices, spread

    def seen(self, samples: I64, intrinsics: torch.Tensor, world_to_camera: torch.Tensor) -> Seen:
        """Return the vertices in samples (B,), whose cameras are (B, 3, 3) and (B, 4, 4)."""
        vertices, spread = self.in_head_axes(samples)
        rows, device = self._index.frame_row[samples], intrinsics.device
        head_to_world = torch.from_numpy(self._frames.head_to_world[rows]).to(device)
        to_camera = world_to_camera.float() @ head_to_world.float()
        points = torch.from_numpy(vertices).to(device) @ to_camera[:, :3, :3].transpose(1, 2)
        points = points + to_camera[:, None, :3, 3]
        z = points[..., 2].clamp(min=_NEAREST_M)
        K = intrinsics.float()
        pixels = (points / z[..., None]) @ K.transpose(1, 2)
        focal = (K[:, 0, 0] * K[:, 1, 1]).sqrt()[:, None]
        spread_px = torch.from_numpy(spread).to(device) * focal / z
        face = pixels[:, self._space.is_face, :2]
        boxes = torch.cat([face.amin(1), face.amax(1)], 1)
        distance = z[:, self._space.is_face].mean(1)[:, None, None]
        to_head = to_camera[:, :2, :3] * distance / focal[..., None]
        return Seen(pixels[..., :2], spread_px, points[..., 2], boxes, to_head)


def plain_crops(images: torch.Tensor, seen: Seen, size: int) -> Crops:
    """Return the crops about the faces' boxes, of pictures (B, 3, H, W) float in [0, 1]."""
    transform = crop_transform(square_about(seen.boxes))
    return _with_truth(take_crops(images, transform, size), seen, transform)


def training_crops(
    batch: Mapping[str, torch.Tensor],
    seen: Seen,
    seeds: Sequence[int],
    config: AlignAugmentConfig,
    space: UVSpace,
    size: int,
) -> Crops:
    """Return changed crops; what is drawn depends on the seeds alone.

    Parameters
    ----------
    batch : mapping
        ``image`` (B, 3, H, W) in [0, 1] and ``depth`` (B, H, W).
    seeds : sequence of int
        One for each picture.
    """
    changed = changed_crops(batch, seen.boxes, seeds, config, size, symmetric=space.mirrored is not None)
    return _with_truth(changed.images, _swapped(seen, changed.mirror, space), changed.transform)


def changed_crops(
    batch: Mapping[str, torch.Tensor],
    boxes: torch.Tensor,
    seeds: Sequence[int],
    config: AlignAugmentConfig,
    size: int,
    *,
    symmetric: bool,
    maps: Sequence[str] = (),
) -> ChangedCrops:
    """Return changed crops about boxes (B, 4); what is drawn depends on the seeds alone.

    Parameters
    ----------
    batch : mapping
        ``image`` (B, 3, H, W) in [0, 1], ``depth`` (B, H, W), and what ``maps`` names, (B, C, H, W).
    symmetric : bool
        Whether a mirrored head is a head.
    """
    draws = torch.stack([torch.rand(5, generator=torch.Generator().manual_seed(seed % 2**63)) for seed in seeds])
    draws = draws.to(batch["image"].device)
    around = 2 * draws[:, :4] - 1
    squares = square_about(boxes)
    side = squares[:, 2:] * (1 + config.scale * around[:, :1])
    squares = torch.cat([squares[:, :2] + config.shift * around[:, 1:3] * side, side], 1)
    mirror = (draws[:, 4] < 0.5) if config.mirror and symmetric else None
    transform = crop_transform(squares, math.radians(config.rotation_deg) * around[:, 3], mirror)
    # Cropped before colours change: a crop has fewer pixels.
    head = (batch["depth"] > 0).float()[:, None]
    taken = take_crops(torch.cat([batch["image"], head, *(batch[name] for name in maps)], 1), transform, size)
    shared = AugmentConfig(
        photometric=config.photometric, background=config.background, occlusion=config.occlusion, crop=0, mirror=False
    )
    shown = (taken[:, None, 3] > _HALF).float()
    clips = {"image": taken[:, None, :3], "depth": shown}
    # Nothing of what is used looks through the camera.
    clips["intrinsics"] = torch.eye(3).expand(len(taken), 1, 3, 3)
    changed = augment(clips, shared, list(seeds), views=False)
    return ChangedCrops(changed["image"][:, 0], taken[:, 4:] * (changed["depth"] > 0), transform, mirror)


def _swapped(seen: Seen, mirror: torch.Tensor | None, space: UVSpace) -> Seen:
    """Return the vertices as a mirrored person's: where the left eye was is the right one."""
    if mirror is None or space.mirrored is None:
        return seen
    pixels = torch.where(mirror[:, None, None], seen.pixels[:, space.mirrored], seen.pixels)
    spread_px = torch.where(mirror[:, None], seen.spread_px[:, space.mirrored], seen.spread_px)
    return replace(seen, pixels=pixels, spread_px=spread_px)


def _with_truth(crops: torch.Tensor, seen: Seen, transform: torch.Tensor) -> Crops:
    side = transform[:, :, :2].square().sum(1).sqrt().mean(1, keepdim=True)
    return Crops(normalise(crops), Truth(to_crop(seen.pixels, transform), seen.spread_px / side), transform)


def visible_vertices(pixels: torch.Tensor, depth_m: torch.Tensor, shown_m: torch.Tensor) -> torch.Tensor:
    """Return which vertices (B, V) at pixels (B, V, 2) are no farther than what depth maps (B, H, W) show there."""
    H, W = shown_m.shape[-2:]
    x, y = pixels.floor().long().unbind(-1)
    inside = (x >= 0) & (y >= 0) & (x < W) & (y < H)
    index = (y.clamp(0, H - 1) * W + x.clamp(0, W - 1)).flatten(1)
    there = shown_m.flatten(1).gather(1, index)
    return inside & (there > 0) & (depth_m < there + _BEHIND_M)


def mean_positions(dataset: Dataset, truth: FaceTruth, samples: int) -> torch.Tensor:
    """Return the mean place of each vertex in plain crops of the training split, (V, 2)."""
    split = dataset["train"]
    if not len(split):
        raise DatasetError(f"{dataset.url} has no training split", "people to learn from", "Build it with other splits")
    chosen = np.unique(np.linspace(0, len(split) - 1, min(len(split), samples)).round().astype(np.int64))
    cameras = split.read(("intrinsics", "world_to_camera"), chosen)
    seen = truth.seen(chosen, *(torch.from_numpy(cameras[name]) for name in ("intrinsics", "world_to_camera")))
    return to_crop(seen.pixels, crop_transform(square_about(seen.boxes))).mean(0)
