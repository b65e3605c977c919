"""How the maps of a sample become the bytes of a chunk, and back: prediction, then Blosc.

``docs/dataset-format.md`` says what is predicted; :mod:`datagen.shards.zarr_codecs` gives the same to zarr-python.
"""

from __future__ import annotations

import struct
import sys
import threading
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
from numcodecs import Blosc

from datagen.common.arrays import U8
from datagen.shards.chunks import ChunkError
from datagen.shards.schema import COMPACT, MAX_IMAGE_ERROR, ArraySpec

CODEC_NAME = "canonface.residuals"
PREDICTORS = ("image", "surface", "rows")
# Of zstd. What is left of a prediction gains little from more: level 5 takes 5 times as long for 2 % fewer bytes.
COMPRESSION_LEVEL = 1
# Zstd starts anew with every block: blocks of Blosc's own choice, 32 kB, are larger and take 1.6 times as long to read.
BLOCK_BYTES = 2**19
_BLOSC = Blosc()
_NATIVE_IS_LITTLE = sys.byteorder == "little"
_BLOSC_HEADER = struct.Struct("<4xIII")  # versions and flags, then bytes decompressed, of a block, compressed
_scratch = threading.local()


@cache
def kernels() -> ModuleType:
    """Return the compiled predictors, or those in NumPy where numba cannot be used."""
    try:
        from datagen.shards import codec_kernels
    except ImportError:
        from datagen.shards import codec_reference

        return codec_reference
    return codec_kernels


