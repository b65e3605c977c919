"""Landmark files: units, subsets, and what is refused."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen.common.errors import InputError, LandmarkError
from datagen.geometry.landmarks import Landmarks, read_landmarks, validate_landmarks, write_landmarks

POINTS = {"36": [-4, 3, 1], "45": [4, 3, 1], "30": [0, 0, 4], "8": [0, -7, 0]}


def save(folder: Path, **changes: Any) -> Path:
    content = {"scheme": "ibug68", "unit": "cm", "points": POINTS, **changes}
    path = folder / "landmarks.json"
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return path


def test_reading_gives_metres_sorted_by_index(tmp_path: Path):
    landmarks = read_landmarks(save(tmp_path))
    assert landmarks.indices.tolist() == [8, 30, 36, 45]
    np.testing.assert_allclose(landmarks.points[0], [0, -0.07, 0])


@settings(max_examples=20, deadline=None)
@given(indices=st.sets(st.integers(0, 67), min_size=3, max_size=68), seed=st.integers(0, 2**31))
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, indices: set[int], seed: int):
    points = np.random.default_rng(seed).normal(scale=0.05, size=(len(indices), 3))
    path = tmp_path_factory.mktemp("landmarks") / "l.json"
    write_landmarks(Landmarks(np.array(sorted(indices)), points), path)
    again = read_landmarks(path)
    assert again.indices.tolist() == sorted(indices)
    np.testing.assert_allclose(again.points, points, atol=1e-7)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"scheme": "wflw98"}, "wflw98"),
        ({"points": {"0": [0, 0, 1], "1": [1, 0, 0]}}, "2 landmarks"),
        ({"points": {**POINTS, "36": None, "45": None}}, "2 landmarks"),
        ({"points": {**POINTS, "68": [0, 0, 1]}}, "to 68"),
        ({"points": {**POINTS, "9": [0, float("nan"), 0]}}, "point 9 is .0, nan, 0."),
        ({"points": {"0": [3, 3, 3], "1": [1, 1, 1], "2": [2, 2, 2]}}, "one line"),
        ({"points": {**POINTS, "nose": [0, 0, 1]}}, "names a point 'nose'"),
        ({"points": {**POINTS, "036": [0, 0, 1]}}, "names point 36 twice"),
        ({"points": {**POINTS, "9": [0, 0]}}, r"point 9 is \[0, 0\]"),
        ({"points": {**POINTS, "9": [0, "1", True]}}, "point 9 is"),
        ({"points": {**POINTS, "9": {"x": 1}}}, "point 9 is"),
        ({"points": {**POINTS, "9": [0, 0.0, -0.0]}}, r"point 9 is exactly \(0, 0, 0\)"),
        ({"points": [[0, 0, 1]]}, "lists 1 points.*all 68"),
        ({"points": 7}, "`points` is 7"),
        ({"unit": None}, "lacks unit"),
        ({"units": "mm"}, "unknown key 'units'"),
    ],
)
def test_bad_landmarks_are_refused_by_file(tmp_path: Path, changes: dict[str, Any], word: str):
    path = save(tmp_path, **changes)
    with pytest.raises(LandmarkError, match=word) as caught:
        read_landmarks(path)
    assert str(path) in str(caught.value)


def test_an_unknown_unit_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="parsec"):
        read_landmarks(save(tmp_path, unit="parsec"))


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "\x00\x01", "[" * 100_000, '{"unit": ' * 9000])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: str):
    path = tmp_path / "l.json"
    path.write_text(content)
    with pytest.raises(LandmarkError):
        read_landmarks(path)


def test_a_list_in_the_schemes_order_is_read_and_null_means_not_seen(tmp_path: Path):
    points: list[list[float] | None] = [[k, 0.1 * k * k, -1.0] for k in range(68)]
    points[3] = points[67] = None
    landmarks = read_landmarks(save(tmp_path, points=points))
    assert landmarks.indices.tolist() == [k for k in range(67) if k != 3]
    np.testing.assert_allclose(landmarks.points[3], [0.04, 0.016, -0.01])
    named = {str(k): xyz for k, xyz in enumerate(points)}
    np.testing.assert_array_equal(read_landmarks(save(tmp_path, points=named)).points, landmarks.points)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=80, deadline=None)
@given(key=st.sampled_from(["scheme", "unit", "points", "36", "45", "new"]), value=JSON)
def test_any_json_in_place_of_a_part_is_read_or_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: Any
):
    changes = {key: value} if key in {"scheme", "unit", "points"} else {"points": {**POINTS, key: value}}
    path = tmp_path_factory.mktemp("json") / "l.json"
    path.write_text(json.dumps({"scheme": "ibug68", "unit": "cm", "points": POINTS, **changes}))
    with suppress(InputError):
        assert isinstance(read_landmarks(path), Landmarks)


def test_a_point_given_twice_is_refused(tmp_path: Path):
    path = save(tmp_path)
    path.write_text(path.read_text().replace('"36": [', '"36": [1, 2, 3], "36": ['))
    with pytest.raises(LandmarkError, match="the key '36' is given twice"):
        read_landmarks(path)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(LandmarkError, match="does not exist"):
        read_landmarks(tmp_path / "none.json")


def test_an_index_named_twice_is_refused():
    with pytest.raises(LandmarkError, match="twice"):
        validate_landmarks(Landmarks(np.array([1, 1, 2, 3]), np.eye(4, 3)), "x")
