"""The predicted frames on disk, and normals of their depth."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from trainer.evaluation.cameras import unproject

# Level 6 takes three times as long and saves a few percent of float maps.
_COMPRESSION = 1
_ARRAYS = ("image", "depth", "normal", "canonical", "depth_confidence", "canonical_confidence", "surface", "valid")


@dataclass(frozen=True)
class PredictedFrame:
    """All there is of one frame; R × R maps.

    Attributes
    ----------
    image : (3, R, R) uint8
    depth : (R, R) float32
        Planar metres.
    normal : (3, R, R) float32
        Camera axes; 0 where not valid.
    canonical : (3, R, R) float32
        Normalised coordinates.
    depth_confidence, canonical_confidence, surface : (R, R) float32
    valid : (R, R) bool
        Foreground within the image.
    intrinsics : (3, 3) float32
        Of the map, pixels.
    world_to_camera : (4, 4) float32
    """

    image: npt.NDArray[np.uint8]
    depth: npt.NDArray[np.float32]
    normal: npt.NDArray[np.float32]
    canonical: npt.NDArray[np.float32]
    depth_confidence: npt.NDArray[np.float32]
    canonical_confidence: npt.NDArray[np.float32]
    surface: npt.NDArray[np.float32]
    valid: npt.NDArray[np.bool_]
    intrinsics: npt.NDArray[np.float32]
    world_to_camera: npt.NDArray[np.float32]


class FrameStore:
    """Frames in a folder, ``000000_<name>.npz`` and so on.

    Parameters
    ----------
    folder : Path
        Made if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._files: list[Path] = []

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: int) -> PredictedFrame:
        with np.load(self._files[number]) as arrays:
            return PredictedFrame(**{field.name: arrays[field.name] for field in fields(PredictedFrame)})

    def __iter__(self) -> Iterator[PredictedFrame]:
        return (self[k] for k in range(len(self)))

    def add(self, stem: str, frame: PredictedFrame) -> None:
        """Append a frame."""
        path = self._folder / f"{stem}.npz"
        write_npz(path, {field.name: getattr(frame, field.name) for field in fields(PredictedFrame)})
        self._files.append(path)

    def write_joined(self, path: Path, others: dict[str, npt.NDArray[Any]], stacked: Iterable[str] = _ARRAYS) -> None:
        """Write one npz with the arrays of all frames stacked, reading them one frame at a time.

        Parameters
        ----------
        others : dict
            Further arrays, written as they are.
        stacked : iterable of str
            Which attributes of the frames.
        """
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=_COMPRESSION) as archive:
            for name in stacked:
                _stream_member(archive, name, len(self), lambda k, name=name: self._one(k, name))  # type: ignore[misc]
            for name, values in others.items():
                _write_member(archive, name, values)

    def _one(self, number: int, name: str) -> npt.NDArray[Any]:
        with np.load(self._files[number]) as arrays:
            return arrays[name]


class ArraySpool:
    """Small arrays of equal shape, one a frame, appended to files and joined at the end.

    Parameters
    ----------
    folder : Path
        For the files, which :meth:`write` removes.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._kinds: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
        self._open: dict[str, IO[bytes]] = {}
        self.count = 0

    def add(self, row: dict[str, npt.NDArray[Any]]) -> None:
        """Append one row; the same names, types and shapes every time."""
        for name, values in row.items():
            if name not in self._kinds:
                self._kinds[name] = (values.dtype, values.shape)
                self._open[name] = (self._folder / f"{name}.bin").open("wb")
            self._open[name].write(np.ascontiguousarray(values).tobytes())
        self.count += 1

    def close(self) -> None:
        """Close the files; they stay."""
        for file in self._open.values():
            file.close()

    def write(self, path: Path, others: dict[str, npt.NDArray[Any]]) -> None:
        """Write everything as one npz, and remove the files."""
        self.close()
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=_COMPRESSION) as archive:
            for name, (dtype, shape) in self._kinds.items():
                file = self._folder / f"{name}.bin"
                values = np.memmap(file, dtype, "r", shape=(self.count, *shape))
                _stream_member(archive, name, self.count, lambda k, values=values: values[k])  # type: ignore[misc]
                del values
                file.unlink()
            for name, array in others.items():
                _write_member(archive, name, array)


def write_npz(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Write a compressed npz, quickly rather than small."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=_COMPRESSION) as archive:
        for name, values in arrays.items():
            _write_member(archive, name, values)


def _write_member(archive: zipfile.ZipFile, name: str, values: npt.NDArray[Any]) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array(file, np.asarray(values), allow_pickle=False)


def _stream_member(archive: zipfile.ZipFile, name: str, count: int, row: Callable[[int], npt.NDArray[Any]]) -> None:
    """Write an array of ``count`` rows without ever holding more than one."""
    first = row(0)
    header = {
        "descr": np.lib.format.dtype_to_descr(first.dtype),
        "fortran_order": False,
        "shape": (count, *first.shape),
    }
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array_header_2_0(file, header)
        for k in range(count):
            file.write(np.ascontiguousarray(row(k)).tobytes())


def normals_from_depth(
    depth_m: npt.NDArray[np.float32], intrinsics: npt.NDArray[np.floating], valid: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    """Return the unit normals of a depth map, towards the camera; 0 where there are none.

    Tangents are differences of unprojected points. On each axis the neighbour with the smaller step in depth is taken
    where both are valid and the steps differ much (a silhouette lies on the other side), else their mean.

    Parameters
    ----------
    depth_m : (H, W) float32
    intrinsics : (3, 3), pixels
    valid : (H, W) bool

    Returns
    -------
    (3, H, W) float32, camera axes
    """
    points = unproject(depth_m, intrinsics)
    across, has_across = _tangent(points, valid, 2)
    down, has_down = _tangent(points, valid, 1)
    normal = np.cross(down, across, axis=0)
    length = np.linalg.norm(normal, axis=0)
    known = valid & has_across & has_down & (length > 0)
    normal = np.where(known, normal / np.where(length > 0, length, 1), 0)
    # A surface that is seen faces the camera.
    away = (normal * points).sum(0) > 0
    return np.where(away, -normal, normal).astype(np.float32)


def _tangent(
    points: npt.NDArray[np.float64], valid: npt.NDArray[np.bool_], axis: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return differences along an axis of (3, H, W), (3, H, W), and where there are any (H, W)."""
    forward, has_forward = np.zeros_like(points), np.zeros_like(valid)
    backward, has_backward = np.zeros_like(points), np.zeros_like(valid)
    low, high = [slice(None)] * 3, [slice(None)] * 3
    low[axis], high[axis] = slice(None, -1), slice(1, None)
    flat_low, flat_high = tuple(low[1:]), tuple(high[1:])
    step = points[tuple(high)] - points[tuple(low)]
    both = valid[flat_high] & valid[flat_low]
    forward[tuple(low)], has_forward[flat_low] = step, both
    backward[tuple(high)], has_backward[flat_high] = step, both
    jump_forward, jump_backward = np.abs(forward[2]), np.abs(backward[2])
    jump_forward = np.where(has_forward, jump_forward, np.inf)
    jump_backward = np.where(has_backward, jump_backward, np.inf)
    with np.errstate(invalid="ignore"):
        similar = np.maximum(jump_forward, jump_backward) <= 3 * np.minimum(jump_forward, jump_backward)
    nearer = np.where(jump_forward <= jump_backward, forward, backward)
    return np.where(similar & has_forward & has_backward, (forward + backward) / 2, nearer), has_forward | has_backward
