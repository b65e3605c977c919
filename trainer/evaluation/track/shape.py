"""Shape after alignment, and places on the screen: chamfer, normals, 2-D NME."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from datagen.common.arrays import F64
from datagen.shards.meshes import MaterialPoints
from trainer.evaluation.canonical import in_region
from trainer.evaluation.depth import MM_PER_M
from trainer.evaluation.normals import angles_rad
from trainer.evaluation.shape import apply, closest_point_fit, rigid_fit, spans_a_plane
from trainer.evaluation.track.motion import TruePixels
from trainer.evaluation.track.prediction import Track
from trainer.evaluation.track.shot import Shot
from trainer.evaluation.track.surface import NONE, MeshSurface, see, vertex_normals

PERCENT = 100.0


class MeshShape:
    """Distances of true vertices to predicted meshes, over chosen frames of many shots.

    Parameters
    ----------
    regions : iterable of str
    frames : int
        Of a shot, at most; evenly spread.
    """

    def __init__(self, regions: Iterable[str], frames: int = 4) -> None:
        self._distance: dict[str, list[F64]] = {name: [] for name in regions}
        self._angle: list[F64] = []
        self._frames = frames
        self.measured, self.skipped, self.from_screen = 0, 0, 0

    def add(self, shot: Shot, track: Track, truth: Sequence[TruePixels]) -> None:
        """Add a shot with the frames of a track in its order; nothing if it has no vertices in space.

        Normals are compared at the face's true pixels ``truth``: vertices crowd at lids and lips, where the nearest
        place may be on the other one.
        """
        points = track.in_camera()
        if points is None:
            return
        topology = shot.topology
        labels = {
            name: np.flatnonzero(in_region(topology.label, of) & topology.is_outer)
            for name, of in topology.regions.items()
        }
        labels["face"] = np.flatnonzero(topology.is_face)
        every = np.unique(np.concatenate(list(labels.values())))
        count = min(self._frames, len(shot.frames))
        for t in np.unique(np.linspace(0, len(shot.frames) - 1, count).round().astype(int)).tolist():
            true = shot.in_camera[t]
            pairs = self._key_points(shot, track, t, points[t])
            if not spans_a_plane(pairs[0]):
                self.skipped += 1
                continue
            surface = MeshSurface(points[t], track.faces)
            matrix = closest_point_fit(true[topology.is_face], surface, rigid_fit(*pairs))
            places = surface.closest(apply(matrix, true[every]))
            row = np.full(len(true), -1)
            row[every] = np.arange(len(every))
            for name, of in labels.items():
                self._distance[name].append(places.distance_m[row[of]] * MM_PER_M)
            self._angle.append(_normal_angles(shot, t, truth[t], surface, matrix))
            self.measured += 1

    def _key_points(self, shot: Shot, track: Track, t: int, points: F64) -> tuple[F64, F64]:
        """Return key points of the truth and of the prediction, (K, 3) each."""
        true = shot.topology.key_points.on(shot.in_camera[t], shot.topology.faces)
        named = key_points_of(shot, track)
        if named is not None:
            return true, named.on(points, track.faces)
        # Otherwise where the prediction is, at the pixels that show them.
        self.from_screen += 1
        said, depth = (values[t] for values in track.screen(shot))
        seen = see(said, depth, track.faces, shot.size)
        mine = see(shot.screen[t], shot.in_camera[t, :, 2], shot.topology.faces, shot.size)
        image = true @ shot.intrinsics[t].T
        column, row = np.floor(image[:, :2] / image[:, 2:]).astype(int).T
        inside = (column >= 0) & (row >= 0) & (column < shot.size[1]) & (row < shot.size[0])
        column, row = np.where(inside, column, 0), np.where(inside, row, 0)
        at = seen.triangles[row, column]
        shown = inside & (at != NONE) & (np.abs(mine.depth[row, column] - true[:, 2]) < _NEAR_M)
        there = np.einsum("pk,pkc->pc", seen.weights[row, column], points[track.faces[np.maximum(at, 0)]])
        return true[shown], there[shown]

    def metrics(self) -> dict[str, float]:
        """Return median, mean and standard deviation of distances, mm, and the mean angle of normals, radians."""
        metrics: dict[str, float] = {}
        for name, parts in self._distance.items():
            joined = np.concatenate(parts) if parts else np.zeros(0)
            all_ = joined if joined.size else np.full(1, np.nan)
            metrics |= {
                f"chamfer_{name}_median_mm": float(np.median(all_)),
                f"chamfer_{name}_mean_mm": float(all_.mean()),
                f"chamfer_{name}_std_mm": float(all_.std()),
            }
        angle = np.concatenate(self._angle) if self._angle else np.full(1, np.nan)
        return metrics | {
            "normal_angle_rad": float(angle.mean()),
            "shape_frames": self.measured,
            "shape_skipped": self.skipped,
            "shape_keys_from_screen": self.from_screen,
        }


_NEAR_M = 0.005


def _normal_angles(shot: Shot, t: int, pixels: TruePixels, surface: MeshSurface, matrix: F64) -> F64:
    """Return the angles (P,) between true normals at pixels of the face and those of the nearest predicted places."""
    faces = shot.topology.faces
    corners = faces[pixels.triangles]
    chosen = shot.topology.is_face[corners].all(1)
    corners, weights = corners[chosen], pixels.weights[chosen, :, None]
    true = shot.in_camera[t]
    ours = (vertex_normals(true, faces)[corners] * weights).sum(1) @ matrix[:3, :3].T
    places = surface.closest(apply(matrix, (true[corners] * weights).sum(1)))
    return angles_rad(surface.normals(places), ours, axis=1)


def key_points_of(shot: Shot, track: Track) -> MaterialPoints | None:
    """Return NoW's seven points on the predicted topology, if it is known where they are."""
    if track.key_points is not None:
        return track.key_points
    on = correspondence_of(shot, track)
    if on is None:
        return None
    keys = shot.topology.key_points
    # A key point is a corner's, the heaviest: the others may lie on other triangles over there.
    corners = shot.topology.faces[keys.faces, keys.weights.argmax(1)]
    if same_topology(shot, track):
        return keys
    return MaterialPoints(on.faces[corners], on.weights[corners])


