"""The skin of one person's face: its vertices, its triangles, and the texels of its texture.

Texels are those of the template's UV chart that lie in a triangle of the face, as a list: nothing is computed for the
empty rest of the square.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from datagen.shards.faces import TemplateContents
from trainer.align.config import AlignLossConfig
from trainer.align.uv_space import uv_space


@dataclass(frozen=True, eq=False)
class Skin:
    """Vertices and texels.

    Attributes
    ----------
    vertices : (n,) int64
        Of the template.
    is_face : (n,) bool
        All of them.
    triangles : (T, 3) int64
        Into ``vertices``.
    corners, shares : (P, 3) int64, float32
        Of the triangle that a texel's centre lies in; barycentric.
    texels : (P,) int64
        Where each lies in the square, row by row.
    size : int
        Texels a side of the square.
    """

    vertices: torch.Tensor
    is_face: torch.Tensor
    triangles: torch.Tensor
    corners: torch.Tensor
    shares: torch.Tensor
    texels: torch.Tensor
    size: int

    def at_texels(self, values: torch.Tensor) -> torch.Tensor:
        """Return values (B, n, C) of vertices at the texels, (B, P, C)."""
        return (values[:, self.corners] * self.shares[..., None]).sum(2)

    def normals(self, shape: torch.Tensor) -> torch.Tensor:
        """Return unit normals (B, n, 3), outwards, of vertices (B, n, 3)."""
        a, b, c = (shape[:, self.triangles[:, k]] for k in range(3))
        across = torch.linalg.cross(b - a, c - a)
        total = torch.zeros_like(shape)
        for k in range(3):
            total = total.index_add(1, self.triangles[:, k], across)
        return F.normalize(total, dim=-1)

    def square(self, values: torch.Tensor) -> torch.Tensor:
        """Return values (B, P, C) of texels as pictures (B, C, size, size), 0 where there is no skin."""
        whole = values.new_zeros(len(values), self.size**2, values.shape[-1])
        whole[:, self.texels] = values
        return whole.transpose(1, 2).reshape(len(values), -1, self.size, self.size)

    def around(self, values: torch.Tensor, counted: torch.Tensor, width: int, times: int = 1) -> torch.Tensor:
        """Return the mean of values (B, P, C) over the texels that count (B, P, 1) in a square of odd width about each.

        Parameters
        ----------
        times : int
            How often means of means are taken: 2 is a tent.
        """
        maps = self.square(torch.cat([values * counted, counted], -1))
        for _ in range(times):
            maps = F.avg_pool2d(maps, width, 1, width // 2)
        found = maps.flatten(2)[:, :, self.texels].transpose(1, 2)
        return found[..., :-1] / found[..., -1:].clamp(min=1e-6)

    def to(self, device: torch.device) -> Skin:
        """Return it on a device."""
        moved: dict[str, Any] = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in vars(self).items()}
        return Skin(**moved)

    def content(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return dict(vars(self.to(torch.device("cpu"))))


def learn_skin(template: TemplateContents, regions: Mapping[str, int], size: int) -> Skin:
    """Return the skin of a dataset's template, with a texture of ``size`` texels a side.

    Raises
    ------
    DatasetError
        If the template has no texture coordinates, or no vertex of a face.
    """
    space = uv_space(template, regions, AlignLossConfig(ears=0, scalp=0), size)
    chosen = space.vertices.numpy()
    where = np.full(len(template.vertices), -1)
    where[chosen] = np.arange(len(chosen))
    triangles = where[template.faces]
    inside = torch.nonzero(space.texel_shares.sum(1) > 0)[:, 0]
    return Skin(
        vertices=space.vertices,
        is_face=space.is_face,
        triangles=torch.from_numpy(triangles[(triangles >= 0).all(1)]),
        corners=space.texel_corners[inside],
        shares=space.texel_shares[inside],
        texels=inside,
        size=size,
    )
