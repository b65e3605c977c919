"""How far off the points are that a model finds in pictures, measured on people whom it has not learnt from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from datagen.common.arrays import F64, I64
from datagen.common.errors import CheckpointError
from datagen.shards import Dataset
from trainer.align.calibration import Calibration, calibrate
from trainer.align.data import FaceTruth
from trainer.align.measure import Measured
from trainer.inference import predict_maps
from trainer.model.joint import JointModel
from trainer.prediction.points import CanonicalVertices, Found, find_vertices

_BINS = 8
_FEWEST = 50
_ARRAYS = ("image", "intrinsics", "world_to_camera")


@dataclass(frozen=True, eq=False)
class PointsError:
    """What a model's confidence is worth in pixels.

    Attributes
    ----------
    confidence, error_m : (B,) float64
        Where confidence is so high, the error along a canonical axis is as large, root mean square; between them it is
        interpolated.
    calibration : Calibration
        Of what follows from it.
    face_share : (3,) float64
        Of the side of the square that the model sees: the larger side of the face's box, and how far right and down
        the box's centre lies of the square's.
    """

    confidence: F64
    error_m: F64
    calibration: Calibration
    face_share: F64

    def covariance(self, found: Found) -> F64:
        """Return the covariance of points as one error after the other tells it, (n, 2, 2) square pixels."""
        error = np.interp(found.confidence, self.confidence, self.error_m)
        return found.per_m * np.square(error)[:, None, None]


def measure_points(
    model: JointModel, dataset: Dataset, split: str, wanted: CanonicalVertices, samples: I64
) -> PointsError:
    """Hold the points that a model finds in samples against the frame table.

    Parameters
    ----------
    samples : (N,) int64
        Of people that the model has not learnt from.

    Raises
    ------
    CheckpointError
        If the model finds next to nothing.
    """
    truth = FaceTruth(dataset[split], wanted)
    found, errors, boxes, to_head = [], [], [], []
    side = float(dataset.resolution)
    for sample in samples:
        stored = dataset[split].read(_ARRAYS, np.array([sample]))
        cameras = [torch.from_numpy(stored[name]) for name in _ARRAYS[1:]]
        seen = truth.seen(np.array([sample]), *cameras)
        one = find_vertices(predict_maps(model, stored["image"], stored["intrinsics"]).frames()[0], wanted)
        error = np.full((len(wanted.vertices), 2), np.nan)
        error[one.which] = one.pixels - seen.pixels[0, one.which].double().numpy()
        found.append(one)
        errors.append(error)
        boxes.append(seen.boxes[0].double().numpy() / side)
        to_head.append(seen.to_head[0].double().numpy())
    whole = Found(
        np.concatenate([one.which for one in found]),
        np.concatenate([one.pixels for one in found]),
        np.concatenate([one.per_m for one in found]),
        np.concatenate([one.confidence for one in found]),
    )
    if len(whole.which) < _FEWEST:
        raise CheckpointError(
            f"the model finds {len(whole.which)} vertices of the face in {len(samples)} pictures of {split}",
            "a model that tells where on the face a pixel is",
            "Fit it for longer",
        )
    at = np.concatenate([error[one.which] for one, error in zip(found, errors, strict=True)])
    centres, error_m = _by_confidence(whole, at)
    share = np.median(np.stack(boxes), 0)
    face = np.array([max(share[2:] - share[:2]), *((share[:2] + share[2:]) / 2 - 0.5)])
    rough = PointsError(centres, error_m, Calibration(1.0, 1.0, 0.0), face)
    sigma = np.full((len(found), 1, len(wanted.vertices)), np.nan)
    for k, one in enumerate(found):
        sigma[k, 0, one.which] = np.sqrt(np.sqrt(np.linalg.det(rough.covariance(one))))
    measured = Measured(
        error_px=np.stack(errors)[:, None],
        sigma_px=sigma,
        size_px=np.full(len(samples), side),
        visible=np.isfinite(sigma[:, 0]),
        to_head=np.stack(to_head),
        instant=dataset[split].index.frame_row[samples],
        is_face=wanted.is_face.numpy(),
    )
    return PointsError(centres, error_m, calibrate(measured), face)


def _by_confidence(found: Found, error_px: F64) -> tuple[F64, F64]:
    """Return, by confidence, how large an error of the coordinate along an axis makes errors of pixels as large."""
    # Whitened: of unit variance where the coordinate errs by a metre.
    whitened = np.linalg.solve(np.linalg.cholesky(found.per_m), error_px[..., None])[..., 0]
    squared = np.square(whitened).sum(-1) / 2
    order = np.argsort(found.confidence, kind="stable")
    parts = np.array_split(order, max(min(_BINS, len(order) // _FEWEST), 1))
    centres = np.array([found.confidence[part].mean() for part in parts])
    # The more confident, the better; a tenth of the worst of a bin are left to its temperature.
    error = np.array([np.sqrt(np.mean(np.minimum(squared[p], np.quantile(squared[p], 0.9)))) for p in parts])
    return centres, np.minimum.accumulate(error)
