"""Points of the template seen in pictures, as files: what an alignment network is used for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from datagen.common.files import atomic_write_bytes
from datagen.common.seen_points import LEAST_SIGMA_PX, SeenPoints, seen_points_bytes
from trainer.align.crops import crop_transform, take_crops, to_picture
from trainer.align.store import Aligner, read_aligner
from trainer.data import normalise
from trainer.prediction.boxed import Box, PictureOptions, boxed_pictures, face_square, opened
from trainer.prediction.output import check_target, prediction_folder
from trainer.run.checkpoint import pick_device
from trainer.run.pictures import nobody_held_out

SOURCE = "align"


def predict_align(
    checkpoint: Path,
    sources: Sequence[Path],
    out: Path,
    options: PictureOptions,
    *,
    device_name: str = "auto",
) -> dict[str, Any]:
    """Write one file of :class:`datagen.common.seen_points.SeenPoints` for each picture.

    Parameters
    ----------
    sources : sequence of Path
        Pictures; with ``options.pattern``, one folder.
    out : Path
        A new folder, or an earlier prediction to replace.

    Returns
    -------
    dict
        ``pictures`` and ``median_sigma_px``, that of all points as they are written.

    Raises
    ------
    CheckpointError, InputError, StorageError
        Before anything is written where the cause is a name, a box or a picture that is missing; nothing half-written
        is left.
    """
    check_target(out)
    pictures = boxed_pictures(sources, options)
    aligner = read_aligner(checkpoint, pick_device(device_name))
    sigmas = []
    with prediction_folder(out) as folder:
        for picture, pixels in opened(pictures, options, "align"):
            points = align_picture(aligner, pixels, picture.box, together=picture.together, what=str(picture.path))
            atomic_write_bytes(folder / picture.out, seen_points_bytes(points))
            sigmas.append(np.sqrt(points.covariance[:, 0, 0]))
    return {"pictures": len(pictures), "median_sigma_px": float(np.median(np.concatenate(sigmas)))}


def align_picture(
    aligner: Aligner, pixels: npt.NDArray[np.uint8], box: Box | None, *, together: int = 1, what: str = "the picture"
) -> SeenPoints:
    """Return where the face's vertices are in a picture.

    Their covariance is σ² times :meth:`trainer.align.calibration.Calibration.inflation`: points and pictures may be
    taken to err each by itself.

    Parameters
    ----------
    pixels : (H, W, 3) uint8
    box : Box or None
        Of the face; None where the picture is a square crop about it, as :data:`trainer.align.crops.ENLARGED` has it.
    together : int
        Pictures of this instant that are aligned.

    Raises
    ------
    CheckpointError
        If the network's uncertainty was never held against people it has not learnt from.
    InputError
        If the box lies outside the picture.
    """
    if aligner.calibration is None:
        raise nobody_held_out()
    height, width = pixels.shape[:2]
    square = face_square(box, width, height, what)
    device, space = aligner.space.uv.device, aligner.space
    transform = crop_transform(square).to(device)
    image = torch.from_numpy(np.array(pixels.transpose(2, 0, 1)))[None].to(device).float() / 255
    with torch.inference_mode():
        crop = normalise(take_crops(image, transform, aligner.model.encoder.image_size))
        found = aligner.model(crop)[-1]
        places = to_picture(found.positions, transform)[0, space.is_face]
        sigma = found.sigma[0, space.is_face] * transform[0, 0, :2].norm()
    variance = sigma.cpu().double().square().numpy() * aligner.calibration.inflation(together)
    corner = space.corner[space.is_face].cpu().numpy()
    return SeenPoints(
        source=SOURCE,
        template=aligner.template,
        width=width,
        height=height,
        faces=space.corner_faces[space.is_face].cpu().numpy(),
        barycentric=np.eye(3)[corner],
        pixels=places.cpu().double().numpy(),
        covariance=np.maximum(variance, LEAST_SIGMA_PX**2)[:, None, None] * np.eye(2),
    )
