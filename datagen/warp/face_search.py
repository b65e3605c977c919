"""A start from nothing but the scan: where in it the face is, how it is turned, and whether it is a face at all."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from datagen.common.arrays import F64, I64
from datagen.common.errors import WarpError
from datagen.geometry.mesh import Mesh, face_cross, vertex_normals
from datagen.heads.base import HeadModel, HeadTemplate
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.warp.feature_matching import (
    FEATURE_NEIGHBOURS,
    SCALE_RANGE,
    OrientedPoints,
    dense_part,
    proposals,
    sampled,
    voxels,
)
from datagen.warp.shape_model import linearise
from datagen.warp.similarity import Similarity
from datagen.warp.surface import PointSurface, Surface

ROUNDS = 14
# Points that must still find the scan for a fit to continue.
MIN_WEIGHT = 30

FEATURED_REGIONS = ("nose", "right_eye", "left_eye", "brows", "upper_lip", "lower_lip", "chin")
# A fold: a step of this length off the skin ends nearer to another piece of skin.
FOLD_STEP_M = 0.008
SEEN_M = 0.012
# What agrees: before the shape is fitted, and after.
LOOSE = (0.01, 0.8)
TIGHT = (0.005, 0.9)
SHAPE_ROUNDS = 6
SHAPE_SIGMA_M = 0.003
SHAPE_POINTS = 400
# Measured: 15 scans of simulated heads of two models and 2 real ones, whole, cropped, as clouds and with strays, agree
# to 0.87 or more, at the features to 0.67, at the nose to 0.89 where they land right; half a face can fall to 0.35 at
# the nose and is then refused. What is not a face (backs, tops and sides of heads, shoulders, balls, boxes, tori, a
# hand, random blobs) misses at least one limit: a capsule has 0.85, 0.48 and 0.08, a bumpy blob 0.45, 0.54 and 0.75,
# the back of a head with its ears and neck up to 0.77, 0.56 and 0.47.
MIN_AREA_M2 = 0.012
MIN_AGREEMENT = 0.8
MIN_FEATURES = 0.6
MIN_NOSE = 0.6
MIN_NOSE_SEEN = 0.2


@dataclass(frozen=True)
class Belief:
    """How far a start is to be believed; all shares are of template area, folds left out.

    Attributes
    ----------
    seen : float
        Share of the face with scan nearby.
    agreement : float
        Share of what is seen that is close, with a normal that agrees.
    features, nose : float
        The same for nose, eyes, brows, lips and chin together, where skin turns quickly, and for the nose alone.
    nose_seen : float
        Share of the nose with scan nearby.
    area_m2 : float
        Face area that agrees, in the scan's size.
    support_m2 : float
        The same with features counted threefold: what starts are compared by.
    """

    seen: float
    agreement: float
    features: float
    nose: float
    nose_seen: float
    area_m2: float
    support_m2: float

    def doubts(self) -> str:
        """Say what speaks against it; empty where nothing does."""
        asked = (
            ("cm² of skin like a face's", self.area_m2 * 1e4, MIN_AREA_M2 * 1e4),
            ("% of the nose in sight", self.nose_seen * 100, MIN_NOSE_SEEN * 100),
            ("% of what is seen of the nose agrees", self.nose * 100, MIN_NOSE * 100),
            ("% of what is seen of eyes, nose, lips, brows and chin agrees", self.features * 100, MIN_FEATURES * 100),
            ("% of what is seen of the face agrees", self.agreement * 100, MIN_AGREEMENT * 100),
        )
        missed = [f"{value:.0f} {what} (at least {least:.0f} needed)" for what, value, least in asked if value < least]
        return "in the likeliest place, " + "; ".join(missed) if missed else ""


@dataclass(frozen=True, eq=False)
class GlobalStart:
    """A start that was found on the scan alone.

    Attributes
    ----------
    similarity : Similarity
        Template axes to the scan's frame.
    vertices : (V, 3) float64
        The head model, its shape fitted, in the scan's frame.
    """

    similarity: Similarity
    vertices: F64
    belief: Belief


@dataclass(frozen=True, eq=False)
class _Target:
    """The template as it is sought.

    Attributes
    ----------
    points : OrientedPoints
        Of its skin without the neck.
    matched : (m,) int64
        Points whose features are matched: face and ears.
    face : (n,) int64
        Points on the face.
    judged : (j,) int64
        Template vertices on the open face.
    judged_area : (j,) float64
        m².
    surface : Surface
        The whole template.
    """

    points: OrientedPoints
    matched: I64
    face: I64
    judged: I64
    judged_area: F64
    surface: Surface


@lru_cache(maxsize=4)
def _target_of(template: HeadTemplate) -> _Target:
    ears = ("right_ear", "left_ear")
    skin = mask_of(template.regions, (*FACE_REGIONS, *ears, "scalp"))
    faces = template.faces[skin[template.faces].all(axis=1)]
    points = voxels(*sampled(template.vertices, vertex_normals(template.vertices, template.faces), faces))
    regions = template.regions[cKDTree(template.vertices).query(points.positions)[1]]

    surface = Surface(template.vertices, template.faces)
    step = template.vertices + FOLD_STEP_M * surface.normals
    opens = np.linalg.norm(surface.closest(step).position - step, axis=1) > 0.9 * FOLD_STEP_M
    judged = np.flatnonzero(mask_of(template.regions, FACE_REGIONS) & opens)
    third = np.linalg.norm(face_cross(template.vertices, template.faces), axis=1) / 6
    area = np.bincount(template.faces.ravel(), np.repeat(third, 3), len(template.vertices)).astype(np.float64)
    return _Target(
        points,
        np.flatnonzero(mask_of(regions, (*FACE_REGIONS, *ears))),
        np.flatnonzero(mask_of(regions, FACE_REGIONS)),
        judged,
        area[judged],
        surface,
    )


def find_face(head: HeadModel, scan: Mesh) -> tuple[Surface, GlobalStart, bool]:
    """Return a scan as a surface with outward faces, the start on it, and whether its faces had to be turned over.

    Raises
    ------
    WarpError
        If no position is believable, as the faces are or turned.
    """
    if not len(scan.faces):
        surface: Surface = PointSurface(scan.vertices, np.median(scan.vertices, axis=0), scan.normals)
        return surface, global_start(head, surface), False
    surface = Surface(scan.vertices, scan.faces)
    try:
        return surface, global_start(head, surface), False
    except WarpError as error:
        surface = Surface(scan.vertices, scan.faces[:, ::-1])
        try:
            return surface, global_start(head, surface), True
        except WarpError:
            raise error from None


def global_start(head: HeadModel, surface: Surface) -> GlobalStart:
    """Find the face in a scan that comes with nothing else, in any position.

    Features of scan and template are matched (fast point feature histograms); triples of matches whose sides agree
    in length propose similarities (RANSAC with a fixed seed); the proposals with the most matches behind them are
    refined by robust point-to-plane ICP. The one with the largest agreeing face area wins, and the model's shape is
    fitted there. Whether it is believed is asked apart from that, of the nose and the other features: back of a
    head, shoulder and ball have plenty of area like a cheek's and a forehead's, but no model bends to them closely.

    Parameters
    ----------
    surface : Surface
        The scan, faces outwards; of a point cloud, with normals.

    Raises
    ------
    WarpError
        If no position is believable.
    """
    target = _target_of(head.template)
    scan = dense_part(voxels(*sampled(surface.vertices, surface.normals, surface.faces)))
    start, problem = None, "it shows nothing like one"
    similarity = _likeliest(head.template, target, scan, surface) if len(scan.positions) >= FEATURE_NEIGHBOURS else None
    if similarity is not None:
        similarity, shape = _shaped(head, target, similarity, surface)
        belief = _believe(head.template, target, shape, similarity, surface, TIGHT)
        start, problem = GlobalStart(similarity, similarity.apply(shape), belief), belief.doubts()
    if start is None or problem:
        raise WarpError(
            f"no face was found in the scan: {problem}",
            "a scan that shows most of a face",
            "Check that the scan is a head; if it is, give at least three landmarks, such as eye corners and nose tip",
        )
    return start


def _likeliest(template: HeadTemplate, target: _Target, scan: OrientedPoints, surface: Surface) -> Similarity | None:
    tree = cKDTree(scan.positions)
    best, most = None, 0.0
    for proposal in proposals(target.points, target.matched, scan):
        similarity = _refined(target, scan, tree, proposal)
        if similarity is None:
            continue
        belief = _believe(template, target, template.vertices, similarity, surface, LOOSE)
        support = belief.support_m2 * _explained(target, similarity, scan)
        if support > most:
            best, most = similarity, support
    return best


def _believe(
    template: HeadTemplate,
    target: _Target,
    shape: F64,
    similarity: Similarity,
    surface: Surface,
    limits: tuple[float, float],
) -> Belief:
    """Measure how far a posed shape (V, 3) is on a face; ``limits`` are metres and cosine of what agrees."""
    regions, area = template.regions[target.judged], target.judged_area
    points = similarity.apply(shape[target.judged])
    normals = vertex_normals(shape, template.faces)[target.judged] @ similarity.rotation.T
    hit = surface.closest(points)
    distance = np.linalg.norm(hit.position - points, axis=1)
    cosine = np.einsum("nd,nd->n", hit.normal, normals)
    seen = (distance < SEEN_M) & ~hit.on_border
    agrees = seen & (distance < limits[0]) & (cosine > limits[1])
    features, nose = mask_of(regions, FEATURED_REGIONS), mask_of(regions, ("nose",))

    def share(part: npt.NDArray[np.bool_], whole: npt.NDArray[np.bool_]) -> float:
        return float(area @ (part & whole)) / max(float(area @ whole), 1e-12)

    # Where skin turns quickly an agreement says three times as much.
    telling = (area * (1 + 2 * features)) @ (agrees * np.clip(cosine, 0, 1))
    everywhere = np.ones(len(area), bool)
    return Belief(
        seen=share(seen, everywhere),
        agreement=share(agrees, seen),
        features=share(agrees, seen & features),
        nose=share(agrees, seen & nose),
        nose_seen=share(seen, nose),
        area_m2=float(area @ agrees) * similarity.scale**2,
        support_m2=float(telling) * similarity.scale**2,
    )


def _shaped(head: HeadModel, target: _Target, start: Similarity, surface: Surface) -> tuple[Similarity, F64]:
    """Fit identity, expression and pose to the face as it is seen; return the pose and the shape (V, 3) unposed."""
    model = linearise(head)
    chosen = target.judged[::2]
    basis = np.ascontiguousarray(model.basis[:, chosen])
    pose, shape = start, model.mean
    for sigma in np.geomspace(0.008, SHAPE_SIGMA_M, SHAPE_ROUNDS):
        normals = vertex_normals(shape, head.template.faces)[chosen]
        for last in (False, True):
            moved = pose.apply(shape[chosen])
            hit = surface.closest(moved)
            cosine = np.einsum("nd,nd->n", hit.normal, normals @ pose.rotation.T)
            height = np.einsum("nd,nd->n", hit.position - moved, hit.normal)
            distance = np.linalg.norm(hit.position - moved, axis=1)
            good = (distance < 4 * sigma) & (cosine > 0.5) & ~hit.on_border
            weight = np.where(good, (cosine / (1 + (height / sigma) ** 2)) ** 2, 0.0)
            if weight.sum() < MIN_WEIGHT:
                return pose, shape
            if not last:
                pose = _step(pose, moved, hit.position, hit.normal, height, weight)
        if not len(basis):
            continue
        plane = hit.normal @ pose.rotation
        goal = (hit.position - pose.translation) @ pose.rotation / pose.scale
        rows = np.einsum("pnd,nd->np", basis, plane)
        right = np.einsum("nd,nd->n", goal - model.mean[chosen], plane)
        # Neighbouring points say the same: together they count as so many.
        weight *= min(1.0, SHAPE_POINTS / len(chosen)) / SHAPE_SIGMA_M**2
        normal = rows.T @ (rows * weight[:, None]) + np.diag(model.sigma**-2.0)
        parameters = np.linalg.solve(normal, rows.T @ (weight * right))
        parameters[: model.n_identity] = np.clip(parameters[: model.n_identity], -3, 3)
        parameters[model.n_identity :] = np.clip(parameters[model.n_identity :], 0, 1)
        shape = model.mean + np.tensordot(parameters, model.basis, 1)
    return pose, shape


def _explained(target: _Target, similarity: Similarity, scan: OrientedPoints) -> float:
    """Share of the scan in the front of the head's box that agrees with the template there, in [0, 1]."""
    local = (scan.positions - similarity.translation) @ similarity.rotation / similarity.scale
    skin = target.points.positions
    inside = np.all((local > skin.min(axis=0) - SEEN_M) & (local < skin.max(axis=0) + SEEN_M), axis=1)
    # In front of the ears and above the neck: hair and collars are nobody's fault.
    middle, low = skin[:, 2].mean(), np.percentile(skin[target.face, 1], 5)
    inside &= (local[:, 2] > middle) & (local[:, 1] > low)
    if not inside.any():
        return 0.0
    hit = target.surface.closest(local[inside])
    cosine = np.einsum("nd,nd->n", hit.normal, scan.normals[inside] @ similarity.rotation)
    near = np.linalg.norm(hit.position - local[inside], axis=1) < LOOSE[0]
    return float((near & (cosine > LOOSE[1])).mean())


