"""``trainer points``: what a joint model sees in pictures, as files of seen points: evidence for the next warps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from datagen.common.errors import InputError
from datagen.common.files import atomic_write_bytes
from datagen.common.seen_points import LEAST_SIGMA_PX, SeenPoints, seen_points_bytes
from datagen.shards import open_dataset
from trainer.align.crops import crop_transform, take_crops
from trainer.evaluate import check_fit
from trainer.inference import predict_maps
from trainer.model.joint import JointModel
from trainer.prediction.boxed import Box, PictureOptions, boxed_pictures, check_box, opened
from trainer.prediction.output import check_target, prediction_folder
from trainer.prediction.points import CanonicalVertices, canonical_vertices, find_vertices
from trainer.prediction.points_error import PointsError, measure_points
from trainer.run.checkpoint import build_model, pick_device, read_checkpoint
from trainer.run.pictures import learnt_from, nobody_held_out, spread_samples

SOURCE = "joint"
_HELD_OUT = 128
_FEWEST_POINTS = 20


@dataclass(frozen=True, eq=False)
class PointsModel:
    """A joint model that finds the template's vertices, and knows how far off it is.

    Attributes
    ----------
    template : str
        Digest of the head model's template.
    side : int
        Pixels of the square that the model sees.
    """

    model: JointModel
    wanted: CanonicalVertices
    error: PointsError
    template: str
    head: str
    side: int


def points_model(checkpoint: Path, dataset_path: Path | str, device_name: str = "auto") -> PointsModel:
    """Read a model, and measure on the dataset's validation people how far off its points are.

    Raises
    ------
    CheckpointError, DatasetError, StorageError
        If one of them cannot be used, they do not fit each other, or nobody was held out.
    """
    content = read_checkpoint(checkpoint)
    device = pick_device(device_name)
    model, _ = build_model(content, device)
    dataset = open_dataset(dataset_path)
    check_fit(content, dataset, model.backbone.patch)
    wanted = canonical_vertices(dataset)
    if not len(dataset["val"]):
        raise nobody_held_out()
    error = measure_points(model, dataset, "val", wanted, spread_samples(dataset, "val", _HELD_OUT))
    about = learnt_from(dataset)
    return PointsModel(model, wanted, error, about["template"], about["head"], dataset.resolution)


def predict_points(
    checkpoint: Path,
    dataset_path: Path | str,
    sources: Sequence[Path],
    out: Path,
    options: PictureOptions,
    *,
    device_name: str = "auto",
) -> dict[str, Any]:
    """Write one file of :class:`datagen.common.seen_points.SeenPoints` for each picture that shows a face.

    Parameters
    ----------
    dataset_path : Path or str
        What the model was fitted on: its template, and validation people on whom errors are measured.
    sources : sequence of Path
        Pictures; with ``options.pattern``, one folder.
    out : Path
        A new folder, or an earlier prediction to replace.

    Returns
    -------
    dict
        ``pictures``, ``without`` (names of those that show no face) and ``median_sigma_px``.

    Raises
    ------
    CheckpointError, DatasetError, InputError, StorageError
        Before anything is written where the cause is a name, a box or a picture that is missing; nothing half-written
        is left.
    """
    check_target(out)
    pictures = boxed_pictures(sources, options)
    ready = points_model(checkpoint, dataset_path, device_name)
    sigmas, without = [], []
    with prediction_folder(out) as folder:
        for picture, pixels in opened(pictures, options, "points"):
            points = points_in_picture(ready, pixels, picture.box, together=picture.together, what=str(picture.path))
            if len(points) < _FEWEST_POINTS:
                without.append(picture.name)
            else:
                atomic_write_bytes(folder / picture.out, seen_points_bytes(points))
                sigmas.append(np.sqrt(np.linalg.det(points.covariance)) ** 0.5)
        if not sigmas:
            raise InputError(
                f"the model sees no face in {len(pictures)} pictures",
                "pictures of a head, or boxes of the faces",
                "Give --box or --boxes",
            )
    return {
        "pictures": len(sigmas),
        "without": without,
        "median_sigma_px": float(np.median(np.concatenate(sigmas))),
    }


def points_in_picture(
    ready: PointsModel,
    pixels: npt.NDArray[np.uint8],
    box: Box | None,
    *,
    together: int = 1,
    what: str = "the picture",
) -> SeenPoints:
    """Return where a picture shows the face's vertices; their covariance holds that they err together.

    Parameters
    ----------
    pixels : (H, W, 3) uint8
    box : Box or None
        Of the face; None where the picture is a square about the head, as in the dataset.
    together : int
        Pictures of this instant that are looked at.

    Raises
    ------
    InputError
        If the box lies outside the picture.
    """
    height, width = pixels.shape[:2]
    if box is None:
        square = [width / 2, height / 2, float(max(width, height))]
    else:
        check_box(box, width, height, what)
        share, right, down = ready.error.face_share
        side = max(box[2] - box[0], box[3] - box[1]) / share
        square = [(box[0] + box[2]) / 2 - right * side, (box[1] + box[3]) / 2 - down * side, side]
    transform = crop_transform(torch.tensor([square], dtype=torch.float32))
    image = torch.from_numpy(np.array(pixels.transpose(2, 0, 1)))[None].float()
    crop = take_crops(image, transform, ready.side).round().byte().numpy()
    focal = ready.model.depth_unit.focal_over_width * ready.side
    K = np.array([[[focal, 0, ready.side / 2], [0, focal, ready.side / 2], [0, 0, 1]]], np.float32)
    found = find_vertices(predict_maps(ready.model, crop, K).frames()[0], ready.wanted)
    scale = square[2] / ready.side
    inflation = ready.error.calibration.inflation(together)
    covariance = ready.error.covariance(found) * (inflation * scale**2) + LEAST_SIGMA_PX**2 * np.eye(2)
    which = found.which
    return SeenPoints(
        source=SOURCE,
        template=ready.template,
        width=width,
        height=height,
        faces=ready.wanted.corner_faces[which],
        barycentric=np.eye(3)[ready.wanted.corner[which]],
        pixels=found.pixels * scale + (np.array(square[:2]) - square[2] / 2),
        covariance=covariance,
    )
