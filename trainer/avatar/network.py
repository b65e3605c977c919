"""From one picture to the state of a person's appearance model, and where the face is (I2ZNet)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from trainer.attributes.data import Views, sample_colours
from trainer.attributes.pose import FACING, origin_of, project, rotation_of
from trainer.avatar.appearance import AppearanceModel, Basis
from trainer.avatar.config import AvatarNetworkConfig
from trainer.avatar.skin import Skin
from trainer.model.stages import ConvolutionalStages

_REDUCED = 32
_LEAST_CONTRAST = 0.05
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
    """Pose from the crop; then the state from the picture unwrapped with that pose.

    Each is four convolutional stages and two layers on all places of the last. Of what is unwrapped the face's pose is
    taken off already, so that lips and lids are always at the same places.
    """

    facing: torch.Tensor

    def __init__(self, config: AvatarNetworkConfig) -> None:
        super().__init__()
        self.pose = _Told(config, config.image_size, 6 + 3)
        self.state = _Told(config, config.texture, config.state)
        self.register_buffer("facing", torch.tensor(FACING), persistent=False)

    def forward(self, views: Views, mean: torch.Tensor, skin: Skin) -> State:
        """Tell the states of pictures of a person with a mean mesh (n, 3)."""
        seen = views.seen
        six, place = self.pose(seen).split([6, 3], -1)
        six = six + seen.new_tensor([1.0, 0, 0, 0, 1, 0])
        rotation, place = self.facing @ rotation_of(six), _PLACE * place
        told = State(seen[:, :0, 0, 0], rotation, place)
        with torch.no_grad():
            at_rest = placed(mean.expand(len(seen), -1, -1), told, views)
            places = skin.at_texels(at_rest.positions).nan_to_num(0).clamp(-1, 2)
        unwrapped = sample_colours(seen, places)
        # Brightness and contrast are the camera's.
        unwrapped = (unwrapped - unwrapped.mean(1, keepdim=True)) / (unwrapped.std(1, keepdim=True) + _LEAST_CONTRAST)
        return State(self.state(skin.square(unwrapped)), rotation, place)


class _Told(nn.Sequential):
    """Numbers told of pictures."""

    def __init__(self, config: AvatarNetworkConfig, size: int, numbers: int) -> None:
        stages = ConvolutionalStages(config.width)
        side = -(-size // _STAGES)
        last = nn.Linear(config.hidden, numbers)
        nn.init.normal_(last.weight, std=1e-2)
        nn.init.zeros_(last.bias)
        super().__init__(
            *stages,
            nn.Conv2d(stages.widths[-1], _REDUCED, 1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(_REDUCED * side * side, config.hidden),
            nn.SiLU(),
            last,
        )


class Avatar(nn.Module):
    """A person's appearance model and the network that drives it.

    Attributes
    ----------
    image_size : int
        Pixels a side of the crops that are seen.
    skin : Skin
    """

    def __init__(self, config: AvatarNetworkConfig, basis: Basis, skin: Skin) -> None:
        super().__init__()
        self.image_size, self.skin = config.image_size, skin
        self.appearance, self.image = AppearanceModel(config, basis), ImageNetwork(config)

    def forward(self, views: Views) -> State:
        """Tell the states of pictures."""
        told: State = self.image(views, self.appearance.mean, self.skin)
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
