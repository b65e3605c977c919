"""The codec of compact datasets for zarr-python, which finds it by an entry point once this package is installed.

Importing this module registers it as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.common import parse_named_configuration
from zarr.registry import register_codec

from datagen.shards.chunks import ChunkError
from datagen.shards.codec import CODEC_NAME, PREDICTORS, decode_into, encode, encoded_bytes
from datagen.shards.schema import MAX_IMAGE_ERROR

_DTYPES = {"image": ("uint8",), "surface": ("uint16",), "rows": ("uint8", "int8")}


@dataclass(frozen=True)
class ResidualCodec(ArrayBytesCodec):
    """What is left of maps after prediction, as docs/dataset-format.md says; always little-endian.

    Attributes
    ----------
    predictor : ``image``, ``surface`` or ``rows``
    error : int
        Of ``image``: how far a value that is written may be from the one that is read.
    """

    predictor: Literal["image", "surface", "rows"]
    error: int = 0
    is_fixed_size = True

    def __post_init__(self) -> None:
        if self.predictor not in PREDICTORS:
            raise ValueError(f"predictor {self.predictor!r}; expected one of {', '.join(PREDICTORS)}")
        if not 0 <= self.error <= (MAX_IMAGE_ERROR if self.predictor == "image" else 0):
            raise ValueError(f"error {self.error!r} of predictor {self.predictor}; expected 0 to {MAX_IMAGE_ERROR}")

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ResidualCodec:
        """Read what :meth:`to_dict` gave."""
        _, configuration = parse_named_configuration(data, CODEC_NAME)
        return cls(**configuration)

    def to_dict(self) -> dict[str, Any]:
        """Return the codec as it stands in metadata."""
        return {"name": CODEC_NAME, "configuration": {"predictor": self.predictor, "error": self.error}}

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:  # noqa: ARG002
        """Raise ValueError for an array that such residuals cannot be of."""
        name = np.dtype(dtype.to_native_dtype()).name
        if name not in _DTYPES[self.predictor]:
            raise ValueError(f"predictor {self.predictor} for {name}; expected {' or '.join(_DTYPES[self.predictor])}")
        least = 3 if self.predictor == "image" else 2
        if len(shape) < least or (self.predictor == "image" and shape[-3] != 3):
            raise ValueError(f"predictor {self.predictor} for the shape {shape}")

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:  # noqa: ARG002
        """Return the bytes of a chunk's residuals."""
        samples, shape = self._samples(chunk_spec)
        return samples * encoded_bytes(self.predictor, shape, chunk_spec.dtype.to_native_dtype().itemsize)

    def _decode_sync(self, chunk_data: Any, chunk_spec: Any) -> Any:
        samples, shape = self._samples(chunk_spec)
        data = np.array(chunk_data.as_numpy_array()).view(np.uint8)
        dtype = chunk_spec.dtype.to_native_dtype().newbyteorder("=")
        if data.size != self.compute_encoded_size(0, chunk_spec):
            raise ChunkError(f"{data.size} bytes decoded, {self.compute_encoded_size(0, chunk_spec)} expected")
        values = np.empty((samples, *shape), dtype)
        for part, out in zip(data.reshape(samples, -1), values, strict=True):
            decode_into(part, self.predictor, out)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(values.reshape(chunk_spec.shape))

    def _encode_sync(self, chunk_data: Any, chunk_spec: Any) -> Any:
        samples, shape = self._samples(chunk_spec)
        values = np.ascontiguousarray(chunk_data.as_numpy_array())
        values = values.astype(values.dtype.newbyteorder("="), copy=False).reshape(samples, *shape)
        parts = [encode(value, self.predictor, self.error).view(np.uint8).ravel() for value in values]
        return chunk_spec.prototype.buffer.from_array_like(np.concatenate(parts))

    async def _decode_single(self, chunk_data: Any, chunk_spec: Any) -> Any:
        return self._decode_sync(chunk_data, chunk_spec)

    async def _encode_single(self, chunk_data: Any, chunk_spec: Any) -> Any:
        return self._encode_sync(chunk_data, chunk_spec)

    def _samples(self, chunk_spec: Any) -> tuple[int, tuple[int, ...]]:
        """Return how many samples a chunk holds, each predicted by itself, and the shape of one."""
        axes = 3 if self.predictor == "image" else 2
        shape = tuple(chunk_spec.shape)
        return int(np.prod(shape[:-axes])), shape[-axes:]


register_codec(CODEC_NAME, ResidualCodec)
