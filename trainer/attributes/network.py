"""The parameter head: four scales of an encoder, fused; a token and a head for each attribute (MSMA, 2025)."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from datagen.common.arrays import F64
from trainer.align.network import COARSE_HIDDEN, Coarse
from trainer.attributes.config import AttributesConfig, AttributesNetworkConfig
from trainer.attributes.data import Views
from trainer.attributes.face_model import FaceModel
from trainer.attributes.light import HARMONICS
from trainer.attributes.pose import FACING, origin_of, project, rotation_of
from trainer.attributes.scales import ENCODERS, no_larger
from trainer.model.decoder import Fusion

LOG_SIGMA = (-5.0, 2.0)
# Standard deviations of rotation (radians) and place where a head says log σ = 0.
_TURN, _PLACE = 0.1, 0.1
_GRID_CHANNELS = 32
_LIGHT, _POINT = 0.3, 0.02
_FAR = 4.0  # standard deviations


@dataclass(frozen=True)
class Points:
    """Where the chosen vertices of B pictures are, told by themselves.

    Attributes
    ----------
    points, log_sigma_points : (B, n, 2), (B, n)
        Places in the crop; σ of x and of y.
    """

    points: torch.Tensor
    log_sigma_points: torch.Tensor


@dataclass(frozen=True)
class Attributes(Points):
    """What is told of B pictures: a value and log σ of each number.

    Attributes
    ----------
    form, log_sigma_form : (B, C)
        Components of the face at rest.
    expression, log_sigma_expression : (B, E)
    rotation : (B, 3, 3)
        From the face's axes to the crop's.
    log_sigma_rotation : (B, 3)
        Of the rotation vector that is left, radians, in the face's axes.
    place, log_sigma_place : (B, 3)
        As :func:`trainer.attributes.pose.place_of` has it.
    light, log_sigma_light : (B, 27)
    albedo, log_sigma_albedo : (B, A)
    visible : (B, n)
        Log odds that a vertex is seen; they say themselves how sure they are.
    """

    form: torch.Tensor
    log_sigma_form: torch.Tensor
    expression: torch.Tensor
    log_sigma_expression: torch.Tensor
    rotation: torch.Tensor
    log_sigma_rotation: torch.Tensor
    place: torch.Tensor
    log_sigma_place: torch.Tensor
    light: torch.Tensor
    log_sigma_light: torch.Tensor
    albedo: torch.Tensor
    log_sigma_albedo: torch.Tensor
    visible: torch.Tensor

    @classmethod
    def joined(cls, parts: list[Attributes]) -> Attributes:
        """Return those of several batches as one."""
        return cls(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)})


class AttributeNetwork(nn.Module):
    """Encoder, fusion, tokens and heads.

    Parameters
    ----------
    face : FaceModel
        Numbers count from its means, in its standard deviations.
    """

    facing: torch.Tensor
    angles: torch.Tensor
    mean_points: torch.Tensor

    def __init__(self, config: AttributesConfig, face: FaceModel) -> None:
        super().__init__()
        network = config.network
        self.finest, self.image_size = network.finest, network.image_size
        self.scales = ENCODERS[network.encoder](config)
        self.fusion = Fusion(network.fusion, network.channels)
        C, g = network.channels, network.grid
        self.grid = g
        self.summary = nn.Sequential(
            nn.Conv2d(C, _GRID_CHANNELS, 1), nn.SiLU(), nn.Flatten(), nn.Linear(_GRID_CHANNELS * g * g, network.hidden)
        )
        # The deepest map has the whole picture in each place; so many numbers are learnt sooner from it than by tokens.
        self.points = Coarse(C, 3 * len(face.vertices), g)
        self.heads = nn.ModuleDict(
            {
                "form": TokenHead(network, 2 * len(face.form_dual)),
                "expression": TokenHead(network, 2 * len(face.expression_mean)),
                "rotation": TokenHead(network, 6 + 3),
                "place": TokenHead(network, 3 + 3),
                "light": TokenHead(network, 2 * 3 * HARMONICS),
                "visible": TokenHead(network, len(face.vertices)),
            }
        )
        if len(face.albedo_std):
            self.heads["albedo"] = TokenHead(network, 2 * len(face.albedo_std))
        self.positions = nn.Parameter(torch.zeros(1, g * g, C))
        nn.init.normal_(self.positions, std=0.02)
        for name, mean, std in (
            ("form", torch.zeros(len(face.form_dual)), torch.ones(len(face.form_dual))),
            ("expression", face.expression_mean, face.expression_std),
            ("albedo", torch.zeros_like(face.albedo_std), face.albedo_std),
        ):
            self.register_buffer(f"{name}_mean", mean.clone().float())
            self.register_buffer(f"{name}_std", std.clone().float())
        self.register_buffer("mean_points", torch.full((len(face.vertices), 2), 0.5))
        # Mean and standard deviation of the angles of the training crops.
        self.register_buffer("angles", torch.tensor([0.0, 1.0]))
        self.register_buffer("facing", torch.tensor(FACING))

    def mean_places(self, face: FaceModel) -> F64:
        """Return the mean places (L, 2) of the landmarks in crops of the training people."""
        found: F64 = face.landmarks(self.mean_points[None])[0].double().cpu().numpy()
        return found

    def forward(self, images: torch.Tensor, angle: torch.Tensor | None) -> Attributes | Points:
        """Tell the attributes of (B, 3, H, W) normalised crops.

        Parameters
        ----------
        angle : (B,), optional
            As :func:`trainer.attributes.pose.crop_angle` has it. A crop does not show how large a face is; with the
            distances at which training cameras stood, this tells. One far from all those of training crops tells
            nothing, and neither does NaN. Without it, points alone are told, which takes a fraction of the time.
        """
        scales = self.scales(images)
        seen = self.points.seen(scales[-1])
        points = self.points.out(seen).unflatten(-1, (-1, 3))
        log_sigma_points = bounded(points[..., 2]) + images.new_tensor(_POINT).log()
        found = Points(self.mean_points + points[..., :2], log_sigma_points)
        if angle is None:
            return found
        maps = no_larger(scales, self.finest)
        side = maps[0].shape[-1]
        fused = F.adaptive_avg_pool2d(self.fusion(maps, (side, side)), self.grid)
        unusual = (angle - self.angles[0]) / self.angles[1]
        known = unusual.abs() < _FAR
        told_angle = torch.stack([torch.where(known, unusual, 0.0), known.float()], -1)
        summary = torch.cat([F.silu(self.summary(fused)), seen, told_angle], -1)
        places = fused.flatten(2).transpose(1, 2)
        said = {name: head(places, self.positions, summary) for name, head in self.heads.items()}
        told: dict[str, torch.Tensor] = {}
        for name in ("form", "expression", "albedo"):
            value, spread = said.get(name, summary[:, :0]).chunk(2, -1)
            mean, std = getattr(self, f"{name}_mean"), getattr(self, f"{name}_std")
            told[name] = mean + std * value
            told[f"log_sigma_{name}"] = bounded(spread) + std.log()
        light, spread = said["light"].chunk(2, -1)
        first = torch.zeros_like(light)
        first[:, :3] = 1
        told["light"] = _LIGHT * (first + light)
        told["log_sigma_light"] = bounded(spread) + told["light"].new_tensor(_LIGHT).log()
        six = said["rotation"][:, :6] + images.new_tensor([1.0, 0, 0, 0, 1, 0])
        told["rotation"] = self.facing @ rotation_of(six)
        told["log_sigma_rotation"] = bounded(said["rotation"][:, 6:]) + images.new_tensor(_TURN).log()
        # Counted from the distance at which the training cameras stood: what looks large is large.
        far = torch.where(known, angle - self.angles[0], 0.0)
        told["place"] = _PLACE * said["place"][:, :3] + F.pad(far[:, None], (2, 0))
        told["log_sigma_place"] = bounded(said["place"][:, 3:]) + images.new_tensor(_PLACE).log()
        return Attributes(**vars(found), **told, visible=said["visible"])


class TokenHead(nn.Module):
    """One learnt token that looks at all places of the fused map, and two layers on what it saw and the whole."""

    def __init__(self, config: AttributesNetworkConfig, numbers: int) -> None:
        super().__init__()
        C, hidden = config.channels, config.hidden
        self.token = nn.Parameter(torch.zeros(C))
        nn.init.normal_(self.token, std=0.5)
        self.keys, self.values = nn.Linear(C, C), nn.Linear(C, 2 * C)
        self.drop = nn.Dropout(config.dropout)
        self.first, self.out = nn.Linear(2 * C + hidden + COARSE_HIDDEN + 2, hidden), nn.Linear(hidden, numbers)
        nn.init.normal_(self.out.weight, std=1e-2)
        nn.init.zeros_(self.out.bias)

    def forward(self, places: torch.Tensor, positions: torch.Tensor, summary: torch.Tensor) -> torch.Tensor:
        """Return the numbers of fused places (B, N, C) and the whole's summary (B, H)."""
        keys = self.keys(places + positions)
        weights = (keys @ self.token / keys.shape[-1] ** 0.5).softmax(-1)
        looked_at = torch.einsum("bn,bnc->bc", weights, self.values(places + positions))
        numbers: torch.Tensor = self.out(F.silu(self.first(self.drop(torch.cat([looked_at, summary], -1)))))
        return numbers


def bounded(log_sigma: torch.Tensor) -> torch.Tensor:
    """Keep log σ where it has a gradient to come back by."""
    return log_sigma.clamp(*LOG_SIGMA)


@dataclass(frozen=True)
class Posed:
    """The face that attributes stand for.

    Attributes
    ----------
    shape : (B, n, 3)
        Chosen vertices in the face's axes, metres.
    in_crop : (B, n, 3)
        Directions of the crop's axes: turned, not moved.
    in_camera : (B, n, 3)
        Metres.
    positions : (B, n, 2)
        Places in the crop.
    """

    shape: torch.Tensor
    in_crop: torch.Tensor
    in_camera: torch.Tensor
    positions: torch.Tensor


def posed(told: Attributes, face: FaceModel, views: Views) -> Posed:
    """Return where the chosen vertices are."""
    shape = face.shape(told.form, told.expression)
    in_crop = shape @ told.rotation.transpose(1, 2)
    origin = origin_of(told.place, views.transform, views.intrinsics)
    in_camera = in_crop @ views.axes.transpose(1, 2) + origin[:, None]
    return Posed(shape, in_crop, in_camera, project(in_camera, views.transform, views.intrinsics))
