"""Tracks: points of one frame found again in all others, by their canonical coordinates."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.evaluation.cameras import unproject
from trainer.evaluation.depth import MM_PER_M
from trainer.prediction.store import PredictedFrame

NEIGHBOURS = 25
_CONFIDENCE_MM = 5.0  # the expected error at which confidence is 1/e
_LEAST_CONFIDENT = 0.1
_CANDIDATES = 20  # drawn for each seed
_SPREAD_PIXELS = 2.0  # neighbours further than this from the nearest belong to another piece of the surface


@dataclass(frozen=True)
class TrackConfig:
    """How tracks are made.

    Attributes
    ----------
    count : int
        Seeds.
    radius_mm : float
        A seed is lost where no canonical coordinate is this near.
    mutual_pixels : float
        A match holds if its own nearest neighbour in the seeds' frame is this near to the seed.
    seed : int
        Of the draw.
    """

    count: int = 100
    radius_mm: float = 10.0
    mutual_pixels: float = 2.0
    seed: int = 0


@dataclass(frozen=True)
class TrackRow:
    """Where the N seeds are in one frame.

    Attributes
    ----------
    xy : (N, 2) float32
        Pixels of the map, centres at +0.5; NaN where lost.
    xyz : (N, 3) float32
        Metres, camera axes; NaN where lost.
    canonical_distance_mm : (N,) float32
        To the nearest canonical coordinate of the frame; infinite beyond the radius.
    expected_error_mm : (N,) float32
        Of the match in canonical space, from the model's confidences and the distance; infinite where lost.
    confidence : (N,) float32
        exp(−expected error / 5 mm), 0 where lost.
    mutual : (N,) bool
        The nearest neighbour of the match in the seeds' frame is the seed, up to ``mutual_pixels``.
    visible : (N,) bool
        Found and mutual.
    """

    xy: npt.NDArray[np.float32]
    xyz: npt.NDArray[np.float32]
    canonical_distance_mm: npt.NDArray[np.float32]
    expected_error_mm: npt.NDArray[np.float32]
    confidence: npt.NDArray[np.float32]
    mutual: npt.NDArray[np.bool_]
    visible: npt.NDArray[np.bool_]

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class _Pixels:
    """The foreground of a frame as lists: positions, coordinates, confidences, and a tree over the coordinates."""

    xy: npt.NDArray[np.float64]
    xyz: npt.NDArray[np.float32]
    canonical: npt.NDArray[np.float32]
    confidence: npt.NDArray[np.float32]
    tree: Any

    @classmethod
    def of(cls, frame: PredictedFrame) -> _Pixels:
        from scipy.spatial import cKDTree

        rows, columns = np.nonzero(frame.valid)
        canonical = frame.canonical[:, rows, columns].T
        points = unproject(frame.depth, frame.intrinsics)[:, rows, columns].T.astype(np.float32)
        xy = np.stack([columns, rows], -1).astype(np.float64) + 0.5
        return cls(xy, points, canonical, frame.canonical_confidence[rows, columns], cKDTree(canonical))


def _spread(pixels: _Pixels, count: int, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """Choose pixels by farthest-point sampling in canonical space among some that are drawn, sorted."""
    sure = np.flatnonzero(pixels.confidence >= np.quantile(pixels.confidence, _LEAST_CONFIDENT))
    drawn = rng.choice(sure, min(_CANDIDATES * count, sure.size), replace=False)
    places = pixels.canonical[drawn].astype(np.float64)
    chosen = [0]
    away = np.linalg.norm(places - places[0], axis=1)
    while len(chosen) < min(count, drawn.size):
        chosen.append(int(away.argmax()))
        away = np.minimum(away, np.linalg.norm(places - places[chosen[-1]], axis=1))
        away[chosen] = -1  # where coordinates repeat, no pixel is taken twice
    return np.sort(drawn[chosen])


def vivid_colours(count: int) -> npt.NDArray[np.uint8]:
    """Return colours (N, 3) that can be told apart, over the hues."""
    from matplotlib import colormaps

    return colormaps["hsv"](np.linspace(0, 1, count, endpoint=False), bytes=True)[:, :3]


class Tracker:
    """Follow seeds of one frame.

    Parameters
    ----------
    first : PredictedFrame
        The frame of the seeds; must have foreground. They lie evenly over the skin it shows, the least confident tenth
        left out.
    half_extent_m : float
        Metres of a canonical unit.
    confidence_lambda : float
        λ of the loss the model was fitted with: λ / c is the error it expects where it says c.

    Attributes
    ----------
    seed_xy : (N, 2) float32
    seed_canonical : (N, 3) float32
    seed_colour : (N, 3) uint8
        Of the image.
    """

    def __init__(
        self, first: PredictedFrame, half_extent_m: float, confidence_lambda: float, config: TrackConfig
    ) -> None:
        self._config = config
        self._mm = half_extent_m * MM_PER_M
        self._lambda = confidence_lambda
        self._first = _Pixels.of(first)
        chosen = _spread(self._first, config.count, np.random.default_rng(config.seed))
        self._seeds = chosen
        self.seed_xy = self._first.xy[chosen].astype(np.float32)
        self.seed_canonical = self._first.canonical[chosen]
        columns, rows = np.floor(self._first.xy[chosen]).astype(int).T
        self.seed_colour = first.image[:, rows, columns].T

    def find(self, frame: PredictedFrame) -> TrackRow:
        """Find the seeds in a frame."""
        count = len(self._seeds)
        nothing = np.full(count, np.inf, np.float32)
        if not frame.valid.any():
            nan = np.full((count, 3), np.nan, np.float32)
            none = np.zeros(count, bool)
            return TrackRow(nan[:, :2], nan, nothing, nothing, np.zeros(count, np.float32), none, none)
        pixels = _Pixels.of(frame)
        radius = self._config.radius_mm / self._mm
        distance, index = pixels.tree.query(self.seed_canonical, k=NEIGHBOURS, distance_upper_bound=radius)
        found = np.isfinite(distance[:, 0])
        index = np.where(np.isfinite(distance), index, 0)
        weight = self._weights(pixels, distance, index)
        # The nearest pixel's own way back, not the mean's: a mean lies on no pixel.
        nearest = index[:, 0]
        _, back = self._first.tree.query(pixels.canonical[nearest])
        way = np.linalg.norm(self._first.xy[back] - self.seed_xy, axis=-1)
        mutual = found & (way <= self._config.mutual_pixels)
        distance_mm = distance[:, 0] * self._mm
        own = np.sqrt(3) * self._lambda * self._mm  # λ/c is a mean over three axes
        c_seed, c_match = self._first.confidence[self._seeds], pixels.confidence[nearest]
        expected = np.sqrt((own / c_seed) ** 2 + (own / c_match) ** 2 + distance_mm**2)
        lost = ~found
        xy = np.einsum("nk,nkd->nd", weight, pixels.xy[index])
        xyz = np.einsum("nk,nkd->nd", weight, pixels.xyz[index].astype(np.float64))
        xy[lost], xyz[lost], expected[lost] = np.nan, np.nan, np.inf
        return TrackRow(
            xy.astype(np.float32),
            xyz.astype(np.float32),
            distance_mm.astype(np.float32),
            expected.astype(np.float32),
            np.exp(-expected / _CONFIDENCE_MM).astype(np.float32),
            mutual,
            mutual.copy(),
        )

    def _weights(
        self, pixels: _Pixels, distance: npt.NDArray[np.float64], index: npt.NDArray[np.integer]
    ) -> npt.NDArray[np.float64]:
        """Weigh the neighbours (N, K): a Gaussian as wide as pixels lie apart, near the nearest pixel only."""
        near = np.linalg.norm(pixels.xy[index] - pixels.xy[index[:, :1]], axis=-1) <= _SPREAD_PIXELS
        usable = near & np.isfinite(distance)
        fourth = np.where(np.isfinite(distance[:, 4]), distance[:, 4], distance[:, 0])
        width = np.maximum(fourth, 1e-9)[:, None]
        squared = np.where(usable, distance, 0) ** 2 - np.where(np.isfinite(distance[:, :1]), distance[:, :1], 0) ** 2
        weight = np.where(usable, np.exp(-squared / width**2), 0)
        weight[:, 0] = np.maximum(weight[:, 0], 1e-12)
        return weight / weight.sum(1, keepdims=True)
