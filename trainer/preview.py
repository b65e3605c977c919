"""What a run shows of itself while it fits: held-out samples as it predicts them, and its learning curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datagen.common.files import write_owned
from datagen.shards import Dataset
from trainer.evaluation.charts import ShownView, sheet_row
from trainer.evaluation.frames import TRUTH_ARRAYS, views_of
from trainer.inference import predict_maps
from trainer.model.joint import JointModel
from trainer.pictures import write_grid, write_learning_curve
from trainer.run.folder import CURVE, HELD_OUT
from trainer.run.log import read_log

_ROWS = 3


def write_preview(run: Path, model: JointModel, dataset: Dataset, heading: str) -> None:
    """Write ``held_out.png`` and ``learning_curve.png`` into a run's folder.

    Parameters
    ----------
    model : JointModel
        In evaluation mode.
    dataset : Dataset
        A few samples of its split ``val`` are predicted, each by itself.
    """
    split = dataset["val"]
    indices = np.unique(np.linspace(0, len(split) - 1, _ROWS).round().astype(int))
    maps = split.read(TRUTH_ARRAYS, indices)
    predicted = predict_maps(model, maps["image"], maps["intrinsics"], 1)
    rows = [sheet_row(ShownView("", view), dataset.half_extent_m) for view in views_of(maps, predicted, dataset)]
    write_owned(run / HELD_OUT, lambda stream: write_grid(stream, rows, heading))
    records = read_log(run)
    write_owned(run / CURVE, lambda stream: write_learning_curve(stream, records, {}))
