"""What is written of each predicted frame: maps, point clouds, tracks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from trainer.pictures import write_image
from trainer.prediction.shown import NAMES, Ranges, Shown, depth_16bit, panel
from trainer.prediction.store import ArraySpool
from trainer.prediction.tracks import Tracker


class Writer(Protocol):
    """Takes the frames in order."""

    def add(self, shown: Shown) -> None:
        """Take the next frame."""

    def close(self) -> None:
        """Write what is left."""

    def abandon(self) -> None:
        """Close what is open after an error."""


class MapPictures:
    """``maps/<name>/<stem>.png`` of each map, cropped to the image; ``depth16`` holds tenths of a millimetre."""

    def __init__(self, folder: Path, ranges: Ranges) -> None:
        self._folder = folder
        self._ranges = ranges
        for name in (*NAMES, "depth16"):
            (folder / name).mkdir(parents=True)

    def add(self, shown: Shown) -> None:
        """Write the maps of a frame."""
        for name in NAMES:
            pixels = panel(shown.frame, name, self._ranges)[shown.box]
            write_image(self._folder / name / f"{shown.stem}.png", np.ascontiguousarray(pixels))
        deep = np.ascontiguousarray(depth_16bit(shown.frame)[shown.box])
        write_image(self._folder / "depth16" / f"{shown.stem}.png", deep)

    def close(self) -> None:
        """Nothing is left."""

    def abandon(self) -> None:
        """Nothing is open."""


class PointClouds:
    """``ply/geometry``, ``ply/canonical`` and ``ply/tracks``, one file a frame each."""

    def __init__(
        self, folder: Path, half_extent_m: float, centre: npt.NDArray[np.float64], tracker: Tracker | None
    ) -> None:
        self._folder = folder
        self._half_extent_m = half_extent_m
        self._centre = centre
        self._tracker = tracker
        for name in ("geometry", "canonical", *(("tracks",) if tracker else ())):
            (folder / name).mkdir(parents=True)

    def add(self, shown: Shown) -> None:
        """Write the clouds of a frame."""
        frame, valid = shown.frame, shown.frame.valid
        colours = frame.image[:, valid].T
        confidence = frame.canonical_confidence[valid]
        points, canonical = shown.points[:, valid].T, frame.canonical[:, valid].T
        rotation = shown.camera_to_world[:3, :3]
        normals = frame.normal[:, valid].T @ rotation.T
        file = f"{shown.stem}.ply"
        write_points(self._folder / "geometry" / file, points, colours, normals, frame.depth_confidence[valid])
        metres = canonical * self._half_extent_m + self._centre
        write_points(self._folder / "canonical" / file, metres, colours, confidence=confidence)
        if self._tracker is not None and shown.tracks is not None:
            seen = shown.tracks.visible
            where = shown.track_points[seen]
            of_seeds = self._tracker.seed_colour[seen]
            write_points(self._folder / "tracks" / file, where, of_seeds, confidence=shown.tracks.confidence[seen])

    def close(self) -> None:
        """Nothing is left."""

    def abandon(self) -> None:
        """Nothing is open."""


class TrackArrays:
    """``tracks.npz``: everything of :class:`~trainer.prediction.tracks.TrackRow` over T frames, and the seeds."""

    def __init__(self, path: Path, spool: Path, tracker: Tracker, seed_frame: int, half_extent_m: float) -> None:
        self._path = path
        self._spool = ArraySpool(spool)
        self._spool_folder = spool
        self._tracker = tracker
        self._seed_frame = seed_frame
        self._half_extent_m = half_extent_m

    def add(self, shown: Shown) -> None:
        """Append a frame."""
        row = shown.tracks
        if row is None:
            return
        box, region = np.array(shown.camera.content), np.array(shown.camera.region)
        scale = (region[2:] - region[:2]) / (box[2:] - box[:2])
        in_image = ((row.xy - box[:2]) * scale + region[:2]).astype(np.float32)
        self._spool.add(row.arrays() | {"xy_image": in_image, "xyz_world": shown.track_points})

    def abandon(self) -> None:
        """Close the files."""
        self._spool.close()

    def close(self) -> None:
        """Write the file."""
        tracker = self._tracker
        self._spool.write(
            self._path,
            {
                "seed_frame": np.array(self._seed_frame),
                "seed_xy": tracker.seed_xy,
                "seed_canonical": tracker.seed_canonical,
                "seed_colour": tracker.seed_colour,
                "half_extent_m": np.array(self._half_extent_m),
            },
        )
        self._spool_folder.rmdir()


def write_marker(path: Path, content: dict[str, object]) -> None:
    """Write what was done as JSON."""
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def write_points(
    path: Path,
    points: npt.NDArray[np.floating],
    colours: npt.NDArray[np.uint8],
    normals: npt.NDArray[np.floating] | None = None,
    confidence: npt.NDArray[np.floating] | None = None,
) -> None:
    """Write points (N, 3) in metres with colours (N, 3), and normals (N, 3) and a confidence (N,) if given."""
    columns: list[tuple[str, str, npt.NDArray[np.generic]]] = [
        (axis, "<f4", points[:, k]) for k, axis in enumerate("xyz")
    ]
    if normals is not None:
        columns += [(f"n{axis}", "<f4", normals[:, k]) for k, axis in enumerate("xyz")]
    columns += [(name, "u1", colours[:, k]) for k, name in enumerate(("red", "green", "blue"))]
    if confidence is not None:
        columns.append(("confidence", "<f4", confidence))
    table = np.zeros(len(points), [(name, kind) for name, kind, _ in columns])
    for name, _, values in columns:
        table[name] = values
    kinds = {"<f4": "float", "u1": "uchar"}
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}"]
    header += [f"property {kinds[kind]} {name}" for name, kind, _ in columns]
    path.write_bytes("\n".join([*header, "end_header", ""]).encode("ascii") + table.tobytes())
