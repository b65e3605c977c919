"""The report of a build: one page that opens from the disk, however many frames there are, the worst first.

What the page shows at once is in it; the rows of the table, the card of each frame and its three-dimensional view lie
beside it and are loaded when they are asked for. Every verdict is read. What takes longer is done for some frames:
points are measured, and pictures compared, of a sample that is spread over the build; pictures are drawn of the worst
frames and of a few others. The page says of how many.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from datagen import __version__
from datagen.audit import alerts as alerting
from datagen.audit import pictures
from datagen.audit.alerted import alerted_first, alerts_of_frames, first_alerts, to_picture
from datagen.audit.appearance import Appearance, CameraFit, appearance
from datagen.audit.departures import departures
from datagen.audit.explain_build import explain_results
from datagen.audit.fits import fit_rows
from datagen.audit.looking import FrameReader, Looked, at_once, look, look_closer
from datagen.audit.measure import FrameMeasure, region_rows
from datagen.audit.region_colours import region_colours
from datagen.audit.report_tables import (
    CARDS_A_PART,
    FrameRecord,
    FrameTable,
    card_parts,
    frame_table,
    plain,
    read_frame_record,
    short,
    write_parts,
)
from datagen.audit.results import (
    FrameResult,
    build_metrics,
    given_up,
    head_sizes,
    read_results,
    verdict_counts,
    worst_first,
)
from datagen.audit.samples import samples_picture
from datagen.audit.scan_view import data_script, write_scan, write_template
from datagen.audit.training import Training, errors_by_frame, read_training, rows_of_frames
from datagen.audit.truth import CORRECT_WITHIN_MM, Calibration, calibration
from datagen.audit.warp_pictures import PICTURE_TITLES, scan_distance_mm, write_warp_pictures
from datagen.common.errors import CanonfaceError, DatasetError
from datagen.common.files import atomic_write_bytes, staged_folder
from datagen.common.ownership import refuse_strangers, strangers
from datagen.common.pages import render_page
from datagen.common.scales import CONFIDENCE, DISTANCE_LIMIT_MM, ERROR, TRUE_ERROR_LIMIT_MM, scale_stops
from datagen.heads.regions import FACE_REGIONS, REGIONS
from datagen.layout import BRIDGE_PICTURE, BuildLayout
from datagen.manifest import Manifest, VerdictLimits
from datagen.shards import Dataset, open_dataset
from datagen.warp.result import PERSON_FILE
from datagen.warp.storage import read_prior, read_verdict, read_warp
from datagen.warp.verdict import metric_limits

WORST_PICTURED = 4
RANDOM_PICTURED = 4
_WORST, _RANDOM, _ALERTED = "one of the worst", "chosen at random", "named by an alert"
THUMBNAIL_PX = 72
# Rows that stand in the page itself, for those who print it or read it without scripts.
PRINTED_ROWS = 40


def write_report(
    build: Path,
    *,
    worst: int = WORST_PICTURED,
    random: int = RANDOM_PICTURED,
    seed: int = 0,
    stale: Mapping[str, str] | None = None,
    training: Path | None = None,
) -> Path:
    """Write ``report/index.html`` with its data and pictures, ``summary.json`` and ``report.json``.

    An older report is removed once the new one is complete.

    Parameters
    ----------
    build : Path
        Folder with ``warps/``, and ``truth/``, ``manifest.json`` and ``dataset.zarr/`` where it has them.
    worst, random : int
        How many of the worst and of randomly chosen other frames are shown with pictures.
    seed : int
        Of the random choice.
    stale : mapping of frame to reason, optional
        Frames whose warp this program, or the recipe, would make otherwise.
    training : Path, optional
        Folder of a run of `trainer fit` on the build's dataset: its curves, and the frames it is worst at.

    Returns
    -------
    Path
        Of ``index.html``.

    Raises
    ------
    InputError
        If the build has no warps, or one is broken, or the run is none or learnt from another dataset.
    StorageError
        If ``report/`` holds something that is not ours, or the disk refuses.
    """
    layout = BuildLayout(build)
    refuse_strangers(strangers(layout.report))
    results = read_results(build)
    records = [read_frame_record(result.folder) for result in results]
    manifest = _manifest(layout)
    limits = metric_limits(manifest.warp.verdict if manifest else VerdictLimits())
    rng = np.random.default_rng(seed)
    reader = FrameReader(build, manifest)
    looked = look(reader, results, rng)
    ranked = worst_first(results, looked.measures, limits)
    shown = _frames_to_picture(ranked, worst, random, rng)
    look_closer(reader, looked, [r for r, _ in shown])
    dataset, problem = _open(layout)
    learnt = None if training is None else read_training(training, dataset.uuid if dataset else None)
    looks, problem = _appearance(dataset, [r.name for r, why in shown if why == _WORST], problem)
    explanation = explain_results(build, results)
    curve = _calibration(looked)
    regions = _pooled_regions(looked)
    sizes = head_sizes(results)
    errors = {
        name: m.metrics["true_error_median_mm"]
        for name, m in looked.measures.items()
        if "true_error_median_mm" in m.metrics
    }
    wrong = _left_out(results, records)
    found = alerting.in_order(
        [
            *alerting.verdict_alerts(explanation),
            *alerting.calibration_alerts(curve, regions),
            *alerting.camera_alerts(looks, wrong),
            *alerting.slip_alerts(looks),
            *alerting.region_alerts(looked.regions),
            *alerting.landmark_alerts(
                looked.given,
                {name: {int(r["index"]): r["mm"] for r in rows} for name, rows in looked.landmarks.items()},
            ),
            *alerting.build_alerts(
                build=build,
                stale=stale or {},
                sizes=sizes,
                usual=_usual_sizes(manifest),
                dataset_problem=problem,
                true_errors=errors,
                given_up=given_up(layout),
            ),
        ]
    )
    of_frames = alerts_of_frames(found)
    ranked = alerted_first(ranked, of_frames)
    more = to_picture(found, {r.name: r for r in results}, [r.name for r, _ in shown])
    look_closer(reader, looked, more)
    shown += [(r, _ALERTED) for r in more]
    with staged_folder(layout.report, replace=True) as folder:
        pictured = {r.name: k for k, (r, _) in enumerate(shown) if r.has_warp}
        extra = {name: measure.metrics for name, measure in looked.measures.items()}
        passing = {limit.name: limit.passing for limit in limits}
        table = frame_table(results, ranked, explanation, extra, pictured, passing, first_alerts(found, of_frames))
        details = _details(folder, build, results, shown, looked, looks, stale or {}, reader)
        _add_told(details, learnt, of_frames)
        parts = write_parts(folder, "rows", table.rows)
        write_parts(folder, "cards", card_parts(results, records, details))
        listed = [[table.index[name] for name in alert.frames if name in table.index] for alert in found]
        atomic_write_bytes(folder / "data" / "alerts.js", data_script("alerts", listed))
        figures = {
            figure: {
                name: [short(rows[name][figure]) for rows in looked.regions.values() if figure in rows.get(name, {})]
                for name in REGIONS
            }
            for figure in ("distance_median_mm", "back_median_mm", "confidence", "error_median_mm", "round_trip_p95_mm")
        }
        atomic_write_bytes(folder / "data" / "regions.js", data_script("regions", figures))
        summary = _summary(results, looked)
        page: dict[str, Any] = {
            "build": str(build),
            "count": len(results),
            "parts": parts,
            "cards": CARDS_A_PART,
            "subjects": table.subjects,
            "sequences": table.sequences,
            "columns": [asdict(column) for column in table.columns],
            "reasons": [group.reason for group in explanation.groups] + [alert.title for alert in found],
            "regions": region_colours(),
            "scales": {"error": scale_stops(ERROR), "confidence": scale_stops(CONFIDENCE)},
            "limits": {"distance": DISTANCE_LIMIT_MM, "error": TRUE_ERROR_LIMIT_MM},
            "within": CORRECT_WITHIN_MM,
            "curve": plain(asdict(curve)) if curve else None,
            "titles": PICTURE_TITLES,
            "template": _write_template(folder, shown, reader),
            "training": _training(learnt, table),
        }
        content = {
            "title": manifest.name if manifest else build.resolve().name,
            "version": __version__,
            "facts": _facts(manifest, dataset),
            "summary": summary,
            "sentence": _sentence(verdict_counts(results), found),
            "counts": verdict_counts(results),
            "alerts": [(alert, _named(alert.frames)) for alert in found],
            "has_truth": any(m.has_truth for m in looked.measures.values()),
            "rows": [_printed(r, looked.measures.get(r.name)) for r in ranked[:PRINTED_ROWS]],
            "rows_left": max(len(ranked) - PRINTED_ROWS, 0),
            "sampled": len(looked.sampled),
            "measured": len(looked.measures),
            "pictured": len(pictured),
            "looks": looks,
            "curve_sentence": alerting.reliability_sentence(curve) if curve else "",
            "regions": [(name, name in FACE_REGIONS, _cells(row)) for name, row in regions.items()],
            "colours": page["regions"],
            "cameras": _camera_rows(records, looks, wrong),
            "sizes": _sizes(sizes),
            "usual": _usual_sizes(manifest),
            "bridges": _bridges(folder, build),
            "fits": fit_rows(layout),
            "samples": _samples(folder, layout, dataset),
            "problem": problem,
            "training": learnt,
            "page": page,
        }
        metrics = build_metrics(results, looked.sampled)
        numbers = {
            "title": content["title"],
            "version": __version__,
            "summary": metrics,
            "verdicts": content["counts"],
            "alerts": [asdict(alert) for alert in found],
            "regions": regions,
            "cameras": content["cameras"],
            "head_sizes": sizes,
            "fits": content["fits"],
            "calibration": asdict(curve) if curve else None,
            "measured_frames": looked.regions,
            "landmarks": looked.landmarks,
            "frames": _columns_of(table, results),
            # The worst first; each with the number of its folder in pictures/.
            "pictured": [(r.name, pictured[r.name]) for r in ranked if r.name in pictured],
            "training": asdict(learnt) if learnt else None,
        }
        _write_json(folder / layout.report_summary.name, metrics, indent=1)
        _write_json(folder / layout.report_numbers.name, plain(numbers), indent=None)
        text = render_page("datagen.audit", "templates", "report.html", **content)
        atomic_write_bytes(folder / layout.report_page.name, text)
    return layout.report_page


def _training(learnt: Training | None, table: FrameTable) -> dict[str, Any] | None:
    if learnt is None:
        return None
    return {"curves": plain(learnt.curves), "worst": plain(rows_of_frames(learnt, table.index))}


def _write_json(path: Path, content: Any, *, indent: int | None) -> None:
    atomic_write_bytes(path, f"{json.dumps(content, indent=indent, sort_keys=indent is not None)}\n".encode())


def _manifest(layout: BuildLayout) -> Manifest | None:
    try:
        return layout.read_manifest()
    except CanonfaceError:
        return None


def _open(layout: BuildLayout) -> tuple[Dataset | None, str]:
    """Open the dataset, or say why not; a report is wanted most when a dataset is broken."""
    if not layout.dataset.is_dir():
        return None, ""
    try:
        return open_dataset(layout.dataset), ""
    except CanonfaceError as error:
        return None, str(error)


def _appearance(dataset: Dataset | None, also: Sequence[str], problem: str) -> tuple[Appearance, str]:
    if dataset is None:
        return Appearance(), problem
    try:
        return appearance(dataset, also=also), problem
    except DatasetError as error:
        return Appearance(), str(error)


def _frames_to_picture(
    ranked: Sequence[FrameResult], worst: int, random: int, rng: np.random.Generator
) -> list[tuple[FrameResult, str]]:
    """Return frames, and why they were chosen."""
    rest = list(ranked[worst:])
    chosen = rng.permutation(len(rest))[:random]
    return [(r, _WORST) for r in ranked[:worst]] + [(rest[i], _RANDOM) for i in sorted(chosen)]


def _details(
    folder: Path,
    build: Path,
    results: Sequence[FrameResult],
    shown: Sequence[tuple[FrameResult, str]],
    looked: Looked,
    looks: Appearance,
    stale: Mapping[str, str],
    reader: FrameReader,
) -> dict[str, dict[str, Any]]:
    """Draw the pictures, and return what the cards hold beyond verdict and record."""
    details: dict[str, dict[str, Any]] = {}
    for name, rows in looked.regions.items():
        details.setdefault(name, {})["regions"] = plain(rows)
    for name, marks in looked.landmarks.items():
        details.setdefault(name, {})["landmarks"] = plain(marks)
    for one in looks.cameras:
        for frame in one.frames:
            fits = details.setdefault(frame, {}).setdefault("cameraFits", [])
            fits.append([one.camera, short(one.fit.shift_mm), short(one.fit.likeness)])
    for part in looks.regions:
        fits = details.setdefault(part.frame, {}).setdefault("regionFits", [])
        fits.append([part.region, short(part.fit.shift_mm), short(part.fit.likeness)])
    for name, reason in stale.items():
        details.setdefault(name, {})["stale"] = reason
    persons: dict[str, list[int]] = {}
    for result in results:
        if (key := str(result.key)) not in persons:
            persons[key] = _person_frames(BuildLayout(build).person(result.key))
        if persons[key]:
            details.setdefault(result.name, {})["person"] = persons[key]

    def draw(k: int, result: FrameResult) -> dict[str, Any]:
        if not result.has_warp:
            return {}
        warp = read_warp(result.folder)
        template = reader.template_of(warp)
        if template is None:
            return {"note": f"No pictures: the template {warp.space.head!r} this warp was made with is not available."}
        # Numbered, for a path may not hold whatever a name holds.
        sub, error, distance = Path("pictures") / str(k), reader.error_mm(result, warp), scan_distance_mm(warp)
        paths = write_warp_pictures(
            folder / sub, warp, template, true_error_mm=error, distance_mm=distance, thumbnail_px=THUMBNAIL_PX
        )
        if (photos := reader.photos(result, warp, template)) is not None:
            paths.append(pictures.write_png(folder / sub / "photos.png", photos))
        write_scan(folder, f"scan-{k}", warp, template, error, distance_mm=distance)
        return {"pictures": [(path.stem, (sub / path.name).as_posix()) for path in paths], "scan": f"scan-{k}"}

    drawn = at_once(draw, [(k, result) for k, (result, _) in enumerate(shown)])
    for (result, why), card in zip(shown, drawn, strict=True):
        details.setdefault(result.name, {}).update({"chosen": why} | card)
    return details


def _add_told(
    details: dict[str, dict[str, Any]], learnt: Training | None, of_frames: Mapping[str, Sequence[alerting.Alert]]
) -> None:
    """Add to cards what a training run and the alerts say of their frames."""
    for name, told in errors_by_frame(learnt.worst if learnt else ()).items():
        details.setdefault(name, {})["training"] = told
    for name, alerts in of_frames.items():
        details.setdefault(name, {})["alerts"] = [[a.severity, a.title, a.found] for a in alerts]


def _person_frames(folder: Path) -> list[int]:
    if not (folder / PERSON_FILE).is_file():
        return []
    try:
        return [int(frame) for frame in read_prior(folder).frames]
    except CanonfaceError:
        return []


def _write_template(folder: Path, shown: Sequence[tuple[FrameResult, str]], reader: FrameReader) -> bool:
    for result, _ in shown:
        if result.has_warp:
            template = reader.template(read_warp(result.folder).space.head)
            if template is not None:
                write_template(folder, template)
                return True
    return False


def _calibration(looked: Looked) -> Calibration | None:
    if not looked.sampled:
        return None
    pool = FrameMeasure.pooled(list(looked.sampled.values()))
    # Points without a counterpart state no confidence.
    return (
        calibration(pool.confidence, np.where(pool.confidence > 0, pool.error_mm, np.nan)) if pool.has_truth else None
    )


def _pooled_regions(looked: Looked) -> dict[str, dict[str, float]]:
    return region_rows(FrameMeasure.pooled(list(looked.sampled.values()))) if looked.sampled else {}


def _left_out(results: Sequence[FrameResult], records: Sequence[FrameRecord]) -> dict[str, dict[str, list[str]]]:
    """Return by camera and reason the frames in which a camera contradicts its picture, or cannot be read."""
    found: dict[str, dict[str, list[str]]] = {}
    for result, record in zip(results, records, strict=True):
        for camera, reason in record.wrong.items():
            found.setdefault(camera, {}).setdefault(reason, []).append(result.name)
    return found


def _camera_rows(
    records: Sequence[FrameRecord], looks: Appearance, wrong: Mapping[str, Mapping[str, list[str]]]
) -> list[dict[str, Any]]:
    frames = Counter(camera for record in records for camera in record.cameras)
    blind = Counter(camera for record in records for camera in record.blind)
    rows = []
    for camera in sorted({*frames, *blind, *wrong}):
        compared = [one for one in looks.cameras if one.camera == camera]
        fits = [one.fit for one in compared]
        worst = max((one for one in compared if np.isfinite(one.fit.shift_mm)), key=_shift_mm, default=None)
        likeness = [fit.likeness for fit in fits if np.isfinite(fit.likeness)]
        rows.append(
            {
                "name": camera,
                "frames": frames[camera],
                "blind": blind[camera],
                "wrong": sum(len(names) for names in wrong.get(camera, {}).values()),
                "compared": len(fits),
                "shift_mm": worst.fit.shift_mm if worst else None,
                "worst": worst.sequence if worst else "",
                "likeness": float(np.median(likeness)) if likeness else None,
            }
        )
    return rows


def _shift_mm(one: CameraFit) -> float:
    return one.fit.shift_mm


def _facts(manifest: Manifest | None, dataset: Dataset | None) -> list[tuple[str, str]]:
    facts = [("canonface", __version__)]
    if manifest is not None:
        facts += [
            ("captures", manifest.source.origin.get("name", manifest.source.kind)),
            ("head", manifest.canonical.head),
        ]
    if dataset is not None:
        written = dataset.plan.software.get("canonface", "unknown")
        samples = sum(dataset.plan.counts.values())
        facts += [("dataset", f"{dataset.uuid}, {samples} samples, written by canonface {written}")]
        facts += departures(dataset.plan.manifest)
    return facts


def _sentence(counts: Mapping[str, int], found: Sequence[alerting.Alert]) -> str:
    total = sum(counts.values())
    grave = sum(alert.severity == "fail" for alert in found)
    parts = [f"{counts['pass']} of {total} frames pass"]
    if counts["review"]:
        parts.append(f"{counts['review']} are to be looked at")
    if counts["fail"]:
        parts.append(f"{counts['fail']} failed and are left out")
    if not grave:
        return f"{', '.join(parts)}. No grave alerts."
    named = len({name for alert in found if alert.severity == "fail" for name in alert.frames})
    of = f", of {named} {'frame' if named == 1 else 'frames'}" if named else ""
    return f"{', '.join(parts)} by their own figures. {grave} grave {'alert' if grave == 1 else 'alerts'} below{of}."


def _summary(results: Sequence[FrameResult], looked: Looked) -> list[tuple[str, str, str]]:
    """Return the metrics at the top: label, value, unit."""
    residual = np.array([r.metric("residual_median_mm") for r in results])
    rows = [
        ("subjects", str(len({r.key.subject for r in results})), ""),
        ("sequences", str(len({r.key for r in results})), ""),
        ("frames", str(len(results)), ""),
    ]
    if np.isfinite(residual).any():
        rows.append(("surface residual, median of frames", _number(np.nanmedian(residual)), "mm"))
        rows.append(("surface residual, worst frame", _number(np.nanmax(residual)), "mm"))
    outside = np.array([r.metric("outside_masks") for r in results])
    if np.isfinite(outside).any():
        rows.append(("scan points outside the masks, left out, all frames", f"{np.nansum(outside):.0f}", ""))
    known = [m.metrics for m in looked.sampled.values() if m.metrics]
    if known:
        medians = [m["true_error_median_mm"] for m in known]
        p95 = [m["true_error_p95_mm"] for m in known]
        rows.append(("true correspondence error, median of frames", _number(float(np.median(medians))), "mm"))
        rows.append(("true correspondence error, 95 % (median of frames)", _number(float(np.median(p95))), "mm"))
        rows.append(("true correspondence error, worst frame", _number(float(np.max(medians))), "mm"))
    return rows


def _named(frames: Sequence[str]) -> str:
    more = f" and {len(frames) - 3} more" if len(frames) > 3 else ""
    return ", ".join(frames[:3]) + more


def _printed(result: FrameResult, measure: FrameMeasure | None) -> dict[str, str]:
    error = measure.metrics.get("true_error_median_mm", np.nan) if measure else np.nan
    return {
        "name": result.name,
        "status": result.verdict.status,
        "residual": _number(result.metric("residual_median_mm")),
        "coverage": _number(100 * result.metric("face_coverage"), 0),
        "error": _number(error),
        "reasons": "; ".join(result.verdict.reasons),
    }


def _cells(row: Mapping[str, float]) -> dict[str, str]:
    shown = {name: _number(value) for name, value in row.items()}
    shown["points"] = f"{row['points']:.0f}"
    return {**dict.fromkeys(("back_median_mm", "back_p95_mm", "round_trip_p95_mm", "confidence", "near"), "–"), **shown}


def _columns_of(table: FrameTable, results: Sequence[FrameResult]) -> dict[str, Any]:
    columns: dict[str, Any] = {"name": [r.name for r in results], "verdict": [r.verdict.status for r in results]}
    for k, column in enumerate(table.columns):
        columns[column.name] = [value for part in table.rows for value in part["columns"][k]]
    return columns


def _sizes(sizes: Mapping[str, float]) -> list[tuple[str, str]]:
    """Return subjects and head sizes, those farthest from the template's first."""
    ordered = sorted(sizes.items(), key=lambda item: (-abs(np.log(item[1])), item[0]))
    return [(subject, _number(size)) for subject, size in ordered[:PRINTED_ROWS]]


