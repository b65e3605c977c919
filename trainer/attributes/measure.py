"""Errors of told parameters on samples of a dataset whose truth is known, beside what knows nothing of the picture."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from datagen.common.arrays import F64, I64
from datagen.shards import Dataset
from trainer.align.crops import crop_transform, square_about, to_crop
from trainer.attributes.data import ARRAYS, HeadTruth
from trainer.attributes.face_model import FaceModel, lay_on
from trainer.attributes.loss import colour_distance
from trainer.attributes.network import AttributeNetwork, posed
from trainer.attributes.pose import crop_angle, turn_between
from trainer.attributes.posterior import posterior
from trainer.data import decode

_TOGETHER, _MEAN_SAMPLES = 16, 256
_MM = 1000.0
_LEAST_SPREAD = 0.1  # of a crop's angle: crops are changed while learning
# Attributes whose σ is measured.
JUDGED = ("form", "identity", "expression", "rotation", "place", "light")


@dataclass(frozen=True, eq=False)
class Measured:
    """What was told of N samples, and what is true.

    Attributes
    ----------
    vertices_mm, mean_vertices_mm : (N,) float64
        Mean distance of the face's vertices after the rigid motion that lays them on the true ones; of what the
        network tells, and of the mean face of the training people.
    neutral_mm : (N,) float64
        The same of the face at rest, RMS.
    untold_vertices_mm, untold_neutral_mm : (N,) float64
        As ``vertices_mm`` and ``neutral_mm``, of a network that is not told the camera's focal length.
    landmarks : (N, L, 2) float64
        Told place less true one, over the size of the true face's box.
    landmark_places : (N, L, 2) float64
        True, in sides of the crop.
    size : (N,) float64
        Of the face's box, in sides of the crop.
    turn_degrees, distance_percent : (N,) float64
    normalised : dict of str to (N, P) float64
        Errors over σ of :data:`JUDGED`.
    sigma, absolute : dict of str to (N, P) float64
        σ, and absolute errors, alike.
    visible_right : (N,) float64
        Share of the face's vertices of which it is rightly said whether they are seen.
    colour : (N,) float64
    """

    vertices_mm: F64
    mean_vertices_mm: F64
    neutral_mm: F64
    untold_vertices_mm: F64
    untold_neutral_mm: F64
    landmarks: F64
    landmark_places: F64
    size: F64
    turn_degrees: F64
    distance_percent: F64
    normalised: dict[str, F64]
    sigma: dict[str, F64]
    absolute: dict[str, F64]
    visible_right: F64
    colour: F64

    @property
    def nme(self) -> F64:
        """Mean distance of the landmarks over the face's size, (N,)."""
        found: F64 = np.linalg.norm(self.landmarks, axis=-1).mean(-1)
        return found

    def mean_nme(self, places: F64) -> F64:
        """Return that of landmarks which always lie at the same places (L, 2) of the crop."""
        distance = np.linalg.norm(self.landmark_places - places, axis=-1).mean(-1)
        found: F64 = distance / self.size
        return found

    def temperatures(self) -> dict[str, float]:
        """Return what σ of each attribute has to be multiplied by: the root of the mean of r² / σ²."""
        return {
            name: float(np.sqrt(np.square(value).mean())) if value.size else 1.0
            for name, value in self.normalised.items()
        }

    def neutral_error_mm(self, *, focal: bool = True) -> float:
        """Return the RMS distance of faces at rest over all samples, with the camera's focal length or without."""
        return float(np.sqrt(np.square(self.neutral_mm if focal else self.untold_neutral_mm).mean()))

    def metrics(self, mean_places: F64, temperatures: dict[str, float] | None = None) -> dict[str, float]:
        """Return the figures of docs/attributes.md.

        Parameters
        ----------
        mean_places : (L, 2)
            Of the landmarks in crops of the training people.
        temperatures : dict, optional
            Times which σ is taken.
        """
        nme, mean_nme = self.nme.mean(), self.mean_nme(mean_places).mean()
        figures = {
            "vertices_mm": float(self.vertices_mm.mean()),
            "mean_head_vertices_mm": float(self.mean_vertices_mm.mean()),
            "vertices_ratio_mean": float(self.vertices_mm.mean() / self.mean_vertices_mm.mean()),
            "vertices_ratio_no_focal": float(self.untold_vertices_mm.mean() / self.mean_vertices_mm.mean()),
            "neutral_rms_mm": self.neutral_error_mm(),
            "neutral_rms_no_focal_mm": self.neutral_error_mm(focal=False),
            "nme_percent": float(100 * nme),
            "mean_nme_percent": float(100 * mean_nme),
            "nme_ratio_mean": float(nme / mean_nme),
            "turn_degrees": float(self.turn_degrees.mean()),
            "distance_percent": float(self.distance_percent.mean()),
            "visible_percent": float(100 * self.visible_right.mean()),
            "colour": float(self.colour.mean()),
        }
        for name, value in self.normalised.items():
            warm = temperatures[name] if temperatures else 1.0
            figures[f"surprise_{name}"] = float(np.square(value).mean() / warm**2) if value.size else np.nan
        for name in ("form", "expression"):
            sigma, error = self.sigma[name], self.absolute[name]
            varied = sigma.size > 0 and np.ptp(sigma) > 0 and np.ptp(error) > 0
            figures[f"sigma_rank_{name}"] = float(spearmanr(sigma, error, axis=None).statistic) if varied else np.nan
        return figures


