"""The joint model: depth, canonical coordinates, rays and cameras for one to N frames."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from datagen.common.errors import InputError
from trainer.config import TrainConfig
from trainer.model.backbone import ClipBackbone
from trainer.model.camera import CameraDecoder
from trainer.model.decoder import Geometry, ImageDetail, MapDecoder, StageDetail

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
    ray : (B, S, 6, H, W), optional
        Direction (not of length 1: times depth it reaches the surface) and origin of each pixel's ray in the frame of
        the reference camera. None where ``heads.ray`` is off.
    ray_confidence : (B, S, H, W), optional
    camera : (B, S, 9), optional
        :func:`trainer.model.camera.decode_camera` reads it. None where ``heads.camera`` is off.
    reference : (B,) int64, optional
        Number of each clip's reference frame, in whose axes rays and cameras are.
    """

    depth_m: torch.Tensor
    canonical: torch.Tensor
    depth_confidence: torch.Tensor
    canonical_confidence: torch.Tensor
    surface_logit: torch.Tensor
    ray: torch.Tensor | None = None
    ray_confidence: torch.Tensor | None = None
    camera: torch.Tensor | None = None
    reference: torch.Tensor | None = None


@dataclass(frozen=True)
class DepthUnit:
    """Depth in metres is ``unit × exp(spread × x)``, times focal / width if ``kind`` is "focal".

    One image does not tell how far away a head is: a larger head further away looks the same. The network therefore
    predicts depth relative to a unit taken from the training set and kept in the checkpoint. ``dataset``: the unit is
    the median depth, right for one rig. ``focal``: depth × width / focal length takes the place of depth (the
    canonical camera of Metric3D, Yin et al., ICCV 2023), right for rigs of several focal lengths and distances;
    intrinsics must then be known.

    Attributes
    ----------
    kind : "dataset" or "focal"
    unit : float
        Median over the surface pixels measured, metres.
    spread : float
        Robust standard deviation of log(depth / unit) there.
    focal_over_width : float
        Median of the training set; stands in where an image comes without intrinsics.
    """

    kind: Literal["dataset", "focal"]
    unit: float
    spread: float
    focal_over_width: float

    @classmethod
    def measure(
        cls,
        kind: Literal["dataset", "focal"],
        depth_m: npt.NDArray[np.float32],
        intrinsics: npt.NDArray[np.float32],
    ) -> DepthUnit:
        """Measure the unit on training maps, (N, H, W) metres with 0 = none and (N, 3, 3) pixels."""
        focal = intrinsics[:, 0, 0].astype(np.float64) / depth_m.shape[-1]
        values = depth_m.astype(np.float64)
        if kind == "focal":
            values = values / focal[:, None, None]
        values = values[depth_m > 0]
        if not values.size:
            return cls(kind, 1.0, 0.1, float(np.median(focal)))
        unit = float(np.median(values))
        # 1.4826 × the median absolute deviation is the standard deviation of a normal distribution.
        spread = 1.4826 * float(np.median(np.abs(np.log(values / unit))))
        return cls(kind, unit, max(spread, 1e-3), float(np.median(focal)))

    def to_metres(self, x: torch.Tensor, intrinsics: torch.Tensor, width: int) -> torch.Tensor:
        """Turn the head's numbers (B, S, H, W) into planar metres; intrinsics (B, S, 3, 3) in pixels."""
        return (self.spread * x).clamp(-4, 4).exp() * self.scale(intrinsics, width)

    def scale(self, intrinsics: torch.Tensor, width: int) -> torch.Tensor:
        """Return the metres that x = 0 stands for, (B, S, 1, 1)."""
        focal = intrinsics[..., 0, 0, None, None] / width
        return self.unit * (focal if self.kind == "focal" else focal.new_ones(focal.shape))

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers a checkpoint keeps."""
        return asdict(self)


class JointModel(nn.Module):
    """Backbone, decoders and activations.

    Depth is ``unit × exp(spread × x)`` with the network's number x; ``unit`` (metres) and ``spread`` come from the
    training set (:class:`~trainer.model.joint.DepthUnit`), so that x is of order one for any rig. The canonical and ray
    heads are linear, confidences are ``1 + exp``. Decoders compute in float32 whatever the backbone's precision is.

    Parameters
    ----------
    image_size : int
        Resolution of the training set, a multiple of the patch.
    """

    def __init__(self, config: TrainConfig, image_size: int, depth_unit: DepthUnit) -> None:
        super().__init__()
        _check_sides(image_size, image_size, config.backbone.patch)
        self.backbone = ClipBackbone(config.backbone, image_size)
        self.depth_unit = depth_unit
        self.decoder_config = config.decoder
        width = config.backbone.width
        geometry = ("depth", "ray") if config.heads.ray else ("depth",)
        split = {"geometry": geometry, "canonical": ("canonical",)}
        maps = {"shared": (*geometry, "canonical")} if config.decoder.shared else split
        stages = self.backbone.stage_widths
        self.decoders = nn.ModuleDict(
            {
                name: MapDecoder(
                    width,
                    config.decoder,
                    of,
                    plain=name == "canonical",
                    stages=stages,
                    apart=config.loss.depth_confidence == "apart",
                )
                for name, of in maps.items()
            }
        )
        self.detail: ImageDetail | StageDetail | None = None
        if config.decoder.image_skip:
            self.detail = StageDetail(config.decoder, stages[0]) if stages else ImageDetail(config.decoder)
        self.camera = CameraDecoder(width) if config.heads.camera else None

    def forward(self, images: torch.Tensor, intrinsics: torch.Tensor) -> Prediction:
        """Predict all frames of all clips together.

        Parameters
        ----------
        images : (B, S, 3, H, W) float32, ImageNet-normalised; sides are multiples of the patch
        intrinsics : (B, S, 3, 3) float32, pixels; read only if depth is normalised by the focal length
        """
        clips, frames, _, height, width = images.shape
        _check_sides(height, width, self.backbone.patch)
        device = images.device.type
        wish = self.backbone.config.precision
        low = wish == "bfloat16" or (wish == "auto" and device == "cuda")
        with torch.autocast(device, torch.bfloat16, enabled=low):
            tokens = self.backbone(images)
        with torch.autocast(device, enabled=False):
            patches, stages = ([x.float() for x in maps] for maps in (tokens.patches, tokens.stages))
            maps = self._decode(patches, images.flatten(0, 1).float(), stages)
            camera = None if self.camera is None else self.camera(tokens.camera.float())
        maps = {name: x.reshape(clips, frames, *x.shape[1:]) for name, x in maps.items()}
        depth, canonical, ray = maps["depth"], maps["canonical"], maps.get("ray")
        return Prediction(
            depth_m=self.depth_unit.to_metres(depth[:, :, 0], intrinsics, width),
            canonical=canonical[:, :, :3],
            depth_confidence=_confidence(depth[:, :, 1]),
            canonical_confidence=_confidence(canonical[:, :, 3]),
            surface_logit=depth[:, :, 2],
            ray=None if ray is None else ray[:, :, :6],
            ray_confidence=None if ray is None else _confidence(ray[:, :, 6]),
            camera=camera,
            reference=tokens.reference,
        )

    def _decode(
        self, tokens: list[torch.Tensor], images: torch.Tensor, stages: list[torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Decode all frames into maps of the image's size; a few frames at a time where no gradient is wanted."""
        if torch.is_grad_enabled() or torch.compiler.is_exporting():  # a graph has no loop over unknown frames
            return self._decode_frames(tokens, images, stages)
        step = self.decoder_config.frames_at_once
        parts = [
            self._decode_frames(
                [x[k : k + step] for x in tokens], images[k : k + step], [x[k : k + step] for x in stages]
            )
            for k in range(0, len(images), step)
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _decode_frames(
        self, tokens: list[torch.Tensor], images: torch.Tensor, stages: list[torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        size = (images.shape[-2], images.shape[-1])
        stride, patch = self.decoder_config.output_stride, self.backbone.patch
        geometry = Geometry(size, (size[0] // patch, size[1] // patch), (size[0] // stride, size[1] // stride))
        detail = None
        if self.detail is not None:
            fine = stages[0] if stages else images.contiguous(memory_format=torch.channels_last)
            detail = self.detail(fine, geometry.maps)
        maps: dict[str, torch.Tensor] = {}
        for decoder in self.decoders.values():
            maps |= decoder(tokens, geometry, detail, stages)
        return {
            name: F.interpolate(x, size, mode="bilinear", align_corners=False) if x.shape[-2:] != size else x
            for name, x in maps.items()
        }


def _confidence(x: torch.Tensor) -> torch.Tensor:
    return 1 + x.clamp(max=_MAX_LOG_CONFIDENCE).exp()


def _check_sides(height: int, width: int, patch: int) -> None:
    if height % patch or width % patch:
        raise InputError(
            f"images of {height} × {width} pixels",
            f"sides that are multiples of {patch}",
            "Build the dataset with such a render.resolution, or set backbone.patch",
        )
