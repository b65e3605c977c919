"""The invariants of one stored sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.shards.plan import DatasetPlan
from datagen.shards.schema import CANONICAL_LEVELS, NORMAL_LEVELS, VERDICTS

UNKNOWN_CANONICAL = CANONICAL_LEVELS // 2  # stored where nothing is known; decodes to 0 exactly
_UNIT_LOW, _UNIT_HIGH = 0.9, 1.1  # a unit normal after rounding to 1/127, with room for float error

Stored = Mapping[str, npt.NDArray[Any]]


def sample_problems(stored: Stored, plan: DatasetPlan) -> Iterator[str]:
    """Yield a message for each invariant that a stored sample breaks.

    Parameters
    ----------
    stored : mapping of array name to the stored values of one sample
        Arrays that could not be read may be absent; checks that need them are skipped.
    plan : DatasetPlan
    """
    for needed, check in (
        (("confidence", "canonical"), _check_canonical),
        (("depth", "confidence"), _check_confidence),
        (("depth", "region"), _check_region),
        (("depth", "normal"), _check_normal),
        (("edge",), _check_edge),
        (("intrinsics",), _check_intrinsics),
        (("world_to_camera",), _check_world_to_camera),
        (("head_to_world",), _check_head_to_world),
    ):
        if all(name in stored for name in needed):
            message = check(stored)
            if message:
                yield message
    if "region" in stored and plan.regions:
        unknown = np.setdiff1d(stored["region"], [0, *plan.regions.values()])
        if unknown.size:
            yield f"region label {int(unknown[0])} is not in the table"
    if "frame" in stored and stored["frame"] < 0:
        yield f"frame {int(stored['frame'])} is negative"
    if "verdict" in stored and stored["verdict"] >= len(VERDICTS):
        yield f"verdict {int(stored['verdict'])} is none of {len(VERDICTS)}"
    if "time" in stored and not np.isfinite(stored["time"]):
        yield "time is not finite"


def _pixels(wrong: npt.NDArray[np.bool_], message: str) -> str | None:
    if not wrong.any():
        return None
    row, column = (int(i) for i in np.argwhere(wrong)[0])
    return f"{message} in {int(wrong.sum())} pixels, the first at row {row}, column {column}"


def _check_canonical(stored: Stored) -> str | None:
    known = stored["confidence"] > 0
    outside = (stored["canonical"] > CANONICAL_LEVELS).any(axis=0)
    unknown = (stored["canonical"] != UNKNOWN_CANONICAL).any(axis=0)
    return _pixels(np.where(known, outside, unknown), "canonical leaves [-1, 1], or is not 0 where confidence is 0,")


def _check_confidence(stored: Stored) -> str | None:
    return _pixels((stored["confidence"] > 0) & (stored["depth"] == 0), "confidence above 0 without a surface")


def _check_region(stored: Stored) -> str | None:
    return _pixels((stored["region"] > 0) & (stored["depth"] == 0), "a region without a surface")


def _check_edge(stored: Stored) -> str | None:
    return _pixels(stored["edge"] > 1, "edge is neither 0 nor 1")


def _check_normal(stored: Stored) -> str | None:
    normal = stored["normal"].astype(np.float32) / NORMAL_LEVELS
    length = np.sqrt((normal**2).sum(axis=0))
    surface = stored["depth"] > 0
    # A sliver triangle has no normal: 0 is allowed on a surface, anything else must be unit.
    odd = np.where(surface, (length > 0) & ((length < _UNIT_LOW) | (length > _UNIT_HIGH)), length > 0)
    return _pixels(odd, "a normal is not unit on a surface, or not 0 off it,")


def _check_intrinsics(stored: Stored) -> str | None:
    k = stored["intrinsics"]
    well = np.isfinite(k).all() and k[0, 0] > 0 and k[1, 1] > 0 and np.array_equal(k[2], (0, 0, 1))
    return None if well else "intrinsics are no pinhole matrix"


def _check_transform(stored: Stored, name: str) -> str | None:
    m = stored[name]
    return None if np.isfinite(m).all() and np.array_equal(m[3], (0, 0, 0, 1)) else f"{name} is no rigid transform"


def _check_world_to_camera(stored: Stored) -> str | None:
    return _check_transform(stored, "world_to_camera")


def _check_head_to_world(stored: Stored) -> str | None:
    return _check_transform(stored, "head_to_world")
