"""From one picture to the state of a person's appearance model, and where the face is (I2ZNet)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from trainer.align.encoder import ConvolutionalStages
from trainer.attributes.data import Views
from trainer.attributes.pose import FACING, origin_of, project, rotation_of
from trainer.avatar.appearance import AppearanceModel, Basis
from trainer.avatar.config import AvatarNetworkConfig

_REDUCED = 32
_PLACE = 0.1
_STAGES = 16  # by which four stages shrink a picture


@dataclass(frozen=True)
class State:
    """What is told of B pictures.

    Attributes
    ----------
    state : (B, Z)
    rotation : (B, 3, 3)
        From the face's axes to the crop's.
    place : (B, 3)
        As :func:`trainer.attributes.pose.place_of` has it.
    """

    state: torch.Tensor
    rotation: torch.Tensor
    place: torch.Tensor


@dataclass(frozen=True)
class Driven:
    """The face that states stand for.

    Attributes
    ----------
    shape : (B, n, 3)
        Metres in the face's axes.
    in_camera : (B, n, 3)
        Metres before the camera.
    positions : (B, n, 2)
        Places in the crop.
    view : (B, 3)
        Unit directions from the face to the camera, in the face's axes.
    rotation : (B, 3, 3)
        From the face's axes to the camera's.
    """

    shape: torch.Tensor
    in_camera: torch.Tensor
    positions: torch.Tensor
    view: torch.Tensor
    rotation: torch.Tensor


class ImageNetwork(nn.Module):
    """Four convolutional stages, and two layers on all places of the last."""

    facing: torch.Tensor

    def __init__(self, config: AvatarNetworkConfig) -> None:
        super().__init__()
        self.states = config.state
        self.stages = ConvolutionalStages(config.width)
        side = config.image_size // _STAGES
        self.reduce = nn.Conv2d(self.stages.widths[-1], _REDUCED, 1)
        self.first = nn.Linear(_REDUCED * side * side, config.hidden)
        self.last = nn.Linear(config.hidden, config.state + 6 + 3)
        nn.init.normal_(self.last.weight, std=1e-2)
        nn.init.zeros_(self.last.bias)
        self.register_buffer("facing", torch.tensor(FACING), persistent=False)

    def forward(self, images: torch.Tensor) -> State:
        """Tell the states of (B, 3, H, W) normalised crops."""
        deep = F.silu(self.reduce(self.stages.maps(images)[-1])).flatten(1)
        state, six, place = self.last(F.silu(self.first(deep))).split([self.states, 6, 3], -1)
        six = six + images.new_tensor([1.0, 0, 0, 0, 1, 0])
        return State(state, self.facing @ rotation_of(six), _PLACE * place)


class Avatar(nn.Module):
    """A person's appearance model and the network that drives it.

    Attributes
    ----------
    image_size : int
        Pixels a side of the crops that are seen.
    """

    def __init__(self, config: AvatarNetworkConfig, basis: Basis) -> None:
        super().__init__()
        self.image_size = config.image_size
        self.appearance, self.image = AppearanceModel(config, basis), ImageNetwork(config)

    def forward(self, images: torch.Tensor) -> State:
        """Tell the states of (B, 3, H, W) normalised crops."""
        told: State = self.image(images)
        return told

    def driven(self, told: State, views: Views) -> Driven:
        """Return the face that states stand for."""
        return placed(self.appearance.shape(told.state), told, views)


def placed(shape: torch.Tensor, told: State, views: Views) -> Driven:
    """Return meshes (B, n, 3) where states say that the face is."""
    rotation = views.axes @ told.rotation
    origin = origin_of(told.place, views.transform, views.intrinsics)
    in_camera = shape @ rotation.transpose(1, 2) + origin[:, None]
    view = -F.normalize(torch.einsum("bji,bj->bi", rotation, origin), dim=-1)
    return Driven(shape, in_camera, project(in_camera, views.transform, views.intrinsics), view, rotation)