@torch.no_grad()
def measure_split(
    model: AttributeNetwork, dataset: Dataset, name: str, face: FaceModel, skin: torch.Tensor, samples: I64
) -> Measured:
    """Tell the parameters of samples of a split, each cropped about its true face's box, and compare.

    Parameters
    ----------
    model : AttributeNetwork
        In evaluation mode.
    samples : (N,) int64
    """
    split, device = dataset[name], face.template.device
    truth = HeadTruth(split, face, skin)
    parts: dict[str, list[torch.Tensor]] = defaultdict(list)
    for first in range(0, len(samples), _TOGETHER):
        chosen = samples[first : first + _TOGETHER]
        stored = split.read(ARRAYS, chosen, decode=False)
        batch = {k: decode(k, torch.from_numpy(v).to(device), dataset.depth_scale) for k, v in stored.items()}
        views, target = truth.crops(batch, chosen, model.image_size)
        told, untold = (
            posterior(model(views.seen, angle), face, views)
            for angle in (views.angle, torch.full_like(views.angle, torch.nan))
        )
        face_posed = posed(told, face, views)
        none = torch.zeros_like(told.expression)
        rest, untold_rest = (face.shape(one.form, none) for one in (told, untold))
        untold_shape = face.shape(untold.form, untold.expression)
        true_rest = target.shape - face.expressed(target.expression) + face.expressed(none)
        true_places, places = (face.landmarks(p) for p in (target.positions, face_posed.positions))
        found = {
            "vertices_mm": _distance(face_posed.shape, target.shape, face).mean(-1) * _MM,
            "mean_vertices_mm": _distance(face.mean.expand_as(target.shape), target.shape, face).mean(-1) * _MM,
            "untold_vertices_mm": _distance(untold_shape, target.shape, face).mean(-1) * _MM,
            "neutral_mm": _distance(rest, true_rest, face).square().mean(-1).sqrt() * _MM,
            "untold_neutral_mm": _distance(untold_rest, true_rest, face).square().mean(-1).sqrt() * _MM,
            "landmarks": (places - true_places) / views.size[:, None, None],
            "landmark_places": true_places,
            "size": views.size,
            "turn_degrees": turn_between(told.rotation, target.rotation).norm(dim=-1).rad2deg(),
            "distance_percent": 100 * (told.place[:, 2] - target.place[:, 2]).abs(),
            "visible_right": ((told.visible > 0) == target.visible)[:, face.is_face].float().mean(-1),
            "colour": colour_distance(told, face_posed, views, target, face).expand(len(chosen)),
        }
        identity, log_sigma_identity = face.identity(told.form, told.log_sigma_form)
        errors = {
            "form": told.form - target.form,
            "identity": identity - target.identity,
            "expression": told.expression - target.expression,
            "rotation": turn_between(told.rotation, target.rotation),
            "place": told.place - target.place,
            "light": told.light - target.light,
        }
        for attribute, error in errors.items():
            sigma = (log_sigma_identity if attribute == "identity" else getattr(told, f"log_sigma_{attribute}")).exp()
            found |= {f"normalised.{attribute}": error / sigma, f"sigma.{attribute}": sigma}
            found[f"absolute.{attribute}"] = error.abs()
        for part, value in found.items():
            parts[part].append(value.cpu())
    joined: dict[str, Any] = {part: torch.cat(values).double().numpy() for part, values in parts.items()}
    for group in ("normalised", "sigma", "absolute"):
        joined[group] = {attribute: joined.pop(f"{group}.{attribute}") for attribute in JUDGED}
    return Measured(**joined)


def _distance(one: torch.Tensor, other: torch.Tensor, face: FaceModel) -> torch.Tensor:
    """Return the distance (B, F) of the face's vertices, metres, after laying one (B, n, 3) on the other rigidly."""
    laid, _ = lay_on(one, other, face.is_face)
    return (laid - other)[:, face.is_face].norm(dim=-1)


@torch.no_grad()
def mean_crops(dataset: Dataset, face: FaceModel, skin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what plain crops of the training people are like.

    Returns
    -------
    places : (n, 2)
        Mean places of the chosen vertices, in sides of the crop.
    angles : (2,)
        Mean and standard deviation of :func:`trainer.attributes.pose.crop_angle`.
    """
    split = dataset["train"]
    truth = HeadTruth(split, face, skin)
    chosen = np.unique(np.linspace(0, len(split) - 1, min(len(split), _MEAN_SAMPLES)).round().astype(np.int64))
    found, angles = [], []
    for first in range(0, len(chosen), _TOGETHER):
        samples = chosen[first : first + _TOGETHER]
        cameras = split.read(("intrinsics", "world_to_camera"), samples)
        seen = truth.seen(cameras, samples)
        transform = crop_transform(square_about(seen.boxes))
        found.append(to_crop(seen.pixels, transform))
        angles.append(crop_angle(transform, torch.from_numpy(cameras["intrinsics"]).to(transform)))
    every = torch.cat(angles).double()
    spread = torch.stack([every.mean(), every.std(correction=0).clamp(min=_LEAST_SPREAD)])
    return torch.cat(found).double().mean(0), spread
