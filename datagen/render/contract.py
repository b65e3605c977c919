"""The contract between rendering backends and everything that uses their maps: what goes in and out, and its rules.

The rules stand here and nowhere else. Kernels are shared: Open3D's maps are interpolated by numba's, nvdiffrast's by
those of nvwarp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from datagen.geometry.camera import Camera

# Part of every shard's content key: raise it when the same warps would be rendered to other maps.
RENDER_VERSION = 5

# What is seen. Nothing nearer than this is imaged: one millimetre in front of the optical centre.
NEAR_M = 1e-3
NO_FACE = -1
# Corners are snapped to 1/16384 pixel, so that coverage is decided in integers: as fine as float32 is at 1000 pixels.
SUBPIXEL_BITS = 14
# Screen coordinates beyond this many pixels are clipped away: keeps edge functions below 2^60, far from overflow.
GUARD_PX = 16384.0
# A triangle clipped by five planes (near, and four of the guard band) has at most eight corners.
MAX_CORNERS = 8

# Edges. A smaller difference in depth is not a step.
STEP_M = 1e-3
# The surface beyond a contour is looked up at this distance from it.
BEYOND_PX = 1.0 / 64.0
# Segments of a contour shorter than this share of it are rounding.
LEAST_SHARE = 1e-9

# Confidence fades where the surface turns away: full up to cos = 0.35 (about 70° from facing), then linear, but
# never to 0, which would mean "no canonical coordinate". At silhouettes and depth steps a pixel shows two surfaces,
# and beside them an image blurs into the pixel what is next to it.
GRAZING_COSINE = 0.35
GRAZING_FLOOR = 0.02
ON_EDGE = 0.3
BESIDE_EDGE = 0.65
# The least confidence that survives being stored as 8 bits.
LEAST_CONFIDENCE = 1.0 / 255.0

# Normals. A vertex normal shorter than this share of its triangles' areas is rounding, where opposite windings cancel.
CANCELLED = 1e-9

# Planes and type of each map of :class:`ViewMaps`, in its order.
MAPS: dict[str, tuple[int, type[np.generic]]] = {
    "depth": (1, np.float32),
    "canonical": (3, np.float32),
    "normal": (3, np.float32),
    "region": (1, np.uint8),
    "confidence": (1, np.float32),
    "mask": (1, np.bool_),
    "edge": (1, np.bool_),
}


@dataclass(frozen=True)
class Fragments:
    """What is visible in each pixel of one view.

    Attributes
    ----------
    face : (H, W) int32
        Index of the nearest triangle at the pixel centre, -1 where there is none. Both sides of a triangle count.
    barycentric : (H, W, 3) float32
        Perspective-correct weights of that triangle's corners; zero where there is none.
    depth : (H, W) float32
        Planar z in metres; 0 where there is none.
    """

    face: npt.NDArray[np.int32]
    barycentric: npt.NDArray[np.float32]
    depth: npt.NDArray[np.float32]


@dataclass(frozen=True)
class SurfaceAttributes:
    """A mesh with what is to be rendered of it.

    Attributes
    ----------
    vertices : (N, 3) float64
        World metres.
    faces : (F, 3) int32
    canonical : (N, 3) float32
        Normalised; NaN where unknown.
    confidence : (N,) float32
    region : (N,) uint8
    """

    vertices: npt.NDArray[np.float64]
    faces: npt.NDArray[np.int32]
    canonical: npt.NDArray[np.float32]
    confidence: npt.NDArray[np.float32]
    region: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ViewMaps:
    """Ground truth of one view, channel first.

    Attributes
    ----------
    depth : (H, W) float32
        Planar metres; 0 = no surface.
    canonical : (3, H, W) float32
        Normalised; 0 outside ``mask``.
    normal : (3, H, W) float32
        Unit, camera axes, facing the camera; 0 where there is no surface.
    region : (H, W) uint8
        0 = background.
    confidence : (H, W) float32
        0 where there is no canonical coordinate.
    mask : (H, W) bool
        Foreground: a surface with a canonical coordinate.
    edge : (H, W) bool
        The pixel's square is crossed by a silhouette or a depth step of what this view shows.
    """

    depth: npt.NDArray[np.float32]
    canonical: npt.NDArray[np.float32]
    normal: npt.NDArray[np.float32]
    region: npt.NDArray[np.uint8]
    confidence: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]
    edge: npt.NDArray[np.bool_]


class Renderer(Protocol):
    """A backend: turns triangles into fragments or maps, one view per camera."""

    @property
    def name(self) -> str:
        """Name used in manifests and messages."""
        ...

    def rasterise(
        self, vertices: npt.NDArray[np.floating], faces: npt.NDArray[np.integer], cameras: Sequence[Camera]
    ) -> list[Fragments]:
        """Rasterise a mesh (vertices (N, 3) world metres, faces (F, 3)) into every camera."""
        ...

    def render(
        self, surface: SurfaceAttributes, cameras: Sequence[Camera], *, hide_back_faces: bool = False
    ) -> list[ViewMaps]:
        """Render all maps of a surface into every camera; :func:`datagen.render.maps.render_views` checks first."""
        ...
