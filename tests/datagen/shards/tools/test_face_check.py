"""The frame table against the maps: what belongs together agrees, and what does not is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datagen.shards import Dataset, verify_dataset
from datagen.shards.tools.face_check import NEEDED, table_errors_mm, table_problem
from tests.support.face_scene import build_faces, face_row

pytestmark = pytest.mark.usefixtures("without_fsync")


def errors(dataset: Dataset, i: int, row: int) -> np.ndarray:
    train = dataset["train"]
    stored = {name: values[0] for name, values in train.read(NEEDED, [i], decode=False).items()}
    return table_errors_mm(stored, train.frames.vertices([row])[0], dataset.template, dataset.plan)


def test_vertices_are_where_the_maps_have_them(tmp_path: Path) -> None:
    dataset = build_faces(tmp_path / "dataset.zarr")
    for i, row in enumerate(dataset["train"].index.frame_row.tolist()):
        found = errors(dataset, i, row)
        assert len(found) > 50
        assert np.median(found) < 0.4  # pixels of 3 mm, on a curved surface
        assert table_problem(found) is None
    assert verify_dataset(dataset.path).ok


def test_a_row_that_lies_two_millimetres_beside_its_frame_is_named(tmp_path: Path) -> None:
    def shifted(person: str, frame: int):
        row = face_row(person, frame)
        moved = row.vertices + np.float32([2e-3, 0, 0])
        return replace(row, vertices=moved) if (person, frame) == ("ben", 4) else row

    dataset = build_faces(tmp_path / "dataset.zarr", row=shifted)
    report = verify_dataset(dataset.path)
    train = dataset["train"]
    hit = [i for i in range(len(train)) if (train.sample(i).subject, train.sample(i).frame) == ("ben", 4)]
    assert [problem.sample for problem in report.problems] == hit
    assert all("from the vertices of its frame" in problem.message for problem in report.problems)
    assert verify_dataset(dataset.path, level="digests").ok
