"""Stored arrays to tensors on the device, decoded there: what travels are the stored integers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from datagen.common.errors import InputError
from datagen.shards import ARRAYS
from datagen.shards.schema import CANONICAL_LEVELS, CONFIDENCE_LEVELS, NORMAL_LEVELS

Arrays = Mapping[str, npt.NDArray[Any]]
Tensors = dict[str, torch.Tensor]

_UNSIGNED = {1: 0xFF, 2: 0xFFFF}


class Uploader:
    """Copies batches to a device without waiting, from memory whose pages are locked.

    Parameters
    ----------
    device : torch.device
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._under_way: deque[tuple[torch.cuda.Event, Arrays]] = deque()

    def pin(self, memory: npt.NDArray[np.uint8]) -> Callable[[], object] | None:
        """Lock the pages of a block that batches are read into, so that copies from it need no second copy.

        Returns
        -------
        callable or None
            What unlocks them; None where there is no GPU.

        Raises
        ------
        InputError
            If the system refuses.
        """
        if self.device.type != "cuda":
            return None
        runtime, address = torch.cuda.cudart(), memory.ctypes.data  # type: ignore[no-untyped-call]
        failure = runtime.cudaHostRegister(address, memory.nbytes, 0)
        if int(failure):
            raise InputError(
                f"{memory.nbytes} bytes of memory cannot be locked for copies to the GPU ({failure})",
                "a limit of locked memory (ulimit -l) above the size of the batches in flight",
                "Raise the limit, or lower data.workers",
            )
        return partial(runtime.cudaHostUnregister, address)

    def tensors(self, arrays: Arrays) -> Tensors:
        """Begin to copy arrays; what they lie in is kept until the copies are made."""
        copies = {name: torch.from_numpy(value).to(self.device, non_blocking=True) for name, value in arrays.items()}
        if self.device.type == "cuda":
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
            self._under_way.append((event, arrays))
            while len(self._under_way) > 1 and self._under_way[0][0].query():  # type: ignore[no-untyped-call]
                self._under_way.popleft()
        return copies


def decode(name: str, stored: torch.Tensor, depth_scale: float, *, differenced: bool) -> torch.Tensor:
    """Turn stored values of an array into metres and unit ranges, float32, on their own device.

    Parameters
    ----------
    name : str
        A key of ``datagen.shards.ARRAYS``.
    stored : tensor (..., H, W)
    depth_scale : float
        Metres per stored depth step.
    differenced : bool
        Whether rows are still differences, where the format stores them so.

    Returns
    -------
    tensor
        Images in [0, 1]; arrays of labels and indices unchanged.
    """
    spec = ARRAYS[name]
    if differenced and spec.differenced:
        signed = stored.view(torch.int16) if stored.dtype == torch.uint16 else stored
        sums = signed.to(torch.int32).cumsum(-2, dtype=torch.int32) & _UNSIGNED[stored.dtype.itemsize]
        stored = sums.to(torch.int8) if stored.dtype == torch.int8 else sums
    if name == "image":
        return stored.to(torch.float32) / 255
    if name == "depth":
        return stored.to(torch.float32) * np.float32(depth_scale).item()
    if name == "canonical":
        return stored.to(torch.float32) * np.float32(2 / CANONICAL_LEVELS).item() - 1
    if name == "normal":
        return stored.to(torch.float32) / NORMAL_LEVELS
    if name == "confidence":
        return stored.to(torch.float32) / CONFIDENCE_LEVELS
    return stored
