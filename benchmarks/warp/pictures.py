"""Pictures of a benchmark: its worst cases, and how far confidence can be trusted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from benchmarks.warp.run import BenchResult
from datagen.audit.charts import write_calibration
from datagen.audit.warp_pictures import write_warp_pictures
from datagen.common.files import atomic_write_bytes
from datagen.heads.base import HeadTemplate


def write_bench_pictures(folder: Path, result: BenchResult, template: HeadTemplate) -> list[Path]:
    """Write the reliability curve and, for the worst cases, true error, residual, canonical map and confidence.

    Parameters
    ----------
    folder : Path
        Gets ``reliability.png`` and a folder ``worst_1``, ``worst_2``, … for each case, with its figures in
        ``case.json``.
    result : BenchResult
    template : HeadTemplate

    Raises
    ------
    datagen.common.errors.StorageError
        If the disk refuses.
    """
    written = [write_calibration(folder / "reliability.png", result.curve)] if len(result.curve.count) else []
    for rank, measure in enumerate(result.worst, 1):
        assert measure.warp is not None
        place = folder / f"worst_{rank}"
        text = json.dumps(measure.entry(), indent=1, sort_keys=True) + "\n"
        atomic_write_bytes(place / "case.json", text.encode())
        error = np.where(measure.points.region > 0, measure.points.error_mm, np.nan)
        written += write_warp_pictures(place, measure.warp, template, true_error_mm=error)
    return written
