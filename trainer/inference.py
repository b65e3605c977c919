"""Running a network on clips: cutting a split into them, and predicting each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import I64
from datagen.common.errors import InputError
from datagen.shards import Dataset, Split

if TYPE_CHECKING:
    import torch

    from trainer.data import ClipReader
    from trainer.model.joint import JointModel


def filled_split(dataset: Dataset, name: str) -> Split:
    """Return a split of a dataset; InputError if it holds no samples."""
    if name not in dataset or not len(dataset[name]):
        raise InputError(
            f"split {name!r} of {dataset.url} holds no samples",
            f"one of {', '.join(other for other in dataset if len(dataset[other]))}",
            "Give another --split",
        )
    return dataset[name]


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
class Maps:
    """What a network says about S frames of H × W pixels, float32 on the CPU; of one frame by itself, without the S.

    Attributes
    ----------
    depth_m, depth_confidence, canonical_confidence : (S, H, W)
    canonical : (S, 3, H, W)
        Normalised coordinates.
    surface : (S, H, W) or None
        Probability of showing the head, from a network that has learnt it.
    intrinsics : (S, 3, 3) or None
        Pixels; from the network's camera head.
    world_to_camera : (S, 4, 4) or None
        Metres, from the camera head; the world is the reference camera of the frames predicted together, and after
        stitching (:mod:`trainer.prediction.windows`) the clip's first.
    """

    depth_m: npt.NDArray[np.float32]
    canonical: npt.NDArray[np.float32]
    depth_confidence: npt.NDArray[np.float32]
    canonical_confidence: npt.NDArray[np.float32]
    surface: npt.NDArray[np.float32] | None = None
    intrinsics: npt.NDArray[np.float32] | None = None
    world_to_camera: npt.NDArray[np.float32] | None = None

    def frames(self) -> list[Maps]:
        """Return the maps of each frame by itself."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        given = {name: values for name, values in given.items() if values is not None}
        return [Maps(**{name: values[k] for name, values in given.items()}) for k in range(len(self.depth_m))]


def predict_maps(
    model: JointModel,
    images: npt.NDArray[np.uint8],
    intrinsics: npt.NDArray[np.float32],
    together: int | None = None,
    *,
    knows_surface: bool = True,
) -> Maps:
    """Run a network on frames: the one way that validation, evaluation and prediction share.

    Parameters
    ----------
    model : JointModel
        The frames go to the device it is on, as bytes.
    images : (S, 3, H, W) uint8
    intrinsics : (S, 3, 3)
        Pixels.
    together : int, optional
        How many frames the network sees at once, in order; all by default.
    knows_surface : bool
        Whether the surface was ever learnt; published weights have none.
    """
    step = together or len(images)
    parts = [
        _predict_clip(model, images[k : k + step], intrinsics[k : k + step], knows_surface)
        for k in range(0, len(images), step)
    ]
    if len(parts) == 1:
        return parts[0]
    given = [f.name for f in fields(Maps) if getattr(parts[0], f.name) is not None]
    return Maps(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in given})


def _predict_clip(
    model: JointModel, images: npt.NDArray[np.uint8], intrinsics: npt.NDArray[np.float32], knows_surface: bool
) -> Maps:
    import torch

    from trainer.data import normalise

    device = next(model.parameters()).device
    with torch.inference_mode():
        p = model(
            normalise(torch.from_numpy(np.ascontiguousarray(images)).to(device))[None],
            torch.from_numpy(np.asarray(intrinsics, np.float32)).to(device)[None],
        )

    def array(tensor: torch.Tensor) -> npt.NDArray[np.float32]:
        return tensor[0].float().cpu().numpy()

    K, world_to_camera = (None, None) if p.camera is None else _cameras(model, p.camera[0], images.shape[-2:])
    return Maps(
        array(p.depth_m),
        array(p.canonical),
        array(p.depth_confidence),
        array(p.canonical_confidence),
        array(p.surface_logit.sigmoid()) if knows_surface else None,
        K,
        world_to_camera,
    )


def _cameras(
    model: JointModel, encoded: torch.Tensor, size: tuple[int, ...]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return intrinsics (S, 3, 3) and world to camera (S, 4, 4), metres, of what the camera head said (S, 9)."""
    from trainer.model.camera import decode_camera

    camera_to_world, K = decode_camera(encoded.double().cpu(), (size[0], size[1]))
    poses = camera_to_world.numpy()
    poses[:, :3, 3] *= model.depth_unit.unit
    return K.numpy().astype(np.float32), np.linalg.inv(poses).astype(np.float32)


def split_clips(split: Split, length: int, limit: int | None = None) -> list[I64]:
    """Cut a split into clips of one camera over time, every sample once; with ``limit``, evenly spread ones."""
    index = split.index
    clips = evaluation_clips(np.stack([index.subject, index.sequence, index.camera], -1), length)
    if limit is None or len(split) <= limit:
        return clips
    keep = max(limit // length, 1)
    return [clips[k] for k in np.unique(np.linspace(0, len(clips) - 1, keep).round().astype(int))]


def predict_split(
    model: JointModel, reader: ClipReader, clips: Sequence[I64]
) -> Iterator[tuple[I64, dict[str, npt.NDArray[Any]], Maps]]:
    """Yield (indices, true maps, predicted maps) of each clip."""
    for indices in clips:
        truth = reader.clip(indices)
        yield indices, truth, predict_maps(model, truth["image"], truth["intrinsics"])
