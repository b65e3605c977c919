"""Which cameras of a frame give samples, and why the others do not: its scan against its cameras, images and masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.errors import CameraError, InputError
from datagen.geometry.camera import Camera
from datagen.sources.frame import Frame

# Of a scan's projection (pixels) inside the mask grown by a pixel: true cameras and masks have 0.977 to 0.998 on
# simulated heads with stray pieces, of 32 to 320 pixels, and 1 on pictures drawn of a real scan; masks upside down on
# that nearly symmetric head 0.83, all other mistakes tried less.
LEAST_INSIDE = 0.9
# A picture has an empty background if such a share of it has one very colour, as no sensor gives; one of nothing else
# tells nothing. Of the projection, true cameras have 0.005 there; the pictures of two cameras 50 degrees apart,
# exchanged, 0.48.
EMPTY_SHARE = (0.25, 0.999)
MOST_ON_EMPTY = 0.3
SAMPLED_PIXELS = 2**18
FEWEST_POINTS = 0.01  # of the scan's points: a camera that has fewer in its image sees nothing
SMALLEST_PX = 8  # across: less is no picture of a head
LEAST_FOCAL = 0.1  # of the longer side: 157 degrees, wider than any lens without distortion
NEAREST_M = 0.1  # to the middle of the scan: nearer is inside the head
# Between units of length, to name a cause; of those that fit, the one that puts a camera nearest to its usual place.
_FACTORS = (10, 0.1, 100, 0.01, 1000, 0.001, 25.4, 1 / 25.4, 39.37, 1 / 39.37)
USUAL_DISTANCE_M = 1.0
NO_IMAGE = "it has no image"
OUTSIDE = "the middle of face and ears lies outside its image"
_CAMERA = "world_to_camera (its direction, axes and unit) and K (for images of this size)"


@dataclass(frozen=True)
class Views:
    """What the cameras of a frame are good for.

    Attributes
    ----------
    wrong : mapping of camera name to reason
        Of cameras whose image or mask cannot be read or contradicts the scan, or that cannot be where they are said
        to be.
    blind : mapping of camera name to reason
        Of cameras that see nothing of the head, or have no image.
    farthest_m : mapping of camera name to float
        Depth of what lies farthest of the scan around the head, of the cameras that give samples.
    measured : tuple of str
        Cameras with a depth map.
    fused : bool
        Whether the scan was fused from them.
    """

    wrong: Mapping[str, str] = field(default_factory=dict)
    blind: Mapping[str, str] = field(default_factory=dict)
    farthest_m: Mapping[str, float] = field(default_factory=dict)
    measured: tuple[str, ...] = ()
    fused: bool = False

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Views:
        """Read what ``dataclasses.asdict`` gave."""
        wrong, blind, farthest_m = (dict(content[name]) for name in ("wrong", "blind", "farthest_m"))
        return cls(wrong, blind, farthest_m, tuple(content["measured"]), bool(content["fused"]))


def look_at_views(frame: Frame) -> Views:
    """Read the images and masks of a frame and hold them against its scan, as each camera sees it."""
    scan = frame.scan
    # Centres too, so that no triangle of a sparse mesh is missed; a pixel counts once however many points it has.
    points = np.concatenate([scan.vertices, scan.vertices[scan.faces].mean(axis=1)])
    wrong, blind = dict[str, str](), dict[str, str]()
    for camera in frame.cameras:
        name = camera.name
        try:
            seen, depth = _seen(camera, points)
            if len(depth) < FEWEST_POINTS * len(points):
                blind[name] = (
                    f"it sees nothing of the scan, which lies {_where(camera, points)}{_other_unit(camera, points)}"
                )
            _check_place(camera, points, seen)
            _check_pixels(frame, camera, *seen.T)
        except InputError as error:
            wrong[name] = str(error)
            blind.pop(name, None)
        if name not in frame.images:
            blind.setdefault(name, NO_IMAGE)
    return Views(wrong, blind, measured=tuple(sorted(frame.depths)), fused=frame.fused)


def _seen(camera: Camera, points: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the pixels (P, 2) that points fall on, each once, and the depth (Q,) of every point in the image."""
    pixels, z = camera.project(points)
    inside = (z > 0) & (pixels >= 0).all(axis=1) & (pixels < (camera.width, camera.height)).all(axis=1)
    column, row = pixels[inside].astype(np.int64).T
    flat = np.unique(row * camera.width + column)
    return np.stack([flat % camera.width, flat // camera.width], axis=1), z[inside]


def _where(camera: Camera, points: npt.NDArray[np.float64]) -> str:
    return "behind it" if np.median(camera.to_camera(points)[:, 2]) <= 0 else "beside its image"


def _other_unit(camera: Camera, points: npt.NDArray[np.float64]) -> str:
    """Say which factor of the camera's translation would bring the scan into its image, if one does."""
    fits = []
    for factor in _FACTORS:
        pose = camera.world_to_camera.copy()
        pose[:3, 3] *= factor
        moved = replace(camera, world_to_camera=pose)
        seen, depth = _seen(moved, points)
        if len(depth) > len(points) / 2 and _extent(seen) >= SMALLEST_PX and not _inside_head(moved, points):
            fits.append((abs(np.log(np.median(depth) / USUAL_DISTANCE_M)), factor))
    if not fits:
        return ""
    return (
        f"; with {min(fits)[1]:g} times its translation it would see it: if the cameras are in another unit than the "
        "scan, state theirs as `camera_unit` in capture.json"
    )


def _extent(seen: npt.NDArray[np.int64]) -> int:
    return int(np.ptp(seen, axis=0).max()) + 1 if len(seen) else 0


def _inside_head(camera: Camera, points: npt.NDArray[np.float64]) -> bool:
    return bool(np.linalg.norm(camera.centre - np.median(points, axis=0)) < NEAREST_M)


def _check_place(camera: Camera, points: npt.NDArray[np.float64], seen: npt.NDArray[np.int64]) -> None:
    if _inside_head(camera, points):
        raise CameraError(
            f"camera {camera.name} stands inside the scan" + _other_unit(camera, points),
            "a camera in front of the face",
            f"Check {_CAMERA}",
        )
    side = max(camera.width, camera.height)
    focal = min(camera.K[0, 0], camera.K[1, 1])
    if focal < LEAST_FOCAL * side:
        raise CameraError(
            f"camera {camera.name} has a focal length of {focal:.3g} pixels for an image of {side} pixels",
            f"at least {LEAST_FOCAL * side:g} pixels",
            "Give K in pixels of the image, not in units of its width or in millimetres",
        )
    if len(seen) and _extent(seen) < SMALLEST_PX:
        raise CameraError(
            f"the scan is {_extent(seen)} pixels across in the image of camera {camera.name}"
            + _other_unit(camera, points),
            f"at least {SMALLEST_PX}",
            f"Check {_CAMERA}",
        )


def _check_pixels(frame: Frame, camera: Camera, column: npt.NDArray[np.int64], row: npt.NDArray[np.int64]) -> None:
    """Read what there is of image and mask, and refuse one that contradicts where the scan is seen."""
    image = frame.images[camera.name]() if camera.name in frame.images else None
    mask = frame.masks[camera.name]() if camera.name in frame.masks else None
    if mask is not None and len(row):
        inside = float(_grown(mask)[row, column].mean())
        if inside < LEAST_INSIDE:
            raise CameraError(
                f"of the scan, as camera {camera.name} should see it, {inside:.0%} lies inside its mask"
                + ("" if mask.any() else ", which is black everywhere"),
                f"at least {LEAST_INSIDE:.0%}",
                f"Check the mask (white on the person, not turned, of this camera and frame), {_CAMERA}",
            )
        if mask.all() and len(row) < mask.size / 2:
            raise CameraError(
                f"the mask of camera {camera.name} is white everywhere", "black behind the person", "Make it again"
            )
    if image is not None and len(row):
        colour, share = _commonest(image)
        empty = float((image[row, column] == colour).all(axis=1).mean())
        if EMPTY_SHARE[0] <= share <= EMPTY_SHARE[1] and empty > MOST_ON_EMPTY:
            raise CameraError(
                f"of the scan, as camera {camera.name} should see it, {empty:.0%} lies where its image is empty (the "
                f"colour {tuple(colour.tolist())}, which {share:.0%} of it has)",
                f"at most {MOST_ON_EMPTY:.0%}",
                f"Check the image (of this camera and frame, not turned), {_CAMERA}",
            )


def _grown(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return a mask with a pixel more all around: the scan may touch a pixel that is less than half the person's."""
    tall = mask.copy()
    tall[1:] |= mask[:-1]
    tall[:-1] |= mask[1:]
    wide = tall.copy()
    wide[:, 1:] |= tall[:, :-1]
    wide[:, :-1] |= tall[:, 1:]
    return wide


def _commonest(image: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], float]:
    """Return the commonest colour of an image, and its share of the pixels of an even grid."""
    step = max(1, int(np.sqrt(image.shape[0] * image.shape[1] / SAMPLED_PIXELS)))
    packed = image[::step, ::step].astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    values, counts = np.unique(packed, return_counts=True)
    best = int(values[counts.argmax()])
    return np.array([best >> 16, (best >> 8) & 255, best & 255], np.uint8), float(counts.max() / packed.size)
