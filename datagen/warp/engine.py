"""The warp of one frame, from start to verdict."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from datagen.errors import WarpError
from datagen.geometry.landmarks import Landmarks, validate_landmarks
from datagen.geometry.mesh import Mesh, check_metric_scale, validate_mesh, vertex_normals, weld
from datagen.geometry.space import MM_PER_M
from datagen.heads.base import HeadModel, HeadTemplate
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.manifest import WarpConfig
from datagen.sources.frame import Registration
from datagen.warp.confidence import point_confidence
from datagen.warp.deform import FROM_LANDMARKS, FROM_REGISTRATION, Start, deform
from datagen.warp.initial import find_face
from datagen.warp.injectivity import repair
from datagen.warp.parametric import fit_parametric
from datagen.warp.quality import judge, measure
from datagen.warp.result import Warp
from datagen.warp.similarity import fit_similarity, fit_similarity_robust
from datagen.warp.surface import PointSurface, Surface
from datagen.warp.template import WarpTemplate, prepare_template
from datagen.warp.transport import transport

FloatArray = npt.NDArray[np.float64]

# Part of every content key: a change here makes every stored warp stale.
ALGORITHM_VERSION = 3

# A person's head differs from the mean template's size by less than this; more is a unit or landmark mistake.
SCALE_RANGE = (0.7, 1.45)
MAX_START_RMS_MM = 25.0
# Skin that expression hardly moves carries the head's rigid pose.
RIGID_REGIONS = ("forehead", "scalp", "nose", "right_ear", "left_ear")


def warp_frame(
    scan: Mesh,
    head: HeadModel,
    config: WarpConfig,
    *,
    registration: Registration | None = None,
    landmarks: Landmarks | None = None,
) -> Warp:
    """Warp one scan into the canonical space of a head model.

    Start (registration, or a parametric fit to landmarks, or the face found on the scan alone) → coarse-to-fine
    thin-plate refinement with robust, normal- and region-compatible correspondences → repair of folds → transport of
    the scan's own points → confidence → verdict. Nothing here ever sees a true correspondence. A scan whose faces
    point inwards is turned over, which the verdict says.

    Parameters
    ----------
    scan : Mesh
        World metres; without faces it is taken as a point cloud.
    head : HeadModel
    config : WarpConfig
    registration : Registration, optional
        In the head's topology, world metres.
    landmarks : Landmarks, optional
        World metres.

    Raises
    ------
    MeshError
        If the scan is empty, non-finite or in the wrong unit.
    LandmarkError
        If the landmarks cannot serve.
    WarpError
        If no face is found, or the start cannot be believed.
    """
    validate_mesh(scan, "the scan", need_faces=False)
    check_metric_scale(scan.vertices, "the scan")
    if landmarks is not None:
        landmarks = validate_landmarks(landmarks, "the landmarks")
    template = prepare_template(head.template, config.subdivisions)
    given = registration if config.use_registration else None
    welded, where = weld(scan)
    surface, start, turned = _begin(head, welded, given, landmarks)
    registered, anchored = deform(template, surface, start, landmarks)
    registered, repaired = repair(template, registered, anchored)
    anchored = np.where(repaired.moved, 0.0, anchored)
    carried = transport(
        surface.vertices, surface.normals, Surface(registered, template.faces), template, config.max_distance_mm / 1000
    )
    confidence = point_confidence(surface, carried, anchored, template.faces)
    figures = measure(template, registered, anchored, carried, _landmark_rms_mm(head.template, registered, landmarks))
    figures |= repaired.figures()
    if turned:
        figures["faces_turned"] = 1.0
    space = head.template.space
    canonical = space.normalise(carried.canonical_m).astype(np.float32)
    # Detail far outside the space's margin cannot be stored; it is no part of a head.
    outside = np.abs(canonical).max(axis=1) > 1
    canonical[outside] = np.nan
    return Warp(
        scan_vertices=scan.vertices,
        scan_faces=scan.faces[:, ::-1].copy() if turned else scan.faces,
        canonical=canonical[where],
        confidence=np.where(outside, np.float32(0), confidence)[where],
        region=np.where(outside, np.uint8(0), carried.region)[where],
        registered_vertices=registered,
        registered_faces=template.faces,
        head_to_world=_head_pose(template, registered),
        space=space,
        verdict=judge(figures, config),
    )


def _begin(
    head: HeadModel, scan: Mesh, registration: Registration | None, landmarks: Landmarks | None
) -> tuple[Surface, Start, bool]:
    """Return the scan as a surface, where the template starts, and whether the scan's faces had to be turned over."""
    anchor = registration.vertices if registration else landmarks.points if landmarks else None
    if anchor is None:
        surface, found, turned = find_face(head, scan)
        return surface, Start(found.vertices, FROM_LANDMARKS, rotate=True), turned
    surface = _surface_of(scan, np.asarray(anchor))
    start = _start(head, surface, registration, landmarks)
    if not len(scan.faces) or not _points_inwards(head.template, start, surface):
        return surface, start, False
    surface = Surface(scan.vertices, scan.faces[:, ::-1])
    return surface, _start(head, surface, registration, landmarks), True


