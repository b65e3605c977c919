"""A face detector's points as evidence: which face of a picture is meant, what of it is seen, and how surely."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from datagen.common.arrays import F64
from datagen.common.face_mesh import Detector, FaceMesh
from datagen.common.seen_points import SeenPoints
from datagen.evidence.contract import Seen
from datagen.evidence.detector_model import DetectorModel, ViewOfFace, detector_model
from datagen.evidence.registry import MakerSettings
from datagen.evidence.several_views import (
    DetectedView,
    FaceInSpace,
    face_in_space,
    hidden,
    rays_of,
    unleaned,
    unshifted,
)
from datagen.geometry.camera import Camera
from datagen.heads.base import HeadModel, HeadTemplate
from datagen.sources.frame import Image
from datagen.warp.similarity import fit_similarity_robust

NAME = "detector"
# Two pictures show one face if rays through the same points pass each other within this, metres.
SAME_FACE_M = 0.02
# A face and the one in the mirrored picture are the same if their points are so near, in widths of the face.
SAME_SHARE = 0.1
# From so many cameras on, one that agrees with no other is wrong.
FEWEST_TO_JUDGE = 3
# Learnt from faces turned less than this; of a profile the detector makes up the other half.
MOST_TURNED_DEG = 72.0
# RMS distance of a face from the mean face, in metres of a head: the most on people was 6 mm.
STRANGEST_M = 12e-3
# Of small faces, which were not learnt from: no detector tells less than half a pixel.
LEAST_OFF_PX = 0.5
# Where pictures contradict each other more than this, points are believed less.
USUAL_CONTRADICTION = 2.0
# Of the points: if something hides as many, it is said.
HIDDEN_SHARE = 0.05
SMALLEST_PX_PER_M = 160.0
FACE_M = 0.15


@dataclass(frozen=True, eq=False)
class Candidate:
    """A face in a picture.

    Attributes
    ----------
    points : (478, 3) float64
        Pixels.
    view : ViewOfFace
    off_m : float
        How far the points lie from the mean face, root mean square.
    """

    points: F64
    view: ViewOfFace
    off_m: float


def view_of(points: F64, model: DetectorModel, places: F64) -> tuple[ViewOfFace, float]:
    """Return how a face is seen, and how far its points lie from those of the mean face: root mean square, metres.

    Parameters
    ----------
    points : (478, 3) float64
        As the detector gives them, its depth included.
    places : (P, 3) float64
        Where the model's points lie on the neutral template.
    """
    fit = fit_similarity_robust(places, points[model.points])
    off = ((fit.apply(places) - points[model.points])[:, :2] ** 2).sum(axis=1).mean()
    return ViewOfFace(fit.rotation, fit.scale), float(np.sqrt(off)) / fit.scale


class FaceDetector:
    """The maker: pictures of one instant in, points of the template out.

    Parameters
    ----------
    template : HeadTemplate
    model : DetectorModel
    detector : callable
        :class:`datagen.common.face_mesh.FaceMesh`, or what stands in for it.
    """

    name = NAME

    def __init__(self, template: HeadTemplate, model: DetectorModel, detector: Detector) -> None:
        self._model, self._detector = model, detector
        self._at, self._normal = model.places(template)
        apart = np.linalg.norm((self._at * [-1.0, 1.0, 1.0])[:, None] - self._at, axis=2)
        self._partner = apart.argmin(axis=1)

    def look(self, pictures: Mapping[str, Image], cameras: Mapping[str, Camera]) -> dict[str, Seen]:
        """Return what each picture shows, by camera.

        Where a picture shows several faces, the one that is meant is the one that most other cameras see at the same
        place, and of as many the largest. From three cameras on, a face that no other camera sees there is refused.
        """
        found = {name: [self._candidate(points) for points in self._faces(pictures[name])] for name in pictures}
        result: dict[str, Seen] = {}
        usable: dict[str, list[Candidate]] = {}
        for name, faces in found.items():
            good = [face for face in faces if not self._refused(face)]
            if good:
                usable[name] = good
            else:
                why = self._refused(max(faces, key=lambda face: face.view.px_per_m)) if faces else "no face was found"
                result[name] = Seen(None, len(faces), why)
        meant = self._meant(usable, cameras)
        views = {n: DetectedView(cameras[n], f.points, f.view) for n, (f, _) in meant.items() if f is not None}
        space = face_in_space(self._model, self._at, self._normal, list(views.values()))
        hides = "" if space is None else self._hidden_note(space)
        for name, (face, note) in meant.items():
            count = len(found[name])
            told = (
                note if count == 1 or face is None else f"{count} faces were found; {note or 'the largest was taken'}"
            )
            points = self.seen_points(views[name], space, len(views)) if face is not None else None
            if points is not None and not len(points):
                points, told = None, "none of its points is turned to the camera and agrees with the other pictures"
            result[name] = Seen(points, count, told or (hides if points is not None else ""))
        return {name: result[name] for name in pictures}

    def _hidden_note(self, space: FaceInSpace) -> str:
        share = float(hidden(self._at, space.contradiction).mean())
        if share < HIDDEN_SHARE:
            return ""
        return f"{share:.0%} of the face is left out, where pictures contradict each other; something may hide it"

    def _faces(self, picture: Image) -> list[F64]:
        """Return the points (478, 3) of each face, mean of the picture and its mirror image, where both show it."""
        width = picture.shape[1]
        mirrored = []
        for points in self._detector(np.ascontiguousarray(picture[:, ::-1])):
            turned = points.copy()
            turned[self._model.points] = points[self._model.points][self._partner]
            turned[:, 0] = width - turned[:, 0]
            mirrored.append(turned)
        return [self._averaged(points, mirrored) for points in self._detector(picture)]

    def _averaged(self, points: F64, mirrored: list[F64]) -> F64:
        known = self._model.points
        off = [float(np.abs(other[known] - points[known])[:, :2].mean()) for other in mirrored]
        if not off or min(off) > SAME_SHARE * float(np.ptp(points[known, 0])):
            return points
        mean = points.copy()
        mean[known] = (points[known] + mirrored[int(np.argmin(off))][known]) / 2
        return mean

    def _candidate(self, points: F64) -> Candidate:
        return Candidate(points, *view_of(points, self._model, self._at))

    @staticmethod
    def _refused(face: Candidate) -> str:
        if face.view.px_per_m < SMALLEST_PX_PER_M:
            return f"the face is {FACE_M * face.view.px_per_m:.0f} px wide, too small to say where its points are"
        if face.view.turned_deg > MOST_TURNED_DEG:
            return f"the face is turned by {face.view.turned_deg:.0f} degrees, a profile"
        if face.off_m > STRANGEST_M:
            return f"the points lie {face.off_m * 1e3:.0f} mm from those of any face"
        return ""

    def _meant(
        self, faces: Mapping[str, list[Candidate]], cameras: Mapping[str, Camera]
    ) -> dict[str, tuple[Candidate | None, str]]:
        """Return the face that is meant in each picture, or why there is none."""
        listed = [(name, face) for name, some in faces.items() for face in some]
        agree = np.array(
            [[a != b and _same(face, cameras[a], other, cameras[b]) for b, other in listed] for a, face in listed]
        ).reshape(len(listed), len(listed))
        names = np.array([name for name, _ in listed])
        support = [len(set(names[row])) for row in agree]
        scale = [face.view.px_per_m for _, face in listed]
        best = max(range(len(listed)), key=lambda k: (support[k], scale[k]), default=0)
        chosen: dict[str, tuple[Candidate | None, str]] = {}
        for name, some in faces.items():
            own = [k for k, (camera, _) in enumerate(listed) if camera == name]
            with_best = [k for k in own if k == best or agree[best, k]]
            if with_best:
                k = max(with_best, key=lambda k: (support[k], scale[k]))
                told = "the one that other cameras see there was taken" if support[k] else ""
                chosen[name] = listed[k][1], told if len(some) > 1 else ""
            elif len(faces) >= FEWEST_TO_JUDGE and support[best]:
                chosen[name] = None, "its face is not where other cameras see one; its camera may be wrong"
            else:
                k = max(own, key=lambda k: (support[k], scale[k]))
                chosen[name] = listed[k][1], ""
        return chosen

    def seen_points(self, one: DetectedView, space: FaceInSpace | None, pictures: int) -> SeenPoints:
        """Return one picture's points that are turned to the camera.

        Parameters
        ----------
        space : FaceInSpace or None
            The face as all pictures show it. Without it, how the detector leans on this face is not known, and is part
            of what pictures share.
        pictures : int
            Of this instant in which the face was found: errors in common count once, however many there are.
        """
        model, view = self._model, one.view
        kept = self._normal @ view.towards > model.cosines[0]
        together_common, together_alone = model.together
        alone_m = model.alone_m * model.alone_growth(view, self._normal)
        if space is not None:
            kept &= ~hidden(self._at, space.contradiction)
            alone_m = alone_m * np.maximum(1.0, space.contradiction / USUAL_CONTRADICTION)
        variance = pictures * together_common * model.common_m**2 + together_alone * alone_m**2
        variance = variance[kept] * view.px_per_m**2 + together_alone * LEAST_OFF_PX**2
        if space is None:
            at, shared = unshifted(model, one), np.concatenate([model.lean_to_m, model.modes_m])
        else:
            at, shared = unleaned(model, one, space), model.modes_m
        return SeenPoints(
            source=NAME,
            template=model.template,
            width=one.camera.width,
            height=one.camera.height,
            faces=model.faces[kept],
            barycentric=model.barycentric[kept],
            pixels=at[kept],
            covariance=variance[:, None, None] * np.eye(2),
            shared_m=shared[:, kept],
        )


@contextmanager
def open_detector(head: HeadModel, settings: MakerSettings) -> Iterator[FaceDetector]:
    """Run the maker with the real detector.

    Raises
    ------
    InputError
        If where its points lie on the head model is not known, or there is no such Python.
    DependencyError
        If the detector is not installed.
    """
    model = detector_model(head.template)
    with FaceMesh(settings.detector_python) as mesh:
        yield FaceDetector(head.template, model, mesh)


def _same(face: Candidate, camera: Camera, other: Candidate, its_camera: Camera) -> bool:
    """Whether two pictures can show one face: rays through a few of its points pass each other closely."""
    chosen = np.arange(0, 468, 17)
    d1, d2 = rays_of(camera, face.points[chosen, :2]), rays_of(its_camera, other.points[chosen, :2])
    between = its_camera.centre - camera.centre
    across = np.cross(d1, d2)
    sine = np.linalg.norm(across, axis=1)
    # Rays that are almost parallel pass at the distance of their centres across them.
    parallel = np.linalg.norm(np.cross(d1, between), axis=1)
    apart = np.where(sine > 1e-3, np.abs(across @ between) / np.maximum(sine, 1e-9), parallel)
    if np.median(apart) > SAME_FACE_M:
        return False
    along = np.einsum("pd,pd->p", np.cross(between, d2), across) / np.maximum(sine, 1e-9) ** 2
    back = np.einsum("pd,pd->p", np.cross(between, d1), across) / np.maximum(sine, 1e-9) ** 2
    return bool(np.median(along) > 0 and np.median(back) > 0) or bool(np.median(sine) <= 1e-3)