def correspondence_of(shot: Shot, track: Track) -> MaterialPoints | None:
    """Return where each true vertex lies on the predicted topology; None if nobody says."""
    if track.correspondence is not None:
        return track.correspondence if len(track.correspondence) == len(shot.topology.label) else None
    if not same_topology(shot, track):
        return None
    faces = shot.topology.faces
    count = len(shot.topology.label)
    carrier, corner = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for k in range(3):
        carrier[faces[:, k]], corner[faces[:, k]] = np.arange(len(faces)), k
    return MaterialPoints(carrier, np.eye(3)[corner])


def same_topology(shot: Shot, track: Track) -> bool:
    """Whether a prediction's triangles are the truth's."""
    return track.faces.shape == shot.topology.faces.shape and bool((track.faces == shot.topology.faces).all())


class ScreenPlaces:
    """2-D NME: distance of every face vertex on the screen, % of the root of the face box's width times height."""

    def __init__(self) -> None:
        self._share: list[float] = []

    def add(self, shot: Shot, track: Track) -> None:
        """Add a shot with the frames of a track in its order; nothing if no vertex is known to be the same."""
        on = correspondence_of(shot, track)
        if on is None:
            return
        face = np.flatnonzero(shot.topology.is_face)
        chosen = MaterialPoints(on.faces[face], on.weights[face])
        found = _flat(chosen.on(track.screen(shot)[0], track.faces))
        true = _flat(shot.screen[:, face])
        width, height = np.moveaxis(true.max(1) - true.min(1), -1, 0)
        distance = np.linalg.norm(found - true, axis=-1).mean(1)
        self._share += (PERCENT * distance / np.sqrt(width * height)).tolist()

    def metrics(self) -> dict[str, float]:
        """Return ``nme2d_percent``, each frame counting once."""
        return {"nme2d_percent": float(np.mean(self._share)) if self._share else float("nan")}


def _flat(screen: F64) -> F64:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(screen[..., 2:] > 0, screen[..., :2] / screen[..., 2:], np.inf)
