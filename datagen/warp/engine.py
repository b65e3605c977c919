"""The warp of one frame, from start to verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import F64
from datagen.common.blas import one_blas_thread
from datagen.common.progress import unwatched
from datagen.geometry.landmarks import Landmarks, validate_landmarks
from datagen.geometry.mesh import Mesh, check_metric_scale, validate_mesh, weld
from datagen.geometry.pixel_evidence import PixelEvidence
from datagen.geometry.space import MM_PER_M
from datagen.heads.base import HeadModel
from datagen.heads.regions import mask_of
from datagen.manifest import WarpConfig
from datagen.sources.frame import Registration
from datagen.warp.carry import stored
from datagen.warp.confidence import confidence_features, point_confidence, usual_height
from datagen.warp.deform import Start, deform
from datagen.warp.fold_repair import RepairReport, repair
from datagen.warp.parameters import fit_parameters
from datagen.warp.personal import SequencePrior
from datagen.warp.personal_marks import PersonalMarks
from datagen.warp.result import Warp
from datagen.warp.similarity import fit_similarity
from datagen.warp.start import Given, begin
from datagen.warp.surface import Surface
from datagen.warp.template import WarpTemplate, prepare_template
from datagen.warp.transport import Transported, transport
from datagen.warp.verdict import face_confidence, judge, measure, registration_shift_mm

# Part of every content key: a change here makes every stored warp stale.
ALGORITHM_VERSION = 14

WARP_STEPS = 3
MENDED_SPREAD_M = 6e-3
# Skin that expression hardly moves carries the head's rigid pose.
RIGID_REGIONS = ("forehead", "scalp", "nose", "right_ear", "left_ear")


@one_blas_thread()
def warp_frame(
    scan: Mesh,
    head: HeadModel,
    config: WarpConfig,
    *,
    registration: Registration | None = None,
    landmarks: Landmarks | None = None,
    prior: SequencePrior | None = None,
    pixels: Sequence[PixelEvidence] = (),
    on_step: Callable[[str], None] = unwatched,
) -> Warp:
    """Warp one scan into the canonical space of a head model.

    Start (the most probable smooth shape given registration, landmarks, pictures, a person's known neutral, or the scan
    alone) → thin-plate refinement with robust, normal- and region-compatible correspondences → repair of folds →
    transport of the scan's own points → confidence → verdict. Nothing here ever sees a true correspondence. A scan
    whose faces point inwards is turned over, which the verdict says.

    Parameters
    ----------
    scan : Mesh
        World metres; without faces it is taken as a point cloud.
    registration : Registration, optional
        In the head's topology, world metres.
    landmarks : Landmarks, optional
        World metres.
    prior : SequencePrior, optional
        What the frames of the sequence share, see :func:`datagen.warp.sequence.fit_sequence`.
    pixels : sequence of PixelEvidence
        Where points of the head's template were seen in pictures.
    on_step : callable
        Called with what begins, as in "fitting the template": :data:`WARP_STEPS` times.

    Raises
    ------
    MeshError
        If the scan is empty, non-finite or in the wrong unit.
    LandmarkError
        If the landmarks cannot serve.
    WarpError
        If no face is found, or the start cannot be believed.
    """
    found = register_frame(
        scan, head, config, registration=registration, landmarks=landmarks, prior=prior, pixels=pixels, on_step=on_step
    )
    on_step("carrying the scan's points over")
    template, surface, registered, anchored = found.template, found.surface, found.vertices, found.anchored
    carried = transport(
        surface.vertices, surface.normals, Surface(registered, template.faces), template, config.max_distance_mm / 1000
    )
    confidence = point_confidence(carried, frame_features(found, carried))
    metrics = measure(template, registered, anchored, carried)
    metrics["face_confidence"] = face_confidence(carried, confidence)
    if landmarks is not None:
        marks = prior.marks if prior is not None and found.start.notes.get("person_used") else None
        metrics |= _landmark_metrics(template, registered, landmarks, marks)
    metrics |= found.repaired.metrics() | dict(found.start.notes)
    if registration is not None and config.use_registration:
        metrics["registration_shift_mm"] = registration_shift_mm(template, registered, registration.vertices)
    if found.turned:
        metrics["faces_turned"] = 1.0
    space = head.template.space
    kept = stored(carried, confidence, space)
    head_to_world = _head_pose(template, registered)
    return Warp(
        scan_vertices=scan.vertices,
        scan_faces=scan.faces[:, ::-1].copy() if found.turned else scan.faces,
        canonical=kept.canonical[found.where],
        confidence=kept.confidence[found.where],
        region=kept.region[found.where],
        registered_vertices=registered,
        registered_faces=template.faces,
        head_to_world=head_to_world,
        space=space,
        verdict=judge(metrics, config.verdict),
        # The start's variance is of the whole vector: a coordinate has a third of it.
        spread_m=(found.spread_m / np.sqrt(3)).astype(np.float32),
        parameters=fit_parameters(head, template, registered, head_to_world),
        usual_height_m=usual_height(carried),
    )


@dataclass(frozen=True, eq=False)
class Registered:
    """The template on a scan.

    Attributes
    ----------
    surface : Surface
        The welded scan, faces outwards.
    where : (N,) int64
        Welded vertex of each scan vertex.
    turned : bool
        The scan's faces pointed inwards.
    vertices : (M, 3) float64
        Fine template vertices in the scan's frame, metres.
    anchored : (M,) float64
        Weight of each vertex's last target; 0 where the position was only interpolated or repaired.
    spread_m : (M,) float64
        Standard deviation of each vertex's position, as far as it is known.
    """

    template: WarpTemplate
    surface: Surface
    where: npt.NDArray[np.int64]
    turned: bool
    start: Start
    vertices: F64
    anchored: F64
    repaired: RepairReport
    spread_m: F64


@one_blas_thread()
def register_frame(
    scan: Mesh,
    head: HeadModel,
    config: WarpConfig,
    *,
    registration: Registration | None = None,
    landmarks: Landmarks | None = None,
    prior: SequencePrior | None = None,
    pixels: Sequence[PixelEvidence] = (),
    on_step: Callable[[str], None] = unwatched,
) -> Registered:
    """Bring the template onto a scan: everything of :func:`warp_frame` before transport, with its arguments."""
    validate_mesh(scan, "the scan", need_faces=False)
    check_metric_scale(scan.vertices, "the scan")
    if landmarks is not None:
        landmarks = validate_landmarks(landmarks, "the landmarks")
    template = prepare_template(head.template, config.subdivisions)
    given = Given(registration if config.use_registration else None, landmarks, prior, pixels)
    welded, where = weld(scan)
    unknown = given.registration is None and landmarks is None and prior is None and not pixels
    on_step("finding the face" if unknown else "placing the template")
    surface, start, turned = begin(head, template, welded, given)
    on_step("fitting the template")
    stages: dict[str, float] = {}
    registered, anchored = deform(template, surface, start, landmarks, stages.__setitem__)
    start = replace(start, notes={**start.notes, **stages})
    registered, repaired = repair(template, registered, anchored, surface)
    anchored = np.where(repaired.moved, 0.0, anchored)
    # Mended skin lies where the surface allowed, not where anything was seen.
    spread_m = np.where(repaired.moved, np.maximum(start.spread_m, MENDED_SPREAD_M), start.spread_m)
    if registration is not None and registration.spread_m is not None and _is_surface(registration, scan):
        # Nothing but the registration says where the surface is: it is as far off as its maker says.
        spread_m = np.hypot(spread_m, template.subdivide @ registration.spread_m)
    return Registered(template, surface, where, turned, start, registered, anchored, repaired, spread_m)


def _is_surface(registration: Registration, scan: Mesh) -> bool:
    return registration.vertices.shape == scan.vertices.shape and np.array_equal(registration.vertices, scan.vertices)


def frame_features(found: Registered, carried: Transported) -> F64:
    """Return what confidence is made of for the points carried by a registered template."""
    return confidence_features(carried, found.spread_m, found.template.faces, notes=found.start.notes)


def _landmark_metrics(
    template: WarpTemplate, registered: F64, landmarks: Landmarks, marks: PersonalMarks | None
) -> dict[str, float]:
    if marks is not None:
        off_mm = marks.distance_m(template, registered, landmarks) * MM_PER_M
    else:
        carried = template.head.landmarks(registered[: len(template.head.vertices)])[landmarks.indices]
        off_mm = np.linalg.norm(carried - landmarks.points, axis=1) * MM_PER_M
    worst = int(np.argmax(off_mm))
    return {
        "landmark_rms_mm": float(np.sqrt((off_mm**2).mean())),
        "landmark_worst": float(landmarks.indices[worst]),
        "landmark_worst_mm": float(off_mm[worst]),
    }


def _head_pose(template: WarpTemplate, registered: F64) -> F64:
    rigid = mask_of(template.regions, RIGID_REGIONS)
    return fit_similarity(template.canonical_m[rigid], registered[rigid]).rigid_matrix()
