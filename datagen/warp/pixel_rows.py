"""Points of the template seen in pictures, as the normal equations of a fit have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp

from datagen.common.arrays import F64, I64
from datagen.common.errors import InputError
from datagen.common.seen_points import SeenPoints
from datagen.geometry.camera import Camera
from datagen.geometry.pixel_evidence import PixelEvidence
from datagen.warp.similarity import Similarity
from datagen.warp.template import WarpTemplate

# Of each point's error, as a draw from Student's t of two dimensions.
STUDENT_DEGREES = 4.0
# Median of the squared length of a draw from the standard normal distribution of two dimensions.
USUAL_SQUARED = 2 * np.log(2)
# A picture this many times farther off than most, in standard deviations, is wrong rather than noisy.
STRANGE = 2.0
# What no smooth shape follows, however sharply a point was seen; without it such points bend all that is not seen.
DETAIL_M = 1e-3
# Nearer to a camera's plane a pixel says nothing.
LEAST_DEPTH_M = 0.01
# Barycentric coordinates that round alike are one point.
SAME_POINT = 1e-5


@dataclass(frozen=True, eq=False)
class View:
    """One picture's points.

    Attributes
    ----------
    source, camera : str
        Who saw them, and where.
    where : (n,) int64
        Of each point, which of the distinct points it is.
    pixels : (n, 2) float64
    covariance : (n, 2, 2) float64
    """

    source: str
    camera: Camera
    where: I64
    pixels: F64
    covariance: F64


@dataclass(eq=False)
class Source:
    """What one maker says, over all pictures.

    Attributes
    ----------
    shared_m : (k, u, 3) float64
        Displacements in the template's axes that all of its pictures share.
    factors : (k,) float64
        Of these, as far as they are known.
    """

    shared_m: F64
    factors: F64


@dataclass(frozen=True, eq=False)
class Pull:
    """What the pictures of one source say of positions, to first order: ``½ dᵀ information d − pullᵀ d``.

    Attributes
    ----------
    information : (u, 3, 3) float64
        In local axes.
    pull : (u, 3) float64
    """

    information: F64
    pull: F64


@dataclass(frozen=True, eq=False)
class Rows:
    """One picture's points as they lie now.

    Attributes
    ----------
    view : View
    derivative : (n, 2, 3) float64
        Of pixels by local positions, over their standard deviation.
    residual : (n, 2) float64
        What was seen less what is shown, over the same.
    weight : (n,) float64
        By which their squares count.
    root : (n, 2, 2) float64
        By which pixels are divided by their standard deviation; 0 of points that the camera cannot see.
    pixels : (n, 2) float64
        Where the points are shown.
    """

    view: View
    derivative: F64
    residual: F64
    weight: F64
    root: F64
    pixels: F64

    @property
    def energy(self) -> float:
        """Half the sum of the weighed squares of what is left over."""
        return 0.5 * float((self.weight * (self.residual**2).sum(axis=1)).sum())


@dataclass(eq=False)
class SeenInPictures:
    """All that pictures say of one instant.

    Information of all pictures is summed at each point before the many unknowns come in, so that pictures cost little.

    Attributes
    ----------
    operator : (u, V) float64 CSR
        From control vertices to the distinct points.
    scale : dict of (source, camera) to float
        How many times as far off as they say the points of a picture are; at least 1.
    """

    operator: sp.csr_matrix
    views: tuple[View, ...]
    sources: dict[str, Source]
    scale: dict[tuple[str, str], float] = field(default_factory=dict)

    def gathered(self, rows: Sequence[Rows]) -> dict[str, Pull]:
        """Return for each source the sum of what its pictures say, at each of the distinct points."""
        count = self.operator.shape[0]
        found = {name: Pull(np.zeros((count, 3, 3)), np.zeros((count, 3))) for name in self.sources}
        for one in rows:
            weighed = one.derivative * one.weight[:, None, None]
            told = found[one.view.source]
            np.add.at(told.information, one.view.where, weighed.transpose(0, 2, 1) @ one.derivative)
            np.add.at(told.pull, one.view.where, np.einsum("nij,ni->nj", weighed, one.residual))
        return found

    def rows(self, pose: Similarity, points: F64, *, robust: bool = True) -> list[Rows]:
        """Return what each picture says of points (u, 3) in local axes, as they lie now.

        A picture whose points are farther off than they may be is believed less, as one; if they are farther off than
        in most pictures, it is of another instant or its camera is wrong, and counts next to nothing. Within a picture
        points that are farther off than the others are believed less too. None of this if not ``robust``.
        """
        found = []
        for view in self.views:
            source = self.sources[view.source]
            moved = points + np.tensordot(source.factors, source.shared_m, 1) if len(source.factors) else points
            found.append(_whitened(view, pose, moved[view.where]))
        if not robust:
            return found
        squares = [(rows.residual**2).sum(axis=1) for rows in found]
        scales = np.sqrt([max(1.0, float(np.median(s)) / USUAL_SQUARED) if len(s) else 1.0 for s in squares])
        strange = np.maximum(1.0, scales / (STRANGE * np.median(scales))) if len(scales) else scales
        for rows, squared, scale, odd in zip(found, squares, scales.tolist(), strange.tolist(), strict=True):
            self.scale[rows.view.source, rows.view.camera.name] = scale
            rows.weight[:] = (STUDENT_DEGREES + 2) / (STUDENT_DEGREES + squared / scale**2) / (scale * odd) ** 2
        return found


def seen_in_pictures(template: WarpTemplate, evidence: Sequence[PixelEvidence]) -> SeenInPictures:
    """Gather what pictures say of one instant.

    Raises
    ------
    InputError
        If one was made for another template, or names faces that this one lacks.
    """
    for one in evidence:
        _check_template(template, one.points)
    if not evidence:
        return SeenInPictures(sp.csr_matrix((0, len(template.head.vertices))), (), {})
    keys = [point_keys(one.points.faces, one.points.barycentric) for one in evidence]
    distinct, first, inverse = np.unique(np.concatenate(keys), axis=0, return_index=True, return_inverse=True)
    where = np.split(inverse.ravel(), np.cumsum([len(key) for key in keys])[:-1])
    faces = np.concatenate([one.points.faces for one in evidence])[first]
    barycentric = np.concatenate([one.points.barycentric for one in evidence])[first]
    count = len(distinct)
    sources: dict[str, Source] = {}
    views = []
    for one, at in zip(evidence, where, strict=True):
        seen = one.points
        k = len(seen.shared_m)
        source = sources.setdefault(seen.source, Source(np.zeros((k, count, 3)), np.zeros(k)))
        if len(source.factors) != k:
            raise InputError(
                f"pictures of {seen.source} share {len(source.factors)} and {k} displacements",
                "as many in all of one instant",
                "Make all of them with one version of the program",
            )
        source.shared_m[:, at] = seen.shared_m if k else 0.0
        views.append(View(seen.source, one.camera, at.astype(np.int64), seen.pixels, seen.covariance))
    return SeenInPictures(points_operator(template, faces, barycentric), tuple(views), sources)


def point_keys(faces: I64, barycentric: F64) -> I64:
    """Return numbers (n, 4) that are the same where points of the template are."""
    return np.concatenate([faces[:, None], np.round(barycentric / SAME_POINT).astype(np.int64)], axis=1)


def points_operator(template: WarpTemplate, faces: I64, barycentric: F64) -> sp.csr_matrix:
    """Return what leads from control vertices to points of the template, (n, V) float64 CSR."""
    count, V = len(faces), len(template.head.vertices)
    corners = template.head.faces[faces]
    rows = sp.csr_matrix((barycentric.ravel(), (np.repeat(np.arange(count), 3), corners.ravel())), shape=(count, V))
    return (rows @ template.subdivide[:V]).tocsr()


def _check_template(template: WarpTemplate, points: SeenPoints) -> None:
    if points.template != template.head.digest:
        raise InputError(
            f"{points.source} saw points of another template ({points.template[:12]})",
            f"those of {template.head.name!r} ({template.head.digest[:12]})",
            "Look at the pictures again with this head model, or choose the one that was meant",
        )
    if len(points) and points.faces.max() >= len(template.head.faces):
        raise InputError(
            f"{points.source} names face {points.faces.max()}",
            f"less than {len(template.head.faces)}, the number of {template.head.name!r}'s faces",
            "Look at the pictures again with this head model",
        )


def _whitened(view: View, pose: Similarity, local: F64) -> Rows:
    """Return what a picture says of local positions (n, 3), all weights 1."""
    camera = view.camera
    at = camera.to_camera(pose.apply(local))
    front = at[:, 2] > LEAST_DEPTH_M
    z = np.where(front, at[:, 2], 1.0)
    K = camera.K
    projected = at @ K.T
    pixels = projected[:, :2] / z[:, None]
    by_camera = (K[None, :2] - pixels[:, :, None] * K[None, 2:3]) / z[:, None, None]
    covariance = view.covariance + DETAIL_M**2 * by_camera @ by_camera.transpose(0, 2, 1)
    # Its transpose times itself is the inverse of the covariance.
    root = np.linalg.inv(np.linalg.cholesky(covariance)) * front[:, None, None]
    by_local = by_camera @ (camera.world_to_camera[:3, :3] @ pose.rotation * pose.scale)
    residual = np.einsum("nij,nj->ni", root, view.pixels - pixels)
    return Rows(view, root @ by_local, residual, np.ones(len(local)), root, pixels)
