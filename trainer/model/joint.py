"""The joint model: depth, canonical coordinates and their confidences for one to N frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from datagen.shards import InputError
from trainer.config import TrainConfig
from trainer.depth_unit import DepthUnit
from trainer.model.backbone import ClipBackbone
from trainer.model.decoder import FusionTrunk, ImageDetail, OutputConvs

# exp of more than this overflows nothing yet is past any confidence a finite error can earn.
_MAX_LOG_CONFIDENCE = 12.0


@dataclass(frozen=True)
class Prediction:
    """The maps of a batch of clips, float32.

    Attributes
    ----------
    depth_m : (B, S, H, W)
        Planar metres; above 0 everywhere, meaningful on the surface.
    canonical : (B, S, 3, H, W)
        Normalised coordinates.
    depth_confidence, canonical_confidence : (B, S, H, W)
        1 or more, without unit: the inverse of the expected error, up to the factor λ of the loss.
    surface_logit : (B, S, H, W)
        Above 0 where the pixel shows the head rather than background.
    """

    depth_m: torch.Tensor
    canonical: torch.Tensor
    depth_confidence: torch.Tensor
    canonical_confidence: torch.Tensor
    surface_logit: torch.Tensor


class JointModel(nn.Module):
    """Backbone, decoder and activations.

    Depth is ``unit × exp(spread × x)`` with the network's number x; ``unit`` (metres) and ``spread`` come from the
    training set (:class:`~trainer.depth_unit.DepthUnit`), so that x is of order one for any rig. The canonical head is
    linear, confidences are ``1 + exp``. The heads compute in float32 whatever the backbone's precision is.

    Parameters
    ----------
    config : TrainConfig
    image_size : int
        Resolution of the training set.
    depth_unit : DepthUnit
    stored_backbone : dict, optional
        See :class:`ClipBackbone`.
    """

    def __init__(
        self,
        config: TrainConfig,
        image_size: int,
        depth_unit: DepthUnit,
        stored_backbone: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = ClipBackbone(config.backbone, image_size, stored_backbone)
        self.depth_unit = depth_unit
        self.output_stride = config.decoder.output_stride
        dim = self.backbone.dim
        self.trunks = nn.ModuleList(FusionTrunk(dim, config.decoder) for _ in range(1 if config.decoder.shared else 2))
        self.detail = ImageDetail(config.decoder) if config.decoder.image_skip else None
        self.depth_head = OutputConvs(config.decoder, 3)  # depth, confidence, surface
        self.canonical_head = OutputConvs(config.decoder, 4)  # x, y, z, confidence

    def forward(self, images: torch.Tensor, intrinsics: torch.Tensor) -> Prediction:
        """Predict all frames of all clips together.

        Parameters
        ----------
        images : (B, S, 3, H, W) float32, ImageNet-normalised
        intrinsics : (B, S, 3, 3) float32, pixels; read only if depth is normalised by the focal length

        Raises
        ------
        InputError
            If the size is no multiple of the patch.
        """
        clips, frames, _, height, width = images.shape
        if height % self.backbone.patch or width % self.backbone.patch:
            raise InputError(
                f"images of {height} × {width} pixels",
                f"sides that are multiples of {self.backbone.patch}",
                "Build the dataset with such a render.resolution",
            )
        on_gpu = images.device.type == "cuda"
        with torch.autocast(images.device.type, torch.bfloat16, enabled=on_gpu):
            maps = self.backbone(images)
        with torch.autocast(images.device.type, enabled=False):
            flat = images.flatten(0, 1).float().contiguous(memory_format=torch.channels_last)
            tokens = [m.float().contiguous(memory_format=torch.channels_last) for m in maps]
            fused = [trunk(tokens) for trunk in self.trunks]
            size = (height // self.output_stride, width // self.output_stride)
            detail = None if self.detail is None else self.detail(flat, size)
            d = self.depth_head(fused[0], detail, size)
            c = self.canonical_head(fused[-1], detail, size)
            both = F.interpolate(torch.cat([d, c], 1), (height, width), mode="bilinear", align_corners=False)
        both = both.reshape(clips, frames, 7, height, width)
        return Prediction(
            depth_m=self.depth_unit.to_metres(both[:, :, 0], intrinsics, width),
            canonical=both[:, :, 3:6],
            depth_confidence=1 + both[:, :, 1].clamp(max=_MAX_LOG_CONFIDENCE).exp(),
            canonical_confidence=1 + both[:, :, 6].clamp(max=_MAX_LOG_CONFIDENCE).exp(),
            surface_logit=both[:, :, 2],
        )
