"""Lenses that are not pinholes: where a straight ray lands, and pictures and masks without the distortion.

A lens maps normalised coordinates of a pinhole (x/z, y/z) to those at which the real lens shows the point; ``K`` takes
either to pixels. So it is the same in every convention of pixel centres.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from datagen.common.errors import CameraError

Points = npt.NDArray[np.float64]

ZOOMS = 0.5, 2.0  # what the focal length may be multiplied by, so that the straight picture is filled
_RAYS = 256  # places of the border, about, to which the way from the middle is looked at
_ALONG = 48  # places on each such way
_HALVINGS = 40
_STEP = 1e-6
_ROWS = 64  # of a picture at once
_NEWTON_STEPS = 30
_INVERTED = 1e-9  # normalised: a millionth of a pixel


class Lens(ABC):
    """Distortion of a lens, in normalised coordinates."""

    @property
    @abstractmethod
    def is_straight(self) -> bool:
        """Whether it distorts nothing."""

    @abstractmethod
    def distort(self, points: Points) -> Points:
        """Map normalised coordinates of a pinhole, (N, 2), to those where the lens shows the points, (N, 2)."""


@dataclass(frozen=True)
class BrownLens(Lens):
    """The model of Brown and Conrady, as OpenCV, COLMAP, Metashape and nerfstudio write it.

    Attributes
    ----------
    radial : tuple of float
        k1, k2, k3, … of the polynomial 1 + k1 r² + k2 r⁴ + k3 r⁶ + …
    divisor : tuple of float
        The same of the polynomial that it is divided by: k4, k5, k6 of OpenCV.
    tangential : tuple of two floats
        p1, p2 as OpenCV has them.
    """

    radial: tuple[float, ...] = ()
    divisor: tuple[float, ...] = ()
    tangential: tuple[float, float] = (0.0, 0.0)

    @property
    def is_straight(self) -> bool:
        """Whether all coefficients are 0."""
        return not any((*self.radial, *self.divisor, *self.tangential))

    def distort(self, points: Points) -> Points:
        """Map normalised coordinates; a pinhole without coefficients."""
        x, y = points[:, 0], points[:, 1]
        r2 = x * x + y * y
        scale = _polynomial(self.radial, r2) / _polynomial(self.divisor, r2)
        p1, p2 = self.tangential
        return np.stack(
            [
                x * scale + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
                y * scale + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
            ],
            axis=1,
        )


@dataclass(frozen=True)
class FisheyeLens(Lens):
    """The equidistant model of Kannala and Brandt: ``cv2.fisheye``, COLMAP's OPENCV_FISHEYE.

    Attributes
    ----------
    coefficients : tuple of float
        k1, k2, … of θ (1 + k1 θ² + k2 θ⁴ + …), where θ is the angle to the axis.
    """

    coefficients: tuple[float, ...] = ()

    @property
    def is_straight(self) -> bool:
        """Never: even without coefficients it is not a pinhole."""
        return False

    def distort(self, points: Points) -> Points:
        """Map normalised coordinates."""
        r = np.linalg.norm(points, axis=1)
        angle = np.arctan(r)
        shown = angle * _polynomial(self.coefficients, angle * angle)
        # The limit in the middle is 1.
        return points * np.divide(shown, r, out=np.ones_like(r), where=r > 1e-9)[:, None]


@dataclass(frozen=True)
class TsaiLens(Lens):
    """The model of Tsai: radial terms that lead from where the lens shows a point to where a pinhole would.

    Attributes
    ----------
    radial : tuple of float
        k1, k2, … of 1 + k1 r² + k2 r⁴ + …, where r is the normalised distance at which the lens shows the point.
    """

    radial: tuple[float, ...] = ()

    @property
    def is_straight(self) -> bool:
        """Whether all coefficients are 0."""
        return not any(self.radial)

    def distort(self, points: Points) -> Points:
        """Map normalised coordinates by Newton's method; NaN where no place of the lens shows the point."""
        straight = np.linalg.norm(points, axis=1)
        slopes = tuple((2 * i + 3) * k for i, k in enumerate(self.radial))
        shown = straight.copy()
        with np.errstate(all="ignore"):
            for _ in range(_NEWTON_STEPS):
                square = shown * shown
                step = (shown * _polynomial(self.radial, square) - straight) / _polynomial(slopes, square)
                shown -= step
                if np.abs(step).max(initial=0.0) < _INVERTED / 1000:
                    break
            square = shown * shown
            off = np.abs(shown * _polynomial(self.radial, square) - straight)
            # Beyond where the polynomial turns back there are other places, which no picture shows.
            found = (off < _INVERTED) & (_polynomial(slopes, square) > 0) & (shown >= 0)
            scale = np.divide(shown, straight, out=np.ones_like(shown), where=straight > _INVERTED)
        return points * np.where(found, scale, np.nan)[:, None]


def _polynomial(coefficients: tuple[float, ...], square: Points) -> Points:
    value = np.zeros_like(square)
    for k in reversed(coefficients):
        value = (value + k) * square
    return value + 1


