"""The predictors of :mod:`datagen.shards.codec` in NumPy: for machines without numba, and to test the compiled ones by.

Twenty times slower than :mod:`datagen.shards.codec_kernels`, whose functions these are name by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
Ints = npt.NDArray[np.integer[Any]]

_PLANES = ((0, 2), (2, 2), (4, 4))  # first bit and number of bits


def encode_image(image: U8, error: int, data: U8, values: U8) -> None:
    """See the compiled one."""
    step = 2 * error + 1
    folded = np.empty(image.shape, np.uint8)
    for channel, row, expected, got in _image_rows(values):
        k = (image[channel, row] - expected + error) // step
        got[:] = np.clip(expected + step * k, 0, 255)
        folded[channel, row] = _folded(k.astype(np.int8))
    if not len(data):
        return
    lines, parts = folded.reshape(-1, image.shape[2]), []
    for begin, bits in _PLANES:
        each = 8 // bits
        padded = np.pad(lines >> begin & (2**bits - 1), ((0, -len(lines) % each), (0, 0)))
        parts.append(sum(padded[k::each] << bits * k for k in range(each)))
    data[:] = np.concatenate([np.asarray(part, np.uint8).ravel() for part in parts])


def decode_image(data: U8, error: int, values: U8) -> None:
    """See the compiled one."""
    channels, height, width = values.shape
    lines, folded = channels * height, np.zeros((channels * height, width), np.uint8)
    for begin, bits in _PLANES:
        each = 8 // bits
        count = -(-lines // each)
        plane, data = data[: count * width].reshape(count, width), data[count * width :]
        for k in range(each):
            part = folded[k::each]
            part |= (plane[: len(part)] >> bits * k & (2**bits - 1)) << begin
    steps = _unfolded(folded).view(np.int8).astype(np.int16).reshape(values.shape)
    for channel, row, expected, got in _image_rows(values):
        sums = expected + (2 * error + 1) * steps[channel, row]
        got[:] = np.clip(sums, 0, 255) if error else sums & 255


def encode_surface(values: U16, data: U16) -> None:
    """See the compiled one."""
    for row in range(values.shape[1]):
        left = (values[:, row] - _expected_surface(values, row)).astype(np.uint16)
        data[:, row] = _folded(left.view(np.int16))


def decode_surface(data: U16, values: U16) -> None:
    """See the compiled one."""
    for row in range(values.shape[1]):
        values[:, row] = (_expected_surface(values, row) + _unfolded(data[:, row])).astype(np.uint16)


def encode_rows(values: U8, data: U8) -> None:
    """See the compiled one."""
    data[:, 0] = values[:, 0]
    np.subtract(values[:, 1:], values[:, :-1], out=data[:, 1:])


def decode_rows(data: U8, values: U8) -> None:
    """See the compiled one."""
    np.cumsum(data, axis=1, dtype=np.uint8, out=values)


def _image_rows(values: U8) -> Iterator[tuple[int, int, Ints, U8]]:
    """Yield channel, row, what is expected there, and where the caller puts the values before the next is yielded."""
    for row in range(values.shape[1]):
        before = np.full((3, values.shape[2]), 128, np.int16) if row == 0 else values[:, row - 1].astype(np.int16)
        padded = np.pad(before, ((0, 0), (1, 1)), mode="edge")
        expected = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:] + 2 >> 2
        yield 1, row, expected[1], values[1, row]
        innovation = values[1, row] - expected[1]
        for channel in (0, 2):
            yield channel, row, np.clip(expected[channel] + innovation, 0, 255), values[channel, row]


def _expected_surface(values: U16, row: int) -> npt.NDArray[np.int64]:
    above = values[:, max(row - 1, 0)].astype(np.int64) * (row > 0)
    if row < 2:
        return above
    lean = np.clip(above - values[:, row - 2], -64, 64)
    padded = np.pad(lean, ((0, 0), (1, 1)), mode="edge")
    return above + (padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:] + 1) // 3


def _folded(signed: Ints) -> Ints:
    """Put the sign into the lowest bit: 0, −1, 1, −2, … become 0, 1, 2, 3, …"""
    bits = 8 * signed.itemsize
    folded: Ints = ((signed << 1) ^ (signed >> (bits - 1))).view(f"u{signed.itemsize}")
    return folded


def _unfolded(folded: Ints) -> Ints:
    """Undo :func:`_folded`; unsigned, modulo the range of the dtype."""
    return (folded >> 1) ^ (0 - (folded & 1))
