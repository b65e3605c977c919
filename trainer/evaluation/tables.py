"""The metrics as tables: what stands in a row, in which unit, and whether more is better."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.evaluation.canonical import REGION_NAMES

PREFIXES = {
    "": "model",
    "posed_": "nearest in world space",
    "posed_head_": "nearest in head space, true pose",
    "flow_": "optical flow, chained",
    "mean_map_": "training mean",
}

# What each method does, for those who read its row.
METHODS = {
    "model": "the network's own canonical coordinates.",
    "nearest in world space": "a point of one view is found in another by the nearest predicted point in the world: "
    "right where nothing moves.",
    "nearest in head space, true pose": "the same after the head's true pose is taken away from both: right where only "
    "the head moves.",
    "optical flow, chained": "pictures alone, from frame to frame.",
    "training mean": "the mean map over the training set, the same for every picture: what is known without looking.",
}

_MATCHERS = tuple(PREFIXES)
_MAPS = ("", "mean_map_")


@dataclass(frozen=True)
class Column:
    """One metric that methods are compared by.

    Attributes
    ----------
    name : str
        Of the metric, without a method's prefix.
    """

    name: str
    title: str
    digits: int = 2
    percent: bool = False
    more_is_better: bool = False


@dataclass(frozen=True)
class Table:
    """Text cells, row by row; a row's first cell is its name.

    Attributes
    ----------
    rows : list of list of str
    best : set of (row, column)
        Cells to set in bold.
    arrows : tuple of str
        Of each column of ``header``: whether more (↑) or less (↓) is better; empty where neither is.
    metrics : tuple of str
        Of each column, the metric it shows; empty where it shows none.
    """

    title: str
    note: str
    header: list[str]
    rows: list[list[str]]
    best: set[tuple[int, int]]
    arrows: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()


MATCHING = (
    Column("correspondence_median_px", "frames, median px"),
    Column("correspondence_mean_px", "mean px"),
    Column("correspondence_pck2", "within 2 %", 1, True, True),
    Column("correspondence_median_mm", "median mm"),
    Column("view_correspondence_median_px", "views, median px"),
    Column("view_correspondence_median_mm", "median mm"),
    Column("subject_correspondence_median_px", "subjects, median px"),
)
TIME = (
    Column("tracking_mean_px", "tracks, mean px"),
    Column("tracking_mean_mm", "mean mm"),
    Column("tracking_survival", "survival", 1, True, True),
    Column("tracking_jitter_px", "jitter px"),
    *(Column(f"ssme_{region}_px", f"SSME {region} px") for region in REGION_NAMES),
)
DEPTH = (
    Column("depth_absrel", "AbsRel", 4),
    Column("depth_rmse_mm", "RMSE mm", 1),
    Column("depth_delta125", "δ<1.25", 1, True, True),
    Column("depth_mean_mm", "mean mm", 1),
    Column("depth_aligned_absrel", "AbsRel, median-aligned", 4),
    Column("depth_aligned_mean_mm", "mean mm", 1),
    Column("depth_affine_absrel", "AbsRel, scale–shift", 4),
    Column("depth_affine_mean_mm", "mean mm", 1),
    Column("boundary_f1", "boundary F1", 3, False, True),
    Column("normal_mean_deg", "normals, mean °", 1),
    Column("normal_median_deg", "median °", 1),
)
SHAPE = (
    Column("scan_to_mesh_mm", "scan to mesh mm"),
    Column("scan_to_mesh_scaled_mm", "scaled mm"),
    Column("chamfer_mm", "chamfer mm"),
    *(Column(f"scan_to_mesh_{region}_mm", f"{region} mm") for region in REGION_NAMES[1:]),
    Column("normal_error_rad", "normals rad", 3),
    Column("normal_error_facescape_rad", "as FaceScape rad", 3),
)
CONFIDENCE = tuple(
    Column(f"{kind}_confidence_{name}", f"{kind}, {title}", 3, False, name == "rank_correlation")
    for kind in ("canonical", "depth")
    for name, title in (
        ("aurc_mm", "AURC mm"),
        ("aurc_best_mm", "best possible"),
        ("rank_correlation", "rank correlation"),
        ("calibration", "calibration error"),
    )
)
CANONICAL = (
    Column("canonical_median_mm", "median mm"),
    Column("canonical_mean_mm", "mean mm"),
    Column("canonical_p95_mm", "95 % mm"),
    *(Column(f"canonical_{region}_median_mm", f"{region} median") for region in REGION_NAMES),
)


def method_table(
    title: str, note: str, columns: Sequence[Column], metrics: Mapping[str, Any], prefixes: Sequence[str]
) -> Table:
    """Lay out the methods that have any of the metrics as rows, and the metrics that any of them has as columns."""
    return row_table(title, note, columns, [Row(PREFIXES[prefix], metrics, prefix) for prefix in prefixes])


@dataclass(frozen=True)
class Row:
    """Whose figures stand in a row.

    Attributes
    ----------
    prefix : str
        Of its metrics' names.
    """

    name: str
    metrics: Mapping[str, Any]
    prefix: str = ""

    def value(self, column: Column) -> float | None:
        """Return the figure of a column; None where nothing was measured."""
        return _number(self.metrics, self.prefix + column.name)


def row_table(title: str, note: str, columns: Sequence[Column], rows: Sequence[Row]) -> Table:
    """Lay out the rows that have any of the columns, and the columns that any of the rows has."""
    kept = [row for row in rows if any(row.value(c) is not None for c in columns)]
    shown = [c for c in columns if any(row.value(c) is not None for row in kept)]
    best: set[tuple[int, int]] = set()
    for j, column in enumerate(shown, start=1):
        values = {i: v for i, row in enumerate(kept) if (v := row.value(column)) is not None}
        if len(values) > 1:
            winner = (max if column.more_is_better else min)(values.values())
            best |= {(i, j) for i, v in values.items() if v == winner}
    cells = [[row.name, *(_text(row.value(c), c) for c in shown)] for row in kept]
    arrows = ("", *("↑" if c.more_is_better else "↓" for c in shown))
    return Table(title, note, ["", *(c.title for c in shown)], cells, best, arrows, ("", *(c.name for c in shown)))


@dataclass(frozen=True)
class _Group:
    """A table as it is planned: its columns, and the methods that have them."""

    title: str
    note: str
    columns: Sequence[Column]
    prefixes: Sequence[str]


_GROUPS = (
    _Group(
        "Correspondence",
        "End-point error of a point of one view found in another. Frames: of one camera over time. Views: cameras "
        "of one instant. Subjects: two people. 3-D errors hold the error of the predicted depth, aligned by its "
        "median.",
        MATCHING,
        _MATCHERS,
    ),
    _Group(
        "Over time",
        "Tracks of the first frame's points through a run; motion error (SSME) over all windows.",
        TIME,
        _MATCHERS,
    ),
    _Group("Canonical coordinates", "Where the stored confidence is above 0.", CANONICAL, _MAPS),
    _Group("Depth and normals", "", DEPTH, _MAPS),
    _Group(
        "Shape",
        "After seven key points and iterated closest points; normals after FaceScape's protocol.",
        SHAPE,
        _MAPS,
    ),
    _Group("Confidence", "Pixels ordered by the model's own confidence.", CONFIDENCE, ("",)),
)


def metric_tables(metrics: Mapping[str, Any]) -> list[Table]:
    """Return all tables that have a row."""
    found = [
        *(method_table(g.title, _note(g, metrics), g.columns, metrics, g.prefixes) for g in _GROUPS),
        speed_table(metrics),
    ]
    return [table for table in found if table.rows]


# Of the baselines, those that know nothing of any model: the same beside all of them.
COMMON = ("flow_", "mean_map_")


def comparison_tables(results: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Table]:
    """Return the tables of several models, measured on the same samples: a row each, and the common baselines."""
    first = results[0][1]
    found = []
    for group in _GROUPS:
        rows = [Row(name, metrics) for name, metrics in results]
        rows += [Row(PREFIXES[prefix], first, prefix) for prefix in COMMON if prefix in group.prefixes]
        found.append(row_table(group.title, _note(group, first), group.columns, rows))
    pace = Column("speed_frames_per_s", "frames/s", 1, False, True)
    found.append(row_table("Speed", "In this evaluation.", (pace,), [Row(name, m) for name, m in results]))
    return [table for table in found if table.rows]


def _note(group: _Group, metrics: Mapping[str, Any]) -> str:
    floor = _number(metrics, "normal_floor_mean_deg")
    if group.columns is DEPTH and floor is not None:
        return f"The true depth itself would get {floor:.1f}° of mean normal error."
    return group.note


def result_text(metrics: Mapping[str, Any]) -> str:
    """Return all tables as text, methods side by side, one metric a line."""
    return tables_text(metric_tables(metrics))


def tables_text(tables: Sequence[Table]) -> str:
    """Return tables as text, their rows side by side, one metric a line."""
    lines: list[str] = []
    for table in tables:
        names = [row[0] for row in table.rows]
        width = max(len(cell) for cell in table.header) + 2
        widths = [max(len(name), *(len(cell) for cell in row)) + 2 for name, row in zip(names, table.rows, strict=True)]
        lines.append(f"{table.title:{width}}" + "".join(f"{n:>{w}}" for n, w in zip(names, widths, strict=True)))
        for j, title in enumerate(table.header[1:], start=1):
            cells = (f"{row[j]:>{w}}" for row, w in zip(table.rows, widths, strict=True))
            lines.append(f"  {title:{width - 2}}" + "".join(cells))
        lines.append("")
    return "\n".join(lines)


def speed_table(metrics: Mapping[str, Any]) -> Table:
    """Lay out frames per second and memory by the number of frames predicted together."""
    stem = "speed_frames_per_s_n"
    lengths = sorted(int(name.removeprefix(stem)) for name in metrics if name.startswith(stem))
    rows = [[str(n), f"{metrics[f'{stem}{n}']:.1f}", f"{metrics[f'memory_mib_n{n}']:.0f}"] for n in lengths]
    return Table("Speed", "Frames predicted together.", ["frames", "frames/s", "peak MiB"], rows, set())


def _number(metrics: Mapping[str, Any], name: str) -> float | None:
    value = metrics.get(name)
    return float(value) if value is not None and math.isfinite(value) else None


def _text(value: float | None, column: Column) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.{column.digits}f} %" if column.percent else f"{value:.{column.digits}f}"
