"""What trackers leave behind: meshes, parameters of FLAME, exports of VHAP, folders of Pixel3DMM."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import F64, I64
from datagen.common.errors import InputError
from datagen.common.seen_points import BARYCENTRIC_TOLERANCE, SUFFIX, read_seen_points
from datagen.geometry.mesh_io import SUFFIXES as MESHES
from datagen.geometry.mesh_io import read_mesh
from datagen.heads.flame import FlameHead, load_flame
from datagen.heads.flame_parameters import SUFFIXES as PARAMETERS
from datagen.heads.flame_parameters import read_flame_parameters
from datagen.heads.pickles import as_array, load_inert
from datagen.heads.registry import load_head
from datagen.sources.imports.imported import ImportedCamera, ImportSettings
from datagen.sources.imports.transforms import FILE as TRANSFORMS
from datagen.sources.imports.vhap import find_exports
from trainer.evaluation.shape import KEY_LANDMARKS
from trainer.evaluation.track.prediction import FILE, Track, read_track, track_of
from trainer.evaluation.track.shot import Shot
from trainer.prediction.cameras import GivenCameras
from trainer.prediction.frames import SourceFrame

CAMERAS, KEY_POINTS, CROP = "cameras.json", "key_points.npy", "crop_ymin_ymax_xmin_xmax.npy"
_NUMBER = re.compile(r"(\d+)\D*$")
_HELP = "docs/track-benchmark.md, What is read, says what each kind of folder holds"
_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])  # OpenGL's camera axes to OpenCV's
_KINDS = f"{FILE}, meshes, parameters of FLAME, seen points, VHAP's {TRANSFORMS}, or Pixel3DMM's checkpoint/ and mesh/"


@dataclass(frozen=True)
class Predictions:
    """A folder with ``subject/sequence/camera/`` for each shot, each of whatever kind.

    Attributes
    ----------
    folder : Path
    flame_root : Path or None
        FLAME's model, for parameters; it also says where the key points of meshes in its topology are.
    unit : str
        Of mesh files.
    """

    folder: Path
    flame_root: Path | None = None
    unit: str = "m"

    def __call__(self, shot: Shot) -> Track | None:
        """Return the track of a shot, None if there is no folder for it.

        Raises
        ------
        InputError
            If the folder holds none of the kinds, or more than one, or cannot be read as what it is.
        """
        place = self.folder / shot.subject / shot.sequence / shot.camera
        if not place.is_dir():
            return None
        kinds = [kind for kind, reader in self._readers(place).items() if reader]
        if len(kinds) != 1:
            raise InputError(f"{place} holds {' and '.join(kinds) or 'no prediction'}", f"one of {_KINDS}", _HELP)
        (kind,) = kinds
        if kind == FILE:
            return read_track(place / FILE, shot.size)
        return {
            "meshes": self._meshes,
            "parameters": self._parameters,
            "seen points": self._seen,
            "vhap": self._vhap,
            "pixel3dmm": self._pixel3dmm,
        }[kind](place, shot)

    def _readers(self, place: Path) -> dict[str, bool]:
        ours = {FILE, CAMERAS, KEY_POINTS}
        files = [path for path in sorted(place.iterdir()) if path.is_file() and path.name not in ours]
        vhap = (place / TRANSFORMS).is_file()
        arrays = [path for path in files if path.suffix.lower() in PARAMETERS and not _is_mesh(path)]
        seen = bool(arrays) and _holds_seen_points(arrays[0])
        return {
            FILE: (place / FILE).is_file(),
            "vhap": vhap,
            "pixel3dmm": (place / "checkpoint").is_dir(),
            "meshes": any(_is_mesh(path) for path in files),
            "parameters": bool(arrays) and not seen and not vhap,
            "seen points": seen,
        }

    @cached_property
    def _flame(self) -> FlameHead:
        if self.flame_root is None:
            raise InputError("parameters of FLAME", "FLAME's model, to pose it", "Pass --flame-root")
        return load_flame(self.flame_root)

    def _meshes(self, place: Path, shot: Shot) -> Track:
        files = _numbered([path for path in place.iterdir() if _is_mesh(path)], shot, place)
        vertices, faces = _stacked(files, self.unit)
        return self._made(place, shot, vertices, faces)

    def _parameters(self, place: Path, shot: Shot) -> Track:
        files = [path for path in sorted(place.iterdir()) if path.suffix.lower() in PARAMETERS]
        frames = [int(frame) for frame in shot.frames]
        chosen = [files[0]] * len(frames) if len(files) == 1 else _numbered(files, shot, place)
        rows = frames if len(files) == 1 else [0] * len(frames)
        posed = [self._flame.posed(read_flame_parameters(path, row)) for path, row in zip(chosen, rows, strict=True)]
        return self._made(place, shot, np.stack(posed), self._flame.template.faces)

    def _seen(self, place: Path, shot: Shot) -> Track:
        """Read seen points of the template's vertices, as the alignment network writes them: places on the screen."""
        files = _numbered([path for path in place.iterdir() if path.suffix == SUFFIX], shot, place)
        seen = [read_seen_points(path) for path in files]
        template = load_head("anny").template
        first = seen[0]
        corner = template.faces[first.faces, first.barycentric.argmax(1)].astype(np.int64)
        alike = all(np.array_equal(one.faces, first.faces) and one.template == template.digest for one in seen)
        if not alike or (first.barycentric.max(1) < 1 - BARYCENTRIC_TOLERANCE).any() or len(set(corner)) < len(corner):
            raise InputError(
                f"{place} has seen points that are not the same vertices of Anny in every picture",
                "what `trainer align predict` writes",
                _HELP,
            )
        number = np.full(len(template.vertices), -1)
        number[corner] = np.arange(len(corner))
        faces = number[template.faces]
        kept = (faces >= 0).all(1)
        scale = np.array([(shot.size[1] / one.width, shot.size[0] / one.height) for one in seen])
        pixels = np.stack([one.pixels for one in seen]) * scale[:, None]
        depth = np.stack([_order(template.vertices[corner], of_frame) for of_frame in pixels])
        carrier = np.zeros(len(number), np.int64)
        weights = np.tile(np.eye(3)[0], (len(number), 1))
        for k in range(3):
            carrier[template.faces[kept, k]] = np.arange(int(kept.sum()))
            weights[template.faces[kept, k]] = np.eye(3)[k]
        arrays = {"frames": shot.frames, "faces": faces[kept], "pixels": np.concatenate([pixels, depth[..., None]], -1)}
        inside = np.zeros(len(number), bool)
        inside[template.faces[kept]] = True
        if np.array_equal(shot.topology.faces, template.faces) and inside[shot.topology.is_face].all():
            arrays |= {"correspondence_faces": carrier, "correspondence_weights": weights}
        return track_of(arrays, shot.size, str(place))

    def _vhap(self, place: Path, shot: Shot) -> Track:
        found = find_exports(place, ImportSettings(subject=shot.subject))
        sequence = found[0].read()
        camera = _camera_of(sequence.cameras, shot, place)
        frames = {frame.index: frame for frame in sequence.frames}
        missing = [int(frame) for frame in shot.frames if int(frame) not in frames]
        if missing:
            raise InputError(f"{place} has no instant {missing[0]}", f"those of {shot.name}", "Track all pictures")
        chosen = [frames[int(frame)] for frame in shot.frames]
        surfaces = [frame.registration or frame.scan for frame in chosen]
        files = [surface for surface in surfaces if isinstance(surface, Path)]
        if sequence.registration is not None and sequence.registration.kind == "parameters":
            vertices: F64 = np.stack([self._flame.posed(read_flame_parameters(path, 0)) for path in files])
            faces = np.asarray(self._flame.template.faces, np.int64)
        else:
            vertices, faces = _stacked(files, "m")
        poses = np.stack([camera.poses.get(int(frame), camera.world_to_camera) for frame in shot.frames])
        return self._made(place, shot, vertices, faces, (camera.K, poses, camera.size))

    def _pixel3dmm(self, place: Path, shot: Shot) -> Track:
        notes = _numbered(sorted((place / "checkpoint").glob("*.frame")), shot, place)
        meshes = _numbered(sorted((place / "mesh").glob("*.ply")), shot, place)
        vertices, faces = _stacked(meshes, "m")
        said = [_frame_file(path) for path in notes]
        turns = np.stack([_matrix(note, path, "flame", "R_rotation_matrix", (3, 3)) for note, path in said])
        shifts = np.stack([_matrix(note, path, "flame", "t", (3,)) for note, path in said])
        # The mesh is the face without its pose; what stands in the file moves it before the camera.
        vertices = vertices @ turns.swapaxes(1, 2) + shifts[:, None]
        poses = np.repeat(np.eye(4)[None], len(said), axis=0)
        poses[:, :3, :3] = [_matrix(note, path, "camera", "R_base_0", (3, 3)) for note, path in said]
        poses[:, :3, 3] = [_matrix(note, path, "camera", "t_base_0", (3,)) for note, path in said]
        side = float(as_array(said[0][0]["img_size"], f"{notes[0]}: img_size").ravel()[0])
        K = np.repeat(np.eye(3)[None], len(said), axis=0)
        for k, (note, path) in enumerate(said):
            K[k, 0, 0] = K[k, 1, 1] = _matrix(note, path, "camera", "fl", (1,))[0] * side
            # The middle of the picture where the principal point is 0.
            K[k, :2, 2] = side / 2 + _matrix(note, path, "camera", "pp", (2,)) * (side / 2 + 0.5)
        K = _uncropped(place, side) @ K
        return self._made(place, shot, vertices, faces, (K, _FLIP @ poses, (shot.size[1], shot.size[0])))

    def _made(
        self,
        place: Path,
        shot: Shot,
        vertices: F64,
        faces: npt.NDArray[np.integer],
        camera: tuple[F64, F64, tuple[int, int]] | None = None,
    ) -> Track:
        arrays: dict[str, npt.NDArray[Any]] = {
            "frames": shot.frames,
            "vertices": vertices,
            "faces": np.asarray(faces, np.int64),
        }
        if camera is not None:
            arrays |= {"intrinsics": camera[0], "world_to_camera": camera[1], "image_size": np.array(camera[2])}
        elif (place / CAMERAS).is_file():
            arrays |= _given(place / CAMERAS, shot)
        if (place / KEY_POINTS).is_file():
            arrays["key_points"] = _array_file(place / KEY_POINTS)
        elif self.flame_root is not None and _like_flame(arrays["faces"], self._flame):
            template = self._flame.template
            carriers, weights = (
                v[list(KEY_LANDMARKS)] for v in (template.landmark_faces, template.landmark_barycentric)
            )
            arrays["key_points"] = template.faces[carriers, weights.argmax(1)].astype(np.int64)
        return track_of(arrays, shot.size, str(place))


