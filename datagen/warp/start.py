"""Where the dense registration of a frame begins: from a tracker, from landmarks, from a person known already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from datagen.common.arrays import F64
from datagen.common.errors import WarpError
from datagen.geometry.edges import unique_edges
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import Mesh, face_cross, vertex_normals
from datagen.geometry.pixel_evidence import PixelEvidence
from datagen.geometry.space import MM_PER_M
from datagen.heads.base import HeadModel, HeadTemplate
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.sources.frame import Registration
from datagen.warp.deform import FROM_LANDMARKS, FROM_PERSON, FROM_REGISTRATION, Stage, Start
from datagen.warp.face_search import find_face
from datagen.warp.personal import SequencePrior
from datagen.warp.personal_fit import disagreement_m, fit_person, score
from datagen.warp.pixel_start import PlacedByPictures, place_by_pictures
from datagen.warp.posterior import Round, ShapeFit, annealed, fit_shape, landmark_evidence
from datagen.warp.shape_model import model_shape, observed_vertices, tracked_shape
from datagen.warp.similarity import Similarity, fit_similarity_robust
from datagen.warp.surface import PointSurface, Surface
from datagen.warp.template import WarpTemplate

# A person's head differs from the mean template's size by less than this; more is a unit or landmark mistake.
SCALE_RANGE = (0.7, 1.45)
MAX_START_RMS_MM = 25.0
MAX_DISAGREEMENT_MM = 15.0
# On 18 registered simulated heads 0.05 % of the edges differ so far from the others, with disordered vertices 27 %.
TORN_RATIO = 3.0
MAX_TORN = 0.1
TRACKER_AMPLITUDE_M = (0.3e-3, 4e-3)
# A frame that disagrees with its person this much more (mean square) than keyframes do is looked at by itself too.
STRANGE = 4.0
OUTWARD = 0.1
# Of the dense stages, in units of a target's weight. With 0.1, as without pictures, a scan's noise of 0.3 mm added half
# as much again to how far points of a sequence wander (0.16 mm against 0.12). Without a tracker or a person the start
# is no better along the surface than the scan (a detector's points: 1.25 mm held, 1.20 not).
PICTURED_HOLD = 8.0
# Pictures of which half are farther off than this many of their standard deviations are refused: 1.0 is usual.
MOST_SIGMAS = 3.0
IDENTITY = Similarity(1.0, np.eye(3), np.zeros(3))


TRACKED_ROUNDS = annealed(5, (0.015, 0.005), (0.006, 0.002), (0.9e-3, 0.25e-3))
# Without a tracker the surface pulls along itself wherever a face's relief is not the template's, and hair is no skin.
# Believed by their scatter alone, distances slid real eyes by 4 mm (95th percentile; now 1.7), foreheads by 9 (now 6).
LANDMARK_ROUNDS = (Round(None),) * 4 + tuple(
    replace(step, correlated=5.0, hair=0.1, features=4.0)
    for step in annealed(8, (0.03, 0.012), (0.015, 0.004), (3e-3, 1.5e-3))
)


@dataclass(frozen=True, eq=False)
class Given:
    """What is known of a frame besides its scan; any of it may be missing.

    Attributes
    ----------
    registration : Registration or None
        In the head's topology, world metres.
    landmarks : Landmarks or None
        World metres.
    prior : SequencePrior or None
        What the frames of the sequence share.
    pixels : sequence of PixelEvidence
        Where points of the template were seen in pictures.
    """

    registration: Registration | None = None
    landmarks: Landmarks | None = None
    prior: SequencePrior | None = None
    pixels: Sequence[PixelEvidence] = ()


def begin(head: HeadModel, template: WarpTemplate, scan: Mesh, given: Given) -> tuple[Surface, Start, bool]:
    """Return the scan as a surface, where the template starts on it, and whether the scan's faces were turned over.

    Pictures that contradict all else, or each other, are refused as a whole: the start is then as without them.

    Raises
    ------
    WarpError
        If no face is found, or the start cannot be believed.
    """
    surface, start, turned = _begin(head, template, scan, given)
    if start.notes.get("picture_usual_sigmas", 0.0) <= MOST_SIGMAS:
        return surface, start, turned
    surface, start, turned = _begin(head, template, scan, replace(given, pixels=()))
    return surface, replace(start, notes={**start.notes, "pictures_refused": 1.0}), turned


def _begin(head: HeadModel, template: WarpTemplate, scan: Mesh, given: Given) -> tuple[Surface, Start, bool]:
    placed = None
    if given.registration is None and given.landmarks is None:
        placed = place_by_pictures(template, model_shape(head, template).base, given.pixels) if given.pixels else None
        if placed is None:
            surface, found, turned = find_face(head, scan)
            return surface, _tracked(template, found.vertices, surface, given), turned
        anchor = placed.points
    else:
        known = given.registration.vertices if given.registration else given.landmarks.points if given.landmarks else ()
        anchor = np.asarray(known)
    surface = _surface_of(scan, anchor)
    start = _known(head, template, surface, given, placed)
    if not len(scan.faces) or not _points_inwards(head.template, start, surface):
        return surface, start, False
    if _outwardness(surface) > OUTWARD:
        raise WarpError(
            "the head that the registration, landmarks or pictures describe faces into the scan, whose own faces point "
            "outwards",
            "landmarks or a registration of this face, left and right as the subject's",
            "Check the landmark order (iBUG's 36 is the subject's right outer eye corner) and for a flipped axis",
        )
    surface = Surface(scan.vertices, scan.faces[:, ::-1])
    return surface, _known(head, template, surface, given, placed), True


def _surface_of(scan: Mesh, known: F64) -> Surface:
    if len(scan.faces):
        return Surface(scan.vertices, scan.faces)
    # Landmarks lie on the face and the cloud's middle behind it: halfway between is inside the head.
    return PointSurface(scan.vertices, scan.vertices.mean(axis=0) * 0.5 + known.mean(axis=0) * 0.5, scan.normals)


def _known(
    head: HeadModel, template: WarpTemplate, surface: Surface, given: Given, placed: PlacedByPictures | None
) -> Start:
    registration, landmarks = given.registration, given.landmarks
    tracked = _checked_registration(head.template, registration, surface) if registration is not None else None
    if landmarks is not None:
        _check_landmark_scale(head.template, landmarks)
        if tracked is not None:
            _check_agreement(head.template, tracked, landmarks)
    if given.prior is not None:
        return _personal(head, template, surface, tracked, given, placed)
    return _alone(head, template, surface, tracked, given, placed)


def _alone(
    head: HeadModel,
    template: WarpTemplate,
    surface: Surface,
    tracked: F64 | None,
    given: Given,
    placed: PlacedByPictures | None,
) -> Start:
    """Begin from what the frame itself says."""
    if tracked is not None:
        return _tracked(template, tracked, surface, given)
    return _from_points(head, template, surface, given, placed)


def _tracked(template: WarpTemplate, vertices: F64, surface: Surface, given: Given) -> Start:
    """Take a tracker's smooth error off, as far as the scan, the landmarks and the pictures show it."""
    evidence = [landmark_evidence(template, given.landmarks)] if given.landmarks is not None else []
    amplitude = _visible_error_m(template, vertices, surface)
    shape = tracked_shape(template, vertices, amplitude)
    fit = fit_shape(template, shape, IDENTITY, TRACKED_ROUNDS, surface, evidence, pixels=given.pixels)
    return Start(fit.vertices, _held(FROM_REGISTRATION, given), False, fit.spread_m, _notes(fit))