def _usual_sizes(manifest: Manifest | None) -> tuple[float, float]:
    """Return the head sizes that this build does not question."""
    limits = manifest.warp.verdict if manifest else VerdictLimits()
    return limits.least_head_size, limits.most_head_size


def _samples(folder: Path, layout: BuildLayout, dataset: Dataset | None) -> str | None:
    if dataset is None:
        return None
    try:
        sheet = samples_picture(layout.dataset)
    except CanonfaceError:
        return None
    if sheet is None:
        return None
    pictures.write_png(folder / "samples.png", sheet)
    return "samples.png"


def _bridges(folder: Path, build: Path) -> list[dict[str, Any]]:
    """Copy the pictures of the build's bridges and return what the page says of each."""
    cards = []
    for source in sorted(BuildLayout(build).bridges.glob(f"*/{BRIDGE_PICTURE}")):
        verdict, copy = read_verdict(source.parent), f"bridge_{source.parent.name}.png"
        atomic_write_bytes(folder / copy, source.read_bytes())
        metrics = {name: f"{value:.4g}" for name, value in verdict.metrics.items()}
        name = source.parent.name.rpartition("-")[0]
        cards.append({"name": name, "picture": copy, "status": verdict.status, "metrics": metrics})
    return cards


def _number(value: float, digits: int = 2) -> str:
    return "–" if not np.isfinite(value) else f"{value:.{digits}f}"
