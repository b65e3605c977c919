"""A template's texture frame, and pictures unwrapped into it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from datagen.common.arrays import F32, F64, I64, Bools
from datagen.geometry.camera import Camera
from datagen.geometry.mesh import face_cross, normalised
from datagen.heads.base import HeadTemplate
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.heads.unwrap import unwrap
from datagen.render.contract import Fragments, Renderer

# Luma of sRGB values (ITU-R BT.709).
LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)
# Skin that leans farther away from a camera is seen too flat to tell where on it something is.
LEAST_COSINE = 0.3
# Behind the nearest surface by more than this, a texel is hidden.
HIDDEN_M = 2e-3


@dataclass(frozen=True, eq=False)
class Texels:
    """The texels of a square texture that lie on the face.

    Attributes
    ----------
    size : int
        Of the texture, texels a side.
    rows, columns : (n,) int64
        Where each texel is.
    faces : (n,) int64
        Face of the template that holds its centre.
    barycentric : (n, 3) float64
    index : (size, size) int64
        Of the texel at each place, -1 where there is none.
    """

    size: int
    rows: I64
    columns: I64
    faces: I64
    barycentric: F64
    index: I64

    def positions(self, vertices: F64, faces: npt.NDArray[np.integer]) -> F64:
        """Return where texels lie (n, 3) on a mesh in the template's topology."""
        return np.einsum("nc,ncd->nd", self.barycentric, vertices[faces[self.faces]])

    @property
    def neighbours(self) -> tuple[I64, I64]:
        """Texels (m,) that have one to their right, and these (m,)."""
        right = self.index[self.rows, np.minimum(self.columns + 1, self.size - 1)]
        here = np.flatnonzero(right >= 0)
        return here, right[here]

    def spread(self, values: npt.NDArray[np.floating]) -> F32:
        """Return values (n, …) of texels as a texture (size, size, …); NaN elsewhere."""
        texture = np.full((self.size, self.size, *values.shape[1:]), np.nan, np.float32)
        texture[self.rows, self.columns] = values
        return texture


def face_texels(template: HeadTemplate, size: int, renderer: Renderer) -> Texels:
    """Return the texels of a template's face, in the texture frame of :func:`datagen.heads.unwrap.unwrap`.

    The frame is cut to the face and enlarged to fill the texture.
    """
    frame = unwrap(template)
    face = mask_of(template.regions, FACE_REGIONS)[template.faces].all(axis=1) & frame.main
    uv = frame.uv[frame.faces]
    low, high = uv[face].min(axis=(0, 1)), uv[face].max(axis=(0, 1))
    scale = size / float((high - low).max())
    # v is up, rows go down.
    flat = np.stack([(frame.uv[:, 0] - low[0]) * scale, (high[1] - frame.uv[:, 1]) * scale], axis=1)
    shown = np.flatnonzero(face)
    camera = Camera("texture", np.eye(3), np.eye(4), size, size)
    drawn = renderer.rasterise(
        np.concatenate([flat, np.ones((len(flat), 1))], axis=1), frame.faces[shown].astype(np.int32), [camera]
    )[0]
    rows, columns = np.nonzero(drawn.face >= 0)
    index = np.full((size, size), -1, np.int64)
    index[rows, columns] = np.arange(len(rows))
    barycentric = drawn.barycentric[rows, columns].astype(np.float64)
    barycentric /= barycentric.sum(axis=1, keepdims=True)
    return Texels(size, rows, columns, shown[drawn.face[rows, columns]], barycentric, index)


@dataclass(frozen=True, eq=False)
class Unwrapped:
    """One picture in the texture frame.

    Attributes
    ----------
    luminance : (size, size) float32
        Of sRGB values, 0 to 255; NaN where the picture does not show the skin.
    pixels : (size, size, 2) float32
        Where each texel lies in the picture; NaN outside the face.
    """

    luminance: F32
    pixels: F32


def unwrap_picture(
    texels: Texels,
    template: HeadTemplate,
    vertices: F64,
    camera: Camera,
    picture: npt.NDArray[np.uint8],
    shown: Fragments,
    mask: Bools | None = None,
) -> Unwrapped:
    """Return a picture in the texture frame, as a registered template says.

    Parameters
    ----------
    vertices : (V, 3) float64
        The template registered, world metres.
    picture : (H, W, 3) uint8
        sRGB.
    shown : Fragments
        Of the registered template in this camera.
    mask : (H, W) bool, optional
        What of the picture is the person.
    """
    pixels, _ = camera.project(texels.positions(vertices, template.faces))
    seen = seen_texels(texels, template, vertices, camera, shown, mask) > 0
    luma = luminance(picture, texel_size(texels, pixels, seen))
    values = sampled(luma, pixels)
    return Unwrapped(texels.spread(np.where(seen, values, np.nan)), texels.spread(pixels))


def seen_texels(
    texels: Texels, template: HeadTemplate, vertices: F64, camera: Camera, shown: Fragments, mask: Bools | None = None
) -> F64:
    """Return how straight a camera sees each texel: the cosine of its normal with the ray, 0 where it is not seen.

    Parameters are those of :func:`unwrap_picture`.
    """
    points = texels.positions(vertices, template.faces)
    pixels, depth = camera.project(points)
    normals = normalised(face_cross(vertices, template.faces))[texels.faces]
    towards = normalised(camera.centre - points)
    cosine = np.einsum("nd,nd->n", normals, towards)
    inside = (pixels >= 1).all(axis=1) & (pixels < [camera.width - 1, camera.height - 1]).all(axis=1)
    seen = inside & (depth > 0) & (cosine > LEAST_COSINE)
    column, row = np.clip(pixels, 0, [camera.width - 1, camera.height - 1]).astype(int).T
    near = shown.depth[row, column]
    seen &= (near > 0) & (depth < near + HIDDEN_M / np.maximum(cosine, LEAST_COSINE))
    if mask is not None:
        seen &= mask[row, column]
    return np.where(seen, cosine, 0.0)


def luminance(picture: npt.NDArray[np.uint8], step_px: float) -> F32:
    """Return a picture's luminance (H, W), 0 to 255, blurred where it is sharper than texels of so many pixels."""
    luma = picture.astype(np.float32) @ LUMA
    return np.asarray(ndimage.gaussian_filter(luma, 0.5 * step_px) if step_px > 1 else luma)


def sampled(luma: F32, pixels: F64) -> F32:
    """Return what a picture shows at pixels (n, 2)."""
    at = [pixels[:, 1] - 0.5, pixels[:, 0] - 0.5]
    return np.asarray(ndimage.map_coordinates(luma, at, order=1, mode="nearest"))


def texel_size(texels: Texels, places: F64, seen: Bools | None = None) -> float:
    """Return how large a texel is, usually, in the unit of the places; 1 where none is seen.

    Parameters
    ----------
    places : (n, d) float64
        Where texels are: in a picture, pixels, or in space.
    seen : (n,) bool, optional
        Which of them count; all by default.
    """
    here, right = texels.neighbours
    both = np.ones(len(here), bool) if seen is None else seen[here] & seen[right]
    if not both.any():
        return 1.0
    return float(np.median(np.linalg.norm(places[right[both]] - places[here[both]], axis=1)))
