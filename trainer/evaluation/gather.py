"""Everything measured of one split, gathered view by view and pair by pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import F64
from trainer.evaluation.baselines import FlowChain
from trainer.evaluation.canonical import CanonicalMetrics, canonical_errors_mm, in_region
from trainer.evaluation.confidence import ConfidenceMetrics
from trainer.evaluation.correspondence import (
    CorrespondenceErrors,
    Matcher,
    NearestNeighbour,
    PairErrors,
    Queries,
    TrueSurface,
    draw_queries,
    end_point_errors,
)
from trainer.evaluation.depth import MM_PER_M, BoundaryMetrics, DepthMetrics
from trainer.evaluation.frames import EvaluationOptions, Space, Truth, View
from trainer.evaluation.normals import NormalMetrics
from trainer.evaluation.shape import GeometryMetrics
from trainer.evaluation.surface import Places
from trainer.evaluation.tracking import MAX_WINDOW, MotionErrors, TrackingErrors

_SURFACE = 0.5
MEAN_MAP = "mean_map_"
FLOW = "flow_"


class ViewMetrics:
    """What is measured of every view by itself, of one method that gives depth and canonical maps."""

    def __init__(self, regions: Mapping[str, npt.NDArray[np.int64]], key_points_m: F64 | None) -> None:
        self.canonical = CanonicalMetrics(regions)
        self.depth = DepthMetrics()
        self.boundary = BoundaryMetrics()
        self.normals = NormalMetrics()
        self.geometry = GeometryMetrics(key_points_m, regions)
        self.canonical_confidence = ConfidenceMetrics("canonical_confidence")
        self.depth_confidence = ConfidenceMetrics("depth_confidence")
        self._shared = True

    def add(self, view: View, rng: np.random.Generator, geometry: bool) -> None:
        """Add one view; as a surface too where ``geometry``."""
        t = view.truth
        self._shared = view.space == "shared"
        if self._shared:
            self.canonical.add(view.canonical_m, t.canonical_m, t.known, t.region)
        self.depth.add(view.depth_m, t.depth_m)
        self.boundary.add(view.depth_m, t.depth_m, None if view.surface is None else view.surface > _SURFACE)
        self.normals.add(view.depth_m, t.depth_m, t.normal, t.edge, t.intrinsics)
        if geometry:
            self.geometry.add(view, rng)
        if view.canonical_confidence is not None and self._shared:
            errors = canonical_errors_mm(view.canonical_m, t.canonical_m)[t.known]
            self.canonical_confidence.add(errors, view.canonical_confidence[t.known], rng)
        if view.depth_confidence is not None:
            errors = np.abs(view.scaled_depth_m - t.depth_m)[t.surface] * MM_PER_M
            self.depth_confidence.add(errors, view.depth_confidence[t.surface], rng)

    def metrics(self) -> dict[str, float]:
        """Return all metrics of this method's maps; none of canonical coordinates of another space."""
        metrics = (self.canonical.metrics() if self._shared else {}) | self.depth.metrics() | self.boundary.metrics()
        metrics |= self.normals.metrics() | self.geometry.metrics()
        for confidence in (self.canonical_confidence, self.depth_confidence):
            if not confidence.empty:
                metrics |= confidence.metrics()
        return metrics


class MatchMetrics:
    """What is measured of one method that finds points of one view in another."""

    def __init__(self, regions: Sequence[str], side_px: int) -> None:
        self.frames = CorrespondenceErrors("correspondence", side_px)
        self.views = CorrespondenceErrors("view_correspondence", side_px)
        self.subjects = CorrespondenceErrors("subject_correspondence", side_px)
        self.tracking = TrackingErrors(side_px)
        self.motion = MotionErrors(regions)

    def metrics(self) -> dict[str, float]:
        """Return the metrics; those of pairs between views or subjects only where such pairs were compared."""
        metrics = self.frames.metrics() | self.tracking.metrics() | self.motion.metrics()
        for errors in (self.views, self.subjects):
            if not errors.empty:
                metrics |= errors.metrics()
        return metrics


@dataclass
class Run:
    """A run of frames of one camera, in order, and what became of the points of its first frame.

    Attributes
    ----------
    indices : (T,) int
        Samples of the split.
    views, mean_views : list of View
        The model's, and the training mean's.
    tracks : dict of method to (T, N, 2)
        Places of the first frame's queries in every frame; ``true`` among them.
    visible : (T, N) bool
    score_px : float
        Median error of the model's tracks.
    """

    indices: npt.NDArray[np.int64]
    views: list[View]
    mean_views: list[View]
    tracks: dict[str, F64] = field(default_factory=dict)
    visible: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros((0, 0), bool))
    score_px: float = float("nan")


