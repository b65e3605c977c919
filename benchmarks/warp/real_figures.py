"""The figures of a run on real faces, their goals, and how they are printed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.goal import Goal, judged, verdict
from benchmarks.warp.agreement import StatedConfidence, verdict_shares
from benchmarks.warp.families import FEATURES, PARTS, SMOOTH
from benchmarks.warp.real import OURS, OURS_IN_SEQUENCE, WRONG, RealResult, Table
from benchmarks.warp.real_warps import REFUSED
from datagen.common.files import json_ready

NAN = float("nan")
GOALS = (
    Goal("families_ratio_median", 0.75),
    Goal("families_ratio_p95", 0.75),
    Goal("features_ratio", 1.0),
    Goal("smooth_ratio", 0.8),
    Goal("noisy_families_ratio_median", 0.65),
    Goal("noisy_families_ratio_p95", 0.65),
    Goal("noisy_features_ratio", 0.6),
    Goal("noisy_smooth_ratio", 0.8),
    Goal("sequence_ratio_single", 0.7),
    Goal("sequence_ratio_peer", 0.6),
    Goal("confidence_gap_max", 0.08),
    Goal("confidence_gap_sequence", 0.08),
    Goal("verdict_recall", 0.5, at_least=True),
    Goal("verdict_false", 0.02),
    Goal("seconds_per_frame", 1.5),
)


def real_figures(result: RealResult) -> dict[str, float]:
    """Return the flat figures; NaN for what was not measured.

    ``*_ratio_*`` are ours over the best peer of the same run (a rigid motion is one), the worst over the families and,
    in ``features`` and ``smooth``, their parts' medians. ``sequence_ratio_single`` is the median dispersion in sequence
    mode over that of the same frames one by one; ``sequence_ratio_peer`` is that over ``sumner``, on the frames that it
    was given. Confidence gaps are expected calibration errors, as the chart in a build's report has them, of the worst
    source. Verdicts are those of all warps of the run; a refused scan has no warp. Seconds by the clock: of a
    frame while two processes warp at once, and the median over all warps of one process alone.
    """
    figures = _family_figures(result.families, "") | _family_figures(result.noisy, "noisy_")
    figures["sequence_ratio_single"] = _ratio(result.sequence, OURS_IN_SEQUENCE, (OURS,), "face", "median")
    figures["sequence_ratio_peer"] = _ratio(result.peer_frames, OURS_IN_SEQUENCE, ("sumner",), "face", "median")
    figures["confidence_gap_max"] = _worst_gap(result.confidence)
    figures["confidence_gap_sequence"] = _worst_gap(result.sequence_confidence)
    verdicts = verdict_figures(result.warps)
    figures |= {f"verdict_{name}": verdicts[name] for name in ("recall", "false")}
    figures["seconds_per_frame"] = result.seconds_together
    figures["seconds_per_frame_one"] = float(np.median([entry["seconds"] for entry in result.warps]))
    return figures


def verdict_figures(warps: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return ``recall`` (share of the worst tenth not passed), ``false`` (of the best half) and how many ``warps``."""
    made = [entry for entry in warps if entry["verdict"] != REFUSED]
    errors = [np.inf if np.isnan(entry["median_mm"]) else float(entry["median_mm"]) for entry in made]
    recall, false = verdict_shares(errors, [entry["verdict"] == "pass" for entry in made])
    return {"recall": recall, "false": false, "warps": len(made)}


def _family_figures(families: Mapping[str, Table], prefix: str) -> dict[str, float]:
    def worst(parts: Iterable[str], quantity: str) -> float:
        ratios = [
            _ratio(table, OURS, [method for method in table if method != OURS], part, quantity)
            for table in families.values()
            # A rigid motion alone is no peer worth a ratio.
            if len(table) > 2
            for part in parts
        ]
        return max(ratios, default=NAN)

    return {
        f"{prefix}families_ratio_median": worst(["face"], "median"),
        f"{prefix}families_ratio_p95": worst(["face"], "p95"),
        f"{prefix}features_ratio": worst(FEATURES, "median"),
        f"{prefix}smooth_ratio": worst(SMOOTH, "median"),
    }


