"""Compiled appearance at a point of a surface: skin, lips, hair and stubble; eyes, mouth, teeth; cloth."""

from __future__ import annotations

import numpy as np

from datagen.common.compiled import compiled
from datagen.simulation.photo.face_fields import COLUMN
from datagen.simulation.photo.noise import cell_noise, smooth_noise

# What the appearance functions write for a point.
ALBEDO, GRADIENT, ROUGHNESS, SPECULAR, COVER, COAT, SOFT = 0, 3, 6, 7, 8, 9, 10
SURFACE_SIZE = 11
LIP, BROW_ALONG, BROW_ACROSS = COLUMN["lip"], COLUMN["brow_along"], COLUMN["brow_across"]
UPPER_LID, LOWER_LID, HAIR, BEARD = COLUMN["upper_lid"], COLUMN["lower_lid"], COLUMN["hair"], COLUMN["beard"]
BLOOD, OIL, PORES, SHADOW = COLUMN["blood"], COLUMN["oil"], COLUMN["pores"], COLUMN["shadow"]
STRAND = COLUMN["strand_x"]
# Linear RGB of the palest skin, and log absorption per unit of melanin and of blood.
PALE = (0.80, 0.585, 0.46)
MELANIN = (2.15, 2.78, 3.20)
HAEMOGLOBIN = (0.09, 0.50, 0.47)
# Half thickness of a brow from its inner end outwards.
BROW_PLACES = np.array([0.0, 0.25, 0.6, 0.85, 1.05])
BROW_HALF_MM = np.array([3.3, 3.9, 3.3, 2.2, 1.0])
# Radii of the iris and of the cornea's sphere; linear RGB of the white.
IRIS_MM, CORNEA_MM = 5.9, 7.9
SCLERA = (0.50, 0.44, 0.40)


@compiled
def fade(wavelength, footprint):  # type: ignore[no-untyped-def]
    """Return how much of a pattern survives a pixel: 1 if it is four pixels wide or more, 0 below one and a half."""
    return min(1.0, max(0.0, (wavelength / footprint - 1.5) / 2.5))


@compiled
def ramp(low, high, x):  # type: ignore[no-untyped-def]
    """Return the smooth step from 0 at ``low`` to 1 at ``high``."""
    t = min(1.0, max(0.0, (x - low) / (high - low)))
    return t * t * (3 - 2 * t)


@compiled
def strands(q, f, wavelength, seed):  # type: ignore[no-untyped-def]
    """Return noise drawn out along the hair's direction, of about unit variance: strokes five wavelengths long."""
    total = 0.0
    # Turned off the axes, so that the noise's lattice does not show as a weave.
    x = (0.742 * q[0] - 0.531 * q[1] + 0.409 * q[2]) / wavelength
    y = (0.630 * q[0] + 0.769 * q[1] - 0.108 * q[2]) / wavelength
    z = (-0.229 * q[0] + 0.356 * q[1] + 0.906 * q[2]) / wavelength
    u = 0.742 * f[STRAND] - 0.531 * f[STRAND + 1] + 0.409 * f[STRAND + 2]
    v = 0.630 * f[STRAND] + 0.769 * f[STRAND + 1] - 0.108 * f[STRAND + 2]
    w = -0.229 * f[STRAND] + 0.356 * f[STRAND + 1] + 0.906 * f[STRAND + 2]
    for k in range(5):
        t = (k - 2) * 0.85
        total += smooth_noise(x + t * u, y + t * v, z + t * w, seed)[0]
    return total / 3.0


@compiled
def _relief(q, scale, amplitude, seed, out):  # type: ignore[no-untyped-def]
    """Add the slope of a noise of a wavelength (mm) and slope amplitude to ``out``; return the noise."""
    value, dx, dy, dz = smooth_noise(q[0] / scale, q[1] / scale, q[2] / scale, seed)
    gain = amplitude * 0.33
    out[GRADIENT] += gain * dx
    out[GRADIENT + 1] += gain * dy
    out[GRADIENT + 2] += gain * dz
    return value