def _held(schedule: tuple[Stage, ...], given: Given) -> tuple[Stage, ...]:
    """Return the dense stages; where pictures were heeded they leave the start where it is along the surface."""
    return tuple(replace(stage, hold=PICTURED_HOLD) for stage in schedule) if given.pixels else schedule


def _own_spread_m(fit: ShapeFit) -> F64:
    """Return the spread (M,) of a face's vertices if the prior had the size that this face says it has.

    A tracker's error has its size from the scan already.
    """
    return np.asarray(fit.spread_m * fit.held.amplitude)


def _notes(fit: ShapeFit) -> dict[str, float]:
    """Return what each source did, how many pictures were heeded, and how far off most and the worst of them were.

    Beside it how large the face's own departures are, as a multiple of the prior's, and how far landmarks scatter.
    """
    notes = {**fit.held.metrics(), "own_amplitude": fit.held.amplitude}
    if fit.scatter_m is not None:
        notes["landmark_scatter_mm"] = fit.scatter_m * MM_PER_M
    if not fit.view_scale:
        return notes
    off = list(fit.view_scale.values())
    return {
        **notes,
        "pictures": float(len(off)),
        "picture_usual_sigmas": float(np.median(off)),
        "picture_worst_sigmas": max(off),
    }


def _visible_error_m(template: WarpTemplate, vertices: F64, surface: Surface) -> float:
    """Standard deviation of a tracker's error per coordinate, as seen along the scan's normals."""
    seen = template.coarse_skin[observed_vertices(template)]
    points = template.subdivide[seen] @ vertices
    hit = surface.closest(points)
    height = np.einsum("nd,nd->n", hit.position - points, hit.normal)[~hit.on_border]
    if not len(height):
        return TRACKER_AMPLITUDE_M[1]
    return float(np.clip(1.4826 * np.median(np.abs(height)), *TRACKER_AMPLITUDE_M))


