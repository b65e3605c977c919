"""Where a detector's points lie on a template and how they err, learnt from people whose shape is known."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np

from datagen.common.arrays import F64, I64
from datagen.common.face_mesh import FIRST_OF_IRISES
from datagen.evidence.detector import view_of
from datagen.evidence.detector_model import (
    DetectorModel,
    on_smooth_surface,
    places,
    smooth_template,
    surrounding_normals,
    view_terms,
)
from datagen.evidence.several_views import DetectedView, face_in_space
from datagen.geometry.camera import Camera
from datagen.geometry.mesh import face_cross, normalised
from datagen.heads.base import HeadTemplate
from datagen.heads.regions import INTERIOR_REGIONS, mask_of
from datagen.warp.surface import Surface

MODES = 24
LEANS = 20
RIDGE = 0.1
FOLDS = 8
# A point farther from where the others say, metres, counts less; half the weight at this distance.
ROBUST_M = 3e-3
# What is told of a point by views that see it more from the side than this is left out when it is triangulated.
STEEPEST = 0.35
FEWEST_VIEWS = 3
PLACING_ROUNDS = 6
# Cosine between a triangle's normal and that of the surface around it.
LEAST_OUTWARD = 0.3
# Points that scatter more than this are of no use.
MOST_SCATTER_M = 6e-3
# A point missed altogether would be a mode of its own.
CLIP_M = 12e-3
TURNS_DEG = np.array([10.0, 25.0, 40.0, 55.0, 68.0])
# How far a person's own idea of a point may lie off, at most: where few views tell, it is taken to be small.
PERSON_M = 4e-3
COSINES = np.array([0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95])


@dataclass(frozen=True, eq=False)
class Detected:
    """One instant as detected, with its truth.

    Attributes
    ----------
    cameras : sequence of Camera
        Those in which one face was found.
    pixels : (C, 478, 3) float64
        As the detector gives them.
    vertices : (V, 3) float64
        The true template, world metres.
    rotation : (3, 3) float64
        Template axes to world.
    person : int
    """

    cameras: Sequence[Camera]
    pixels: F64
    vertices: F64
    rotation: F64
    person: int


def learn(template: HeadTemplate, detected: Sequence[Detected], detector: str, modes: int = MODES) -> DetectorModel:
    """Learn from some instants; every point has its mirror partner, so that each instant counts twice."""
    points = np.arange(FIRST_OF_IRISES)
    faces, barycentric = _first_places(template, detected, points)
    partner = _mirror(template, faces, barycentric)
    for _ in range(PLACING_ROUNDS):
        moved = _discrepancies(template, detected, points, faces, barycentric)
        mean = _robust_mean(_both_sides(moved, partner))
        at, normal = places(template, faces, barycentric)
        along = mean - np.einsum("pd,pd->p", mean, normal)[:, None] * normal
        faces, barycentric = _placed(template, at + along)
    moved = _both_sides(_discrepancies(template, detected, points, faces, barycentric), partner)
    scatter = np.sqrt(_median(((moved - _robust_mean(moved)) ** 2).mean(axis=2), axis=0))
    usable = (scatter < MOST_SCATTER_M) & (np.isfinite(moved).all(axis=2).mean(axis=0) > 0.3)
    kept = np.flatnonzero(usable & (partner >= 0) & usable[partner])
    model = DetectorModel(
        template=template.digest,
        detector=detector,
        points=points[kept],
        faces=faces[kept],
        barycentric=barycentric[kept],
        shift_m=np.zeros((len(kept), 6, 2)),
        lean_from=np.zeros((0, len(kept), 3)),
        lean_to_m=np.zeros((0, len(kept), 3)),
        modes_m=np.zeros((0, len(kept), 3)),
        common_m=np.zeros(len(kept)),
        alone_m=np.zeros(len(kept)),
        cosines=COSINES,
        growth=np.ones(len(COSINES)),
        turns_deg=TURNS_DEG,
        turn_growth=np.ones(len(TURNS_DEG)),
        together=np.ones(2),
    )
    return _with_errors(template, model, detected, np.searchsorted(kept, partner[kept]), modes)


def triangulated(detected: Detected, points: I64, normal: F64 | None) -> tuple[F64, F64]:
    """Return where rays of several views come nearest to each other, (P, 3) world metres, and how many views count.

    Parameters
    ----------
    normal : (P, 3) float64, optional
        Of the points, template axes: views that see them from the side do not count.
    """
    centres = np.array([camera.centre for camera in detected.cameras])
    rays = np.array([_rays(c, p[points, :2]) for c, p in zip(detected.cameras, detected.pixels, strict=True)])
    across = np.eye(3) - rays[..., :, None] * rays[..., None, :]
    pulled = np.einsum("cpij,cj->cpi", across, centres)
    base = np.ones(rays.shape[:2])
    if normal is not None:
        facing = -np.einsum("cpi,pi->cp", rays, normal @ detected.rotation.T)
        base = np.where(facing > STEEPEST, np.maximum(facing, 0) ** 2, 0.0)
    weight = base
    for _ in range(10):
        system = np.einsum("cp,cpij->pij", weight, across) + 1e-9 * np.eye(3)
        at = np.linalg.solve(system, np.einsum("cp,cpi->pi", weight, pulled)[..., None])[..., 0]
        away = np.linalg.norm(np.einsum("cpij,cpj->cpi", across, at[None] - centres[:, None]), axis=2)
        weight = base / (1 + (away / ROBUST_M) ** 2)
    return at, (base > 0).sum(axis=0).astype(np.float64)


def _rays(camera: Camera, pixels: F64) -> F64:
    inside = np.column_stack([pixels, np.ones(len(pixels))]) @ np.linalg.inv(camera.K).T
    world = inside @ camera.world_to_camera[:3, :3]
    return np.asarray(world / np.linalg.norm(world, axis=1, keepdims=True))


def _first_places(template: HeadTemplate, detected: Sequence[Detected], points: I64) -> tuple[I64, F64]:
    """Return the mean over instants of the nearest point of the true skin, brought back to the neutral template."""
    skin = _skin(template)
    smooth = smooth_template(template)
    found = []
    for one in detected:
        at, _ = triangulated(one, points, None)
        hit = Surface(on_smooth_surface(template, one.vertices), template.faces[skin]).closest(at)
        found.append(np.einsum("pc,pcd->pd", hit.barycentric, smooth[template.faces[skin[hit.face]]]))
    return _placed(template, _robust_mean(np.array(found)))


@lru_cache(maxsize=4)
def _skin(template: HeadTemplate) -> I64:
    """Return the triangles on which a point can be seen: skin, but not the inner sides of its folds."""
    inside = mask_of(template.regions, INTERIOR_REGIONS)
    skin = np.flatnonzero(~inside[template.faces].any(axis=1))
    smooth = smooth_template(template)
    own = normalised(face_cross(smooth, template.faces[skin]))
    around = surrounding_normals(template, smooth[template.faces[skin]].mean(axis=1))
    return skin[np.einsum("fd,fd->f", own, around) > LEAST_OUTWARD]


def _placed(template: HeadTemplate, at: F64) -> tuple[I64, F64]:
    skin = _skin(template)
    hit = Surface(smooth_template(template), template.faces[skin]).closest(at)
    return skin[hit.face], hit.barycentric


def _mirror(template: HeadTemplate, faces: I64, barycentric: F64) -> I64:
    """Return each point's partner on the other side (P,); -1 where two points do not name each other."""
    at, _ = places(template, faces, barycentric)
    apart = np.linalg.norm(at[:, None] * np.array([-1.0, 1.0, 1.0]) - at[None], axis=2)
    partner = apart.argmin(axis=1)
    return np.where(partner[partner] == np.arange(len(at)), partner, -1)