@compiled
def _marks(x, y, z, broad, footprint, look):  # type: ignore[no-untyped-def]
    """Return the melanin of freckles, where the sun shines, and of a few moles anywhere."""
    melanin = 0.0
    if look.freckles > 0.02 and z > 40 and y > -70:
        d, _, _, _, value = cell_noise(x / 3.4, y / 3.4, z / 3.4, look.seed + 5)
        size = 0.10 + 0.16 * value
        if value < look.freckles + 0.1 * broad:
            melanin += 0.13 * fade(2.4, footprint) * (1 - ramp(0.5 * size, size + 0.12, d))
    d, _, _, _, value = cell_noise(x / 26, y / 26, z / 26, look.seed + 6)
    if value < 0.3 * look.moles and d < 0.09:
        size = 0.016 + 0.1 * value
        melanin += 0.5 * (1 - ramp(0.6 * size, size + 0.012 + 0.02 * footprint, d))
    return melanin


@compiled
def _pores(q, f, footprint, look, out):  # type: ignore[no-untyped-def]
    """Add the slopes of pores and the net of fine lines; return the melanin and the roughness they bring."""
    seed, relief = look.seed, look.relief
    x, y, z = q[0], q[1], q[2]
    melanin = 0.0
    keep = fade(0.9, footprint)
    if keep > 0:
        spacing = 1.05
        d, px, py, pz, value = cell_noise(x / spacing, y / spacing, z / spacing, seed + 9)
        depth = f[PORES] * (0.4 + 0.8 * value) * relief * keep
        inside = 1 - ramp(0.12, 0.42, d)
        slope = depth * 0.9 * inside * (1 - inside) * 4 / max(d, 0.05) * 0.35
        out[GRADIENT] += slope * px
        out[GRADIENT + 1] += slope * py
        out[GRADIENT + 2] += slope * pz
        melanin += 0.10 * depth * inside
        _relief(q, 0.75, 0.10 * relief * keep, seed + 10, out)
    return melanin, 0.05 * (1 - keep)


@compiled
def _lip_creases(q, lip, footprint, look, out):  # type: ignore[no-untyped-def]
    """Add the slopes of the lips' upright creases; return them, deep below 0."""
    keep = fade(1.3, footprint)
    if keep == 0:
        return 0.0
    crease, dx, dy, dz = smooth_noise(q[0] / 1.1, q[1] / 6, q[2] / 6, look.seed + 11)
    gain = 0.055 * keep * lip * look.relief
    out[GRADIENT] += gain * dx
    out[GRADIENT + 1] += gain * dy / 5
    out[GRADIENT + 2] += gain * dz / 5
    return keep * crease


@compiled
def skin_at(q, f, footprint, look, out):  # type: ignore[no-untyped-def]
    """Write the appearance of skin at canonical point ``q`` (3,) mm with fields ``f``, seen by a pixel that wide."""
    seed = look.seed
    for k in range(SURFACE_SIZE):
        out[k] = 0.0
    x, y, z = q[0], q[1], q[2]
    broad = smooth_noise(x / 32, y / 32, z / 32, seed)[0]
    patch = smooth_noise(x / 11, y / 11, z / 11, seed + 1)[0]
    spot = _relief(q, 4.5, 0.020 * look.relief, seed + 2, out)
    fine, grain = 0.0, 0.0
    keep = fade(2.1, footprint)
    if keep > 0.1:
        fine = keep * _relief(q, 2.1, 0.04 * look.relief * keep, seed + 3, out)
    rough = 0.06 * (1 - keep)
    keep = fade(0.6, footprint)
    if keep > 0:
        grain = keep * smooth_noise(x / 0.6, y / 0.6, z / 0.6, seed + 4)[0]
    melanin = look.melanin * (1 + 0.030 * broad + 0.014 * patch + 0.010 * spot + 0.012 * fine)
    melanin += 0.003 * (patch + spot) + 0.006 * fine + 0.006 * grain
    melanin += f[SHADOW] * (0.05 + 0.12 * look.melanin) + _marks(x, y, z, broad, footprint, look)
    blood = look.blood * (1 + 0.06 * broad) + look.blood_contrast * f[BLOOD] * (1 + 0.10 * patch + 0.07 * spot)
    blood += look.mottle * (0.016 * patch + 0.020 * spot + 0.022 * fine + 0.016 * grain) + 0.22 * f[SHADOW]
    # Under much melanin, blood hardly shows.
    blood *= 1 - 0.55 * look.melanin
    extra, finer = _pores(q, f, footprint, look, out)
    melanin += extra
    rough += finer
    edge = f[LIP] + 0.45 * spot
    lip = ramp(-1.1, 1.3, edge)
    if lip > 0:
        crease = _lip_creases(q, lip, footprint, look, out)
        blood += lip * (0.62 + 0.5 * look.lip_tint + 0.03 * patch - 0.05 * crease)
        melanin += lip * (0.05 + 0.10 * look.melanin + 0.035 * look.lip_tint)
        # The white roll: a pale rim just outside.
        blood -= 0.15 * ramp(-2.6, -0.9, edge) * (1 - ramp(-0.9, 0.3, edge))
    for k in range(3):
        out[ALBEDO + k] = PALE[k] * np.exp(-max(melanin, 0.0) * MELANIN[k] - max(blood, 0.0) * HAEMOGLOBIN[k])
    oil = look.oil * (0.35 + 0.65 * f[OIL]) * (1 + 0.2 * spot)
    out[ROUGHNESS] = 0.54 - 0.17 * oil - 0.16 * lip * (1 - oil) + rough
    out[SPECULAR] = 0.75 + 0.5 * oil + 0.35 * lip
    out[SOFT] = 1.0
    hair_at(q, f, footprint, look, patch, spot, out)


