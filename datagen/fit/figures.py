"""What a fit says of itself, frame by frame and camera by camera, and whether it can be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from datagen.common.arrays import F64
from datagen.fit.pixels import with_focal
from datagen.fit.problem import Fit, FitFrame
from datagen.geometry.space import MM_PER_M
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.manifest import FitLimits
from datagen.warp.result import Status
from datagen.warp.template import WarpTemplate

# A camera whose points lie this many times as far off as stated, and as those of the others, is told.
WRONG = 3.0
_ORDER: tuple[Status, ...] = ("pass", "review", "fail")


@dataclass(frozen=True)
class FrameFigures:
    """What is known of one fitted frame.

    Attributes
    ----------
    spread_mm : float
        Standard deviation of the face's vertices, median.
    reprojection_px : float
        Distance between where points were seen and where the fitted head has them, median.
    disagreement : float
        How many times as far off as stated the points of its pictures are, median of the pictures; at least 1.
    pictures, points : int
        In how many pictures how many points were seen.
    skin_points : int
        At how many points pictures agree where the skin is.
    """

    spread_mm: float
    reprojection_px: float
    disagreement: float
    pictures: int
    points: int
    skin_points: int = 0

    @property
    def metrics(self) -> dict[str, float]:
        """As a verdict has them."""
        return {f"fit_{name}": float(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> FrameFigures:
        """Read what ``asdict`` gave."""
        return cls(**{name: content[name] for name in cls.__dataclass_fields__})


def frame_figures(template: WarpTemplate, fit: Fit, frames: Sequence[FitFrame]) -> dict[int, FrameFigures]:
    """Return the figures of every frame that was fitted."""
    face = mask_of(template.head.regions, FACE_REGIONS)
    on_surface = template.subdivide[: len(template.head.vertices)]
    found = {}
    for fitted, frame in zip(fit.frames, frames, strict=True):
        surface = on_surface @ fitted.vertices
        found[frame.index] = FrameFigures(
            spread_mm=round(MM_PER_M * float(np.median(fitted.spread_m[face])), 4),
            reprojection_px=round(_reprojection_px(template, surface, frame, fit.focal_px), 4),
            disagreement=round(float(np.median(list(fitted.view_scale.values()))), 4),
            pictures=len({one.camera.name for one in frame.evidence if len(one.points)}),
            points=sum(len(one.points) for one in frame.evidence),
            skin_points=0 if frame.skin is None else len(frame.skin.faces),
        )
    return found


def _reprojection_px(template: WarpTemplate, surface: F64, frame: FitFrame, focal_px: Mapping[str, float]) -> float:
    off = []
    for one in frame.evidence:
        camera = with_focal(one.camera, focal_px) if focal_px else one.camera
        corners = surface[template.head.faces[one.points.faces]]
        shown, _ = camera.project(np.einsum("nc,ncd->nd", one.points.barycentric, corners))
        off.append(np.linalg.norm(shown - one.points.pixels, axis=1))
    return float(np.median(np.concatenate(off)))


def disagreeing_cameras(fit: Fit) -> dict[str, float]:
    """Return how many times as far off as stated the points of those cameras are that disagree with the others."""
    scales: dict[str, list[float]] = {}
    for frame in fit.frames:
        for (_, camera), scale in frame.view_scale.items():
            scales.setdefault(camera, []).append(scale)
    medians = {camera: float(np.median(found)) for camera, found in scales.items()}
    usual = float(np.median(list(medians.values())))
    return {camera: scale for camera, scale in medians.items() if scale > WRONG * max(usual, 1.0)}


def disagreement_text(camera: str, scale: float) -> str:
    """Say that a camera disagrees with the others."""
    return (
        f"camera {camera} disagrees with the others and hardly counts: its points lie {scale:.1f} times as far off "
        "as they say; check its pose, and whether its pictures are of the same instants"
    )


def judge_fit(figures: FrameFigures, limits: FitLimits) -> tuple[Status, tuple[str, ...]]:
    """Return whether a fitted frame can be believed, with a sentence for each figure that is not a pass."""
    worst, reasons = 0, []
    for name, label, unit in (
        ("spread_mm", "standard deviation of the fitted face (median)", "mm"),
        ("disagreement", "distance of the points that were seen from the fitted head, beside what they state", "times"),
    ):
        value = getattr(figures, name)
        passing, failing = getattr(limits, f"pass_{name}"), getattr(limits, f"fail_{name}")
        level = 2 if value > failing else 1 if value > passing else 0
        if level:
            limit = failing if level == 2 else passing
            reasons.append(f"{label} is {value:.3g} {unit}, above the {_ORDER[level]} limit of {limit:g}")
        worst = max(worst, level)
    return _ORDER[worst], tuple(reasons)


def few_views(frames: Sequence[FitFrame], known: bool) -> list[str]:
    """Say in how many frames a single camera sees the head, unless the face at rest is known."""
    alone = sum(len({one.camera.name for one in frame.evidence}) == 1 for frame in frames)
    if not alone or known:
        return []
    return [
        f"only one camera sees the head in {alone} of {len(frames)} frames: its distance and size are those of a "
        "usual head, to 8 %; a face at rest (neutral) tells them"
    ]
