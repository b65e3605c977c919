"""The second pass over the predicted frames, which writes what people look at."""

from __future__ import annotations

from collections.abc import Callable, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.progress import Progress
from datagen.common.scales import CONFIDENCE, DEPTH
from trainer.pictures import Panel, masked, write_grid
from trainer.prediction.cameras import FrameCamera
from trainer.prediction.films import Films
from trainer.prediction.shown import Ranges, Shown, normal_colours, panel
from trainer.prediction.store import FrameStore
from trainer.prediction.tracks import TrackConfig, Tracker, vivid_colours
from trainer.prediction.viewer import Truth, Viewer
from trainer.prediction.writers import MapPictures, PointClouds, TrackArrays, Writer

_STRIP_ROWS = 12
_MM_PER_M = 1000.0


@dataclass(frozen=True)
class ShowConfig:
    """How the predicted frames are shown.

    Attributes
    ----------
    half_extent_m, centre : float, (3,) float64
        Of the canonical space, metres.
    confidence_lambda : float
        See :class:`~trainer.prediction.tracks.Tracker`.
    rate : float
        Frames per second.
    without : set of str
        Of maps, ply, tracks, videos, viewer: what is left out.
    truth : callable, optional
        See :class:`~trainer.prediction.viewer.Viewer`; None where nobody knows it.
    """

    half_extent_m: float
    centre: npt.NDArray[np.float64]
    confidence_lambda: float
    tracks: TrackConfig
    rate: float
    title: str
    without: Set[str]
    truth: Callable[[int], Truth] | None = None


def write_shown(folder: Path, store: FrameStore, cameras: list[FrameCamera], config: ShowConfig) -> dict[str, Any]:
    """Write maps, point clouds, tracks, videos, the viewer and ``strip.png``.

    Returns
    -------
    dict
        Metrics of the tracks: ``tracks`` (seeds), ``tracks_seed_frame``, ``tracks_visible_share`` (over frames and
        seeds).
    """
    seed_frame, tracker = None, None
    if "tracks" not in config.without:
        seed_frame = next((k for k, frame in enumerate(store) if frame.valid.any()), None)
        if seed_frame is not None:
            tracker = Tracker(store[seed_frame], config.half_extent_m, config.confidence_lambda, config.tracks)
    writers = _writers(folder, store, cameras, config, tracker, seed_frame)
    rows: list[list[Panel]] = []
    visible = 0
    try:
        # Compression and encoding leave Python's lock, so the writers of one frame run side by side.
        with Progress("write", len(store), "frames") as progress, ThreadPoolExecutor(max(len(writers), 1)) as pool:
            for k, (frame, camera) in enumerate(zip(store, cameras, strict=True)):
                found = None if tracker is None else tracker.find(frame)
                visible += 0 if found is None else int(found.visible.sum())
                shown = Shown(k, camera.stem(k), frame, camera, found)
                for _ in pool.map(lambda writer, shown=shown: writer.add(shown), writers):
                    pass
                if k < _STRIP_ROWS:
                    rows.append(_strip_row(shown))
                progress.update(k + 1)
        for writer in writers:
            writer.close()
    except BaseException:
        for writer in writers:
            writer.abandon()
        raise
    write_grid(folder / "strip.png", rows)
    seeds = 0 if tracker is None else len(tracker.seed_xy)
    return {
        "tracks": seeds,
        "tracks_seed_frame": seed_frame,
        "tracks_visible_share": visible / (seeds * len(store)) if seeds else None,
    }


def _writers(
    folder: Path,
    store: FrameStore,
    cameras: list[FrameCamera],
    config: ShowConfig,
    tracker: Tracker | None,
    seed_frame: int | None,
) -> list[Writer]:
    """Return what writes the parts that are wanted."""
    ranges = Ranges.measure(store)
    half_extent_m, centre = config.half_extent_m, config.centre
    colours = vivid_colours(0 if tracker is None else len(tracker.seed_xy))
    writers: list[Writer] = []
    if "maps" not in config.without:
        writers.append(MapPictures(folder / "maps", ranges))
    if "ply" not in config.without:
        writers.append(PointClouds(folder / "ply", half_extent_m, centre, tracker))
    if tracker is not None and seed_frame is not None:
        writers.append(TrackArrays(folder / "tracks.npz", folder / ".tracks", tracker, seed_frame, half_extent_m))
    if "videos" not in config.without:
        of_tracks = None if tracker is None else colours
        box = _common_box(cameras)
        writers.append(Films(folder / "videos", config.rate, ranges, box, len(store) == 1, of_tracks))
    if "viewer" not in config.without:
        canonical = np.zeros((0, 3), np.float32)
        if tracker is not None:
            canonical = (tracker.seed_canonical * half_extent_m + centre).astype(np.float32)
        page = folder / "viewer.html"
        about = (page, config.title, len(store), config.rate, centre, half_extent_m)
        writers.append(Viewer(*about, colours, canonical, ranges, config.truth))
    return writers


def _common_box(cameras: list[FrameCamera]) -> tuple[slice, slice]:
    """Return the smallest box that holds every frame's image."""
    boxes = np.array([camera.content for camera in cameras])
    left, top = boxes[:, :2].min(0).tolist()
    right, bottom = boxes[:, 2:].max(0).tolist()
    return slice(top, bottom), slice(left, right)


def _strip_row(shown: Shown) -> list[Panel]:
    frame, box = shown.frame, shown.box
    valid = frame.valid[box]
    confidence = np.log(frame.canonical_confidence[box])
    unused = Ranges((0.0, 1.0), (0.0, 1.0))
    return [
        Panel(panel(frame, "image", unused)[box], "image"),
        Panel(masked(frame.depth[box] * _MM_PER_M, valid), "depth", "mm", None, DEPTH),
        Panel(normal_colours(frame.normal[(slice(None), *box)]), "normal"),
        Panel(panel(frame, "canonical", unused)[box], "canonical"),
        Panel(masked(confidence, valid), "confidence", "log c", None, CONFIDENCE),
    ]
