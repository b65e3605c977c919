"""A training run beside the report of its data: read as it was written, refused where it learnt from other data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datagen.audit.training import errors_by_frame, read_training, rows_of_frames
from datagen.common.errors import InputError


def a_run(folder: Path) -> Path:
    """As much of a run's folder as is read."""
    state = {"step": 20, "steps": 50, "dataset_uuid": "d1"}
    (folder / "state.json").write_text(json.dumps(state))
    log = [{"kind": "train", "step": s, "loss": 1 / s} for s in range(1, 21)]
    log += [{"kind": "val", "step": s, "canonical_mean_mm": 30 - s} for s in (10, 20)]
    lines = [json.dumps(record) for record in log] + ['{"kind": "train", "step": 21, "lo']
    (folder / "log.jsonl").write_text("\n".join(lines))
    samples = [
        {"name": "gone/smile/000001/cam0", "sample": 3, "canonical_mm": 5.0},
        {"name": "s00/smile/000001/cam0", "sample": 1, "canonical_mm": 12.5, "depth_mm": 4.0},
    ]
    records = [
        {"kind": "val", "step": 10, "samples": [{"name": "s00/smile/000000/cam0", "canonical_mm": 99.0}]},
        {"kind": "val", "step": 20, "samples": samples},
    ]
    (folder / "worst_samples.json").write_text(json.dumps({"records": records}))
    return folder


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    training = read_training(a_run(tmp_path), "d1")
    assert (training.step, training.steps) == (20, 50)
    assert training.curves["training loss"][-1] == (20, 1 / 20)
    assert training.curves["canonical error, held out, mm"] == [(10, 20.0), (20, 10.0)]
    # Of the last validation only, the worst first.
    assert [row["canonical_mm"] for row in training.worst] == [12.5, 5.0]
    assert [row["at"] for row in rows_of_frames(training, {"s00/smile/000001": 7})] == [7, -1]
    assert errors_by_frame(training.worst)["s00/smile/000001"] == [["cam0", "val", 12.5, 20]]


def test_another_datasets_run_is_refused_and_so_is_what_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="learnt from dataset d1"):
        read_training(a_run(tmp_path), "d2")
    (tmp_path / "worst_samples.json").write_text("[]")
    assert read_training(tmp_path, "d1").worst == []
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(InputError, match="not the folder of a run"):
        read_training(tmp_path)
