"""Compiled reflections: two specular lobes of skin, mirror images of lamps in wet eyes, the shine of hair."""

from __future__ import annotations

import numpy as np

from datagen.common.compiled import compiled
from datagen.simulation.photo.skin_kernel import ALBEDO, COAT, FLOW, ROUGHNESS, SPECULAR

# Reflectance at normal incidence: skin 1.4, tears 1.34.
FRESNEL_SKIN, FRESNEL_TEARS = 0.028, 0.022
IRRADIANCE, OPEN, LAMPS = 9, 15, 16
# Columns of a lamp: right, up, direction, colour, half width, half height.
RIGHT, UP, TOWARD, COLOUR, HALF = 0, 3, 6, 9, 12
HALF_SIZE = 14
# The sharper of skin's two lobes, and its share (Weyrich et al. 2006 fit two microfacet lobes to faces).
SECOND_ROUGHNESS, SECOND_SHARE = 0.55, 0.22


@compiled
def _lobe(nh, nl, nv, alpha):  # type: ignore[no-untyped-def]
    """Return the GGX distribution times its visibility term (Walter et al. 2007; height-correlated Smith)."""
    a2 = alpha * alpha
    d = nh * nh * (a2 - 1) + 1
    smith = nl * np.sqrt(nv * nv * (1 - a2) + a2) + nv * np.sqrt(nl * nl * (1 - a2) + a2)
    return a2 / (np.pi * d * d) * 0.5 / max(smith, 1e-4)


@compiled
def sky_light(x, y, z, sky, k):  # type: ignore[no-untyped-def]
    """Return the surroundings' irradiance over π for a unit normal, channel ``k``."""
    return (
        0.282095 * sky[0, k]
        + 0.488603 * (y * sky[1, k] + z * sky[2, k] + x * sky[3, k])
        + 1.092548 * (x * y * sky[4, k] + y * z * sky[5, k] + x * z * sky[7, k])
        + 0.315392 * (3 * z * z - 1) * sky[6, k]
        + 0.546274 * (x * x - y * y) * sky[8, k]
    )


@compiled
def add_reflections(at, n, vx, vy, vz, surface, lamps, sky, out):  # type: ignore[no-untyped-def]
    """Add what the surface mirrors towards the camera to ``out`` (3,)."""
    if surface[SPECULAR] == 0 and surface[COAT] == 0:
        return
    nv = max(0.03, n[0] * vx + n[1] * vy + n[2] * vz)
    rough, strength, coat = surface[ROUGHNESS], surface[SPECULAR], surface[COAT]
    alpha = rough * rough
    rx, ry, rz = 2 * nv * n[0] - vx, 2 * nv * n[1] - vy, 2 * nv * n[2] - vz
    # The surroundings, dimmed where hollows hide them; what is mirrored does not enter the skin.
    grazing = (1 - nv) ** 5
    mirrored = min(0.5, strength * (FRESNEL_SKIN + (1 - rough) ** 2 * 0.5 * grazing))
    mirrored += coat * (FRESNEL_TEARS + 0.4 * grazing)
    open_ = at[OPEN] * at[OPEN]
    for k in range(3):
        out[k] = out[k] * (1 - mirrored) + mirrored * open_ * max(0.0, sky_light(rx, ry, rz, sky, k))
    for j in range(len(lamps)):
        share = at[LAMPS + j]
        if share <= 0.004:
            continue
        row = lamps[j]
        lx, ly, lz = row[TOWARD], row[TOWARD + 1], row[TOWARD + 2]
        nl = n[0] * lx + n[1] * ly + n[2] * lz
        if nl > 0:
            hx, hy, hz = vx + lx, vy + ly, vz + lz
            inverse = 1 / np.sqrt(hx * hx + hy * hy + hz * hz + 1e-12)
            nh = min(1.0, (n[0] * hx + n[1] * hy + n[2] * hz) * inverse)
            vh = (vx * hx + vy * hy + vz * hz) * inverse
            # Rough skin mirrors far less at grazing angles than a smooth dielectric.
            fresnel = FRESNEL_SKIN + (0.45 - FRESNEL_SKIN) * max(0.0, 1 - vh) ** 5
            # A lamp of finite size widens the lobe (Karis 2013).
            wide = 0.35 * (row[HALF] + row[HALF + 1]) / 2
            first = _lobe(nh, nl, nv, min(1.0, alpha + wide))
            if j == 0:
                second = _lobe(nh, nl, nv, min(1.0, alpha * SECOND_ROUGHNESS**2 * 1.6 + wide))
                first += SECOND_SHARE * (second - first)
            gain = share * strength * fresnel * np.pi * nl * first
            for k in range(3):
                out[k] += gain * row[COLOUR + k]
        if coat > 0:
            forward = rx * lx + ry * ly + rz * lz
            if forward > 0.2:
                a = abs(rx * row[RIGHT] + ry * row[RIGHT + 1] + rz * row[RIGHT + 2]) / forward
                b = abs(rx * row[UP] + ry * row[UP + 1] + rz * row[UP + 2]) / forward
                soft = 0.05
                inside = min(1.0, max(0.0, (row[HALF] - a) / soft + 0.5)) * min(
                    1.0, max(0.0, (row[HALF + 1] - b) / soft + 0.5)
                )
                # Radiance of the lamp: its irradiance spread over its solid angle.
                solid = 4 * (row[HALF] + 0.03) * (row[HALF + 1] + 0.03)
                gain = inside * coat * share * np.pi / solid * (FRESNEL_TEARS + 0.98 * (1 - nv) ** 5)
                for k in range(3):
                    out[k] += min(4.0, gain * row[COLOUR + k])


