"""Metrics of one warp, and the verdict that follows from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datagen.geometry.mesh import face_cross
from datagen.geometry.space import MM_PER_M
from datagen.heads.regions import FACE_REGIONS, REGIONS, mask_of
from datagen.manifest import VerdictLimits
from datagen.warp.fold_repair import flipped_triangles
from datagen.warp.result import Status, Verdict
from datagen.warp.similarity import fit_similarity
from datagen.warp.template import WarpTemplate
from datagen.warp.transport import Transported

# A vertex whose last target weighed more was seen.
ANCHORED_WEIGHT = 0.1
FEWEST_ANCHORED = 100


def seen_face(template: WarpTemplate, anchored: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return which fine vertices (M,) are of the face and were seen on the scan; all of the face if too few were."""
    face = mask_of(template.regions, FACE_REGIONS)
    seen = face & (anchored > ANCHORED_WEIGHT)
    return seen if seen.sum() >= FEWEST_ANCHORED else face


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
    for of in metric_limits(limits):
        if of.name not in metrics:
            continue
        value, sign = metrics[of.name], of.sign
        level = 2 if sign * value > sign * of.failing else 1 if sign * value > sign * of.passing else 0
        if level:
            limit = of.failing if level == 2 else of.passing
            relation = "above" if sign > 0 else "below"
            reasons.append(
                f"{of.label} is {value:.3g} {of.unit}".rstrip() + f", {relation} the {order[level]} limit of {limit:g}"
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


@dataclass(frozen=True)
class MetricLimits:
    """What a metric may be.

    Attributes
    ----------
    name, label, unit : str
        Of the metric: as it is stored, in words, and its unit if it has one.
    quantity : str
        Its limits are ``pass_<quantity>`` and, for most, ``fail_<quantity>`` of the manifest's ``warp.verdict``.
    passing, failing : float
    sign : int
        1 if more is worse, -1 if less is.
    """

    name: str
    label: str
    unit: str
    quantity: str
    passing: float
    failing: float
    sign: int


# Metric, in words, unit, quantity of the limits, and whether more is worse.
_JUDGED = (
    ("residual_median_mm", "median surface residual", "mm", "residual_mm", 1),
    ("residual_p95_mm", "surface residual of the worst twentieth of the face", "mm", "residual_p95_mm", 1),
    ("face_confidence", "mean confidence of the face", "", "confidence", -1),
    ("face_coverage", "share of the face with scan data", "", "coverage", -1),
    ("flipped_fraction", "share of flipped triangles", "", "flipped", 1),
    ("crossing_fraction", "share of triangles that pass through others", "", "crossing", 1),
    ("lip_overlap_mm", "depth of one lip in the other", "mm", "lip_overlap_mm", 1),
    ("registration_shift_mm", "distance of the face from the registration (median)", "mm", "shift_mm", 1),
    ("landmark_rms_mm", "landmark distance RMS", "mm", "landmark_rms_mm", 1),
)


def metric_limits(limits: VerdictLimits) -> list[MetricLimits]:
    """Return what each metric may be; one that never fails a frame has no limit for that but infinity."""
    return [
        MetricLimits(
            *(name, label, unit, quantity, getattr(limits, f"pass_{quantity}")),
            *(getattr(limits, f"fail_{quantity}", sign * np.inf), sign),
        )
        for name, label, unit, quantity, sign in _JUDGED
    ]
