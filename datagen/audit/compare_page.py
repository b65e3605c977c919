"""Two builds of the same captures as a page: what changed by region, who got better and worse, both side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from datagen import __version__
from datagen.audit.compare import Comparison, common_frames
from datagen.audit.paired import FIGURES, MeasuredPair, PairReader, moved_mm, paired_differences
from datagen.audit.region_colours import region_colours
from datagen.audit.report_tables import plain, short
from datagen.audit.results import SEVERITY, FrameResult
from datagen.audit.scan_view import write_scan, write_template
from datagen.common.files import atomic_write_bytes, staged_folder
from datagen.common.pages import render_page
from datagen.common.scales import CONFIDENCE, DISTANCE_LIMIT_MM, ERROR, TRUE_ERROR_LIMIT_MM, scale_stops

MEASURED_PAIRS = 96
SHOWN_PAIRS = 8
LISTED = 200
MOVED_LIMIT_MM = 2.0
PAGE, NUMBERS = "index.html", "comparison.json"


def write_comparison(out: Path, first: Path, second: Path, comparison: Comparison) -> Path:
    """Write ``index.html`` and ``comparison.json`` into a folder; what another run of this wrote there is replaced.

    Raises
    ------
    InputError
        If a warp is broken.
    StorageError
        If the folder holds something that is not ours, or the disk refuses.
    """
    with staged_folder(out, replace=True) as folder:
        common = [(a, b) for a, b in common_frames(first, second) if a.has_warp and b.has_warp]
        changed = {name for name, _, _ in comparison.changes}
        reader = PairReader(first, second)
        pairs = [reader.measure(a, b) for a, b in _chosen(common, changed)]
        ordered = sorted(pairs, key=lambda pair: -pair.change[1])
        names = [*(p.name for p in ordered[: SHOWN_PAIRS // 2]), *(p.name for p in ordered[::-1][: SHOWN_PAIRS // 2])]
        shown = {name: k for k, name in enumerate(dict.fromkeys(names))}
        by_name = {a.name: (a, b) for a, b in common}
        template = False
        for name, k in shown.items():
            template |= _write_pair(folder, k, reader, by_name[name])
        differences = paired_differences(pairs)
        page = {
            "shown": shown,
            "template": template,
            "regions": region_colours(),
            "scales": {"error": scale_stops(ERROR), "confidence": scale_stops(CONFIDENCE)},
            "limits": {"distance": DISTANCE_LIMIT_MM, "error": TRUE_ERROR_LIMIT_MM, "moved": MOVED_LIMIT_MM},
        }
        rows = [_row(pair, by_name[pair.name], pair.name in shown) for pair in ordered]
        content = {
            "first": str(first),
            "second": str(second),
            "version": __version__,
            "comparison": comparison,
            "sentence": _sentence(comparison, len(pairs)),
            "differences": differences,
            "figures": FIGURES,
            "moved": _moved(pairs),
            "rows": rows[:LISTED],
            "rows_left": max(len(rows) - LISTED, 0),
            "changes": comparison.changes[:LISTED],
            "changes_left": max(len(comparison.changes) - LISTED, 0),
            "page": page,
        }
        numbers = {
            "first": str(first),
            "second": str(second),
            **{key: value for key, value in asdict(comparison).items() if key != "metrics"},
            "figures": comparison.metrics,
            "worse": comparison.worse,
            "paired": [{**asdict(one), "said": one.said} for one in differences],
            "moved_mm": content["moved"],
            "frames_measured": {p.name: {"first": p.first, "second": p.second, "moved_mm": p.moved_mm} for p in pairs},
        }
        atomic_write_bytes(folder / NUMBERS, f"{json.dumps(plain(numbers), indent=1)}\n".encode())
        atomic_write_bytes(folder / PAGE, render_page("datagen.audit", "templates", "compare.html", **content))
    return out / PAGE


def _chosen(
    common: Sequence[tuple[FrameResult, FrameResult]], changed: set[str]
) -> list[tuple[FrameResult, FrameResult]]:
    """Return frames spread over the builds, and of those whose verdict changed as many again."""
    places = np.unique(np.linspace(0, len(common) - 1, min(MEASURED_PAIRS, len(common))).round().astype(int))
    spread = [common[i] for i in places] if common else []
    taken = {a.name for a, _ in spread}
    more = [pair for pair in common if pair[0].name in changed and pair[0].name not in taken]
    return spread + more[:MEASURED_PAIRS]


def _write_pair(folder: Path, number: int, reader: PairReader, pair: tuple[FrameResult, FrameResult]) -> bool:
    """Write a frame's scans of both builds; return whether the template is there."""
    warps = reader.warps(*pair)
    moved, there = moved_mm(*warps), False
    for side, (result, warp) in enumerate(zip(pair, warps, strict=True)):
        template = reader.template(side, warp)
        if template is None:
            continue
        more = {} if moved is None else {"moved": (moved, MOVED_LIMIT_MM)}
        name = f"scan-{number}-{'ab'[side]}"
        write_scan(folder, name, warp, template, reader.error_mm(side, result, warp), more)
        if not there:
            write_template(folder, template)
        there = True
    return there


def _row(pair: MeasuredPair, results: tuple[FrameResult, FrameResult], shown: bool) -> dict[str, Any]:
    region, change = pair.change
    a, b = (result.verdict.status for result in results)
    residuals = [result.metric("residual_median_mm") for result in results]
    return {
        "name": pair.name,
        "verdicts": (a, b),
        "worse": SEVERITY.get(b, 0) < SEVERITY.get(a, 0),
        "region": region.replace("_", " "),
        "change": f"{change:+.2f}" if region else "–",
        "residual": [f"{value:.3f}" if np.isfinite(value) else "–" for value in residuals],
        "shown": shown,
    }


def _moved(pairs: Sequence[MeasuredPair]) -> dict[str, float]:
    names = {name for pair in pairs for name in pair.moved_mm}
    medians = {name: [pair.moved_mm[name] for pair in pairs if name in pair.moved_mm] for name in names}
    return {name: float(short(float(np.median(values))) or 0.0) for name, values in sorted(medians.items())}


def _sentence(comparison: Comparison, measured: int) -> str:
    better = len(comparison.changes) - comparison.worse
    if not comparison.changes:
        told = "No verdict changed"
    else:
        told = f"Of {len(comparison.changes)} verdicts that changed, {comparison.worse} got worse and {better} better"
    return f"{told}, of {comparison.frames} frames that both have. Points of {measured} of them were measured."