def _refined(target: _Target, scan: OrientedPoints, tree: cKDTree, start: Similarity) -> Similarity | None:
    """Robust point-to-plane ICP of the face over rotation, translation and scale; None if it loses the scan."""
    points, normals = (field[target.face[::2]] for field in (target.points.positions, target.points.normals))
    fit = start
    for sigma in np.geomspace(0.012, 0.003, ROUNDS):
        moved = fit.apply(points)
        distance, nearest = tree.query(moved)
        goal, plane = scan.positions[nearest], scan.normals[nearest]
        cosine = np.einsum("nd,nd->n", normals @ fit.rotation.T, plane)
        height = np.einsum("nd,nd->n", goal - moved, plane)
        weight = np.where((cosine > 0.3) & (distance < 4 * sigma), (cosine / (1 + (height / sigma) ** 2)) ** 2, 0.0)
        if weight.sum() < MIN_WEIGHT:
            return None
        fit = _step(fit, moved, goal, plane, height, weight)
    return fit


def _step(fit: Similarity, moved: F64, goal: F64, plane: F64, height: F64, weight: F64) -> Similarity:
    """One Gauss–Newton step; a twentieth of point to point keeps the tangential directions from drifting."""
    centre = moved.mean(axis=0)
    arm = moved - centre
    rows = np.concatenate([np.cross(arm, plane), plane, np.einsum("nd,nd->n", arm, plane)[:, None]], axis=1)
    free = np.zeros((len(arm), 3, 7))
    free[:, :, :3] = np.cross(np.eye(3)[None], arm[:, None]).transpose(0, 2, 1)
    free[:, :, 3:6] = np.eye(3)
    free[:, :, 6] = arm
    flat, flat_weight = free.reshape(-1, 7), 0.05 * np.repeat(weight, 3)
    normal = rows.T @ (rows * weight[:, None]) + flat.T @ (flat * flat_weight[:, None])
    right = rows.T @ (weight * height) + flat.T @ (flat_weight * (goal - moved).ravel())
    change = np.linalg.solve(normal, right)
    scale = float(np.clip(fit.scale * np.exp(np.clip(change[6], -0.05, 0.05)), *SCALE_RANGE))
    turn = Rotation.from_rotvec(change[:3]).as_matrix()
    translation = scale / fit.scale * turn @ (fit.translation - centre) + centre + change[3:6]
    return Similarity(scale, turn @ fit.rotation, translation)
