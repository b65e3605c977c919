"""Images of simulated captures: shaded, antialiased, with camera noise."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from datagen.errors import CameraError, MeshError
from datagen.geometry.camera import Camera
from datagen.render.light import Light
from datagen.render.protocol import Renderer
from datagen.render.shading_kernel import shade_pixels

SUPERSAMPLING = 2
# Photon noise of a sensor with 6,000 electrons at white, and read noise of 0.15 % of white.
SHOT_NOISE_PER_WHITE = 1 / 6000
READ_NOISE = 0.0015
SRGB_TABLE_SIZE = 8192
DEFAULT_GLOSS = 0.22


def shade_image(
    vertices: npt.NDArray[np.floating],
    faces: npt.NDArray[np.integer],
    normals: npt.NDArray[np.floating],
    albedo: npt.NDArray[np.floating],
    camera: Camera,
    rasteriser: Renderer,
    light: Light,
    background: npt.NDArray[np.float32],
    rng: np.random.Generator,
    *,
    gloss: npt.NDArray[np.floating] | None = None,
    occlusion: npt.NDArray[np.floating] | None = None,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Shade a mesh as a camera would see it.

    Diffuse light is second-order spherical-harmonic irradiance (Ramamoorthi & Hanrahan 2001); highlights of the key
    light are normalised Blinn-Phong with Schlick's Fresnel term. Four subsamples a pixel antialias the image only:
    ground-truth maps are never made this way.

    Parameters
    ----------
    vertices : (N, 3) float
        World metres.
    faces : (F, 3) int
    normals : (N, 3) float
        Unit vertex normals, world axes.
    albedo : (N, 3) float
        Linear RGB.
    camera : Camera
    rasteriser : Renderer
    light : Light
    background : (H, W, 3) float32
        Linear RGB behind the subject.
    rng : numpy Generator
        Draws the camera noise.
    gloss : (N,) float, optional
        0 matt to 1 wet; :data:`DEFAULT_GLOSS` if not given.
    occlusion : (N,) float, optional
        Share of the surroundings each vertex sees (:func:`datagen.render.occlusion.ambient_occlusion`); 1 if not given.

    Returns
    -------
    image : (H, W, 3) uint8
        sRGB.
    mask : (H, W) bool
        True where at least half of the pixel is covered.

    Raises
    ------
    datagen.errors.MeshError
        If the mesh is not valid or an array does not have one row per vertex.
    datagen.errors.CameraError
        If the camera is not valid or the background has another size.
    """
    n = len(vertices)
    gloss_array = np.full(n, DEFAULT_GLOSS, np.float32) if gloss is None else np.asarray(gloss, np.float32)
    occlusion_array = np.ones(n, np.float32) if occlusion is None else np.asarray(occlusion, np.float32)
    for name, array, shape in (
        ("normals", normals, (n, 3)),
        ("albedo", albedo, (n, 3)),
        ("gloss", gloss_array, (n,)),
        ("occlusion", occlusion_array, (n,)),
    ):
        if np.shape(array) != shape:
            raise MeshError(
                f"the mesh to shade has {name} of shape {np.shape(array)}", f"{shape}", "Pass one row per vertex"
            )
    if background.shape != (camera.height, camera.width, 3):
        raise CameraError(
            f"the background has shape {background.shape}",
            f"{(camera.height, camera.width, 3)}, the size of camera {camera.name}",
            "Make it with random_background(camera.height, camera.width, rng)",
        )
    fine = _enlarged(camera, SUPERSAMPLING)
    seen = rasteriser.rasterise(vertices, faces, [fine])[0]
    linear, coverage = shade_pixels(
        seen.face,
        seen.barycentric,
        np.ascontiguousarray(faces, np.int32),
        np.ascontiguousarray(vertices, np.float64),
        np.ascontiguousarray(normals, np.float64),
        np.ascontiguousarray(albedo, np.float32),
        gloss_array,
        occlusion_array,
        np.ascontiguousarray(camera.centre),
        light.irradiance,
        light.key_direction,
        light.key_colour,
        np.ascontiguousarray(background, np.float32),
        SUPERSAMPLING,
    )
    return encode_srgb(_with_noise(linear, rng)), coverage >= 0.5


def encode_srgb(linear: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Encode linear RGB in [0, 1] (clipped) as 8-bit sRGB (IEC 61966-2-1)."""
    table = _srgb_table()
    index = np.clip(linear * np.float32(SRGB_TABLE_SIZE - 1) + np.float32(0.5), 0, SRGB_TABLE_SIZE - 1)
    return table[index.astype(np.int32)]


@lru_cache(maxsize=1)
def _srgb_table() -> npt.NDArray[np.uint8]:
    x = np.linspace(0, 1, SRGB_TABLE_SIZE)
    encoded = np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
    return np.rint(encoded * 255).astype(np.uint8)


def _with_noise(linear: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    variance = np.maximum(linear, 0) * np.float32(SHOT_NOISE_PER_WHITE) + np.float32(READ_NOISE**2)
    return linear + rng.standard_normal(linear.shape, np.float32) * np.sqrt(variance)


def _enlarged(camera: Camera, factor: int) -> Camera:
    K = camera.K.copy()
    K[:2] *= factor
    return replace(camera, K=K, width=camera.width * factor, height=camera.height * factor)
