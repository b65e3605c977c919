"""Samples to stored arrays: every value is checked before anything reaches the disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError
from datagen.shards.codec import quantise_image
from datagen.shards.growth import ShardUnit
from datagen.shards.index import ORDER
from datagen.shards.plan import DatasetPlan
from datagen.shards.schema import (
    ARRAYS,
    CANONICAL_LEVELS,
    MAX_FRAME,
    VERDICTS,
    Sample,
    encode_canonical,
    encode_confidence,
    encode_depth,
    encode_normal,
)

_FLOAT_ARRAYS = (
    "depth",
    "canonical",
    "normal",
    "confidence",
    "intrinsics",
    "world_to_camera",
    "head_to_world",
)
_TOLERANCE = 1e-4  # float32 rounding of coordinates on the border of the space
_NO_NORMAL = 1e-3  # a sliver triangle has no normal; this is stored as 0
_UNIT_TOLERANCE = 0.05  # well within what verify_dataset allows after rounding to 1/127
# The squared length of a unit normal is within this of that.
_UNIT_MIDDLE, _UNIT_REACH = 1 + _UNIT_TOLERANCE**2, 2 * _UNIT_TOLERANCE

Row = dict[str, Any]


def encode_samples(plan: DatasetPlan, unit: ShardUnit, samples: Iterable[Sample]) -> Iterator[Row]:
    """Check and quantise the samples of one shard, one by one.

    Parameters
    ----------
    samples : iterable of Sample
        Exactly ``unit.samples`` of them, strictly increasing in (subject, sequence, camera, frame).

    Yields
    ------
    dict of array name to the integers that are stored of one sample, the image already within its error

    Raises
    ------
    InputError
        If a sample has a wrong shape, dtype, range, non-finite number or unknown name, if the order is wrong, or if
        there are too few or too many samples.
    """
    allowed = set(plan.splits[unit.split])
    previous: tuple[int, ...] | None = None
    number, time = 0, 0.0
    for number, sample in enumerate(samples, start=1):
        identity = f"{sample.subject}/{sample.sequence}/{sample.camera}/{sample.frame}"
        where = f"shard {unit.name}, sample {number - 1} ({identity})"
        if number > unit.samples:
            raise InputError(f"{where} is one too many", f"{unit.samples} samples", "Plan the shards again")
        if sample.subject not in allowed:
            raise InputError(
                f"{where} does not belong to {unit.split}", f"a subject of {unit.split}", "Plan the shards again"
            )
        row = _encode_sample(sample, plan, where)
        key = tuple(int(row[name]) for name in ORDER)
        if previous is not None and key <= previous:
            raise InputError(
                f"{where} is out of order or a repeat",
                "samples increasing in (subject, sequence, camera, frame)",
                "Sort the samples by the index of their names in the plan's tables",
            )
        if previous is not None and key[:-1] == previous[:-1] and not row["time"] > time:
            raise InputError(
                f"{where} has the time {sample.time!r} s, and the one before it {time!r} s",
                "times that increase with the frames of a camera",
                "Correct the times",
            )
        previous, time = key, float(row["time"])
        yield row
    if number < unit.samples:
        raise InputError(f"shard {unit.name} got {number} samples", f"{unit.samples} samples", "Plan the shards again")


def _encode_sample(sample: Sample, plan: DatasetPlan, where: str) -> Row:
    values = {name: np.asarray(getattr(sample, name)) for name in ("image", "region", "edge", *_FLOAT_ARRAYS)}
    shape = ARRAYS["mask"].sample_shape(plan.resolution)
    values["mask"] = np.full(shape, 255, np.uint8) if sample.mask is None else np.asarray(sample.mask)
    for name, value in values.items():
        _check_array(name, value, ARRAYS[name].sample_shape(plan.resolution), where)
    _check_maps(values, where)
    _check_labels(values["region"], plan.regions, where)
    _check_matrices(values, where)
    row: Row = {name: values[name] for name in ("region", "edge", "mask")}
    row.update(image=quantise_image(values["image"], plan.image_error), valid=1)
    try:
        row["depth"] = encode_depth(values["depth"], plan.depth_scale)
    except OverflowError as error:
        raise InputError(
            f"{where}: {error}",
            f"depth below {65535 * plan.depth_scale:.3f} m",
            "Raise shards.depth_scale in the manifest",
        ) from None
    if np.any((row["depth"] == 0) & (values["depth"] > 0)):
        raise InputError(
            f"{where}: a depth above 0 is stored as 0, which means no surface",
            f"depths of {plan.depth_scale} m or more",
            "Check that depth is in metres",
        )
    # One fixed value where nothing is known: bytes then depend on knowledge only, and compress to nothing.
    row["canonical"] = encode_canonical(values["canonical"])
    zero = np.uint16(CANONICAL_LEVELS // 2)
    row["canonical"] -= zero
    row["canonical"] *= values["confidence"] > 0
    row["canonical"] += zero
    row["normal"] = encode_normal(values["normal"])
    row["normal"] *= values["depth"] > 0
    row["confidence"] = encode_confidence(values["confidence"])
    for name in ("intrinsics", "world_to_camera", "head_to_world"):
        row[name] = values[name].astype(np.float32)
    row.update(index_row(sample, sample.time, plan, where, ORDER))
    if bool(plan.faces) != (sample.frame_row >= 0):
        raise InputError(
            f"{where}: frame_row is {sample.frame_row}",
            "a row of the frame table" if plan.faces else "-1, as the plan has no faces",
        )
    row["frame_row"] = sample.frame_row
    return row


def index_row(item: Any, time_s: float, plan: DatasetPlan, where: str, keys: Sequence[str]) -> Row:
    """Return what says who, where and when of a sample or of a row of the frame table, as stored.

    Parameters
    ----------
    item : object
        With the attributes of ``keys`` and ``verdict``.
    where : str
        The item in messages.
    keys : sequence of str
        Of :data:`datagen.shards.index.ORDER`.

    Raises
    ------
    InputError
        If a name is not in the plan's tables, or a number is out of range.
    """
    row: Row = {}
    for name in keys:
        value = getattr(item, name)
        if name == "frame":
            continue
        if value not in plan.numbers[name]:
            raise InputError(f"{where}: {name} {value!r} is not in the plan's table", "one of its names")
        row[name] = plan.numbers[name][value]
    if not 0 <= item.frame <= MAX_FRAME:
        raise InputError(f"{where}: frame {item.frame}", f"a frame number from 0 to {MAX_FRAME}")
    if not np.isfinite(time_s):
        raise InputError(f"{where}: time is {time_s}", "seconds")
    if item.verdict not in VERDICTS:
        raise InputError(f"{where}: verdict {item.verdict!r}", f"one of {', '.join(map(repr, VERDICTS))}")
    return {**row, "frame": item.frame, "time": time_s, "verdict": VERDICTS.index(item.verdict)}


def _check_array(name: str, value: npt.NDArray[Any], shape: tuple[int, ...], where: str) -> None:
    if value.shape != shape:
        raise InputError(f"{where}: {name} has shape {value.shape}", f"{shape}", "Render at the plan's resolution")
    if name in _FLOAT_ARRAYS:
        if value.dtype.kind != "f":
            raise InputError(f"{where}: {name} is {value.dtype}", "float32")
        if not np.isfinite(value).all():
            bad = tuple(int(i) for i in np.argwhere(~np.isfinite(value))[0])
            raise InputError(f"{where}: {name} is not finite at {bad}", "finite numbers", "Mask unknown pixels with 0")
    elif value.dtype != (expected := np.dtype(bool if name == "edge" else np.uint8)):
        raise InputError(f"{where}: {name} is {value.dtype}", f"{expected}")


def _check_maps(values: Mapping[str, npt.NDArray[Any]], where: str) -> None:
    depth, confidence, normal, canonical = (values[n] for n in ("depth", "confidence", "normal", "canonical"))
    surface = depth > 0
    bare, limit = ~surface, 1 + _TOLERANCE
    squared = np.einsum("chw,chw->hw", normal, normal)
    # Whether anything can be wrong takes a pass or two; where, as many as it needs.
    checks = (
        (depth.min() < 0, lambda: depth < 0, "depth is negative", "planar z in front of the camera"),
        (
            confidence.min() < 0 or confidence.max() > 1,
            lambda: (confidence < 0) | (confidence > 1),
            "confidence leaves [0, 1]",
            "values in [0, 1]",
        ),
        (True, lambda: (confidence > 0) & bare, "confidence without a surface", "confidence 0 wherever depth is 0"),
        (True, lambda: (values["region"] > 0) & bare, "a region without a surface", "region 0 wherever depth is 0"),
        (
            canonical.max() > limit or canonical.min() < -limit,
            lambda: (confidence > 0) & (np.abs(canonical) > limit).any(axis=0),
            "a canonical coordinate leaves [-1, 1]",
            "normalised coordinates, or confidence 0 where the surface leaves the canonical space",
        ),
        (
            True,
            lambda: surface & (np.abs(squared - _UNIT_MIDDLE) > _UNIT_REACH) & (squared > _NO_NORMAL**2),
            "a normal is not unit",
            "unit normals, or 0 where a surface has none",
        ),
    )
    for possible, wrong, found, expected in checks:
        if possible and (places := wrong()).any():
            row, column = (int(i) for i in np.argwhere(places)[0])
            raise InputError(f"{where}: {found} at row {row}, column {column}", expected)


def _check_labels(region: npt.NDArray[np.uint8], table: Mapping[str, int], where: str) -> None:
    known = np.zeros(256, bool)
    known[[0, *table.values()]] = True
    # Labels without a gap, as they usually are, need one comparison.
    if not table or region.max() < known.argmin() or np.take(known, region).all():
        return
    label = region[~known[region]].min()
    raise InputError(f"{where}: region label {label} is not in the table", f"one of {sorted(table.values())}")


def _check_matrices(values: Mapping[str, npt.NDArray[Any]], where: str) -> None:
    k = values["intrinsics"]
    if not (k[0, 0] > 0 and k[1, 1] > 0 and np.array_equal(k[2], (0, 0, 1))):
        raise InputError(
            f"{where}: intrinsics are not a pinhole matrix", "fx, fy > 0 and a last row of 0 0 1", "Check the camera"
        )
    for name in ("world_to_camera", "head_to_world"):
        if not np.array_equal(values[name][3], (0, 0, 0, 1)):
            raise InputError(
                f"{where}: {name} is not a rigid transform", "a last row of 0 0 0 1", "Check the camera and pose"
            )