def _both_sides(moved: F64, partner: I64) -> F64:
    mirrored = np.where((partner >= 0)[None, :, None], moved[:, partner] * np.array([-1.0, 1.0, 1.0]), np.nan)
    return np.concatenate([moved, mirrored])


def _discrepancies(
    template: HeadTemplate, detected: Sequence[Detected], points: I64, faces: I64, barycentric: F64
) -> F64:
    """Return how far the detector's points lie from the true ones, (N, P, 3) template axes; NaN: too few views."""
    _, normal = places(template, faces, barycentric)
    rows = []
    for one in detected:
        at, views = triangulated(one, points, normal)
        true = _true_points(template, one, faces, barycentric)
        rows.append(np.where((views >= FEWEST_VIEWS)[:, None], (at - true) @ one.rotation, np.nan))
    return np.array(rows)


def _true_points(template: HeadTemplate, one: Detected, faces: I64, barycentric: F64) -> F64:
    surface = on_smooth_surface(template, one.vertices)
    return np.asarray(np.einsum("pc,pcd->pd", barycentric, surface[template.faces[faces]]))


def _median(values: F64, axis: int | tuple[int, ...] | None = None) -> F64:
    """Return the median of what is not NaN; NaN where nothing is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmedian(values, axis=axis))


def _robust_mean(values: F64) -> F64:
    """Return the mean (P, 3) of values (N, P, 3) with NaN, those far from it weighing less."""
    mean = _median(values, axis=0)
    for _ in range(10):
        away = np.linalg.norm(values - mean, axis=2)
        scale = 1.4826 * _median(away, axis=0) + 1e-6
        weight = np.where(np.isfinite(away), 1 / (1 + (away / (2 * scale)) ** 2), 0.0)
        mean = (weight[..., None] * np.nan_to_num(values)).sum(axis=0) / np.maximum(weight.sum(axis=0), 1e-9)[:, None]
    return np.asarray(mean)


def _principal(moved: F64, modes: int) -> tuple[F64, F64]:
    """Return modes (K, P, 3) of one standard deviation each, and scores (N, K)."""
    n = len(moved)
    U, singular, Vt = np.linalg.svd(moved.reshape(n, -1), full_matrices=False)
    k = min(modes, n)
    deviation = singular[:k] / np.sqrt(n)
    return (deviation[:, None] * Vt[:k]).reshape(k, *moved.shape[1:]), U[:, :k] * np.sqrt(n)


@dataclass(frozen=True, eq=False)
class Errors:
    """Of all pictures of all instants, V in number.

    Attributes
    ----------
    instant : (V,) int64
    off_m : (V, P, 2) float64
        From the true points to where they were detected, metres at the face, in an upright picture: right and down.
    towards : (V, 3) float64
        Direction to the viewer, template axes, as the detector's points tell it.
    facing : (V, P) float64
        Cosine between that and a point's normal.
    axes : (V, 2, 3) float64
        Template axes to the upright picture.
    """

    instant: I64
    off_m: F64
    towards: F64
    facing: F64
    axes: F64

    @property
    def turned_deg(self) -> F64:
        """Angle between the way each face looks and the viewer, (V,)."""
        return np.asarray(np.degrees(np.arccos(np.clip(self.towards[:, 2], -1, 1))))

    def mirrored(self, partner: I64) -> Errors:
        """Return the same of mirror images of the people."""
        flip = np.array([-1.0, 1.0, 1.0])
        return Errors(
            self.instant + self.instant.max() + 1,
            self.off_m[:, partner] * flip[:2],
            self.towards * flip,
            self.facing[:, partner],
            self.axes * flip[:2, None] * flip,
        )

    def joined(self, other: Errors) -> Errors:
        """Return both."""
        pairs = [(getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__]
        return Errors(*(np.concatenate(pair) for pair in pairs))


def errors_of(template: HeadTemplate, model: DetectorModel, detected: Sequence[Detected]) -> Errors:
    """Return how far the detector's points lie from the true ones in every picture."""
    places_m, normal = model.places(template)
    rows = []
    for k, one in enumerate(detected):
        true = _true_points(template, one, model.faces, model.barycentric)
        for camera, pixels in zip(one.cameras, one.pixels, strict=True):
            view, _ = view_of(pixels, model, places_m)
            off = (pixels[model.points, :2] - camera.project(true)[0]) @ view.roll / view.px_per_m
            # The true axes: what the detector tells of them is off by a few degrees.
            axes = (camera.world_to_camera[:3, :3] @ one.rotation)[:2]
            rows.append((k, off, view.towards, normal @ view.towards, view.roll.T @ axes))
    return Errors(*(np.array(column) for column in zip(*rows, strict=True)))


