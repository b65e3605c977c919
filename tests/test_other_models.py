"""The blocks of docs/other-models.md run one after another on a built dataset, and give what the page says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support.places import ROOT

if TYPE_CHECKING:
    from datagen.flows.build import BuildResult


@pytest.fixture(scope="module")
def names(tiny_build: BuildResult) -> dict[str, Any]:
    """What the blocks leave behind."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "other-models.md").read_text(), re.DOTALL)
    assert len(blocks) == 4
    found: dict[str, Any] = {}
    for block in blocks:
        exec(block.replace("runs/demo", str(tiny_build.root)), found)
    return found


def test_pointmaps_of_one_instant_are_one_surface(names: dict[str, Any]) -> None:
    points, known = names["points"], names["known"]
    assert points.shape == (4, 3, 56, 56)
    # In the first camera's own axes its depth is its points' z; the other views' points lie on the same head.
    np.testing.assert_allclose(points[0, 2][known[0]], names["views"]["depth"][0][known[0]], rtol=1e-5)
    middles = [points[k][:, known[k]].mean(1) for k in range(4)]
    assert np.ptp(middles, axis=0).max() < 0.1
    near = np.linalg.norm(points[0][:, known[0]].T[:, None] - points[1][:, known[1]].T[None], axis=2).min(1)
    assert np.median(near) < 0.02


def test_landmarks_lie_on_the_head(names: dict[str, Any]) -> None:
    landmarks, sample = names["landmarks"], names["sample"]
    assert landmarks.shape == (68, 2)
    assert ((landmarks > 0) & (landmarks < sample.depth.shape[0])).all()
    # Chin below nose below brows.
    assert landmarks[8, 1] > landmarks[33, 1] > landmarks[21, 1]


def test_labels_have_names_and_shares(names: dict[str, Any]) -> None:
    assert names["share"]["background"] > 0.1
    assert sum(names["share"].values()) == pytest.approx(1, abs=0.02)
