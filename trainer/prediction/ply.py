"""Coloured point clouds: as binary PLY, and as pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt


def write_points(
    path: Path,
    points: npt.NDArray[np.floating],
    colours: npt.NDArray[np.uint8],
    normals: npt.NDArray[np.floating] | None = None,
    confidence: npt.NDArray[np.floating] | None = None,
) -> None:
    """Write points (N, 3) in metres with colours (N, 3), and normals (N, 3) and a confidence (N,) if given."""
    columns: list[tuple[str, str, npt.NDArray[np.generic]]] = [
        (axis, "<f4", points[:, k]) for k, axis in enumerate("xyz")
    ]
    if normals is not None:
        columns += [(f"n{axis}", "<f4", normals[:, k]) for k, axis in enumerate("xyz")]
    columns += [(name, "u1", colours[:, k]) for k, name in enumerate(("red", "green", "blue"))]
    if confidence is not None:
        columns.append(("confidence", "<f4", confidence))
    table = np.zeros(len(points), [(name, kind) for name, kind, _ in columns])
    for name, _, values in columns:
        table[name] = values
    kinds = {"<f4": "float", "u1": "uchar"}
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}"]
    header += [f"property {kinds[kind]} {name}" for name, kind, _ in columns]
    path.write_bytes("\n".join([*header, "end_header", ""]).encode("ascii") + table.tobytes())


_MOST_POINTS = 60_000
_VIEW_DISTANCE = 4.0  # radii of the cloud from its centre


@dataclass(frozen=True)
class Orbit:
    """A camera that turns about a cloud's centre.

    Attributes
    ----------
    centre : (3,) float64
    radius : float
        Of the cloud, in its unit.
    attitude : (3, 3) float64
        From the cloud's axes to those of the camera before it turns: x right, y down, z away.
    """

    centre: npt.NDArray[np.float64]
    radius: float
    attitude: npt.NDArray[np.float64]

    @classmethod
    def about(cls, points: npt.NDArray[np.floating], attitude: npt.NDArray[np.float64]) -> Orbit:
        """Return the orbit about points (N, 3); about a metre at the origin if there are none."""
        if not len(points):
            return cls(np.zeros(3), 1.0, attitude)
        centre = np.median(points, axis=0).astype(np.float64)
        away = np.linalg.norm(points - centre, axis=1)
        return cls(centre, max(float(np.percentile(away, 98)), 1e-6), attitude)

    def draw(
        self, points: npt.NDArray[np.floating], colours: npt.NDArray[np.uint8], yaw_deg: float, size: int
    ) -> npt.NDArray[np.uint8]:
        """Draw points (N, 3) with colours (N, 3), seen from ``yaw_deg`` aside.

        Returns
        -------
        (size, size, 3) uint8 on white
        """
        picture = np.full((size, size, 3), 255, np.uint8)
        if not len(points):
            return picture
        step = -(-len(points) // _MOST_POINTS)
        c, s = np.cos(np.radians(yaw_deg)), np.sin(np.radians(yaw_deg))
        turn = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
        at = (points[::step] - self.centre) @ (turn @ self.attitude).T / self.radius
        z = at[:, 2] + _VIEW_DISTANCE
        focal = 0.46 * size * _VIEW_DISTANCE
        x, y = focal * at[:, 0] / z + size / 2, focal * at[:, 1] / z + size / 2
        # As wide as the points lie apart where they cover a disc of the cloud's radius.
        side = int(np.clip(np.ceil(1.8 * 0.46 * size / np.sqrt(len(at))), 1, 12))
        order = np.argsort(-z, kind="stable")
        left, top = np.floor(x - side / 2 + 0.5).astype(int)[order], np.floor(y - side / 2 + 0.5).astype(int)[order]
        shades = colours[::step][order]
        # Far to near: what is written last stays. One pass an offset would let far points cover near ones.
        offsets = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)
        columns = (left[:, None] + offsets[:, 0]).ravel()
        rows = (top[:, None] + offsets[:, 1]).ravel()
        inside = (columns >= 0) & (columns < size) & (rows >= 0) & (rows < size) & (np.repeat(z[order], side**2) > 0.1)
        picture[rows[inside], columns[inside]] = np.repeat(shades, side**2, axis=0)[inside]
        return picture