def _ratio(table: Table, method: str, peers: Iterable[str], part: str, quantity: str) -> float:
    if method not in table or not all(peer in table for peer in peers):
        return NAN
    best = min(table[peer][part][quantity] for peer in peers)
    return table[method][part][quantity] / best if best > 0 else NAN


def _worst_gap(sources: Iterable[StatedConfidence]) -> float:
    return max((source.gap for source in sources if source.counted), default=NAN)


def warp_counts(result: RealResult) -> dict[str, int]:
    """Return how many warps each source has, refused ones included."""
    counts: dict[str, int] = {}
    for entry in result.warps:
        counts[entry["source"]] = counts.get(entry["source"], 0) + 1
    return counts


def as_json(result: RealResult) -> dict[str, Any]:
    """Return a result as plain data; what could not be measured is null."""
    figures = real_figures(result)
    natural = [entry for entry in result.warps if WRONG not in entry["source"]]
    content = {
        "setup": {
            **{k: str(v) if isinstance(v, Path) else v for k, v in asdict(result.plan).items()},
            "head": result.head,
        },
        "figures": figures,
        "goals": judged(GOALS, figures),
        "left_out": result.left_out,
        "families": result.families,
        "noisy_families": result.noisy,
        "sequence": result.sequence,
        "sequence_peer_frames": result.peer_frames,
        "confidence": [source.entry() for source in result.confidence],
        "sequence_confidence": [source.entry() for source in result.sequence_confidence],
        "verdicts": {
            "all": verdict_figures(result.warps),
            "none_wrong_on_purpose": verdict_figures(natural),
        },
        "warp_counts": warp_counts(result),
        "refused": sum(entry["verdict"] == REFUSED for entry in result.warps),
        "warps": sorted(result.warps, key=lambda entry: -np.nan_to_num(entry["median_mm"], nan=np.inf)),
        "cpu_seconds_per_frame": float(np.median([entry["cpu_seconds"] for entry in result.warps])),
        "sequence_prior_seconds": result.prior_seconds,
        "peer_seconds": {method: float(np.median(seconds)) for method, seconds in result.peer_seconds.items()},
    }
    return dict(json_ready(content))


def as_text(result: RealResult) -> list[str]:
    """Return a result as lines: figures beside their goals, the tables, confidence by source, and the worst warps."""
    figures = real_figures(result)
    goals = judged(GOALS, figures)
    lines = [f"left out: {line}" for line in result.left_out]
    lines += [f"{name:<30} {value:>8.3f}  {verdict(goals.get(name))}".rstrip() for name, value in figures.items()]
    tables = {
        **result.families,
        **{f"{name}, noisy landmarks": table for name, table in result.noisy.items()},
        "sequence": result.sequence,
        "sequence, frames of the peers": result.peer_frames,
    }
    columns = ("face", *PARTS)
    lines += ["", f"{'dispersion, median / p95 mm':<48}" + "".join(f"{name:>14}" for name in columns)]
    for source, table in tables.items():
        for method, parts in table.items():
            cells = "".join(f"{parts[p]['median']:>7.2f} /{parts[p]['p95']:>5.2f}" for p in columns)
            lines.append(f"{f'{source}, {method}':<48}{cells}")
    lines += ["", f"{'confidence':<62}{'gap':>7}{'stated':>8}{'true':>7}"]
    for stated in (*result.confidence, *result.sequence_confidence):
        entry = stated.entry()
        note = "" if stated.counted else "  not counted"
        lines.append(f"{stated.source:<62}{stated.gap:>7.3f}{entry['stated']:>8.3f}{entry['within_1mm']:>7.3f}{note}")
    lines += ["", "warps: " + ", ".join(f"{count} {source}" for source, count in warp_counts(result).items())]
    for entry in as_json(result)["warps"]:
        median = "    –" if entry["median_mm"] is None else f"{entry['median_mm']:5.2f}"
        reasons = "; ".join(entry["reasons"])
        lines.append(f"{median} mm  {entry['verdict']:<8} {entry['source']}, {entry['name']}  {reasons}".rstrip())
    return lines
