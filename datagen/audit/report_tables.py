"""The frames of a report as data beside its page: columns of all, and a card of each, in parts loaded when asked.

A page on a disk can load scripts and nothing else, so every part is one (:func:`datagen.audit.scan_view.data_script`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from datagen.audit.explain_build import Explanation
from datagen.audit.results import SEVERITY, FrameResult
from datagen.audit.scan_view import data_script
from datagen.common.documents import read_json
from datagen.common.files import atomic_write_bytes
from datagen.layout import RECORD

ROWS_A_PART = 10_000
CARDS_A_PART = 200
_EXACT = 2**53  # beyond it, a browser's numbers skip some


@dataclass(frozen=True)
class Column:
    """A figure that every frame has, or may have.

    Attributes
    ----------
    name, title, unit : str
    worse : int
        1 if more is worse, −1 if less is, 0 if neither.
    passing : float or None
        Limit of a pass, where the verdict has one.
    """

    name: str
    title: str
    unit: str
    worse: int
    passing: float | None = None


COLUMNS = (
    Column("residual_median_mm", "residual", "mm", 1),
    Column("residual_p95_mm", "residual, 95 %", "mm", 1),
    Column("face_coverage", "coverage", "", -1),
    Column("face_confidence", "confidence", "", -1),
    Column("true_error_median_mm", "true error", "mm", 1),
    Column("landmark_rms_mm", "landmarks", "mm", 1),
    Column("flipped_fraction", "flipped", "", 1),
    Column("crossing_fraction", "crossing", "", 1),
    Column("lip_overlap_mm", "lip in lip", "mm", 1),
    Column("registration_shift_mm", "from registration", "mm", 1),
    Column("head_size", "head size", "×", 0),
)


@dataclass(frozen=True)
class FrameRecord:
    """What ``record.json`` says of a frame.

    Attributes
    ----------
    cameras : tuple of str
        That give samples.
    wrong, blind : mapping of camera to reason
        Those that do not.
    content_key, input_digest : str
        Empty without a record.
    """

    cameras: tuple[str, ...] = ()
    wrong: Mapping[str, str] = field(default_factory=dict)
    blind: Mapping[str, str] = field(default_factory=dict)
    content_key: str = ""
    input_digest: str = ""


def read_frame_record(folder: Path) -> FrameRecord:
    """Read a frame's record; an empty one where there is none, or it cannot be read."""
    try:
        content = read_json(folder / RECORD)
        views = content.get("views", {})
        return FrameRecord(
            tuple(map(str, content["cameras"])),
            dict(views.get("wrong", {})),
            dict(views.get("blind", {})),
            str(content["content_key"]),
            str(content["input_digest"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return FrameRecord()


@dataclass(frozen=True)
class FrameTable:
    """All frames of a report in the order of their names, as columns.

    Attributes
    ----------
    subjects, sequences : list of str
        Tables of names.
    columns : tuple of Column
        Those that any frame has a value of.
    rows : list of dict
        Parts of :data:`ROWS_A_PART` frames: lists by name, ready for JSON.
    index : mapping of frame name to place
    """

    subjects: list[str]
    sequences: list[str]
    columns: tuple[Column, ...]
    rows: list[dict[str, Any]]
    index: Mapping[str, int]


def frame_table(
    results: Sequence[FrameResult],
    ranked: Sequence[FrameResult],
    explanation: Explanation,
    extra: Mapping[str, Mapping[str, float]],
    pictured: Mapping[str, int],
    passing: Mapping[str, float],
    alerted: Mapping[str, int],
) -> FrameTable:
    """Lay out the columns.

    Parameters
    ----------
    ranked : sequence of FrameResult
        The same frames, the worst first.
    extra : mapping of frame to figures that are not of the verdict
    pictured : mapping of frame to the number of its pictures' folder
    passing : mapping of metric to the limit of a pass
    alerted : mapping of frame to the number of an alert that names it
        Said of frames whose verdict has no reason; numbers go on after the groups of the explanation.
    """
    rank = {result.name: i for i, result in enumerate(ranked)}
    why: dict[str, tuple[int, float | None]] = {}
    for number, group in enumerate(explanation.groups):
        for k, name in enumerate(group.frames):
            # Groups come with the gravest first.
            why.setdefault(name, (number, float(group.values[k]) if group.values else None))
    for name, number in alerted.items():
        why.setdefault(name, (len(explanation.groups) + number, None))
    subjects = sorted({result.key.subject for result in results})
    sequences = sorted({result.key.sequence for result in results})
    place = {name: i for i, name in enumerate(subjects)}, {name: i for i, name in enumerate(sequences)}
    figures = [{**result.verdict.metrics, **extra.get(result.name, {})} for result in results]
    columns = tuple(
        Column(c.name, c.title, c.unit, c.worse, passing.get(c.name))
        for c in COLUMNS
        if any(c.name in row for row in figures)
    )
    parts = []
    for start in range(0, len(results), ROWS_A_PART):
        part = results[start : start + ROWS_A_PART]
        parts.append(
            {
                "subject": [place[0][r.key.subject] for r in part],
                "sequence": [place[1][r.key.sequence] for r in part],
                "frame": [r.frame if r.frame < _EXACT else str(r.frame) for r in part],
                "status": [SEVERITY.get(r.verdict.status, 0) for r in part],
                "why": [why.get(r.name, (-1, None))[0] for r in part],
                "value": [short(why.get(r.name, (-1, None))[1]) for r in part],
                "rank": [rank[r.name] for r in part],
                "pictured": [pictured.get(r.name, -1) for r in part],
                "columns": [[short(row.get(c.name)) for row in figures[start : start + ROWS_A_PART]] for c in columns],
            }
        )
    return FrameTable(subjects, sequences, columns, parts, {r.name: i for i, r in enumerate(results)})


def write_parts(folder: Path, stem: str, parts: Iterator[Any] | Sequence[Any]) -> int:
    """Write ``data/<stem>-<number>.js`` of each part; return how many there are."""
    count = 0
    for count, part in enumerate(parts, start=1):
        name = f"{stem}-{count - 1}"
        atomic_write_bytes(folder / "data" / f"{name}.js", data_script(name, part))
    return count


def card_parts(
    results: Sequence[FrameResult], records: Sequence[FrameRecord], details: Mapping[str, Mapping[str, Any]]
) -> Iterator[list[dict[str, Any]]]:
    """Yield the cards of all frames, :data:`CARDS_A_PART` a part.

    Parameters
    ----------
    records : sequence of FrameRecord
        In the order of ``results``.
    details : mapping of frame to what else its card holds, ready for JSON
    """
    for start in range(0, len(results), CARDS_A_PART):
        stop = start + CARDS_A_PART
        yield [
            {
                "reasons": list(result.verdict.reasons),
                "metrics": {name: short(value) for name, value in sorted(result.verdict.metrics.items())},
                "cameras": list(record.cameras),
                "out": {**record.blind, **record.wrong},
                "key": record.content_key[:16],
                "input": record.input_digest[:16],
                "warp": result.has_warp,
                **details.get(result.name, {}),
            }
            for result, record in zip(results[start:stop], records[start:stop], strict=True)
        ]


def short(value: float | None) -> float | int | None:
    """Return a number with four digits, as JSON can hold it; of whole ones, such as counts, all digits."""
    if value is None or not math.isfinite(value):
        return None
    if float(value).is_integer() and abs(value) < _EXACT:
        return int(value)
    rounded = float(f"{value:.4g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < _EXACT else rounded


def plain(content: Any) -> Any:
    """Return nested data with four digits a number, ready for JSON."""
    if isinstance(content, Mapping):
        return {str(name): plain(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [plain(value) for value in content]
    if isinstance(content, np.ndarray):
        return plain(content.tolist())
    if isinstance(content, (bool, str, int)) or content is None:
        return content
    return short(float(content))