def encoded_bytes(predictor: str, shape: tuple[int, ...], itemsize: int) -> int:
    """Return how many bytes the residuals of values of a shape take before compression."""
    rows, width = int(np.prod(shape[:-1])), shape[-1]
    return (2 * -(-rows // 4) + -(-rows // 2)) * width + 1 if predictor == "image" else rows * width * itemsize


def encode(values: npt.NDArray[Any], predictor: str, error: int = 0) -> npt.NDArray[Any]:
    """Return what is left of values after prediction, little-endian.

    Parameters
    ----------
    values : (…, H, W) array
        ``image``: (3, H, W) uint8; ``surface``: uint16; ``rows``: uint8 or int8.
    predictor : str
        One of :data:`PREDICTORS`.
    error : int
        Of ``image``: how far a value may be from what it decodes to.
    """
    values = np.require(values, requirements=("C", "W"))
    if predictor == "image":
        data = np.empty(encoded_bytes(predictor, values.shape, 1), np.uint8)
        kernels().encode_image(values, error, data[:-1], np.empty_like(values))
        # Said by the bytes themselves: datasets that allow different errors can be merged without encoding again.
        data[-1] = error
        return data
    values = _planes(values)
    data = np.empty_like(values)
    encoder = kernels().encode_surface if predictor == "surface" else kernels().encode_rows
    encoder(values, data)
    return data if _NATIVE_IS_LITTLE else data.byteswap()


def decode_into(data: U8, predictor: str, values: npt.NDArray[Any]) -> None:
    """Undo :func:`encode`: fill ``values``, which is contiguous and of their shape and dtype.

    Parameters
    ----------
    data : (N,) uint8, contiguous and writable; N as :func:`encoded_bytes` says

    Raises
    ------
    ChunkError
        If no encoder wrote such bytes.
    """
    if predictor == "image":
        error = int(data[-1])
        if error > MAX_IMAGE_ERROR:
            raise ChunkError(f"an image within {error} of 255, at most {MAX_IMAGE_ERROR} expected")
        kernels().decode_image(data[:-1], error, values)
        return
    values = _planes(values)
    left = data.view(values.dtype).reshape(values.shape)
    decoder = kernels().decode_surface if predictor == "surface" else kernels().decode_rows
    decoder(left if _NATIVE_IS_LITTLE else left.byteswap(), values)


def quantise_image(image: U8, error: int) -> U8:
    """Return an image, (3, H, W), as it is stored: no value more than ``error`` away, and quick to predict.

    Encoding what this returned changes nothing.
    """
    if not error:
        return image
    values = np.empty_like(image)
    kernels().encode_image(np.require(image, requirements=("C", "W")), error, np.empty(0, np.uint8), values)
    return values


def _planes(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    maps = values.reshape(-1, *values.shape[-2:])
    return maps.view(np.uint8) if maps.itemsize == 1 else maps


@dataclass(frozen=True)
class ChunkCodec:
    """How the samples of one map array are stored, each as a chunk; the checksum after it is not its business.

    Attributes
    ----------
    dtype : str
    predictor : str
        One of :data:`PREDICTORS`, or empty: the values themselves.
    error : int
        Of the image.
    """

    dtype: str
    predictor: str
    error: int

    @classmethod
    def of(cls, spec: ArraySpec, codecs: str, image_error: int) -> ChunkCodec:
        """Return the codec of an array of a dataset with such settings."""
        predictor = spec.predictor if codecs == COMPACT else ""
        return cls(spec.dtype, predictor, image_error if predictor == "image" else 0)

    @property
    def typesize(self) -> int:
        """Bytes of a value that Blosc compresses."""
        return np.dtype(self.dtype).itemsize

    @property
    def shuffle(self) -> str:
        """How Blosc arranges bytes, in the words of Zarr."""
        return "shuffle" if self.typesize > 1 else "noshuffle"

    def encoded_bytes(self, shape: tuple[int, ...]) -> int:
        """Return the bytes of a sample of a shape before compression."""
        return encoded_bytes(self.predictor, shape, np.dtype(self.dtype).itemsize)

    def compress(self, values: npt.NDArray[Any]) -> bytes:
        """Return the chunk of one sample, without a checksum."""
        data = encode(values, self.predictor, self.error) if self.predictor else _little(values)
        shuffle = Blosc.SHUFFLE if self.shuffle == "shuffle" else Blosc.NOSHUFFLE
        compressed: bytes = Blosc("zstd", COMPRESSION_LEVEL, shuffle, BLOCK_BYTES).encode(data)
        return compressed

    def decompress_into(self, compressed: memoryview[int], out: npt.NDArray[Any]) -> None:
        """Undo :meth:`compress`: fill ``out``, which is contiguous and of the stored dtype and shape.

        Raises
        ------
        ChunkError
            If the bytes do not decompress to exactly that.
        """
        if not self.predictor:
            blosc_into(compressed, out)
            if not _NATIVE_IS_LITTLE:
                out.byteswap(inplace=True)
            return
        data = _scratch_of(self.encoded_bytes(out.shape))
        blosc_into(compressed, data)
        decode_into(data, self.predictor, out)


def _little(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.ascontiguousarray(values, values.dtype.newbyteorder("<"))


def _scratch_of(nbytes: int) -> U8:
    """Return memory of this thread that the next call uses again."""
    held: U8 | None = getattr(_scratch, "memory", None)
    if held is None or len(held) < nbytes:
        held = _scratch.memory = np.empty(nbytes, np.uint8)
    return held[:nbytes]


def blosc_into(compressed: memoryview[int], out: npt.NDArray[Any]) -> None:
    """Decompress a Blosc frame into memory of exactly its length; ChunkError if it is none."""
    if len(compressed) < _BLOSC_HEADER.size:
        raise ChunkError(f"the sample does not decompress: {len(compressed)} bytes are not a Blosc frame")
    # Blosc itself would fill a part of a larger buffer and say nothing.
    decompressed, _, length = _BLOSC_HEADER.unpack_from(compressed)
    if decompressed != out.nbytes:
        raise ChunkError(f"{decompressed} bytes decoded, {out.nbytes} expected")
    if length != len(compressed):
        raise ChunkError(f"the sample does not decompress: a frame of {length} bytes in a chunk of {len(compressed)}")
    try:
        _BLOSC.decode(compressed, out=out)
    except (RuntimeError, ValueError) as error:
        raise ChunkError(f"the sample does not decompress: {error}") from None