def _holds_seen_points(path: Path) -> bool:
    if path.suffix != SUFFIX:
        return False
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {"barycentric", "covariance", "template"} <= set(archive.files)
    except Exception:  # noqa: BLE001, RUF100 - numpy and zipfile raise many kinds; whoever reads it says so
        return False


def _order(rest: F64, pixels: F64) -> F64:
    """Return how far each vertex lies behind the others, in any unit: of the neutral head as it is seen here."""
    across, down = np.linalg.lstsq(np.column_stack([rest, np.ones(len(rest))]), pixels, rcond=None)[0][:3].T
    found: F64 = rest @ np.cross(across, down)
    return found


def _is_mesh(path: Path) -> bool:
    name = path.name.lower()
    return name.endswith(tuple(suffix for suffix in MESHES if not suffix.startswith(".npz")))


def _numbered(files: Sequence[Path], shot: Shot, place: Path) -> list[Path]:
    """Return the file of each frame, by the last number in its name."""
    found: dict[int, Path] = {}
    for path in sorted(files):
        match = _NUMBER.search(path.name.partition(".")[0])
        if match is None:
            continue  # such as canonical.ply: of no frame
        number = int(match[1])
        if number in found:
            raise InputError(f"{found[number].name} and {path.name} of {place} are both {number}", "one a frame", _HELP)
        found[number] = path
    missing = [int(frame) for frame in shot.frames if int(frame) not in found]
    if missing:
        raise InputError(
            f"{place} has no file of frame {missing[0]}",
            f"one for each of the {len(shot.frames)} frames, with its number at the end of the name",
            _HELP,
        )
    return [found[int(frame)] for frame in shot.frames]