def _with_errors(
    template: HeadTemplate, model: DetectorModel, detected: Sequence[Detected], partner: I64, modes: int
) -> DetectorModel:
    """Return the model with how its points err: by view, by person, in common, and from picture to picture."""
    own = errors_of(template, model, detected)
    errors = own.joined(own.mirrored(partner))
    shown = errors.facing > COSINES[0]
    terms = view_terms(errors.towards)
    shift = _robust_regression(terms, errors.off_m, shown)
    left = errors.off_m - np.einsum("vt,ptd->vpd", terms, shift)
    alone_m, growth, turn_growth = np.full(left.shape[1], 1.5e-3), np.ones(len(COSINES)), np.ones(len(TURNS_DEG))
    for _ in range(3):
        sigma = _sigma(errors, alone_m, growth, turn_growth)
        person = _persons(errors, left, np.where(shown, sigma, np.inf))
        rest = left - np.einsum("vad,vpd->vpa", errors.axes, person[errors.instant])
        alone_m, growth, turn_growth = _noise(errors, rest, shown)
    model = replace(model, shift_m=shift, alone_m=alone_m, growth=growth, turn_growth=turn_growth)
    model, person = _with_lean(template, model, detected, np.clip(person[: len(detected)], -CLIP_M, CLIP_M), partner)
    basis, scores = _principal(person, modes)
    common = person - np.tensordot(scores, basis, 1)
    common_m = 1.4826 * np.median(np.abs(common), axis=(0, 2))
    scaled = np.where(
        shown[..., None], np.clip(rest / _sigma(errors, alone_m, growth, turn_growth)[..., None], -3, 3), np.nan
    )
    together = np.array([_together(np.clip(common / common_m[:, None], -3, 3)), _together(scaled)])
    return replace(model, modes_m=basis, common_m=common_m, together=together)


