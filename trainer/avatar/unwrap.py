"""Textures unwrapped from pictures: T(p) = I(Π(x(p))), and how far each texel can be believed.

Colours are amounts of light, and differentiable with respect to where the face is; which texels are seen is not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from datagen.common.errors import InputError
from trainer.attributes.data import Views, sample_colours
from trainer.attributes.light import linear
from trainer.attributes.pose import project
from trainer.avatar.skin import Skin

# Cells a side of the crop that the depth of the face is kept in, and how far behind the nearest texel of its cell one
# may lie and still be seen: a cell is some 8 mm wide, and skin that is slanted more than 60 degrees hardly counts.
_CELLS, _BEHIND_M = 32, 0.012
# Of the cosine between normal and ray: what is more slanted is not seen.
_LEAST_COSINE = 0.15
# Share of the texture's side over which light changes little; share of the brightness below which all is black.
_SLOW, _FLOOR = 0.14, 0.1


@dataclass(frozen=True)
class Unwrapped:
    """Textures of B pictures.

    Attributes
    ----------
    colours : (B, P, 3)
        Linear light.
    weights : (B, P)
        0 where a texel is not seen, else the cosine between normal and ray.
    """

    colours: torch.Tensor
    weights: torch.Tensor


def unwrap(views: Views, in_camera: torch.Tensor, skin: Skin) -> Unwrapped:
    """Return the textures of pictures in which the skin's vertices are at (B, n, 3), metres before the camera.

    Raises
    ------
    InputError
        If a vertex is nowhere: what samples pictures must not be asked for such a place.
    """
    points = skin.at_texels(in_camera)
    places = project(points, views.transform, views.intrinsics)
    if not bool(places.isfinite().all()):
        raise InputError("meshes are not finite", "finite vertices", "Lower the learning rate, or check the pictures")
    colours = sample_colours(linear(views.images), places)
    return Unwrapped(colours, texel_weights(in_camera.detach(), points.detach(), places.detach(), skin))


@torch.no_grad()
def texel_weights(in_camera: torch.Tensor, points: torch.Tensor, places: torch.Tensor, skin: Skin) -> torch.Tensor:
    """Return the weights (B, P) of texels at ``points`` (B, P, 3), which are at ``places`` (B, P, 2) of the crop."""
    normals = F.normalize(skin.at_texels(skin.normals(in_camera)), dim=-1)
    cosine = -(normals * F.normalize(points, dim=-1)).sum(-1)
    inside = ((places > 0) & (places < 1)).all(-1)
    cell = (places.clamp(0, 1 - 1e-6) * _CELLS).long()
    index = cell[..., 1] * _CELLS + cell[..., 0]
    depth = points[..., 2]
    nearest = torch.full((len(points), _CELLS**2), torch.inf, device=points.device, dtype=points.dtype)
    # Skin that faces away hides what is behind it as well.
    nearest = nearest.scatter_reduce(1, index, depth, "amin")
    seen = inside & (depth < nearest.gather(1, index) + _BEHIND_M) & (cosine > _LEAST_COSINE)
    return cosine * seen


def fine_detail(colours: torch.Tensor, weights: torch.Tensor, skin: Skin, level: torch.Tensor) -> torch.Tensor:
    """Return what is left of textures (B, P, 3) without all that changes slowly over the skin, (B, P, 3).

    Logarithms of colours less their mean over a neighbourhood of texels that count: light from elsewhere, exposure
    and white balance go, brows, lids, lips and nostrils stay.

    Parameters
    ----------
    weights : (B, P)
    level : scalar
        Brightness; colours that are much darker do not count as detail.
    """
    logs = (colours.clamp(min=0) + _FLOOR * level).log()
    seen = (weights > 0).to(logs.dtype)[..., None]
    return (logs - skin.around(logs, seen, max(_odd(skin.size * _SLOW), 3), 2)) * seen


def coarse(views: Views, pixels: int) -> Views:
    """Return pictures with so many pixels a side averaged into one."""
    return replace(views, images=F.avg_pool2d(views.images, pixels)) if pixels > 1 else views


def coarse_texture(colours: torch.Tensor, skin: Skin, pixels: float) -> torch.Tensor:
    """Return textures (B, P, 3) as pictures show them in which so many pixels of a crop are averaged into one.

    Parameters
    ----------
    pixels : float
        In texels: of a crop that shows the face and a fifth more, as wide as the texture's square.
    """
    width = _odd(pixels)
    return skin.around(colours, torch.ones_like(colours[..., :1]), width) if width > 1 else colours


def _odd(width: float) -> int:
    return int(width) // 2 * 2 + 1
