"""Mean and quantiles of any number of errors, in constant memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_BIN = 0.02
_BINS = 25_000  # up to 500; what lies beyond is counted and enters the mean


class ErrorHistogram:
    """Errors in millimetres or degrees.

    The mean is exact. Quantiles are exact to 0.02 up to 500; beyond, the largest error stands for all.
    """

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS + 1, np.int64)
        self._sum = 0.0
        self._squares = 0.0
        self._largest = 0.0

    def add(self, errors: npt.NDArray[np.floating]) -> None:
        """Count errors of any shape, 0 or more; an infinite or undefined one counts as beyond."""
        flat = np.asarray(errors, np.float64).ravel()
        if not flat.size:
            return
        bins = np.where(np.isfinite(flat), np.minimum(flat / _BIN, _BINS), _BINS).astype(np.int64)
        self._counts += np.bincount(bins, minlength=_BINS + 1)
        self._sum += float(flat.sum())
        self._squares += float((flat**2).sum())
        self._largest = max(self._largest, float(flat.max()))

    @property
    def count(self) -> int:
        """Number of errors counted."""
        return int(self._counts.sum())

    def mean(self) -> float:
        """Mean error; NaN if none was counted."""
        return self._sum / self.count if self.count else float("nan")

    def rms(self) -> float:
        """Root of the mean square; NaN if none was counted."""
        return float(np.sqrt(self._squares / self.count)) if self.count else float("nan")

    def quantile(self, q: float) -> float:
        """Error that the share ``q`` of errors does not exceed; NaN if none was counted."""
        if not self.count:
            return float("nan")
        cumulative = np.cumsum(self._counts)
        place = int(np.searchsorted(cumulative, max(q * self.count, 1)))
        return self._largest if place >= _BINS else (place + 0.5) * _BIN
