"""UV space of a template: which vertices are aligned, where they lie in it, and which triangle each texel is in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from datagen.common.arrays import F64, I64, Bools
from datagen.common.errors import DatasetError
from datagen.shards.faces import TemplateContents
from trainer.align.config import AlignLossConfig
from trainer.evaluation.canonical import region_labels
from trainer.evaluation.track.chart import main_chart

SCALP = "scalp"
NOT_SKIN = ("mouth_interior", "right_eyeball", "left_eyeball")
_INSIDE = -1e-6
_SYMMETRIC_M = 5e-4
_CHUNK = 64


@dataclass(frozen=True, eq=False)
class UVSpace:
    """The vertices that are aligned and their places.

    Attributes
    ----------
    vertices : (V,) int64
        Of the template: those with a weight, on the chart that holds the face. Pockets behind the lids and the inside
        of the mouth lie on charts of their own.
    uv : (V, 2) float32
        Places ν in [0, 1], y down as in a picture; enlarged so that they fill the texels' centres.
    weights : (V,) float32
        λ of equation 5.
    is_face : (V,) bool
        Whether a vertex belongs to the face.
    texel_corners : (D * D, 3) int64
        Corners, into ``vertices``, of the triangle that each texel's centre lies in; row by row.
    texel_shares : (D * D, 3) float32
        Barycentric; 0 where a texel lies in none.
    texel_weights : (D * D,) float32
        λ of equation 6: of the corners.
    corner_faces, corner : (V,) int64
        A triangle of the template with each vertex, and which of its corners it is.
    mirrored : (V,) int64 or None
        The vertex on the other side, into ``vertices``; None where the template is not symmetric.
    """

    vertices: torch.Tensor
    uv: torch.Tensor
    weights: torch.Tensor
    is_face: torch.Tensor
    texel_corners: torch.Tensor
    texel_shares: torch.Tensor
    texel_weights: torch.Tensor
    corner_faces: torch.Tensor
    corner: torch.Tensor
    mirrored: torch.Tensor | None

    def to_texels(self, values: torch.Tensor) -> torch.Tensor:
        """Return values (B, V, C) of vertices at the texels, (B, D * D, C): barycentric, 0 outside all triangles."""
        return (values[:, self.texel_corners] * self.texel_shares[..., None]).sum(2)

    def to(self, device: torch.device) -> UVSpace:
        """Return it on a device."""
        moved = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in vars(self).items()}
        return UVSpace(**moved)


def uv_space(template: TemplateContents, regions: Mapping[str, int], weights: AlignLossConfig, size: int) -> UVSpace:
    """Return the UV space of a dataset's template.

    Parameters
    ----------
    regions : mapping
        The dataset's attribute ``regions``: name to label.
    size : int
        Texels a side, D.

    Raises
    ------
    DatasetError
        If the template has no texture coordinates, or no vertex of a face.
    """
    if not len(template.uv):
        raise DatasetError(
            f"the template of {template.head} has no texture coordinates",
            "a template with `uv`, such as `datagen build` writes",
            "Build the dataset again",
        )
    weight, is_face = _vertex_weights(template, regions, weights)
    corner_uv = main_chart(template, weight * is_face)
    # The last one written counts: of a vertex with several places, that in the heaviest triangle.
    order = np.argsort(weight[template.faces].sum(1) + corner_uv, kind="stable")
    order = order[corner_uv[order]]
    face_of, corner_of = np.full(len(weight), -1), np.zeros(len(weight), np.int64)
    uv = np.zeros((len(weight), 2))
    for corner in range(3):
        at = template.faces[order, corner]
        uv[at], face_of[at], corner_of[at] = template.uv[template.uv_faces[order, corner]], order, corner
    chosen = np.flatnonzero((weight > 0) & (face_of >= 0))
    if not (is_face[chosen]).any():
        raise DatasetError(
            f"the template of {template.head} has no vertices of a face",
            "regions that name its parts",
            "Build it again",
        )
    places = uv[chosen] * [1, -1]
    low, high = places.min(0), places.max(0)
    # Outermost vertices at the outermost texels' centres: all lie between texels.
    places = (places - low) / np.maximum(high - low, 1e-9) * (size - 1) / size + 0.5 / size
    where = np.full(len(weight), -1)
    where[chosen] = np.arange(len(chosen))
    triangles = where[template.faces[corner_uv]]
    corners, shares = _locate(places, triangles[(triangles >= 0).all(1)], size)
    lam = weight[chosen]
    return UVSpace(
        vertices=torch.from_numpy(chosen),
        uv=torch.from_numpy(places.astype(np.float32)),
        weights=torch.from_numpy(lam.astype(np.float32)),
        is_face=torch.from_numpy(is_face[chosen]),
        texel_corners=torch.from_numpy(corners),
        texel_shares=torch.from_numpy(shares.astype(np.float32)),
        texel_weights=torch.from_numpy((lam[corners] * shares).sum(1).astype(np.float32)),
        corner_faces=torch.from_numpy(face_of[chosen]),
        corner=torch.from_numpy(corner_of[chosen]),
        mirrored=mirrored_vertices(template.vertices[chosen]),
    )


def face_vertices(template: TemplateContents, regions: Mapping[str, int]) -> Bools:
    """Return which vertices (V,) are the face's skin: neither eyeballs nor the inside of the mouth."""
    inside = [regions[name] for name in NOT_SKIN if name in regions]
    found: Bools = np.isin(template.region, region_labels(regions)["face"]) & ~np.isin(template.region, inside)
    return found


