"""Batches for the parameter head: crops, and what is true of the head in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from datagen.common.arrays import I64
from datagen.shards import Dataset, Split
from trainer.align.crops import to_crop
from trainer.align.data import FaceTruth, Seen, changed_crops, visible_vertices
from trainer.align.uv_space import NOT_SKIN
from trainer.attributes.config import AttributesAugmentConfig
from trainer.attributes.face_model import FaceModel
from trainer.attributes.light import HARMONICS, fit_light
from trainer.attributes.people import drawn_forms, warped
from trainer.attributes.pose import crop_angle, crop_axes, place_of
from trainer.data import normalise
from trainer.evaluation.canonical import region_labels

ARRAYS = ("image", "depth", "normal", "region", "intrinsics", "world_to_camera")
PLAIN = AttributesAugmentConfig(
    photometric=0, background=0, occlusion=0, rotation_deg=0, scale=0, shift=0, mirror=False, people=0, camera=0
)
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
    angle : (B,)
        As :func:`trainer.attributes.pose.crop_angle` has it; NaN where the network is not told.
    """

    images: torch.Tensor
    transform: torch.Tensor
    intrinsics: torch.Tensor
    axes: torch.Tensor
    size: torch.Tensor
    angle: torch.Tensor

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
    form : (B, C)
        Components of the face at rest.
    identity, expression : (B, K), (B, E)
        Of the head model and of the person that the picture was taken of.
    named : (B,) bool
        Whether the expression is known by its parameters: a mirrored person's is not.
    visible : (B, n) bool
    light : (B, 27)
    lit : (B,) bool
        Whether the light could be told.
    """

    positions: torch.Tensor
    shape: torch.Tensor
    rotation: torch.Tensor
    place: torch.Tensor
    form: torch.Tensor
    identity: torch.Tensor
    expression: torch.Tensor
    named: torch.Tensor
    visible: torch.Tensor
    light: torch.Tensor
    lit: torch.Tensor


@dataclass(frozen=True)
class _TrueHead:
    """Faces: vertices (B, n, 3) in their axes, from which ``to_camera`` (B, 4, 4) leads, and as pictures show them."""

    shape: torch.Tensor
    to_camera: torch.Tensor
    expression: torch.Tensor
    seen: Seen
    visible: torch.Tensor


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
        config: AttributesAugmentConfig = PLAIN,
        seeds: Sequence[int] | None = None,
        clip: int = 1,
        *,
        light: bool = True,
    ) -> tuple[Views, Target]:
        """Return crops of samples (B,) about the true faces' boxes, changed as the seeds say.

        Parameters
        ----------
        batch : mapping
            :data:`ARRAYS`, decoded, (B, ...).
        clip : int
            Pictures of one person that follow each other.
        light : bool
            Whether to tell the light; without, it counts as one that cannot be told.
        """
        face, device = self._face, batch["image"].device
        seeds = list(seeds) if seeds is not None else [0] * len(samples)
        K = batch["intrinsics"].float()
        stood = self._faces.seen(samples, K, batch["world_to_camera"])
        head = self._head(samples, batch, stood, config, [seeds[k - k % clip] for k in range(len(seeds))])
        seen = head.seen
        skin = torch.isin(batch["region"].long(), self._skin.to(device)) & (batch["depth"] > 0)
        maps = {
            "image": batch["image"],
            "depth": batch["depth"],
            "skin": skin[:, None].float(),
            "normal": batch["normal"],
        }
        changed = changed_crops(
            maps,
            seen.boxes,
            seeds,
            config,
            size,
            symmetric=face.mirrored is not None,
            maps=("skin", "normal") if light else ("skin",),
        )
        transform, axes = changed.transform, crop_axes(changed.transform, K)
        if config.people:
            before, after = to_crop(stood.pixels, transform), to_crop(seen.pixels, transform)
            shown = warped(torch.cat([changed.images, changed.maps], 1), before, after, head.visible)
            changed = replace(changed, images=shown[:, :3], maps=shown[:, 3:])
        side = transform[:, :, :2].square().sum(1).sqrt().mean(1)
        extent = (seen.boxes[:, 2:] - seen.boxes[:, :2]).prod(1).clamp(min=1).sqrt()
        shown_skin = changed.maps[:, :1]
        if light:
            normals = torch.einsum("bji,bjhw->bihw", axes, changed.maps[:, 1:])
            lights, lit = fit_light(changed.images, normals, shown_skin[:, 0])
        else:
            lights, lit = K.new_zeros(len(K), 3 * HARMONICS), torch.zeros(len(K), dtype=torch.bool, device=device)
        angle = crop_angle(transform, K)
        if config.camera:
            draws = [torch.rand((), generator=torch.Generator().manual_seed((s + 1) % 2**63)) for s in seeds]
            angle = torch.where(torch.stack(draws).to(device) < config.camera, torch.nan, angle)
        views = Views(changed.images, transform, K, axes, extent / side, angle)
        return views, self._target(samples, head, views, (lights, lit), shown_skin, changed.mirror)

    def _head(
        self,
        samples: I64,
        batch: Mapping[str, torch.Tensor],
        stood: Seen,
        config: AttributesAugmentConfig,
        seeds: Sequence[int],
    ) -> _TrueHead:
        face, device, rows = self._face, batch["image"].device, self._index.frame_row[samples]
        heads, expression, head_to_world = (
            torch.from_numpy(np.ascontiguousarray(values)).to(device).float()
            for values in (
                self._faces.in_head_axes(samples)[0],
                self._frames.expression[rows],
                self._frames.head_to_world[rows],
            )
        )
        shape, motion = face.laid_on_mean(heads)
        to_camera = batch["world_to_camera"].float() @ head_to_world @ torch.linalg.inv(motion)
        # Of the face as it was photographed: another one hides the same of itself.
        visible = visible_vertices(stood.pixels, stood.depth_m, batch["depth"])
        if config.people:
            own = face.form(shape - face.expressed(expression))
            other = drawn_forms(own, list(seeds), config.people)
            shape = shape + face.shape(other, expression) - face.shape(own, expression)
            stood = moved_vertices(stood, shape, to_camera, batch["intrinsics"].float(), face.is_face)
        return _TrueHead(shape, to_camera, expression, stood, visible)

    def _target(
        self,
        samples: I64,
        head: _TrueHead,
        views: Views,
        light: tuple[torch.Tensor, torch.Tensor],
        skin: torch.Tensor,
        mirror: torch.Tensor | None,
    ) -> Target:
        face, device, shape = self._face, views.images.device, head.shape
        rotation, place = pose_in_crop(head.to_camera, views)
        positions = to_crop(head.seen.pixels, views.transform)
        # What hides the head in a changed crop is in no depth map.
        visible = head.visible & (sample_colours(skin, positions.clamp(0, 1))[..., 0] > _HIDDEN)
        named = torch.ones(len(samples), dtype=torch.bool, device=device)
        rest = shape - face.expressed(head.expression)
        if mirror is not None and face.mirrored is not None:
            flip = shape.new_tensor([-1.0, 1.0, 1.0])
            other = face.mirrored
            shape, rest = (torch.where(mirror[:, None, None], x[:, other] * flip, x) for x in (shape, rest))
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
            form=face.form(rest),
            identity=torch.from_numpy(self._frames.identity[self._index.frame_row[samples]]).to(device),
            expression=head.expression,
            named=named,
            visible=visible,
            light=light[0],
            lit=light[1],
        )


def moved_vertices(
    seen: Seen, shape: torch.Tensor, to_camera: torch.Tensor, intrinsics: torch.Tensor, is_face: torch.Tensor
) -> Seen:
    """Return where vertices (B, n, 3) of the face's axes are seen, and the face's boxes; ``to_camera`` (B, 4, 4)."""
    points = shape @ to_camera[:, :3, :3].transpose(1, 2) + to_camera[:, None, :3, 3]
    pixels = ((points / points[..., 2:]) @ intrinsics.transpose(1, 2))[..., :2]
    inside = pixels[:, is_face]
    boxes = torch.cat([inside.amin(1), inside.amax(1)], 1)
    return replace(seen, pixels=pixels, depth_m=points[..., 2], boxes=boxes)


def pose_in_crop(to_camera: torch.Tensor, views: Views) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rotation (B, 3, 3) and the place (B, 3) in the crop of faces whose axes rigid motions place."""
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