def _stacked(files: Sequence[Path], unit: str) -> tuple[F64, I64]:
    meshes = [read_mesh(path, unit) for path in files]
    first = meshes[0]
    for path, mesh in zip(files, meshes, strict=True):
        if mesh.vertices.shape != first.vertices.shape or not np.array_equal(mesh.faces, first.faces):
            raise InputError(
                f"{path} has another topology than {files[0]}",
                "one topology in all frames: motion is carried by triangles",
                "Register the meshes to one topology",
            )
    return np.stack([mesh.vertices for mesh in meshes]).astype(np.float64), first.faces.astype(np.int64)


def _given(path: Path, shot: Shot) -> dict[str, npt.NDArray[Any]]:
    """Read cameras in the format of `trainer predict`, for each frame of a shot."""
    given = GivenCameras(path)
    names = [f"{int(frame):06d}" for frame in shot.frames]
    given.assign(names, range(len(names)))
    height, width = shot.size
    whole = (0, 0, width, height)
    region = (0.0, 0.0, float(width), float(height))
    seen = [
        given.attach(SourceFrame(name, np.zeros((3, 1, 1), np.uint8), whole, (width, height), region), k)
        for k, name in enumerate(names)
    ]
    arrays: dict[str, npt.NDArray[Any]] = {
        "intrinsics": np.stack([frame.intrinsics for frame in seen if frame.intrinsics is not None])
    }
    poses = [frame.world_to_camera for frame in seen if frame.world_to_camera is not None]
    if poses:
        arrays["world_to_camera"] = np.stack(poses)
    return arrays


