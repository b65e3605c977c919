"""Cameras as ``capture.json`` declares them, and as their pictures are read: straight, in metres, frame by frame."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from datagen.common.errors import CameraError, InputError
from datagen.common.settings import Section
from datagen.geometry.camera import Camera, validate_camera
from datagen.geometry.lens import BrownLens, Lens, straight_intrinsics, straighten
from datagen.geometry.lens_models import LENS_MODELS, lens_of

MAX_PIXELS = 2**16
_SEE = "See docs/capture-format.md for the layout"

Matrix = npt.NDArray[np.float64]
Number = Annotated[float, Field(ge=-1e9, le=1e9)]


class DistortionEntry(Section):
    """Distortion of a lens: pictures and masks are straightened when they are read."""

    model: str = Field(description=f"one of {', '.join(LENS_MODELS)}")
    parameters: list[Number] = Field(description="in the model's order, of normalised coordinates")


class CameraEntry(Section):
    """One calibrated camera."""

    K: list[list[Number]]
    world_to_camera: list[list[Number]] | None = Field(
        None, description="rigid 4×4, OpenCV axes, translation in `camera_unit`"
    )
    poses: list[list[list[Number]]] | None = Field(
        None, description="or, of a camera that moves, one such matrix for each of `frames`"
    )
    width: int = Field(ge=1, le=MAX_PIXELS)
    height: int = Field(ge=1, le=MAX_PIXELS)
    distortion: DistortionEntry | None = Field(None, description="of the lens, where pictures are not straight")
    color: list[list[Number]] | None = Field(
        None, description="3×4 matrix A: (red, green, blue) of 0 to 1 become rgb @ A[:, :3] + A[:, 3]"
    )

    @model_validator(mode="after")
    def _has_one_place(self) -> Self:
        if (self.world_to_camera is None) == (self.poses is None):
            raise ValueError("give `world_to_camera`, or `poses` (one matrix for each frame), one of the two")
        return self


@dataclass(frozen=True, eq=False)
class RecordedCamera:
    """A camera as its pictures are stored, and the straight one that they are read as.

    Attributes
    ----------
    stored : Camera
        With the K of the pictures as stored; at the first frame, where it moves.
    poses : mapping of frame to (4, 4) float64
        World to camera, metres; empty if it stands still.
    lens : Lens
    color : (3, 4) float64 or None
        Affine on RGB in [0, 1].
    """

    stored: Camera
    poses: dict[int, Matrix] = field(default_factory=dict)
    lens: Lens = field(default_factory=BrownLens)
    color: Matrix | None = None

    @property
    def stored_intrinsics(self) -> Matrix:
        """K (3, 3) of the pictures as stored, pixel centres at +0.5."""
        return self.stored.K

    @cached_property
    def camera(self) -> Camera:
        """The straight camera; at the first frame, where it moves. Found when it is first asked for: that takes 50 ms.

        Raises
        ------
        CameraError
            If no straight picture can be filled.
        """
        one = self.stored
        try:
            K = _straight(self.lens, tuple(one.K.ravel().tolist()), one.width, one.height)
        except CameraError:
            K = straight_intrinsics(self.lens, one.K, one.width, one.height, one.name)  # says whose it is
        return replace(one, K=K)

    def at(self, frame: int) -> Camera:
        """Return the straight camera of a frame."""
        return replace(self.camera, world_to_camera=self.poses[frame]) if self.poses else self.camera

    def straight_image(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return a picture (H, W, 3) as stored, without distortion and with its colours corrected."""
        if not self.lens.is_straight:
            pixels = straighten(pixels, self.lens, self.stored_intrinsics, self.camera.K)
        return pixels if self.color is None else corrected(pixels, self.color)

    def straight_mask(self, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return a mask (H, W) as stored, without distortion."""
        return mask if self.lens.is_straight else straighten(mask, self.lens, self.stored_intrinsics, self.camera.K)


@lru_cache(maxsize=4096)
def _straight(lens: Lens, K: tuple[float, ...], width: int, height: int) -> Matrix:
    # The cameras of a rig often share one.
    return straight_intrinsics(lens, np.array(K).reshape(3, 3), width, height, "")


def corrected(pixels: npt.NDArray[np.uint8], color: Matrix) -> npt.NDArray[np.uint8]:
    """Return a picture (H, W, 3) sRGB whose colours, as rows of 0 to 1, became ``rgb @ A[:, :3] + A[:, 3]``."""
    matrix, shift = color[:, :3].astype(np.float32), (255 * color[:, 3]).astype(np.float32)
    changed = pixels.astype(np.float32) @ matrix + shift
    return np.clip(np.rint(changed), 0, 255).astype(np.uint8)


def recorded_camera(
    camera: str,
    entry: CameraEntry,
    frames: list[int],
    *,
    metres: float,
    pixel_center: float,
    name: str,
    straighten_later: bool = False,
) -> RecordedCamera:
    """Return a camera of ``capture.json``, validated.

    Parameters
    ----------
    camera : str
        Its name.
    frames : list of int
        That ``entry.poses`` belong to.
    metres : float
        Length of the unit of translations.
    pixel_center : float
        Where K has the centre of the top-left pixel.
    name : str
        Of the file, for messages.
    straighten_later : bool
        Whether the straight camera is found, and with it whether there is one, only when it is asked for.

    Raises
    ------
    InputError
        If rows differ in length, or there is not one pose for each frame.
    CameraError
        If it is no camera, or its distortion or colour matrix is none.
    """
    given = [entry.world_to_camera] if entry.poses is None else entry.poses
    if entry.poses is not None and len(entry.poses) != len(frames):
        raise InputError(
            f"{name}: camera {camera} has {len(entry.poses)} `poses` for {len(frames)} frames",
            "one 4×4 matrix for each of `frames`, in their order",
            "Add those that are missing, or take the frames out",
        )
    try:
        K, poses = np.array(entry.K, np.float64), [np.array(pose, np.float64) for pose in given]
    except ValueError:
        raise InputError(
            f"{name}: K or world_to_camera of camera {camera} has rows of different length",
            "3×3 and 4×4 numbers",
            _SEE,
        ) from None
    if K.shape == (3, 3):
        K[:2, 2] += 0.5 - pixel_center
    for place, pose in enumerate(poses):
        if pose.shape == (4, 4):
            pose[:3, 3] *= metres
        validate_camera(Camera(_said(camera, entry, frames, place), K, pose, entry.width, entry.height))
        # Within the tolerances of the check, but the dataset wants these exactly.
        pose[3] = 0, 0, 0, 1
    K[1, 0], K[2] = 0, (0, 0, 1)
    lens = _lens(camera, entry)
    moving = {} if entry.poses is None else dict(zip(frames, poses, strict=True))
    stored = Camera(camera, K, poses[0], entry.width, entry.height)
    found = RecordedCamera(stored, moving, lens, _color(camera, entry, name))
    if not straighten_later:
        _ = found.camera
    return found


def _said(camera: str, entry: CameraEntry, frames: list[int], place: int) -> str:
    return camera if entry.poses is None else f"{camera} at frame {frames[place]}"


def _lens(camera: str, entry: CameraEntry) -> Lens:
    if entry.distortion is None:
        return BrownLens()
    return lens_of(entry.distortion.model, entry.distortion.parameters, camera)


def _color(camera: str, entry: CameraEntry, name: str) -> Matrix | None:
    if entry.color is None:
        return None
    if [len(row) for row in entry.color] != [4, 4, 4]:
        raise CameraError(
            f"{name}: `color` of camera {camera} has rows of {[len(row) for row in entry.color]} numbers",
            "3 rows of 4: a matrix A, by which rgb becomes rgb @ A[:, :3] + A[:, 3]",
            _SEE,
        )
    return np.array(entry.color, np.float64)
