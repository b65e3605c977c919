"""How peers store the four maps of a sample, lossless: as small as common codecs make them, or as fast."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from numcodecs import Blosc
from PIL import Image

Maps = dict[str, npt.NDArray[Any]]

MAPS = ("image", "depth", "canonical", "confidence")
# small: images and labels as PNG at its best level, 16-bit maps as 16-bit PNG, a channel at a time.
# fast: every map by Blosc with zstd and byte shuffle, as numcodecs users have it.
SETTINGS = ("small", "fast")
PNG_LEVEL = 9
FAST_LEVEL = 3


def encode(maps: Mapping[str, npt.NDArray[Any]], setting: str) -> dict[str, bytes]:
    """Encode the maps of one sample; keys end in the file types that tools know."""
    if setting == "small":
        stored = {"image.png": _png(np.ascontiguousarray(maps["image"].transpose(1, 2, 0)))}
        stored |= {"depth.png": _png(maps["depth"]), "confidence.png": _png(maps["confidence"])}
        return stored | {f"canonical{k}.png": _png(plane) for k, plane in enumerate(maps["canonical"])}
    return {
        f"{name}.blosc": Blosc("zstd", FAST_LEVEL, Blosc.SHUFFLE).encode(np.ascontiguousarray(value))
        for name, value in maps.items()
    }


def decode(stored: Mapping[str, bytes], resolution: int) -> Maps:
    """Undo :func:`encode`."""
    if "image.png" in stored:
        return {
            "image": np.ascontiguousarray(_pixels(stored["image.png"], np.uint8).transpose(2, 0, 1)),
            "depth": _pixels(stored["depth.png"], np.uint16),
            "confidence": _pixels(stored["confidence.png"], np.uint8),
            "canonical": np.stack([_pixels(stored[f"canonical{k}.png"], np.uint16) for k in range(3)]),
        }
    shapes = {
        "image": (3, resolution, resolution),
        "depth": (resolution, resolution),
        "canonical": (3, resolution, resolution),
        "confidence": (resolution, resolution),
    }
    maps: Maps = {}
    for name, shape in shapes.items():
        maps[name] = np.empty(shape, np.uint16 if name in {"depth", "canonical"} else np.uint8)
        _BLOSC.decode(stored[f"{name}.blosc"], out=maps[name])
    return maps


_BLOSC = Blosc()


def _png(values: npt.NDArray[Any]) -> bytes:
    file = BytesIO()
    Image.fromarray(values).save(file, "PNG", compress_level=PNG_LEVEL)
    return file.getvalue()


def _pixels(data: bytes, dtype: Any) -> npt.NDArray[Any]:
    with Image.open(BytesIO(data)) as picture:
        return np.asarray(picture).astype(dtype, copy=False)
