"""What a picture says about where somebody stands in it: a foreground, or else the edges of what it shows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from datagen.flows.conventions import undone
from datagen.flows.silhouettes import GRID, POINTS, Cells, Grid, grown, overlap, surface_points
from datagen.geometry.camera import Camera
from datagen.geometry.mesh import Mesh

F64 = npt.NDArray[np.float64]

LEAST_INSIDE = 0.9  # of a silhouette, in the mask grown by a cell
FEWEST_OUTLINE = 60  # cells: the outline of less is found among the edges of any picture
LEAST_CONTRAST = 0.55  # of the colours on both sides of an outline: true ones have 0.68 to 0.93, others 0.5 at most
SMOOTHED = 1.0  # cells, before the gradient


@dataclass(frozen=True)
class Judgement:
    """How well a silhouette agrees with a picture.

    Attributes
    ----------
    score : float
        In [0, 1].
    fits : bool
        Whether nothing else speaks against it.
    """

    score: float
    fits: bool


Judge = Callable[[Cells, str], Judgement]


@dataclass(frozen=True)
class Place:
    """Where a silhouette fits a picture best, wherever it is to lie.

    Attributes
    ----------
    shift_px : (2,) float64
        From where it was, to the right and down.
    score : float
    """

    shift_px: F64
    score: float


class Sighting(ABC):
    """What a picture shows, to hold silhouettes against.

    Attributes
    ----------
    figure : str
        What the score is.
    least_score, least_gain : float
        Of a convention that is believed, and over what was given.
    least_joint, least_mean : float
        Of a convention that explains a whole rig, in each of its cameras, and on the average.
    clear_score, largest_doubt : float
        The same where nothing else speaks against the camera: from which on a convention is believed, and up to which
        score of the camera as given.
    coarse : int
        Cells of the grid that candidates are chosen on.
    """

    figure: str
    least_score: ClassVar[float]
    least_gain: ClassVar[float]
    least_joint: ClassVar[float]
    least_mean: ClassVar[float]
    clear_score: ClassVar[float]
    largest_doubt: ClassVar[float]
    coarse: ClassVar[int]

    @abstractmethod
    def judge(self, grid: Grid) -> Judge:
        """Return a function of a silhouette on a grid, (h, w) bool, and of what may have been done to the picture."""

    def find(self, camera: Camera, scan: Mesh) -> Place | None:
        """Return where a camera's silhouette of a scan fits best, in or beside the picture; None if nowhere surely."""
        del camera, scan
        # Two free numbers find edges to lie on in any picture: patterns without anybody gave 0.88.
        return None

    def doubts(self, given: Judgement) -> bool:
        """Whether a camera that nothing else speaks against is doubted."""
        return given.score <= self.largest_doubt

    def finds_pixels(self, camera: Camera) -> bool:
        """Whether :meth:`find` tells one pixel of a camera from the next."""
        del camera
        return False

    def __str__(self) -> str:
        return self.figure


@dataclass(frozen=True)
class Shown(Sighting):
    """A foreground: true cameras overlap it by 0.92 to 0.98 on simulated heads and pictures of a real scan.

    Attributes
    ----------
    mask : (H, W) bool
    source : str
        In words: what it was taken from.
    """

    mask: Cells
    source: str
    # People have shoulders and hair that a scan may lack.
    least_score: ClassVar[float] = 0.6
    least_gain: ClassVar[float] = 0.15
    least_joint: ClassVar[float] = 0.35
    least_mean: ClassVar[float] = 0.6
    # Of a shift, whose two free numbers make much fit.
    least_crop: ClassVar[float] = 0.9
    clear_score: ClassVar[float] = 0.85
    # K of an image half as large makes 0.25 of a whole head's overlap; scans of three cameras lack the back of a head.
    largest_doubt: ClassVar[float] = 0.4
    coarse: ClassVar[int] = 48

    @property
    def figure(self) -> str:  # type: ignore[override]
        """Intersection over union."""
        return f"overlap of the scan and {self.source}"

    def judge(self, grid: Grid) -> Judge:
        """Return the overlap with the foreground."""
        shown = grid.reduced(self.mask)

        def judged(silhouette: Cells, picture: str) -> Judgement:
            seen = overlap(silhouette, undone(picture, shown))
            return Judgement(seen.score, seen.inside >= LEAST_INSIDE)

        return judged

    def find(self, camera: Camera, scan: Mesh) -> Place | None:
        """Return where the silhouette overlaps the foreground best; coarsely first, then nearby on finer grids."""
        grid = Grid.of(camera)
        score, best = _correlated(grid, camera, surface_points(scan), grid.reduced(self.mask))
        for level in (1, 2):
            if grid.cell == 1:
                break
            grid = Grid.of(camera, GRID << level)
            points, shown = surface_points(scan, POINTS << (2 * level)), grid.reduced(self.mask)
            tried = []
            for dx, dy in product((-1, 0, 1), repeat=2):
                by = np.round(best / grid.cell + (dx, dy)) * grid.cell
                found = overlap(grid.silhouette(moved(camera, by), points), shown).score
                tried.append((found, -abs(dx) - abs(dy), *by))
            score, _, x, y = max(tried)
            best = np.array([x, y])
        return Place(best, score) if score >= self.least_crop else None

    def finds_pixels(self, camera: Camera) -> bool:
        """Whether the finest grid is that of the pixels."""
        return Grid.of(camera, GRID << 2).cell == 1


