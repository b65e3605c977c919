"""Meshes and landmarks of frames: rows of the frame table laid on the template and brought into the world."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError
from datagen.shards.faces import TemplateContents
from datagen.shards.plan import DatasetPlan

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class MaterialPoints:
    """Points of the template's surface. Each is the same skin on everyone and in every frame.

    Attributes
    ----------
    faces : (P,) int64
        Triangle of the template that carries each.
    weights : (P, 3) float64
        Of its corners; each row sums to 1.

    Raises
    ------
    InputError
        If shapes do not fit together, or a weight is negative, not finite, or a row does not sum to 1.
    """

    faces: I64
    weights: F64

    def __post_init__(self) -> None:
        faces, weights = np.asarray(self.faces), np.asarray(self.weights, np.float64)
        fits = faces.ndim == 1 and faces.dtype.kind in "iu" and weights.shape == (len(faces), 3)
        if not fits or not (np.abs(weights.sum(axis=1) - 1) <= 1e-3).all() or not (weights >= -1e-6).all():
            raise InputError(
                f"points with faces {faces.shape} {faces.dtype} and weights {weights.shape}",
                "a triangle (P,) int and weights of its corners (P, 3) that sum to 1 for each point",
                "Draw them with MaterialPoints.spread_over, or take those of landmarks",
            )
        object.__setattr__(self, "faces", faces.astype(np.int64))
        object.__setattr__(self, "weights", weights)

    def __len__(self) -> int:
        return len(self.faces)

    @classmethod
    def landmarks(cls, template: TemplateContents) -> MaterialPoints:
        """Return the template's landmarks, 68 on every head of ours, in their order."""
        return cls(template.landmark_faces.astype(np.int64), template.landmark_weights.astype(np.float64))

    @classmethod
    def spread_over(
        cls, template: TemplateContents, count: int, *, seed: int = 0, labels: tuple[int, ...] | None = None
    ) -> MaterialPoints:
        """Draw points spread evenly over the template's area: every triangle gets its share, to within one point.

        Parameters
        ----------
        count : int
        seed : int
            The same gives the same points.
        labels : tuple of int, optional
            Of ``template.region``; only triangles all of whose corners have one of them carry points.

        Raises
        ------
        InputError
            If no triangle is left, or ``count`` is below 1.
        """
        corners = template.vertices[template.faces].astype(np.float64)
        area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
        if labels is not None:
            area *= np.isin(template.region[template.faces], labels).all(axis=1)
        if count < 1 or not area.sum() > 0:
            raise InputError(
                f"{count} points on {int((area > 0).sum())} triangles", "at least one of each", "Name other regions"
            )
        rng = np.random.default_rng(seed)
        # One offset for all: as a comb over the summed areas, no triangle is missed and none is served twice.
        places = (np.arange(count) + rng.random()) / count * area.sum()
        faces = np.minimum(np.searchsorted(np.cumsum(area), places, side="right"), np.flatnonzero(area)[-1])
        u, v = rng.random((2, count))
        folded = u + v > 1
        u, v = np.where(folded, 1 - u, u), np.where(folded, 1 - v, v)
        return cls(faces, np.stack([1 - u - v, u, v], axis=1))

    def on(self, values: npt.NDArray[np.floating], faces: npt.NDArray[np.integer]) -> F64:
        """Interpolate values of vertices (..., V, C), given the template's faces; (..., P, C) float64."""
        if len(self) and not 0 <= self.faces.min() <= self.faces.max() < len(faces):
            raise InputError(
                f"points lie on triangles {self.faces.min()} to {self.faces.max()}",
                f"triangles 0 to {len(faces) - 1} of the template",
                "Draw the points on this dataset's template",
            )
        corners = np.asarray(values)[..., faces[self.faces], :].astype(np.float64)
        return np.einsum("pk,...pkc->...pc", self.weights, corners)


def to_world(points_m: npt.NDArray[np.floating], head_to_world: npt.NDArray[np.floating]) -> F64:
    """Bring points (..., P, 3) from head axes to the world, given (..., 4, 4); float64 metres."""
    pose = np.asarray(head_to_world, np.float64)
    turned = np.einsum("...ij,...pj->...pi", pose[..., :3, :3], np.asarray(points_m, np.float64))
    return np.asarray(turned + pose[..., None, :3, 3])


@dataclass(frozen=True)
class Performance:
    """One subject performing one sequence.

    Attributes
    ----------
    subject, sequence : str
    rows : (F,) int64
        Of the frame table, in order of the frames.
    """

    subject: str
    sequence: str
    rows: I64


def performances(
    plan: DatasetPlan,
    subject: npt.NDArray[np.integer],
    sequence: npt.NDArray[np.integer],
    frame: npt.NDArray[np.integer],
) -> list[Performance]:
    """Group the rows of a frame table by subject and sequence, given its columns; ordered by name, then frame."""
    found: dict[tuple[str, str], list[int]] = {}
    for row in np.lexsort((frame, sequence, subject)).tolist():
        found.setdefault((plan.subjects[subject[row]], plan.sequences[sequence[row]]), []).append(row)
    return [Performance(*names, np.array(rows, np.int64)) for names, rows in sorted(found.items())]
