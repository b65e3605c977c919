"""Captures in our own folder layout, described in ``docs/capture-format.md``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError, MeshError
from datagen.common.files import read_npz
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import Mesh, check_metric_scale
from datagen.geometry.mesh_io import read_mesh
from datagen.heads.registry import HEADS
from datagen.sources.camera_entry import RecordedCamera
from datagen.sources.camera_files import DEPTH, PICTURES, camera_files, inside, landmark_files, pattern_of, stamp_of
from datagen.sources.camera_pictures import CameraPicture, video_digest
from datagen.sources.capture_file import (
    CAPTURE_FILE,
    SIMULATION,
    UNKNOWN_UNIT,
    CaptureFile,
    is_video,
    read_capture_file,
)
from datagen.sources.capture_landmarks import landmarks_of_pictures, landmarks_of_space
from datagen.sources.depth_maps import DepthMap, read_depth_map
from datagen.sources.evidence_files import evidence_files, evidence_readers
from datagen.sources.frame import Captures, Frame, Inputs, Registration, SequenceInfo, SequenceKey
from datagen.sources.fusion import fuse_depths
from datagen.sources.posed import model_digest, model_faces, posed_vertices
from datagen.sources.topology import Topology, read_topology, topology_files
from datagen.sources.whereabouts import refuse_url

STAMP_BYTES = 12
_SEE = "See docs/capture-format.md for the layout"


class FolderCaptures(Captures):
    """Reads ``<root>/<subject>/<sequence>/capture.json`` and what it names.

    Nothing outside a sequence's own folder is ever read, but for ``<root>/topologies``; folders whose name starts with
    a dot are passed over.

    Parameters
    ----------
    root : Path
    vertex_counts : mapping of head name to int, optional
        Expected number of registration vertices, by default that of every head model; heads not named are not
        checked here.
    head_root : Path, optional
        Folder with the files of FLAME, where registrations are parameters of it.
    unscaled : bool
        Whether lengths are read as they are, of a known unit or not: whoever asks scales them.
    evidence : bool
        Whether what was seen in pictures is read; whoever makes it may name it before it is there.
    listed : bool
        Whether sequences are listed at once. Who asks for some by their names needs no list: of many sequences, every
        process would make one.

    Raises
    ------
    InputError
        If the root is missing or holds no sequence.
    """

    def __init__(
        self,
        root: Path,
        vertex_counts: Mapping[str, int] | None = None,
        head_root: Path | None = None,
        *,
        unscaled: bool = False,
        evidence: bool = True,
        listed: bool = True,
    ) -> None:
        self._root, self._head_root, self._unscaled = Path(root), head_root, unscaled
        self._evidence = evidence
        self._vertex_counts = vertex_counts or {name: head.vertices for name, head in HEADS.items()}
        if not self._root.is_dir():
            refuse_url(root)
            raise InputError(f"capture root {root} is not a folder", "a folder of subjects", "Check the path")
        self._keys: list[SequenceKey] = []
        self._known: set[SequenceKey] = set()
        if listed:
            self._list()
            self._check_level()

    def _list(self) -> None:
        self._keys = self._listed()
        self._known = set(self._keys)

    def _listed(self) -> list[SequenceKey]:
        return [
            SequenceKey(subject.name, sequence.name)
            for subject in _subfolders(self._root)
            for sequence in _subfolders(subject)
        ]

    def _check_level(self) -> None:
        """Refuse a folder without sequences, or one that is itself a sequence or a subject."""
        layout = "<root>/<subject>/<sequence>/capture.json"
        if any((self._root / key.subject / key.sequence / CAPTURE_FILE).is_file() for key in self._keys):
            return
        if (self._root / CAPTURE_FILE).is_file():
            above, what = self._root.resolve().parents[1:2], "is itself a sequence"
        elif any((subject / CAPTURE_FILE).is_file() for subject in _subfolders(self._root)):
            above, what = self._root.resolve().parents[:1], "is itself a subject: its folders are sequences"
        elif self._keys:
            return  # each of them is named
        else:
            raise InputError(
                f"capture root {self._root} holds no sequence",
                layout,
                f"`datagen init {self._root}` writes capture.json from pictures and scans. {_SEE}",
            )
        raise InputError(f"{self._root} {what}", layout, f"Name the root{f', such as {above[0]}' if above else ''}")

    def sequences(self) -> Sequence[SequenceInfo]:
        """List every capture, ordered by subject then sequence.

        Raises
        ------
        InputError
            If a sequence folder has no valid ``capture.json``.
        CameraError
            If a camera is not valid.
        """
        if not self._keys:
            self._list()
            self._check_level()
        return [self._info(key) for key in self._keys]

    def frame(self, key: SequenceKey, index: int) -> Frame:
        """Read one frame; of images and masks only the sizes, their pixels wait until they are asked for.

        Raises
        ------
        InputError
            If the sequence or frame is unknown, or a file it names is missing or broken.
        """
        folder, capture = self._capture(key, index)
        rig = _rig(folder)
        cameras = tuple(one.at(index) for one in rig)
        scan = self._scan(folder, capture, index) if capture.surface == "scan" else None
        pictures = {kind: _camera_pictures(folder, capture, kind, rig, index) for kind in PICTURES}
        for found in pictures.values():
            for picture in found.values():
                picture.check()
        images = {name: picture.image for name, picture in pictures["images"].items()}
        masks = {name: picture.mask for name, picture in pictures["masks"].items()}
        depths = {
            name: partial(_read_depth, path, one, index, capture, masks.get(name))
            for name, (path, one) in camera_files(folder, capture, DEPTH, rig, index).items()
        }
        registration, landmarks = (
            self._registration(folder, capture, index),
            self._landmarks(folder, capture, rig, index),
        )
        if capture.surface == "registration":
            scan = self._registered_mesh(folder, capture, index)
        fused = partial(_fused, folder, index, depths, registration, landmarks) if capture.surface == "depth" else None
        return Frame(
            key=key,
            index=index,
            time_s=capture.seconds(index),
            surface=scan or fused,
            cameras=cameras,
            registration=registration,
            landmarks=landmarks,
            images=images,
            masks=masks,
            depths=depths,
            seen=evidence_readers(evidence_files(folder, capture, rig, index), cameras) if self._evidence else {},
        )

    def input_digest(self, key: SequenceKey, index: int) -> str:
        """SHA-256 over ``capture.json`` and the bytes of the frame's files, each with its name and size."""
        return self.inputs(key, index).digest

    def inputs(self, key: SequenceKey, index: int) -> Inputs:
        """Return that digest, and the files and folders that it depends on."""
        folder, capture = self._capture(key, index)
        rig = _rig(folder)
        paths, videos = self._files(folder, capture, rig, index)
        model = b""
        if capture.registration and capture.registration.kind == "parameters":
            model = model_digest(self._head_root).encode()
        path, bare = folder / CAPTURE_FILE, capture.surface == "none"
        try:
            sha = _begun(folder, stamp_of(path), model).copy()
            for path in paths:
                _add(sha, folder, path)
            for path in videos:
                sha.update(f"{path.relative_to(folder).as_posix()}\0video\0{video_digest(path)}\0".encode())
        except OSError as error:
            raise _missing(path, key, index, error) from None
        if model:  # FLAME's model lies elsewhere
            return Inputs(sha.hexdigest(), None, bare)
        files = (str(path) for path in (folder / CAPTURE_FILE, *paths, *videos))
        return Inputs(sha.hexdigest(), (*files, *_folders_that_count(folder, capture, rig, index)), bare)

    def _files(
        self, folder: Path, capture: CaptureFile, rig: tuple[RecordedCamera, ...], index: int
    ) -> tuple[list[Path], list[Path]]:
        """Return the files of a frame, and videos that it is in."""
        paths = list[Path]()
        if capture.surface == "scan":
            paths.append(inside(folder, capture.scan, frame=index))
        if capture.registration:
            paths.append(inside(folder, capture.registration.pattern, frame=index))
            if capture.registration.spread is not None:
                paths.append(inside(folder, capture.registration.spread, frame=index))
        paths += landmark_files(folder, capture, rig, index).values()
        paths += [path for files in evidence_files(folder, capture, rig, index).values() for path in files]
        videos: list[Path] = []
        for kind in (*PICTURES, DEPTH):
            found = [path for path, _ in camera_files(folder, capture, kind, rig, index).values()]
            (videos if is_video(pattern_of(capture, kind) or "") else paths).extend(found)
        return paths, videos

    def stamp(self, key: SequenceKey, index: int) -> str:
        """Return a digest of sizes and times of ``capture.json`` and the frame's files; raises as :meth:`frame`."""
        folder, capture = self._capture(key, index)
        paths, videos = self._files(folder, capture, _rig(folder), index)
        told = []
        for path in (folder / CAPTURE_FILE, *paths, *videos):
            time_ns, size = stamp_of(path)
            # Some file systems tell no more than seconds.
            told.append(f"{path.name} {size} {time_ns // 10**9}")
        return hashlib.blake2b("\n".join(told).encode(), digest_size=STAMP_BYTES).hexdigest()

    def _info(self, key: SequenceKey) -> SequenceInfo:
        folder = self._root / key.subject / key.sequence
        capture = _capture_file(folder)
        registration = capture.registration
        if registration is not None and registration.topology is not None:
            topology_files(self._root, registration.topology)
        name = registration.name if registration else None
        gated = capture.masks is not None and (capture.generator or {}).get("name") != SIMULATION
        bare = capture.surface == "none"
        return SequenceInfo(key, tuple(capture.frames), len(_rig(folder)), name, capture.epoch, gated, bare)

    def brings(self, key: SequenceKey) -> frozenset[str]:
        """Return what a sequence names; raises as :meth:`sequences`."""
        capture = _capture_file(self._root / key.subject / key.sequence)
        kinds = {kind for kind in ("evidence", "landmarks", "images") if getattr(capture, kind) is not None}
        bent = any(camera.distortion is not None for camera in capture.cameras.values())
        return frozenset({*kinds, *(("distortion",) if bent else ())})

    def topology(self, name: str) -> Topology:
        """Read a topology the captures bring with them, ``<root>/topologies/<name>``.

        Raises
        ------
        InputError
            If its neutral mesh or landmarks are missing or broken.
        """
        mesh, landmarks = topology_files(self._root, name)
        return _topology(name, mesh, landmarks, stamp_of(mesh), stamp_of(landmarks))

    def _capture(self, key: SequenceKey, index: int) -> tuple[Path, CaptureFile]:
        if key not in self._known and (self._root / key.subject / key.sequence / CAPTURE_FILE).is_file():
            # Not listed, or added since the folder was opened by a process that serves several builds.
            self._known.add(key)
        if key not in self._known:
            self._list()
            if not self._keys:
                self._check_level()
        if key not in self._known:
            raise InputError(
                f"there is no sequence {key} under {self._root}",
                f"one of {len(self._keys)} sequences, such as {self._keys[0]}",
                "Check the name",
            )
        folder = self._root / key.subject / key.sequence
        capture = _capture_file(folder)
        if index not in capture.frames:
            raise InputError(
                f"sequence {key} has no frame {index}",
                f"one of its {len(capture.frames)} frames, {capture.frames[0]} to {capture.frames[-1]}",
                "Check `frames` in capture.json",
            )
        # Here and not where sequences are listed: one that cannot be stored does not end the build of the others.
        _storable(folder, stamp_of(folder / CAPTURE_FILE))
        if capture.unit == UNKNOWN_UNIT and not self._unscaled:
            raise InputError(
                f"{folder / CAPTURE_FILE} says that the unit is not known",
                "a unit, or a recipe that finds the scale",
                "Set `source.scale: landmarks` in the recipe, or measure something and state the unit",
            )
        return folder, capture

    def _check_scale(self, vertices: npt.NDArray[np.float64], path: Path, **said: Any) -> None:
        """Refuse what is no head in its unit, unless whoever asks scales it."""
        if not self._unscaled:
            check_metric_scale(vertices, str(path), **said)

    def landmarks(self, key: SequenceKey, index: int) -> Landmarks | None:
        """Read the landmarks of a frame alone."""
        folder, capture = self._capture(key, index)
        return self._landmarks(folder, capture, _rig(folder), index)

    def marks(self, key: SequenceKey, index: int) -> Landmarks | None:
        """Read the points that tell frames of a sequence apart, and nothing else of the frame."""
        folder, capture = self._capture(key, index)
        registration = self._registration(folder, capture, index)
        return self._landmarks(folder, capture, _rig(folder), index) if registration is None else registration.marks

    def _landmarks(
        self, folder: Path, capture: CaptureFile, rig: tuple[RecordedCamera, ...], index: int
    ) -> Landmarks | None:
        entry = capture.landmarks
        if entry is None:
            return None
        files = landmark_files(folder, capture, rig, index)
        if entry.kind == "3d":
            return landmarks_of_space(files[""], entry, capture.length_unit, checked=not self._unscaled)
        return landmarks_of_pictures(files, rig, index, entry, capture.pixel_center, checked=not self._unscaled)

    def _scan(self, folder: Path, capture: CaptureFile, index: int) -> Mesh:
        path = inside(folder, capture.scan, frame=index)
        scan = read_mesh(path, capture.length_unit, need_faces=False)
        self._check_scale(scan.vertices, path)
        return scan

    def _registration(self, folder: Path, capture: CaptureFile, index: int) -> Registration | None:
        entry = capture.registration
        if entry is None:
            return None
        name = entry.name
        path = inside(folder, entry.pattern, frame=index)
        if entry.kind == "parameters":
            vertices = posed_vertices(path, index, entry.unit or "m", self._head_root)
        else:
            vertices = read_mesh(path, entry.unit or capture.length_unit, need_faces=False).vertices
            vertices = HEADS[name].own(vertices) if name in HEADS else vertices
        self._check_scale(vertices, path, declare="`unit` inside `registration` of capture.json")
        expected = self._vertex_counts.get(name)
        if entry.topology is not None:
            expected = len(self.topology(name).vertices)
        if expected is not None and entry.kind == "vertices" and len(vertices) != expected:
            raise MeshError(
                f"registration {path} has {len(vertices)} vertices",
                f"{expected}, as the {'topology' if entry.topology else 'head model'} {name} has",
                "Check `registration` in capture.json, or whether the export merged or split vertices",
            )
        spread_m = None if entry.spread is None else _spread(inside(folder, entry.spread, frame=index), len(vertices))
        return Registration(name, vertices, spread_m=spread_m)

    def _registered_mesh(self, folder: Path, capture: CaptureFile, index: int) -> Mesh:
        """Return the registered mesh itself: its own faces, or those of the captures' topology."""
        entry = capture.registration
        assert entry is not None  # as the file's check holds
        path = inside(folder, entry.pattern, frame=index)
        if entry.kind == "parameters":
            return Mesh.of(
                posed_vertices(path, index, entry.unit or "m", self._head_root), model_faces(self._head_root)
            )
        mesh = read_mesh(path, entry.unit or capture.length_unit, need_faces=False)
        if not len(mesh.faces) and entry.topology is not None:
            mesh = Mesh.of(mesh.vertices, self.topology(entry.topology).faces)
        if not len(mesh.faces):
            raise MeshError(
                f"registration {path} has no faces, and `surface` says that it is the surface",
                "a mesh with faces",
                "Export it with the model's faces",
            )
        return mesh


