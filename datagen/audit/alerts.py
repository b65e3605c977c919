"""What a reader of the report should know before anything else: each with its figure, its limit and what it means."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from datagen.audit.appearance import Appearance, CameraFit
from datagen.audit.explain_build import Explanation
from datagen.audit.truth import CORRECT_WITHIN_MM, Calibration
from datagen.heads.regions import FACE_REGIONS

Severity = Literal["fail", "review", "note"]
ORDER: dict[Severity, int] = {"fail": 0, "review": 1, "note": 2}
_NAMED = 8
# Stated confidence minus the share that is right, over all points or of one region. Simulated faces have 0.06 over all
# and 0.1 in single regions.
MOST_GAP = 0.15
# Without truth: a point a millimetre off the template is hardly right to a millimetre.
MOST_GAP_UNPROVEN = 0.25
# Pictures laid on the template fit to a cell, 1 to 2 mm, where all is right.
MOST_SHIFT_MM = 3.0
# Pictures are compared cell by cell: a move by one of them is no more than they resolve.
RESOLVED_CELLS = 1.5
MOST_SLIP_MM = 2.0
# Of likeness, by moving. On sound builds of 56 and 112 pixels a shift of one cell, as coarse as the pixels, gains 0.08
# at most; a lip slid by 3 mm gains 0.17 there, and a camera turned by 0.6 degrees 0.29.
LEAST_GAIN = 0.12
# From a scan point to its coordinate and back: as far as the surfaces are apart, 0.5 mm in the worst twentieth.
MOST_ROUND_TRIP_MM = 3.0
# A landmark beside which all others of the frame are well.
MOST_LANDMARK_MM = 8.0
LANDMARK_TIMES_USUAL = 4.0
# A region's mean confidence in one frame, above its usual in the others; or, where that is high already, what is left
# of its usual doubt. Sound builds have 0.7 at least of that, and a scatter of 0.01 to 0.02.
MOST_ABOVE_USUAL = 0.15
LEAST_OF_USUAL_DOUBT = 0.4
SCATTERS_ABOVE_USUAL = 5.0
LEAST_SCATTER = 0.01
MOST_TRUE_ERROR_MM = 1.0
MOST_REGION_ERROR_MM = 2.0


@dataclass(frozen=True)
class Alert:
    """Something that is, or may be, wrong.

    Attributes
    ----------
    severity : ``fail``, ``review`` or ``note``
    title : str
        What it is, in one line.
    found, limit : str
        The figure, and from where on it is told.
    meaning : str
        What that says, and what to do.
    frames : tuple of str
        Whom it concerns, the worst first.
    commands : tuple of str
        That can be pasted into a shell.
    """

    severity: Severity
    title: str
    found: str
    limit: str
    meaning: str
    frames: tuple[str, ...] = ()
    commands: tuple[str, ...] = field(default=())


def verdict_alerts(explanation: Explanation) -> list[Alert]:
    """Return one alert for each reason that frames fail or are reviewed, and a note for each that they pass with."""
    alerts = []
    for group in explanation.groups:
        severity: Severity = "note" if group.status == "pass" else group.status
        count = len(group.frames)
        share = f"{count} of {explanation.frames} frames ({count / explanation.frames:.0%})"
        found = share + (f"; {group.values[0]:.3g} at worst" if group.values else "")
        meaning = {
            "fail": "These frames are left out of the dataset.",
            "review": "Look at them before you trust them.",
            "note": "This changes no verdict.",
        }[severity]
        limit = "warp.verdict of the recipe" if group.values else "told by the warp"
        alerts.append(Alert(severity, group.reason, found, limit, meaning, group.frames, group.next))
    return alerts


def calibration_alerts(curve: Calibration | None, regions: Mapping[str, Mapping[str, float]]) -> list[Alert]:
    """Return where stated confidence is not what was right: over all points, and by region of the face."""
    alerts = []
    if curve is not None and curve.expected_error > MOST_GAP:
        alerts.append(
            Alert(
                "review",
                "Confidence is not to be taken at its word",
                f"stated and right differ by {curve.expected_error:.2f} (mean of bins)",
                f"{MOST_GAP:g}",
                f"{reliability_sentence(curve)} Training weights points by it.",
            )
        )
    for name in FACE_REGIONS:
        row, label = regions.get(name, {}), name.replace("_", " ")
        if "confidence" not in row:
            continue
        stated = row["confidence"]
        if "correct" in row:
            if stated - row["correct"] > MOST_GAP:
                alerts.append(
                    Alert(
                        "review",
                        f"Overconfident: {label}",
                        f"states {stated:.2f}; {row['correct']:.0%} lie within {CORRECT_WITHIN_MM:g} mm of the truth",
                        f"{MOST_GAP:g} apart",
                        f"Points of the {label} claim to be surer than they are; training believes them.",
                    )
                )
        elif stated - row["near"] > MOST_GAP_UNPROVEN:
            alerts.append(
                Alert(
                    "review",
                    f"Probably overconfident: {label}",
                    f"states {stated:.2f}; {row['near']:.0%} lie within {CORRECT_WITHIN_MM:g} mm of the template",
                    f"{MOST_GAP_UNPROVEN:g} apart",
                    "There is no truth to compare with; but what is off the surface is hardly right along it.",
                )
            )
    return alerts


def reliability_sentence(curve: Calibration) -> str:
    """Say in words whether stated confidence is honest."""
    gap = float(np.average(curve.stated - curve.correct, weights=curve.count))
    size = curve.expected_error
    if size <= MOST_GAP / 2:
        return f"Confidence is honest: what it states and what was right differ by {size:.2f}."
    word = "too sure" if gap > 0 else "too careful"
    low = curve.stated <= 0.5
    where = ""
    if low.any() and not low.all():
        gaps = [
            float(np.average(curve.stated[part] - curve.correct[part], weights=curve.count[part]))
            for part in (low, ~low)
        ]
        if np.sign(gaps[0]) != np.sign(gaps[1]):
            where = f" (below 0.5 {'too sure' if gaps[0] > 0 else 'too careful'}, above the other way round)"
    return f"Confidence is {word}{where}: what it states and what was right differ by {size:.2f}."


def camera_alerts(looks: Appearance, wrong: Mapping[str, Mapping[str, list[str]]]) -> list[Alert]:
    """Return cameras that contradict the others' pictures of the same skin, and those that the build left out.

    Parameters
    ----------
    wrong : mapping of camera to mapping of reason to frames
    """
    alerts = []
    beside: dict[str, list[CameraFit]] = {}
    for one in looks.cameras:
        if one.fit.shift_mm >= MOST_SHIFT_MM and one.fit.likeness - one.fit.likeness_unmoved >= LEAST_GAIN:
            beside.setdefault(one.camera, []).append(one)
    for camera, fits in sorted(beside.items()):
        worst = max(fits, key=lambda one: one.fit.shift_mm)
        compared = sum(one.camera == camera for one in looks.cameras)
        doubt = "" if worst.others > 1 else " It was held against one other camera: either of the two may be wrong."
        alerts.append(
            Alert(
                "fail",
                f"Camera {camera} is not where it is said to be",
                f"it shows the skin {worst.fit.shift_mm:.1f} mm away from where the other cameras show the same skin "
                f"({worst.sequence}; in {len(fits)} of {compared} sequences)",
                f"{MOST_SHIFT_MM:g} mm",
                "Its calibration, or its pictures, are another's: all samples of it are wrong there. datagen check "
                f"says which convention fits.{doubt}",
                tuple(frame for one in fits for frame in one.frames),
            )
        )
    for camera, reasons in sorted(wrong.items()):
        for reason, listed in reasons.items():
            alerts.append(
                Alert(
                    "review",
                    f"Camera {camera} was left out",
                    f"in {len(listed)} {'frame' if len(listed) == 1 else 'frames'}: {reason}",
                    "its picture against the scan",
                    "It gives no samples there. datagen check says which convention fits.",
                    tuple(listed),
                )
            )
    return alerts


def slip_alerts(looks: Appearance) -> list[Alert]:
    """Return regions of frames whose skin lies elsewhere than in the subject's other frames."""
    slipped: dict[str, list[tuple[float, str]]] = {}
    limit_mm = max(MOST_SLIP_MM, RESOLVED_CELLS * looks.cell_mm)
    for one in looks.regions:
        fit = one.fit
        if fit.shift_mm >= limit_mm and fit.likeness - fit.likeness_unmoved >= LEAST_GAIN:
            slipped.setdefault(one.region, []).append((fit.shift_mm, one.frame))
    return [
        Alert(
            "fail",
            f"Slipped along the skin: {region.replace('_', ' ')}",
            f"{max(found)[0]:.1f} mm at worst, in {len(found)} of {looks.frames} frames whose pictures were compared",
            f"{limit_mm:.2g} mm",
            "In the pictures, this part fits the subject's other frames better elsewhere: the correspondence has slid, "
            "though surface and template coincide.",
            tuple(frame for _, frame in sorted(found, reverse=True)),
        )
        for region, found in slipped.items()
    ]