def _with_lean(
    template: HeadTemplate, model: DetectorModel, detected: Sequence[Detected], person: F64, partner: I64
) -> tuple[DetectorModel, F64]:
    """Return the model with what the shape of a detected face tells of the detector's error there, and what it leaves.

    Ridge regression of the errors ``person`` (N, P, 3) on shapes, cut to a few directions. What is left (2 N, P, 3), of
    the people and their mirror images, is of people whom the regression did not see.
    """
    places_m, normal = model.places(template)
    flip = np.array([-1.0, 1.0, 1.0])
    shapes, errors = [], []
    for one, off in zip(detected, person, strict=True):
        views = [
            DetectedView(camera, pixels, view_of(pixels, model, places_m)[0])
            for camera, pixels in zip(one.cameras, one.pixels, strict=True)
        ]
        face = face_in_space(model, places_m, normal, views)
        assert face is not None
        shapes.append(face.deviation_m)
        errors.append(off @ one.rotation.T @ face.pose.rotation)
    x, y = np.array(shapes), np.array(errors)
    people = np.array([one.person for one in detected])
    left = np.empty((2, *y.shape))
    for fold in range(FOLDS):
        own = people % FOLDS == fold
        if not own.any() or own.all():
            continue
        part = _leaning(model, x[~own], y[~own], partner, flip)
        left[:, own] = [
            [off - part.lean_m(shape) for shape, off in zip(a, b, strict=True)]
            for a, b in ((x[own], y[own]), (x[own][:, partner] * flip, y[own][:, partner] * flip))
        ]
    return _leaning(model, x, y, partner, flip), left.reshape(-1, *y.shape[1:])


def _leaning(model: DetectorModel, x: F64, y: F64, partner: I64, flip: F64) -> DetectorModel:
    shape = y.shape[1:]
    x = np.concatenate([x, x[:, partner] * flip]).reshape(2 * len(x), -1)
    y = np.concatenate([y, y[:, partner] * flip]).reshape(2 * len(y), -1)
    # Without a constant: of a mean shape the detector's usual shift is known already.
    inner = x @ x.T
    told = inner @ np.linalg.solve(inner + RIDGE * np.trace(inner) / len(x) * np.eye(len(x)), y)
    _, _, directions = np.linalg.svd(told, full_matrices=False)
    to = directions[:LEANS]
    by = x.T @ np.linalg.solve(inner + RIDGE * np.trace(inner) / len(x) * np.eye(len(x)), y @ to.T)
    size = (x @ by).std(axis=0) + 1e-12
    return replace(
        model,
        lean_from=(by / size).T.reshape(-1, *shape),
        lean_to_m=(to * size[:, None]).reshape(-1, *shape),
    )


def _sigma(errors: Errors, alone_m: F64, growth: F64, turn_growth: F64) -> F64:
    of_point = np.interp(errors.facing, COSINES, growth)
    return np.asarray(alone_m * of_point * np.interp(errors.turned_deg, TURNS_DEG, turn_growth)[:, None])