def _surface_of(scan: Mesh, known: FloatArray) -> Surface:
    if len(scan.faces):
        return Surface(scan.vertices, scan.faces)
    # Landmarks lie on the face and the cloud's middle behind it: halfway between is inside the head.
    return PointSurface(scan.vertices, scan.vertices.mean(axis=0) * 0.5 + known.mean(axis=0) * 0.5)


def _start(head: HeadModel, surface: Surface, registration: Registration | None, landmarks: Landmarks | None) -> Start:
    template = head.template
    if registration is not None:
        if registration.head != template.name or registration.vertices.shape != template.vertices.shape:
            raise WarpError(
                f"the registration has the topology of {registration.head!r} ({len(registration.vertices)} vertices)",
                f"{template.name!r} with {len(template.vertices)} vertices",
                "Choose the canonical head of the registration's topology, or warp from landmarks alone",
            )
        vertices = np.asarray(registration.vertices, np.float64)
        if not np.isfinite(vertices).all():
            raise WarpError(
                "the registration has NaN or infinite coordinates",
                "finite coordinates",
                "Leave the registration of this frame out; landmarks alone will do",
            )
        distance = np.linalg.norm(surface.closest(vertices).position - vertices, axis=1)
        off_mm = float(np.median(distance)) * 1000
        if not off_mm <= MAX_START_RMS_MM:
            raise WarpError(
                f"the registration lies {off_mm:.0f} mm (median) from the scan",
                f"at most {MAX_START_RMS_MM:g} mm",
                "Check that both are in the same world frame and unit",
            )
        return Start(vertices, FROM_REGISTRATION, rotate=False)

    assert landmarks is not None
    fit_scale = fit_similarity_robust(template.landmarks()[landmarks.indices], landmarks.points).scale
    if not SCALE_RANGE[0] <= fit_scale <= SCALE_RANGE[1]:
        raise WarpError(
            f"the landmarks span a head {fit_scale:.3g} times the template's size",
            f"a factor between {SCALE_RANGE[0]} and {SCALE_RANGE[1]}",
            "Check the units of scan and landmarks, and that the landmark indices follow iBUG order",
        )
    fit = fit_parametric(head, landmarks.indices, landmarks.points, surface)
    if fit.landmark_rms_mm > MAX_START_RMS_MM:
        raise WarpError(
            f"the landmarks fit a face only to {fit.landmark_rms_mm:.0f} mm RMS",
            f"at most {MAX_START_RMS_MM:g} mm",
            "Check the landmark order: iBUG's 36 is the subject's right outer eye corner, 30 the nose tip",
        )
    return Start(fit.vertices, FROM_LANDMARKS, rotate=True)


def _points_inwards(template: HeadTemplate, start: Start, surface: Surface) -> bool:
    hit = surface.closest(start.vertices)
    near = np.linalg.norm(hit.position - start.vertices, axis=1) < MAX_START_RMS_MM / MM_PER_M
    near &= mask_of(template.regions, FACE_REGIONS)
    cosine = np.einsum("nd,nd->n", vertex_normals(start.vertices, template.faces), hit.normal)[near]
    return bool(len(cosine) and np.median(cosine) < -0.5)


def _landmark_rms_mm(template: HeadTemplate, registered: FloatArray, landmarks: Landmarks | None) -> float | None:
    if landmarks is None:
        return None
    carried = template.landmarks(registered[: len(template.vertices)])[landmarks.indices]
    squared = ((carried - landmarks.points) ** 2).sum(axis=1)
    return float(np.sqrt(squared.mean())) * MM_PER_M


def _head_pose(template: WarpTemplate, registered: FloatArray) -> FloatArray:
    rigid = mask_of(template.regions, RIGID_REGIONS)
    return fit_similarity(template.canonical_m[rigid], registered[rigid]).rigid_matrix()
