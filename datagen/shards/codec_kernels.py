"""The predictors of :mod:`datagen.shards.codec`, compiled: the same integers as :mod:`datagen.shards.codec_reference`.

Everything about a row depends on rows above alone, so each inner loop runs over a whole row at once. Values are cast
after every step, because numba computes with 64 bits otherwise: 16 bits a lane are several times as fast.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.compiled import compiled, inlined

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]

# floor(n / step) is n × this >> 16, for any n below 16384.
_RECIPROCALS = np.array([65536, 21846, 13108], np.uint32)
_BIAS = 256  # steps added before a division, so that nothing negative is divided


@compiled
def encode_image(image: U8, error: int, data: U8, values: U8) -> None:
    """Predict (3, H, W), round what is left to steps: that goes to ``data``, what it decodes to to ``values``."""
    height, width = image.shape[1:]
    step, reciprocal = np.int16(2 * error + 1), np.uint32(_RECIPROCALS[error])
    shift = np.int16(error + (2 * error + 1) * _BIAS)
    fours, twos = (3 * height + 3) // 4, (3 * height + 1) // 2
    low = data[: fours * width].reshape((fours, width))
    middle = data[fours * width : 2 * fours * width].reshape((fours, width))
    high = data[2 * fours * width : (2 * fours + twos) * width].reshape((twos, width))
    data[:] = 0
    above, expected = np.full(width + 2, 128, np.uint8), np.empty(width, np.int16)
    innovation, folded = np.empty(width, np.int16), np.empty(width, np.uint8)
    for row in range(height):
        for turn in range(3):
            channel = (1, 0, 2)[turn]
            if row:
                _pad(values[channel, row - 1], above)
            else:
                above[:] = 128
            _expect(above, innovation, turn, expected)
            given, got = image[channel, row], values[channel, row]
            for c in range(width):
                p = expected[c]
                n = np.uint16(np.int16(given[c]) - p + shift)
                k = np.int16(np.int16(np.uint32(np.uint32(n) * reciprocal) >> np.uint32(16)) - np.int16(_BIAS))
                got[c] = np.uint8(min(max(np.int16(p + np.int16(step * k)), np.int16(0)), np.int16(255)))
                small = np.int8(k)
                folded[c] = np.uint8(np.uint8(small << 1) ^ np.uint8(small >> 7))
            if turn == 0:
                for c in range(width):
                    innovation[c] = np.int16(np.int16(got[c]) - expected[c])
            place = channel * height + row
            crumb, nibble = np.uint8(2 * (place % 4)), np.uint8(4 * (place % 2))
            first, second, rest = low[place // 4], middle[place // 4], high[place // 2]
            for c in range(width):
                first[c] |= np.uint8((folded[c] & np.uint8(3)) << crumb)
            for c in range(width):
                second[c] |= np.uint8(((folded[c] >> np.uint8(2)) & np.uint8(3)) << crumb)
            for c in range(width):
                rest[c] |= np.uint8((folded[c] >> np.uint8(4)) << nibble)


@compiled
def decode_image(data: U8, error: int, values: U8) -> None:
    """Undo :func:`encode_image`: fill ``values``, (3, H, W)."""
    height, width = values.shape[1:]
    step = np.int16(2 * error + 1)
    fours, twos = (3 * height + 3) // 4, (3 * height + 1) // 2
    low = data[: fours * width].reshape((fours, width))
    middle = data[fours * width : 2 * fours * width].reshape((fours, width))
    high = data[2 * fours * width : (2 * fours + twos) * width].reshape((twos, width))
    above, expected = np.full(width + 2, 128, np.uint8), np.empty(width, np.int16)
    innovation, steps = np.empty(width, np.int16), np.empty(width, np.int8)
    for row in range(height):
        for turn in range(3):
            channel = (1, 0, 2)[turn]
            place = channel * height + row
            crumb, nibble = np.uint8(2 * (place % 4)), np.uint8(4 * (place % 2))
            first, second, rest = low[place // 4], middle[place // 4], high[place // 2]
            for c in range(width):
                z = np.uint8((first[c] >> crumb) & np.uint8(3))
                z |= np.uint8(np.uint8((second[c] >> crumb) & np.uint8(3)) << np.uint8(2))
                z |= np.uint8(np.uint8((rest[c] >> nibble) & np.uint8(15)) << np.uint8(4))
                steps[c] = np.int8(np.uint8(z >> np.uint8(1)) ^ np.uint8(-np.int8(z & np.uint8(1))))
            if row:
                _pad(values[channel, row - 1], above)
            else:
                above[:] = 128
            _expect(above, innovation, turn, expected)
            got = values[channel, row]
            if error:
                for c in range(width):
                    v = np.int16(expected[c] + np.int16(step * np.int16(steps[c])))
                    got[c] = np.uint8(min(max(v, np.int16(0)), np.int16(255)))
            else:
                for c in range(width):
                    got[c] = np.uint8(np.uint8(expected[c]) + np.uint8(steps[c]))
            if turn == 0:
                for c in range(width):
                    innovation[c] = np.int16(np.int16(got[c]) - expected[c])


@compiled
def encode_surface(values: U16, data: U16) -> None:
    """Put the residuals of maps (M, H, W) into ``data`` of the same shape."""
    maps, height, width = values.shape
    lean, expected = np.empty(width + 2, np.int16), np.empty(width, np.uint16)
    for m in range(maps):
        for row in range(height):
            _expect_surface(values[m], row, lean, expected)
            given, got = values[m, row], data[m, row]
            for c in range(width):
                d = np.int16(np.uint16(given[c] - expected[c]))
                got[c] = np.uint16(np.uint16(d << 1) ^ np.uint16(d >> 15))


@compiled
def decode_surface(data: U16, values: U16) -> None:
    """Undo :func:`encode_surface`: fill ``values``, (M, H, W)."""
    maps, height, width = values.shape
    lean, expected = np.empty(width + 2, np.int16), np.empty(width, np.uint16)
    for m in range(maps):
        for row in range(height):
            _expect_surface(values[m], row, lean, expected)
            given, got = data[m, row], values[m, row]
            for c in range(width):
                z = given[c]
                got[c] = np.uint16(expected[c] + np.uint16(np.uint16(z >> 1) ^ np.uint16(-np.int16(z & np.uint16(1)))))


@compiled
def encode_rows(values: U8, data: U8) -> None:
    """Put the differences of rows of maps (M, H, W) into ``data`` of the same shape."""
    maps, height, width = values.shape
    for m in range(maps):
        data[m, 0] = values[m, 0]
        for row in range(1, height):
            given, above, got = values[m, row], values[m, row - 1], data[m, row]
            for c in range(width):
                got[c] = np.uint8(given[c] - above[c])


@compiled
def decode_rows(data: U8, values: U8) -> None:
    """Undo :func:`encode_rows`: fill ``values``, (M, H, W)."""
    maps, height, width = values.shape
    for m in range(maps):
        values[m, 0] = data[m, 0]
        for row in range(1, height):
            given, above, got = data[m, row], values[m, row - 1], values[m, row]
            for c in range(width):
                got[c] = np.uint8(given[c] + above[c])


@inlined
def _pad(row: U8, padded: U8) -> None:
    width = len(row)
    for c in range(width):
        padded[c + 1] = row[c]
    padded[0], padded[width + 1] = row[0], row[width - 1]


@inlined
def _expect(above: U8, innovation: Any, turn: int, expected: Any) -> None:
    """Smooth the row above; red and blue then follow what green did."""
    width = len(expected)
    for c in range(width):
        a, b, d = np.uint16(above[c]), np.uint16(above[c + 1]), np.uint16(above[c + 2])
        total = np.uint16(np.uint16(a + d) + np.uint16(np.uint16(b + b) + np.uint16(2)))
        expected[c] = np.int16(total >> np.uint16(2))
    if turn:
        for c in range(width):
            p = np.int16(expected[c] + innovation[c])
            expected[c] = min(max(p, np.int16(0)), np.int16(255))


@inlined
def _expect_surface(values: U16, row: int, lean: Any, expected: U16) -> None:
    """Continue the slope of the two rows above, as far as it is one: the mean over three columns, within 64 each."""
    width = len(expected)
    if row == 0:
        expected[:] = 0
    elif row == 1:
        expected[:] = values[0]
    else:
        one, two = values[row - 1], values[row - 2]
        for c in range(width):
            top = max(one[c], two[c])
            up, down = np.uint16(top - two[c]), np.uint16(top - one[c])
            lean[c + 1] = np.int16(np.int16(min(up, np.uint16(64))) - np.int16(min(down, np.uint16(64))))
        lean[0], lean[width + 1] = lean[1], lean[width]
        for c in range(width):
            n = np.uint16(np.int16(np.int16(lean[c] + lean[c + 1]) + np.int16(lean[c + 2] + np.int16(193))))
            third = np.uint16(np.uint32(np.uint32(n) * np.uint32(21846)) >> np.uint32(16))
            expected[c] = np.uint16(np.uint16(one[c] + third) - np.uint16(64))
