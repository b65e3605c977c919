"""Where vertices of the template are in a picture, found in what a model says of its canonical coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import binary_erosion, uniform_filter
from scipy.spatial import cKDTree

from datagen.common.arrays import F64, I64
from datagen.shards import Dataset
from datagen.shards.faces import TemplateContents
from trainer.align.uv_space import face_vertices
from trainer.inference import Maps

_HALF = 0.5
# Pixels over which the map's slope is taken: a network's map is smoother than that.
_SMOOTH_PX = 3
_STEPS = 3
_RIM_PX = 2
# Where the map comes no nearer to a vertex, it does not show it.
_NEAR_PX = 1.0
# A coordinate so far off the template is no mistake along it.
_OFF_M = 0.015
_LEAST_OFF_M = 0.001
_OUTLIER = 3.0
_FLAT = 1e-4
_LEAST = 1e-12


@dataclass(frozen=True, eq=False)
class CanonicalVertices:
    """Vertices of the face's skin, by where they are in canonical space.

    Attributes
    ----------
    vertices : tensor (V,) int64
        Their numbers in the template.
    coordinates : (V, 3) float64
        Normalised.
    corner_faces, corner : (V,) int64
        A triangle of the template with each, and which of its corners it is.
    half_extent_m : float
        Metres per unit of canonical coordinate.
    """

    vertices: torch.Tensor
    coordinates: F64
    corner_faces: I64
    corner: I64
    half_extent_m: float

    @property
    def is_face(self) -> torch.Tensor:
        """All of them."""
        return torch.ones(len(self.vertices), dtype=torch.bool)


def canonical_vertices(dataset: Dataset) -> CanonicalVertices:
    """Return the vertices of a dataset's template that models may find in pictures.

    Raises
    ------
    DatasetError
        If it has no frame table.
    """
    dataset.require_faces()
    template, space = dataset.template, dataset.plan.space
    chosen = np.flatnonzero(face_vertices(template, dataset.attrs.get("regions", {})))
    faces, corner = _a_triangle_each(template, chosen)
    centre, half = np.asarray(space["centre"], np.float64), float(space["half_extent"])
    return CanonicalVertices(torch.from_numpy(chosen), (template.vertices[chosen] - centre) / half, faces, corner, half)


def _a_triangle_each(template: TemplateContents, chosen: I64) -> tuple[I64, I64]:
    found = np.zeros((len(template.vertices), 2), np.int64)
    for corner in range(3):
        found[template.faces[:, corner], 0] = np.arange(len(template.faces))
        found[template.faces[:, corner], 1] = corner
    return found[chosen, 0], found[chosen, 1]


@dataclass(frozen=True, eq=False)
class Found:
    """Vertices in one picture of a model's resolution.

    Attributes
    ----------
    which : (n,) int64
        Into those that were looked for.
    pixels : (n, 2) float64
    per_m : (n, 2, 2) float64
        Covariance in square pixels of an error of one metre along each canonical axis.
    confidence : (n,) float64
        Of the canonical coordinate there.
    """

    which: I64
    pixels: F64
    per_m: F64
    confidence: F64


def find_vertices(maps: Maps, wanted: CanonicalVertices) -> Found:
    """Return where a picture shows vertices: where its canonical map has their coordinates.

    From the pixel whose coordinate is nearest, Newton's steps in the map's slope J lead to the place between pixels; an
    error e of the coordinate moves it by (JᵀJ)⁻¹ Jᵀ e.

    Parameters
    ----------
    maps : Maps
        Of one frame.
    """
    H, W = maps.depth_m.shape
    shown = np.asarray(np.isfinite(maps.canonical).all(0))
    if maps.surface is not None:
        shown &= maps.surface > _HALF
    # Slopes need their neighbours.
    inside = binary_erosion(shown, iterations=_RIM_PX)
    y, x = np.nonzero(inside)
    if not len(y):
        return Found(np.zeros(0, np.int64), np.zeros((0, 2)), np.zeros((0, 2, 2)), np.zeros(0))
    canonical = np.nan_to_num(maps.canonical.astype(np.float64)) * wanted.half_extent_m
    smooth = np.stack([uniform_filter(channel, _SMOOTH_PX) for channel in canonical])
    slopes = np.stack(np.gradient(smooth, axis=(2, 1)), -1).transpose(1, 2, 0, 3)  # (H, W, 3, 2)
    values, target = canonical.transpose(1, 2, 0), wanted.coordinates * wanted.half_extent_m
    _, nearest = cKDTree(values[y, x]).query(target)
    at = np.stack([x[nearest], y[nearest]], -1)
    for _ in range(_STEPS):
        step, _, _ = _newton(at, slopes, values, target)
        moved = np.clip(np.rint(at + np.clip(step, -1, 1)), 0, [W - 1, H - 1]).astype(np.int64)
        at = np.where(inside[moved[:, 1], moved[:, 0]][:, None], moved, at)
    step, normal, off_m = _newton(at, slopes, values, target)
    size_m = np.sqrt(np.trace(normal, axis1=1, axis2=2) / 2)  # of a pixel on the skin
    seen = (np.abs(step).max(1) < _NEAR_PX) & (off_m < _OFF_M) & (np.linalg.det(normal) > _FLAT * size_m**4)
    if seen.any():
        # Behind lids and between lips there are vertices beside those that are seen, a little off the surface.
        seen &= off_m < max(_LEAST_OFF_M, _OUTLIER * float(np.median(off_m[seen])))
        # Between two parts that touch, such as lips, the map jumps; its slope there says nothing.
        seen &= size_m < _OUTLIER * np.median(size_m[seen])
    which = np.flatnonzero(seen)
    confidence = maps.canonical_confidence[at[which, 1], at[which, 0]].astype(np.float64)
    per_m = np.asarray(np.linalg.inv(normal[which]), np.float64)
    return Found(which, (at + step)[which] + _HALF, per_m, confidence)


def _newton(at: I64, slopes: F64, values: F64, target: F64) -> tuple[F64, F64, F64]:
    """Return steps (n, 2) in pixels towards targets (n, 3), JᵀJ (n, 2, 2), and how far off the surface they end."""
    J, left = slopes[at[:, 1], at[:, 0]], target - values[at[:, 1], at[:, 0]]
    across = J.transpose(0, 2, 1)
    normal = across @ J
    step = np.asarray(np.linalg.solve(normal + _LEAST * np.eye(2), across @ left[..., None])[..., 0], np.float64)
    return step, normal, np.linalg.norm(left - (J @ step[..., None])[..., 0], axis=1)
