"""Where a point of one view is in another: what is true, and what methods say.

A query is a pixel of view A whose canonical coordinate is known. Its true place in view B is the point of B's stored
surface, between pixels, that has the same canonical coordinate; it counts as hidden where no point of B's surface comes
within ``VISIBLE_MM``. A method finds its own place by the nearest neighbour in the coordinates it has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import F64
from trainer.evaluation.canonical import in_region
from trainer.evaluation.depth import MM_PER_M
from trainer.evaluation.frames import Truth, View
from trainer.evaluation.surface import MapSurface, Places

# The canonical surfaces of two frames were measured apart and differ by a fraction of a millimetre where both see the
# same skin; pixels lie 0.5 to 2 mm apart.
VISIBLE_MM = 1.0
_STARTS_KEPT = 16
_TRUE_NEIGHBOURS = 8  # the lips touch: the nearest few pixels may all belong to the other one


@dataclass(frozen=True)
class Queries:
    """Pixels of one view that are searched for in others.

    Attributes
    ----------
    rows, columns : (N,) int
    uniform : (N,) bool
        Drawn evenly from all known pixels; the rest was added so that small regions are measured too.
    """

    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    uniform: npt.NDArray[np.bool_]

    def of(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a map's values at the queries: (N,) of (H, W), (N, C) of (C, H, W)."""
        picked = values[..., self.rows, self.columns]
        return picked.T if values.ndim == 3 else picked

    @property
    def pixels(self) -> F64:
        """Their centres, (N, 2) x, y."""
        return np.column_stack([self.columns, self.rows]).astype(np.float64) + 0.5


def draw_queries(
    truth: Truth,
    regions: Mapping[str, npt.NDArray[np.int64]],
    count: int,
    per_region: int,
    rng: np.random.Generator,
) -> Queries:
    """Draw ``count`` known pixels evenly, then more of each region up to ``per_region``; without replacement."""
    known = np.flatnonzero(truth.known)
    uniform = np.sort(rng.permutation(known)[:count])
    chosen = [uniform]
    taken = np.zeros(truth.known.size, bool)
    taken[uniform] = True
    labels = truth.region.ravel()
    for of_region in regions.values():
        inside = known[in_region(labels[known], of_region)]
        missing = min(per_region, len(inside)) - int(taken[inside].sum())
        if missing > 0:
            more = rng.permutation(inside[~taken[inside]])[:missing]
            taken[more] = True
            chosen.append(more)
    flat = np.concatenate(chosen)
    rows, columns = np.divmod(flat, truth.known.shape[1])
    return Queries(rows, columns, np.arange(len(flat)) < len(uniform))


class TrueSurface:
    """The stored surface of a view, to be searched by canonical coordinate."""

    def __init__(self, truth: Truth) -> None:
        self.truth = truth
        self._surface = MapSurface(truth.canonical_m, truth.points, truth.known, truth.intrinsics, truth.region)

    def find(self, truth: Truth, queries: Queries) -> tuple[Places, npt.NDArray[np.bool_]]:
        """Return the true places of another view's queries here, and whether each is visible, (N,) bool.

        Only skin of the query's own region counts, so that touching lips are not taken for each other.
        """
        places = self._surface.closest(
            queries.of(truth.canonical_m), queries.of(truth.region), neighbours=_TRUE_NEIGHBOURS
        )
        return places, places.distance_m * MM_PER_M <= VISIBLE_MM


class Matcher(Protocol):
    """A method that says where queries of one view are in another."""

    def find(self, a: View, queries: Queries, b: View) -> tuple[F64, F64]:
        """Return pixels (N, 2) and camera-axes points (N, 3) metres in ``b``; NaN where there is no answer."""


