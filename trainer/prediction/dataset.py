"""A clip of a dataset as frames to predict."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datagen.common.errors import InputError
from datagen.shards import open_dataset
from trainer.evaluate import check_fit
from trainer.inference import split_clips
from trainer.prediction.frames import SourceFrame
from trainer.prediction.options import PredictOptions


class DatasetClip:
    """The clip of a dataset that holds one sample, with its cameras."""

    rate: float | None = None

    def __init__(self, source: Path, content: dict[str, Any], options: PredictOptions, patch: int) -> None:
        dataset = open_dataset(source)
        check_fit(content, dataset, patch)
        split, index = options.split, options.index
        if split not in dataset or not 0 <= index < len(dataset[split]):
            known = ", ".join(f"{name} (0 to {len(dataset[name]) - 1})" for name in dataset if len(dataset[name]))
            raise InputError(f"{dataset.path} has no sample {index} in {split!r}", f"one of {known}", "Choose another")
        self._split = dataset[split]
        self._side = dataset.resolution
        self._chosen = next(clip for clip in split_clips(self._split, options.frames) if index in clip)
        self.count = len(self._chosen)

    def __iter__(self) -> Iterator[SourceFrame]:
        plan, tables = self._split.dataset.plan, self._split.index
        for index in self._chosen:
            values = self._split.read(("image", "intrinsics", "world_to_camera"), [index])
            subject, sequence = plan.subjects[tables.subject[index]], plan.sequences[tables.sequence[index]]
            camera = plan.cameras[tables.camera[index]]
            yield SourceFrame(
                f"{subject}_{sequence}_{camera}_{tables.frame[index]:06d}",
                values["image"][0],
                (0, 0, self._side, self._side),
                (self._side, self._side),
                (0.0, 0.0, float(self._side), float(self._side)),
                float(tables.time[index]),
                values["intrinsics"][0],
                values["world_to_camera"][0],
            )
