"""Batches of a studio's pictures of one person: crops, and where the face is in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from datagen.common.arrays import I64
from datagen.common.errors import DatasetError
from datagen.shards import Dataset
from trainer.align.data import FaceTruth, changed_crops
from trainer.attributes.data import Views, pose_in_crop, sample_colours
from trainer.attributes.face_model import lay_on
from trainer.attributes.pose import crop_angle, crop_axes
from trainer.avatar.config import AvatarAugmentConfig
from trainer.avatar.network import Driven, State, placed
from trainer.avatar.relight import relit
from trainer.avatar.skin import Skin
from trainer.avatar.unwrap import Unwrapped, unwrap
from trainer.data import decode

ARRAYS = ("image", "depth", "normal", "intrinsics", "world_to_camera")
UNCHANGED = AvatarAugmentConfig(
    photometric=0, background=0, occlusion=0, rotation_deg=0, scale=0, shift=0, mirror=False, relight=0
)
_HIDDEN = 0.5


@dataclass(frozen=True)
class Truth:
    """What is true of a batch of studio pictures.

    Attributes
    ----------
    told : State
        Rotation and place; of states nobody knows the truth.
    driven : Driven
    texture : Unwrapped
        Of the pictures as they are stored, where the crop shows the face.
    """

    told: State
    driven: Driven
    texture: Unwrapped


class Studio:
    """The pictures that an avatar learns from.

    Parameters
    ----------
    mean : (n, 3)
        Mesh that faces are laid on; it says where the face's axes are.
    """

    def __init__(
        self, dataset: Dataset, skin: Skin, mean: torch.Tensor, cache_mb: int = 0, split: str = "train"
    ) -> None:
        self.dataset, self.split, self.skin, self.mean = dataset, dataset[split], skin, mean
        self._faces = FaceTruth(self.split, skin, cache_mb)

    def batch(self, samples: I64) -> dict[str, torch.Tensor]:
        """Read :data:`ARRAYS` of samples (B,)."""
        stored = self.split.read(ARRAYS, samples, decode=False)
        device = self.mean.device
        return {k: decode(k, torch.from_numpy(v).to(device), self.dataset.depth_scale) for k, v in stored.items()}

    def crops(
        self,
        batch: Mapping[str, torch.Tensor],
        samples: I64,
        size: int,
        config: AvatarAugmentConfig = UNCHANGED,
        seeds: Sequence[int] | None = None,
    ) -> tuple[Views, Truth]:
        """Return crops of samples (B,) about the true faces' boxes, changed as the seeds say, and what is true.

        Parameters
        ----------
        batch : mapping
            :data:`ARRAYS`, decoded, (B, ...).
        """
        K = batch["intrinsics"].float()
        seen = self._faces.seen(samples, K, batch["world_to_camera"])
        maps = {
            "image": batch["image"],
            "depth": batch["depth"],
            "stored": batch["image"],
            "shown": torch.ones_like(batch["depth"])[:, None],
        }
        seeds = seeds if seeds is not None else [0] * len(samples)
        if config.relight:
            maps["image"] = relit(batch["image"], batch["normal"], seeds, config.relight)
        changed = changed_crops(maps, seen.boxes, seeds, config, size, symmetric=False, maps=("stored", "shown"))
        transform = changed.transform
        side = transform[:, :, :2].square().sum(1).sqrt().mean(1)
        extent = (seen.boxes[:, 2:] - seen.boxes[:, :2]).prod(1).clamp(min=1).sqrt()
        views = Views(changed.images, transform, K, crop_axes(transform, K), extent / side, crop_angle(transform, K))
        heads = torch.from_numpy(self._faces.in_head_axes(samples)[0]).to(K.device)
        shape, motion = lay_on(heads, self.mean, self.skin.is_face)
        rows = self.split.index.frame_row[samples]
        to_world = torch.from_numpy(np.ascontiguousarray(self.split.frames.head_to_world[rows])).to(K.device).float()
        to_camera = batch["world_to_camera"].float() @ to_world @ torch.linalg.inv(motion)
        rotation, place = pose_in_crop(to_camera, views)
        told = State(shape.new_zeros(len(shape), 0), rotation, place)
        driven = placed(shape, told, views)
        plain = replace(views, images=changed.maps[:, :3])
        texture = unwrap(plain, driven.in_camera, self.skin)
        # What hides the face in a changed crop hides its texture as well.
        shown = sample_colours(changed.maps[:, 3:], self.skin.at_texels(driven.positions).clamp(0, 1))[..., 0] > _HIDDEN
        return views, Truth(told, driven, Unwrapped(texture.colours, texture.weights * shown))

    def spread(self, most: int) -> I64:
        """Return at most so many samples, evenly spread."""
        return np.unique(np.linspace(0, len(self.split) - 1, min(most, len(self.split))).round().astype(np.int64))


def studio_person(dataset: Dataset) -> str:
    """Return the one person whom a studio's training split shows; DatasetError if there is another number."""
    dataset.require_faces()
    split = dataset["train"]
    people = len(np.unique(split.index.subject)) if len(split) else 0
    if people != 1:
        raise DatasetError(
            f"the training split of {dataset.url} shows {people} people",
            "one: an avatar is one person's",
            "Build it of one subject, with splits.val=0 and splits.test=0, or take one by `datagen subset`",
        )
    return str(dataset.plan.subjects[int(split.index.subject[0])])
