"""The samples a run is worst at: by hand, over validations, and when it resumes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trainer.losses import frame_errors_mm
from trainer.run.worst import MOST_RECORDS, MOST_SAMPLES, WorstLog

NAMES: Any = {"val": lambda i: f"s/a/{i:06d}/cam0"}


def written(run: Path) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = json.loads((run / "worst_samples.json").read_text())["records"]
    return records


def test_the_worst_are_kept_and_their_list_stays_small(tmp_path: Path) -> None:
    log = WorstLog(tmp_path, 0)
    for step in range(1, MOST_RECORDS + 4):
        log.note("val", {i: {"canonical_mm": float(i % 50)} for i in range(200)})
        log.note("val", {7: {"canonical_mm": 1000.0}, 8: {"canonical_mm": float("nan")}})
        log.write(step, NAMES)
    records = written(tmp_path)
    assert [record["step"] for record in records] == list(range(4, MOST_RECORDS + 4))
    samples = records[-1]["samples"]
    assert samples[0] == {"name": "s/a/000007/cam0", "sample": 7, "canonical_mm": 1000.0}
    assert len(samples) == MOST_SAMPLES
    assert [s["canonical_mm"] for s in samples] == sorted((s["canonical_mm"] for s in samples), reverse=True)
    assert records[-1]["of"] == 199  # one was not a number


def test_a_run_that_resumes_forgets_what_came_after(tmp_path: Path) -> None:
    log = WorstLog(tmp_path, 0)
    for step in (5, 10):
        log.note("val", {step: {"canonical_mm": 1.0}})
        log.write(step, NAMES)
    again = WorstLog(tmp_path, 5)
    again.note("val", {3: {"canonical_mm": 2.0}})
    again.write(8, NAMES)
    assert [record["step"] for record in written(tmp_path)] == [5, 8]
    (tmp_path / "worst_samples.json").write_text("broken")
    WorstLog(tmp_path, 8)


def test_a_frames_error_is_the_weighed_mean_of_its_pixels() -> None:
    true = torch.zeros(1, 2, 3, 2, 2)
    found = true.clone()
    found[0, 0, 0, 0, 0], found[0, 0, 1, 0, 1] = 0.02, 0.04
    confidence = torch.zeros(1, 2, 2, 2)
    confidence[0, 0, 0] = torch.tensor([1.0, 0.5])
    prediction: Any = SimpleNamespace(canonical=found)
    batch = {"canonical": true, "confidence": confidence, "index": torch.tensor([[4, 9]])}
    errors = frame_errors_mm(prediction, batch, 0.15)
    # Of the other frame nothing is known.
    assert errors == {4: {"canonical_mm": pytest.approx((0.02 + 0.5 * 0.04) / 1.5 * 150)}}
