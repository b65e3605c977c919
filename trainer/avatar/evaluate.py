"""Measuring an avatar on recordings of its person whose meshes are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from datagen.common.arrays import I64
from datagen.common.errors import InputError
from datagen.shards import open_dataset
from trainer.avatar.data import Studio
from trainer.avatar.measure import motion_metrics
from trainer.avatar.network import Avatar
from trainer.avatar.store import read_avatar
from trainer.inference import filled_split
from trainer.run.checkpoint import pick_device
from trainer.run.pictures import SplitMetrics

_TOGETHER = 32


class AvatarResult(SplitMetrics):
    """What was measured, means over cameras, each weighed by its frames; docs/adapt.md has every figure."""

    def text(self) -> str:
        """Return it for people."""
        m = self.metrics
        return "\n".join(
            [
                self.heading,
                f"vertices, before the camera                      {m['vertices_mm']:.2f} mm",
                f"  laid on the true ones rigidly                  {m['laid_mm']:.2f} mm",
                f"  in the picture                                 {m['pixels']:.2f} px",
                f"second difference of the error over time         {m['jitter_mm']:.2f} mm, "
                f"laid {m['laid_jitter_mm']:.2f} mm",
                f"deformation beside the true one's                {m['motion']:.2f}",
            ]
        )


def evaluate_avatar(
    checkpoint: Path, dataset_path: Path | str, split: str, *, limit: int | None = None, device_name: str = "auto"
) -> AvatarResult:
    """Measure an avatar on a split, camera by camera; crops are cut about the true faces.

    Parameters
    ----------
    limit : int, optional
        Most samples of each camera of a sequence, from the first.

    Raises
    ------
    CheckpointError, DatasetError, InputError, StorageError
        If one of them cannot be used, the template is another, or the person is.
    """
    stored = read_avatar(checkpoint, pick_device(device_name))
    dataset = open_dataset(dataset_path)
    dataset.require_faces()
    stored.check_fits(dataset)
    index = filled_split(dataset, split).index
    people = {dataset.plan.subjects[int(k)] for k in np.unique(index.subject)}
    if people != {stored.subject}:
        raise InputError(
            f"{dataset.url} shows {', '.join(sorted(people))[:80]}", f"{stored.subject} alone", "Give another dataset"
        )
    studio = Studio(dataset, stored.skin, stored.model.appearance.mean, split=split)
    keys = np.stack([index.sequence, index.camera], 1)
    total: dict[str, float] = {}
    count = 0
    for key in np.unique(keys, axis=0):
        samples = np.flatnonzero((keys == key).all(1))[:limit]
        for name, value in _measured(stored.model, studio, samples).items():
            total[name] = total.get(name, 0.0) + value * len(samples)
        count += len(samples)
    return AvatarResult(split, count, stored.step, {name: value / count for name, value in total.items()})


@torch.no_grad()
def _measured(model: Avatar, studio: Studio, samples: I64) -> dict[str, float]:
    told, true, cameras = [], [], []
    for first in range(0, len(samples), _TOGETHER):
        chosen = samples[first : first + _TOGETHER]
        views, truth = studio.crops(studio.batch(chosen), chosen, model.image_size)
        told.append(model.driven(model(views), views).in_camera)
        true.append(truth.driven.in_camera)
        cameras.append(views.intrinsics)
    return motion_metrics(torch.cat(told), torch.cat(true), torch.cat(cameras))
