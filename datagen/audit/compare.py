"""Two builds of the same captures, verdict by verdict."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datagen.audit.results import SEVERITY, FrameResult, read_results, verdict_counts
from datagen.common.errors import InputError

LISTED_CHANGES = 20


@dataclass(frozen=True)
class Comparison:
    """What changed from build ``a`` to build ``b``, over the frames both have.

    Attributes
    ----------
    frames : int
        In both.
    only_a, only_b : int
        Frames that the other lacks.
    counts_a, counts_b : dict
        Verdicts of the common frames.
    metrics : tuple of (name, median in a, median in b)
        Every metric both have.
    changes : tuple of (frame, verdict in a, verdict in b)
        Frames whose verdict differs, those that got worse first.
    """

    frames: int
    only_a: int
    only_b: int
    counts_a: dict[str, int]
    counts_b: dict[str, int]
    metrics: tuple[tuple[str, float, float], ...]
    changes: tuple[tuple[str, str, str], ...]

    @property
    def worse(self) -> int:
        """Number of frames whose verdict got worse."""
        return sum(SEVERITY[b] < SEVERITY[a] for _, a, b in self.changes)

    def text(self) -> str:
        """Return the comparison as a table."""
        lines = [f"{self.frames} frames in both; only in the first {self.only_a}, only in the second {self.only_b}", ""]
        lines.append(f"{'':<26}{'first':>12}{'second':>12}{'change':>12}")
        for status in self.counts_a:
            a, b = self.counts_a[status], self.counts_b[status]
            lines.append(f"{status:<26}{a:>12}{b:>12}{b - a:>+12}")
        lines += [f"{name:<26}{a:>12.4g}{b:>12.4g}{b - a:>+12.3g}" for name, a, b in self.metrics]
        if self.changes:
            lines += ["", f"verdicts that changed: {len(self.changes)}, {self.worse} of them for the worse"]
            lines += [f"  {name}: {a} → {b}" for name, a, b in self.changes[:LISTED_CHANGES]]
            if len(self.changes) > LISTED_CHANGES:
                lines.append(f"  and {len(self.changes) - LISTED_CHANGES} more")
        return "\n".join(lines)


def compare(first: Path, second: Path) -> Comparison:
    """Compare the verdicts of two builds over the frames both have.

    Raises
    ------
    InputError
        If one has no warps, or they have no frame in common.
    """
    a, b = ({r.name: r for r in read_results(build)} for build in (first, second))
    common = sorted(a.keys() & b.keys())
    if not common:
        raise InputError(
            f"{first} and {second} have no frame in common",
            "two builds of the same captures",
            "Compare builds whose subjects and sequences have the same names",
        )
    changes = [
        (name, a[name].verdict.status, b[name].verdict.status)
        for name in common
        if a[name].verdict.status != b[name].verdict.status
    ]
    changes.sort(key=lambda c: SEVERITY[c[2]] - SEVERITY[c[1]])
    in_a, in_b = [a[name] for name in common], [b[name] for name in common]
    return Comparison(
        len(common),
        len(a) - len(common),
        len(b) - len(common),
        verdict_counts(in_a),
        verdict_counts(in_b),
        tuple(_medians(in_a, in_b)),
        tuple(changes),
    )


def common_frames(first: Path, second: Path) -> list[tuple[FrameResult, FrameResult]]:
    """Return every frame that both builds have, as each has it, ordered by name; raises as :func:`compare`."""
    a, b = ({r.name: r for r in read_results(build)} for build in (first, second))
    return [(a[name], b[name]) for name in sorted(a.keys() & b.keys())]


def _medians(a: list[FrameResult], b: list[FrameResult]) -> list[tuple[str, float, float]]:
    rows = []
    for name in sorted({name for r in a for name in r.verdict.metrics} & {n for r in b for n in r.verdict.metrics}):
        values = [np.array([r.metric(name) for r in side]) for side in (a, b)]
        if all(np.isfinite(v).any() for v in values):
            rows.append((name, float(np.nanmedian(values[0])), float(np.nanmedian(values[1]))))
    return rows
