"""Running a network on clips: cutting a split into them, and predicting each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import I64
from datagen.shards import Split

if TYPE_CHECKING:
    import torch

    from trainer.data import ClipReader
    from trainer.model.joint import JointModel


def evaluation_clips(runs: npt.NDArray[np.integer], length: int) -> list[I64]:
    """Cut a split into clips that hold every sample once.

    Parameters
    ----------
    runs : (N, K) integers
        What a clip must share (subject, sequence, camera), for each sample in stored order.
    length : int
        The longest clip; a run's last one may be shorter.

    Returns
    -------
    list of (S,) int64
    """
    if len(runs) == 0:
        return []
    breaks = np.flatnonzero(np.any(np.diff(np.asarray(runs), axis=0) != 0, axis=1)) + 1
    return [
        run[start : start + length].astype(np.int64)
        for run in np.split(np.arange(len(runs)), breaks)
        for start in range(0, len(run), length)
    ]


@dataclass(frozen=True)
class PredictedMaps:
    """The maps of the S frames of one clip on the CPU, float32; see :class:`trainer.model.joint.Prediction`.

    Attributes
    ----------
    depth_m, depth_confidence, canonical_confidence, surface : (S, H, W)
        ``surface`` is the probability of showing the head.
    canonical : (S, 3, H, W)
    """

    depth_m: npt.NDArray[np.float32]
    canonical: npt.NDArray[np.float32]
    depth_confidence: npt.NDArray[np.float32]
    canonical_confidence: npt.NDArray[np.float32]
    surface: npt.NDArray[np.float32]


def predict_clip(
    model: JointModel, images: npt.NDArray[np.uint8], intrinsics: npt.NDArray[np.float32], device: torch.device
) -> PredictedMaps:
    """Predict the frames (S, 3, H, W) uint8 of one clip together; intrinsics (S, 3, 3) in pixels."""
    import torch

    from trainer.data import normalise_image

    with torch.inference_mode():
        p = model(
            torch.from_numpy(normalise_image(images))[None].to(device),
            torch.from_numpy(np.asarray(intrinsics, np.float32))[None].to(device),
        )

    def array(tensor: Any) -> npt.NDArray[np.float32]:
        return tensor[0].float().cpu().numpy()

    return PredictedMaps(
        array(p.depth_m),
        array(p.canonical),
        array(p.depth_confidence),
        array(p.canonical_confidence),
        array(p.surface_logit.sigmoid()),
    )


def predict_frames(
    model: JointModel,
    images: npt.NDArray[np.uint8],
    intrinsics: npt.NDArray[np.float32],
    frames: int,
    device: torch.device,
) -> PredictedMaps:
    """Predict any number of frames (T, 3, H, W) uint8, ``frames`` at a time, in order."""
    starts = range(0, len(images), frames)
    parts = [predict_clip(model, images[k : k + frames], intrinsics[k : k + frames], device) for k in starts]
    return PredictedMaps(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(PredictedMaps)))


def split_clips(split: Split, length: int, limit: int | None = None) -> list[I64]:
    """Cut a split into clips of one camera over time, every sample once; with ``limit``, evenly spread ones."""
    index = split.index
    clips = evaluation_clips(np.stack([index.subject, index.sequence, index.camera], -1), length)
    if limit is None or len(split) <= limit:
        return clips
    keep = max(limit // length, 1)
    return [clips[k] for k in np.unique(np.linspace(0, len(clips) - 1, keep).round().astype(int))]


def predict_split(
    model: JointModel, reader: ClipReader, clips: Sequence[I64], device: torch.device
) -> Iterator[tuple[I64, dict[str, npt.NDArray[Any]], PredictedMaps]]:
    """Yield (indices, true maps, predicted maps) of each clip."""
    for indices in clips:
        truth = reader.clip(indices)
        yield indices, truth, predict_clip(model, truth["image"], truth["intrinsics"], device)
