"""Compiled shading of one view: appearance, light and reflections per pixel, averaged over subsamples at edges."""

from __future__ import annotations

import numpy as np

from datagen.common.compiled import compiled
from datagen.simulation.photo.appearance_kernel import (
    ALBEDO,
    COAT,
    COVER,
    GRADIENT,
    ROUGHNESS,
    SOFT,
    SPECULAR,
    STRAND,
    SURFACE_SIZE,
    cloth_at,
    eye_at,
    mouth_at,
    skin_at,
    tooth_at,
)
from datagen.simulation.photo.face_fields import FIELDS, LEFT_EYE, MOUTH, RIGHT_EYE, SKIN, TEETH

# Columns of what is interpolated: made anew for each frame, and fixed to the skin.
POSITION, NORMAL, SMOOTH, IRRADIANCE, VECTOR, OPEN, LAMPS = 0, 3, 6, 9, 12, 15, 16
MOVING_SIZE = 19
PLACE, VALUES = 0, 3
FIXED_SIZE = 3 + len(FIELDS)
# Subsamples of one pixel that lie within this many pixel widths in depth are one piece of surface.
ONE_SURFACE_PIXELS = 6.0
# Reflectance at normal incidence: skin 1.4, tears 1.34.
FRESNEL_SKIN, FRESNEL_TEARS = 0.028, 0.022
# Columns of a lamp: right, up, direction, colour, half width, half height.
RIGHT, UP, TOWARD, COLOUR, HALF = 0, 3, 6, 9, 12
# The sharper of skin's two lobes, and its share (Weyrich et al. 2006 fit two microfacet lobes to faces).
SECOND_ROUGHNESS, SECOND_SHARE = 0.55, 0.22


# Attributes of a fragment, and its place in the posed and in the canonical surface.


@compiled
def _add(face, w, share, faces, moving, fixed, at, fix):  # type: ignore[no-untyped-def]
    """Add a fragment's interpolated attributes, times ``share``."""
    a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
    part = np.float32(share)
    wa, wb, wc = w[0] * part, w[1] * part, w[2] * part
    first, second, third = moving[a], moving[b], moving[c]
    for k in range(MOVING_SIZE):
        at[k] += wa * first[k] + wb * second[k] + wc * third[k]
    first, second, third = fixed[a], fixed[b], fixed[c]
    for k in range(FIXED_SIZE):
        fix[k] += wa * first[k] + wb * second[k] + wc * third[k]


@compiled
def _add_both(f, w, g, v, faces, moving, fixed, at, fix, middle):  # type: ignore[no-untyped-def]
    """Add the mean of two fragments' attributes."""
    if f == g:
        for k in range(3):
            middle[k] = np.float32(0.5) * (w[k] + v[k])
        _add(f, middle, 1.0, faces, moving, fixed, at, fix)
    else:
        _add(f, w, 0.5, faces, moving, fixed, at, fix)
        _add(g, v, 0.5, faces, moving, fixed, at, fix)


@compiled
def _frame(face, faces, moving, fixed, unit_mm, edges):  # type: ignore[no-untyped-def]
    """Write two edges of a triangle in canonical (rows 0, 1) and world millimetres (rows 2, 3)."""
    a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
    scale = 1000.0 / unit_mm
    for k in range(3):
        edges[0, k] = fixed[b, k] - fixed[a, k]
        edges[1, k] = fixed[c, k] - fixed[a, k]
        edges[2, k] = (moving[b, k] - moving[a, k]) * scale
        edges[3, k] = (moving[c, k] - moving[a, k]) * scale


