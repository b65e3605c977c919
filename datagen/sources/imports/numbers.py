"""Numbers out of files that anyone may have written: finite, of the shape that is meant, or one message."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError
from datagen.common.names import shown

Matrix = npt.NDArray[np.float64]

# Of a picture's principal point, from one convention of pixel centres to another.
SHIFT = np.array([[0, 0, 1.0], [0, 0, 1.0], [0, 0, 0]])
_MOST = 1e9
_MOST_SIDE = 65536


def finite(value: object, shape: tuple[int, ...], what: str) -> Matrix:
    """Return an array of finite numbers of a shape.

    Raises
    ------
    InputError
        If it is something else: ``what`` begins the message.
    """
    try:
        array = np.array(value, np.float64)
    except (ValueError, TypeError, OverflowError):
        array = np.zeros(0)
    if array.shape != shape or not (np.abs(array) <= _MOST).all():
        raise InputError(f"{what} is {shown(value)}", f"{'×'.join(map(str, shape))} finite numbers", "Copy it again")
    return array


def words(text: str, shape: tuple[int, ...], what: str) -> Matrix:
    """Return an array of the numbers of a text, separated by spaces, commas and ends of lines.

    Raises
    ------
    InputError
        As :func:`finite`.
    """
    try:
        values = [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        values = []
    if len(values) != int(np.prod(shape)):
        raise InputError(f"{what} is {shown(text[:80])}", f"{'×'.join(map(str, shape))} numbers", "Copy it again")
    return finite(np.reshape(values, shape), shape, what)


def side(value: object, what: str) -> int:
    """Return a side of a picture in pixels.

    Raises
    ------
    InputError
        If it is no whole number from 1 to 65,536.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or value % 1 or not 0 < value <= _MOST_SIDE:
        raise InputError(f"{what} is {shown(value)}", "a size in pixels", "Copy it again")
    return int(value)


def rigid(matrix: Matrix) -> Matrix:
    """Return a 4×4 pose from its first three rows."""
    return np.concatenate([matrix[:3], [[0.0, 0.0, 0.0, 1.0]]])


def inverse(pose: Matrix) -> Matrix:
    """Return the inverse of a rigid 4×4 pose."""
    R = pose[:3, :3]
    return rigid(np.concatenate([R.T, -R.T @ pose[:3, 3:]], axis=1))
