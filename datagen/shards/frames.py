"""The frame table of a split and the template it is read by: rows to stored arrays, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError
from datagen.shards.encode import Row, index_row
from datagen.shards.faces import FrameRow, TemplateContents
from datagen.shards.growth import ShardUnit
from datagen.shards.index import FRAME_ORDER, load_small_arrays
from datagen.shards.metadata import is_map
from datagen.shards.plan import DatasetPlan, frames_of
from datagen.shards.reader import ChunkReader
from datagen.shards.schema import (
    FRAME_ARRAYS,
    SPREAD_STEP_M,
    TEMPLATE,
    TEMPLATE_ARRAYS,
    VERDICTS,
    VERTEX_STEP_M,
)

_REACH = np.iinfo(FRAME_ARRAYS["vertices"].dtype).max
_MOST_SPREAD = np.iinfo(FRAME_ARRAYS["spread"].dtype).max


def encode_vertices(vertices_m: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int16]:
    """Quantise metres in head axes to int16 steps of 10 µm.

    Raises
    ------
    OverflowError
        If a vertex is further than 0.327 m from the head's origin along an axis.
    """
    steps = np.rint(np.asarray(vertices_m, np.float64) / VERTEX_STEP_M)
    if steps.size and np.abs(steps).max() > _REACH:
        raise OverflowError(f"a vertex is {np.abs(vertices_m).max():.3f} m from the head's origin")
    return steps.astype(np.int16)


def decode_vertices(steps: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
    """Invert :func:`encode_vertices`, float32 metres."""
    return np.multiply(steps, np.float32(VERTEX_STEP_M), dtype=np.float32)


def encode_spread(spread_m: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.uint8]:
    """Quantise metres to uint8 steps of 1/16 mm, rounded up; 255 means 15.9 mm or more."""
    return np.clip(np.ceil(np.asarray(spread_m, np.float64) / SPREAD_STEP_M), 0, _MOST_SPREAD).astype(np.uint8)


def decode_spread(steps: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Invert :func:`encode_spread`, float32 metres."""
    return np.multiply(steps, np.float32(SPREAD_STEP_M), dtype=np.float32)


def encode_frames(plan: DatasetPlan, unit: ShardUnit, rows: Iterable[FrameRow]) -> Iterator[Row]:
    """Check and quantise the rows of one shard of a frame table, one by one.

    Parameters
    ----------
    rows : iterable of FrameRow
        Exactly ``unit.samples`` of them, strictly increasing in (subject, sequence, frame).

    Raises
    ------
    InputError
        If a row has another shape than the plan says, an unknown name or a vertex out of reach, if the order is
        wrong, or if there are too few or too many rows.
    """
    allowed, arrays = set(plan.splits[unit.split]), plan.arrays(unit.group)
    previous: tuple[int, ...] | None = None
    number = 0
    for number, row in enumerate(rows, start=1):
        where = f"shard {unit.name}, row {number - 1} ({row.subject}/{row.sequence}/{row.frame})"
        if number > unit.samples or row.subject not in allowed:
            raise InputError(f"{where} does not belong there", f"{unit.samples} rows of {unit.split}", "Plan again")
        stored = index_row(row, row.time_s, plan, where, FRAME_ORDER)
        for name in ("vertices", "spread", "identity", "expression", "model_to_head", "head_to_world"):
            value = np.asarray(getattr(row, "spread_m" if name == "spread" else name))
            if name not in arrays and not value.size:
                continue
            if name not in arrays or value.shape != plan.row_shape(unit.group, name):
                expected = plan.row_shape(unit.group, name) if name in arrays else "none"
                raise InputError(f"{where}: {name} has shape {value.shape}", f"{expected}")
            if not np.isfinite(value).all():
                raise InputError(f"{where}: {name} is not finite", "finite numbers")
            stored[name] = value
        try:
            stored["vertices"] = encode_vertices(stored["vertices"])
        except OverflowError as error:
            raise InputError(f"{where}: {error}", f"less than {_REACH * VERTEX_STEP_M:.3f} m along each axis") from None
        stored["spread"] = encode_spread(stored["spread"])
        key = tuple(int(stored[name]) for name in FRAME_ORDER)
        if previous is not None and key <= previous:
            raise InputError(f"{where} is out of order or a repeat", f"rows increasing in ({', '.join(FRAME_ORDER)})")
        previous = key
        yield {**stored, "parameter_rms_mm": row.parameter_rms_mm, "valid": 1}
    if number < unit.samples:
        raise InputError(f"shard {unit.name} got {number} rows", f"{unit.samples}", "Plan the shards again")


def encode_template(plan: DatasetPlan, contents: TemplateContents) -> Row:
    """Return the arrays of the template by name; InputError if they are not those of the plan."""
    if contents.to_attrs() != dict(plan.faces):
        raise InputError(f"the template is of {contents.head} with other contents", "that of the plan", "Plan again")
    return {name: getattr(contents, name) for name in plan.arrays(TEMPLATE)}


def read_template(reader: ChunkReader, plan: DatasetPlan) -> TemplateContents:
    """Return the template of a dataset that has one; raises as a :class:`ChunkReader`."""
    held = {name: reader.small(TEMPLATE, name, 0)[0] for name in plan.arrays(TEMPLATE)}
    empty = {name: np.zeros(spec.sample_shape(plan.sizes), spec.dtype) for name, spec in TEMPLATE_ARRAYS.items()}
    try:
        return TemplateContents.from_attrs(plan.faces, {**empty, **held})
    except (InputError, KeyError, TypeError) as error:
        raise reader.damaged(TEMPLATE, 0, error.found if isinstance(error, InputError) else repr(error)) from None


