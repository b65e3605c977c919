"""What the rest of the house knows of a head model, and the model that is linear bases alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError
from datagen.geometry.space import CanonicalSpace
from datagen.heads.landmarks import landmark_sigma_m


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

    @property
    def landmark_sigma_m(self) -> npt.NDArray[np.float64]:
        """Standard deviation (68,) of each landmark per coordinate, metres: how far hands differ, on any head."""
        return landmark_sigma_m()

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


def checked_vector(values: npt.ArrayLike, size: int, name: str) -> npt.NDArray[np.float64]:
    """Return ``values`` as a finite float64 vector of length ``size``.

    Raises
    ------
    InputError
        If its shape or a value is wrong.
    """
    vector = np.asarray(values, np.float64)
    if vector.shape != (size,) or not np.isfinite(vector).all():
        raise InputError(
            f"the {name} vector has shape {vector.shape} or non-finite values",
            f"{size} finite numbers",
            f"Build it as numpy.zeros({size}) and set the entries you want",
        )
    return vector


@dataclass(frozen=True, eq=False)
class LinearHead:
    """Template + identity modes + expression shapes, what ICT-FaceKit is, as a :class:`HeadModel`.

    Attributes
    ----------
    identity_modes : (I, V, 3) float32
        Offset of one standard deviation, metres.
    expression_shapes : (E, V, 3) float32
        Offset at 1, metres.
    """

    template: HeadTemplate
    identity_modes: npt.NDArray[np.float32]
    expression_shapes: npt.NDArray[np.float32]
    expression_names: tuple[str, ...]

    @property
    def identity_size(self) -> int:
        """Length of the identity vector."""
        return len(self.identity_modes)

    def tensors(self) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
        """Return the numbers that make the model what it is, by name."""
        yield "identity", self.identity_modes
        yield "expression", self.expression_shapes

    def vertices(
        self, identity: npt.NDArray[np.floating], expression: npt.NDArray[np.floating]
    ) -> npt.NDArray[np.float64]:
        """Return vertices (V, 3) float64 metres; see :class:`HeadModel`.

        Raises
        ------
        InputError
            If a vector has the wrong length.
        """
        result = self.template.vertices.copy()
        for name, values, shapes in (
            ("identity", identity, self.identity_modes),
            ("expression", expression, self.expression_shapes),
        ):
            weights = checked_vector(values, len(shapes), name)
            used = np.flatnonzero(weights)
            if len(used):
                result += np.tensordot(weights[used], shapes[used], 1)
        return result