@compiled
def _world_slope(gx, gy, gz, edges, n, slope):  # type: ignore[no-untyped-def]
    """Carry a gradient over canonical space to the posed surface with normal ``n`` (Mikkelsen 2010, eq. 4)."""
    h1 = gx * edges[0, 0] + gy * edges[0, 1] + gz * edges[0, 2]
    h2 = gx * edges[1, 0] + gy * edges[1, 1] + gz * edges[1, 2]
    ax, ay, az = edges[2]
    bx, by, bz = edges[3]
    # r1 = e2 × n, r2 = n × e1
    r1x, r1y, r1z = by * n[2] - bz * n[1], bz * n[0] - bx * n[2], bx * n[1] - by * n[0]
    r2x, r2y, r2z = n[1] * az - n[2] * ay, n[2] * ax - n[0] * az, n[0] * ay - n[1] * ax
    det = ax * r1x + ay * r1y + az * r1z
    if abs(det) < 1e-9:
        slope[:] = 0.0
        return
    slope[0], slope[1], slope[2] = (
        (h1 * r1x + h2 * r2x) / det, (h1 * r1y + h2 * r2y) / det, (h1 * r1z + h2 * r2z) / det,
    )  # fmt: skip
    steep = np.sqrt(slope[0] ** 2 + slope[1] ** 2 + slope[2] ** 2)
    if steep > 0.8:
        for k in range(3):
            slope[k] *= 0.8 / steep


@compiled
def _unit(x, y, z):  # type: ignore[no-untyped-def]
    inverse = 1.0 / np.sqrt(x * x + y * y + z * z + 1e-18)
    return x * inverse, y * inverse, z * inverse


# What the surface mirrors: two specular lobes of skin, lamps in wet eyes, the shine of hair.


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
    """Add the two highlights of hair, strands given in canonical space (Kajiya & Kay 1989, shifted as Marschner's)."""
    # The strand in the posed triangle: the same mixture of its edges.
    strand = fix[3 + STRAND : 6 + STRAND]
    e1, e2 = edges[0], edges[1]
    a11, a12, a22 = e1[0] ** 2 + e1[1] ** 2 + e1[2] ** 2, 0.0, e2[0] ** 2 + e2[1] ** 2 + e2[2] ** 2
    b1, b2 = 0.0, 0.0
    for k in range(3):
        a12 += e1[k] * e2[k]
        b1 += e1[k] * strand[k]
        b2 += e2[k] * strand[k]
    det = a11 * a22 - a12 * a12
    if det < 1e-12:
        return
    s, t = (a22 * b1 - a12 * b2) / det, (a11 * b2 - a12 * b1) / det
    tx, ty, tz = (
        s * edges[2, 0] + t * edges[3, 0], s * edges[2, 1] + t * edges[3, 1], s * edges[2, 2] + t * edges[3, 2],
    )  # fmt: skip
    nx, ny, nz = at[SMOOTH], at[SMOOTH + 1], at[SMOOTH + 2]
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


# One piece of surface, one pixel, one view.


