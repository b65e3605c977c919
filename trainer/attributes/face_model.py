"""A linear face learnt from a dataset's frame table, in axes laid on the face itself.

How faces at rest differ is told by the main components of the training people, not by the head model's parameters:
people differ in more ways than a head model has parameters for, and few of its parameters show in a face. The
parameters follow from the components. Axes are the template's after the rigid motion that lays a face on the mean one
by least squares; a head pose is that motion. So shapes do not depend on where a head model puts its origin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial import cKDTree

from datagen.common.arrays import F64, I64, Bools
from datagen.common.errors import DatasetError
from datagen.shards import Dataset
from trainer.align.uv_space import face_vertices

_MOST_ROWS = 4096
_FOLDS = 5
_RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_LEAST_STD = 0.02
_SYMMETRIC_M = 5e-4
_LEAST_SHARE = 1e-4  # of the main component


@dataclass(frozen=True, eq=False)
class FaceModel:
    """A linear face.

    Attributes
    ----------
    template : (V, 3) float32
        The mean face, metres, of all vertices of the template.
    form_basis : (C, V, 3) float32
        Components of faces at rest, metres for a standard deviation of the training people.
    form_dual : (C, n, 3) float32
        What turns a face's displacements into its components.
    expression_basis : (E, V, 3) float32
        Metres for each unit of a parameter, which counts from its mean.
    identity_mean, identity_std, expression_mean, expression_std : (K,), (E,) float32
        Of the training people's parameters.
    identity_of_form : (C, K) float32
        What each component makes of the parameters.
    identity_left : (K,) float32
        Standard deviation of what it does not.
    vertices : (n,) int64
        Those that are learnt and measured: the face's, and corners of landmarks.
    is_face : (n,) bool
    triangles : (T, 3) int64
        Of the template, as far as all corners are among ``vertices``; into these.
    landmark_corners, landmark_weights : (L, 3) int64, float32
        Into ``vertices``.
    mirrored : (n,) int64 or None
        The vertex on the other side, into ``vertices``; None where the template is not symmetric.
    albedo_mean, albedo_basis : (n, 3), (A, n, 3) float32
        Colour of the skin over that of a face of one colour, and how people differ; (A = 0 where it is not learnt).
    albedo_std : (A,) float32
    """

    template: torch.Tensor
    form_basis: torch.Tensor
    form_dual: torch.Tensor
    expression_basis: torch.Tensor
    identity_mean: torch.Tensor
    identity_std: torch.Tensor
    expression_mean: torch.Tensor
    expression_std: torch.Tensor
    identity_of_form: torch.Tensor
    identity_left: torch.Tensor
    vertices: torch.Tensor
    is_face: torch.Tensor
    triangles: torch.Tensor
    landmark_corners: torch.Tensor
    landmark_weights: torch.Tensor
    mirrored: torch.Tensor | None
    albedo_mean: torch.Tensor
    albedo_basis: torch.Tensor
    albedo_std: torch.Tensor

    @property
    def mean(self) -> torch.Tensor:
        """The chosen vertices of the mean face, (n, 3)."""
        return self.template[self.vertices]

    def shape(self, form: torch.Tensor, expression: torch.Tensor, *, whole: bool = False) -> torch.Tensor:
        """Return faces (B, n, 3), metres in the face's axes; ``whole``: of all vertices, (B, V, 3).

        Parameters
        ----------
        form : (B, C)
            Components of the face at rest.
        expression : (B, E)
            Parameters.
        """
        base, one, other = self.template, self.form_basis, self.expression_basis
        if not whole:
            base, one, other = base[self.vertices], one[:, self.vertices], other[:, self.vertices]
        return (
            base
            + torch.einsum("bc,cvi->bvi", form, one)
            + torch.einsum("be,evi->bvi", expression - self.expression_mean, other)
        )

    def expressed(self, expression: torch.Tensor) -> torch.Tensor:
        """Return what parameters (B, E) move the chosen vertices by, (B, n, 3), from where the mean ones have them."""
        return torch.einsum("be,evi->bvi", expression - self.expression_mean, self.expression_basis[:, self.vertices])

    def form(self, rest: torch.Tensor) -> torch.Tensor:
        """Return the components (B, C) of faces (B, n, 3) in the face's axes, of the mean expression."""
        return torch.einsum("bvi,cvi->bc", rest - self.mean, self.form_dual)

    def identity(self, form: torch.Tensor, log_sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the head model's parameters (B, K) that components (B, C) mean, and log σ of them (B, K)."""
        variance = (2 * log_sigma).exp() @ self.identity_of_form.square() + self.identity_left.square()
        return self.identity_mean + form @ self.identity_of_form, variance.log() / 2

    def landmarks(self, points: torch.Tensor) -> torch.Tensor:
        """Return the landmarks (B, L, C) of values (B, n, C) of the chosen vertices."""
        return (points[:, self.landmark_corners] * self.landmark_weights[..., None]).sum(2)

    def normals(self, shape: torch.Tensor) -> torch.Tensor:
        """Return unit normals (B, n, 3), outwards, of the chosen vertices; 0 where none of their triangles is known."""
        a, b, c = (shape[:, self.triangles[:, k]] for k in range(3))
        across = torch.linalg.cross(b - a, c - a)
        total = torch.zeros_like(shape)
        for k in range(3):
            total = total.index_add(1, self.triangles[:, k], across)
        return torch.nn.functional.normalize(total, dim=-1)

    def albedo(self, components: torch.Tensor) -> torch.Tensor:
        """Return the colour (B, n, 3) of the chosen vertices, over a face of one colour, of components (B, A)."""
        return self.albedo_mean + torch.einsum("ba,avi->bvi", components, self.albedo_basis)

    def laid_on_mean(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Lay chosen vertices (B, n, 3) in any axes on the mean face.

        Returns
        -------
        laid : (B, n, 3)
        motion : (B, 4, 4)
            Rigid: from the axes they came in to the face's.
        """
        return lay_on(points, self.mean, self.is_face)

    def to(self, device: torch.device) -> FaceModel:
        """Return it on a device."""
        return FaceModel(**{k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in vars(self).items()})

    def content(self) -> dict[str, torch.Tensor | None]:
        """Return what a checkpoint keeps."""
        return {field.name: getattr(self.to(torch.device("cpu")), field.name) for field in fields(self)}

    def with_albedo(self, mean: torch.Tensor, basis: torch.Tensor, std: torch.Tensor) -> FaceModel:
        """Return it with a model of the skin's colour."""
        return replace(self, albedo_mean=mean, albedo_basis=basis, albedo_std=std)


def lay_on(points: torch.Tensor, target: torch.Tensor, counted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return points (B, n, 3) after the rigid motion (B, 4, 4) that lays them on a target, and that motion.

    Least squares over the points that are counted (n,), after Kabsch.

    Parameters
    ----------
    target : (n, 3) or (B, n, 3)
    """
    target = target.expand_as(points)
    there, here = target[:, counted].double(), points[:, counted].double()
    to, by = there.mean(1, keepdim=True), here.mean(1, keepdim=True)
    u, _, vt = torch.linalg.svd((there - to).transpose(1, 2) @ (here - by))
    sign = torch.linalg.det(u @ vt).sign()
    u = torch.cat([u[..., :2], u[..., 2:] * sign[:, None, None]], -1)
    motion = torch.eye(4, dtype=u.dtype, device=u.device).repeat(len(points), 1, 1)
    motion[:, :3, :3] = u @ vt
    motion[:, :3, 3] = (to - by @ motion[:, :3, :3].transpose(1, 2))[:, 0]
    motion = motion.to(points.dtype)
    return points @ motion[:, :3, :3].transpose(1, 2) + motion[:, None, :3, 3], motion


def learn_face_model(dataset: Dataset, regions: Mapping[str, int], components: int) -> FaceModel:
    """Learn the model from the training people.

    The expression basis is the dataset's where it brings one, else of a ridge regression of the vertices on the
    parameters, whose strength suits people left out. So is what the components mean for the identity parameters.

    Parameters
    ----------
    components : int
        Most components of faces at rest; there are fewer than people.

    Raises
    ------
    DatasetError
        If the dataset has no training people, no parameters, or no landmarks.
    """
    dataset.require_faces()
    template, table = dataset.template, dataset["train"].frames
    lacking = [
        what
        for what, there in (
            ("training people", len(table)),
            ("parameters of its head model", table.identity.shape[1]),
            ("landmarks", len(template.landmark_faces)),
        )
        if not there
    ]
    if lacking:
        raise DatasetError(
            f"{dataset.url} has no {lacking[0]}",
            "a dataset of people whose head model has parameters and landmarks",
            "Build one with canonical.head anny, ict or flame, and people to learn from",
        )
    rows = np.unique(np.linspace(0, len(table) - 1, min(len(table), _MOST_ROWS)).round().astype(np.int64))
    chosen = _chosen(dataset, regions)
    is_face = torch.from_numpy(face_vertices(template, regions))
    heads = torch.from_numpy(table.vertices(rows)).double()
    mean = torch.from_numpy(template.vertices).double()
    for _ in range(2):
        laid, _ = lay_on(heads, mean, is_face)
        mean = laid.mean(0)
    identity, expression = (values[rows].astype(np.float64) for values in (table.identity, table.expression))
    people = table.subject[rows].astype(np.int64)
    z, e = identity - identity.mean(0), expression - expression.mean(0)
    moved = (laid - mean).numpy()
    if len(template.expression_basis):
        expressed = _without_motion(template.expression_basis.astype(np.float64), mean.numpy(), is_face.numpy())
    else:
        learnt = _ridge(np.concatenate([z, e], 1), moved.reshape(len(rows), -1), people)
        expressed = learnt[z.shape[1] :].reshape(e.shape[1], -1, 3)
    moved = moved - np.einsum("nk,kvi->nvi", e, expressed)
    names, first, which = np.unique(people, return_index=True, return_inverse=True)
    own = np.stack([moved[which == k].mean(0) for k in range(len(names))])
    basis, dual = _components(own, chosen, components)
    form = np.einsum("pvi,cvi->pc", own[:, chosen], dual)
    of_form = _ridge(form, z[first], names)
    where = np.full(len(template.vertices), -1)
    where[chosen] = np.arange(len(chosen))
    triangles = where[template.faces]
    number = len(chosen)

    def float32(values: F64 | torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(values).float()

    return FaceModel(
        template=float32(mean),
        form_basis=float32(basis),
        form_dual=float32(dual),
        expression_basis=float32(expressed),
        identity_mean=float32(identity.mean(0)),
        identity_std=float32(np.maximum(identity.std(0), _LEAST_STD)),
        expression_mean=float32(expression.mean(0)),
        expression_std=float32(np.maximum(expression.std(0), _LEAST_STD)),
        identity_of_form=float32(of_form),
        identity_left=float32(np.maximum((z[first] - form @ of_form).std(0), _LEAST_STD)),
        vertices=torch.from_numpy(chosen),
        is_face=is_face[chosen],
        triangles=torch.from_numpy(triangles[(triangles >= 0).all(1)]),
        landmark_corners=torch.from_numpy(where[template.faces[template.landmark_faces]]),
        landmark_weights=torch.from_numpy(template.landmark_weights),
        mirrored=_mirrored(template.vertices[chosen].astype(np.float64)),
        albedo_mean=torch.ones(number, 3),
        albedo_basis=torch.zeros(0, number, 3),
        albedo_std=torch.ones(0),
    )


def _components(own: F64, chosen: I64, most: int) -> tuple[F64, F64]:
    """Return the main components (C, V, 3) of people's displacements (P, V, 3), and what tells them (C, n, 3).

    They are orthogonal on the chosen vertices; a person's numbers have variance 1 about the mean face.
    """
    people = len(own)
    u, s, vt = np.linalg.svd(own[:, chosen].reshape(people, -1), full_matrices=False)
    count = min(most, people - 1, int((s > _LEAST_SHARE * s[0]).sum()))
    u, std, vt = u[:, :count], s[:count] / np.sqrt(max(people - 1, 1)), vt[:count]
    basis = np.einsum("pc,pvi->cvi", u, own) / np.sqrt(max(people - 1, 1))
    return basis, (vt / std[:, None]).reshape(count, len(chosen), 3)


def _chosen(dataset: Dataset, regions: Mapping[str, int]) -> I64:
    """Return the face's vertices, the corners of landmarks, and of these the ones on the other side."""
    template = dataset.template
    wanted = face_vertices(template, regions)
    wanted[template.faces[template.landmark_faces]] = True
    distance, other = _opposite(template.vertices[wanted], template.vertices)
    wanted[other[distance < _SYMMETRIC_M]] = True
    return np.flatnonzero(wanted)


def _mirrored(vertices: F64) -> torch.Tensor | None:
    distance, other = _opposite(vertices, vertices)
    sound = distance.max() < _SYMMETRIC_M and bool((other[other] == np.arange(len(other))).all())
    return torch.from_numpy(other) if sound else None


def _opposite(vertices: npt.NDArray[Any], among: npt.NDArray[Any]) -> tuple[F64, I64]:
    """Return how near the nearest of other vertices is to each one's mirror image, and which it is."""
    distance, other = cKDTree(among).query(vertices * [-1, 1, 1])
    return np.asarray(distance, np.float64), np.asarray(other, np.int64)


def _without_motion(basis: F64, mean: F64, counted: Bools) -> F64:
    """Return a basis (K, V, 3) less the small rigid motions that laying faces on the mean one takes off."""
    centred = mean - mean[counted].mean(0)
    turns = [np.cross(axis, centred) for axis in np.eye(3)]
    shifts = [np.broadcast_to(axis, mean.shape) for axis in np.eye(3)]
    motions = np.stack([*turns, *shifts])  # (6, V, 3)
    part = motions[:, counted].reshape(6, -1)
    weights = np.linalg.lstsq(part.T, basis[:, counted].reshape(len(basis), -1).T, rcond=None)[0]
    found: F64 = basis - np.einsum("mk,mvi->kvi", weights, motions)
    return found


def _ridge(x: F64, y: F64, people: I64) -> F64:
    """Return the weights (P, Q) of a ridge regression of y (N, Q) on x (N, P), of the strength that suits others."""
    if not x.shape[1]:
        return np.zeros((0, y.shape[1]))
    fold = np.searchsorted(np.unique(people), people) % _FOLDS
    gram = x @ x.T
    errors = {}
    for ridge in _RIDGES:
        errors[ridge] = 0.0
        for k in range(_FOLDS):
            kept, out = fold != k, fold == k
            if kept.any() and out.any():
                dual = np.linalg.solve(gram[np.ix_(kept, kept)] + ridge * np.eye(kept.sum()), y[kept])
                errors[ridge] += float(np.square(y[out] - gram[np.ix_(out, kept)] @ dual).sum())
    best = min(errors, key=lambda ridge: errors[ridge])
    found: F64 = x.T @ np.linalg.solve(gram + best * np.eye(len(x)), y)
    return found
