"""Metrics of one warp, and the verdict that follows from them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from datagen.geometry.mesh import face_cross
from datagen.geometry.space import MM_PER_M
from datagen.heads.regions import FACE_REGIONS, REGIONS, mask_of
from datagen.manifest import VerdictLimits
from datagen.warp.confidence import ANCHORED_WEIGHT, seen_face
from datagen.warp.fold_repair import flipped_triangles
from datagen.warp.result import Status, Verdict
from datagen.warp.similarity import fit_similarity
from datagen.warp.template import WarpTemplate
from datagen.warp.transport import Transported


def registration_shift_mm(
    template: WarpTemplate, registered: npt.NDArray[np.float64], registration: npt.NDArray[np.floating]
) -> float:
    """Return how far the face (median) ended from the registration (V, 3) metres that it began at."""
    face = mask_of(template.regions, FACE_REGIONS)
    begun = template.subdivide @ np.asarray(registration, np.float64)
    return float(np.median(np.linalg.norm(registered - begun, axis=1)[face])) * MM_PER_M


def head_size(template: WarpTemplate, registered: npt.NDArray[np.float64], anchored: npt.NDArray[np.float64]) -> float:
    """Return how large the face is, as a multiple of the template's: where the scan was seen, or else everywhere."""
    chosen = seen_face(template, anchored)
    return fit_similarity(template.canonical_m[chosen], registered[chosen]).scale


def face_confidence(transported: Transported, confidence: npt.NDArray[np.floating]) -> float:
    """Return the mean confidence (N,) of the points on the face; 0 without any."""
    on_face = transported.matched & mask_of(transported.region, FACE_REGIONS)
    return float(confidence[on_face].mean()) if on_face.any() else 0.0


def measure(
    template: WarpTemplate,
    registered: npt.NDArray[np.float64],
    anchored: npt.NDArray[np.float64],
    transported: Transported,
) -> dict[str, float]:
    """Return the flat metrics of one warp.

    Parameters
    ----------
    registered : (M, 3) float64
        Deformed fine template, metres.
    anchored : (M,) float64
        Weight of each fine vertex's last target.
    transported : Transported
        Of all scan vertices.
    """
    on_face = transported.matched & mask_of(transported.region, FACE_REGIONS)
    residual_mm = np.abs(transported.offset_m[on_face]) * 1000
    face_vertices = mask_of(template.regions, FACE_REGIONS)
    face_triangles = face_vertices[template.faces].all(axis=1)
    # By area: a hand-made topology spends most of its vertices on the folds of lids and nostrils.
    area = np.linalg.norm(face_cross(template.canonical_m, template.faces[face_triangles]), axis=1)
    held = (anchored[template.faces[face_triangles]] > ANCHORED_WEIGHT).mean(axis=1)
    left = template.canonical_m[template.faces[face_triangles]].mean(axis=1)[:, 0] > 0
    labels = np.sort(template.regions[template.faces[face_triangles]], axis=1)[:, 1]
    parts = {name: labels == REGIONS[name] for name in FACE_REGIONS if name != "cheeks"}
    parts |= {f"{side}_cheek": (labels == REGIONS["cheeks"]) & (left == (side == "left")) for side in ("right", "left")}
    flips = flipped_triangles(registered, template.faces, template.canonical_m) & face_triangles
    metrics = {
        "scan_vertices": float(len(transported.matched)),
        "matched_fraction": float(transported.matched.mean()),
        "face_vertices": float(on_face.sum()),
        "face_coverage": float(area @ held / area.sum()),
        "residual_median_mm": float(np.median(residual_mm)) if len(residual_mm) else float("inf"),
        "residual_p95_mm": float(np.percentile(residual_mm, 95)) if len(residual_mm) else float("inf"),
        "head_size": head_size(template, registered, anchored),
        "flipped_triangles": float(flips.sum()),
        "flipped_fraction": float(flips.sum() / max(face_triangles.sum(), 1)),
    }
    for name, part in parts.items():
        if area[part].sum() > 0:
            metrics[f"coverage_{name}"] = float(area[part] @ held[part] / area[part].sum())
    return metrics