class _Tracks:
    """The points of a run's first frame on their way through it."""

    def __init__(self, run: Run, queries: Queries, methods: Sequence[str]) -> None:
        self._run = run
        self._queries = queries
        self._true = [queries.pixels]
        self._visible = [np.ones(len(queries.rows), bool)]
        self._said = [queries.of(run.views[0].canonical_m).astype(np.float64)]
        self._found = {name: [queries.pixels] for name in methods}
        self._errors_mm: dict[str, list[F64]] = {name: [] for name in methods}

    def add(
        self,
        view: View,
        true: Places,
        visible: npt.NDArray[np.bool_],
        found: Mapping[str, tuple[F64, F64]],
        errors: Mapping[str, PairErrors],
    ) -> None:
        """Add the next frame."""
        self._true.append(true.pixels)
        self._visible.append(visible)
        self._said.append(_interpolate(view.canonical_m, true))
        for name, (pixels, _) in found.items():
            self._found[name].append(pixels)
            self._errors_mm[name].append(errors[name].points_mm)

    def finish(self, matches: Mapping[str, MatchMetrics]) -> F64:
        """Hand the tracks to the metrics and to the run; return the changes of the canonical coordinate, mm (M,)."""
        run, uniform = self._run, self._queries.uniform
        true, visible = np.stack(self._true)[:, uniform], np.stack(self._visible)[:, uniform]
        true[~visible] = np.nan
        for name, steps in self._found.items():
            tracks = np.stack(steps)[:, uniform]
            matches[name].tracking.add(tracks, true, visible, np.stack(self._errors_mm[name])[:, uniform])
            run.tracks[name] = tracks
        run.tracks["true"], run.visible = true, visible
        shown = visible[1:]
        error = np.linalg.norm(run.tracks[""] - true, axis=-1)[1:][shown]
        run.score_px = float(np.median(error)) if error.size else float("nan")
        change = np.linalg.norm(np.diff(np.stack(self._said)[:, uniform], axis=0), axis=-1) * MM_PER_M
        return change[shown & visible[:-1]]


