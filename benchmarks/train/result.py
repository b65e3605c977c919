"""What a benchmark of training found: as flat figures, as JSON, as a table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from datagen.common.files import json_ready
from trainer.evaluation.speed import SpeedPoint

DATA, OPTIMISER = "data", "optimiser"
LAPS = (DATA, "augment", "forward", "backward", OPTIMISER)
_SIGNIFICANT = 5
_GIB = 1024  # MiB
# Heading, figure, and how it is written; figures that a benchmark lacks have no column.
_COLUMNS = (
    ("step frames/s", "step_frames_per_s", "{:.4g}"),
    ("ms", "step_ms", "{:.4g}"),
    ("data", "stall_share", "{:.0%}"),
    ("augment", "augment_share", "{:.0%}"),
    ("forward", "forward_share", "{:.0%}"),
    ("backward", "backward_share", "{:.0%}"),
    ("optimiser", "optimiser_share", "{:.0%}"),
    ("step GiB", "step_memory_mib", "gib"),
    ("stream frames/s", "stream_frames_per_s", "{:.4g}"),
    ("× step", "ratio_stream", "{:.2f}"),
    ("predict frames/s", "predict_frames_per_s", "{:.4g}"),
    ("predict GiB", "predict_memory_mib", "gib"),
    ("× DA3", "ratio_depth_anything_3", "{:.2f}"),
)


@dataclass(frozen=True)
class StepSpeed:
    """Training steps of one clip length.

    Attributes
    ----------
    steps, frames : int
        How many were timed, and the frames of all of them.
    seconds : dict
        Of all steps, by what they were spent on: some of :data:`LAPS`.
    memory_mib : float
        Peak, as :class:`~trainer.evaluation.speed.SpeedPoint` has it.
    """

    steps: int
    frames: int
    seconds: Mapping[str, float]
    memory_mib: float

    @property
    def total_s(self) -> float:
        """Time of all steps."""
        return sum(self.seconds.values())

    @property
    def frames_per_s(self) -> float:
        """Pace, waiting for data included."""
        return self.frames / self.total_s

    @property
    def frames_per_s_fed(self) -> float:
        """Pace if the data were always there."""
        return self.frames / (self.total_s - self.seconds.get(DATA, 0.0))

    def share(self, lap: str) -> float:
        """Return the share of a step that is spent on something."""
        return self.seconds.get(lap, 0.0) / self.total_s


@dataclass
class LengthResult:
    """What one clip length takes; None where memory did not suffice, or nothing was asked for.

    Attributes
    ----------
    frames, clips : int
        Of a clip, and clips of a batch.
    step : StepSpeed, optional
    stream_frames_per_s : float, optional
        What the loader gives when nothing else is done.
    predict : SpeedPoint, optional
        The network without gradients, one clip at a time.
    ratio_peer : float, optional
        The peer's time for the same over ours.
    """

    frames: int
    clips: int
    step: StepSpeed | None = None
    stream_frames_per_s: float | None = None
    predict: SpeedPoint | None = None
    ratio_peer: float | None = None

    def figures(self, *, streamed: bool, against: bool) -> dict[str, float]:
        """Return the figures of this length; NaN for what memory did not suffice for."""
        step, predict, stream, nan = self.step, self.predict, self.stream_frames_per_s, math.nan
        figures = {
            "step_frames_per_s": nan if step is None else step.frames_per_s,
            "step_ms": nan if step is None else 1000 * step.total_s / step.steps,
            "step_memory_mib": nan if step is None else step.memory_mib,
        }
        if streamed:
            figures["stall_share"] = nan if step is None else step.share(DATA)
        figures |= {f"{lap}_share": nan if step is None else step.share(lap) for lap in LAPS if lap != DATA}
        if streamed:
            figures["stream_frames_per_s"] = nan if stream is None else stream
            figures["ratio_stream"] = nan if stream is None or step is None else stream / step.frames_per_s_fed
        figures["predict_frames_per_s"] = nan if predict is None else predict.frames_per_s
        figures["predict_memory_mib"] = nan if predict is None else predict.memory_mib
        if against:
            figures["ratio_depth_anything_3"] = nan if self.ratio_peer is None else self.ratio_peer
        return {f"{name}_n{self.frames}": value for name, value in figures.items()}


@dataclass
class TrainBench:
    """What a benchmark found.

    Attributes
    ----------
    machine, setup : dict
        What it was measured on, and what was measured; plain data.
    lengths : list of LengthResult
    streamed : bool
        Whether batches came from a dataset.
    against : bool
        Whether Depth Anything 3 was asked for.
    notes : list of str
        What could not be done, a line each.
    """

    machine: dict[str, Any]
    setup: dict[str, Any]
    streamed: bool
    against: bool
    lengths: list[LengthResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def longest_frames(self) -> int:
        """The longest clips, of those asked for, that a step had memory for; 0 for none."""
        return max((r.frames for r in self.lengths if r.step is not None), default=0)

    def figures(self) -> dict[str, float]:
        """Return one flat name a number; NaN for what could not be measured."""
        figures: dict[str, float] = {"longest_frames": self.longest_frames}
        if self.against:
            ratios = [r.ratio_peer for r in self.lengths if r.ratio_peer is not None]
            figures["ratio_depth_anything_3"] = statistics.geometric_mean(ratios) if ratios else math.nan
        for result in self.lengths:
            figures |= result.figures(streamed=self.streamed, against=self.against)
        return figures


def as_json(bench: TrainBench) -> dict[str, Any]:
    """Return a benchmark as plain data; what could not be measured is null."""
    figures = {name: _rounded(value) for name, value in bench.figures().items()}
    return {"machine": bench.machine, "setup": bench.setup, "figures": json_ready(figures), "notes": bench.notes}


def as_text(bench: TrainBench) -> list[str]:
    """Return a benchmark as lines: machine, setup, a row for each clip length."""
    machine, setup, figures = bench.machine, bench.setup, bench.figures()
    memory = "" if machine["memory_mib"] is None else f", {machine['memory_mib'] / _GIB:.0f} GiB"
    source = setup["dataset"] or "random numbers"
    readers = "" if setup["workers"] is None else f", {setup['workers']} readers"
    lines = [
        f"{machine['device']}{memory}, {machine['threads']} threads, torch {machine['torch']}",
        f"{setup['config']}: {setup['parameters_m']} M parameters, {setup['precision']}"
        + (", compiled" if setup["compiled"] else ""),
        f"{source}, {setup['size']} pixels, {setup['frames_per_batch']} frames a batch, "
        f"{setup['accumulate']} batches a step{readers}",
        "",
    ]
    columns = [c for c in _COLUMNS if any(f"{c[1]}_n{r.frames}" in figures for r in bench.lengths)]
    rows = [["clip", "× clips", *(heading for heading, _, _ in columns)]]
    for result in bench.lengths:
        cells = [_cell(figures[f"{name}_n{result.frames}"], how) for _, name, how in columns]
        rows.append([str(result.frames), str(result.clips), *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines += ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
    for result in bench.lengths:
        if result.step is None:
            lines.append(f"{result.frames} frames: out of memory in a training step")
        if result.predict is None:
            lines.append(f"{result.frames} frames: out of memory in a prediction")
    return [*lines, *bench.notes]


def _cell(value: float, how: str) -> str:
    if not math.isfinite(value):
        return "–"
    return f"{value / _GIB:.2f}" if how == "gib" else how.format(value)


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.{_SIGNIFICANT}g}")