def _from_points(
    head: HeadModel, template: WarpTemplate, surface: Surface, given: Given, placed: PlacedByPictures | None
) -> Start:
    """Begin from landmarks, or from where pictures place the head."""
    landmarks, shape = given.landmarks, model_shape(head, template)
    evidence = [landmark_evidence(template, landmarks)] if landmarks is not None else []
    if landmarks is not None:
        pose = fit_similarity_robust(head.template.landmarks()[landmarks.indices], landmarks.points)
    else:
        assert placed is not None
        pose = placed.pose
    fit = fit_shape(template, shape, pose, LANDMARK_ROUNDS, surface, evidence, pixels=given.pixels)
    if landmarks is not None:
        _check_landmark_fit(evidence[0].operator @ fit.vertices - landmarks.points, landmarks)
    return Start(fit.vertices, FROM_LANDMARKS, True, _own_spread_m(fit), _notes(fit))


def _check_landmark_fit(off: F64, landmarks: Landmarks) -> None:
    squared = (off**2).sum(axis=1)
    off_mm = float(np.sqrt(squared.mean())) * MM_PER_M
    if off_mm > MAX_START_RMS_MM:
        worst = int(np.argmax(squared))
        raise WarpError(
            f"the landmarks fit a face only to {off_mm:.0f} mm RMS; farthest off is point {landmarks.indices[worst]}, "
            f"by {np.sqrt(squared[worst]) * MM_PER_M:.0f} mm",
            f"at most {MAX_START_RMS_MM:g} mm",
            "Check the landmark order: iBUG's 36 is the subject's right outer eye corner, 30 the nose tip",
        )


def _personal(
    head: HeadModel,
    template: WarpTemplate,
    surface: Surface,
    tracked: F64 | None,
    given: Given,
    placed: PlacedByPictures | None,
) -> Start:
    """Begin from a known person, unless the frame agrees more with a start of its own."""
    prior, landmarks = given.prior, given.landmarks
    assert prior is not None

    def strangeness(vertices: F64) -> float:
        return score(disagreement_m(template, prior, vertices, surface, landmarks), prior.usual_m)

    trust = given.registration.trust if given.registration is not None else None
    pose = None if placed is None else placed.pose
    fit = fit_person(head, template, prior, surface, tracked, trust, landmarks, pixels=given.pixels, pose=pose)
    if fit is None:
        return _alone(head, template, surface, tracked, given, placed)
    notes = {"person_used": 1.0, **_notes(fit)}
    start = Start(fit.vertices, _held(FROM_PERSON, given), False, _own_spread_m(fit), notes)
    strange = strangeness(fit.vertices)
    if strange <= STRANGE:
        return start
    own = _alone(head, template, surface, tracked, given, placed)
    if strange <= strangeness(own.vertices):
        return start
    return replace(own, notes={**own.notes, "person_used": 0.0})


