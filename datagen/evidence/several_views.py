"""A detected face in space, from all pictures of an instant: what its shape tells of how the detector errs on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from datagen.common.arrays import F64, Bools
from datagen.evidence.detector_model import DetectorModel, ViewOfFace
from datagen.geometry.camera import Camera
from datagen.warp.similarity import Similarity, fit_similarity_robust

FEWEST_VIEWS = 2
# How much of what simulated people taught is believed: on them all of it is right, on a real face none of it was.
BELIEVED = 0.5
# How far faces differ from the mean face: what few pictures tell of a point is held to it.
USUAL_M = 5e-3
# Of how far a ray passes a point, metres: beyond it counts less.
ROBUST_M = 4e-3
ROUNDS = 6
NEIGHBOURS = 12
# Of a contradiction: on simulated people it was 3.3 at most, under a mask 7 to 10.
MOST_CONTRADICTION = 3.5
# What hides a face misleads the detector beyond its border.
MARGIN_M = 25e-3
# Rays that are this parallel tell no depth: all of them within about six degrees.
LEAST_SPREAD = 2.5e-3


@dataclass(frozen=True, eq=False)
class DetectedView:
    """A face in a picture.

    Attributes
    ----------
    points : (478, 3) float64
        As the detector gives them.
    """

    camera: Camera
    points: F64
    view: ViewOfFace


@dataclass(frozen=True, eq=False)
class FaceInSpace:
    """Where the detector sees a face.

    Attributes
    ----------
    pose : Similarity
        Template axes to world, without scale.
    deviation_m : (P, 3) float64
        From the points' places on the neutral template, in its axes.
    contradiction : (P,) float64
        How many times as far as they should the rays of the pictures pass where most of a point's neighbours lie: about
        1 on a face that is seen, several times that where something hides it.
    """

    pose: Similarity
    deviation_m: F64
    contradiction: F64


def hidden(places: F64, contradiction: F64) -> Bools:
    """Return which points (P,) something hides: pictures contradict each other there, or close by.

    More than in the quarter of the face where they agree best: cameras that are off contradict each other everywhere.
    """
    usual = max(1.0, float(np.percentile(contradiction, 25)))
    found = contradiction > MOST_CONTRADICTION * usual
    if not found.any():
        return found
    return np.asarray(cKDTree(places[found]).query(places)[0] < MARGIN_M)


def rays_of(camera: Camera, pixels: F64) -> F64:
    """Return unit directions (N, 3) in the world of pixels (N, 2)."""
    inside = np.column_stack([pixels, np.ones(len(pixels))]) @ np.linalg.inv(camera.K).T
    world = inside @ camera.world_to_camera[:3, :3]
    return np.asarray(world / np.linalg.norm(world, axis=1, keepdims=True))


def face_in_space(model: DetectorModel, places: F64, normal: F64, views: Sequence[DetectedView]) -> FaceInSpace | None:
    """Return the face that several pictures show, held to the mean face; None if they are too few or too alike.

    Parameters
    ----------
    places, normal : (P, 3) float64
        Of the model's points on the neutral template.
    """
    if len(views) < FEWEST_VIEWS:
        return None
    centres = np.array([one.camera.centre for one in views])
    rays = np.array([rays_of(one.camera, unshifted(model, one)) for one in views])
    across = np.eye(3) - rays[..., :, None] * rays[..., None, :]
    pulled = np.einsum("cpij,cj->cpi", across, centres)
    certain = np.array(
        [
            np.where(normal @ one.view.towards > model.cosines[0], 1, 0)
            / (model.alone_m * model.alone_growth(one.view, normal)) ** 2
            for one in views
        ]
    )
    middle = np.einsum("cp,cpij->ij", certain, across) / certain.sum()
    if np.linalg.eigvalsh(middle)[0] < LEAST_SPREAD:
        return None
    system = np.einsum("cp,cpij->pij", certain, across)
    several = (certain > 0).sum(axis=0) >= FEWEST_VIEWS
    at = np.linalg.solve(system[several], np.einsum("cp,cpi->pi", certain, pulled)[several][..., None])[..., 0]
    pose = fit_similarity_robust(places[several], at, with_scale=False)
    at = pose.apply(places)
    for _ in range(ROUNDS):
        away = np.linalg.norm(np.einsum("cpij,cpj->cpi", across, at[None] - centres[:, None]), axis=2)
        weight = certain / (1 + (away / ROBUST_M) ** 2)
        usual = pose.apply(places)
        system = np.einsum("cp,cpij->pij", weight, across) + np.eye(3) / USUAL_M**2
        right = np.einsum("cp,cpi->pi", weight, pulled) + usual / USUAL_M**2
        at = np.linalg.solve(system, right[..., None])[..., 0]
        pose = fit_similarity_robust(places, at, with_scale=False)
    # The weighted distance of a normal draw in two dimensions has this median.
    off = np.where(certain > 0, away * np.sqrt(certain) / np.sqrt(2 * np.log(2)), np.nan)
    return FaceInSpace(pose, (at - pose.translation) @ pose.rotation - places, _around(places, off))


def _around(places: F64, off: F64) -> F64:
    """Return the median (P,) of what pictures (C, P) say of each point and its neighbours; 1 where none does."""
    _, near = cKDTree(places).query(places, NEIGHBOURS)
    values = off[:, near].transpose(1, 0, 2).reshape(len(places), -1)
    known = np.isfinite(values)
    return np.array([np.median(row[good]) if good.any() else 1.0 for row, good in zip(values, known, strict=True)])


def unshifted(model: DetectorModel, one: DetectedView) -> F64:
    """Return pixels (P, 2) of the model's points, less how far the detector usually shifts them in such a view."""
    return np.asarray(one.points[model.points, :2] - model.seen_shift_m(one.view) * one.view.px_per_m)


def unleaned(model: DetectorModel, one: DetectedView, face: FaceInSpace) -> F64:
    """Return the same, less how far it leans on a face of this shape."""
    camera = one.camera
    lean = BELIEVED * model.lean_m(face.deviation_m) @ face.pose.rotation.T @ camera.world_to_camera[:3, :3].T
    depth = camera.to_camera(face.pose.apply(np.zeros((1, 3))))[0, 2]
    return np.asarray(unshifted(model, one) - lean[:, :2] * (camera.K[[0, 1], [0, 1]] / max(depth, 1e-3)))