Regional = Mapping[str, Mapping[str, Mapping[str, float]]]  # frame, region, figure


def region_alerts(measured: Regional) -> list[Alert]:
    """Return regions of frames that contradict themselves, or the truth, by the rows of measured frames."""
    stated_of = {
        name: [regions[name]["confidence"] for regions in measured.values() if "confidence" in regions.get(name, {})]
        for name in FACE_REGIONS
    }
    usual = {name: _median(values) for name, values in stated_of.items()}
    sure: dict[str, list[tuple[float, str]]] = {}
    for frame, regions in measured.items():
        for name in FACE_REGIONS:
            row = regions.get(name, {})
            stated, right = row.get("confidence", 0.0), row.get("correct", 0.0)
            if _surer_than_usual(stated, stated_of[name]) and stated - right > MOST_GAP / 2:
                sure.setdefault(name, []).append((stated, frame))
    trip = _far(measured, "round_trip_p95_mm", MOST_ROUND_TRIP_MM)
    error = _far(measured, "error_median_mm", MOST_REGION_ERROR_MM)

    def alert(
        severity: Severity, title: str, told: str, limit: str, meaning: str, found: list[tuple[float, str]]
    ) -> Alert:
        found.sort(reverse=True)
        in_frames = f"in {len(found)} of {len(measured)} measured frames"
        return Alert(severity, title, f"{told}, {in_frames}", limit, meaning, tuple(frame for _, frame in found))

    contradicts = (
        "A scan point's coordinate, looked up on the registered template, is not where the point is: one of the two "
        "has slipped, or the files are of different runs."
    )
    alerts = [
        alert(
            "fail",
            f"Coordinates contradict the registration: {name}",
            f"there and back misses by {max(found)[0]:.1f} mm (95 %)",
            f"{MOST_ROUND_TRIP_MM:g} mm",
            contradicts,
            found,
        )
        for name, found in trip.items()
    ]
    surer = (
        "Other frames do not know this part so well, and nothing about these says why they should; training gives it "
        "the weight that is stated."
    )
    alerts += [
        alert(
            "review",
            f"Surer than usual: {name.replace('_', ' ')}",
            f"states {max(found)[0]:.2f}, usual {usual[name]:.2f}",
            f"{MOST_ABOVE_USUAL:g} above its usual, or {LEAST_OF_USUAL_DOUBT:g} of its usual doubt",
            surer,
            found,
        )
        for name, found in sure.items()
    ]
    record = "Against the simulation's own record of where each point belongs; the whole face's median may hide it."
    alerts += [
        alert(
            "fail",
            f"The truth says that a part is wrong: {name}",
            f"{max(found)[0]:.2f} mm median at worst",
            f"{MOST_REGION_ERROR_MM:g} mm",
            record,
            found,
        )
        for name, found in error.items()
    ]
    return alerts


