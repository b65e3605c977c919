"""A benchmark of training as JSON and as a table."""

from __future__ import annotations

import math
from typing import Any

from benchmarks.train.result import TrainBench
from datagen.common.files import json_ready

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


def as_json(bench: TrainBench) -> dict[str, Any]:
    """Return a benchmark as plain data; what could not be measured is null."""
    figures = json_ready({name: _rounded(value) for name, value in bench.figures().items()})
    return {"machine": bench.machine, "setup": bench.setup, "figures": figures, "notes": bench.notes}


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
