"""What a run shows of itself while it fits: held-out samples as it predicts them, and its learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datagen.common.files import write_owned
from datagen.shards import Dataset
from trainer.evaluation.charts import ShownView, sheet_row
from trainer.evaluation.frames import TRUTH_ARRAYS, View, views_of
from trainer.inference import predict_maps
from trainer.model.joint import JointModel
from trainer.pictures import write_grid, write_learning_curve
from trainer.run.folder import CURVE, HELD_OUT
from trainer.run.log import read_log

_ROWS = 3


def preview_views(model: JointModel, dataset: Dataset) -> list[View]:
    """Return a few samples of the split ``val`` as the model, in evaluation mode, predicts each by itself.

    Where several processes each hold a part of the model, all of them have to call it.
    """
    split = dataset["val"]
    indices = np.unique(np.linspace(0, len(split) - 1, _ROWS).round().astype(int))
    maps = split.read(TRUTH_ARRAYS, indices)
    return views_of(maps, predict_maps(model, maps["image"], maps["intrinsics"], 1), dataset)


def write_preview(run: Path, views: Sequence[View], half_extent_m: float, heading: str) -> None:
    """Write ``held_out.png``, of these views, and ``learning_curve.png`` into a run's folder."""
    rows = [sheet_row(ShownView("", view), half_extent_m) for view in views]
    write_owned(run / HELD_OUT, lambda stream: write_grid(stream, rows, heading))
    records = read_log(run)
    write_owned(run / CURVE, lambda stream: write_learning_curve(stream, records, {}))