def _robust_regression(terms: F64, off_m: F64, shown: F64) -> F64:
    """Return coefficients (P, T, 2) of a point's shift, views that are far off weighing less."""
    weight = shown.astype(np.float64)
    for _ in range(8):
        system = np.einsum("vp,vt,vs->pts", weight, terms, terms) + 0.5 * np.eye(terms.shape[1])
        right = np.einsum("vp,vt,vpd->ptd", weight, terms, off_m)
        shift = np.linalg.solve(system, right)
        away = np.linalg.norm(off_m - np.einsum("vt,ptd->vpd", terms, shift), axis=2)
        weight = np.where(shown, 1 / (1 + (away / ROBUST_M) ** 2) ** 2, 0.0)
    return np.asarray(shift)


def _persons(errors: Errors, left: F64, sigma: F64) -> F64:
    """Return what the pictures of each instant say in common, (N, P, 3) template axes: robust, shrunk towards none."""
    count, points = int(errors.instant.max()) + 1, left.shape[1]
    found = np.zeros((count, points, 3))
    for _ in range(5):
        away = left - np.einsum("vad,vpd->vpa", errors.axes, found[errors.instant])
        weight = 1 / sigma**2 / (1 + (away**2).sum(axis=2) / (2 * sigma) ** 2)
        system, right = np.zeros((count, points, 3, 3)), np.zeros((count, points, 3))
        np.add.at(system, errors.instant, np.einsum("vp,vad,vae->vpde", weight, errors.axes, errors.axes))
        np.add.at(right, errors.instant, np.einsum("vp,vad,vpa->vpd", weight, errors.axes, left))
        solved = np.linalg.solve(system + np.eye(3) / PERSON_M**2, right[..., None])
        found = np.asarray(solved[..., 0], np.float64)
    return found


def _noise(errors: Errors, rest: F64, shown: F64) -> tuple[F64, F64, F64]:
    """Return what differs from picture to picture: (P,) metres, and its growth (B,) and (T,) as things turn away."""
    size = np.where(shown[..., None], np.abs(rest), np.nan)
    frontal = np.where((errors.facing > 0.65)[..., None], size, np.nan)
    alone_m = 1.4826 * _median(frontal, axis=(0, 2))
    alone_m = np.where(np.isfinite(alone_m), alone_m, _median(alone_m))
    turn_growth, growth = np.ones(len(TURNS_DEG)), np.ones(len(COSINES))
    for _ in range(3):
        scaled = size / alone_m[:, None] / np.interp(errors.turned_deg, TURNS_DEG, turn_growth)[:, None, None]
        growth = _by_bin(errors.facing, scaled, COSINES)
        growth = _rising((growth / growth[-1])[::-1])[::-1]
        scaled = size / alone_m[:, None] / np.interp(errors.facing, COSINES, growth)[..., None]
        turn_growth = _by_bin(np.repeat(errors.turned_deg[:, None], size.shape[1], 1), scaled, TURNS_DEG)
        turn_growth = _rising(turn_growth / turn_growth[0])
    # Of face and view as they are: all over, the errors are as large as they are.
    fitting = np.abs(rest)[shown] / _sigma(errors, alone_m, growth, turn_growth)[shown][:, None]
    return alone_m * 1.4826 * float(np.median(fitting)), growth, turn_growth


def _rising(growth: F64) -> F64:
    """Return growth that never falls; where nothing was seen it is as before."""
    return np.asarray(np.maximum.accumulate(np.where(np.isfinite(growth), growth, 1.0)))


def _by_bin(value: F64, scaled: F64, knots: F64) -> F64:
    edges = np.concatenate([[knots[0] - 1e-9], (knots[1:] + knots[:-1]) / 2, [np.inf]])
    return np.array([1.4826 * _median(scaled[(value >= low) & (value < high)]) for low, high in pairwise(edges)])


def _together(scaled: F64) -> float:
    """Return how many points of (N, P, D) normalised errors with NaN err as one: Σ of squared correlations, a point."""
    _, points, _ = scaled.shape
    flat = np.moveaxis(np.nan_to_num(scaled), 1, 0).reshape(points, -1)
    flat = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
    correlation = flat @ flat.T
    noise = 1 / max(flat.shape[1], 1)
    return float(np.maximum((correlation**2).sum() / points - points * noise, 1.0))
