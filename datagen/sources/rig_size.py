"""How large a scan is, how far off cameras stand, and which units make that a head, or a rig around one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from datagen.geometry.mesh import HEAD_DIAGONAL_RANGE_M, Mesh
from datagen.geometry.space import METRES_PER_UNIT
from datagen.sources.calibration import Calibrated

# Of the cameras' unit in that of the scans: the first that fits.
FACTORS = (1.0, 10.0, 0.1, 100.0, 0.01, 1000.0, 0.001, 25.4, 1 / 25.4, 39.37, 1 / 39.37)
MOST_DISTANCE = 50.0  # of a camera, in sizes of the scan
LEAST_ANGLE = np.radians(5.0)  # between the views of two cameras, for their axes to meet somewhere


@dataclass(frozen=True)
class Kind:
    """What has a size.

    Attributes
    ----------
    name : str
        In the plural, as a unit is said to be of them.
    said : str
        Format of what is known of the size.
    range_m : (float, float)
        Usual sizes.
    """

    name: str
    said: str
    range_m: tuple[float, float]


HEAD = Kind("the scans", "the first scan is {size:.4g} across", HEAD_DIAGONAL_RANGE_M)
RIG = Kind(
    "the cameras' translations", "the cameras stand {size:.4g} (median) from where they look together", (0.25, 6.0)
)


@dataclass(frozen=True)
class Extent:
    """A size in a file's own numbers, and whose it is."""

    size: float
    kind: Kind

    def __str__(self) -> str:
        return self.kind.said.format(size=self.size)

    def units(self) -> list[tuple[str, float]]:
        """Return the units in which it is usual, each with the size in metres."""
        low, high = self.kind.range_m
        sizes = [(unit, self.size * metres) for unit, metres in METRES_PER_UNIT.items()]
        return [(unit, size) for unit, size in sizes if low <= size <= high]


def extent_of(mesh: Mesh) -> float:
    """Return the size of a scan, corner to corner without its outermost points, in its own numbers."""
    low, high = np.percentile(mesh.vertices, [1, 99], axis=0)
    return float(np.linalg.norm(high - low))


def viewing_distance(calibrated: Mapping[str, Calibrated]) -> float | None:
    """Return how far cameras stand (median) from the point nearest to all their axes, in their own numbers.

    None where fewer than two look at a point: they look the same way, or it lies behind one of them.
    """
    poses = [np.asarray(one.world_to_camera, np.float64) for one in calibrated.values()]
    if len(poses) < 2:
        return None
    axes = np.stack([pose[2, :3] / np.linalg.norm(pose[2, :3]) for pose in poses])
    centres = np.stack([np.linalg.solve(pose[:3, :3], -pose[:3, 3]) for pose in poses])
    if (axes @ axes.T).min() > np.cos(LEAST_ANGLE):
        return None
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    point = np.linalg.solve(across.sum(0), (across @ centres[..., None])[..., 0].sum(0))
    depths = ((point - centres) * axes).sum(1)
    return float(np.median(depths)) if (depths > 0).all() else None


def camera_factor(mesh: Mesh, calibrated: Mapping[str, Calibrated], sizes: Mapping[str, tuple[int, int]]) -> float:
    """Return by what the cameras' translations have to be multiplied for most of the cameras to see the scan.

    1 if they see it, or if nothing helps: then it is not the unit.
    """
    for factor in FACTORS:
        seeing = sum(_sees(mesh, one, one.size or sizes[name], factor) for name, one in calibrated.items())
        if 2 * seeing > len(calibrated):
            return factor
    return 1.0


def _sees(mesh: Mesh, camera: Calibrated, size: tuple[int, int], factor: float) -> bool:
    points = mesh.vertices @ camera.world_to_camera[:3, :3].T + camera.world_to_camera[:3, 3] * factor
    depth = points[:, 2]
    before = depth > 0
    pixels = (points[before] @ camera.K.T)[:, :2] / depth[before, None]
    inside = ((pixels >= 0) & (pixels < size)).all(axis=1)
    # As far away as a head is from the cameras of a rig: else any large factor would do.
    near = depth.size > 0 and np.median(depth) < MOST_DISTANCE * max(extent_of(mesh), 1e-12)
    return bool(near and 2 * inside.sum() > len(points))
