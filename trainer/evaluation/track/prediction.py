"""What a tracker says: a mesh of any topology in each frame of a shot, before a camera of its own or the true one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import F64, I64
from datagen.common.errors import InputError
from datagen.common.files import read_npz
from datagen.shards.meshes import MaterialPoints, to_world
from trainer.evaluation.track.shot import Shot

FILE = "track.npz"
_HELP = "docs/track-benchmark.md, What is read, lists the arrays"
_NEEDED = ("faces", "frames")
_OPTIONAL = (
    "vertices", "pixels", "intrinsics", "world_to_camera", "image_size", "key_points", "correspondence_faces",
    "correspondence_weights",
)  # fmt: skip
_RIGID = 1e-3


@dataclass(frozen=True, eq=False)
class Track:
    """Predicted meshes of T frames, all of one topology.

    Attributes
    ----------
    frames : (T,) int64
        Their numbers, as the shot counts them.
    faces : (F, 3) int64
    vertices : (T, V, 3) float64, optional
        Metres, in the axes that ``world_to_camera`` takes into the camera's: the camera's own without it.
    pixels : (T, V, 3) float64, optional
        In place of vertices, from trackers without a pinhole camera: x and y in pixels of the shot's pictures (centres
        at +0.5), and a depth of any unit that only says what hides what.
    intrinsics : (T, 3, 3) float64, optional
        Pixels of the shot's pictures; the shot's own without it.
    world_to_camera : (T, 4, 4) float64, optional
        Rigid.
    key_points : MaterialPoints, optional
        NoW's seven, on this topology.
    correspondence : MaterialPoints, optional
        Where each vertex of the true topology lies on this one.
    """

    frames: I64
    faces: I64
    vertices: F64 | None = None
    pixels: F64 | None = None
    intrinsics: F64 | None = None
    world_to_camera: F64 | None = None
    key_points: MaterialPoints | None = None
    correspondence: MaterialPoints | None = None

    def of(self, shot: Shot) -> Track:
        """Return the frames of a shot, in its order.

        Raises
        ------
        InputError
            If one is missing.
        """
        place = {int(frame): k for k, frame in enumerate(self.frames)}
        missing = [int(frame) for frame in shot.frames if int(frame) not in place]
        if missing:
            some = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
            raise InputError(
                f"the prediction of {shot.name} has no frame {some}",
                f"each of its {len(shot.frames)} frames",
                "Where a tracker lost the face, let it say where it guesses the face to be, such as where it was last",
            )
        rows = [place[int(frame)] for frame in shot.frames]
        taken = {
            name: getattr(self, name)[rows]
            for name in ("vertices", "pixels", "intrinsics", "world_to_camera")
            if getattr(self, name) is not None
        }
        return replace(self, frames=shot.frames, **taken)

    def in_camera(self) -> F64 | None:
        """Return vertices in camera axes, (T, V, 3) metres; None where only places on the screen are known."""
        if self.vertices is None:
            return None
        return self.vertices if self.world_to_camera is None else to_world(self.vertices, self.world_to_camera)

    def screen(self, shot: Shot) -> tuple[F64, F64]:
        """Return homogeneous pixels (T, V, 3) and depth (T, V), of the frames of a shot in its order."""
        points = self.in_camera()
        if points is not None:
            K = shot.intrinsics if self.intrinsics is None else self.intrinsics
            return points @ K.swapaxes(1, 2), points[..., 2]
        assert self.pixels is not None
        flat = np.concatenate([self.pixels[..., :2], np.ones_like(self.pixels[..., :1])], axis=-1)
        return flat, self.pixels[..., 2]


def read_track(path: Path, size: tuple[int, int]) -> Track:
    """Read the predictions of a shot.

    Parameters
    ----------
    path : Path
        An ``.npz`` with the arrays of :class:`Track`. ``key_points`` is (7, 3), in ``vertices``' axes of the first
        frame, or (7,) numbers of vertices. ``image_size`` (width, height) says which pictures ``intrinsics`` are of.
    size : (height, width)
        Of the shot's pictures.

    Raises
    ------
    InputError
        If it cannot be read, an array is missing, not known, of another shape, not finite, or no camera.
    """
    arrays = read_npz(path, expected="the predictions of a shot", fix=_HELP)
    unknown = sorted(set(arrays) - {*_NEEDED, *_OPTIONAL})
    if unknown:
        raise InputError(f"{path} has an array {unknown[0]!r}", f"one of {', '.join((*_NEEDED, *_OPTIONAL))}", _HELP)
    missing = [name for name in _NEEDED if name not in arrays]
    if missing or ("vertices" in arrays) == ("pixels" in arrays):
        found = f"no array {missing[0]!r}" if missing else "both or neither of `vertices` and `pixels`"
        raise InputError(f"{path} has {found}", "`frames`, `faces`, and `vertices` or `pixels`", _HELP)
    return track_of(arrays, size, str(path))


def track_of(arrays: dict[str, npt.NDArray[np.generic]], size: tuple[int, int], what: str) -> Track:
    """Check arrays by their names (see :func:`read_track`) and return them as a track."""
    frames = _whole(arrays["frames"], (-1,), f"{what}: frames")
    T = len(frames)
    places = "vertices" if "vertices" in arrays else "pixels"
    points = _numbers(arrays[places], (T, -1, 3), f"{what}: {places}")
    faces = _whole(arrays["faces"], (-1, 3), f"{what}: faces", below=points.shape[1])
    if not T or not len(faces) or len(np.unique(frames)) < T:
        raise InputError(f"{what} has {T} frames and {len(faces)} faces", "some, each frame once", _HELP)
    given = {places: points}
    for name, shape in (("intrinsics", (3, 3)), ("world_to_camera", (4, 4))):
        if name in arrays:
            if places == "pixels":
                raise InputError(f"{what} has {name} beside `pixels`", "`vertices` with cameras", "Leave it out")
            matrices = arrays[name]
            given[name] = _numbers(
                np.broadcast_to(matrices, (T, *shape)) if matrices.shape == shape else matrices,
                (T, *shape),
                f"{what}: {name}",
            )
    if "intrinsics" in given:
        given["intrinsics"] = _scaled(given["intrinsics"], arrays.get("image_size"), size, what)
    elif "image_size" in arrays:
        raise InputError(f"{what} has image_size without intrinsics", "both, or neither", "Leave it out")
    if "world_to_camera" in given:
        _check_rigid(given["world_to_camera"], what)
    first = points[0]
    keys = arrays.get("key_points")
    key_points = None if keys is None else _on_mesh(keys, first, faces, what)
    pair = [arrays.get(f"correspondence_{part}") for part in ("faces", "weights")]
    correspondence = None
    if pair[0] is not None and pair[1] is not None:
        on = _whole(pair[0], (-1,), f"{what}: correspondence_faces", below=len(faces))
        correspondence = MaterialPoints(on, _numbers(pair[1], (len(on), 3), f"{what}: correspondence_weights"))
    elif any(part is not None for part in pair):
        raise InputError(f"{what} has one of correspondence_faces and correspondence_weights", "both", _HELP)
    return Track(frames, faces, key_points=key_points, correspondence=correspondence, **given)


def _numbers(values: npt.NDArray[np.generic], shape: tuple[int, ...], what: str) -> F64:
    fits = values.ndim == len(shape) and all(want in {-1, got} for want, got in zip(shape, values.shape, strict=True))
    if not fits or values.dtype.kind not in "iuf" or not np.isfinite(values.astype(np.float64)).all():
        wanted = " × ".join("N" if n < 0 else str(n) for n in shape)
        raise InputError(f"{what} is {values.shape} {values.dtype}", f"{wanted} finite numbers", _HELP)
    return values.astype(np.float64)


def _whole(values: npt.NDArray[np.generic], shape: tuple[int, ...], what: str, below: int | None = None) -> I64:
    if values.dtype.kind not in "iu":
        raise InputError(f"{what} is of type {values.dtype}", "whole numbers", _HELP)
    numbers = _numbers(values, shape, what).astype(np.int64)
    if numbers.size and (numbers.min() < 0 or (below is not None and numbers.max() >= below)):
        raise InputError(
            f"{what} goes from {numbers.min()} to {numbers.max()}",
            f"whole numbers from 0{'' if below is None else f' to {below - 1}'}",
            _HELP,
        )
    return numbers


def _scaled(K: F64, given: npt.NDArray[np.generic] | None, size: tuple[int, int], what: str) -> F64:
    """Return intrinsics in the pixels of the shot's pictures."""
    if (K[:, 0, 0] <= 0).any() or (K[:, 1, 1] <= 0).any() or (K[:, 2] != (0, 0, 1)).any():
        raise InputError(
            f"{what}: intrinsics are not those of a camera", "[[fx, s, cx], [0, fy, cy], [0, 0, 1]]", _HELP
        )
    if given is None:
        return K
    width, height = _numbers(given, (2,), f"{what}: image_size")
    if min(width, height) < 1 or abs(width * size[0] - height * size[1]) > max(width + height, sum(size)):
        raise InputError(
            f"{what}: image_size is {width:g} × {height:g}",
            f"{size[1]} × {size[0]} as the pictures, or of the same proportions",
            "Give the cameras of these pictures",
        )
    return np.diag([size[1] / width, size[0] / height, 1.0]) @ K


