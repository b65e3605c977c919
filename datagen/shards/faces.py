"""What a dataset says of a registered head: a row of the frame table, and the template that rows are read by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class FrameRow:
    """The registered head of one frame."""

    vertices: npt.NDArray[np.float32]
    spread_m: npt.NDArray[np.float32]
    identity: npt.NDArray[np.float32]
    expression: npt.NDArray[np.float32]
    parameter_rms_mm: float
    head_to_world: npt.NDArray[np.float32]
    subject: str
    sequence: str
    frame: int
    time: float
    verdict: str = ""


@dataclass(frozen=True)
class TemplateContents:
    """The template of a head model."""

    vertices: npt.NDArray[np.float32]
    faces: npt.NDArray[np.int32]
    region: npt.NDArray[np.uint8]
    uv: npt.NDArray[np.float32]
    uv_faces: npt.NDArray[np.int32]
    landmark_faces: npt.NDArray[np.int32]
    landmark_weights: npt.NDArray[np.float32]
    mean: npt.NDArray[np.float32]
    identity_basis: npt.NDArray[np.float32]
    expression_basis: npt.NDArray[np.float32]
    identity_names: tuple[str, ...]
    expression_names: tuple[str, ...]
    head: str
    licence: str
    model_digest: str

    def to_attrs(self) -> dict[str, Any]:
        """Return what the arrays do not say, and their sizes, as plain JSON data: the attribute ``faces``."""
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
        return {
            "sizes": sizes,
            "head": self.head,
            "licence": self.licence,
            "model_digest": self.model_digest,
            "identity_names": list(self.identity_names),
            "expression_names": list(self.expression_names),
        }

    @classmethod
    def from_attrs(cls, attrs: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> TemplateContents:
        """Undo :meth:`to_attrs`, with the arrays by their names."""
        return cls(
            **arrays,
            identity_names=tuple(attrs["identity_names"]),
            expression_names=tuple(attrs["expression_names"]),
            head=str(attrs["head"]),
            licence=str(attrs["licence"]),
            model_digest=str(attrs["model_digest"]),
        )
