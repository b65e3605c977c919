"""Where the skin is, as the pictures of one instant say together: multi-view stereo about a fitted template.

Points that a program saw in pictures are as good as its idea of faces. That the same skin must look the same in all
pictures needs no such idea. The fitted template is moved along its normals, a step at a time; pictures are unwrapped
through each of these surfaces, and where it is the true one, they agree: a plane sweep (R. Collins, "A space-sweep
approach to true multi-image matching", CVPR 1996) about a curved surface that is nearly right already, with the local
normalised correlation of multi-view stereo (Y. Furukawa & J. Ponce, "Accurate, dense, and robust multiview stereopsis",
PAMI 2010). What is found is a distance along the normal, never a place along the surface.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from datagen.common.arrays import F32, F64, I64, Bools
from datagen.evidence.texels import Texels, face_texels, luminance, sampled, seen_texels, texel_size
from datagen.fit.problem import SkinPoints
from datagen.geometry.camera import Camera
from datagen.geometry.mesh import normalised, vertex_normals
from datagen.heads.base import HeadTemplate
from datagen.render.contract import Renderer

# Texels: Gaussian widths of the patch that is compared, and of what its brightness and contrast are taken off by; how
# far apart points are.
PATCH, LIGHT, SPACING = 5.0, 2.0, 6
# Of a step along the normal, in texels.
STEP = 0.5
# What differs by less, of 255, is noise rather than contrast.
NOISE = 0.5
# Pictures agree at least so well (correlation), and so much of a patch is seen by two or more.
LEAST_AGREEMENT = 0.4
LEAST_SEEN = 0.8
LEAST_VIEWS = 2
# Of the width of the peak, as far as pictures disagree there; and what no smooth shape follows. Held against the truth.
PEAK_SHARE = 0.2
DETAIL_M = 3e-4
# Patches overlap: so many points err as one.
TOGETHER = 10.0
# Of the points that two pictures show; where fewer agree, what does is chance, or another person.
LEAST_SHARE = 0.25
# Texels of a texture at most; a picture that shows less of them is compared in coarser ones.
MOST_TEXELS, FEWEST_TEXELS = 384, 96
# Pixels that a texel is at least.
LEAST_PX = 0.7


@dataclass(frozen=True, eq=False)
class StereoView:
    """One picture of an instant.

    Attributes
    ----------
    camera : Camera
    picture : (H, W, 3) uint8
        sRGB.
    mask : (H, W) bool or None
        What of it is the person.
    """

    camera: Camera
    picture: npt.NDArray[np.uint8]
    mask: Bools | None = None


class Stereo:
    """Finds the skin about a template, given pictures of several cameras."""

    def __init__(self, template: HeadTemplate, renderer: Renderer) -> None:
        self.template, self._renderer = template, renderer
        self._texels: dict[int, Texels] = {}

    def texels(self, size: int) -> Texels:
        """Return the texels of a texture of so many a side."""
        if size not in self._texels:
            self._texels[size] = face_texels(self.template, size, self._renderer)
        return self._texels[size]

    def skin(self, vertices: F64, views: Sequence[StereoView], reach_m: float, most: int) -> SkinPoints | None:
        """Return where the skin is about a template.

        Parameters
        ----------
        vertices : (V, 3) float64
            The template where it is thought to be, world metres.
        views : sequence of StereoView
        reach_m : float
            It is looked for so far to either side.
        most : int
            Texels a side of the texture that pictures are compared in, at most; coarser where pictures are.

        Returns
        -------
        SkinPoints or None
            None where nothing is seen by two pictures, or where they do not agree.
        """
        if len(views) < LEAST_VIEWS:
            return None
        drawn = self._renderer.rasterise(vertices, self.template.faces, [view.camera for view in views])
        texels = self.texels(self._size(vertices, views, min(most, MOST_TEXELS)))
        at = texels.positions(vertices, self.template.faces)
        along = normalised(texels.positions(vertex_normals(vertices, self.template.faces), self.template.faces))
        seen = [
            seen_texels(texels, self.template, vertices, view.camera, shown, view.mask)
            for view, shown in zip(views, drawn, strict=True)
        ]
        # A picture that sees the skin at a slant shows it shrunk, and what is beside it.
        weight = np.nan_to_num(np.stack([texels.spread(cosine**2) for cosine in seen]))
        here = _points(texels, weight)
        if not len(here):
            return None
        luma = [
            luminance(view.picture, texel_size(texels, view.camera.project(at)[0], cosine > 0))
            for view, cosine in zip(views, seen, strict=True)
        ]
        step = STEP * texel_size(texels, at)
        count = max(2, round(reach_m / step))
        offsets = step * np.arange(-count, count + 1, dtype=np.float64)
        scores = []
        for h in offsets.tolist():
            textures = [
                np.nan_to_num(texels.spread(sampled(shown, view.camera.project(at + h * along)[0])))
                for view, shown in zip(views, luma, strict=True)
            ]
            scores.append(_agreement(textures, weight)[texels.rows[here], texels.columns[here]])
        score = np.stack(scores, axis=1)
        h, sigma, good = _peaks(score, offsets)
        if good.mean() < LEAST_SHARE:
            return None
        chosen = here[good]
        uneven = _unevenness(texels, chosen, h[good])
        return SkinPoints(
            faces=texels.faces[chosen],
            barycentric=texels.barycentric[chosen],
            points=at[chosen] + h[good, None] * along[chosen],
            normals=along[chosen],
            sigma_m=np.sqrt(TOGETHER * (sigma[good] ** 2 + uneven**2)),
        )

    def _size(self, vertices: F64, views: Sequence[StereoView], most: int) -> int:
        """Return how many texels a side the sharpest picture shows."""
        texels = self.texels(FEWEST_TEXELS)
        at = texels.positions(vertices, self.template.faces)
        px = max(texel_size(texels, view.camera.project(at)[0]) for view in views)
        return int(np.clip(round(FEWEST_TEXELS * px / LEAST_PX), FEWEST_TEXELS, most))


def _points(texels: Texels, weight: F32) -> I64:
    """Return the texels (m,) on a grid about which two pictures or more show the skin."""
    two = (weight > 0).sum(axis=0) >= LEAST_VIEWS
    seen = ndimage.gaussian_filter(two.astype(np.float32), PATCH) > LEAST_SEEN
    grid = np.zeros_like(two)
    grid[SPACING // 2 :: SPACING, SPACING // 2 :: SPACING] = True
    return np.asarray(texels.index[grid & two & seen & (texels.index >= 0)])


def _agreement(textures: Sequence[F32], weight: F32) -> F32:
    """Return how well patches about each texel agree, (S, S): the weighed mean correlation of all pairs of pictures.

    Of every picture its own brightness and contrast nearby are taken off, so that each may have another light. Pairs
    are summed at once: ``Σ_{i≠j} a_i a_j = (Σ a_i)² − Σ a_i²``.
    """
    total = np.zeros_like(weight[0])
    squares, powers = np.zeros_like(total), np.zeros_like(total)
    weights = weight.sum(axis=0)
    for texture, w in zip(textures, weight, strict=True):
        seen = (w > 0).astype(np.float32)
        share = ndimage.gaussian_filter(seen, LIGHT) + 1e-6
        detail = texture - ndimage.gaussian_filter(texture * seen, LIGHT) / share
        contrast = np.sqrt(ndimage.gaussian_filter(seen * detail**2, LIGHT) / share + NOISE**2)
        weighed = w * detail / contrast
        total += weighed
        squares += weighed**2
        powers += np.divide(weighed**2, w, out=np.zeros_like(w), where=w > 0) * (weights - w)
    agreed = ndimage.gaussian_filter(total**2 - squares, PATCH)
    return np.asarray(agreed / np.maximum(ndimage.gaussian_filter(powers, PATCH), 1e-6))


def _peaks(score: F32, offsets: F64) -> tuple[F64, F64, Bools]:
    """Return where scores (m, k) are highest, to a fraction of a step, the standard deviation, and which are peaks."""
    last, row = len(offsets) - 1, np.arange(len(score))
    at = score.argmax(axis=1)
    inside = np.clip(at, 1, last - 1)
    before, peak, after = (score[row, inside + k].astype(np.float64) for k in (-1, 0, 1))
    bend = 2 * peak - before - after
    good = (at == inside) & (bend > 1e-9) & (peak > LEAST_AGREEMENT)
    bend = np.where(good, bend, 1.0)
    step = float(offsets[1] - offsets[0])
    found = offsets[inside] + step * np.where(good, (after - before) / (2 * bend), 0.0)
    width = step * np.sqrt(np.maximum(1 - peak, 0) / bend)
    return found, np.hypot(PEAK_SHARE * width, DETAIL_M), good


def _unevenness(texels: Texels, chosen: I64, h: F64) -> F64:
    """Return how much the distances h (m,) of texels differ from those about them, within a patch, (m,) metres.

    A patch is taken to have one distance. Where the template's shape is wrong within it, it has none.
    """
    sums = []
    for values in (np.ones(len(h)), h, h**2):
        texture = np.zeros((texels.size, texels.size))
        texture[texels.rows[chosen], texels.columns[chosen]] = values
        sums.append(ndimage.gaussian_filter(texture, PATCH)[texels.rows[chosen], texels.columns[chosen]])
    count, first, second = sums
    return np.sqrt(np.maximum(second / count - (first / count) ** 2, 0.0))
