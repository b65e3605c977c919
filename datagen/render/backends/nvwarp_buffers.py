"""Device memory of the NVIDIA Warp backend: taken once, reused by every call."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import warp as wp


class Buffers:
    """Named flat arrays on one device that only ever grow.

    An array handed out is valid until the same name is asked for again.

    Parameters
    ----------
    device : str
        A Warp device, such as ``cuda:0`` or ``cpu``.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self._flat: dict[str, Any] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return an array of this shape and Warp type; its contents are whatever was there."""
        size = int(np.prod(shape))
        flat = self._flat.get(name)
        if flat is None or flat.dtype != dtype or flat.size < size:
            # The old one goes first, so that the two never share the device.
            self._flat.pop(name, None)
            flat = self._flat[name] = wp.empty(max(size, 1), dtype=dtype, device=self.device)
        return flat[:size].reshape(shape) if size else wp.empty(shape, dtype=dtype, device=self.device)

    def put(self, name: str, values: npt.NDArray[Any], dtype: Any, shape: tuple[int, ...] | None = None) -> Any:
        """Return an array with these values, copied to the device."""
        source = wp.array(np.ascontiguousarray(values), dtype=dtype, device="cpu", copy=False)
        target = self.take(name, shape or source.shape, dtype)
        wp.copy(target, source.reshape(target.shape))
        return target

    @property
    def bytes(self) -> int:
        """Bytes held on the device."""
        return sum(flat.capacity for flat in self._flat.values())
