"""Depth maps of a camera as files hold them: whole numbers of steps or lengths, planar depth or length of the ray."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field, model_validator

from datagen.common.errors import CameraError, InputError
from datagen.common.files import read_npz
from datagen.common.names import checked_pattern
from datagen.common.settings import Section
from datagen.geometry.camera import Camera
from datagen.geometry.lens import Lens, source_pixels
from datagen.geometry.space import metres_per

SUFFIXES = (".png", ".tif", ".tiff", ".npy", ".npz", ".bin")
_WHOLE = frozenset({"I;16", "I;16B", "I;16L", "I"})
_REAL = "F"
_MOST_PIXELS = 2**28
_COLMAP_HEADER = 64  # bytes: width&height&channels&
# Sides of a smaller map may have been rounded, either way.
_ROUNDING = 1.0


def _depth_pattern(pattern: str) -> str:
    checked_pattern(pattern, camera=True)
    if not pattern.lower().endswith(SUFFIXES):
        raise ValueError(f"{pattern!r} does not end in one of {', '.join(SUFFIXES)}")
    return pattern


class DepthEntry(Section):
    """Depth maps of the cameras, in pixels of their pictures or of a smaller copy."""

    pattern: Annotated[str, AfterValidator(_depth_pattern)] = "depth/{camera}/{frame:06d}.png"
    unit: str | None = Field(None, description="of the files' numbers, where it is not the capture's")
    metres_per_step: float | None = Field(None, gt=0, description="or the length of one step of them")
    offset_steps: float = Field(0.0, description="is added to each number; 0 itself always means that there is none")
    kind: Literal["z", "ray"] = Field("z", description="along the optical axis, or along the pixel's ray")

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.unit is not None and self.metres_per_step is not None:
            raise ValueError("`unit` and `metres_per_step` exclude each other")
        return self

    def step_m(self, unit: str, name: str) -> float:
        """Return the length of one step in metres, in a capture of some unit."""
        return self.metres_per_step or metres_per(self.unit or unit, name)


@dataclass(frozen=True)
class DepthMap:
    """What a camera measured, or a stereo program for it.

    Attributes
    ----------
    depth : (H, W) float32
        Planar, metres; 0 where there is none.
    camera : Camera
        Of exactly this size.
    """

    depth: npt.NDArray[np.float32]
    camera: Camera

    @property
    def points(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """World points of the pixels that have a depth (N, 3), metres, and which those are (H, W)."""
        there = self.depth > 0
        return self.camera.unproject(self.depth)[there], there

    def within(self, inside: npt.NDArray[np.bool_]) -> DepthMap:
        """Return the map with nothing outside of a mask (h, w) of the same picture, whatever the mask's size."""
        if inside.shape != self.depth.shape:
            rows, columns = (
                ((np.arange(mine) + 0.5) * other / mine).astype(np.int64)
                for mine, other in zip(self.depth.shape, inside.shape, strict=True)
            )
            inside = inside[np.ix_(rows, columns)]
        return replace(self, depth=np.where(inside, self.depth, np.float32(0)))


def read_depth_map(
    path: Path,
    entry: DepthEntry,
    unit: str,
    camera: Camera,
    lens: tuple[Lens, npt.NDArray[np.float64]] | None = None,
) -> DepthMap:
    """Read one depth map: PNG or TIFF of one channel, ``.npy``, ``.npz``, or COLMAP's ``.bin``.

    Parameters
    ----------
    unit : str
        Of the capture.
    camera : Camera
        Of the picture, straight. The map may be a smaller or larger copy of its grid.
    lens : (Lens, (3, 3) float64), optional
        Distortion and K of the picture as it is stored, whose pixels are the map's.

    Raises
    ------
    InputError
        If the file is missing, broken, of 8 bits or of several channels.
    CameraError
        If its sides are not those of the picture, or in their proportion.
    """
    numbers = _numbers(path)
    own = _scaled(camera, numbers.shape, path)
    if lens is not None and not lens[0].is_straight:
        numbers = _straight(numbers, lens[0], _scaled(replace(camera, K=lens[1]), numbers.shape, path).K, own)
    with np.errstate(invalid="ignore", over="ignore"):
        steps = numbers.astype(np.float64)
        there = np.isfinite(steps) & (steps != 0)
        depth = np.where(there, steps + entry.offset_steps, 0.0) * entry.step_m(unit, str(path))
        if entry.kind == "ray":
            depth /= _ray_lengths(own)
        # Negative numbers are how some programs say that there is none.
        kept = there & (depth > 0) & (depth < np.finfo(np.float32).max)
    return DepthMap(np.where(kept, depth, 0.0).astype(np.float32), own)


