"""Head-centred square crops, with the camera that goes with them."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from datagen.common.errors import CameraError
from datagen.geometry.camera import Camera, check_image_size
from datagen.render.contract import NEAR_M


@dataclass(frozen=True)
class CropBox:
    """A square region of an image and the camera of that region after resizing.

    Attributes
    ----------
    left, top, size : float
        Pixels of the full image; fractions count, and the box may reach beyond the image.
    camera : Camera
        Of the resized crop: a point projects to the same place of the scene in both images.
    """

    left: float
    top: float
    size: float
    camera: Camera


@dataclass(frozen=True)
class Jitter:
    """How a crop departs from the one that fits.

    Attributes
    ----------
    right, down : float
        Shift, as a share of the side before scaling.
    scale : float
        Factor of the side, about the centre.
    """

    right: float = 0.0
    down: float = 0.0
    scale: float = 1.0


def draw_jitter(shift: float, scale: float, seed: int, *names: str) -> Jitter:
    """Draw a jitter that is the same whenever seed and names are.

    Parameters
    ----------
    shift : float
        Largest shift either way, as a share of the side; uniform.
    scale : float
        Largest change of the side, as a share of it; uniform in its logarithm between 1 / (1 + scale) and 1 + scale.
    names : str
        Of what shares the jitter, such as subject, sequence and camera.
    """
    digest = hashlib.sha256(json.dumps([seed, *names]).encode()).digest()
    right, down, size = np.random.default_rng(list(digest)).uniform(-1, 1, 3)
    return Jitter(shift * float(right), shift * float(down), float((1 + scale) ** size))


def head_crop(
    camera: Camera, head_points: npt.ArrayLike, resolution: int, margin: float, jitter: Jitter = Jitter()
) -> CropBox:
    """Fit a square around projected head points.

    The side is the longer side of the points' bounding box times ``margin``, the centre that of the bounding box,
    both changed by ``jitter``.

    Parameters
    ----------
    head_points : (N, 3) float
        World metres.
    resolution : int
        Pixels a side of the resized crop.
    margin : float
        Above 0; 1 touches the points.
    jitter : Jitter
        None by default.

    Raises
    ------
    datagen.common.errors.CameraError
        If a point lies behind the camera or is not finite, there are no points, they all project to one place, or
        resolution or margin is not positive.
    """
    points = np.asarray(head_points, np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0 or not np.isfinite(points).all():
        raise CameraError(
            f"the head points to crop around have shape {points.shape} or are not finite",
            "(N, 3) finite world coordinates, N at least 1",
            "Pass the vertices of the registered head",
        )
    if resolution < 1 or not margin > 0 or not math.isfinite(margin):
        raise CameraError(
            f"a crop of {resolution} pixels a side with margin {margin}",
            "a positive resolution and margin",
            "Set render.resolution and render.crop_margin",
        )
    pixels, z = camera.project(points)
    behind = z <= NEAR_M
    if behind.any():
        raise CameraError(
            f"{int(behind.sum())} of {len(points)} head points are behind camera {camera.name} "
            f"(nearest z = {z.min():.3f} m)",
            "the whole head in front of the camera",
            "Check the extrinsics (world_to_camera, not camera_to_world) and the unit, or leave this camera out",
        )
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    size = float((high - low).max()) * margin
    if not size > 0:
        raise CameraError(
            f"all head points project to one place in camera {camera.name}",
            "points that span an area",
            "Pass the vertices of the registered head",
        )
    centre = (low + high) / 2 + size * np.array([jitter.right, jitter.down])
    size *= jitter.scale
    left, top = centre - size / 2
    return CropBox(float(left), float(top), size, camera.crop(float(left), float(top), size, resolution))


def crop_image(image: npt.NDArray[np.uint8], box: CropBox, resolution: int) -> npt.NDArray[np.uint8]:
    """Cut and resize an image with antialiasing (bicubic, widened when shrinking).

    Outside the image the crop is black: a stretched edge would look like a measurement. Maps are never resampled this
    way; they are rendered with ``box.camera``.

    Parameters
    ----------
    image : (H, W, 3) uint8
        sRGB, of the full camera.
    resolution : int
        Pixels a side, the one the box was made for.

    Returns
    -------
    (3, resolution, resolution) uint8

    Raises
    ------
    datagen.common.errors.CameraError
        If the resolution contradicts the box, the image is not (H, W, 3) uint8, or the box misses it altogether.
    """
    check_image_size(box.camera, (resolution, resolution), "the crop")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise CameraError(
            f"the image to crop has shape {image.shape} and type {image.dtype}", "(H, W, 3) uint8", "Convert it to sRGB"
        )
    height, width = image.shape[:2]
    # The filter reaches beyond the box by its radius (2 for bicubic) in output pixels: keep that much around.
    reach = math.ceil(2 * max(1.0, box.size / resolution)) + 1
    x0, y0 = math.floor(box.left) - reach, math.floor(box.top) - reach
    x1, y1 = math.ceil(box.left + box.size) + reach, math.ceil(box.top + box.size) + reach
    if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
        raise CameraError(
            f"the crop of camera {box.camera.name} from ({box.left:.0f}, {box.top:.0f}), {box.size:.0f} pixels a side, "
            f"lies outside its {width}×{height} image",
            "a head inside the image",
            "Leave this camera out, or check its extrinsics",
        )
    sx0, sy0, sx1, sy1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    patch = np.zeros((y1 - y0, x1 - x0, 3), np.uint8)
    patch[sy0 - y0 : sy1 - y0, sx0 - x0 : sx1 - x0] = image[sy0:sy1, sx0:sx1]
    left, top = box.left - x0, box.top - y0
    resized = Image.fromarray(patch).resize(
        (resolution, resolution), Image.Resampling.BICUBIC, box=(left, top, left + box.size, top + box.size)
    )
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))


def crop_mask(mask: npt.NDArray[np.bool_], box: CropBox, resolution: int) -> npt.NDArray[np.uint8]:
    """Cut and resize a mask as :func:`crop_image` does an image.

    Parameters
    ----------
    mask : (H, W) bool
        Of the full camera.

    Returns
    -------
    (resolution, resolution) uint8
        255 inside, 0 outside and beyond the image, between where a pixel is partly covered.
    """
    grey = np.where(mask, np.uint8(255), np.uint8(0))
    return crop_image(np.repeat(grey[..., None], 3, axis=2), box, resolution)[0]
