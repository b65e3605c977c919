"""Batches for the parameter head: crops, and what is true of the head in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from datagen.common.arrays import I64
from datagen.shards import Dataset, Split
from trainer.align.config import AlignAugmentConfig
from trainer.align.crops import to_crop
from trainer.align.data import FaceTruth, Seen, changed_crops, visible_vertices
from trainer.align.uv_space import NOT_SKIN
from trainer.attributes.face_model import FaceModel
from trainer.attributes.light import fit_light
from trainer.attributes.pose import crop_axes, place_of
from trainer.data import normalise
from trainer.evaluation.canonical import region_labels

ARRAYS = ("image", "depth", "normal", "region", "intrinsics", "world_to_camera")
PLAIN = AlignAugmentConfig(photometric=0, background=0, occlusion=0, rotation_deg=0, scale=0, shift=0, mirror=False)
_HIDDEN = 0.25  # of the skin's mask, which is blurred at its outline


@dataclass(frozen=True)
class Views:
    """What the network sees, how it was cut, and what is seen there.

    Attributes
    ----------
    images : (B, 3, n, n)
        In [0, 1].
    transform : (B, 2, 3)
        From places in crops to pixels of the samples.
    intrinsics : (B, 3, 3)
        Of the samples.
    axes : (B, 3, 3)
        As :func:`trainer.attributes.pose.crop_axes` has them.
    size : (B,)
        Root of width times height of the true face's box, in sides of the crop.
    """

    images: torch.Tensor
    transform: torch.Tensor
    intrinsics: torch.Tensor
    axes: torch.Tensor
    size: torch.Tensor

    @property
    def seen(self) -> torch.Tensor:
        """What goes into the network."""
        return normalise(self.images)


@dataclass(frozen=True)
class Target:
    """What is true, of the mirrored person where the crop is mirrored.

    Attributes
    ----------
    positions : (B, n, 2)
        Places of the chosen vertices in the crop.
    shape : (B, n, 3)
        In the face's axes, metres.
    rotation : (B, 3, 3)
        From the face's axes to the crop's.
    place : (B, 3)
        As :func:`trainer.attributes.pose.place_of` has it.
    identity, expression : (B, K), (B, E)
    named : (B,) bool
        Whether parameters are known: a mirrored person's are not.
    visible : (B, n) bool
    light : (B, 27)
    lit : (B,) bool
        Whether the light could be told.
    """

    positions: torch.Tensor
    shape: torch.Tensor
    rotation: torch.Tensor
    place: torch.Tensor
    identity: torch.Tensor
    expression: torch.Tensor
    named: torch.Tensor
    visible: torch.Tensor
    light: torch.Tensor
    lit: torch.Tensor


class HeadTruth:
    """The rows of a split's frame table as targets.

    Parameters
    ----------
    skin : (S,) int64
        Labels of regions that are skin of the face.
    """

    def __init__(self, split: Split, face: FaceModel, skin: torch.Tensor, cache_mb: int = 0) -> None:
        self._faces, self._frames, self._index = FaceTruth(split, face, cache_mb), split.frames, split.index
        self._face, self._skin = face, skin

    def seen(self, cameras: Mapping[str, npt.NDArray[Any]], samples: I64) -> Seen:
        """Return where samples (B,) show the chosen vertices, given ``intrinsics`` and ``world_to_camera``."""
        device = self._face.template.device
        return self._faces.seen(
            samples, *(torch.from_numpy(cameras[name]).to(device) for name in ("intrinsics", "world_to_camera"))
        )

    def crops(
        self,
        batch: Mapping[str, torch.Tensor],
        samples: I64,
        size: int,
        config: AlignAugmentConfig = PLAIN,
        seeds: Sequence[int] | None = None,
    ) -> tuple[Views, Target]:
        """Return crops of samples (B,) about the true faces' boxes, changed as the seeds say.

        Parameters
        ----------
        batch : mapping
            :data:`ARRAYS`, decoded, (B, ...).
        """
        face, device = self._face, batch["image"].device
        K = batch["intrinsics"].float()
        seen = self._faces.seen(samples, K, batch["world_to_camera"])
        skin = torch.isin(batch["region"].long(), self._skin.to(device)) & (batch["depth"] > 0)
        maps = {
            "image": batch["image"],
            "depth": batch["depth"],
            "normal": batch["normal"],
            "skin": skin[:, None].float(),
        }
        changed = changed_crops(
            maps,
            seen.boxes,
            seeds if seeds is not None else [0] * len(samples),
            config,
            size,
            symmetric=face.mirrored is not None,
            maps=("normal", "skin"),
        )
        transform, axes = changed.transform, crop_axes(changed.transform, K)
        side = transform[:, :, :2].square().sum(1).sqrt().mean(1)
        extent = (seen.boxes[:, 2:] - seen.boxes[:, :2]).prod(1).clamp(min=1).sqrt()
        normals = torch.einsum("bji,bjhw->bihw", axes, changed.maps[:, :3])
        light, lit = fit_light(changed.images, normals, changed.maps[:, 3])
        views = Views(changed.images, transform, K, axes, extent / side)
        target = self._target(samples, batch, seen, views, (light, lit), changed.maps[:, 3:], changed.mirror)
        return views, target

    def _target(
        self,
        samples: I64,
        batch: Mapping[str, torch.Tensor],
        seen: Seen,
        views: Views,
        light: tuple[torch.Tensor, torch.Tensor],
        skin: torch.Tensor,
        mirror: torch.Tensor | None,
    ) -> Target:
        face, device, rows = self._face, batch["image"].device, self._index.frame_row[samples]
        heads = torch.from_numpy(self._faces.in_head_axes(samples)[0]).to(device)
        shape, motion = face.laid_on_mean(heads)
        head_to_world = torch.from_numpy(np.ascontiguousarray(self._frames.head_to_world[rows])).to(device).float()
        rotation, place = pose_in_crop(motion, head_to_world, batch["world_to_camera"].float(), views)
        positions = to_crop(seen.pixels, views.transform)
        # What hides the head in a changed crop is in no depth map.
        shown = sample_colours(skin, positions.clamp(0, 1))[..., 0] > _HIDDEN
        visible = visible_vertices(seen.pixels, seen.depth_m, batch["depth"]) & shown
        named = torch.ones(len(samples), dtype=torch.bool, device=device)
        if mirror is not None and face.mirrored is not None:
            flip = shape.new_tensor([-1.0, 1.0, 1.0])
            other = face.mirrored
            shape = torch.where(mirror[:, None, None], shape[:, other] * flip, shape)
            positions = torch.where(mirror[:, None, None], positions[:, other], positions)
            visible = torch.where(mirror[:, None], visible[:, other], visible)
            # A mirrored head turns the other way; its axes are mirrored too, so that the rotation stays one.
            rotation = torch.where(mirror[:, None, None], rotation * flip, rotation)
            named = ~mirror
        return Target(
            positions=positions,
            shape=shape,
            rotation=rotation,
            place=place,
            identity=torch.from_numpy(self._frames.identity[rows]).to(device),
            expression=torch.from_numpy(self._frames.expression[rows]).to(device),
            named=named,
            visible=visible,
            light=light[0],
            lit=light[1],
        )


def pose_in_crop(
    motion: torch.Tensor, head_to_world: torch.Tensor, world_to_camera: torch.Tensor, views: Views
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rotation (B, 3, 3) and the place (B, 3) of faces whose axes ``motion`` leads to from the head's.

    Parameters
    ----------
    motion, head_to_world, world_to_camera : (B, 4, 4)
        Rigid.
    """
    to_camera = world_to_camera @ head_to_world @ torch.linalg.inv(motion)
    rotation = views.axes.transpose(1, 2) @ to_camera[:, :3, :3]
    return rotation, place_of(to_camera[:, :3, 3], views.transform, views.intrinsics)


def sample_colours(images: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Return the colours (B, n, 3) of crops (B, 3, H, W) at places (B, n, 2), bilinear."""
    found = F.grid_sample(images, 2 * positions[:, None] - 1, "bilinear", "border", align_corners=False)
    return found[:, :, 0].transpose(1, 2)


def skin_labels(dataset: Dataset) -> torch.Tensor:
    """Return the labels of a dataset's regions that are the face's skin: not eyeballs, not the inside of the mouth."""
    regions = dataset.attrs.get("regions", {})
    inside = [regions[name] for name in NOT_SKIN if name in regions]
    return torch.from_numpy(np.setdiff1d(region_labels(regions)["face"], inside))