class NearestNeighbour:
    """Match by the nearest neighbour in some coordinates of both views' foreground.

    The foreground is the stored one, for every method alike; how well a model tells it is measured apart. The search
    tree of the last view searched is kept, so whoever asks view after view builds each once. Queries are of one view.

    Parameters
    ----------
    coordinates : callable
        Takes a view, returns its coordinates (3, H, W).
    """

    def __init__(self, coordinates: Callable[[View], npt.NDArray[Any]]) -> None:
        self._coordinates = coordinates
        self._searched: tuple[View, MapSurface] | None = None
        self._asked: dict[int, tuple[Queries, npt.NDArray[Any]]] = {}

    def find(self, a: View, queries: Queries, b: View) -> tuple[F64, F64]:
        """Return pixels and points in ``b``; see :class:`Matcher`."""
        places = self._surface(b).closest(self._query(a, queries))
        return places.pixels, places.points

    def _query(self, view: View, queries: Queries) -> npt.NDArray[Any]:
        # The queries are kept beside their coordinates, so that their id is not given to others.
        if id(queries) not in self._asked:
            if len(self._asked) >= _STARTS_KEPT:
                self._asked.clear()
            self._asked[id(queries)] = (queries, queries.of(self._coordinates(view)))
        return self._asked[id(queries)][1]

    def _surface(self, view: View) -> MapSurface:
        if self._searched is None or self._searched[0] is not view:
            surface = MapSurface(self._coordinates(view), view.points, view.truth.surface, view.truth.intrinsics)
            self._searched = (view, surface)
        return self._searched[1]


@dataclass(frozen=True)
class PairErrors:
    """End-point errors of one method on one pair of views.

    Attributes
    ----------
    pixels_px, points_mm : (N,)
        NaN where the true place is hidden; infinite where the method has no answer.
    """

    pixels_px: F64
    points_mm: F64


def end_point_errors(found: tuple[F64, F64], places: Places, visible: npt.NDArray[np.bool_]) -> PairErrors:
    """Compare a method's answer with the true places, (N,) each; 3-D in the camera axes of the second view."""
    pixels, points = found
    px = np.linalg.norm(pixels - places.pixels, axis=1)
    mm = np.linalg.norm(points - places.points, axis=1) * MM_PER_M
    px, mm = (np.where(np.isfinite(e), e, np.inf) for e in (px, mm))
    return PairErrors(np.where(visible, px, np.nan), np.where(visible, mm, np.nan))


class CorrespondenceErrors:
    """End-point errors of one method over many pairs.

    Parameters
    ----------
    prefix : str
        Of the metrics' names.
    side_px : int
        Pixels a side: the thresholds of PCK are shares of it.
    """

    SHARES = (0.01, 0.02, 0.05)
    MILLIMETRES = (5.0, 10.0)
    CURVE = np.linspace(0, 0.1, 41)

    def __init__(self, prefix: str, side_px: int) -> None:
        self._prefix = prefix
        self._side = side_px
        self._px: list[npt.NDArray[np.float32]] = []
        self._mm: list[npt.NDArray[np.float32]] = []
        self._asked = 0

    def add(self, errors: PairErrors, chosen: npt.NDArray[np.bool_] | None = None) -> None:
        """Add a pair; of ``chosen`` queries only, where given."""
        px, mm = errors.pixels_px, errors.points_mm
        if chosen is not None:
            px, mm = px[chosen], mm[chosen]
        visible = ~np.isnan(px)
        self._asked += len(px)
        self._px.append(px[visible].astype(np.float32))
        self._mm.append(mm[visible].astype(np.float32))

    @property
    def empty(self) -> bool:
        """Whether nothing visible was compared."""
        return not any(len(part) for part in self._px)

    def metrics(self) -> dict[str, float]:
        """Return median, mean, PCK and the share of queries that were visible; NaN where nothing was measured."""
        px, mm = (np.concatenate(parts) if parts else np.zeros(0) for parts in (self._px, self._mm))
        p = self._prefix
        nan = float("nan")
        metrics = {
            f"{p}_median_px": float(np.median(px)) if px.size else nan,
            f"{p}_mean_px": float(px.mean(dtype=np.float64)) if px.size else nan,
            f"{p}_median_mm": float(np.median(mm)) if px.size else nan,
            f"{p}_mean_mm": float(mm.mean(dtype=np.float64)) if px.size else nan,
        }
        for share in self.SHARES:
            metrics[f"{p}_pck{100 * share:g}"] = float((px <= share * self._side).mean()) if px.size else nan
        for limit in self.MILLIMETRES:
            metrics[f"{p}_within_{limit:g}mm"] = float((mm <= limit).mean()) if px.size else nan
        metrics[f"{p}_visible"] = px.size / self._asked if self._asked else nan
        return metrics

    def curve(self) -> list[float]:
        """Return PCK at the shares ``CURVE`` of the side."""
        px = np.concatenate(self._px) if self._px else np.zeros(0)
        return [float((px <= share * self._side).mean()) for share in self.CURVE] if px.size else []
