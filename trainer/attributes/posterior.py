"""What points and parameters of a picture say together.

A network learns where points of the face lie far sooner than what shape that means; geometry knows the latter. So the
heads' Gaussians of pose, form and expression are taken as what is believed beforehand, points as evidence, and a few
steps of Gauss and Newton find the most probable parameters. What remains unsure of them is their σ.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from trainer.attributes.data import Views
from trainer.attributes.face_model import FaceModel
from trainer.attributes.network import Attributes
from trainer.attributes.pose import origin_of, project, rotation_of

_STEPS = 5
# Errors of points have much in common: they count as so many times fewer. Chosen on validation people.
SHARED = 16.0
_SPREAD = 128
_POSE = ("rotation", "place", "form", "expression")


@torch.no_grad()
def posterior(told: Attributes, face: FaceModel, views: Views) -> Attributes:
    """Return attributes whose rotation, place, form and expression, and their σ, are those after the points."""
    counted = evidence(face)
    bases = (face.template[None], face.form_basis, face.expression_basis)
    base, form, expression = (points[:, face.vertices[counted]] for points in bases)
    start = torch.cat([torch.zeros_like(told.place), told.place, told.form, told.expression], 1)
    sigma = torch.cat([getattr(told, f"log_sigma_{name}") for name in _POSE], 1).exp()
    sizes = [3, 3, told.form.shape[1], told.expression.shape[1]]

    def places(
        theta: torch.Tensor, rotation: torch.Tensor, axes: torch.Tensor, transform: torch.Tensor, K: torch.Tensor
    ) -> torch.Tensor:
        turn, place, forms, expressions = torch.split(theta, sizes)
        expressions = expressions - face.expression_mean
        shape = base[0] + torch.einsum("c,cvi->vi", forms, form) + torch.einsum("e,evi->vi", expressions, expression)
        turned = shape @ (axes @ rotation @ turned_by(turn[None])[0]).T
        origin = origin_of(place[None], transform[None], K[None])
        return project(turned[None] + origin, transform[None], K[None])[0]

    shown = (told.rotation, views.axes, views.transform, views.intrinsics)
    weight = (-told.log_sigma_points[:, counted]).exp()[..., None] / SHARED**0.5
    theta = start
    for step in range(_STEPS + 1):
        J = torch.func.vmap(torch.func.jacfwd(places))(theta, *shown)
        J = (J * weight[..., None]).flatten(1, 2) * sigma[:, None]
        precision = J.transpose(1, 2) @ J + torch.eye(J.shape[-1], device=J.device)
        if step == _STEPS:
            break
        left = ((told.points[:, counted] - torch.func.vmap(places)(theta, *shown)) * weight).flatten(1)
        gradient = (J * left[..., None]).sum(1) - (theta - start) / sigma
        theta = theta + sigma * torch.linalg.solve(precision, gradient)
    spread = torch.linalg.inv(precision).diagonal(dim1=1, dim2=2).clamp(min=1e-12).log() / 2 + sigma.log()
    turn, place, forms, expressions = torch.split(theta, sizes, 1)
    after = {f"log_sigma_{name}": value for name, value in zip(_POSE, torch.split(spread, sizes, 1), strict=True)}
    return replace(
        told, rotation=told.rotation @ turned_by(turn), place=place, form=forms, expression=expressions, **after
    )


def evidence(face: FaceModel) -> torch.Tensor:
    """Return which of the chosen vertices are evidence (P,): the one nearest to each landmark, and some of all."""
    number = len(face.vertices)
    every = -(-number // _SPREAD)
    nearest = face.landmark_corners.gather(1, face.landmark_weights.argmax(1, keepdim=True))
    counted = torch.zeros(number, dtype=torch.bool, device=nearest.device)
    counted[nearest.flatten()] = counted[::every] = True
    return counted.nonzero()[:, 0]


def turned_by(vectors: torch.Tensor) -> torch.Tensor:
    """Return rotations (B, 3, 3) by small vectors (B, 3), radians, to first order."""
    x, y, z = vectors.unbind(-1)
    one = torch.ones_like(x)
    return rotation_of(torch.stack([one, z, -y, -z, one, x], -1))
