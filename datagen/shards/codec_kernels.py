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
    """Predict (3, H, W), round what is left to steps: that goes to ``data``, what it decodes to to ``values``.

    Where ``data`` is empty, there are values only.
    """
    height, width = image.shape[1:]
    step, reciprocal = np.int16(2 * error + 1), np.uint32(_RECIPROCALS[error])
    shift = np.int16(error + (2 * error + 1) * _BIAS)
    fours, twos = (3 * height + 3) // 4, (3 * height + 1) // 2
    packed = len(data) > 0
    if packed:
        low = data[: fours * width].reshape((fours, width))
        middle = data[fours * width : 2 * fours * width].reshape((fours, width))
        high = data[2 * fours * width : (2 * fours + twos) * width].reshape((twos, width))
        data[:] = 0
    above, folded = np.full(width + 2, 128, np.uint8), np.zeros((3, 4, width), np.uint8)
    green, nothing = np.zeros(width, np.int16), np.zeros(width, np.int16)
    for row in range(height):
        for turn in range(3):
            channel = (1, 0, 2)[turn]
            innovation = green if turn else nothing
            if row:
                _pad(values[channel, row - 1], above)
            else:
                above[:] = 128
            place = channel * height + row
            if place % 4 == 0:
                folded[channel] = 0
            given, got, left = image[channel, row], values[channel, row], folded[channel, place % 4]
            for c in range(width):
                p = _expected(above[c], above[c + 1], above[c + 2], innovation[c])
                n = np.uint16(np.int16(given[c]) - p + shift)
                k = np.int16(np.int16(np.uint32(np.uint32(n) * reciprocal) >> np.uint32(16)) - np.int16(_BIAS))
                got[c] = np.uint8(min(max(np.int16(p + np.int16(step * k)), np.int16(0)), np.int16(255)))
                small = np.int8(k)
                left[c] = np.uint8(np.uint8(small << 1) ^ np.uint8(small >> 7))
            if turn == 0:
                for c in range(width):
                    p = _expected(above[c], above[c + 1], above[c + 2], nothing[c])
                    green[c] = np.int16(np.int16(got[c]) - p)
            # Four rows share bytes, also those of two channels.
            if packed and (place % 4 == 3 or row == height - 1):
                _pack(folded[channel], 0, low[place // 4])
                _pack(folded[channel], 2, middle[place // 4])
                _pack_rest(folded[channel], high[place // 4 * 2 :])


@compiled
def decode_image(data: U8, error: int, values: U8) -> None:
    """Undo :func:`encode_image`: fill ``values``, (3, H, W)."""
    height, width = values.shape[1:]
    step = np.int16(2 * error + 1)
    # Sums modulo 256 where nothing is rounded: any difference of two values then fits eight bits.
    least, most = (np.int16(0), np.int16(255)) if error else (np.int16(-32768), np.int16(32767))
    fours, twos = (3 * height + 3) // 4, (3 * height + 1) // 2
    low = data[: fours * width].reshape((fours, width))
    middle = data[fours * width : 2 * fours * width].reshape((fours, width))
    high = data[2 * fours * width : (2 * fours + twos) * width].reshape((twos, width))
    above, steps = np.full(width + 2, 128, np.uint8), np.empty((3, 4, width), np.int8)
    green, nothing = np.zeros(width, np.int16), np.zeros(width, np.int16)
    for row in range(height):
        for turn in range(3):
            channel = (1, 0, 2)[turn]
            innovation = green if turn else nothing
            place = channel * height + row
            if place % 4 == 0 or row == 0:
                k = place // 4
                _unpack(low[k], middle[k], high[2 * k], high[min(2 * k + 1, twos - 1)], steps[channel])
            if row:
                _pad(values[channel, row - 1], above)
            else:
                above[:] = 128
            got, left = values[channel, row], steps[channel, place % 4]
            for c in range(width):
                p = _expected(above[c], above[c + 1], above[c + 2], innovation[c])
                v = np.int16(p + np.int16(step * np.int16(left[c])))
                got[c] = np.uint8(min(max(v, least), most))
            if turn == 0:
                for c in range(width):
                    p = _expected(above[c], above[c + 1], above[c + 2], nothing[c])
                    green[c] = np.int16(np.int16(got[c]) - p)


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
def _pack(four: U8, begin: int, packed: U8) -> None:
    """Add two bits of four rows, from bit ``begin`` on, to bytes. Shifts by constants alone are quick for bytes."""
    a, b, d, e = four[0], four[1], four[2], four[3]
    if begin:
        for c in range(len(packed)):
            packed[c] |= np.uint8((a[c] >> 2 & 3) | (b[c] & 12) | ((d[c] & 12) << 2) | ((e[c] & 12) << 4))
    else:
        for c in range(len(packed)):
            packed[c] |= np.uint8((a[c] & 3) | ((b[c] & 3) << 2) | ((d[c] & 3) << 4) | ((e[c] & 3) << 6))


@inlined
def _pack_rest(four: U8, packed: U8) -> None:
    """Add the upper four bits of four rows to two rows of bytes; of two rows, to one, where that is the last."""
    for two in range(min(2, len(packed))):
        whole, a, b = packed[two], four[2 * two], four[2 * two + 1]
        for c in range(len(whole)):
            whole[c] |= np.uint8((a[c] >> 4) | (b[c] & 0xF0))


@inlined
def _unpack(low: U8, middle: U8, one: U8, two: U8, steps: Any) -> None:
    """Undo :func:`_pack` for all bits of four rows, and give them their signs back."""
    a, b, d, e = steps[0], steps[1], steps[2], steps[3]
    for c in range(len(low)):
        a[c] = _signed(np.uint8((low[c] & 3) | ((middle[c] & 3) << 2) | ((one[c] & 15) << 4)))
    for c in range(len(low)):
        b[c] = _signed(np.uint8((low[c] >> 2 & 3) | (middle[c] & 12) | (one[c] & 240)))
    for c in range(len(low)):
        d[c] = _signed(np.uint8((low[c] >> 4 & 3) | (middle[c] >> 2 & 12) | ((two[c] & 15) << 4)))
    for c in range(len(low)):
        e[c] = _signed(np.uint8((low[c] >> 6) | (middle[c] >> 4 & 12) | (two[c] & 240)))


@inlined
def _signed(z: Any) -> Any:
    return np.int8(np.uint8(z >> 1) ^ np.uint8(-np.int8(z & 1)))


@inlined
def _pad(row: U8, padded: U8) -> None:
    width = len(row)
    for c in range(width):
        padded[c + 1] = row[c]
    padded[0], padded[width + 1] = row[0], row[width - 1]


@inlined
def _expected(left: Any, above: Any, right: Any, innovation: Any) -> Any:
    """Smooth the row above, and follow what green did."""
    total = np.uint16(np.uint16(np.uint16(left) + np.uint16(right)) + np.uint16(2))
    mean = np.uint16(np.uint16(total + np.uint16(np.uint16(above) << np.uint16(1))) >> np.uint16(2))
    return min(max(np.int16(np.int16(mean) + innovation), np.int16(0)), np.int16(255))


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