def judge(metrics: dict[str, float], limits: VerdictLimits) -> Verdict:
    """Return the verdict: the worst of what each metric says, with a sentence for each that is not a pass.

    A small residual alone proves no correspondence, so confidence, coverage, flips and landmarks are asked too. What
    was done to the scan before the warp is noted, whatever the status.
    """
    order: tuple[Status, ...] = ("pass", "review", "fail")
    worst, reasons = 0, []
    for name, label, unit, pass_limit, fail_limit, sign in _limits(limits):
        if name not in metrics:
            continue
        value = metrics[name]
        level = 2 if sign * value > sign * fail_limit else 1 if sign * value > sign * pass_limit else 0
        if level:
            limit = fail_limit if level == 2 else pass_limit
            relation = "above" if sign > 0 else "below"
            reasons.append(
                f"{label} is {value:.3g} {unit}".rstrip() + f", {relation} the {order[level]} limit of {limit:g}"
            )
        worst = max(worst, level)
    size = metrics.get("head_size")
    if size is not None and not limits.least_head_size <= size <= limits.most_head_size:
        reasons.append(
            f"this head is {size:.2f} times the template's size (adults: {limits.least_head_size:g} to "
            f"{limits.most_head_size:g}, small children less): are scan and cameras in true units?"
        )
        worst = max(worst, 1)
    if worst and metrics.get("landmark_worst_mm", 0) > limits.fail_landmark_rms_mm:
        point, off_mm = metrics["landmark_worst"], metrics["landmark_worst_mm"]
        reasons.append(f"note: landmark {point:.0f} is farthest off, {off_mm:.0f} mm from where all else has it")
    bare = [
        name.removeprefix("coverage_").replace("_", " ")
        for name, value in metrics.items()
        if name.startswith("coverage_") and value < limits.least_region_coverage
    ]
    if bare:
        reasons.append(f"there is no scan data at: {', '.join(bare)}")
        worst = max(worst, 1)
    if metrics.get("faces_turned"):
        # No fault of the warp: a whole export can be so, and turned over it is as good as any.
        reasons.append("note: the scan's faces point inwards; they were turned over before the warp")
    if metrics.get("person_used") == 0:
        reasons.append(
            "note: this frame agrees less with its sequence's person than with a start of its own, and has that"
        )
    return Verdict(order[worst], tuple(reasons), metrics)


def _limits(limits: VerdictLimits) -> list[tuple[str, str, str, float, float, int]]:
    """Return each metric with its label, unit, limits of pass and fail, and 1 if more is worse or -1 if less is."""
    return [
        ("residual_median_mm", "median surface residual", "mm", limits.pass_residual_mm, limits.fail_residual_mm, 1),
        (
            "residual_p95_mm",
            "surface residual of the worst twentieth of the face",
            "mm",
            limits.pass_residual_p95_mm,
            limits.fail_residual_p95_mm,
            1,
        ),
        ("face_confidence", "mean confidence of the face", "", limits.pass_confidence, limits.fail_confidence, -1),
        ("face_coverage", "share of the face with scan data", "", limits.pass_coverage, limits.fail_coverage, -1),
        ("flipped_fraction", "share of flipped triangles", "", limits.pass_flipped, limits.fail_flipped, 1),
        (
            "crossing_fraction",
            "share of triangles that pass through others",
            "",
            limits.pass_crossing,
            limits.fail_crossing,
            1,
        ),
        ("lip_overlap_mm", "depth of one lip in the other", "mm", limits.pass_lip_overlap_mm, np.inf, 1),
        (
            "registration_shift_mm",
            "distance of the face from the registration (median)",
            "mm",
            limits.pass_shift_mm,
            limits.fail_shift_mm,
            1,
        ),
        (
            "landmark_rms_mm",
            "landmark distance RMS",
            "mm",
            limits.pass_landmark_rms_mm,
            limits.fail_landmark_rms_mm,
            1,
        ),
    ]