def _check_rigid(poses: F64, what: str) -> None:
    turns = poses[:, :3, :3]
    straight = np.abs(turns @ turns.swapaxes(1, 2) - np.eye(3)).max() <= _RIGID and (np.linalg.det(turns) > 0).all()
    if not straight or (poses[:, 3] != (0, 0, 0, 1)).any():
        raise InputError(f"{what}: world_to_camera is not rigid", "rotations and translations in metres", _HELP)


def _on_mesh(keys: npt.NDArray[np.generic], vertices: F64, faces: I64, what: str) -> MaterialPoints:
    """Take seven key points as vertices, or as the places nearest to points of the first frame."""
    if keys.ndim == 1 and keys.dtype.kind in "iu":
        numbers = _whole(keys, (7,), f"{what}: key_points", below=len(vertices))
        at = [np.argwhere(faces == number) for number in numbers]
        if not all(len(hits) for hits in at):
            raise InputError(f"{what}: key_points names a vertex of no triangle", "vertices of the surface", _HELP)
        on = np.array([hits[0] for hits in at])
        return MaterialPoints(on[:, 0], np.eye(3)[on[:, 1]])
    from trainer.evaluation.track.surface import MeshSurface

    places = MeshSurface(vertices, faces).closest(_numbers(keys, (7, 3), f"{what}: key_points"))
    return MaterialPoints(places.triangles, places.weights)


Reader = Callable[[Shot], Track | None]


def folder_reader(folder: Path) -> Reader:
    """Return what finds the prediction of a shot in ``subject/sequence/camera/track.npz`` of a folder.

    Raises
    ------
    InputError
        If it is no folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder", f"a folder with subject/sequence/camera/{FILE}", "Check the path")

    def read(shot: Shot) -> Track | None:
        path = folder / shot.subject / shot.sequence / shot.camera / FILE
        return read_track(path, shot.size) if path.is_file() else None

    return read
