"""A head model that is a template plus linear bases: what ICT-FaceKit is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError
from datagen.heads.base import HeadTemplate


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
    """Template + identity modes + expression shapes, as a :class:`~datagen.heads.base.HeadModel`.

    Attributes
    ----------
    template : HeadTemplate
    identity_modes : (I, V, 3) float32
        Offset of one standard deviation, metres.
    expression_shapes : (E, V, 3) float32
        Offset at 1, metres.
    expression_names : tuple of str
    """

    template: HeadTemplate
    identity_modes: npt.NDArray[np.float32]
    expression_shapes: npt.NDArray[np.float32]
    expression_names: tuple[str, ...]

    @property
    def identity_size(self) -> int:
        """Length of the identity vector."""
        return len(self.identity_modes)

    def vertices(
        self, identity: npt.NDArray[np.floating], expression: npt.NDArray[np.floating]
    ) -> npt.NDArray[np.float64]:
        """Return vertices (V, 3) float64 metres; see :class:`~datagen.heads.base.HeadModel`.

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