def _vertex_weights(
    template: TemplateContents, regions: Mapping[str, int], weights: AlignLossConfig
) -> tuple[F64, Bools]:
    named, is_face = region_labels(regions), face_vertices(template, regions)
    weight = np.where(is_face, weights.face, 0.0)
    for value, labels in (
        (weights.ears, named.get("ears", np.zeros(0, np.int64))),
        (weights.scalp, np.array([regions[SCALP]] if SCALP in regions else [], np.int64)),
    ):
        weight = np.where(np.isin(template.region, labels) & ~is_face, value, weight)
    return weight, is_face


def _locate(places: F64, triangles: I64, size: int) -> tuple[I64, F64]:
    """Return the corners (D * D, 3) of the triangle that each texel's centre lies in, and its shares; 0 in none."""
    centre = (np.arange(size) + 0.5) / size
    texels = np.stack(np.meshgrid(centre, centre), -1).reshape(-1, 2)
    a, b, c = (places[triangles[:, k]] for k in range(3))
    area = _cross(b - a, c - a)
    sound = np.abs(area) > 1e-12
    a, b, c, area, triangles = a[sound], b[sound], c[sound], area[sound], triangles[sound]
    corners, shares = np.zeros((len(texels), 3), np.int64), np.zeros((len(texels), 3))
    for first in range(0, len(texels), _CHUNK):
        p = texels[first : first + _CHUNK, None]
        share = np.stack([_cross(c - b, p - b), _cross(a - c, p - c), _cross(b - a, p - a)], -1) / area[:, None]
        least = share.min(-1)
        best = least.argmax(1)
        inside = np.flatnonzero(least[np.arange(len(best)), best] > _INSIDE)
        corners[first + inside] = triangles[best[inside]]
        shares[first + inside] = share[inside, best[inside]]
    return corners, shares


def _cross(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> F64:
    crossed: F64 = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return crossed


def mirrored_vertices(vertices: npt.NDArray[np.float32]) -> torch.Tensor | None:
    """Return the vertex nearest to each one's mirror image; None unless all have one, and each is its own's own."""
    points = torch.from_numpy(vertices).double()
    other = torch.cdist(points * points.new_tensor([-1, 1, 1]), points)
    distance, index = other.min(1)
    both = index[index] == torch.arange(len(index))
    return index if float(distance.max()) < _SYMMETRIC_M and bool(both.all()) else None
