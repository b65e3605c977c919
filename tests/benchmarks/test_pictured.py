"""Evidence that is made wrong on purpose, for the benchmark of a person's texture."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.warp.pictured import OFF_PX, moved
from datagen.common.seen_points import SeenPoints
from datagen.geometry.camera import Camera
from datagen.geometry.pixel_evidence import PixelEvidence


@pytest.mark.parametrize(("share", "wrong"), [(0.0, 1), (0.1, 1), (1 / 3, 2), (1.0, 6)])
def test_a_share_of_the_pictures_is_off_and_one_at_least(share: float, wrong: int) -> None:
    pixels, unit = np.full((4, 2), 50.0), np.tile(np.eye(2), (4, 1, 1))
    points = SeenPoints("x", "y", 99, 99, np.zeros(4, np.int64), np.tile([1.0, 0, 0], (4, 1)), pixels, unit)
    seen = [PixelEvidence(points, Camera(f"c{k}", np.eye(3), np.eye(4), 99, 99)) for k in range(6)]
    found = moved(seen, share, np.random.default_rng(0))
    off = np.array([np.linalg.norm(one.points.pixels - 50.0, axis=1) for one in found])
    assert (off.max(axis=1) > 0).sum() == wrong
    np.testing.assert_allclose(off[off.max(axis=1) > 0], OFF_PX)
    assert moved([], share, np.random.default_rng(0)) == []
