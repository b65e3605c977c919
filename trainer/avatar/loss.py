"""What an avatar is asked for in a studio, where meshes are known."""

from __future__ import annotations

import torch

from trainer.attributes.data import Views
from trainer.attributes.loss import disagreement
from trainer.attributes.pose import turn_between
from trainer.avatar.config import AvatarLossConfig
from trainer.avatar.data import Truth
from trainer.avatar.network import Avatar, State, placed

# What a term of 1 means.
_MESH_M, _SIDES, _TURN, _LOG_DISTANCE, _COLOUR = 1e-3, 0.02, 0.05, 0.02, 0.1


def studio_loss(
    avatar: Avatar, views: Views, truth: Truth, config: AvatarLossConfig, *, clip: int, noise: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return the weighted terms of learning appearance model and network together, and their sum as ``loss``.

    Parameters
    ----------
    clip : int
        Pictures of an instant that follow each other in the batch.
    noise : (B, Z)
        Standard normal: states of the appearance model are drawn with it.
    """
    appearance, true, texture = avatar.appearance, truth.driven, truth.texture
    mean, log_variance = appearance.encode(true.shape, texture.colours, texture.weights)
    drawn = mean + noise * (log_variance / 2).exp()
    terms = {
        "mesh": config.mesh * _distance(appearance.shape(drawn), true.shape) / _MESH_M,
        "texture": config.texture * _colours(avatar, drawn, truth),
    }
    if config.divergence:
        each = (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1) / 2
        terms["divergence"] = config.divergence * each.mean()
    told = avatar(views)
    if config.state:
        terms["state"] = config.state * (told.state - mean.detach()).square().mean()
    if config.appearance:
        terms["appearance"] = config.appearance * _colours(avatar, told.state, truth)
    if config.agreement and clip > 1:
        terms["agreement"] = config.agreement * disagreement(told.state, clip)
    terms |= picture_terms(avatar, told, views, truth, config)
    return terms | {"loss": torch.stack(list(terms.values())).sum()}


def picture_terms(
    avatar: Avatar, told: State, views: Views, truth: Truth, config: AvatarLossConfig
) -> dict[str, torch.Tensor]:
    """Return the weighted terms of what pictures tell: mesh, its place in the picture, rotation and distance."""
    shape = avatar.appearance.shape(told.state)
    driven = placed(shape, told, views)
    lacking = (driven.positions - truth.driven.positions).norm(dim=-1).mean()
    terms = {
        "vertices": config.vertices * _distance(shape, truth.driven.shape) / _MESH_M,
        "positions": config.positions * lacking / _SIDES,
    }
    if config.pose:
        turn = turn_between(told.rotation, truth.told.rotation).norm(dim=-1).mean() / _TURN
        distance = (told.place[:, 2] - truth.told.place[:, 2]).abs().mean() / _LOG_DISTANCE
        terms["pose"] = config.pose * (turn + distance) / 2
    return terms


def _distance(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return (one - other).norm(dim=-1).mean()


def _colours(avatar: Avatar, state: torch.Tensor, truth: Truth) -> torch.Tensor:
    """Return how far the textures of states (B, Z) are from those of the pictures, over the texture's level."""
    weights = truth.texture.weights
    found = avatar.appearance.colours(state, truth.driven.view)
    distance = (found - truth.texture.colours).abs().mean(-1) / avatar.appearance.level
    return (distance * weights).sum() / weights.sum().clamp(min=1e-6) / _COLOUR
