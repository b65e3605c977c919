"""Parameters of heads in pictures, as files; and the face at rest of the person they show, for ``datagen fit``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from datagen.common.errors import InputError
from datagen.common.files import atomic_write_bytes, json_ready, npz_bytes
from datagen.common.names import shown
from trainer.align.crops import crop_transform, take_crops, to_picture
from trainer.attributes.data import Views
from trainer.attributes.light import shade
from trainer.attributes.network import Attributes, posed
from trainer.attributes.pose import crop_angle, crop_axes, origin_of
from trainer.attributes.posterior import posterior
from trainer.attributes.store import FOCAL, NO_FOCAL, Head, read_head
from trainer.prediction.boxed import Box, PictureOptions, boxed_pictures, face_square, opened
from trainer.prediction.output import MARKER, check_target, prediction_folder
from trainer.run.checkpoint import pick_device
from trainer.run.pictures import nobody_held_out

PERSON = "person.npz"
# Of the larger side, where the camera is not known: some 45 degrees across.
FOCAL_SHARE = 1.2
_MM = 1000.0


@dataclass(frozen=True)
class Told:
    """What one picture tells.

    Attributes
    ----------
    arrays : dict
        As they are written; docs/attributes.md names them.
    attributes : Attributes
    """

    arrays: dict[str, npt.NDArray[Any]]
    attributes: Attributes


def predict_attributes(
    checkpoint: Path,
    sources: Sequence[Path],
    out: Path,
    options: PictureOptions,
    *,
    focal_px: float | None = None,
    device_name: str = "auto",
) -> dict[str, Any]:
    """Write a file for each picture, and ``person.npz``: the face at rest of the one person that they all show.

    Parameters
    ----------
    sources : sequence of Path
        Pictures; with ``options.pattern``, one folder.
    out : Path
        A new folder, or an earlier prediction to replace.
    focal_px : float, optional
        Of the pictures as they are read; their principal point is the middle. Where it is not given, the network is
        not told how large the face looks, so that sizes are the training people's mean, and 1.2 times the larger side
        places the head.

    Returns
    -------
    dict
        ``pictures`` and ``neutral_error_mm``, how far the face at rest that one picture tells was off on people held
        out.

    Raises
    ------
    CheckpointError, InputError, StorageError
        Before anything is written where the cause is a name, a box or a picture that is missing; nothing half-written
        is left.
    """
    check_target(out)
    pictures = boxed_pictures(sources, options)
    if clash := [picture.name for picture in pictures if picture.out == PERSON]:
        raise InputError(
            f"the file of {shown(clash[0])} would be {PERSON}, which is that of the person",
            "another name",
            "Rename the picture, or give --name",
        )
    head = read_head(checkpoint, pick_device(device_name))
    if head.temperatures is None or head.neutral_error_mm is None:
        raise nobody_held_out()
    told = []
    with prediction_folder(out) as folder:
        for picture, pixels in opened(pictures, options, "tell"):
            found = tell(head, pixels, picture.box, focal_px=focal_px, what=str(picture.path))
            atomic_write_bytes(folder / picture.out, npz_bytes(found.arrays))
            told.append(found.attributes)
        error_mm = head.neutral_error_mm[NO_FOCAL if focal_px is None else FOCAL]
        atomic_write_bytes(folder / PERSON, npz_bytes(person(head, Attributes.joined(told), error_mm)))
        about = {
            "head": head.head,
            "template": head.template,
            "model_digest": head.model_digest,
            "names": head.names,
            "step": head.step,
            "neutral_error_mm": error_mm,
            "focal_px": focal_px,
        }
        atomic_write_bytes(folder / MARKER, (json.dumps(json_ready(about), indent=1) + "\n").encode())
    return {"pictures": len(pictures), "neutral_error_mm": error_mm}


def tell(
    head: Head,
    pixels: npt.NDArray[np.uint8],
    box: Box | None,
    *,
    focal_px: float | None = None,
    what: str = "the picture",
) -> Told:
    """Return the parameters of the head in a picture (H, W, 3).

    Raises
    ------
    InputError
        If the box lies outside the picture.
    """
    height, width = pixels.shape[:2]
    device = head.face.template.device
    transform = crop_transform(face_square(box, width, height, what)).to(device)
    image = torch.from_numpy(np.array(pixels.transpose(2, 0, 1)))[None].to(device).float() / 255
    focal = focal_px or FOCAL_SHARE * max(width, height)
    K = torch.tensor([[[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]], device=device)
    axes, one = crop_axes(transform, K), torch.ones(1, device=device)
    angle = crop_angle(transform, K) if focal_px else torch.full_like(one, torch.nan)
    views = Views(take_crops(image, transform, head.model.image_size), transform, K, axes, one, angle)
    with torch.no_grad():
        told = posterior(head.model(views.seen, views.angle), head.face, views)
        face, warm = head.face, head.temperatures or {}
        face_posed = posed(told, face, views)
        rotation = axes @ told.rotation
        origin = origin_of(told.place, transform, K)
        identity, log_sigma_identity = face.identity(told.form, told.log_sigma_form)
        whole = face.shape(told.form, told.expression, whole=True) @ rotation.transpose(1, 2) + origin[:, None]
        normals = face.normals(face_posed.in_crop)
        colours = shade(told.light, normals) * face.albedo(told.albedo)
        landmarks = to_picture(face.landmarks(face_posed.positions), transform)
    arrays = {
        "form": told.form,
        "form_sigma": told.log_sigma_form.exp() * warm.get("form", 1.0),
        "identity": identity,
        "identity_sigma": log_sigma_identity.exp() * warm.get("identity", 1.0),
        "expression": told.expression,
        "expression_sigma": told.log_sigma_expression.exp() * warm.get("expression", 1.0),
        "rotation": rotation,
        "rotation_sigma_rad": told.log_sigma_rotation.exp() * warm.get("rotation", 1.0),
        "translation_m": origin,
        "place_sigma": told.log_sigma_place.exp() * warm.get("place", 1.0),
        "light": told.light,
        "light_sigma": told.log_sigma_light.exp() * warm.get("light", 1.0),
        "albedo": told.albedo,
        "albedo_sigma": told.log_sigma_albedo.exp(),
        "visible": told.visible.sigmoid(),
        "vertices_m": whole,
        "landmarks_px": landmarks,
        "colours": colours,
        "intrinsics": K,
    }
    plain = {name: value[0].cpu().numpy() for name, value in arrays.items()}
    return Told(plain | {"vertex_numbers": face.vertices.cpu().numpy()}, told)


def person(head: Head, told: Attributes, error_mm: float) -> dict[str, npt.NDArray[Any]]:
    """Return what pictures of one person tell of them: components weighed by 1 / σ², and the face at rest.

    ``neutral`` (V, 3) is in the order of the head model's template, metres; ``datagen fit --neutral`` reads it.
    """
    weights = (-2 * told.log_sigma_form).exp()
    form = (weights * told.form).sum(0, keepdim=True) / weights.sum(0)
    identity, _ = head.face.identity(form, told.log_sigma_form[:1])
    neutral = head.face.shape(form, torch.zeros_like(told.expression[:1]), whole=True)[0]
    return {
        "neutral": neutral.double().cpu().numpy(),
        "identity": identity[0].cpu().numpy(),
        "neutral_error_m": np.array(error_mm / _MM),
    }
