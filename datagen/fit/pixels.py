"""What the pictures of all frames say of the points of one head, as the normal equations of the fit have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from datagen.common.arrays import F64, I64
from datagen.fit.problem import FitFrame, SkinPoints
from datagen.geometry.camera import Camera
from datagen.geometry.pixel_evidence import PixelEvidence
from datagen.warp.pixel_rows import (
    STUDENT_DEGREES,
    Rows,
    SeenInPictures,
    Source,
    point_keys,
    points_operator,
    seen_in_pictures,
)
from datagen.warp.similarity import Similarity
from datagen.warp.template import WarpTemplate

_BETWEEN = "\0"  # a frame and the name of a source
SKIN = "skin"


@dataclass(frozen=True, eq=False)
class Told:
    """What a frame's pictures say, to first order.

    Attributes
    ----------
    information : mapping of source to (u, 3, 3) float64
        Of positions, in the head's axes; that of where the skin is by :data:`SKIN`.
    pull : mapping of source to (u, 3) float64
    focal : mapping of camera to (3 u + 2,) float64
        Where focal lengths are unknown: of the logarithm of each, the coupling with positions, its own information,
        and its pull.
    energy : float
        Half the squared residuals, each in its standard deviation, with the weights that they were given.
    """

    information: Mapping[str, F64]
    pull: Mapping[str, F64]
    focal: Mapping[str, F64]
    energy: float


@dataclass(frozen=True, eq=False)
class Skin:
    """Where the skin is in a frame.

    Attributes
    ----------
    where : (n,) int64
        Of each point, which of the distinct points it is.
    seen : SkinPoints
    """

    where: I64
    seen: SkinPoints

    def told(self, pose: Similarity, points: F64, *, robust: bool) -> tuple[F64, F64, float]:
        """Return information (u, 3, 3), pull (u, 3) and energy of points (u, 3) in the head's axes, as they lie now."""
        seen, at = self.seen, pose.apply(points[self.where])
        residual = np.einsum("nd,nd->n", seen.points - at, seen.normals) / seen.sigma_m
        rows = seen.normals @ pose.rotation * (pose.scale / seen.sigma_m[:, None])
        weight = np.ones(len(residual))
        if robust:
            weight = (STUDENT_DEGREES + 1) / (STUDENT_DEGREES + residual**2)
        information, pull = np.zeros((len(points), 3, 3)), np.zeros((len(points), 3))
        np.add.at(information, self.where, weight[:, None, None] * rows[:, :, None] * rows[:, None, :])
        np.add.at(pull, self.where, (weight * residual)[:, None] * rows)
        return information, pull, 0.5 * float(weight @ residual**2)


class SeenFrames:
    """All frames' pictures, of one set of distinct points.

    Attributes
    ----------
    operator : (u, V) float64 CSR
        From control vertices to the distinct points.
    frames : tuple of SeenInPictures
        Of each frame; the sources' names begin with its place.
    skins : tuple of Skin or None
        Where the skin is in each, if that is known.
    """

    def __init__(self, template: WarpTemplate, frames: Sequence[FitFrame]) -> None:
        labelled = [
            PixelEvidence(replace(one.points, source=f"{place}{_BETWEEN}{one.points.source}"), one.camera)
            for place, frame in enumerate(frames)
            for one in frame.evidence
        ]
        together = seen_in_pictures(template, labelled)
        first = together.operator.shape[0]
        skin, self.skins = _skins(template, frames, first)
        self.operator: sp.csr_matrix = sp.vstack([together.operator, skin], "csr")
        views = iter(together.views)
        self.frames = tuple(
            SeenInPictures(
                self.operator,
                tuple(next(views) for _ in frame.evidence),
                {
                    name: Source(np.pad(one.shared_m, ((0, 0), (0, skin.shape[0]), (0, 0))), one.factors)
                    for name, one in together.sources.items()
                    if _place(name) == place
                },
            )
            for place, frame in enumerate(frames)
        )
        self.cameras = tuple(sorted({one.camera.name for frame in frames for one in frame.evidence}))

    def with_focal(self, focal_px: Mapping[str, float]) -> None:
        """Give cameras other focal lengths; square pixels, principal points in the middle."""
        for seen in self.frames:
            seen.views = tuple(replace(view, camera=with_focal(view.camera, focal_px)) for view in seen.views)


def _skins(
    template: WarpTemplate, frames: Sequence[FitFrame], first: int
) -> tuple[sp.csr_matrix, tuple[Skin | None, ...]]:
    """Return the distinct points of the skin, as an operator on control vertices, and those of each frame."""
    known = [frame.skin for frame in frames if frame.skin is not None]
    if not known:
        return sp.csr_matrix((0, template.subdivide.shape[1])), (None,) * len(frames)
    faces = np.concatenate([one.faces for one in known])
    barycentric = np.concatenate([one.barycentric for one in known])
    _, at, inverse = np.unique(point_keys(faces, barycentric), axis=0, return_index=True, return_inverse=True)
    parts = iter(np.split(first + inverse.ravel().astype(np.int64), np.cumsum([len(one.faces) for one in known])[:-1]))
    skins = tuple(None if frame.skin is None else Skin(next(parts), frame.skin) for frame in frames)
    return points_operator(template, faces[at], barycentric[at]), skins


def with_focal(camera: Camera, focal_px: Mapping[str, float]) -> Camera:
    """Return a camera with the focal length of its name: square pixels, the principal point in the middle."""
    f = focal_px[camera.name]
    return replace(camera, K=np.array([[f, 0, camera.width / 2], [0, f, camera.height / 2], [0, 0, 1.0]]))


def source_of(label: str) -> str:
    """Return the name of a source without its frame."""
    return label.partition(_BETWEEN)[2]


def _place(label: str) -> int:
    return int(label.partition(_BETWEEN)[0])


def told(seen: SeenInPictures, skin: Skin | None, pose: Similarity, points: F64, *, robust: bool, focal: bool) -> Told:
    """Return what a frame's pictures say of points (u, 3) in the head's axes, as they lie now."""
    pictures = seen.rows(pose, points, robust=robust)
    pulls = seen.gathered(pictures)
    energy = sum(rows.energy for rows in pictures)
    lengths: dict[str, F64] = {}
    for rows in pictures if focal else ():
        name = rows.view.camera.name
        lengths[name] = lengths.get(name, 0.0) + _of_focal(rows, len(points))
    information = {name: one.information for name, one in pulls.items()}
    pull = {name: one.pull for name, one in pulls.items()}
    if skin is not None:
        information[SKIN], pull[SKIN], more = skin.told(pose, points, robust=robust)
        energy += more
    return Told(information, pull, lengths, energy)


def _of_focal(rows: Rows, count: int) -> F64:
    """Return what one picture says of the logarithm of its focal length, as :class:`Told` has it."""
    weighed = rows.derivative * rows.weight[:, None, None]
    growth = np.einsum("nij,nj->ni", rows.root, rows.pixels - rows.view.camera.K[:2, 2])
    coupling = np.zeros((count, 3))
    np.add.at(coupling, rows.view.where, np.einsum("nij,ni->nj", weighed, growth))
    own = float((rows.weight * (growth**2).sum(axis=1)).sum())
    pulled = float((rows.weight * (growth * rows.residual).sum(axis=1)).sum())
    return np.concatenate([coupling.ravel(), [own, pulled]])
