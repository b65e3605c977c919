"""Points of a frame's surface that the warp never saw, carried to canonical space by what it found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError
from datagen.geometry.mesh import validate_points
from datagen.geometry.space import CanonicalSpace
from datagen.heads.base import HeadTemplate
from datagen.manifest import WarpConfig
from datagen.warp.confidence import confidence_features, point_confidence
from datagen.warp.result import Warp
from datagen.warp.surface import Surface
from datagen.warp.template import WarpTemplate, prepare_template
from datagen.warp.transport import Transported, transport


@dataclass(frozen=True)
class Carried:
    """Points in canonical space.

    Attributes
    ----------
    canonical : (N, 3) float32
        Normalised; NaN where there is no counterpart.
    confidence : (N,) float32
        In [0, 1]; 0 where ``canonical`` is NaN.
    region : (N,) uint8
        0 where ``canonical`` is NaN.
    """

    canonical: npt.NDArray[np.float32]
    confidence: npt.NDArray[np.float32]
    region: npt.NDArray[np.uint8]


def stored(carried: Transported, confidence: npt.NDArray[np.float32], space: CanonicalSpace) -> Carried:
    """Return what is kept of transported points: normalised, and nothing of what lies outside of the space's margin.

    Detail far outside cannot be stored; it is not part of a head.
    """
    canonical = space.normalise(carried.canonical_m).astype(np.float32)
    outside = np.abs(canonical).max(axis=1) > 1
    canonical[outside] = np.nan
    return Carried(
        canonical,
        np.where(outside, np.float32(0), confidence),
        np.where(outside, np.uint8(0), carried.region),
    )


class Carrier:
    """Carries points of one warped frame: pixels of its depth maps, corners of discs, whatever was measured there.

    The points go the way of the scan's own: to their foot on the registered template, and with their height over it
    into canonical space; their confidence is made of the same features. Nothing is interpolated between points.

    Parameters
    ----------
    warp : Warp
    template : HeadTemplate
        Of the head model that the warp was made with.
    config : WarpConfig
        That it was made with.

    Raises
    ------
    InputError
        If the warp is of another template, or holds no spread.
    """

    def __init__(self, warp: Warp, template: HeadTemplate, config: WarpConfig) -> None:
        self._template: WarpTemplate = prepare_template(template, config.subdivisions)
        count = len(warp.registered_vertices)
        fits = np.array_equal(warp.registered_faces, self._template.faces)
        if not fits or len(warp.spread_m) != count:
            raise InputError(
                f"the warp has {count} registered vertices and {len(warp.spread_m)} spreads"
                f"{'' if fits else f', in another topology than the template {template.name!r}'}",
                f"a warp to {template.name!r} with one of each for every vertex",
                "Warp the frame again, with the same head model and `warp.subdivisions`",
            )
        self._warp, self._max_distance_m = warp, config.max_distance_mm / 1000
        self._registered = Surface(warp.registered_vertices, warp.registered_faces)

    @property
    def registered(self) -> Surface:
        """The registered template."""
        return self._registered

    def __call__(self, points: npt.ArrayLike, normals: npt.ArrayLike) -> Carried:
        """Carry points.

        Parameters
        ----------
        points : (N, 3) float
            In the frame's world, metres.
        normals : (N, 3) float
            Outward unit normals.

        Raises
        ------
        MeshError
            If a point or normal is not finite, or they do not belong together.
        """
        at, facing = validate_points(points, normals, "the points to carry")
        if not len(at):
            return Carried(np.zeros((0, 3), np.float32), np.zeros(0, np.float32), np.zeros(0, np.uint8))
        warp = self._warp
        carried = transport(at, facing, self._registered, self._template, self._max_distance_m)
        features = confidence_features(
            carried,
            # The variance of the whole vector: the warp keeps a coordinate's third of it.
            warp.spread_m * np.sqrt(3.0, dtype=np.float64),
            self._template.faces,
            notes=warp.verdict.metrics,
            usual_height_m=warp.usual_height_m,
        )
        return stored(carried, point_confidence(carried, features), warp.space)