@compiled
def hair_at(q, f, footprint, look, patch, spot, out):  # type: ignore[no-untyped-def]
    """Lay brows, lashes, scalp hair and beard over what ``out`` holds."""
    seed = look.seed
    along, across = f[BROW_ALONG], f[BROW_ACROSS]
    if -0.2 < along < 1.25 and -9 < across < 9:
        half = look.brow_thickness * np.interp(along, BROW_PLACES, BROW_HALF_MM)
        stroke, keep = 0.0, fade(0.9, footprint)
        if keep > 0:
            stroke = keep * strands(q, f, 0.55, seed + 20)
        density = 1 - ramp(half - 1.6, half + 1.3, abs(across) + 0.35 * spot + 0.3 * stroke)
        density *= ramp(-0.10, 0.12, along) * (1 - ramp(0.88, 1.1, along)) * (0.72 + 0.28 * ramp(0.0, 0.4, along))
        cover = min(0.96, look.brow_density * density * max(0.0, 1 + 0.55 * stroke))
        _lay(look.brow, cover, 1 + 0.25 * stroke, out)
        out[COVER] *= 0.4
    upper, lower = f[UPPER_LID], f[LOWER_LID]
    if upper < 3 or lower < 3:
        wide = 0.5 * footprint
        dark = (0.45 + 0.5 * look.lashes) * (1 - ramp(0.5, 1.7 + wide, upper))
        dark = max(dark, (0.2 + 0.35 * look.lashes) * (1 - ramp(0.2, 0.9 + wide, lower)))
        _lay(look.brow, dark, 0.3, out)
        out[COVER] = 0.0
    edge = f[HAIR] - look.hairline_mm
    azimuth = abs(np.arctan2(q[0], q[2]))
    edge -= look.temples_mm * ramp(0.25, 0.6, azimuth) * (1 - ramp(0.75, 1.1, azimuth))
    if edge > -14:
        if look.cap > 0:
            _cap(q, f, footprint, look, out)
        else:
            _scalp(q, f, footprint, look, edge + 1.3 * patch + 0.7 * spot, out)
    if look.beard > 0.02 and f[BEARD] > 0.02:
        _beard(q, f, footprint, look, patch, out)


@compiled
def _lay(colour, cover, shade, out):  # type: ignore[no-untyped-def]
    for k in range(3):
        out[ALBEDO + k] = out[ALBEDO + k] * (1 - cover) + max(0.0, colour[k] * shade) * cover
    out[COVER] = max(out[COVER], cover)


