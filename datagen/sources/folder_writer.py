"""Writing a sequence in the folder layout: staged, fsynced, renamed, the same bytes every time."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError
from datagen.common.files import npz_bytes, staged_folder, storage_errors
from datagen.geometry.camera import Camera
from datagen.geometry.landmarks import Landmarks, write_landmarks
from datagen.geometry.mesh import Mesh
from datagen.geometry.mesh_io import ply_bytes
from datagen.sources.camera_entry import CameraEntry
from datagen.sources.capture_file import (
    CAPTURE_FILE,
    CAPTURE_FORMAT,
    CAPTURE_VERSION,
    CaptureFile,
    RegistrationEntry,
    capture_file_bytes,
    read_capture_file,
)
from datagen.sources.frame import Image, SequenceKey

SCAN = "scans/{frame:06d}.ply"
REGISTRATION = "registrations/{frame:06d}.npz"
LANDMARKS = "landmarks/{frame:06d}.json"
IMAGES = "images/{camera}/{frame:06d}.png"
MASKS = "masks/{camera}/{frame:06d}.png"


class SequenceWriter:
    """Stages one sequence beside its final place; leaving the ``with`` block without an error publishes it.

    Parameters
    ----------
    root : Path
        Folder of subjects.
    key : SequenceKey
    cameras : tuple of Camera
    fps : float
    registration_head : str, optional
        Head model of the registrations; without it or a topology none may be added.
    registration_topology : str, optional
        Topology under ``<root>/topologies`` that they are in instead.
    generator : mapping of str to str, optional
        Notes stored in ``capture.json``; ``generator["key"]`` lets :func:`is_complete` recognise finished work.
    """

    def __init__(
        self,
        root: Path,
        key: SequenceKey,
        cameras: tuple[Camera, ...],
        fps: float,
        *,
        registration_head: str | None = None,
        registration_topology: str | None = None,
        generator: Mapping[str, str] | None = None,
    ) -> None:
        self._final = Path(root) / key.subject / key.sequence
        self._exit = ExitStack()
        self._staging = self._final
        self._cameras, self._fps = cameras, fps
        self._head, self._topology = registration_head, registration_topology
        self._generator = None if generator is None else dict(generator)
        self._frames: list[int] = []
        self._kinds: set[str] = set()

    def __enter__(self) -> Self:
        """Make the staging folder, removing those that killed runs left behind."""
        self._staging = self._exit.enter_context(staged_folder(self._final, replace=True))
        # Runs before the folder gets its name.
        self._exit.push(self._describe)
        return self

    def add(
        self,
        frame: int,
        scan: Mesh,
        *,
        registration: npt.NDArray[np.floating] | None = None,
        landmarks: Landmarks | None = None,
        images: Mapping[str, Image] | None = None,
        masks: Mapping[str, npt.NDArray[np.bool_]] | None = None,
    ) -> None:
        """Write the files of one frame, all in metres; frames come in increasing order.

        Raises
        ------
        InputError
            If the frames are out of order or a registration comes without its head model's name.
        datagen.common.errors.StorageError
            If the disk refuses.
        """
        if self._frames and frame <= self._frames[-1]:
            raise InputError(f"frame {frame} comes after frame {self._frames[-1]}", "increasing frames", "Sort them")
        if registration is not None and self._head is None and self._topology is None:
            raise InputError(
                "a registration without `registration_head`", "the head model's name", "Name it when opening the writer"
            )
        files = {SCAN.format(frame=frame): ply_bytes(scan, precision="float32")}
        if registration is not None:
            self._kinds.add("registration")
            files[REGISTRATION.format(frame=frame)] = npz_bytes({"vertices": registration.astype(np.float32)})
        for kind, pattern, pictures in (("images", IMAGES, images), ("masks", MASKS, masks)):
            for camera, picture in (pictures or {}).items():
                self._kinds.add(kind)
                files[pattern.format(camera=camera, frame=frame)] = png_bytes(picture)
        with storage_errors(f"writing {self._final}"):
            for name, data in files.items():
                path = self._staging / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            if landmarks is not None:
                self._kinds.add("landmarks")
                path = self._staging / LANDMARKS.format(frame=frame)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_landmarks(landmarks, path)
        self._frames.append(frame)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Publish the sequence, or remove the staging folder if an error is on its way."""
        self._exit.__exit__(kind, error, trace)

    def _describe(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            return
        registration = None
        if "registration" in self._kinds:
            registration = RegistrationEntry(head=self._head, topology=self._topology, pattern=REGISTRATION)
        capture = CaptureFile(
            format=CAPTURE_FORMAT,
            version=CAPTURE_VERSION,
            unit="m",
            fps=self._fps,
            frames=self._frames,
            pixel_center=0.5,
            cameras={
                camera.name: CameraEntry(
                    K=camera.K.tolist(),
                    world_to_camera=camera.world_to_camera.tolist(),
                    width=camera.width,
                    height=camera.height,
                )
                for camera in self._cameras
            },
            scan=SCAN,
            registration=registration,
            landmarks=LANDMARKS if "landmarks" in self._kinds else None,
            images=IMAGES if "images" in self._kinds else None,
            masks=MASKS if "masks" in self._kinds else None,
            generator=self._generator,
        )
        with storage_errors(f"writing {self._final}"):
            (self._staging / CAPTURE_FILE).write_bytes(capture_file_bytes(capture))


def is_complete(root: Path, key: SequenceKey, content_key: str) -> bool:
    """Whether a published sequence carries ``generator["key"] == content_key``."""
    try:
        capture = read_capture_file(Path(root) / key.subject / key.sequence)
    except InputError:
        return False
    return (capture.generator or {}).get("key") == content_key


def png_bytes(picture: npt.NDArray[np.uint8] | npt.NDArray[np.bool_]) -> bytes:
    """Return a PNG without metadata: (H, W, 3) uint8 sRGB, or a mask (H, W) bool as 0 and 255."""
    from PIL import Image as PillowImage

    pixels = picture.astype(np.uint8) * 255 if picture.dtype == np.bool_ else np.asarray(picture, np.uint8)
    buffer = io.BytesIO()
    PillowImage.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
