"""Where points of a template were seen in a picture, and the file that carries this between programs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import F64, I64, Bools
from datagen.common.errors import InputError
from datagen.common.files import npz_bytes, read_npz

SUFFIX = ".npz"
ARRAYS = ("faces", "barycentric", "pixels", "covariance", "shared_m", "size")
TEXTS = ("source", "template")
# A covariance in square pixels: less is a mistake, as no picture tells a hundredth of a pixel.
LEAST_SIGMA_PX = 0.01
BARYCENTRIC_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class SeenPoints:
    """Points of a template in one picture.

    A covariance tells all the error of a point, and points are taken to err each by itself: who makes them enlarges it
    by the number of points, and of pictures of one instant, that err together. Errors that are known to go together
    better than that are told by ``shared_m``.

    Attributes
    ----------
    source : str
        Who says so: the name of the maker.
    template : str
        Digest of the head model's template.
    width, height : int
        Size in pixels of the picture, as it is read: straight, upright.
    faces : (n,) int64
        Face of the template that each point lies on.
    barycentric : (n, 3) float64
        Where in the face.
    pixels : (n, 2) float64
        x and y; the top-left pixel's centre is at (0.5, 0.5). Points outside the picture are allowed.
    covariance : (n, 2, 2) float64
        Square pixels.
    shared_m : (k, n, 3) float64
        Displacements of the points in the template's axes, metres: what was seen is the template's point plus their
        sum, each times a factor drawn from N(0, 1) which is unknown, and the same in all pictures that one source
        tells of one instant. How a detector's idea of a face differs from the template.
    """

    source: str
    template: str
    width: int
    height: int
    faces: I64
    barycentric: F64
    pixels: F64
    covariance: F64
    shared_m: F64 = field(default_factory=lambda: np.zeros((0, 0, 3)))

    def __len__(self) -> int:
        return len(self.faces)

    def take(self, chosen: Sequence[int] | I64 | Bools) -> SeenPoints:
        """Return some of the points, by index or mask."""
        at = np.asarray(chosen) if len(chosen) else np.zeros(0, np.int64)
        shared = self.shared_m[:, at] if len(self.shared_m) else self.shared_m
        return SeenPoints(
            self.source,
            self.template,
            self.width,
            self.height,
            self.faces[at],
            self.barycentric[at],
            self.pixels[at],
            self.covariance[at],
            shared,
        )


def as_stored(points: SeenPoints) -> SeenPoints:
    """Return points as they are read back from the file that :func:`seen_points_bytes` makes of them: rounded."""
    floats = ("barycentric", "pixels", "covariance", "shared_m")
    return replace(points, **{name: getattr(points, name).astype(np.float32).astype(np.float64) for name in floats})


def seen_points_bytes(points: SeenPoints) -> bytes:
    """Return the content of a file of seen points, an ``.npz`` with the attributes of :class:`SeenPoints`."""
    arrays: dict[str, npt.NDArray[Any]] = {
        "faces": points.faces.astype(np.int64),
        "barycentric": points.barycentric.astype(np.float32),
        "pixels": points.pixels.astype(np.float32),
        "covariance": points.covariance.astype(np.float32),
        "shared_m": points.shared_m.astype(np.float32),
        "size": np.array([points.width, points.height], np.int64),
    }
    texts = {name: np.frombuffer(getattr(points, name).encode(), np.uint8) for name in TEXTS}
    return npz_bytes({**arrays, **texts})


def read_seen_points(path: Path | os.PathLike[str]) -> SeenPoints:
    """Read a file of seen points.

    Raises
    ------
    InputError
        If the file is missing or broken, or its arrays do not fit each other or hold impossible values.
    """
    fix = "Make it again, or leave it out"
    found = read_npz(Path(path), (*ARRAYS, *TEXTS), expected="points of a template seen in a picture", fix=fix)
    try:
        source, template = (found[name].tobytes().decode() for name in TEXTS)
        width, height = (int(n) for n in found["size"])
        floats = (found[name].astype(np.float64) for name in ("barycentric", "pixels", "covariance", "shared_m"))
        points = SeenPoints(source, template, width, height, found["faces"].astype(np.int64), *floats)
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error})", "points of a template seen in a picture", fix) from None
    return validate_seen_points(points, str(path))


def validate_seen_points(points: SeenPoints, what: str) -> SeenPoints:
    """Return seen points that can be used.

    Raises
    ------
    InputError
        Naming ``what``, if arrays do not fit each other or hold impossible values.
    """
    problem, expected = _problem(points)
    if problem:
        raise InputError(f"{what} {problem}", expected, "Make it again, or leave it out")
    return points


def _problem(points: SeenPoints) -> tuple[str, str]:
    n = len(points.faces)
    shapes = [points.faces.shape, points.barycentric.shape, points.pixels.shape, points.covariance.shape]
    shared = points.shared_m.shape
    if shapes != [(n,), (n, 3), (n, 2), (n, 2, 2)] or (shared[0] and shared[1:] != (n, 3)):
        return f"has arrays of the shapes {[*shapes, shared]}", "(n,), (n, 3), (n, 2), (n, 2, 2) and (k, n, 3)"
    if points.width < 1 or points.height < 1 or not points.source:
        return f"is of {points.source!r} in a picture of {points.width} x {points.height}", "a name, and a size"
    values = (points.barycentric, points.pixels, points.covariance, points.shared_m)
    if not all(np.isfinite(array).all() for array in values):
        return "has NaN or infinite values", "finite ones; points that were not seen are left out"
    if n and (
        points.faces.min() < 0
        or points.barycentric.min() < -BARYCENTRIC_TOLERANCE
        or np.abs(points.barycentric.sum(axis=1) - 1).max() > BARYCENTRIC_TOLERANCE
    ):
        return "has points that lie in no face", "faces from 0, and three shares of each that add up to 1"
    if n and np.linalg.eigvalsh(points.covariance).min() < 0.9 * LEAST_SIGMA_PX**2:
        return "has a covariance that is not positive", f"symmetric ones of at least {LEAST_SIGMA_PX} px"
    return "", ""
