"""What a check finds in sequences that have only pictures: a quick fit of a few frames tells cameras that disagree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from datagen.common.errors import CanonfaceError
from datagen.fit.figures import disagreeing_cameras, disagreement_text, frame_figures, judge_fit
from datagen.fit.problem import FitFrame, FitSettings
from datagen.fit.seen import DETECTOR, seen_by, seen_sequence
from datagen.fit.solver import fit_frames
from datagen.flows.worker import prepared_head
from datagen.geometry.pixel_evidence import PixelEvidence
from datagen.manifest import CanonicalConfig, FitLimits
from datagen.sources.frame import Captures, SequenceInfo, SequenceKey
from datagen.warp.template import prepare_template

FITTED_FRAMES = 3
# Of each picture: enough to tell whether it agrees with the others.
MOST_POINTS = 150
QUICK = FitSettings(rounds=6, amplitudes=False, temporal=False)


def fit_findings(captures: Captures, key: SequenceKey, frames: Sequence[int]) -> tuple[list[str], list[str]]:
    """Return the problems, and the notes, of a sequence without a surface.

    A head is fitted to some of the points of a few frames, those of the head model that recipes have unless they name
    another: whether a build can do that, and which cameras disagree with the others.
    """
    who = tuple(name for name in seen_by("auto", captures.brings(key)) if name != DETECTOR)
    if not who:
        return [], [
            "it has no surface, and neither evidence nor landmarks: a build has the face detector look at its pictures "
            "(fit.detector_python), or `datagen evidence` does, and fits a head to that"
        ]
    notes = [f"it has no surface: a build fits a head to what was seen in its pictures ({', '.join(who)})"]
    name = CanonicalConfig().head
    head = prepared_head(name, None, None)
    info = SequenceInfo(key, tuple(frames), 0, bare=True)
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), FITTED_FRAMES)).round().astype(int))
    try:
        seen = seen_sequence(captures, info, [frames[k] for k in chosen], who, head.template, strict=False)
        if all(one.points.template != head.template.digest for frame in seen.frames for one in frame.evidence):
            return [], [*notes, f"its evidence is of another head model than {name}, and was not tried"]
        some = [_fewer(frame) for frame in seen.frames]
        fit = fit_frames(head, prepare_template(head.template), some, QUICK)
    except CanonfaceError as error:
        return [str(error)], notes
    wrong = disagreeing_cameras(fit)
    problems = [disagreement_text(camera, scale) for camera, scale in wrong.items()]
    if not wrong:
        for index, figures in frame_figures(prepare_template(head.template), fit, some).items():
            # How wide the spread is depends on all points and frames; here only whether anything explains them.
            status, reasons = judge_fit(replace(figures, spread_mm=0.0), FitLimits())
            if status != "pass":
                problems.append(f"frame {index}: {'; '.join(reasons)}; check cameras, and whether all show one person")
    notes += [f"frame {index}: {reason}" for index, reason in seen.left_out.items()]
    return problems, notes


def _fewer(frame: FitFrame) -> FitFrame:
    fewer = []
    for one in frame.evidence:
        at = np.unique(np.linspace(0, len(one.points) - 1, min(len(one.points), MOST_POINTS)).round().astype(int))
        fewer.append(PixelEvidence(one.points.take(at), one.camera))
    return replace(frame, evidence=fewer)