def _folders_that_count(folder: Path, capture: CaptureFile, rig: tuple[RecordedCamera, ...], index: int) -> list[str]:
    """Return the folders in which a file that comes or goes changes what a frame is read from, there or not."""
    patterns = (pattern_of(capture, kind) for kind in (*PICTURES, DEPTH))
    landmarks = capture.landmarks.pattern if capture.landmarks else None
    found = {""}
    for pattern in (*patterns, landmarks, *capture.evidence_patterns):
        for one in rig if pattern else ():
            above = str(pattern).format(frame=index, camera=one.stored.name).split("/")[:-1]
            found.update("/".join(above[:depth]) for depth in range(1, len(above) + 1))
    return [str(folder / name) for name in sorted(found)]


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _capture_file(folder: Path) -> CaptureFile:
    return _parsed(folder, stamp_of(folder / CAPTURE_FILE))[0]


def _rig(folder: Path) -> tuple[RecordedCamera, ...]:
    return _parsed(folder, stamp_of(folder / CAPTURE_FILE))[1]


@lru_cache(maxsize=256)
def _parsed(folder: Path, _stamp: tuple[int, int]) -> tuple[CaptureFile, tuple[RecordedCamera, ...]]:
    # The time stamp is part of the cache's key, so an edited file is read anew.
    capture = read_capture_file(folder)
    # Listing captures asks for no straight camera.
    return capture, capture.recorded(str(folder / CAPTURE_FILE), straighten_later=True)