@compiled
def hair_shine(at, fix, edges, vx, vy, vz, cover, surface, lamps, out):  # type: ignore[no-untyped-def]
    """Add the two highlights of hair that lies along the canonical flow (Kajiya & Kay 1989, shifted as Marschner's)."""
    # The flow in the posed triangle: the same mixture of its edges.
    flow = fix[3 + FLOW : 6 + FLOW]
    e1, e2 = edges[0], edges[1]
    a11, a12, a22 = e1[0] ** 2 + e1[1] ** 2 + e1[2] ** 2, 0.0, e2[0] ** 2 + e2[1] ** 2 + e2[2] ** 2
    b1, b2 = 0.0, 0.0
    for k in range(3):
        a12 += e1[k] * e2[k]
        b1 += e1[k] * flow[k]
        b2 += e2[k] * flow[k]
    det = a11 * a22 - a12 * a12
    if det < 1e-12:
        return
    s, t = (a22 * b1 - a12 * b2) / det, (a11 * b2 - a12 * b1) / det
    tx, ty, tz = (
        s * edges[2, 0] + t * edges[3, 0], s * edges[2, 1] + t * edges[3, 1], s * edges[2, 2] + t * edges[3, 2],
    )  # fmt: skip
    nx, ny, nz = at[6], at[7], at[8]
    for lobe in range(2):
        shift, power = (0.10, 38.0) if lobe == 0 else (-0.12, 14.0)
        ux, uy, uz = tx + shift * nx, ty + shift * ny, tz + shift * nz
        inverse = 1 / np.sqrt(ux * ux + uy * uy + uz * uz + 1e-12)
        ux, uy, uz = ux * inverse, uy * inverse, uz * inverse
        for j in range(len(lamps)):
            row = lamps[j]
            lx, ly, lz = row[TOWARD], row[TOWARD + 1], row[TOWARD + 2]
            lit = nx * lx + ny * ly + nz * lz + 0.2
            if lit <= 0:
                continue
            hx, hy, hz = vx + lx, vy + ly, vz + lz
            inverse = 1 / np.sqrt(hx * hx + hy * hy + hz * hz + 1e-12)
            along = (ux * hx + uy * hy + uz * hz) * inverse
            sine = np.sqrt(max(0.0, 1 - along * along))
            gain = at[LAMPS + j] * min(1.0, lit) * cover * sine**power
            for k in range(3):
                tint = 0.016 if lobe == 0 else 0.4 * surface[ALBEDO + k]
                out[k] += gain * tint * row[COLOUR + k]
