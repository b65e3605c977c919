"""Evidence from a person's own texture: what was here in keyframes is here now.

Geometry does not tell where along a smooth cheek a point belongs; pores, moles and stubble do. Pictures of keyframes
are unwrapped through the registered template and averaged, by camera; a frame's picture, unwrapped through its own
registration, is compared with that, and what has moved is evidence. Every frame is compared with the keyframes and
none with the one before, so that nothing drifts. The idea of Yoon et al., "Self-supervised adaptation of high-fidelity
face models for monocular performance tracking", CVPR 2019, section 3.2, used to make data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from datagen.common.arrays import F32, F64, I64, Bools
from datagen.common.errors import InputError
from datagen.common.files import npz_bytes, read_npz
from datagen.common.seen_points import SeenPoints
from datagen.evidence.texels import Texels, Unwrapped

SOURCE = "texture"
# Texels: half a patch's side, how far apart patches are, and how far one may have moved.
HALF_PATCH = 10
SPACING = 10
MOST_TEXELS = 8.0
# Of a texture's noise before it is compared.
BLUR_TEXELS = 1.0
ROUNDS = 10
SETTLED_TEXELS = 0.02
# How much of a patch must be seen, and how well it must agree (correlation) to be the same skin.
LEAST_SEEN = 0.8
LEAST_AGREEMENT = 0.5
# Patches overlap and what differs (light, noise after blurring) goes together over some texels.
TOGETHER = 16.0
# Nothing is matched better than this, however sharp it is.
LEAST_SIGMA_TEXELS = 0.1


@dataclass(frozen=True, eq=False)
class Appearance:
    """How a person looks in each camera, in the texture frame.

    Attributes
    ----------
    textures : mapping of camera name to (size, size) float32
        Luminance 0 to 255; NaN where it was never seen.
    """

    textures: Mapping[str, F32]


def appearance_bytes(appearance: Appearance) -> bytes:
    """Return the content of a file: for each camera its texture, (size, size) uint8, 1 to 255, 0 where unknown."""
    return npz_bytes(
        {
            name: np.where(np.isfinite(texture), np.clip(np.nan_to_num(texture), 1, 255), 0).round().astype(np.uint8)
            for name, texture in sorted(appearance.textures.items())
        }
    )


def read_appearance(path: Path) -> Appearance:
    """Read what :func:`appearance_bytes` made.

    Raises
    ------
    InputError
        If it is missing or broken.
    """
    fix = "Remove its folder and build again"
    found = read_npz(path, expected="a person's appearance", fix=fix)
    if any(texture.dtype != np.uint8 or texture.ndim != 2 for texture in found.values()):
        raise InputError(f"{path} holds other arrays than textures", "a person's appearance", fix)
    return Appearance({name: np.where(t > 0, t, np.nan).astype(np.float32) for name, t in found.items()})


def learn_appearance(pictures: Iterable[tuple[str, Unwrapped]]) -> Appearance:
    """Average the pictures of keyframes, by camera (name, unwrapped)."""
    total: dict[str, F64] = {}
    count: dict[str, F64] = {}
    for camera, picture in pictures:
        seen = np.isfinite(picture.luminance)
        shape = picture.luminance.shape
        total.setdefault(camera, np.zeros(shape))[seen] += picture.luminance[seen]
        count.setdefault(camera, np.zeros(shape))[seen] += 1
    with np.errstate(invalid="ignore", divide="ignore"):
        return Appearance({name: (total[name] / count[name]).astype(np.float32) for name in total})


def seen_in_texture(
    appearance: Appearance, texels: Texels, camera: str, picture: Unwrapped, size: tuple[int, int], template: str
) -> SeenPoints:
    """Return where points of the template are in a picture, as the person's texture tells.

    Patches of the texture are aligned with the picture by translation, each with its own gain and offset (light): the
    inverse compositional algorithm of S. Baker & I. Matthews, "Lucas-Kanade 20 years on", IJCV 2004, section 3.2. The
    covariance is that of least squares, from what is left and the patch's own slopes: along an edge it is wide.

    Parameters
    ----------
    camera : str
        Name; without a texture there are no points.
    size : (int, int)
        Width and height of the picture.
    template : str
        Digest of the template.
    """
    known = appearance.textures.get(camera)
    where = _patch_centres(texels) if known is not None else np.zeros(0, np.int64)
    if known is None or not len(where):
        return _points(texels, where[:0], np.zeros((0, 2)), np.zeros((0, 2, 2)), size, template)
    centre = np.stack([texels.columns[where], texels.rows[where]], axis=1).astype(np.float64)
    shift, covariance, good = align_patches(known, picture.luminance, centre)
    at = centre + shift
    pixels, slopes = _pixels_at(picture.pixels, at)
    good &= np.isfinite(pixels).all(axis=1) & np.isfinite(slopes).all(axis=(1, 2))
    spread = slopes @ covariance @ slopes.transpose(0, 2, 1)
    return _points(texels, where[good], pixels[good], spread[good], size, template)


def _points(
    texels: Texels, where: I64, pixels: F64, covariance: F64, size: tuple[int, int], template: str
) -> SeenPoints:
    width, height = size
    faces, shares = texels.faces[where], texels.barycentric[where]
    return SeenPoints(SOURCE, template, width, height, faces, shares, pixels, covariance)


def _patch_centres(texels: Texels) -> I64:
    """Return texels (m,) on a grid whose patches lie on the face."""
    here = texels.index >= 0
    whole = ndimage.uniform_filter(here.astype(np.float32), 2 * HALF_PATCH + 1, mode="constant") >= LEAST_SEEN
    grid = np.zeros_like(here)
    grid[SPACING // 2 :: SPACING, SPACING // 2 :: SPACING] = True
    return np.asarray(texels.index[grid & whole & here])


def align_patches(known: F32, seen: F32, centre: F64) -> tuple[F64, F64, Bools]:
    """Return how far patches around centres have moved from one texture to another.

    Parameters
    ----------
    known, seen : (H, W) float32
        NaN where unknown.
    centre : (m, 2) float64
        Column and row of each patch's middle.

    Returns
    -------
    shift : (m, 2) float64
        Texels, column and row.
    covariance : (m, 2, 2) float64
        Square texels.
    good : (m,) bool
        Which patches were found.
    """
    first, first_seen = _blurred(known)
    second, second_seen = _blurred(seen)
    steps = np.arange(-HALF_PATCH, HALF_PATCH + 1)
    offsets = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    column, row = (centre[:, None] + offsets).transpose(2, 0, 1).astype(int)
    inside = (column >= 1) & (row >= 1) & (column < known.shape[1] - 1) & (row < known.shape[0] - 1)
    column, row = np.clip(column, 1, known.shape[1] - 2), np.clip(row, 1, known.shape[0] - 2)
    slope_y, slope_x = np.gradient(first, axis=0), np.gradient(first, axis=1)
    here = inside & first_seen[row, column]
    patch, slopes = first[row, column], np.stack([slope_x[row, column], slope_y[row, column]], axis=-1)
    shift = np.zeros((len(centre), 2))
    for _ in range(ROUNDS):
        at = [row + shift[:, None, 1], column + shift[:, None, 0]]
        near = [np.clip(np.rint(a).astype(int), 0, n - 1) for a, n in zip(at, seen.shape, strict=True)]
        both = here & second_seen[near[0], near[1]]
        values = ndimage.map_coordinates(second, at, order=1)
        weight = both.astype(np.float64)
        count = np.maximum(weight.sum(axis=1), 1.0)
        fitted, residual, gain = _same_light(values, patch, weight, count)
        # The mean slope goes with the offset: it tells nothing of a shift.
        free = slopes - np.einsum("mk,mkd->md", weight, slopes)[:, None] / count[:, None, None]
        normal = np.einsum("mk,mki,mkj->mij", weight, free, free) + 1e-6 * np.eye(2)
        step = np.linalg.solve(normal, np.einsum("mk,mki,mk->mi", weight, free, residual)[:, :, None])[:, :, 0]
        shift = shift - np.clip(step, -1.0, 1.0)
        if len(step) and float(np.percentile(np.abs(step), 90)) < SETTLED_TEXELS:
            break
    noise = np.einsum("mk,mk->m", weight, residual**2) / count
    power = np.einsum("mk,mk->m", weight, fitted**2) / count
    covariance = TOGETHER * noise[:, None, None] * np.linalg.inv(normal)
    covariance = covariance + LEAST_SIGMA_TEXELS**2 * np.eye(2)
    agreement = 1 - noise / np.maximum(power, 1e-9)
    good = (count >= LEAST_SEEN * len(offsets)) & (agreement > LEAST_AGREEMENT) & (gain > 0)
    good &= (np.linalg.norm(shift, axis=1) < MOST_TEXELS) & (np.abs(step) < 0.5).all(axis=1)
    return shift, covariance, good


def _same_light(values: F64, patch: F64, weight: F64, count: F64) -> tuple[F64, F64, F64]:
    """Return the patches less their means, what of the values differs from them in the same light, and the gain."""

    def centred(array: F64) -> F64:
        return (array - (np.einsum("mk,mk->m", weight, array) / count)[:, None]) * weight

    ours, theirs = centred(patch), centred(values)
    gain = np.einsum("mk,mk->m", ours, theirs) / np.maximum(np.einsum("mk,mk->m", theirs, theirs), 1e-9)
    return ours, gain[:, None] * theirs - ours, gain


def _blurred(texture: F32) -> tuple[F64, Bools]:
    """Return a texture without its finest noise, and where all that it is made of is known."""
    known = np.isfinite(texture)
    share = ndimage.gaussian_filter(known.astype(np.float64), BLUR_TEXELS)
    total = ndimage.gaussian_filter(np.where(known, texture, 0.0).astype(np.float64), BLUR_TEXELS)
    return total / np.maximum(share, 1e-6), known & (share > 0.9)


def _pixels_at(pixels: F32, at: F64) -> tuple[F64, F64]:
    """Return the pixels (m, 2) of places (m, 2; column and row) in a texture, and their derivative (m, 2, 2)."""

    def sampled(where: F64) -> F64:
        return np.stack(
            [ndimage.map_coordinates(pixels[..., k], where.T[::-1], order=1, cval=np.nan) for k in range(2)], axis=1
        )

    step = np.eye(2)
    slopes = np.stack([(sampled(at + one) - sampled(at - one)) / 2 for one in step], axis=2)
    return sampled(at), slopes
