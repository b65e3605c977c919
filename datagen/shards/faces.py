"""What a dataset holds of each frame's face beside its pictures, and of the head model they share: plain arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class FrameRow:
    """One row of the frame table: the face of one instant, the same for all cameras that saw it.

    Head axes are the template's (+x the subject's left, +y up, +z out of the face; metres) after the inverse of
    ``head_to_world``, which is rigid: a person keeps their own size.

    Attributes
    ----------
    vertices : (V, 3) float32
        Every template vertex where it came to lie on the skin, hidden ones too, head axes, metres. The triangles are
        the template's.
    spread_m : (V,) float32
        Standard deviation of each vertex's position per coordinate (root mean square of the three), metres, as the
        posterior of the registration has it.
    identity, expression : (K,), (E,) float32
        Parameters of the head model, as its forward function takes them; empty where it has none.
    model_to_head : (4, 4) float32
        Rigid: the axes in which the head model returns its vertices to head axes.
    parameter_rms_mm : float
        Root mean square distance over the vertices between ``vertices`` and what the parameters give; NaN where the
        head model has none.
    head_to_world : (4, 4) float32
        Rigid.
    subject, sequence : str
    frame : int
    time_s : float
    verdict : str
        ``pass``, ``review`` or ``fail``.

    Raises
    ------
    InputError
        If a shape is wrong or a number is not finite.
    """

    vertices: F32
    spread_m: F32
    identity: F32
    expression: F32
    model_to_head: F32
    parameter_rms_mm: float
    head_to_world: F32
    subject: str
    sequence: str
    frame: int
    time_s: float
    verdict: str

    def __post_init__(self) -> None:
        what = f"the face of {self.subject}/{self.sequence}/{self.frame:06d}"
        V = len(self.vertices)
        _check(what, "vertices", self.vertices, (V, 3), np.float32)
        _check(what, "spread_m", self.spread_m, (V,), np.float32)
        _check(what, "identity", self.identity, (-1,), np.float32)
        _check(what, "expression", self.expression, (-1,), np.float32)
        _check(what, "model_to_head", self.model_to_head, (4, 4), np.float32)
        _check(what, "head_to_world", self.head_to_world, (4, 4), np.float32)
        if (self.spread_m < 0).any():
            raise InputError(f"{what} has a negative spread", "standard deviations in metres", _AGAIN)
        if np.isinf(self.parameter_rms_mm) or self.parameter_rms_mm < 0 or not np.isfinite(self.time_s):
            raise InputError(
                f"{what} has parameter_rms_mm {self.parameter_rms_mm} and time_s {self.time_s}",
                "a distance of 0 or more, or NaN, and a finite time",
                _AGAIN,
            )


@dataclass(frozen=True, eq=False)
class TemplateContents:
    """The head model that all rows of the frame table share.

    Attributes
    ----------
    vertices : (V, 3) float32
        The neutral, mean face, where its vertices lie on the skin; template axes, metres. Normalised, a vertex is its
        own canonical coordinate.
    faces : (F, 3) int32
        Counter-clockwise from outside.
    region : (V,) uint8
        Labels of the dataset's regions.
    uv : (T, 2) float32
        Texture coordinates in [0, 1], +u the subject's left, +v up.
    uv_faces : (F, 3) int32
        Into ``uv``; corner by corner as ``faces``.
    landmark_faces : (L,) int32
        Triangle that carries each landmark.
    landmark_weights : (L, 3) float32
        Of its corners; rows sum to 1.
    identity_names, expression_names : tuple of str
        What each parameter of the frame table changes, in order.
    mean : (V, 3) float32
        ``vertices`` again where the model is linear and its licence lets it be passed on: a face is
        ``mean + identity @ identity_basis + expression @ expression_basis``. Otherwise (0, 3).
    identity_basis : (K, V, 3) float32
        Metres for each unit; (0, V, 3) where it is not linear, or not to be passed on.
    expression_basis : (E, V, 3) float32
        The same.
    head : str
        Name of the head model.
    licence : str
        Of the head model.
    model_digest : str
        SHA-256 of the head model's own tensors: what the parameters mean depends on them.

    Raises
    ------
    InputError
        If a shape is wrong, a number is not finite, or an index leads nowhere.
    """

    vertices: F32
    faces: I32
    region: npt.NDArray[np.uint8]
    uv: F32
    uv_faces: I32
    landmark_faces: I32
    landmark_weights: F32
    identity_names: tuple[str, ...]
    expression_names: tuple[str, ...]
    mean: F32
    identity_basis: F32
    expression_basis: F32
    head: str
    licence: str
    model_digest: str

    def __post_init__(self) -> None:
        what = f"the template of {self.head}"
        V, F, L = len(self.vertices), len(self.faces), len(self.landmark_faces)
        _check(what, "vertices", self.vertices, (V, 3), np.float32)
        _check(what, "faces", self.faces, (F, 3), np.int32, below=V)
        _check(what, "region", self.region, (V,), np.uint8)
        _check(what, "uv", self.uv, (-1, 2), np.float32)
        _check(what, "uv_faces", self.uv_faces, (F, 3), np.int32, below=len(self.uv))
        _check(what, "landmark_faces", self.landmark_faces, (L,), np.int32, below=F)
        _check(what, "landmark_weights", self.landmark_weights, (L, 3), np.float32)
        _check(what, "mean", self.mean, (V if len(self.mean) else 0, 3), np.float32)
        for name, basis, names in (
            ("identity_basis", self.identity_basis, self.identity_names),
            ("expression_basis", self.expression_basis, self.expression_names),
        ):
            _check(what, name, basis, (len(names) if len(basis) else 0, V, 3), np.float32)
        if len(self.uv) and not (self.uv.min() >= 0 and self.uv.max() <= 1):
            raise InputError(
                f"{what} has texture coordinates from {self.uv.min():g} to {self.uv.max():g}",
                "numbers in [0, 1]",
                "Scale them into the unit square",
            )

    def to_attrs(self) -> dict[str, Any]:
        """Return sizes and texts as plain JSON data, the dataset's attribute ``faces``: all but the arrays."""
        sizes = {
            "V": len(self.vertices),
            "F": len(self.faces),
            "T": len(self.uv),
            "L": len(self.landmark_faces),
            "K": len(self.identity_names),
            "E": len(self.expression_names),
            "KB": len(self.identity_basis),
            "EB": len(self.expression_basis),
        }
        names = {"identity_names": list(self.identity_names), "expression_names": list(self.expression_names)}
        return {
            "sizes": sizes,
            "head": self.head,
            "licence": self.licence,
            "model_digest": self.model_digest,
            **names,
        }

    @classmethod
    def from_attrs(cls, attrs: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> TemplateContents:
        """Undo :meth:`to_attrs`, given the arrays but ``mean`` by their names."""
        linear = len(arrays["identity_basis"]) or len(arrays["expression_basis"])
        return cls(
            **arrays,
            mean=arrays["vertices"] if linear else np.zeros((0, 3), np.float32),
            identity_names=tuple(attrs["identity_names"]),
            expression_names=tuple(attrs["expression_names"]),
            head=str(attrs["head"]),
            licence=str(attrs["licence"]),
            model_digest=str(attrs["model_digest"]),
        )


_AGAIN = "Warp the frame again"


def _check(
    what: str, name: str, array: object, shape: tuple[int, ...], dtype: type, *, below: int | None = None
) -> None:
    """Refuse an array of another shape (-1 for any length) or type, one that is not finite, or a bad index."""
    if (
        not isinstance(array, np.ndarray)
        or array.dtype != dtype
        or array.ndim != len(shape)
        or any(size not in (-1, found) for size, found in zip(shape, array.shape, strict=True))
    ):
        found = f"{array.shape} {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
        raise InputError(
            f"{what} has {name} {found}", f"{shape} {np.dtype(dtype)}", "Pass the arrays that its docstring names"
        )
    if not np.isfinite(array).all():
        raise InputError(f"{what} has {name} with NaN or infinite numbers", "finite numbers", _AGAIN)
    if below is not None and array.size and not (array.min() >= 0 and array.max() < below):
        raise InputError(
            f"{what} has {name} from {array.min()} to {array.max()}",
            f"indices from 0 to {below - 1}",
            "Pass the arrays that belong together",
        )