@compiled
def _shade(at, fix, material, edges, pixel_mm, centre, eyes, look, lamps, sky, work, out):  # type: ignore[no-untyped-def]
    """Write the radiance (3,) of one piece of surface to ``out``."""
    n, slope, tilted, surface = work[0], work[1], work[2], work[3]
    vx, vy, vz = _unit(centre[0] - at[0], centre[1] - at[1], centre[2] - at[2])
    x, y, z = _unit(at[NORMAL], at[NORMAL + 1], at[NORMAL + 2])
    facing = x * vx + y * vy + z * vz
    footprint = pixel_mm / np.sqrt(max(abs(facing), 0.2))
    values = fix[VALUES:]
    if material == SKIN:
        skin_at(fix, values, footprint, look, surface)
    elif material in (RIGHT_EYE, LEFT_EYE):
        eye_at(fix, eyes[material - RIGHT_EYE], footprint, look, surface)
    elif material == MOUTH:
        mouth_at(fix, footprint, look, surface)
    elif material == TEETH:
        tooth_at(fix, footprint, look, surface)
    else:
        cloth_at(fix, footprint, look, surface)
    cover = surface[COVER]
    if cover > 0.02:
        # Hair hides the relief under it.
        sx, sy, sz = _unit(at[SMOOTH], at[SMOOTH + 1], at[SMOOTH + 2])
        x, y, z = _unit(x + cover * (sx - x), y + cover * (sy - y), z + cover * (sz - z))
        facing = x * vx + y * vy + z * vz
    if facing < 0.02:
        # Interpolated normals may point away at a silhouette: turn them just enough.
        lift = 0.02 - facing
        x, y, z = _unit(x + lift * vx, y + lift * vy, z + lift * vz)
    n[0], n[1], n[2] = x, y, z
    _world_slope(surface[GRADIENT], surface[GRADIENT + 1], surface[GRADIENT + 2], edges, n, slope)
    # Seen at a glance, bumps hide their own far sides.
    flat = min(1.0, 0.25 + 1.2 * max(facing, 0.0))
    for k in range(3):
        slope[k] *= flat
    # Light that went through skin blurs the relief, in red most.
    mean = (at[IRRADIANCE] + at[IRRADIANCE + 1] + at[IRRADIANCE + 2]) / 3 + 1e-6
    turn = -(at[VECTOR] * slope[0] + at[VECTOR + 1] * slope[1] + at[VECTOR + 2] * slope[2]) / mean
    for k in range(3):
        keep = 1 - surface[SOFT] * (0.55 - 0.2 * k)
        out[k] = surface[ALBEDO + k] * at[IRRADIANCE + k] * min(1.8, max(0.25, 1 + keep * turn))
    tilted[0], tilted[1], tilted[2] = _unit(x - slope[0], y - slope[1], z - slope[2])
    add_reflections(at, tilted, vx, vy, vz, surface, lamps, sky, out)
    if cover > 0.05:
        hair_shine(at, fix, edges, vx, vy, vz, cover, surface, lamps, out)


@compiled
def _depth(camera_row, at):  # type: ignore[no-untyped-def]
    return camera_row[0] * at[0] + camera_row[1] * at[1] + camera_row[2] * at[2] + camera_row[3]


