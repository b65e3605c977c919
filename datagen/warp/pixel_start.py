"""Where pictures alone say that a head is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datagen.common.arrays import F64
from datagen.geometry.pixel_evidence import PixelEvidence
from datagen.geometry.triangulation import triangulate
from datagen.warp.pixel_rows import seen_in_pictures
from datagen.warp.similarity import Similarity, fit_similarity_robust
from datagen.warp.template import WarpTemplate

# More say nothing new of where a head is.
MOST_POINTS = 150
FEWEST_POINTS = 8
# A person is not the template: a pixel may lie off by this many of its standard deviations and yet be meant.
AGREEING_SIGMAS = 6.0


@dataclass(frozen=True, eq=False)
class PlacedByPictures:
    """A head as pictures place it.

    Attributes
    ----------
    pose : Similarity
        Axes of the template to the world.
    points : (n, 3) float64
        Some points of its face, world metres.
    """

    pose: Similarity
    points: F64


def place_by_pictures(template: WarpTemplate, base: F64, evidence: Sequence[PixelEvidence]) -> PlacedByPictures | None:
    """Place control vertices (V, 3) metres by points that two pictures or more show; None if there are too few.

    Raises
    ------
    datagen.common.errors.InputError
        If pictures tell of another template's points.
    """
    seen = seen_in_pictures(template, evidence)
    count = seen.operator.shape[0]
    shown = np.zeros(count, np.int64)
    for view in seen.views:
        shown[view.where] += 1
    chosen = np.flatnonzero(shown >= 2)
    chosen = chosen[np.linspace(0, len(chosen) - 1, min(len(chosen), MOST_POINTS)).astype(int)]
    if len(chosen) < FEWEST_POINTS:
        return None
    pixels = np.full((len(seen.views), count, 2), np.nan)
    most_px = []
    for k, (view, one) in enumerate(zip(seen.views, evidence, strict=True)):
        pixels[k, view.where] = view.pixels
        sigma = np.sqrt(np.trace(one.points.covariance, axis1=1, axis2=2) / 2)
        most_px.append(AGREEING_SIGMAS * float(np.median(sigma)) if len(sigma) else 1.0)
    found = triangulate([view.camera for view in seen.views], pixels[:, chosen], most_px)
    known = np.isfinite(found.points).all(axis=1)
    if known.sum() < FEWEST_POINTS:
        return None
    points = found.points[known]
    return PlacedByPictures(fit_similarity_robust((seen.operator @ base)[chosen[known]], points), points)
