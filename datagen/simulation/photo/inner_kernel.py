"""Compiled appearance of eyes, the inside of the mouth, teeth and cloth."""

from __future__ import annotations

import numpy as np

from datagen.common.compiled import compiled
from datagen.simulation.photo.noise import smooth_noise
from datagen.simulation.photo.skin_kernel import (
    ALBEDO,
    COAT,
    GRADIENT,
    ROUGHNESS,
    SOFT,
    SPECULAR,
    SURFACE_SIZE,
    fade,
    ramp,
)

IRIS_MM, CORNEA_MM = 5.9, 7.9
SCLERA = (0.50, 0.44, 0.40)


@compiled
def eye_at(q, eye, footprint, look, out):  # type: ignore[no-untyped-def]
    """Write the appearance of an eyeball (centre and radius ``eye``, looking along +z) at canonical point ``q``."""
    for k in range(SURFACE_SIZE):
        out[k] = 0.0
    x, y, z = q[0] - eye[0], q[1] - eye[1], q[2] - eye[2]
    out_of_axis = np.sqrt(x * x + y * y)
    seed = look.seed
    soft = 0.25 + 0.5 * footprint
    red, green, blue = SCLERA
    # White: yellower and redder towards the corners, with veins.
    side = ramp(6.5, 13.0, out_of_axis)
    vein = smooth_noise(x / 2.2, y / 1.3, z / 2.2, seed + 40)[0] + 0.5 * smooth_noise(x, y / 0.7, z, seed + 41)[0]
    vein = max(0.0, 1 - 3.0 * abs(vein)) * side * fade(1.2, footprint)
    flush = (0.10 + 0.35 * look.eye_red) * side + (0.15 + 0.3 * look.eye_red) * vein
    red, green, blue = red * (1 - 0.1 * flush), green * (1 - 0.75 * flush), blue * (1 - 0.85 * flush)
    if z > 0 and out_of_axis < IRIS_MM + 1.5:
        angle = np.arctan2(y, x)
        c, s = np.cos(angle), np.sin(angle)
        fibre = smooth_noise(c * 5.5, s * 5.5, out_of_axis * 0.45, seed + 42)[0]
        keep = fade(0.5, footprint)
        if keep > 0:
            fibre += 0.8 * keep * smooth_noise(c * 14, s * 14, out_of_axis * 0.5, seed + 43)[0]
        inner = 1 - ramp(look.pupil_mm + 0.3, look.pupil_mm + 2.2, out_of_axis + 0.25 * fibre)
        bright = np.exp(0.22 * fibre) * (1 - 0.72 * ramp(IRIS_MM - 1.3, IRIS_MM - 0.2, out_of_axis))
        pupil = 1 - ramp(look.pupil_mm - 0.5 * soft, look.pupil_mm + 0.5 * soft, out_of_axis)
        iris = 1 - ramp(IRIS_MM - soft, IRIS_MM + soft, out_of_axis)
        mix_r = (look.iris[0] * (1 - inner) + look.iris_inner[0] * inner) * bright
        mix_g = (look.iris[1] * (1 - inner) + look.iris_inner[1] * inner) * bright
        mix_b = (look.iris[2] * (1 - inner) + look.iris_inner[2] * inner) * bright
        mix_r, mix_g, mix_b = mix_r * (1 - pupil), mix_g * (1 - pupil), mix_b * (1 - pupil)
        red += iris * (mix_r + 0.002 - red)
        green += iris * (mix_g + 0.002 - green)
        blue += iris * (mix_b + 0.002 - blue)
        # The cornea bulges: light is reflected by a smaller sphere than the eyeball.
        bulge = (1 - ramp(IRIS_MM - 0.6, IRIS_MM + 0.6, out_of_axis)) * (1 / CORNEA_MM - 1 / max(eye[3], CORNEA_MM))
        out[GRADIENT] -= bulge * x
        out[GRADIENT + 1] -= bulge * y
    # Upper lid and lashes keep light from the upper part.
    shade = (1 - 0.55 * ramp(0.5, 6.5, y)) * (1 - 0.35 * ramp(7.0, 14.0, out_of_axis))
    out[ALBEDO], out[ALBEDO + 1], out[ALBEDO + 2] = red * shade, green * shade, blue * shade
    out[ROUGHNESS], out[SPECULAR], out[COAT], out[SOFT] = 0.16, 0.8, 1.0, 0.3


@compiled
def mouth_at(q, footprint, look, out):  # type: ignore[no-untyped-def]
    """Write the appearance of the mouth's lining and the tongue."""
    for k in range(SURFACE_SIZE):
        out[k] = 0.0
    patch = smooth_noise(q[0] / 7, q[1] / 7, q[2] / 7, look.seed + 50)[0]
    keep = fade(1.4, footprint)
    if keep > 0:
        _value, dx, dy, dz = smooth_noise(q[0] / 1.2, q[1] / 1.2, q[2] / 1.2, look.seed + 51)
        out[GRADIENT], out[GRADIENT + 1], out[GRADIENT + 2] = 0.08 * keep * dx, 0.08 * keep * dy, 0.08 * keep * dz
    deep = ramp(95.0, 55.0, q[2])
    shade = np.exp(0.12 * patch) * (1 - 0.6 * deep)
    out[ALBEDO], out[ALBEDO + 1], out[ALBEDO + 2] = 0.42 * shade, 0.135 * shade, 0.125 * shade
    out[ROUGHNESS], out[SPECULAR], out[SOFT] = 0.3, 1.0, 0.8


@compiled
def tooth_at(q, footprint, look, out):  # type: ignore[no-untyped-def]
    """Write the appearance of teeth and gums; ``q`` is (mm along the arch from the middle, mm from the gum, row)."""
    for k in range(SURFACE_SIZE):
        out[k] = 0.0
    height = q[1]
    enamel = ramp(-0.3 - 0.4 * footprint, 0.4 + 0.4 * footprint, height)
    warm = ramp(5.0, 0.0, height)
    red, green, blue = look.teeth
    green, blue = green * (1 - 0.06 * warm), blue * (1 - 0.18 * warm)
    out[ALBEDO] = enamel * red + (1 - enamel) * 0.44
    out[ALBEDO + 1] = enamel * green + (1 - enamel) * 0.17
    out[ALBEDO + 2] = enamel * blue + (1 - enamel) * 0.16
    out[ROUGHNESS], out[SPECULAR], out[SOFT] = 0.25, 1.1, 0.6


@compiled
def cloth_at(q, footprint, look, out):  # type: ignore[no-untyped-def]
    """Write the appearance of a shirt; ``q`` is millimetres on the cloth."""
    for k in range(SURFACE_SIZE):
        out[k] = 0.0
    shade = 1 + 0.05 * smooth_noise(q[0] / 25, q[1] / 25, q[2] / 25, look.seed + 60)[0]
    _value, dx, dy, dz = smooth_noise(q[0] / 45, q[1] / 30, q[2] / 45, look.seed + 61)
    out[GRADIENT], out[GRADIENT + 1], out[GRADIENT + 2] = 0.014 * dx, 0.014 * dy, 0.014 * dz
    keep = fade(1.4, footprint)
    if keep > 0:
        shade *= 1 + 0.05 * keep * smooth_noise(q[0] / 0.7, q[1] / 0.7, q[2] / 0.7, look.seed + 62)[0]
    for k in range(3):
        out[ALBEDO + k] = look.shirt[k] * shade
    out[ROUGHNESS] = 1.0
