"""Where a scan lies in a picture: its outline on a coarse grid, and how well that is what the picture shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datagen.geometry.camera import Camera
from datagen.geometry.mesh import Mesh, face_cross

F64 = npt.NDArray[np.float64]
Cells = npt.NDArray[np.bool_]

GRID = 160  # cells along the longer side of a picture
POINTS = 20_000  # of a scan: enough that a head has no holes on the grid
STEP_M = 0.015  # a jump of depth, larger than what a face has from one cell to the next but one


def surface_points(scan: Mesh, count: int = POINTS) -> F64:
    """Return points spread evenly over a scan, (P, 3) float64 metres; of a cloud its own."""
    if not len(scan.faces):
        step = max(1, len(scan.vertices) // count)
        return np.asarray(scan.vertices[::step], np.float64)
    area = np.linalg.norm(face_cross(scan.vertices, scan.faces), axis=1)
    total = np.cumsum(area)
    if not total[-1] > 0:
        return np.asarray(scan.vertices, np.float64)
    at = (np.arange(count) + 0.5) / count * total[-1]
    face = np.minimum(np.searchsorted(total, at), len(area) - 1)
    # The two-dimensional golden ratio: even, and nothing random.
    k = np.arange(1, count + 1)
    u, v = (k * 0.7548776662466927) % 1, (k * 0.5698402909980532) % 1
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    a, b, c = (scan.vertices[scan.faces[face, corner]] for corner in range(3))
    points: F64 = a + u[:, None] * (b - a) + v[:, None] * (c - a)
    return points


@dataclass(frozen=True)
class Grid:
    """Cells of whole pixels over a picture.

    Attributes
    ----------
    cell : int
        Pixels along a side of a cell.
    width, height : int
        Cells.
    """

    cell: int
    width: int
    height: int

    @classmethod
    def of(cls, camera: Camera, cells: int = GRID) -> Grid:
        """Return the grid of a camera's picture with about so many cells along its longer side."""
        cell = max(1, round(max(camera.width, camera.height) / cells))
        return cls(cell, -(-camera.width // cell), -(-camera.height // cell))

    def reduced(self, mask: Cells) -> Cells:
        """Return the cells of a mask (H, W) that are foreground by half."""
        if self.cell == 1:
            return mask
        padded = np.zeros((self.height * self.cell, self.width * self.cell), np.uint8)
        padded[: mask.shape[0], : mask.shape[1]] = mask
        blocks = padded.reshape(self.height, self.cell, self.width, self.cell).mean(axis=(1, 3))
        return np.asarray(blocks >= 0.5)

    def silhouette(self, camera: Camera, points: F64) -> Cells:
        """Return the cells that points fall on, gaps of a cell closed."""
        from scipy.ndimage import binary_closing

        pixels, z = camera.project(points)
        seen = self.marked(pixels[z > 0])
        # Beyond the border nothing is known, so that closing must not take from there.
        padded = binary_closing(np.pad(seen, 2), np.ones((3, 3), bool))
        return np.asarray(padded[2:-2, 2:-2] | seen)

    def marked(self, pixels: F64) -> Cells:
        """Return the cells that pixels (P, 2) lie in."""
        seen = np.zeros((self.height, self.width), bool)
        with np.errstate(invalid="ignore"):
            inside = (pixels >= 0).all(axis=1) & (pixels < (self.width * self.cell, self.height * self.cell)).all(
                axis=1
            )
        column, row = (pixels[inside] / self.cell).astype(np.int64).T
        seen[row, column] = True
        return seen

    def beyond(self, camera: Camera, points: F64) -> tuple[Cells, tuple[int, int]]:
        """Return a silhouette in or beside the picture, on the room of three pictures either way.

        Returns
        -------
        drawn : (3 h, 3 w) bool
        corner : tuple of int
            Column and row of the picture's corner there.
        """
        from scipy.ndimage import binary_closing

        wide = Grid(self.cell, 3 * self.width, 3 * self.height)
        pixels, z = camera.project(points)
        drawn = wide.marked(pixels[z > 0] + (self.width * self.cell, self.height * self.cell))
        return drawn | binary_closing(drawn, np.ones((3, 3), bool)), (self.width, self.height)

    def shift(self, scores: F64, corner: tuple[int, int]) -> F64:
        """Return by how many pixels (x, y) a silhouette of :meth:`beyond` moves to the best of scores.

        Parameters
        ----------
        scores : (4 h - 1, 4 w - 1) float64
            Full convolution of a map of the picture with the silhouette turned by 180 degrees.
        """
        row, column = np.unravel_index(int(scores.argmax()), scores.shape)
        shift = (column - 3 * self.width + 1 + corner[0], row - 3 * self.height + 1 + corner[1])
        return np.array(shift, np.float64) * self.cell

    def depth(self, camera: Camera, points: F64) -> F64:
        """Return the least depth of points on each cell, (h, w) float64 metres; infinite where there are none."""
        pixels, z = camera.project(points)
        inside = (z > 0) & (pixels >= 0).all(axis=1)
        inside &= (pixels < (self.width * self.cell, self.height * self.cell)).all(axis=1)
        column, row = (pixels[inside] / self.cell).astype(np.int64).T
        nearest = np.full((self.height, self.width), np.inf)
        np.minimum.at(nearest, (row, column), z[inside])
        return nearest


@dataclass(frozen=True)
class Overlap:
    """How a silhouette and a foreground lie over each other.

    Attributes
    ----------
    score : float
        Of both together, the share that is of both (intersection over union).
    inside : float
        Share of the silhouette that is foreground, grown by a cell; 0 without a silhouette.
    covered : float
        Share of the foreground that is silhouette.
    """

    score: float
    inside: float
    covered: float


def overlap(silhouette: Cells, foreground: Cells) -> Overlap:
    """Compare where a scan lies with where a picture shows somebody, both (h, w) bool."""
    both = float((silhouette & foreground).sum())
    drawn, shown = float(silhouette.sum()), float(foreground.sum())
    inside = float((silhouette & grown(foreground)).sum())
    return Overlap(both / max(drawn + shown - both, 1.0), inside / max(drawn, 1.0), both / max(shown, 1.0))


def grown(mask: Cells, by: int = 1) -> Cells:
    """Return a mask with so many cells more all around."""
    for _ in range(by):
        tall = mask.copy()
        tall[1:] |= mask[:-1]
        tall[:-1] |= mask[1:]
        mask = tall.copy()
        mask[:, 1:] |= tall[:, :-1]
        mask[:, :-1] |= tall[:, 1:]
    return mask


def outline_breaks(grid: Grid, camera: Camera, points: F64, foreground: Cells) -> float:
    """Return along which share of a foreground's outline the scan ends or steps back, as it does where a person ends.

    It tells a scan with more than the person in it, such as a chair, from a camera that is wrong: a wrong one puts the
    outline across smooth skin.
    """
    from scipy.ndimage import uniform_filter

    depth = grid.depth(camera, points)
    known = foreground & np.isfinite(depth)
    beyond = grown(foreground, 4) & ~grown(foreground, 2)
    share = uniform_filter(known.astype(np.float64), 2 * 5 + 1, mode="constant")
    total = uniform_filter(np.where(known, depth, 0.0), 2 * 5 + 1, mode="constant")
    judged = beyond & (share > 1e-9)
    if not judged.any():
        return 0.0
    step = depth[judged] - total[judged] / share[judged]
    return float((step > STEP_M).mean())