def moved(camera: Camera, pixels: F64) -> Camera:
    """Return a camera whose picture was moved by (x, y) pixels."""
    K = camera.K.copy()
    K[:2, 2] += pixels
    return replace(camera, K=K)


def _correlated(grid: Grid, camera: Camera, points: F64, shown: Cells) -> tuple[float, F64]:
    """Return the best overlap of a silhouette at any shift of whole cells, and that shift in pixels."""
    from scipy.signal import fftconvolve

    drawn, corner = grid.beyond(camera, points)
    flipped = drawn[::-1, ::-1].astype(np.float64)
    both = fftconvolve(shown.astype(np.float64), flipped)
    within = fftconvolve(np.ones(shown.shape), flipped)
    scores = both / np.maximum(within + shown.sum() - both, 1.0)
    return float(scores.max()), grid.shift(scores, corner)


@dataclass(frozen=True)
class Edges(Sighting):
    """The edges of a picture without any foreground.

    The score is the mean rank of the picture's gradient along the outline. True cameras of simulated heads before
    rooms and walls have 0.85 to 0.97; the same outline elsewhere in the picture has 0.55 ± 0.07, 0.78 at most, and
    that of a similar view up to 0.93: of conventions that differ that little none is sure.

    Attributes
    ----------
    small : (h, w, 3) float64
        The picture, reduced.
    mask : (H, W) bool or None
        Which a silhouette has to lie in: one that is larger than the scan tells no more.
    """

    small: F64
    mask: Cells | None = None
    least_score: ClassVar[float] = 0.82
    least_gain: ClassVar[float] = 0.12
    least_joint: ClassVar[float] = 0.75
    least_mean: ClassVar[float] = 0.87
    clear_score: ClassVar[float] = 0.82
    largest_doubt: ClassVar[float] = 0.7
    coarse: ClassVar[int] = 96
    figure = "rank of the picture's gradient along the scan's outline"

    @classmethod
    def of(cls, image: npt.NDArray[np.uint8], mask: Cells | None = None) -> Edges:
        """Return what the edges of an image (H, W, 3) say."""
        height, width = image.shape[:2]
        step = max(1, round(max(height, width) / (2 * GRID)))
        h, w = height // step, width // step
        blocks = image[: h * step, : w * step].reshape(h, step, w, step, 3)
        return cls(np.asarray(blocks.mean(axis=(1, 3), dtype=np.float64)), mask)

    def _ranks(self, grid: Grid) -> tuple[F64, F64]:
        """Return the picture (h, w, 3) and the rank of its gradient (h, w) on a grid."""
        from scipy.ndimage import gaussian_gradient_magnitude, zoom

        factors = (grid.height / self.small.shape[0], grid.width / self.small.shape[1], 1)
        small = zoom(self.small, factors, order=1, grid_mode=True, mode="nearest")
        steps = [gaussian_gradient_magnitude(np.log1p(small[..., k]), SMOOTHED) for k in range(3)]
        gradient = np.max(steps, axis=0)
        return small, (gradient.ravel().argsort().argsort() / gradient.size).reshape(gradient.shape)

    def judge(self, grid: Grid) -> Judge:
        """Return the rank of the gradient, and whether the colours differ on both sides of the outline."""
        from scipy.ndimage import binary_erosion

        small, ranks = self._ranks(grid)
        room = None if self.mask is None else grown(grid.reduced(self.mask))
        levels = np.clip(small / 32, 0, 7).astype(np.int64)
        codes = levels[..., 0] * 64 + levels[..., 1] * 8 + levels[..., 2]

        def judged(silhouette: Cells, picture: str) -> Judgement:
            if picture == "inverted":
                return Judgement(0.0, False)
            outline = silhouette & ~binary_erosion(silhouette, border_value=1)
            if outline.sum() < FEWEST_OUTLINE * max(grid.width, grid.height) / GRID:
                return Judgement(0.0, False)
            inner = silhouette & ~binary_erosion(silhouette, iterations=4, border_value=1)
            ring = grown(silhouette, 5) & ~grown(silhouette)
            within, around = (_histogram(undone(picture, codes)[part]) for part in (inner, ring))
            contrast = float(np.abs(within - around).sum() / 2)
            score = float(undone(picture, ranks)[outline].mean())
            inside = room is None or (silhouette & room).sum() >= LEAST_INSIDE * silhouette.sum()
            return Judgement(score, bool(inside and contrast >= LEAST_CONTRAST))

        return judged

    def doubts(self, given: Judgement) -> bool:
        """Also where the colours are alike on both sides of the outline."""
        return super().doubts(given) or not given.fits


def _histogram(codes: npt.NDArray[np.int64]) -> F64:
    counts = np.bincount(codes, minlength=512)
    return np.asarray(counts / max(len(codes), 1))


def grid_of(sighting: Sighting, camera: Camera, *, coarse: bool = False) -> Grid:
    """Return the grid that a kind of sighting is judged on."""
    return Grid.of(camera, sighting.coarse if coarse else GRID)