def _checked_registration(template: HeadTemplate, registration: Registration, surface: Surface) -> F64:
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
    _check_shape(template, vertices)
    distance = np.linalg.norm(surface.closest(vertices).position - vertices, axis=1)
    off_mm = float(np.median(distance)) * MM_PER_M
    if not off_mm <= MAX_START_RMS_MM:
        raise WarpError(
            f"the registration lies {off_mm:.0f} mm (median) from the scan",
            f"at most {MAX_START_RMS_MM:g} mm",
            "Check that both are in the same world frame and unit",
        )
    return vertices


def _check_shape(template: HeadTemplate, vertices: F64) -> None:
    """Refuse a registration that is not a head in the template's topology: disordered, mirrored or wrong in size."""
    edges, _ = unique_edges(template.faces)

    def lengths(v: F64) -> F64:
        return np.asarray(np.linalg.norm(v[edges[:, 0]] - v[edges[:, 1]], axis=1))

    ratio = lengths(vertices) / np.maximum(lengths(template.vertices), 1e-9)
    typical = max(float(np.median(ratio)), 1e-9)
    torn = float(((ratio < typical / TORN_RATIO) | (ratio > typical * TORN_RATIO)).mean())
    if torn > MAX_TORN:
        raise WarpError(
            f"{torn:.0%} of the registration's edges are over {TORN_RATIO:g} times longer or shorter than the others",
            f"at most {MAX_TORN:.0%}, as on a head",
            "Check that its vertices are in the template's order",
        )
    x, y = template.vertices - template.vertices.mean(axis=0), vertices - vertices.mean(axis=0)
    if np.linalg.det(x.T @ y) < 0:
        raise WarpError(
            "the registration is a mirror image: its left is the template's right",
            "a head that is turned, moved and bent only",
            "Check for a flipped axis, or a left-handed file; mirror the vertices back",
        )
    scale = fit_similarity_robust(template.vertices, vertices).scale
    if not SCALE_RANGE[0] <= scale <= SCALE_RANGE[1]:
        raise WarpError(
            f"the registration is {scale:.3g} times the template's size",
            f"a factor between {SCALE_RANGE[0]} and {SCALE_RANGE[1]}",
            "Check the units of scan and registration",
        )


def _check_agreement(template: HeadTemplate, tracked: F64, landmarks: Landmarks) -> None:
    own = template.landmarks(tracked)[landmarks.indices]
    apart_mm = float(np.median(np.linalg.norm(own - landmarks.points, axis=1))) * MM_PER_M
    if apart_mm > MAX_DISAGREEMENT_MM:
        raise WarpError(
            f"registration and landmarks lie {apart_mm:.0f} mm (median) apart",
            f"at most {MAX_DISAGREEMENT_MM:g} mm",
            "One of them belongs to another frame, person or world: look at both, and leave out the wrong one",
        )


def _check_landmark_scale(template: HeadTemplate, landmarks: Landmarks) -> None:
    scale = fit_similarity_robust(template.landmarks()[landmarks.indices], landmarks.points).scale
    if not SCALE_RANGE[0] <= scale <= SCALE_RANGE[1]:
        raise WarpError(
            f"the landmarks span a head {scale:.3g} times the template's size",
            f"a factor between {SCALE_RANGE[0]} and {SCALE_RANGE[1]}",
            "Check the units of scan and landmarks, and that the landmark indices follow iBUG order",
        )


def _outwardness(surface: Surface) -> float:
    """Return in [-1, 1] how far the scan's faces point away from its middle: heads have 0.6 to 0.7, a bare face 0.3."""
    cross = face_cross(surface.vertices, surface.faces)
    centre = surface.vertices[surface.faces].mean(axis=1)
    area = np.linalg.norm(cross, axis=1)
    arm = centre - np.average(centre, axis=0, weights=area)
    return float(np.einsum("fd,fd->", cross, arm) / max(float(area @ np.linalg.norm(arm, axis=1)), 1e-12))


def _points_inwards(template: HeadTemplate, start: Start, surface: Surface) -> bool:
    face = mask_of(template.regions, FACE_REGIONS)
    points, normals = start.vertices[face], vertex_normals(start.vertices, template.faces)[face]
    hit = surface.closest(points)
    near = np.linalg.norm(hit.position - points, axis=1) < MAX_START_RMS_MM / MM_PER_M
    cosine = np.einsum("nd,nd->n", normals, hit.normal)[near]
    return bool(len(cosine) and np.median(cosine) < -0.5)
