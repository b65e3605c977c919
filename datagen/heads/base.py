"""What the rest of the house knows of a head model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from datagen.geometry.space import CanonicalSpace


@dataclass(frozen=True, eq=False)
class HeadTemplate:
    """A head model's neutral, mean-identity geometry with its semantics.

    Compared and hashed by identity, so that what is derived from it can be cached.

    Attributes
    ----------
    name : str
        ``anny``, ``ict``, ``flame``, ...
    vertices : (V, 3) float64
        Metres; +x the subject's left, +y up, +z out of the face.
    faces : (F, 3) int32
        Counter-clockwise from outside.
    regions : (V,) uint8
        Labels of :data:`datagen.heads.regions.REGIONS`, never 0.
    landmark_faces : (68,) int32
        Triangle that carries each iBUG landmark.
    landmark_barycentric : (68, 3) float64
        Weights of that triangle's corners, each row summing to 1.
    """

    name: str
    vertices: npt.NDArray[np.float64]
    faces: npt.NDArray[np.int32]
    regions: npt.NDArray[np.uint8]
    landmark_faces: npt.NDArray[np.int32]
    landmark_barycentric: npt.NDArray[np.float64]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the template's vertices (rounded to 0.1 µm) and faces."""
        sha = hashlib.sha256()
        sha.update(np.round(self.vertices * 1e7).astype("<i8").tobytes())
        sha.update(self.faces.astype("<i4").tobytes())
        return sha.hexdigest()

    @cached_property
    def space(self) -> CanonicalSpace:
        """The shared canonical space this template spans."""
        return CanonicalSpace.around(self.vertices, self.name, self.digest)

    def landmarks(self, vertices: npt.NDArray[np.floating] | None = None) -> npt.NDArray[np.float64]:
        """Return the 68 landmarks (68, 3) metres on ``vertices`` (V, 3), by default the template's own."""
        v = self.vertices if vertices is None else np.asarray(vertices, np.float64)
        corners = v[self.faces[self.landmark_faces]]
        return np.einsum("lc,lcd->ld", self.landmark_barycentric, corners)


class HeadModel(Protocol):
    """A template with identity and expression parameters.

    A bare template has ``identity_size`` 0 and no expressions. Models are hashed by identity, so that what is derived
    from them can be cached.
    """

    def __hash__(self) -> int: ...

    @property
    def template(self) -> HeadTemplate:
        """The neutral, mean-identity template."""
        ...

    @property
    def identity_size(self) -> int:
        """Length of the identity vector; the model draws it from ``N(0, 1)``."""
        ...

    @property
    def expression_names(self) -> tuple[str, ...]:
        """Names of the expression parameters, each in [0, 1]; ARKit names where the model has them."""
        ...

    def vertices(
        self, identity: npt.NDArray[np.floating], expression: npt.NDArray[np.floating]
    ) -> npt.NDArray[np.float64]:
        """Return vertices (V, 3) float64 metres in template axes, head pose at rest.

        Parameters
        ----------
        identity : (identity_size,) float
        expression : (len(expression_names),) float
        """
        ...
