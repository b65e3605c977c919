"""Errors over time: tracks through a run of frames, their jitter, and the screen-space motion error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import F64

MAX_WINDOW = 30
LOST_SHARE = 0.05
_FEWEST = 4  # visible points a frame needs to speak for a region


def track_errors(errors_px: npt.NDArray[Any], lost_px: float) -> tuple[float, float]:
    """Return the average error over visible points and frames, and the survival of tracks.

    A track survives until its error first exceeds ``lost_px``; its survival is the share of its visible frames before
    that (PointOdyssey, Zheng et al., ICCV 2023), averaged over tracks. An error without an answer is a loss.

    Parameters
    ----------
    errors_px : (T, N)
        Of frames after the first; NaN where the point is hidden, infinite where there is no answer.
    """
    errors = np.asarray(errors_px, np.float64)
    visible = ~np.isnan(errors)
    seen = visible.sum(0)
    if not seen.any():
        return float("nan"), float("nan")
    lost = np.logical_or.accumulate(visible & (errors > lost_px), axis=0)
    kept = (visible & ~lost).sum(0)
    return float(errors[visible].mean()), float((kept[seen > 0] / seen[seen > 0]).mean())


def jitter(found_px: npt.NDArray[Any], true_px: npt.NDArray[Any], visible: npt.NDArray[np.bool_]) -> F64:
    """Return how far second differences over time differ from the true ones, in pixels a frame².

    Parameters
    ----------
    found_px, true_px : (T, N, 2)
        Places in consecutive frames.
    visible : (T, N) bool

    Returns
    -------
    (M,)
        Of every point and three consecutive frames that show it.
    """
    difference = np.asarray(found_px, np.float64) - true_px
    acceleration = difference[2:] - 2 * difference[1:-1] + difference[:-2]
    usable = visible[2:] & visible[1:-1] & visible[:-2] & np.isfinite(acceleration).all(-1)
    return np.linalg.norm(acceleration[usable], axis=-1)


class TrackingErrors:
    """Tracks of one method over many runs of frames.

    Parameters
    ----------
    side_px : int
        A track is lost at an error of ``LOST_SHARE`` of it.
    """

    def __init__(self, side_px: int) -> None:
        self._lost_px = LOST_SHARE * side_px
        self._px: list[float] = []
        self._survival: list[float] = []
        self._mm: list[float] = []
        self._jitter: list[F64] = []

    def add(
        self,
        found_px: F64,
        true_px: F64,
        visible: npt.NDArray[np.bool_],
        errors_mm: npt.NDArray[Any],
    ) -> None:
        """Add the tracks of one run.

        Parameters
        ----------
        found_px, true_px : (T, N, 2)
            In the first frame both are the query itself.
        visible : (T, N) bool
        errors_mm : (T − 1, N)
            3-D errors after the first frame, NaN where hidden.
        """
        errors = np.linalg.norm(found_px - true_px, axis=-1)[1:]
        errors = np.where(np.isfinite(errors), errors, np.inf)
        mean, survival = track_errors(np.where(visible[1:], errors, np.nan), self._lost_px)
        if np.isnan(mean):
            return
        self._px.append(mean)
        self._survival.append(survival)
        self._mm.append(float(np.nanmean(errors_mm)))
        self._jitter.append(jitter(found_px, true_px, visible))

    def metrics(self) -> dict[str, float]:
        """Return the metrics, each run counting once; NaN where nothing was measured."""
        shakes = np.concatenate(self._jitter) if self._jitter else np.zeros(0)
        return {
            "tracking_mean_px": _mean(self._px),
            "tracking_mean_mm": _mean(self._mm),
            "tracking_survival": _mean(self._survival),
            "tracking_jitter_px": float(shakes.mean()) if shakes.size else float("nan"),
        }


class MotionErrors:
    """Screen-space motion error of one method, per region and window (FlowFace, Taubner et al. 2024, eq. 15–17).

    EPE(t, h) is the mean length of (found − true) motion from frame t to t + h over the pixels of a region; SSME(h)
    its mean over t; SSME the mean of SSME(h) over h = 1 … ``MAX_WINDOW``. (Printed, eq. 17 is a sum. The text says
    average, and only an average gives the magnitudes of the paper's tables.)
    """

    def __init__(self, regions: Sequence[str]) -> None:
        self._sums: dict[str, F64] = {name: np.zeros((2, MAX_WINDOW + 1)) for name in regions}

    def add(self, window: int, errors_px: npt.NDArray[Any], inside: Mapping[str, npt.NDArray[np.bool_]]) -> None:
        """Add one pair of frames ``window`` apart: errors (N,), NaN where hidden; which queries lie in each region."""
        if not 1 <= window <= MAX_WINDOW:
            return
        for name, mask in inside.items():
            errors = errors_px[mask]
            errors = errors[~np.isnan(errors)]
            if name in self._sums and len(errors) >= _FEWEST:
                self._sums[name][:, window] += errors.mean(), 1

    def curve(self, region: str) -> F64:
        """Return SSME(h) of h = 1 … ``MAX_WINDOW``, NaN where no two frames are that far apart."""
        total, count = self._sums[region][:, 1:]
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    def metrics(self) -> dict[str, float]:
        """Return SSME per region over the windows there are, and how many there are; NaN where there are none."""
        curves = {name: self.curve(name) for name in self._sums}
        metrics = {f"ssme_{name}_px": _mean(c[~np.isnan(c)].tolist()) for name, c in curves.items()}
        if "face" in curves:
            metrics["ssme_face_h1_px"] = float(curves["face"][0])
            metrics["ssme_windows"] = int((~np.isnan(curves["face"])).sum())
        return metrics


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
