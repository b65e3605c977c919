"""What the parameter head is asked for. With landmarks and colours alone it learns from pictures without labels."""

from __future__ import annotations

import torch

from trainer.attributes.config import AttributesLossConfig
from trainer.attributes.data import Target, Views, sample_colours
from trainer.attributes.face_model import FaceModel
from trainer.attributes.light import linear, shade
from trainer.attributes.network import Attributes, Points, Posed
from trainer.attributes.pose import turn_between

# What a term of 1 means.
_VERTEX_M, _POINT_SIDES, _COLOUR = 3e-3, 0.02, 0.1
_SURENESS = 0.1


def attributes_loss(
    told: Attributes,
    face_posed: Posed,
    views: Views,
    target: Target,
    face: FaceModel,
    config: AttributesLossConfig,
    *,
    clip: int,
    albedo: torch.Tensor | None = None,
    anchor: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Return the weighted terms, and their sum as ``loss``.

    Parameters
    ----------
    clip : int
        Pictures of one person that follow each other in the batch.
    albedo : (B, A), optional
        Components of each person's skin, where they are known.
    anchor : (B, n, 3), optional
        Faces that the network which the run started from tells of the same pictures.
    """
    terms: dict[str, torch.Tensor] = {}
    if config.vertices:
        distance = (face_posed.shape - target.shape)[:, face.is_face].norm(dim=-1)
        terms["vertices"] = config.vertices * distance.mean() / _VERTEX_M
    if config.parameters:
        terms["parameters"] = config.parameters * parameter_nll(told, target)
    if config.landmarks:
        terms["landmarks"] = config.landmarks * landmark_distance(told, face_posed, target, face)
    if config.points:
        terms["points"] = config.points * point_distance(told, target)
    if config.light:
        terms["light"] = config.light * light_nll(told, target, albedo)
    if config.colours:
        terms["colours"] = config.colours * colour_distance(told, face_posed, views, target, face) / _COLOUR
    if config.visibility:
        odds = torch.nn.functional.binary_cross_entropy_with_logits(told.visible, target.visible.float())
        terms["visibility"] = config.visibility * odds
    if config.prior:
        unusual = (told.expression - face.expression_mean) / face.expression_std
        terms["prior"] = config.prior * (_mean(told.form.square()) + unusual.square().mean())
    if config.agreement and clip > 1:
        terms["agreement"] = config.agreement * (
            disagreement(told.form, clip) + disagreement(told.albedo / face.albedo_std, clip)
        )
    if config.anchor and anchor is not None:
        distance = (face_posed.shape - anchor)[:, face.is_face].norm(dim=-1)
        terms["anchor"] = config.anchor * distance.mean() / _VERTEX_M
    return terms | {"loss": torch.stack(list(terms.values())).sum()}


def landmark_distance(told: Attributes, face_posed: Posed, target: Target, face: FaceModel) -> torch.Tensor:
    """Return how far landmarks are off, the projected face's and those of the points that are told by themselves."""
    found = (face_posed.positions, told.points)
    left = [face.landmarks(places - target.positions).norm(dim=-1).mean() for places in found]
    return torch.stack(left).mean() / _POINT_SIDES


def point_distance(told: Points, target: Target) -> torch.Tensor:
    """Return how far the points are off that are told by themselves, and how sure these are.

    What is told of σ moves no point.
    """
    left = told.points - target.positions
    surprise = nll(left.detach(), told.log_sigma_points[..., None]).mean()
    return left.norm(dim=-1).mean() / _POINT_SIDES + _SURENESS * surprise


def parameter_nll(told: Attributes, target: Target) -> torch.Tensor:
    """Return the mean negative log-likelihood of the numbers: each attribute counts as one."""
    turn = turn_between(told.rotation, target.rotation)
    return (
        nll(turn, told.log_sigma_rotation).mean()
        + nll(told.place - target.place, told.log_sigma_place).mean()
        + _mean(nll(told.form - target.form, told.log_sigma_form))
        + _over(nll(told.expression - target.expression, told.log_sigma_expression), target.named)
    )


def light_nll(told: Attributes, target: Target, albedo: torch.Tensor | None) -> torch.Tensor:
    """Return that of light, where it could be told, and of albedo, where somebody's is known."""
    found = _over(nll(told.light - target.light, told.log_sigma_light), target.lit)
    if albedo is None or not albedo.shape[1]:
        return found
    return found + _over(nll(told.albedo - albedo, told.log_sigma_albedo), target.named)


def colour_distance(told: Attributes, face_posed: Posed, views: Views, target: Target, face: FaceModel) -> torch.Tensor:
    """Return how far colours at visible vertices are from those of light and albedo, in linear colour.

    The picture is looked at where the face is thought to be: gradients move it, too.
    """
    normals = face.normals(face_posed.in_crop)
    expected = shade(told.light, normals) * face.albedo(told.albedo)
    found = linear(sample_colours(views.images, face_posed.positions))
    # A vertex counts that faces the camera by its own normal, and is not known to be hidden.
    counted = target.visible & (normals[..., 2] < 0) & face.is_face
    distance = (expected - found).abs().mean(-1)
    return (distance * counted).sum() / counted.sum().clamp(min=1)


def disagreement(values: torch.Tensor, clip: int) -> torch.Tensor:
    """Return the mean variance of numbers (B, P) among pictures of one person."""
    if not values.shape[1]:
        return values.new_zeros(())
    of_person = values.reshape(-1, clip, values.shape[1])
    return (of_person - of_person.mean(1, keepdim=True)).square().sum(1).mean() / (clip - 1)


def nll(error: torch.Tensor, log_sigma: torch.Tensor) -> torch.Tensor:
    """Return r² / (2 σ²) + log σ."""
    return error.square() / 2 * (-2 * log_sigma).exp() + log_sigma


def _mean(values: torch.Tensor) -> torch.Tensor:
    """Return the mean, 0 of no numbers: one person alone has no components of form."""
    return values.sum() / max(values.numel(), 1)


def _over(values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Return the mean of (B, P) over the pictures for which they are known; 0 where there is none."""
    return (values.mean(-1) * known).sum() / known.sum().clamp(min=1)
