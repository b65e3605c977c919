"""A person's appearance model: mesh and texture from a latent state, and the state from both (Lombardi et al., 2018).

Meshes are sums of the person's own principal shapes, and textures count from the mean one: a person is far from every
other, but near to itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from trainer.avatar.config import AvatarNetworkConfig

# Numbers that a texture is told by; what is seen of it is divided by its level first.
_TOLD = 64
_LOG_VARIANCE = (-12.0, 4.0)


@dataclass(frozen=True)
class Basis:
    """What meshes and textures of a person count from.

    Attributes
    ----------
    mean : (n, 3) float32
        Vertices in the face's axes, metres.
    shapes : (K, n, 3) float32
        Principal shapes, one standard deviation each.
    texture : (P, 3) float32
        Mean colours, linear light.
    """

    mean: torch.Tensor
    shapes: torch.Tensor
    texture: torch.Tensor


class AppearanceModel(nn.Module):
    """Encoder of mesh and texture, decoder of state and view.

    Parameters
    ----------
    basis : Basis
    """

    mean: torch.Tensor
    shapes: torch.Tensor
    texture: torch.Tensor

    def __init__(self, config: AvatarNetworkConfig, basis: Basis) -> None:
        super().__init__()
        K, P = len(basis.shapes), len(basis.texture)
        self.states = config.state
        for name in ("mean", "shapes", "texture"):
            self.register_buffer(name, getattr(basis, name).clone().float())
        self.see_texture = nn.Linear(3 * P, _TOLD)
        self.encode_first = nn.Linear(K + _TOLD, config.hidden)
        self.encode_last = nn.Linear(config.hidden, 2 * config.state)
        self.mesh_first, self.mesh_last = nn.Linear(config.state, config.hidden), nn.Linear(config.hidden, K)
        self.texture_first = nn.Linear(config.state + 3, config.hidden)
        self.texture_last = nn.Linear(config.hidden, 3 * P)
        for layer in (self.texture_last, self.mesh_last):
            nn.init.normal_(layer.weight, std=1e-3 if layer is self.texture_last else 0.1)
            nn.init.zeros_(layer.bias)

    @property
    def level(self) -> torch.Tensor:
        """Mean brightness of the texture."""
        return self.texture.mean().clamp(min=1e-4)

    def encode(
        self, shape: torch.Tensor, colours: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and log variance (B, Z) of the states of meshes (B, n, 3) with textures (B, P, 3)."""
        flat = self.shapes.flatten(1)
        mesh = (shape - self.mean).flatten(1) @ flat.T / flat.square().sum(1)
        departure = (colours - self.texture) / self.level * weights[..., None]
        told = torch.cat([mesh, self.see_texture(departure.flatten(1))], 1)
        mean, log_variance = self.encode_last(F.silu(self.encode_first(told))).chunk(2, -1)
        return mean, log_variance.clamp(*_LOG_VARIANCE)

    def shape(self, state: torch.Tensor) -> torch.Tensor:
        """Return the meshes (B, n, 3) of states (B, Z), metres in the face's axes."""
        weights = self.mesh_last(F.silu(self.mesh_first(state)))
        return self.mean + torch.einsum("bk,kvi->bvi", weights, self.shapes)

    def colours(self, state: torch.Tensor, view: torch.Tensor) -> torch.Tensor:
        """Return the textures (B, P, 3) of states (B, Z) seen from unit directions (B, 3) in the face's axes."""
        departure = self.texture_last(F.silu(self.texture_first(torch.cat([state, view], 1))))
        return self.texture + self.level * departure.reshape(len(state), -1, 3)


def principal_shapes(shapes: torch.Tensor, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean (n, 3) of meshes (N, n, 3) and at most so many principal shapes, one standard deviation each."""
    mean = shapes.mean(0)
    rest = (shapes - mean).flatten(1).double()
    _, spread, directions = torch.linalg.svd(rest, full_matrices=False)
    kept = spread > 1e-6 * spread[:1].clamp(min=1e-12)
    kept[most:] = False
    kept[0] = True  # a person who never moved has one shape still
    scaled = directions[kept] * (spread[kept] / max(len(shapes) - 1, 1) ** 0.5).clamp(min=1e-6)[:, None]
    return mean, scaled.reshape(-1, *mean.shape).to(shapes.dtype)
