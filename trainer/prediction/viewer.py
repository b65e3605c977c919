"""One HTML file that shows a prediction: point cloud over time, image, picked points, tracks; no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.pages import render_page
from datagen.common.scales import CONFIDENCE, ERROR, PREDICTED_ERROR_LIMIT_MM, scale_stops
from trainer.prediction.shown import Ranges, Shown, normal_colours

# Depth in metres (R, R) and canonical coordinates (3, R, R).
Truth = tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]

MOST_FRAMES = 120
_MOST_BYTES = 24 * 2**20
_BYTES_A_POINT = 6 + 6 + 3 + 3 + 1
_TRUTH_BYTES = 6 + 2
_MOST_POINTS = 150_000  # a frame; without WebGL the page draws fewer
_UNKNOWN = 65535  # of a true coordinate; no other is at the end of the range
_PHOTO_PX = 512
_TENTHS = 10_000  # of a millimetre, in a metre
_STEPS = 65535
# Canonical axes are y up, z out of the face; the screen's are y down, z away.
_FROM_THE_FRONT = np.diag([1.0, -1.0, -1.0])


@dataclass
class Viewer:
    """Collect frames, evenly spread and thinned to a fixed size, then write the page.

    It opens as the first frame's camera saw the cloud.

    Parameters
    ----------
    rate : float
        Frames per second of the clip.
    centre, half_extent_m : (3,) float64, float
        Of the canonical space, metres.
    track_colours : (N, 3) uint8
    track_canonical : (N, 3) float32
        Metres.
    truth : callable, optional
        Gives the true depth (R, R) in metres, 0 where there is no surface, and canonical coordinates (3, R, R), NaN
        where they are not known, of a frame by its number.
    """

    path: Path
    title: str
    frame_count: int
    rate: float
    centre: npt.NDArray[np.float64]
    half_extent_m: float
    track_colours: npt.NDArray[np.uint8]
    track_canonical: npt.NDArray[np.float32]
    ranges: Ranges
    truth: Callable[[int], Truth] | None = None
    _parts: list[bytes] = field(default_factory=list)
    _heads: list[dict[str, Any]] = field(default_factory=list)
    _tracks: list[npt.NDArray[np.float32]] = field(default_factory=list)
    _size: int = 0
    _middle: list[npt.NDArray[np.float64]] = field(default_factory=list)
    _reach: float = 1e-6
    _attitude: npt.NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        spread = np.linspace(0, self.frame_count - 1, min(self.frame_count, MOST_FRAMES))
        self._kept = set(spread.round().astype(int).tolist())
        each = _BYTES_A_POINT + (_TRUTH_BYTES if self.truth else 0)
        self._points = min(_MOST_BYTES // (each * len(self._kept)), _MOST_POINTS)
        self._side = 0

    def add(self, shown: Shown) -> None:
        """Add a frame, if it is one of those that are kept."""
        if shown.number not in self._kept:
            return
        frame, valid = shown.frame, shown.frame.valid
        pixels = np.flatnonzero(valid)
        rng = np.random.default_rng(shown.number)
        if pixels.size > self._points:
            pixels = np.sort(rng.choice(pixels, self._points, replace=False))
        rows, columns = np.unravel_index(pixels, valid.shape)
        posed = shown.points[:, rows, columns].T.astype(np.float64)
        canonical = frame.canonical[:, rows, columns].T * self.half_extent_m + self.centre
        low, step = _bounds(posed)
        all_low, all_step = self._canonical_bounds()
        confidence = np.log(frame.canonical_confidence[rows, columns])
        from_c, to_c = self.ranges.confidence
        level = np.clip((confidence - from_c) / max(to_c - from_c, 1e-9), 0, 1) * 255
        parts: list[npt.NDArray[Any]] = [
            _quantised(posed, low, step),
            _quantised(canonical, all_low, all_step),
            np.ascontiguousarray(frame.image[:, rows, columns].T),
            normal_colours(frame.normal)[rows, columns],
            level.astype(np.uint8),
        ]
        offset = self._append(b"".join(part.tobytes() for part in parts))
        about = {
            "name": shown.name,
            "points": len(pixels),
            "offset": offset,
            "low": low.tolist(),
            "step": step.tolist(),
        }
        if self.truth is not None:
            about["truth_offset"] = self._add_truth(*self.truth(shown.number), rows, columns)
        self._side = valid.shape[0]
        projection = frame.intrinsics.astype(np.float64) @ shown.camera.world_to_camera.astype(np.float64)[:3]
        self._heads.append(about | {"camera": projection.ravel().tolist(), "image": _photo(frame.image)})
        if self._attitude is None:
            self._attitude = shown.camera_to_world[:3, :3].T
        if len(pixels):
            middle = np.median(posed, axis=0)
            self._middle.append(middle)
            self._reach = max(self._reach, float(np.percentile(np.linalg.norm(posed - middle, axis=1), 98)))
        row = np.full((len(self.track_colours), 3), np.nan, np.float32)
        if shown.tracks is not None:
            row[shown.tracks.visible] = shown.track_points[shown.tracks.visible]
        self._tracks.append(row)

    def _add_truth(
        self,
        depth_m: npt.NDArray[np.floating],
        canonical: npt.NDArray[np.floating],
        rows: npt.NDArray[np.int64],
        columns: npt.NDArray[np.int64],
    ) -> int:
        """Add the truth of some pixels, and return where."""
        true = canonical[:, rows, columns].T.astype(np.float64)
        known: npt.NDArray[np.bool_] = np.asarray(np.isfinite(true).all(axis=1))
        low, step = self._canonical_bounds()
        metres = np.where(known[:, None], true, 0) * self.half_extent_m + self.centre
        placed = np.where(known[:, None], np.minimum(_quantised(metres, low, step), _UNKNOWN - 1), _UNKNOWN)
        tenths = np.clip(np.rint(depth_m[rows, columns] * _TENTHS), 0, _STEPS)
        return self._append(placed.astype("<u2").tobytes() + tenths.astype("<u2").tobytes())

    def close(self) -> None:
        """Write the page."""
        from matplotlib import colormaps

        posed = self._append(np.stack(self._tracks).astype("<f4").tobytes())
        canonical = self._append(self.track_canonical.astype("<f4").tobytes())
        low, step = self._canonical_bounds()
        centre = np.median(self._middle, axis=0) if self._middle else np.zeros(3)
        attitude = np.eye(3) if self._attitude is None else self._attitude
        head = {
            "frames": self._heads,
            "rate": min(self.rate * len(self._kept) / self.frame_count, 60.0),
            "centre": self.centre.tolist(),
            "half_extent": self.half_extent_m,
            "canonical_low": low.tolist(),
            "canonical_step": step.tolist(),
            "side": self._side,
            "truth": self.truth is not None,
            "error": {"colours": scale_stops(ERROR), "limit_mm": PREDICTED_ERROR_LIMIT_MM},
            "confidence": {
                "colours": colormaps[CONFIDENCE](np.arange(256), bytes=True)[:, :3].ravel().tolist(),
                "low": self.ranges.confidence[0],
                "high": self.ranges.confidence[1],
            },
            "view": {
                "posed": _view(centre, self._reach, attitude),
                "canonical": _view(self.centre, self.half_extent_m, _FROM_THE_FRONT),
            },
            "tracks": {
                "count": len(self.track_colours),
                "offset": posed,
                "canonical_offset": canonical,
                "colours": self.track_colours.tolist(),
            },
        }
        body = base64.b64encode(b"".join(self._parts)).decode()
        self.path.write_bytes(
            render_page("trainer.prediction", ".", "viewer.html", title=self.title, head=head, body=body)
        )

    def abandon(self) -> None:
        """Nothing is open."""

    def _append(self, part: bytes) -> int:
        """Add bytes at a multiple of four, as typed arrays need them, and return where."""
        offset = self._size
        padded = part + b"\0" * (-len(part) % 4)
        self._parts.append(padded)
        self._size += len(padded)
        return offset

    def _canonical_bounds(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        reach = 1.5 * self.half_extent_m  # a prediction may leave the cube a little
        return self.centre - reach, np.full(3, 2 * reach / _STEPS)


def _photo(image: npt.NDArray[np.uint8]) -> str:
    """Return an image (3, R, R) as the address of a JPEG that holds it."""
    from PIL import Image

    buffer = io.BytesIO()
    photo = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    photo.thumbnail((_PHOTO_PX, _PHOTO_PX))
    photo.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _view(centre: npt.NDArray[np.float64], radius: float, attitude: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Return where a cloud is seen from at first: (3, 3) ``attitude`` turns its axes into the screen's."""
    return {"centre": centre.tolist(), "radius": radius, "attitude": attitude.ravel().tolist()}


def _bounds(points: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    if not len(points):
        return np.zeros(3), np.ones(3)
    low, high = points.min(0), points.max(0)
    return low, np.maximum(high - low, 1e-9) / _STEPS


def _quantised(
    points: npt.NDArray[np.float64], low: npt.NDArray[np.float64], step: npt.NDArray[np.float64]
) -> npt.NDArray[np.uint16]:
    return np.rint(np.clip((points - low) / step, 0, _STEPS)).astype("<u2")
