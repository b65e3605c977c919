"""What a stored sample may hold and what may be handed in: each limit from both sides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from datagen.common.errors import InputError
from datagen.shards import Sample
from datagen.shards.encode import encode_samples
from datagen.shards.plan import ShardUnit
from datagen.shards.schema import CANONICAL_LEVELS, VERDICTS
from datagen.shards.tools.verify import sample_problems
from tests.support.shard_samples import make_plan, make_sample, sample_keys

PLAN = make_plan(resolution=8, counts={"train": 1}, samples_per_shard=4)
STEP_M = PLAN.depth_scale
UNIT = ShardUnit("train", 0, 0, 1)


def sample() -> Sample:
    return make_sample(*sample_keys("train")[0], resolution=8)


def stored() -> dict[str, Any]:
    (row,) = encode_samples(PLAN, UNIT, [sample()])
    # Labels of two values are stored as bytes.
    return {name: np.array(value, np.uint8 if name == "edge" else None) for name, value in row.items()}


def changed(name: str, place: Any, value: Any) -> list[str]:
    """Problems of a stored sample with one value changed."""
    row = stored()
    row[name][place] = value
    return list(sample_problems(row, PLAN))


ON = (4, 4)  # a pixel of the surface whose canonical coordinate is known
OFF = (0, 0)  # one of the background


def test_a_sample_as_it_is_encoded_has_no_problem() -> None:
    row = stored()
    assert row["depth"][ON] > 0
    assert row["confidence"][ON] > 0
    assert row["depth"][OFF] == 0
    assert list(sample_problems(row, PLAN)) == []


@pytest.mark.parametrize(
    ("length", "allowed"),
    [(0, True), (0.88, False), (0.92, True), (1, True), (1.08, True), (1.12, False), (0.5, False)],
)
def test_a_stored_normal_is_unit_to_a_tenth_or_nothing(length: float, allowed: bool) -> None:
    row = stored()
    row["normal"][:, 4, 4] = np.rint(127 * length * np.array([0.6, 0.64, -0.48])).astype(np.int8)
    assert (list(sample_problems(row, PLAN)) == []) is allowed
    off = changed("normal", (2, *OFF), -127)
    assert len(off) == 1
    assert "normal is not unit" in off[0]
    assert "in 1 pixels, the first at row 0, column 0" in off[0]


@pytest.mark.parametrize(
    ("name", "place", "value", "words"),
    [
        ("canonical", (1, *ON), CANONICAL_LEVELS, None),
        ("canonical", (1, *ON), CANONICAL_LEVELS + 1, "canonical leaves"),
        ("canonical", (0, *OFF), CANONICAL_LEVELS // 2 + 1, "not 0 where confidence is 0"),
        ("confidence", OFF, 1, "canonical leaves|confidence above 0 without a surface"),
        ("region", OFF, 1, "a region without a surface"),
        ("region", ON, 3, "region label 3 is not in the table"),
        ("region", ON, 2, None),
        ("edge", ON, 1, None),
        ("edge", ON, 2, "edge is neither 0 nor 1"),
        ("intrinsics", (0, 0), 0, "not a pinhole"),
        ("intrinsics", (1, 1), -1, "not a pinhole"),
        ("intrinsics", (2, 1), 0.1, "not a pinhole"),
        ("world_to_camera", (3, 0), 0.1, "world_to_camera is not a rigid"),
        ("head_to_world", (0, 0), np.nan, "head_to_world is not a rigid"),
        ("frame", (), 0, None),
        ("frame", (), -1, "frame -1 is negative"),
        ("verdict", (), len(VERDICTS) - 1, None),
        ("verdict", (), len(VERDICTS), f"verdict {len(VERDICTS)} is not one of"),
        ("time", (), np.inf, "time is not finite"),
    ],
)
def test_every_invariant_of_a_stored_sample(name: str, place: Any, value: Any, words: str | None) -> None:
    problems = changed(name, place, value)
    if words is None:
        assert problems == []
    else:
        assert problems
        assert all(any(part in text for part in words.split("|")) for text in problems)


def set_at(name: str, place: Any, value: Any) -> Callable[[Sample], Sample]:
    def change(given: Sample) -> Sample:
        array = getattr(given, name).copy()
        array[place] = value
        return replace(given, **{name: array})

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_at("canonical", (0, *ON), 1.00009), None),
        (set_at("canonical", (0, *ON), -1.00011), "leaves"),
        (set_at("canonical", (0, *ON), 1.00011), "leaves"),
        (set_at("canonical", (0, *OFF), 5.0), None),  # nothing is known there: it is not stored
        (set_at("confidence", ON, 1.0), None),
        (set_at("confidence", ON, 1.001), "confidence leaves"),
        (set_at("confidence", OFF, 0.1), "confidence without a surface"),
        (set_at("region", OFF, 1), "region without a surface"),
        (set_at("depth", ON, -0.1), "depth is negative"),
        (set_at("depth", ON, 65535.4 * STEP_M), None),
        (set_at("depth", ON, 65535.6 * STEP_M), "depth below"),
        (set_at("depth", ON, 0.6 * STEP_M), None),
        (set_at("depth", ON, 0.4 * STEP_M), "is stored as 0"),
        (set_at("normal", (slice(None), *ON), (0.0, 0.0, -0.96)), None),
        (set_at("normal", (slice(None), *ON), (0.0, 0.0, -0.94)), "not unit"),
        (set_at("normal", (slice(None), *ON), (0.0, 0.0, -1.04)), None),
        (set_at("normal", (slice(None), *ON), (0.0, 0.0, -1.06)), "not unit"),
        (set_at("normal", (slice(None), *ON), (0.0, 0.0, -9e-4)), None),
        (set_at("normal", (slice(None), *ON), (0.0, 0.0, -2e-3)), "not unit"),
        (set_at("region", ON, 9), "region label 9"),
        (set_at("intrinsics", (0, 0), 0.0), "not a pinhole"),
        (set_at("world_to_camera", (3, 3), 2.0), "not a rigid transform"),
        (lambda s: replace(s, frame=-1), "frame -1"),
        (lambda s: replace(s, frame=2**63 - 1), None),
        (lambda s: replace(s, frame=2**63), "frame 9223372036854775808"),
        (lambda s: replace(s, time=float("inf")), "time is inf"),
        (lambda s: replace(s, verdict="perhaps"), "verdict 'perhaps'"),
        (lambda s: replace(s, camera="cam99"), "'cam99' is not in the plan's table"),
        (lambda s: replace(s, subject="dan"), "does not belong to train"),
    ],
)
def test_every_limit_of_what_is_handed_in(change: Callable[[Sample], Sample], words: str | None) -> None:
    given = change(sample())
    if words is None:
        (row,) = encode_samples(PLAN, UNIT, [given])
        stored_row = {name: np.array(value) for name, value in row.items()}
        assert list(sample_problems(stored_row, PLAN)) == []
        return
    with pytest.raises(InputError) as caught:
        list(encode_samples(PLAN, UNIT, [given]))
    assert words in f"{caught.value.found} {caught.value.expected}"