def straight_intrinsics(lens: Lens, K: Points, width: int, height: int, name: str) -> Points:
    """Return the K of the straight picture of the same size: the widest view in which every pixel was measured.

    Only the focal lengths change, both by one factor; the principal point stays.

    Parameters
    ----------
    K : (3, 3) float64
        Of the distorted picture, pixel centres at +0.5.
    name : str
        Of the camera, for messages.

    Raises
    ------
    CameraError
        If K cannot be inverted, or no factor between the :data:`ZOOMS` fills the picture: the coefficients fold the
        picture over, or belong to another one.
    """
    if not (np.isfinite(K).all() and K[0, 0] > 0 and K[1, 1] > 0):
        raise CameraError(
            f"camera {name} has K = {K.tolist()}", "finite numbers, focal lengths above 0", "Check the calibration"
        )
    if lens.is_straight:
        return K
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    border = np.concatenate(
        [np.stack([x, np.full_like(x, v)], 1) for v in (0.5, height - 0.5)]
        + [np.stack([np.full_like(y, u), y], 1) for u in (0.5, width - 0.5)]
    )
    low, high = ZOOMS
    if not _fills(lens, K, _zoomed(K, high), border, (width, height)):
        raise CameraError(
            f"camera {name}: with its distortion {lens} no straight picture of {width}×{height} can be filled",
            "coefficients whose picture does not fold over, in the order of their model",
            "Check model and order of the coefficients, and whether K belongs to pictures of this size",
        )
    if _fills(lens, K, _zoomed(K, low), border, (width, height)):
        return _zoomed(K, low)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _fills(lens, K, _zoomed(K, middle), border, (width, height)):
            high = middle
        else:
            low = middle
    return _zoomed(K, high)


def _zoomed(K: Points, factor: float) -> Points:
    new = K.copy()
    new[:2, :2] *= factor
    return new


def _fills(lens: Lens, K: Points, new_K: Points, border: Points, size: tuple[int, int]) -> bool:
    """Whether the border of a straight picture, and so all of it, shows pixels of the distorted one, none twice."""
    ends = _normalised(new_K, border)
    with np.errstate(all="ignore"):
        pixels = _pixels(K, lens.distort(ends))
        if not (np.isfinite(pixels).all() and (pixels >= 0).all() and (pixels <= size).all()):
            return False
        along = (ends[None, :: max(len(ends) // _RAYS, 1)] * np.linspace(0, 1, _ALONG)[:, None, None]).reshape(-1, 2)
        base = lens.distort(along)
        dx = (lens.distort(along + np.array([_STEP, 0])) - base) / _STEP
        dy = (lens.distort(along + np.array([0, _STEP])) - base) / _STEP
        # Where the picture folds over, its area turns negative.
        return bool((dx[:, 0] * dy[:, 1] - dx[:, 1] * dy[:, 0] > 0).all())


def _normalised(K: Points, pixels: Points) -> Points:
    inverse = np.linalg.inv(K)
    return pixels @ inverse[:2, :2].T + inverse[:2, 2]


def _pixels(K: Points, points: Points) -> Points:
    return points @ K[:2, :2].T + K[:2, 2]


def source_pixels(lens: Lens, K: Points, new_K: Points, pixels: Points) -> Points:
    """Return where pixels of the straight picture lie in the distorted one, both (N, 2) with centres at +0.5."""
    return _pixels(K, lens.distort(_normalised(new_K, pixels)))


def straight_pixels(lens: Lens, K: Points, new_K: Points, pixels: Points) -> Points:
    """Return where pixels of the distorted picture lie in the straight one: the inverse of :func:`source_pixels`.

    (N, 2) with centres at +0.5; NaN where the lens shows no place of the straight picture.
    """
    if lens.is_straight:
        return _pixels(new_K, _normalised(K, pixels))
    wanted = _normalised(K, pixels)
    found = wanted.copy()
    with np.errstate(all="ignore"):
        for _ in range(_NEWTON_STEPS):
            base = lens.distort(found)
            dx = (lens.distort(found + np.array([_STEP, 0])) - base) / _STEP
            dy = (lens.distort(found + np.array([0, _STEP])) - base) / _STEP
            off = wanted - base
            area = dx[:, 0] * dy[:, 1] - dx[:, 1] * dy[:, 0]
            step = np.stack(
                [off[:, 0] * dy[:, 1] - off[:, 1] * dy[:, 0], off[:, 1] * dx[:, 0] - off[:, 0] * dx[:, 1]], 1
            )
            step /= area[:, None]
            # A long step may leave where the lens shows anything.
            found = found + step / np.maximum(1, 4 * np.linalg.norm(step, axis=1, keepdims=True))
        good = np.linalg.norm(lens.distort(found) - wanted, axis=1) < 1e-7
    return _pixels(new_K, np.where(good[:, None], found, np.nan))


def straighten(image: npt.NDArray[Any], lens: Lens, K: Points, new_K: Points) -> npt.NDArray[Any]:
    """Return a picture (H, W, 3) uint8, or a mask (H, W) bool, as a pinhole with ``new_K`` would have taken it.

    Pictures are interpolated by cubic splines; a mask is true where the interpolated one is a half or more.
    """
    from scipy import ndimage

    height, width = image.shape[:2]
    planes: npt.NDArray[np.float32] = image.astype(np.float32).reshape(height, width, -1)
    order: Literal[1, 3] = 1 if image.dtype == np.bool_ else 3
    if order == 3:
        for k in range(planes.shape[2]):
            planes[..., k] = ndimage.spline_filter(planes[..., k], order, output=np.dtype(np.float32))
    out = np.empty_like(planes)
    for top in range(0, height, _ROWS):
        rows = np.arange(top, min(top + _ROWS, height))
        x, y = np.meshgrid(np.arange(width) + 0.5, rows + 0.5)
        found = source_pixels(lens, K, new_K, np.stack([x.ravel(), y.ravel()], 1)) - 0.5
        where = found[:, ::-1].T.reshape(2, len(rows), width)
        for k in range(planes.shape[2]):
            # Typed, for the overloads of the next line.
            plane: npt.NDArray[np.float32] = planes[..., k]
            out[rows, :, k] = ndimage.map_coordinates(plane, where, order=order, mode="nearest", prefilter=False)
    if image.dtype == np.bool_:
        return (out >= 0.5).reshape(image.shape)
    return np.clip(np.rint(out), 0, 255).astype(np.uint8).reshape(image.shape)
