"""How closely two rendering backends agree: arrays in, figures out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation, binary_erosion

from datagen.render.contract import ViewMaps

FaceMap = npt.NDArray[np.int32]

# What the render page promises of every backend.
MISSED_SHARE = 1e-3
DEPTH_P99_MM = 0.02
CANONICAL_P99_MM = 0.02
NORMAL_P99_DEG = 0.1
COUNTS = (
    "foreground",
    "missed",
    "missed_inside",
    "other_triangle",
    "other_jump",
    "mask_differ",
    "region_differ",
    "edge",
    "edge_differ",
)

_NEIGHBOURHOOD = np.ones((3, 3), bool)


@dataclass(frozen=True)
class ParityFigures:
    """Differences between a backend's maps and the reference's, over all views together.

    Percentiles and maxima are over the pixels where both saw the same triangle; NaN where there are none.

    Attributes
    ----------
    foreground : int
        Pixels where the reference sees a surface.
    missed : int
        Pixels where only one of the two sees a surface.
    missed_inside : int
        Those of them that do not lie on the reference's silhouette (its border, one pixel to either side).
    other_triangle : int
        Pixels where both see a surface, but not the same triangle.
    other_jump : int
        Those of them whose depths are more than a millimetre apart: another surface, not a neighbour on the same.
    mask_differ, region_differ : int
        Pixels of the same triangle whose mask or region is not the reference's.
    edge : int
        Pixels the reference marks as edge; 0 for maps without an edge mask.
    edge_differ : int
        Pixels marked by only one of the two.
    depth_p50_mm, depth_p99_mm, depth_max_mm : float
    canonical_p50_mm, canonical_p99_mm, canonical_max_mm : float
    normal_p50_deg, normal_p99_deg, normal_max_deg : float
    confidence_p50, confidence_p99, confidence_max : float
        Pixels whose ``edge`` differs, or touches one that does, are left out: confidence is lowered there.
    """

    foreground: int
    missed: int
    missed_inside: int
    other_triangle: int
    other_jump: int
    mask_differ: int
    region_differ: int
    edge: int
    edge_differ: int
    depth_p50_mm: float
    depth_p99_mm: float
    depth_max_mm: float
    canonical_p50_mm: float
    canonical_p99_mm: float
    canonical_max_mm: float
    normal_p50_deg: float
    normal_p99_deg: float
    normal_max_deg: float
    confidence_p50: float
    confidence_p99: float
    confidence_max: float

    @property
    def missed_share(self) -> float:
        """Share of the foreground that only one of the two sees; NaN without foreground."""
        return self.missed / self.foreground if self.foreground else float("nan")

    @property
    def other_share(self) -> float:
        """Share of the foreground where another triangle is seen; NaN without foreground."""
        return self.other_triangle / self.foreground if self.foreground else float("nan")

    def shortfalls(self) -> list[str]:
        """Return which promises are broken, one sentence each; nothing when all are kept.

        Without foreground nothing is compared but that the backend sees nothing either.
        """
        checks = (
            ("hit pixels that differ, share of the foreground", self.missed, MISSED_SHARE * self.foreground),
            ("hit pixels that differ away from the silhouette", self.missed_inside, 0),
            ("depth of the same triangle, p99 mm", self.depth_p99_mm, DEPTH_P99_MM),
            ("canonical of the same triangle, p99 mm", self.canonical_p99_mm, CANONICAL_P99_MM),
            ("normal of the same triangle, p99 degrees", self.normal_p99_deg, NORMAL_P99_DEG),
        )
        # Negated, so that a percentile of nothing (NaN: no pixel shows the same triangle) breaks its promise.
        broken = [check for check in checks if not check[1] <= check[2]] if self.foreground or self.missed else []
        return [f"{what}: {value:.4g}, at most {limit:.4g}" for what, value, limit in broken]

    def to_dict(self) -> dict[str, float]:
        """Return all figures by name, the shares included."""
        return {**asdict(self), "missed_share": self.missed_share, "other_share": self.other_share}


def compare_maps(
    maps: Sequence[ViewMaps],
    reference: Sequence[ViewMaps],
    faces: Sequence[FaceMap],
    reference_faces: Sequence[FaceMap],
    half_extent_m: float,
) -> ParityFigures:
    """Compare the maps of one backend with those of another, over any number of views.

    Parameters
    ----------
    maps, reference : sequence of ViewMaps
        The same views of the same surface.
    faces, reference_faces : sequence of (H, W) int32
        Triangle seen in each pixel, -1 where there is none: ``Fragments.face`` of the two backends, with the pixels of
        hidden back faces emptied if the maps were rendered so.
    half_extent_m : float
        Of the canonical space, to turn canonical differences into millimetres.
    """
    counts: Counter[str] = Counter()
    depth, canonical, normal, confidence = [], [], [], []
    for a, b, face_a, face_b in zip(maps, reference, faces, reference_faces, strict=True):
        hit_a, hit_b = face_a >= 0, face_b >= 0
        differ = hit_a != hit_b
        same = hit_a & (face_a == face_b)
        other = hit_a & hit_b & ~same
        silhouette = binary_dilation(hit_b, _NEIGHBOURHOOD) & ~binary_erosion(hit_b, _NEIGHBOURHOOD)
        dz = np.abs(a.depth.astype(np.float64) - b.depth)
        counts["foreground"] += int(hit_b.sum())
        counts["missed"] += int(differ.sum())
        counts["missed_inside"] += int((differ & ~silhouette).sum())
        counts["other_triangle"] += int(other.sum())
        counts["other_jump"] += int((other & (dz > 1e-3)).sum())
        counts["mask_differ"] += int((same & (a.mask != b.mask)).sum())
        counts["region_differ"] += int((same & (a.region != b.region)).sum())
        depth.append(dz[same] * 1e3)
        canonical.append(_lengths(a.canonical, b.canonical, same & a.mask & b.mask) * half_extent_m * 1e3)
        normal.append(_degrees(a.normal, b.normal, same))
        alike = same
        edge_a, edge_b = getattr(a, "edge", None), getattr(b, "edge", None)
        if edge_a is not None and edge_b is not None:
            counts["edge"] += int(edge_b.sum())
            counts["edge_differ"] += int((edge_a != edge_b).sum())
            alike = same & ~binary_dilation(edge_a != edge_b, _NEIGHBOURHOOD)
        confidence.append(np.abs(a.confidence.astype(np.float64) - b.confidence)[alike])
    return ParityFigures(
        **{name: counts[name] for name in COUNTS},
        **_spread("depth_{}_mm", depth),
        **_spread("canonical_{}_mm", canonical),
        **_spread("normal_{}_deg", normal),
        **_spread("confidence_{}", confidence),
    )


def _lengths(
    a: npt.NDArray[np.float32], b: npt.NDArray[np.float32], where: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    return np.asarray(np.linalg.norm(a[:, where].astype(np.float64) - b[:, where], axis=0))


def _degrees(
    a: npt.NDArray[np.float32], b: npt.NDArray[np.float32], where: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    # From the chord: the arc cosine of float32 unit vectors cannot tell 0 from 0.02 degrees.
    half_chord = np.minimum(_lengths(a, b, where) / 2, 1)
    return np.degrees(2 * np.arcsin(half_chord))


def _spread(name: str, parts: list[npt.NDArray[np.float64]]) -> dict[str, Any]:
    values = np.concatenate(parts or [np.zeros(0)])
    return {name.format(label): _percentile(values, p) for label, p in (("p50", 50), ("p99", 99), ("max", 100))}


def _percentile(values: npt.NDArray[np.float64], percent: float) -> float:
    return float(np.percentile(values, percent)) if len(values) else float("nan")