class Evaluation:
    """The metrics of a model and of the baselines, over runs, instants and pairs of people.

    Parameters
    ----------
    regions : mapping of name to labels
    key_points_m : (7, 3) or None
    with_flow : bool
        Whether optical flow is one of the baselines.
    space : Space
        Of the model's canonical maps. Without any, nothing is matched or followed by them.
    """

    def __init__(
        self,
        options: EvaluationOptions,
        regions: Mapping[str, npt.NDArray[np.int64]],
        key_points_m: F64 | None,
        side_px: int,
        with_flow: bool,
        space: Space = "shared",
    ) -> None:
        self._space = space
        self.options = options
        self.regions = dict(regions)
        self.model = ViewMetrics(regions, key_points_m)
        self.mean_map = ViewMetrics(regions, key_points_m)
        self._with_flow = with_flow
        self._rng = np.random.default_rng([options.seed, 1])
        self._nearest = {
            "": NearestNeighbour(lambda view: view.canonical_m),
            "posed_": NearestNeighbour(lambda view: view.world_points),
            "posed_head_": NearestNeighbour(lambda view: view.head_points),
            MEAN_MAP: NearestNeighbour(lambda view: view.canonical_m),
        }
        names = [*self._nearest, *([FLOW] if with_flow else [])]
        self.matches = {name: MatchMetrics(tuple(regions), side_px) for name in names}
        self.canonical_jitter: list[F64] = []

    def add_run(self, run: Run, geometry: npt.NDArray[np.bool_]) -> None:
        """Measure every view of a run, and follow points through it; ``geometry`` (T,) chooses views for surfaces."""
        for view, mean, surface in zip(run.views, run.mean_views, geometry.tolist(), strict=True):
            self.model.add(view, self._rng, surface)
            self.mean_map.add(mean, self._rng, surface)
        if len(run.views) > 1:
            self._follow(run)

    def _follow(self, run: Run) -> None:
        """Find the points of a few frames in all later ones; each later frame is prepared for searching once."""
        matchers: dict[str, Matcher] = dict(self._nearest)
        if self._with_flow:
            matchers[FLOW] = FlowChain(run.views)
        count = len(run.views)
        places = np.unique(np.linspace(0, count - 2, min(self.options.starts, count - 1)).round().astype(int))
        starts = [(start, self._draw(run.views[start].truth)) for start in places.tolist()]
        starts = [(start, queries) for start, queries in starts if len(queries.rows)]
        # The first frame is always among the starts, unless it shows nothing.
        tracks = _Tracks(run, starts[0][1], tuple(matchers)) if starts and starts[0][0] == 0 else None
        for later in range(1, count):
            surface = TrueSurface(run.views[later].truth)
            for start, queries in starts:
                if not start < later <= start + MAX_WINDOW:
                    continue
                first = run.views[start].truth
                inside = self._inside(first, queries)
                true, visible = surface.find(first, queries)
                found = {name: m.find(*self._pair(name, run, start, queries, later)) for name, m in matchers.items()}
                errors = {name: end_point_errors(answer, true, visible) for name, answer in found.items()}
                for name, e in errors.items():
                    self.matches[name].frames.add(e, queries.uniform)
                    self.matches[name].motion.add(later - start, e.pixels_px, inside)
                if tracks is not None and start == 0:
                    tracks.add(run.views[later], true, visible, found, errors)
        if tracks is not None:
            self.canonical_jitter.append(tracks.finish(self.matches))

    def _pair(self, name: str, run: Run, start: int, queries: Queries, later: int) -> tuple[View, Queries, View]:
        views = run.mean_views if name == MEAN_MAP else run.views
        return views[start], queries, views[later]

    def add_views(self, views: Sequence[View], mean_views: Sequence[View]) -> None:
        """Compare all cameras of one instant with the first; the views were predicted together."""
        for k in range(1, len(views)):
            self._compare(views[0], views[k], mean_views[0], mean_views[k], "views")

    def add_subjects(self, a: View, b: View, mean_a: View, mean_b: View) -> None:
        """Compare views of two people; each was predicted by itself."""
        self._compare(a, b, mean_a, mean_b, "subjects")

    def _compare(self, a: View, b: View, mean_a: View, mean_b: View, kind: str) -> None:
        queries = self._draw(a.truth)
        if not len(queries.rows):
            return
        places, visible = TrueSurface(b.truth).find(a.truth, queries)
        for name, matcher in self._nearest.items():
            one, other = (mean_a, mean_b) if name == MEAN_MAP else (a, b)
            errors = end_point_errors(matcher.find(one, queries, other), places, visible)
            getattr(self.matches[name], kind).add(errors, queries.uniform)

    def _draw(self, truth: Truth) -> Queries:
        return draw_queries(truth, self.regions, self.options.queries, self.options.region_queries, self._rng)

    def _inside(self, truth: Truth, queries: Queries) -> dict[str, npt.NDArray[np.bool_]]:
        labels = queries.of(truth.region)
        inside = {name: in_region(labels, of_region) for name, of_region in self.regions.items()}
        # Small regions were topped up: only the even draw speaks for the face as a whole.
        inside["face"] = inside["face"] & queries.uniform
        return inside

    def metrics(self) -> dict[str, Any]:
        """Return every metric under its flat name, baselines prefixed by theirs."""
        metrics: dict[str, Any] = self.model.metrics()
        if self._space != "none":
            metrics |= self.matches[""].metrics()
        if self._space == "shared":
            jitter = np.concatenate(self.canonical_jitter) if self.canonical_jitter else np.zeros(0)
            metrics["canonical_jitter_mm"] = float(jitter.mean()) if jitter.size else float("nan")
        for name, match in self.matches.items():
            if name:
                metrics |= {f"{name}{key}": value for key, value in match.metrics().items()}
        metrics |= {f"{MEAN_MAP}{key}": value for key, value in self.mean_map.metrics().items()}
        return metrics

    def curves(self) -> dict[str, Any]:
        """Return SSME(h) and PCK of each method, and risk–coverage and calibration of the model."""
        return {
            "ssme": {
                name.rstrip("_") or "model": {region: m.motion.curve(region).tolist() for region in self.regions}
                for name, m in self.matches.items()
            },
            "pck": {
                kind: {name.rstrip("_") or "model": getattr(m, kind).curve() for name, m in self.matches.items()}
                for kind in ("frames", "views", "subjects")
            },
            "pck_shares": CorrespondenceErrors.CURVE.tolist(),
            "canonical_confidence": self.model.canonical_confidence.curves(),
            "depth_confidence": self.model.depth_confidence.curves(),
        }


def _interpolate(canonical_m: npt.NDArray[Any], places: Places) -> F64:
    """Read a map (3, H, W) at places on the stored surface, (N, 3)."""
    flat = canonical_m.reshape(3, -1)
    corners = places.corners.clip(0, flat.shape[1] - 1)
    return np.einsum("nc,dnc->nd", places.weights, flat[:, corners])
