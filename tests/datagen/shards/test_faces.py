"""The plain arrays of a dataset's faces refuse what is not what they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from datagen.common.errors import InputError
from datagen.shards.faces import FrameRow, TemplateContents

F32 = np.float32


def row(**changes: Any) -> FrameRow:
    values: dict[str, Any] = {
        "vertices": np.zeros((4, 3), F32),
        "spread_m": np.ones(4, F32),
        "identity": np.zeros(2, F32),
        "expression": np.zeros(3, F32),
        "model_to_head": np.eye(4, dtype=F32),
        "parameter_rms_mm": 0.5,
        "head_to_world": np.eye(4, dtype=F32),
        "subject": "a",
        "sequence": "b",
        "frame": 3,
        "time_s": 0.5,
        "verdict": "pass",
    }
    return FrameRow(**values | changes)


def contents(**changes: Any) -> TemplateContents:
    values: dict[str, Any] = {
        "vertices": np.zeros((4, 3), F32),
        "faces": np.array([[0, 1, 2], [2, 1, 3]], np.int32),
        "region": np.ones(4, np.uint8),
        "uv": np.zeros((5, 2), F32),
        "uv_faces": np.array([[0, 1, 2], [4, 1, 3]], np.int32),
        "landmark_faces": np.array([1, 0], np.int32),
        "landmark_weights": np.full((2, 3), 1 / 3, F32),
        "identity_names": ("x", "y"),
        "expression_names": ("z",),
        "mean": np.zeros((4, 3), F32),
        "identity_basis": np.zeros((2, 4, 3), F32),
        "expression_basis": np.zeros((1, 4, 3), F32),
        "head": "h",
        "licence": "CC0",
        "model_digest": "0" * 64,
    }
    return TemplateContents(**values | changes)


def test_what_is_right_is_taken() -> None:
    assert row().frame == 3
    assert np.isnan(row(parameter_rms_mm=float("nan")).parameter_rms_mm)
    assert len(row(identity=np.zeros(0, F32)).identity) == 0
    assert contents().head == "h"
    none = np.zeros((0, 4, 3), F32)
    assert len(contents(mean=np.zeros((0, 3), F32), identity_basis=none, expression_basis=none).mean) == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vertices", np.zeros((4, 2), F32)),
        ("vertices", np.zeros((4, 3))),
        ("vertices", np.full((4, 3), np.nan, F32)),
        ("vertices", [[0, 0, 0]] * 4),
        ("spread_m", np.ones(3, F32)),
        ("spread_m", -np.ones(4, F32)),
        ("identity", np.zeros((1, 2), F32)),
        ("expression", np.array([np.inf], F32)),
        ("model_to_head", np.eye(3, dtype=F32)),
        ("parameter_rms_mm", float("inf")),
        ("time_s", float("nan")),
    ],
)
def test_a_row_refuses(name: str, value: object) -> None:
    with pytest.raises(InputError, match=r"face of a/b/000003"):
        row(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("faces", np.array([[0, 1, 4]] * 2, np.int32)),
        ("faces", np.array([[0, 1, -1]] * 2, np.int32)),
        ("region", np.ones(4, np.int32)),
        ("uv", np.full((5, 2), 1.5, F32)),
        ("uv_faces", np.array([[0, 1, 5]] * 2, np.int32)),
        ("uv_faces", np.array([[0, 1, 2]], np.int32)),
        ("landmark_faces", np.array([2, 0], np.int32)),
        ("landmark_weights", np.zeros((2, 2), F32)),
        ("mean", np.zeros((3, 3), F32)),
        ("identity_basis", np.zeros((1, 4, 3), F32)),
        ("expression_basis", np.full((1, 4, 3), np.nan, F32)),
    ],
)
def test_a_template_refuses(name: str, value: object) -> None:
    with pytest.raises(InputError, match="template of h"):
        contents(**{name: value})