def _camera_of(cameras: Sequence[ImportedCamera], shot: Shot, place: Path) -> ImportedCamera:
    named = [camera for camera in cameras if camera.name == shot.camera] or list(cameras)
    if len(named) != 1 or not named[0].lens.is_straight:
        names = ", ".join(camera.name for camera in cameras)
        raise InputError(f"{place} has the cameras {names}", f"one without distortion, or {shot.camera}", _HELP)
    return named[0]


def _like_flame(faces: npt.NDArray[np.integer], flame: FlameHead) -> bool:
    own = flame.template.faces
    return len(faces) >= len(own) and bool((faces[: len(own)] == own).all())


def _frame_file(path: Path) -> tuple[dict[str, Any], Path]:
    """Read what torch saved of a frame; nothing in it is run."""
    expected, fix = "a file that Pixel3DMM's tracker saved", "Copy it again"
    try:
        with zipfile.ZipFile(path) as archive:
            (inner,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            with archive.open(inner) as stream:
                content = load_inert(stream, str(path))  # type: ignore[arg-type]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read ({error})", expected, fix) from None
    if not isinstance(content, dict) or not {"flame", "camera", "img_size"} <= content.keys():
        raise InputError(f"{path} lacks `flame`, `camera` or `img_size`", expected, fix)
    return content, path


def _matrix(content: dict[str, Any], path: Path, group: str, name: str, shape: tuple[int, ...]) -> F64:
    values = content[group].get(name) if isinstance(content[group], dict) else None
    found = None if values is None else as_array(values, f"{path}: {name}")
    if found is None or found.size != np.prod(shape) or found.dtype.kind not in "iuf" or not np.isfinite(found).all():
        raise InputError(
            f"{path}: {group}.{name} is {'missing' if found is None else found.shape}",
            f"{' × '.join(map(str, shape))} finite numbers of one frame",
            "Track one frame after another (Pixel3DMM's default), with one camera",
        )
    return found.astype(np.float64).reshape(shape)


def _uncropped(place: Path, side: float) -> F64:
    """Return what takes pixels of the square that was tracked to those of the picture."""
    path = place / CROP
    if not path.is_file():
        raise InputError(
            f"{place} has no {CROP}", "the crop that Pixel3DMM's preprocessing wrote", "Copy it from preprocessed data"
        )
    bounds = _array_file(path).astype(np.float64).ravel()
    if bounds.shape != (4,) or not np.isfinite(bounds).all() or bounds[1] <= bounds[0] or bounds[3] <= bounds[2]:
        raise InputError(f"{path} holds {bounds.tolist()}", "top, bottom, left and right in pixels", "Copy it again")
    top, bottom, left, right = bounds
    return np.array([[(right - left) / side, 0, left], [0, (bottom - top) / side, top], [0, 0, 1]])


def _array_file(path: Path) -> npt.NDArray[Any]:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read ({error})", "an array (.npy)", "Save it again") from None
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "iuf":
        raise InputError(f"{path} holds no array of numbers", "an array (.npy)", "Save it again")
    return found
