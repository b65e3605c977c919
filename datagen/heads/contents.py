"""What a dataset says of its head model: topology, regions, landmarks, a texture frame, and its shapes where it may."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from datagen.common.arrays import F64
from datagen.geometry.subdivide import loop_subdivision
from datagen.heads.base import HeadModel, HeadTemplate, LinearHead
from datagen.heads.registry import HEADS
from datagen.heads.unwrap import Unwrap, unwrap
from datagen.shards.faces import TemplateContents

# Larger bases are named by the digest instead: a dataset is to be small beside its pictures.
MOST_BASIS_BYTES = 4 << 20


@runtime_checkable
class HasTensors(Protocol):
    """A head model that names the numbers that make it what it is."""

    def tensors(self) -> Iterable[tuple[str, npt.NDArray[Any]]]:
        """Return names and arrays, always in the same order."""
        ...


@runtime_checkable
class HasTexture(Protocol):
    """A head model that may bring a texture frame of its own."""

    @property
    def texture(self) -> Unwrap | None:
        """Its texture coordinates, or None."""
        ...


@runtime_checkable
class HasExpressionBasis(Protocol):
    """A head model whose expressions are linear, whatever its identities are."""

    @property
    def expression_shapes(self) -> npt.NDArray[np.floating]:
        """Offset (E, V, 3) metres of each expression at 1."""
        ...


def template_contents(head: HeadModel, levels: int) -> TemplateContents:
    """Return what a dataset holds of a head model.

    ``vertices`` and the bases are those of the skin: where subdivision takes the model's vertices. Anny's identities
    are not linear (a tangent hyperbolic bounds local changes, whose two sides differ, and phenotypes mix
    multilinearly), and no first order around the mean comes near people; so there is no ``identity_basis``, and a face
    is ``skin_operator(template, levels) @ head.vertices(identity, expression)``. Its ``expression_basis`` is exact for
    the mean face and, turned by some degrees with the cranium, for everybody. ICT-FaceKit is linear, but its bases
    have 45 MB: like FLAME's, which its licence keeps from being passed on, they are named by ``model_digest``.

    Parameters
    ----------
    levels : int
        Subdivisions of the template in the warp; see :func:`datagen.warp.template.subdivision_levels`.
    """
    template, entry = head.template, HEADS.get(head.template.name)
    skin = skin_operator(template, levels)
    texture = (head.texture if isinstance(head, HasTexture) else None) or unwrap(template)
    V = len(template.vertices)
    open_licence = entry is not None and entry.redistributable
    identity, expression = np.zeros((0, V, 3), np.float32), np.zeros((0, V, 3), np.float32)
    if open_licence and isinstance(head, LinearHead):
        identity = _basis(skin, head.identity_modes)
    if open_licence and isinstance(head, HasExpressionBasis):
        expression = _basis(skin, head.expression_shapes)
    vertices = (skin @ template.vertices).astype(np.float32)
    return TemplateContents(
        vertices=vertices,
        faces=template.faces.astype(np.int32),
        region=template.regions.astype(np.uint8),
        uv=texture.uv.astype(np.float32),
        uv_faces=texture.faces,
        landmark_faces=template.landmark_faces.astype(np.int32),
        landmark_weights=template.landmark_barycentric.astype(np.float32),
        identity_names=_identity_names(head),
        expression_names=head.expression_names,
        mean=vertices if len(identity) or len(expression) else np.zeros((0, 3), np.float32),
        identity_basis=identity,
        expression_basis=expression,
        head=template.name,
        licence="" if entry is None else entry.licence,
        model_digest=model_digest(head),
    )


@lru_cache(maxsize=4)
def skin_operator(template: HeadTemplate, levels: int) -> sp.csr_matrix:
    """Return the operator (V, V) from a model's vertices to where they come to lie on the smooth skin.

    A scan is registered to the template subdivided ``levels`` times (Loop), whose skin runs under the corners of the
    model's own mesh by a fraction of a millimetre, at sharp edges by some.
    """
    V = len(template.vertices)
    return loop_subdivision(template.faces, V, levels).matrix[:V].tocsr()


def model_digest(head: HeadModel) -> str:
    """Return the SHA-256 of a head model: its template, names, and tensors where it names them."""
    sha = hashlib.sha256(head.template.digest.encode())
    for name in (*_identity_names(head), *head.expression_names):
        sha.update(name.encode() + b"\0")
    for name, array in head.tensors() if isinstance(head, HasTensors) else ():
        values = np.ascontiguousarray(array, np.dtype("<f8"))
        sha.update(f"{name}{values.shape}".encode())
        sha.update(values.tobytes())
    return sha.hexdigest()


def _identity_names(head: HeadModel) -> tuple[str, ...]:
    named = getattr(head, "identity_names", None)
    return tuple(named) if named else tuple(f"identity_{k:03d}" for k in range(head.identity_size))


def _basis(skin: sp.csr_matrix, shapes: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Return shapes (m, V, 3) on the skin, or none of them if they are too many to be passed on."""
    if shapes.size * 4 > MOST_BASIS_BYTES:
        return np.zeros((0, *shapes.shape[1:]), np.float32)
    flat: F64 = np.asarray(shapes, np.float64).transpose(1, 2, 0).reshape(shapes.shape[1], -1)
    moved = np.asarray(skin @ flat).reshape(shapes.shape[1], 3, len(shapes))
    return np.ascontiguousarray(moved.transpose(2, 0, 1), np.float32)
