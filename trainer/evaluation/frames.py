"""One view as the evaluation sees it: what is true, and what a method says."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.evaluation.cameras import Array, rigid_inverse, transform, unproject

TRUTH_ARRAYS = (
    "image", "depth", "canonical", "normal", "confidence", "region", "edge",
    "intrinsics", "world_to_camera", "head_to_world",
)  # fmt: skip


@dataclass(frozen=True)
class Truth:
    """The stored maps of one view.

    Attributes
    ----------
    image : (3, H, W) uint8
    depth_m : (H, W)
        0 = no surface.
    canonical_m : (3, H, W)
        Canonical coordinate in metres: normalised × half extent, from the space's centre.
    normal : (3, H, W) camera axes
    confidence : (H, W)
        Above 0 where canonical is known.
    region : (H, W) uint8
    edge : (H, W) bool
    intrinsics : (3, 3)
    world_to_camera, head_to_world : (4, 4)
    """

    image: npt.NDArray[np.uint8]
    depth_m: npt.NDArray[np.float32]
    canonical_m: npt.NDArray[np.float32]
    normal: npt.NDArray[np.float32]
    confidence: npt.NDArray[np.float32]
    region: npt.NDArray[np.uint8]
    edge: npt.NDArray[np.bool_]
    intrinsics: npt.NDArray[np.float32]
    world_to_camera: npt.NDArray[np.float32]
    head_to_world: npt.NDArray[np.float32]

    @classmethod
    def of(cls, maps: dict[str, npt.NDArray[Any]], k: int, half_extent_m: float) -> Truth:
        """Take view ``k`` of arrays read from a split (``TRUTH_ARRAYS``)."""
        one = {name: maps[name][k] for name in TRUTH_ARRAYS}
        one["depth_m"] = one.pop("depth")
        one["canonical_m"] = one.pop("canonical") * np.float32(half_extent_m)
        one["edge"] = one["edge"].astype(bool)
        return cls(**one)

    @cached_property
    def surface(self) -> npt.NDArray[np.bool_]:
        """Where there is a surface, (H, W)."""
        return self.depth_m > 0

    @cached_property
    def known(self) -> npt.NDArray[np.bool_]:
        """Where the canonical coordinate is known, (H, W)."""
        return (self.confidence > 0) & self.surface

    @cached_property
    def points(self) -> Array:
        """Points in camera axes, (3, H, W) metres."""
        return unproject(self.depth_m, self.intrinsics)


@dataclass(frozen=True)
class View:
    """A method's maps of one view, beside the truth.

    Attributes
    ----------
    truth : Truth
    depth_m : (H, W)
        As predicted.
    canonical_m : (3, H, W)
    depth_confidence, canonical_confidence, surface : (H, W), or None for a method that gives none
        ``surface`` is the probability of showing the head.
    """

    truth: Truth
    depth_m: npt.NDArray[np.float32]
    canonical_m: npt.NDArray[np.float32]
    depth_confidence: npt.NDArray[np.float32] | None = None
    canonical_confidence: npt.NDArray[np.float32] | None = None
    surface: npt.NDArray[np.float32] | None = None

    @cached_property
    def scaled_depth_m(self) -> Array:
        """Depth times the ratio of the true to the predicted median over the true surface: distance is forgiven."""
        on = self.truth.surface
        if not on.any():
            return self.depth_m.astype(np.float64)
        ratio = float(np.median(self.truth.depth_m[on])) / max(float(np.median(self.depth_m[on])), 1e-9)
        return self.depth_m.astype(np.float64) * ratio

    @cached_property
    def points(self) -> Array:
        """Points of ``scaled_depth_m`` in camera axes, (3, H, W) metres."""
        return unproject(self.scaled_depth_m, self.truth.intrinsics)

    @property
    def world_points(self) -> Array:
        """``points`` in world axes by the true camera, (3, H, W)."""
        return transform(rigid_inverse(self.truth.world_to_camera), self.points)

    @property
    def head_points(self) -> Array:
        """``points`` in head axes by the true camera and the true head pose, (3, H, W)."""
        return transform(rigid_inverse(self.truth.head_to_world), self.world_points)