@compiled
def _empty(head, rest, y, x, factor):  # type: ignore[no-untyped-def]
    for sy in range(factor):
        for sx in range(factor):
            if head[y + sy, x + sx] >= 0:
                return False
    return rest[y // factor, x // factor] < 0


@compiled
def _one_piece(head, rest, head_depth, materials, y, x, factor, focal_px):  # type: ignore[no-untyped-def]
    """Look at one pixel's subsamples.

    Returns
    -------
    hits : int
        How many are on the subject.
    kind : int
        The material if one piece of surface holds them all, else -1.
    depth : float
        Of the nearest on the subject.
    """
    hits, others, near, far, kind, one = 0, 0, 1e9, 0.0, -1, True
    for sy in range(y, y + factor):
        for sx in range(x, x + factor):
            f = head[sy, sx]
            if f >= 0:
                hits += 1
                near, far = min(near, head_depth[sy, sx]), max(far, head_depth[sy, sx])
            else:
                f = rest[sy // factor, sx // factor]
                others += f >= 0
            if f >= 0:
                one = one and (kind < 0 or materials[f] == kind)
                kind = materials[f]
    full = factor * factor
    if not one or full not in (hits, others) or far - near > ONE_SURFACE_PIXELS * near / focal_px:
        kind = -1
    return hits, kind, near


@compiled
def _subsamples(  # type: ignore[no-untyped-def]
    head, head_weights, rest, rest_weights, y, x, factor, materials, faces, moving, fixed, camera_row, focal_px,
    centre, unit_mm, eyes, look, lamps, sky, at, fix, edges, work, radiance, total,
):  # fmt: skip
    """Shade the subsamples of a pixel one by one, add their mean to ``total``; return how many there are."""
    done = 0
    for sy in range(y, y + factor):
        for sx in range(x, x + factor):
            f, weight = head[sy, sx], head_weights[sy, sx]
            if f < 0:
                f, weight = rest[sy // factor, sx // factor], rest_weights[sy // factor, sx // factor]
            if f < 0:
                continue
            at[:], fix[:] = 0.0, 0.0
            _add(f, weight, 1.0, faces, moving, fixed, at, fix)
            _frame(f, faces, moving, fixed, unit_mm, edges)
            pixel_mm = _depth(camera_row, at) / focal_px * 1000 / unit_mm
            _shade(at, fix, materials[f], edges, pixel_mm, centre, eyes, look, lamps, sky, work, radiance)
            done += 1
            for k in range(3):
                total[k] += radiance[k] / (factor * factor)
    return done


@compiled
def shade_view(  # type: ignore[no-untyped-def]
    head, head_weights, head_depth, rest, rest_weights, faces, materials, moving, fixed, camera_row, focal_px,
    centre, unit_mm, eyes, look, lamps, sky, background, factor,
):  # fmt: skip
    """Shade supersampled fragments and average them.

    Parameters
    ----------
    head : (factor·H, factor·W) int32
        Triangles of the subject; -1 for none.
    head_weights : (factor·H, factor·W, 3) float32
    head_depth : (factor·H, factor·W) float32
    rest : (H, W) int32
        What is seen only where the subject is not, once a pixel: out of focus, it needs no subsamples.
    rest_weights : (H, W, 3) float32
    faces : (F, 3) int32
    materials : (F,) int8
    moving, fixed : (N, MOVING_SIZE) and (N, FIXED_SIZE) float32
    camera_row : (4,) float64
        Third row of world_to_camera: depth of a point.
    focal_px : float
        Of the final image.
    centre : (3,) float64
    unit_mm : float
        Millimetres per standard millimetre, see :class:`~datagen.simulation.photo.face_fields.FaceFields`.
    eyes : (2, 4) float64
    lamps : (L, 17) float64
        See :func:`datagen.simulation.photo.shading.lamp_rows`.
    sky : (9, 3) float64
    background : (H, W, 3) float32

    Returns
    -------
    image : (H, W, 3) float32
        Linear RGB.
    coverage : (H, W) float32
        Share of subsamples on the subject.
    """
    height, width = background.shape[:2]
    image, coverage = np.empty((height, width, 3), np.float32), np.zeros((height, width), np.float32)
    share = 1.0 / (factor * factor)
    at, fix = np.empty(MOVING_SIZE, np.float32), np.empty(FIXED_SIZE, np.float32)
    edges, work = np.empty((4, 3)), np.zeros((4, SURFACE_SIZE))
    radiance, total, middle = np.empty(3), np.empty(3), np.empty(3, np.float32)
    last = factor - 1
    for y in range(height):
        for x in range(width):
            total[:] = 0.0
            if _empty(head, rest, y * factor, x * factor, factor):
                for k in range(3):
                    image[y, x, k] = background[y, x, k]
                continue
            hits, kind, depth = _one_piece(head, rest, head_depth, materials, y * factor, x * factor, factor, focal_px)
            coverage[y, x] = hits * share
            done = 0
            if kind >= 0:
                at[:], fix[:] = 0.0, 0.0
                if hits > 0:
                    # One piece of surface fills the pixel: two opposite subsamples give its middle.
                    a, b = (y * factor, x * factor), (y * factor + last, x * factor + last)
                    f = head[a]
                    _add_both(f, head_weights[a], head[b], head_weights[b], faces, moving, fixed, at, fix, middle)
                else:
                    f = rest[y, x]
                    _add(f, rest_weights[y, x], 1.0, faces, moving, fixed, at, fix)
                    depth = _depth(camera_row, at)
                _frame(f, faces, moving, fixed, unit_mm, edges)
                pixel_mm = depth / focal_px * 1000 / unit_mm
                _shade(at, fix, kind, edges, pixel_mm, centre, eyes, look, lamps, sky, work, total)
                done = factor * factor
            else:
                done = _subsamples(
                    head, head_weights, rest, rest_weights, y * factor, x * factor, factor, materials, faces,
                    moving, fixed, camera_row, focal_px, centre, unit_mm, eyes, look, lamps, sky, at, fix, edges,
                    work, radiance, total,
                )  # fmt: skip
            for k in range(3):
                image[y, x, k] = total[k] + background[y, x, k] * (1 - done * share)
    return image, coverage