def _surer_than_usual(stated: float, values: Sequence[float]) -> bool:
    """Whether a mean confidence stands out of those of a region: by itself, or by how little doubt it leaves."""
    usual = _median(values)
    above = stated - usual
    scatter = max(1.4826 * _median(abs(value - usual) for value in values), LEAST_SCATTER)
    doubtless = 1 - stated < LEAST_OF_USUAL_DOUBT * (1 - usual)
    return above > MOST_ABOVE_USUAL or (doubtless and above > SCATTERS_ABOVE_USUAL * scatter)


def _far(measured: Regional, figure: str, limit: float) -> dict[str, list[tuple[float, str]]]:
    """Return by region of the face the frames whose figure is beyond a limit, the worst first."""
    far: dict[str, list[tuple[float, str]]] = {}
    for frame, regions in measured.items():
        for name in FACE_REGIONS:
            if regions.get(name, {}).get(figure, 0.0) > limit:
                far.setdefault(name.replace("_", " "), []).append((regions[name][figure], frame))
    return {name: sorted(found, reverse=True) for name, found in far.items()}


def landmark_alerts(given: Mapping[str, Sequence[int]], offsets: Mapping[str, Mapping[int, float]]) -> list[Alert]:
    """Return frames that lack landmarks which the rest of their sequence has, and landmarks that are far off.

    Parameters
    ----------
    given : mapping of frame to the landmarks given
    offsets : mapping of frame to mapping of landmark to mm
        From where the warp has it, of measured frames.
    """
    alerts = []
    sequences: dict[str, list[str]] = {}
    for frame in given:
        sequences.setdefault(frame.rpartition("/")[0], []).append(frame)
    short = []
    for frames in sequences.values():
        times = Counter(index for frame in frames for index in given[frame])
        usual = {index for index, count in times.items() if 2 * count > len(frames)}
        lacking = [(sorted(usual.difference(given[frame])), frame) for frame in frames]
        short += [(len(lacks), frame, lacks) for lacks, frame in lacking if lacks]
    if short:
        short.sort(key=lambda one: one[:2], reverse=True)
        _, frame, lacks = short[0]
        more = f" and {len(lacks) - _NAMED} more" if len(lacks) > _NAMED else ""
        alerts.append(
            Alert(
                "review",
                "Landmarks are missing",
                f"in {len(short)} of {len(given)} frames; {frame} has no landmark{'s' if len(lacks) > 1 else ''} "
                f"{', '.join(map(str, lacks[:_NAMED]))}{more}",
                "those of most frames of the sequence",
                "Nothing holds the correspondence there any more: look at that part of the face.",
                tuple(name for _, name, _ in short),
            )
        )
    usual_mm = _median(mm for marks in offsets.values() for mm in marks.values())
    far: dict[int, list[tuple[float, str]]] = {}
    for frame, marks in offsets.items():
        own = _median(marks.values())
        for index, mm in marks.items():
            if mm > max(MOST_LANDMARK_MM, LANDMARK_TIMES_USUAL * own):
                far.setdefault(index, []).append((mm, frame))
    for index, found in sorted(far.items(), key=lambda item: -max(item[1])[0]):
        alerts.append(
            Alert(
                "review",
                f"Landmark {index} is far from where the warp has it",
                f"{max(found)[0]:.0f} mm at worst, in {len(found)} of {len(offsets)} measured frames "
                f"(usual: {usual_mm:.1f} mm)",
                f"{MOST_LANDMARK_MM:g} mm, and {LANDMARK_TIMES_USUAL:g} times the frame's median",
                "Either the landmark was set wrongly, or the warp went elsewhere there.",
                tuple(frame for _, frame in sorted(found, reverse=True)),
            )
        )
    return alerts


