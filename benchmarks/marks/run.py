"""The search for a head's 68 marks: round after round, until they stay."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from benchmarks.marks.consensus import (
    ON_EDGES,
    Opinion,
    anny_edges,
    consensus,
    opinions,
    placed,
    shares,
    slid_along_edges,
)
from benchmarks.marks.register import Marks
from benchmarks.marks.scatter import left_out_rms_m, scatter_m
from benchmarks.marks.sources import Source
from datagen.common.arrays import F64
from datagen.common.files import atomic_write_bytes
from datagen.geometry.space import MM_PER_M
from datagen.heads.base import HeadModel


@dataclass(frozen=True, eq=False)
class Found:
    """What was found.

    Attributes
    ----------
    marks : Marks
    points, before : (68, 3) float64
        Metres on the neutral template: found, and as they were.
    moved_mm : list of float
        RMS motion of the marks in each round.
    """

    head: HeadModel
    marks: Marks
    points: F64
    before: F64
    moved_mm: list[float]
    opinions: tuple[Opinion, ...]

    def figures(self) -> dict[str, dict[str, float]]:
        """Return the RMS distance of each source's marks from the others' consensus and from the former marks, mm."""
        pairs = {"left_out": left_out_rms_m(self.opinions), "before": left_out_rms_m(self.opinions, self.before)}
        return {name: {k: round(v * MM_PER_M, 2) for k, v in rms.items()} for name, rms in pairs.items()}


def find_marks(
    head: HeadModel,
    sources: Sequence[Source],
    *,
    rounds: int,
    detected: dict[str, F64] | None = None,
    begin: Marks | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Found:
    """Return the marks on which the sources agree best.

    Lids and lips are edges that a template shows itself: their marks only slide along them.
    """
    template = head.template
    marks = begin or Marks.of(template)
    before, wanted, moved_mm = marks.on(template), shares(sources), []
    for number in range(rounds):
        here = marks.on(template)
        given = opinions(head, sources, marks, detected)
        points = consensus(given)
        points[ON_EDGES] = before[ON_EDGES]
        if template.name == "anny":
            points = slid_along_edges(points, anny_edges(template, before, points), before, wanted)
        marks = placed(template, points)
        moved_mm.append(float(np.sqrt(((marks.on(template) - here) ** 2).sum(axis=1).mean())) * MM_PER_M)
        say(f"round {number + 1}: the marks moved by {moved_mm[-1]:.2f} mm RMS")
    return Found(head, marks, marks.on(template), before, moved_mm, given)


def write_marks(folder: Path, found: Found) -> list[Path]:
    """Write ``NAME_marks.json`` and, for Anny, ``landmarks.json`` with the scatter, as ``datagen/heads/data`` has."""
    template = found.head.template
    name, packaged = template.name, files("datagen.heads") / "data"
    rows: list[dict[str, object]] = [
        {"face": int(face)} if name == "anny" else {"vertices": template.faces[face].tolist()}
        for face in found.marks.faces
    ]
    for row, weights in zip(rows, found.marks.barycentric, strict=True):
        row["barycentric"] = [round(float(w), 6) for w in weights]
    former = json.loads((packaged / f"{name}_marks.json").read_text())
    written = [folder / f"{name}_marks.json"]
    _write(written[0], former | {"landmarks": rows})
    if name == "anny":
        content = json.loads((packaged / "landmarks.json").read_text())
        sigma_mm = scatter_m(found.opinions, found.points) * MM_PER_M
        content["landmarks"] = [
            entry | {"sigma_mm": round(float(sigma), 1)}
            for entry, sigma in zip(content["landmarks"], sigma_mm, strict=True)
        ]
        written.append(folder / "landmarks.json")
        _write(written[1], content)
    return written


def _write(path: Path, content: dict[str, object]) -> None:
    """Write JSON with one line for each entry, and each landmark."""
    lines = []
    for key, value in content.items():
        text = json.dumps(value)
        if key == "landmarks" and isinstance(value, list):
            text = "[\n" + ",\n".join("  " + json.dumps(entry) for entry in value) + "\n ]"
        lines.append(f" {json.dumps(key)}: {text}")
    atomic_write_bytes(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())