@compiled
def _scalp(q, f, footprint, look, edge, out):  # type: ignore[no-untyped-def]
    seed = look.seed
    clump = strands(q, f, 3.2, seed + 21)
    keep, hair = fade(1.1, footprint), 0.0
    if keep > 0:
        hair = keep * strands(q, f, 0.65, seed + 22)
    long = min(1.0, look.hair_length_mm / 9)
    border = ramp(-8.0, 9.0, edge + 2.2 * hair + 1.2 * clump)
    cover = look.hair_cover * border * (0.90 + 0.09 * long) * (1 + (0.22 - 0.16 * long) * hair + 0.05 * clump)
    cover = min(0.985, max(0.0, cover))
    shade = np.exp(0.34 * hair + (0.04 + 0.10 * long) * clump)
    _lay(look.hair, cover, shade, out)
    out[SOFT] = 1 - cover
    out[ROUGHNESS] = out[ROUGHNESS] * (1 - cover) + 0.62 * cover
    out[SPECULAR] *= 1 - 0.9 * cover
    # Hairs turn the light: break the surface up across their direction.
    tilt = cover * (0.03 + 0.07 * long)
    _value, dx, dy, dz = smooth_noise(q[0] / 2.4, q[1] / 2.4, q[2] / 2.4, seed + 23)
    along = dx * f[STRAND] + dy * f[STRAND + 1] + dz * f[STRAND + 2]
    out[GRADIENT] += tilt * 0.4 * (dx - along * f[STRAND])
    out[GRADIENT + 1] += tilt * 0.4 * (dy - along * f[STRAND + 1])
    out[GRADIENT + 2] += tilt * 0.4 * (dz - along * f[STRAND + 2])


@compiled
def _cap(q, f, footprint, look, out):  # type: ignore[no-untyped-def]
    """A knitted cap: everything above a line over brows and ears."""
    line = f[HAIR] + 3.0
    cover = ramp(-0.4, 0.4, line)
    keep = fade(2.0, footprint)
    knit = np.sin(q[1] * 2.6 + 0.4 * np.sin(4 * q[0])) * keep
    rim = 1 - 0.25 * ramp(0.0, 1.0, line) * (1 - ramp(6.0, 7.5, line))
    _lay(look.cap_colour, cover, rim * (1 + 0.15 * knit), out)
    out[COVER] = 0.0
    out[SOFT] *= 1 - cover
    out[ROUGHNESS] = out[ROUGHNESS] * (1 - cover) + 0.85 * cover
    out[SPECULAR] *= 1 - 0.6 * cover


@compiled
def _beard(q, f, footprint, look, patch, out):  # type: ignore[no-untyped-def]
    free = 1 - ramp(-1.5, 0.3, f[LIP])
    amount = f[BEARD] * free * (1 + 0.15 * patch)
    if amount <= 0.01:
        return
    seed, beard = look.seed, look.beard
    if beard < 0.7:
        # Hair cut to dots: seen one by one up close, as a bluish shadow from afar.
        keep, dots = fade(0.8, footprint), 0.0
        mean = beard * 0.62
        cover = mean * (1 - keep)
        if keep > 0:
            d, _, _, _, value = cell_noise(q[0] / 0.62, q[1] / 0.62, q[2] / 0.62, seed + 30)
            dots = 1 - ramp(0.16, 0.40, d) if value < 0.25 + beard else 0.0
            cover += keep * min(1.0, 1.7 * dots + 0.1) * min(1.0, 1.3 * beard)
        cover *= amount
        _lay(look.brow, min(0.85, cover), 1.1, out)
        out[ALBEDO + 2] *= 1 + 0.05 * amount
        out[COVER] = 0.0
    else:
        keep, hair = fade(1.0, footprint), 0.0
        if keep > 0:
            hair = keep * strands(q, f, 0.6, seed + 31)
        clump = strands(q, f, 2.6, seed + 32)
        border = ramp(0.05, 1.0, amount + 0.13 * hair + 0.05 * clump)
        cover = min(0.97, border * (0.45 + 0.45 * beard) * (1 + 0.14 * hair + 0.05 * clump))
        _lay(look.brow, cover, 1.15 * np.exp(0.35 * hair + 0.12 * clump), out)
        out[SOFT] *= 1 - 0.9 * cover
        out[ROUGHNESS] = out[ROUGHNESS] * (1 - cover) + 0.6 * cover
        out[SPECULAR] *= 1 - 0.7 * cover


# Eyes, the inside of the mouth, teeth and cloth.


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
