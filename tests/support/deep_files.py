"""Files of deep pictures, written byte by byte after their specifications."""

from __future__ import annotations

import struct
import zlib

import numpy as np


def png16(pixels: np.ndarray, extra: bytes = b"") -> bytes:
    """Return a PNG of 16 bits: grey (H, W), RGB (H, W, 3) or RGBA uint16; ``extra`` are chunks before the pixels."""
    height, width = pixels.shape[:2]
    colours = {1: 0, 3: 2, 4: 6}[pixels.size // (height * width)]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels.reshape(height, -1))
    head = struct.pack(">IIBBBBB", width, height, 16, colours, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def exr(pixels: np.ndarray) -> bytes:
    """Return an uncompressed EXR of (H, W, 3) RGB or (H, W, 4) RGBA, float16 or float32."""
    height, width, count = pixels.shape
    names = {3: "BGR", 4: "ABGR"}[count]
    places = ["RGBA".index(name) for name in names]
    half = pixels.dtype == np.float16
    kind = 1 if half else 2
    channels = b"".join(name.encode() + b"\0" + struct.pack("<IIII", kind, 0, 1, 1) for name in names) + b"\0"
    box = struct.pack("<4i", 0, 0, width - 1, height - 1)
    head = struct.pack("<II", 20000630, 2)
    for name, of, data in (
        ("channels", "chlist", channels),
        ("compression", "compression", b"\0"),
        ("dataWindow", "box2i", box),
        ("displayWindow", "box2i", box),
        ("lineOrder", "lineOrder", b"\0"),
        ("pixelAspectRatio", "float", struct.pack("<f", 1)),
        ("screenWindowCenter", "v2f", struct.pack("<2f", 0, 0)),
        ("screenWindowWidth", "float", struct.pack("<f", 1)),
    ):
        head += f"{name}\0{of}\0".encode() + struct.pack("<I", len(data)) + data
    head += b"\0"
    order = "<f2" if half else "<f4"
    size = width * count * (2 if half else 4)
    rows = [
        struct.pack("<iI", y, size) + b"".join(pixels[y, :, c].astype(order).tobytes() for c in places)
        for y in range(height)
    ]
    offsets = b"".join(struct.pack("<Q", len(head) + 8 * height + y * (8 + size)) for y in range(height))
    return head + offsets + b"".join(rows)