@lru_cache(maxsize=256)
def _begun(folder: Path, _stamp: tuple[int, int], model: bytes) -> hashlib._Hash:
    # Once for each sequence: with the poses of many frames it is large.
    sha = hashlib.sha256(model)
    _add(sha, folder, folder / CAPTURE_FILE)
    return sha


def _add(sha: hashlib._Hash, folder: Path, path: Path) -> None:
    data = path.read_bytes()
    sha.update(f"{path.relative_to(folder).as_posix()}\0{len(data)}\0".encode())
    sha.update(data)


@lru_cache(maxsize=256)
def _storable(folder: Path, stamp: tuple[int, int]) -> None:
    # Once for each sequence: it looks at all frames.
    _parsed(folder, stamp)[0].check_storable(str(folder / CAPTURE_FILE))


@lru_cache(maxsize=8)
def _topology(
    name: str, mesh: Path, landmarks: Path, _mesh_stamp: tuple[int, int], _landmark_stamp: tuple[int, int]
) -> Topology:
    return read_topology(name, mesh, landmarks)


def _camera_pictures(
    folder: Path, capture: CaptureFile, kind: str, rig: tuple[RecordedCamera, ...], index: int
) -> dict[str, CameraPicture]:
    video = is_video(pattern_of(capture, kind) or "")
    return {
        name: CameraPicture(
            path, one, capture.orientation, capture.in_video(index, path) if video else None, capture.transfer
        )
        for name, (path, one) in camera_files(folder, capture, kind, rig, index).items()
    }


