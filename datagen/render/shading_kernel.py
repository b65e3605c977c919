"""Compiled shading: diffuse spherical-harmonic light and one highlight, averaged over subsamples."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

# Reflectance of skin at normal incidence (refractive index 1.4).
FRESNEL_NORMAL = 0.028
# Blinn-Phong exponents run from 8 (matt) to 8 · 2⁶ = 512 (wet).
GLOSS_EXPONENT_MATT = 8.0
GLOSS_OCTAVES = 6.0


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _shade_point(point, n, colour, gloss, shade, centre, irradiance, key, key_colour, out):  # type: ignore[no-untyped-def]
    """Add the radiance leaving ``point`` towards ``centre`` to ``out`` (3,)."""
    vx, vy, vz = centre[0] - point[0], centre[1] - point[1], centre[2] - point[2]
    inverse = 1.0 / np.sqrt(vx * vx + vy * vy + vz * vz + 1e-18)
    vx, vy, vz = vx * inverse, vy * inverse, vz * inverse
    x, y, z = n[0], n[1], n[2]
    inverse = 1.0 / np.sqrt(x * x + y * y + z * z + 1e-18)
    if x * vx + y * vy + z * vz < 0:
        inverse = -inverse
    x, y, z = x * inverse, y * inverse, z * inverse
    facing = x * vx + y * vy + z * vz
    hx, hy, hz = vx + key[0], vy + key[1], vz + key[2]
    inverse = 1.0 / np.sqrt(hx * hx + hy * hy + hz * hz + 1e-18)
    half = max(0.0, (x * hx + y * hy + z * hz) * inverse)
    lit = max(0.0, x * key[0] + y * key[1] + z * key[2])
    exponent = GLOSS_EXPONENT_MATT * 2.0 ** (GLOSS_OCTAVES * gloss)
    fresnel = FRESNEL_NORMAL + (1 - FRESNEL_NORMAL) * (1 - min(1.0, facing)) ** 5 * 0.25
    # The factor (p + 8) / 8 keeps the reflected energy the same for every exponent p.
    highlight = fresnel * lit * half**exponent * (exponent + 8.0) / 8.0
    for k in range(3):
        light = (
            0.282095 * irradiance[0, k]
            + 0.488603 * (y * irradiance[1, k] + z * irradiance[2, k] + x * irradiance[3, k])
            + 1.092548 * (x * y * irradiance[4, k] + y * z * irradiance[5, k] + x * z * irradiance[7, k])
            + 0.315392 * (3 * z * z - 1) * irradiance[6, k]
            + 0.546274 * (x * x - y * y) * irradiance[8, k]
        )
        out[k] += shade * (colour[k] * max(0.0, light) + highlight * key_colour[k])


@numba.njit(nogil=True, cache=True, error_model="numpy")
def shade_pixels(
    face_map: npt.NDArray[np.int32],
    weights: F32,
    faces: npt.NDArray[np.int32],
    vertices: F64,
    normals: F64,
    albedo: F32,
    gloss: F32,
    occlusion: F32,
    centre: F64,
    irradiance: F64,
    key_direction: F64,
    key_colour: F64,
    background: F32,
    factor: int,
) -> tuple[F32, F32]:
    """Shade supersampled fragments and average them.

    Parameters
    ----------
    face_map : (factor·H, factor·W) int32
    weights : (factor·H, factor·W, 3) float32
    faces : (F, 3) int32
    vertices, normals : (N, 3) float64
        World axes.
    albedo : (N, 3) float32
    gloss, occlusion : (N,) float32
    centre : (3,) float64
        The camera's.
    irradiance : (9, 3) float64
    key_direction, key_colour : (3,) float64
    background : (H, W, 3) float32
    factor : int
        Subsamples per pixel and axis.

    Returns
    -------
    image : (H, W, 3) float32
        Linear RGB.
    coverage : (H, W) float32
        Share of subsamples on the surface.
    """
    height, width = background.shape[:2]
    image, coverage = np.empty((height, width, 3), np.float32), np.zeros((height, width), np.float32)
    share = 1.0 / (factor * factor)
    point, normal, colour, total = np.empty(3), np.empty(3), np.empty(3), np.empty(3)
    for y in range(height):
        for x in range(width):
            total[:] = 0.0
            hits = 0
            for sy in range(y * factor, (y + 1) * factor):
                for sx in range(x * factor, (x + 1) * factor):
                    f = face_map[sy, sx]
                    if f < 0:
                        continue
                    hits += 1
                    a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
                    wa, wb, wc = weights[sy, sx, 0], weights[sy, sx, 1], weights[sy, sx, 2]
                    for k in range(3):
                        point[k] = wa * vertices[a, k] + wb * vertices[b, k] + wc * vertices[c, k]
                        normal[k] = wa * normals[a, k] + wb * normals[b, k] + wc * normals[c, k]
                        colour[k] = wa * albedo[a, k] + wb * albedo[b, k] + wc * albedo[c, k]
                    shine = wa * gloss[a] + wb * gloss[b] + wc * gloss[c]
                    shade = wa * occlusion[a] + wb * occlusion[b] + wc * occlusion[c]
                    _shade_point(
                        point, normal, colour, shine, shade, centre, irradiance, key_direction, key_colour, total
                    )
            coverage[y, x] = hits * share
            for k in range(3):
                image[y, x, k] = total[k] * share + background[y, x, k] * (1 - hits * share)
    return image, coverage