def _straight(numbers: npt.NDArray[Any], lens: Lens, K: npt.NDArray[np.float64], camera: Camera) -> npt.NDArray[Any]:
    """Return the numbers as the straight camera has them: the nearest pixel's, for none may mix two surfaces."""
    x, y = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    at = source_pixels(lens, K, camera.K, np.stack([x.ravel(), y.ravel()], axis=1))
    column, row = np.floor(np.nan_to_num(at, nan=-1.0)).astype(np.int64).T
    inside = (column >= 0) & (row >= 0) & (column < camera.width) & (row < camera.height)
    found = np.zeros_like(numbers)
    found.reshape(-1)[inside] = numbers[row[inside], column[inside]]
    return found


def _ray_lengths(camera: Camera) -> npt.NDArray[np.float64]:
    """Return the length of each pixel's ray per unit of planar depth, (H, W)."""
    x, y = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(camera.K).T
    return np.asarray(np.linalg.norm(rays, axis=-1))


def _scaled(camera: Camera, shape: tuple[int, ...], path: Path) -> Camera:
    height, width = shape
    factor = np.array([width / camera.width, height / camera.height])
    if abs(factor[0] * camera.height - height) > _ROUNDING * max(1.0, factor.max()):
        raise CameraError(
            f"{path} is {width}×{height}, but camera {camera.name} has pictures of {camera.width}×{camera.height}",
            "depth maps of the pictures' size, or of the same proportions",
            "Export them for these very pictures, neither cropped nor turned",
        )
    K = camera.K.copy()
    K[:2] *= factor[:, None]
    return replace(camera, K=K, width=width, height=height)


def _numbers(path: Path) -> npt.NDArray[Any]:
    """Return the numbers of a file as they are, (H, W)."""
    suffix = path.suffix.lower()
    readers: dict[str, Callable[[Path], npt.NDArray[Any]]] = {".npy": _npy, ".npz": _npz, ".bin": _colmap}
    try:
        numbers = readers.get(suffix, _picture)(path)
    except InputError:
        raise
    except (OSError, ValueError, EOFError, SyntaxError, MemoryError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(
            f"depth map {path} cannot be read ({reason or type(error).__name__})",
            f"a whole file: {', '.join(SUFFIXES)}",
            "Copy or export it again",
        ) from None
    if numbers.ndim == 3 and 1 in (numbers.shape[0], numbers.shape[-1]):
        numbers = numbers.reshape([side for side in numbers.shape if side != 1] or [1])
    if numbers.ndim != 2 or not numbers.size or numbers.dtype.kind not in "uif" or numbers.dtype.itemsize < 2:
        raise InputError(
            f"depth map {path} holds {numbers.dtype} of shape {numbers.shape}",
            "(height, width) numbers of 16 bits or more",
            "Depth of 8 bits, or as colours, is a picture of it: export the numbers",
        )
    return numbers


def _picture(path: Path) -> npt.NDArray[Any]:
    from PIL import Image

    with open(path, "rb") as file, Image.open(file) as opened:
        if opened.mode not in _WHOLE and opened.mode != _REAL:
            raise InputError(
                f"depth map {path} has the pixels {opened.mode}",
                "one channel of 16 bits, or of float32",
                "Depth of 8 bits, or as colours, is a picture of it: export the numbers",
            )
        return np.asarray(opened)


def _npy(path: Path) -> npt.NDArray[Any]:
    # A header may promise more than there is: mapped, nothing is allocated for it.
    found: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return np.array(found)


def _npz(path: Path) -> npt.NDArray[Any]:
    found = read_npz(path, ("depth",), expected="a depth map named `depth`", fix="Save it under that name")
    return found["depth"]


def _colmap(path: Path) -> npt.NDArray[Any]:
    """Read a dense map of COLMAP: ``width&height&channels&``, then float32, row by row."""
    with open(path, "rb") as file:
        *sides, _ = file.read(_COLMAP_HEADER).split(b"&", 3)
        if len(sides) != 3 or not all(side.isdigit() for side in sides):
            raise ValueError("it does not begin with width&height&channels&")
        width, height, channels = (int(side) for side in sides)
        if channels != 1 or not 0 < width * height <= _MOST_PIXELS:
            raise ValueError(f"it says to be {width}×{height} with {channels} channels")
        file.seek(sum(len(side) + 1 for side in sides))
        numbers = np.frombuffer(file.read(4 * width * height), "<f4")
        return numbers.reshape(height, width)