def _read_depth(
    path: Path,
    recorded: RecordedCamera,
    index: int,
    capture: CaptureFile,
    mask: Callable[[], npt.NDArray[np.bool_]] | None,
) -> DepthMap:
    """Read a depth map; what lies outside of the camera's own mask is not the person's."""
    assert capture.depth is not None  # it was found by its pattern
    lens = recorded.lens, recorded.stored_intrinsics
    found = read_depth_map(path, capture.depth, capture.length_unit, recorded.at(index), lens)
    return found if mask is None else found.within(mask())


def _spread(path: Path, count: int) -> npt.NDArray[np.float64]:
    """Read how far each of a registration's vertices may be off, (V,) float64 metres."""
    fix = "Write one finite number for each vertex, or leave `spread` out of `registration` in capture.json"
    found = read_npz(path, ("spread_m",), expected="a registration's spread", fix=fix)["spread_m"]
    if found.shape != (count,) or found.dtype.kind != "f" or not (np.isfinite(found) & (found >= 0)).all():
        raise InputError(
            f"{path} has spread_m of shape {found.shape} and type {found.dtype}", f"({count},), at least 0", fix
        )
    return found.astype(np.float64)


def _fused(
    folder: Path,
    index: int,
    depths: Mapping[str, Callable[[], DepthMap]],
    registration: Registration | None,
    landmarks: Landmarks | None,
) -> Mesh:
    known = landmarks.points if landmarks is not None else registration.vertices if registration is not None else None
    scan = fuse_depths([read() for read in depths.values()], None if known is None else known.mean(axis=0))
    name = f"what is fused from the depth maps of frame {index} of {folder}"
    check_metric_scale(scan.vertices, name, declare="`unit` or `metres_per_step` inside `depth` of capture.json")
    return scan


def _missing(path: Path, key: SequenceKey, index: int, error: OSError) -> InputError:
    return InputError(
        f"{path} of frame {index} of {key} cannot be read ({error.strerror})", "a readable file", "Restore the file"
    )
