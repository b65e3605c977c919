"""Cutting a split into clips for evaluation. The order of training batches is made by ``datagen.shards``."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


def evaluation_clips(runs: npt.NDArray[np.integer], length: int) -> list[Indices]:
    """Cut a split into clips that hold every sample once.

    Parameters
    ----------
    runs : (N, K) integers
        What a clip must share (subject, sequence, camera), for each sample in stored order.
    length : int
        The longest clip; a run's last one may be shorter.

    Returns
    -------
    list of (S,) int64
    """
    if len(runs) == 0:
        return []
    breaks = np.flatnonzero(np.any(np.diff(np.asarray(runs), axis=0) != 0, axis=1)) + 1
    return [
        run[start : start + length].astype(np.int64)
        for run in np.split(np.arange(len(runs)), breaks)
        for start in range(0, len(run), length)
    ]
