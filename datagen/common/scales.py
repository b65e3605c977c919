"""The colour scales of all pictures and pages: one for each kind of quantity, with fixed ranges where it has one.

All of them are safe for colour-blind eyes and grow evenly in lightness: errors are pale where small and dark where
large, confidence is dark where low and bright where high, depth is bright where near.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

ERROR = "YlOrRd"
CONFIDENCE = "viridis"
DEPTH = "viridis_r"

# Upper ends, in millimetres; what lies beyond is shown as the end, and the legend says "≥".
DISTANCE_LIMIT_MM = 2.0
TRUE_ERROR_LIMIT_MM = 4.0
PREDICTED_ERROR_LIMIT_MM = 20.0


def scale_stops(name: str, count: int = 64) -> list[list[int]]:
    """Return evenly spread colours of a scale, ``count`` times red, green, blue, 0 to 255."""
    from matplotlib import colormaps

    levels = colormaps[name](np.linspace(0, 1, count), bytes=True)[:, :3]
    return [[int(value) for value in row] for row in levels]


def scale_levels(values: npt.NDArray[np.floating], low: float, high: float) -> npt.NDArray[np.uint8]:
    """Return values as levels 0 to 254 of a scale, 255 where they are not known."""
    known = np.isfinite(values)
    scaled = np.clip((np.where(known, values, low) - low) / max(high - low, 1e-12), 0, 1)
    return np.where(known, np.rint(254 * scaled), 255).astype(np.uint8)
