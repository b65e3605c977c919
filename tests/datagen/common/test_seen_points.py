"""The file that carries points of a template seen in pictures from one program to another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datagen.common.errors import InputError
from datagen.common.seen_points import SeenPoints, read_seen_points, seen_points_bytes, validate_seen_points
from datagen.geometry.camera import Camera
from datagen.geometry.pixel_evidence import PixelEvidence


@pytest.fixture
def points() -> SeenPoints:
    random = np.random.default_rng(0)
    n = 12
    shares = random.dirichlet(np.ones(3), n)
    root = random.normal(size=(n, 2, 2))
    covariance = root @ root.transpose(0, 2, 1) + np.eye(2)
    pixels = random.uniform(-10, 700, (n, 2))
    shared = random.normal(0, 1e-3, (2, n, 3))
    return SeenPoints("detector", "abc", 640, 480, random.integers(0, 99, n), shares, pixels, covariance, shared)


def test_a_file_gives_back_what_was_written(points: SeenPoints, tmp_path: Path):
    path = tmp_path / "a.npz"
    path.write_bytes(seen_points_bytes(points))
    back = read_seen_points(path)
    assert (back.source, back.template, back.width, back.height) == ("detector", "abc", 640, 480)
    for name in ("faces", "barycentric", "pixels", "covariance", "shared_m"):
        np.testing.assert_allclose(getattr(back, name), getattr(points, name), rtol=1e-6)
    assert seen_points_bytes(points) == seen_points_bytes(points)


def test_no_points_are_a_file_too(points: SeenPoints, tmp_path: Path):
    none = points.take([])
    path = tmp_path / "a.npz"
    path.write_bytes(seen_points_bytes(none))
    assert len(read_seen_points(path)) == 0


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"pixels": np.full((12, 2), np.nan)}, "NaN"),
        ({"pixels": np.zeros((11, 2))}, "shapes"),
        ({"barycentric": np.ones((12, 3))}, "in no face"),
        ({"faces": np.full(12, -1)}, "in no face"),
        ({"covariance": np.zeros((12, 2, 2))}, "not positive"),
        ({"shared_m": np.zeros((2, 3, 3))}, "shapes"),
        ({"width": 0}, "0 x 480"),
    ],
)
def test_what_cannot_be_is_refused(points: SeenPoints, change: dict[str, object], word: str):
    with pytest.raises(InputError, match=word):
        validate_seen_points(replace(points, **change), "it")


def test_a_broken_file_is_named(tmp_path: Path):
    path = tmp_path / "a.npz"
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"a\.npz"):
        read_seen_points(path)


def test_a_camera_of_another_size_is_refused(points: SeenPoints):
    camera = Camera("left", np.eye(3), np.eye(4), 320, 240)
    with pytest.raises(InputError, match="640 x 480"):
        PixelEvidence(points, camera)