def build_alerts(
    *,
    build: Path,
    stale: Mapping[str, str],
    sizes: Mapping[str, float],
    usual: tuple[float, float],
    dataset_problem: str,
    true_errors: Mapping[str, float],
    given_up: Mapping[str, str] | None = None,
) -> list[Alert]:
    """Return what concerns the build as a whole.

    Parameters
    ----------
    stale : mapping of frame to reason
        Results that another program or recipe made.
    sizes : mapping of subject to head size
    usual : tuple of float
        Head sizes that are not questioned.
    dataset_problem : str
        Why the dataset cannot be read; empty if it can.
    true_errors : mapping of frame to median true error, mm
    given_up : mapping of unit to reason
        What is in quarantine.
    """
    alerts = []
    if given_up:
        name, reason = next(iter(given_up.items()))
        alerts.append(
            Alert(
                "fail",
                "Units were given up, and are left out",
                f"{len(given_up)} in quarantine; {name}: {reason[:300]}",
                "none",
                "Their work failed wherever it was tried. Mend what the reason names, then have them tried again.",
                tuple(given_up),
                (
                    f"datagen explain {shlex.quote(str(build))}  # all reasons",
                    f"datagen requeue {shlex.quote(str(build))} --quarantined  # the next build tries them again",
                ),
            )
        )
    if dataset_problem:
        alerts.append(
            Alert(
                "fail",
                "The dataset cannot be read",
                dataset_problem,
                "every byte as written",
                "Build again, or verify it.",
                commands=(f"datagen verify {shlex.quote(str(build))}",),
            )
        )
    if stale:
        reasons = sorted(set(stale.values()))
        recipe = shlex.quote(str(build / "manifest.json"))
        alerts.append(
            Alert(
                "fail",
                "Made by another version of the code, or of the recipe",
                f"{len(stale)} {'frame' if len(stale) == 1 else 'frames'}: {'; '.join(reasons)}",
                "the warps this program would make",
                "They are no longer what the recipe and this program would make; with others of the same dataset they "
                "are not to be compared. The same build command makes them again.",
                tuple(stale),
                (f"datagen build {recipe} --out {shlex.quote(str(build))}",),
            )
        )
    odd = {subject: size for subject, size in sizes.items() if not usual[0] <= size <= usual[1]}
    if odd:
        subject = max(odd, key=lambda name: abs(np.log(max(odd[name], 1e-9))))
        alerts.append(
            Alert(
                "review",
                "A head of an unusual size",
                f"{subject}: {odd[subject]:.2f} times the template's; {len(odd)} of {len(sizes)} subjects",
                f"{usual[0]:g} to {usual[1]:g}",
                "Often another unit, or a scale that is not metric; small children are smaller.",
            )
        )
    bad = sorted(((mm, name) for name, mm in true_errors.items() if mm > MOST_TRUE_ERROR_MM), reverse=True)
    if bad:
        alerts.append(
            Alert(
                "fail",
                "The truth says that frames are wrong",
                f"{bad[0][0]:.2f} mm median at worst, {len(bad)} of {len(true_errors)} measured frames",
                f"{MOST_TRUE_ERROR_MM:g} mm",
                "The simulation's own record of where each point belongs: nothing is surer.",
                tuple(name for _, name in bad),
            )
        )
    return alerts


def in_order(alerts: Iterable[Alert]) -> list[Alert]:
    """Return the gravest first, and of these those of most frames."""
    return sorted(alerts, key=lambda alert: (ORDER[alert.severity], -len(alert.frames), alert.title))


def _median(values: Iterable[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.median(finite)) if finite else float("nan")