@dataclass(frozen=True)
class FrameTable:
    """The registered head of every frame of a split. Rows are read when asked for; raises as a :class:`ChunkReader`.

    Attributes
    ----------
    split : str
    """

    reader: ChunkReader
    plan: DatasetPlan
    split: str

    def __len__(self) -> int:
        return self.plan.frame_counts[self.split]

    @property
    def group(self) -> str:
        """Name of the group of its arrays."""
        return frames_of(self.split)

    def vertices(self, rows: Sequence[int] | npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float32]:
        """Return the template's vertices in some frames, (n, V, 3) float32 metres in head axes, hidden ones too."""
        return decode_vertices(self._rows("vertices", rows))

    def spread(self, rows: Sequence[int] | npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float32]:
        """Return the standard deviation of each vertex along an axis, (n, V) float32 metres; 15.9 mm means or more."""
        return decode_spread(self._rows("spread", rows))

    @property
    def identity(self) -> npt.NDArray[np.float32]:
        """Parameters of the head model that say who it is, (N, K) float32."""
        return self._small["identity"]

    @property
    def expression(self) -> npt.NDArray[np.float32]:
        """Parameters of the head model that say what the face does, (N, E) float32."""
        return self._small["expression"]

    @property
    def model_to_head(self) -> npt.NDArray[np.float32]:
        """Rigid transforms from the axes in which the head model returns its vertices to head axes, (N, 4, 4)."""
        return self._small["model_to_head"]

    @property
    def parameter_rms_mm(self) -> npt.NDArray[np.float32]:
        """RMS distance of the vertices from what the parameters alone give, (N,) float32; NaN without parameters."""
        return self._small["parameter_rms_mm"]

    @property
    def head_to_world(self) -> npt.NDArray[np.float32]:
        """Rigid transforms from head axes to the world, (N, 4, 4) float32."""
        return self._small["head_to_world"]

    @property
    def subject(self) -> npt.NDArray[np.int32]:
        """Index into the dataset's table of subjects, (N,) int32."""
        return self._small["subject"]

    @property
    def sequence(self) -> npt.NDArray[np.int32]:
        """Index into the dataset's table of sequences, (N,) int32."""
        return self._small["sequence"]

    @property
    def frame(self) -> npt.NDArray[np.int64]:
        """Frame numbers, (N,) int64."""
        return self._small["frame"]

    @property
    def time(self) -> npt.NDArray[np.float64]:
        """Seconds since the sequence's first frame, (N,) float64."""
        return self._small["time"]

    @property
    def verdict(self) -> npt.NDArray[np.uint8]:
        """Index into ``schema.VERDICTS``, (N,) uint8."""
        return self._small["verdict"]

    @cached_property
    def _small(self) -> dict[str, Any]:
        plan = self.plan
        names = [name for name, spec in FRAME_ARRAYS.items() if not is_map(spec)]
        held = [name for name in names if name in plan.arrays(self.group)]
        empty = {name: np.zeros((len(self), 0), np.float32) for name in names if name not in held}
        return {**load_small_arrays(self.reader, self.group, held, plan), **empty}

    def _rows(self, name: str, rows: Sequence[int] | npt.NDArray[np.integer[Any]]) -> npt.NDArray[Any]:
        plan = self.plan
        chosen = np.asarray(rows, np.int64)
        if chosen.ndim != 1 or (chosen.size and not (chosen.min() >= 0 and chosen.max() < len(self))):
            raise IndexError(f"rows of a table of {len(self)}")
        out = np.empty((len(chosen), *plan.row_shape(self.group, name)), FRAME_ARRAYS[name].dtype)
        for k, row in enumerate(chosen.tolist()):
            self.reader.sample_into(self.group, name, row, out[k])
        return out


def face_problems(group: str, stored: Mapping[str, npt.NDArray[Any]], plan: DatasetPlan) -> Iterator[str]:
    """Yield a message for each invariant that a row of a frame table, or the template, breaks.

    Parameters
    ----------
    stored : mapping of array name to stored values
        Those that could not be read may be absent.
    """
    if group == TEMPLATE:
        for name, limit in (("faces", "V"), ("uv_faces", "T"), ("landmark_faces", "F")):
            if (
                name in stored
                and stored[name].size
                and not (stored[name].min() >= 0 and stored[name].max() < plan.sizes[limit])
            ):
                yield f"{name} point outside their table"
        wanted = [name for name in stored if stored[name].dtype.kind == "f"]
    else:
        if "valid" in stored and stored["valid"] != 1:
            yield "the row was never marked as written"
        if "verdict" in stored and stored["verdict"] >= len(VERDICTS):
            yield f"verdict {int(stored['verdict'])} is not one of {len(VERDICTS)}"
        for name, table in (("subject", plan.subjects), ("sequence", plan.sequences)):
            if name in stored and not 0 <= stored[name] < len(table):
                yield f"{name} {int(stored[name])} is not in a table of {len(table)}"
        wanted = [n for n in ("identity", "expression", "model_to_head", "head_to_world", "time") if n in stored]
    for name in wanted:
        if not np.isfinite(stored[name]).all():
            yield f"{name} is not finite"
