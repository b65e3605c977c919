"""One simulated capture: everything that happens between a plan and the files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import F64
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import Mesh
from datagen.heads.base import HeadModel, HeadTemplate
from datagen.heads.regions import REGIONS, mask_of
from datagen.render.registry import make_renderer
from datagen.simulation.motion import arkit_curves, expression_curves, head_poses
from datagen.simulation.person import PosedSurface, Subject, WaveField, identity_departure
from datagen.simulation.photo.shading import Part
from datagen.simulation.real_people import RealPerson
from datagen.simulation.scanner import largest_pieces, noise_along_normal, punch_holes, stray_pieces, views_of_points
from datagen.simulation.studio import Studio, frontal_arc
from datagen.simulation.teeth_and_clothes import Teeth, lacks_teeth
from datagen.simulation.triangulate import SurfaceSamples, random_triangulation
from datagen.sources.frame import Image
from datagen.sources.registry import SimulatedSource

MIN_VIEWS = 2
MIN_PIECE = 30
# Cameras look a little below the head's centre, so that chin and neck are not at the edge.
AIM_M = (0.0, -0.02, 0.0)
# Share of the mouth's inside that reconstruction picks up.
MOUTH_SHARE = 0.15
# Rings of vertices, about a millimetre each, that are left out around what teeth hide.
TEETH_MARGIN_RINGS = 2
# A tracker errs smoothly, over wavelengths of these; this share of it is a rigid motion.
ERROR_WAVELENGTHS_M = (0.08, 0.3)
RIGID_SHARE = 0.5
DRIFT_PER_SECOND = 1.5  # radians of phase
# Their order seeds the generators: new ones go to the end.
_PURPOSES = (
    "person", "motion", "pose", "rig", "light", "look", "tracker", "mouth", "frame",
    "departure", "backdrop", "sensor", "noise", "build", "teeth", "real",
)  # fmt: skip
# What a person keeps from one take to the next.
_LASTING = ("person", "departure", "look", "build", "teeth", "real")


@dataclass(frozen=True)
class SimulatedFrame:
    """One frame as written, with its truth.

    Attributes
    ----------
    scan : Mesh
        World metres.
    truth : (N, 3) float32
        Normalised canonical coordinate of each scan vertex, NaN for stray pieces.
    region : (N,) uint8
        True label of each scan vertex, 0 for stray pieces.
    template_vertices : (V, 3) float64
        The true template, world metres.
    registration : (V, 3) float64
        World metres.
    landmarks : Landmarks
    images, masks : dict of camera name to (H, W, 3) uint8 sRGB and (H, W) bool
        Empty if the capture makes no images.
    """

    scan: Mesh
    truth: npt.NDArray[np.float32]
    region: npt.NDArray[np.uint8]
    template_vertices: F64
    registration: F64
    landmarks: Landmarks
    images: dict[str, Image]
    masks: dict[str, npt.NDArray[np.bool_]]


class SimulatedCapture:
    """A subject in front of a rig, performing one sequence.

    Parameters
    ----------
    config : SimulatedSource
    seed : int
    subject : int
        Index of the subject; with ``seed`` it determines everything.
    head : HeadModel
    departure_rms_m : float
        How far the person departs from every shape of the model, RMS over the template's vertices; 0 is a person
        the model can represent.
    images : bool
        Whether frames come with images and masks; without them, those who only warp save most of a frame's time.

    Raises
    ------
    datagen.common.errors.InputError
        If ``config.motion`` is ``arkit`` and the recording under ``config.root`` cannot be read, or
        ``config.people`` is ``real`` and nothing is known of real people in the head's topology.
    """

    def __init__(
        self,
        config: SimulatedSource,
        seed: int,
        subject: int,
        head: HeadModel,
        *,
        departure_rms_m: float = 0.0,
        images: bool = True,
    ) -> None:
        self.config = config
        self._seed, self._index = seed, subject
        self._take = (config.take,) if config.take else ()
        person = self._rng("person")
        departure = (
            identity_departure(head.template, departure_rms_m, self._rng("departure")) if departure_rms_m else None
        )
        real = RealPerson.draw(head, self._rng("real")) if config.people == "real" else None
        self.subject = Subject(head, person, departure, real)
        self.times_s = np.arange(config.frames) / config.fps
        if config.motion == "arkit":
            self.expressions = arkit_curves(config.root or Path(), head.expression_names, self.times_s, subject)
        else:
            self.expressions = expression_curves(head.expression_names, self.times_s, self._rng("motion"))
        template = head.template
        # Some models come with shoulders: the head alone is centred and framed.
        head_points = template.vertices[~mask_of(template.regions, ("neck",))]
        centre = (head_points.min(axis=0) + head_points.max(axis=0)) / 2
        self.poses = head_poses(self.times_s, self._rng("pose"))
        self.poses[:, :3, 3] -= np.einsum("tij,j->ti", self.poses[:, :3, :3], centre)
        extent = float(np.ptp(head_points, axis=0).max())
        self.cameras = frontal_arc(config.cameras, config.image_size, extent, self._rng("rig"), AIM_M)
        self._error = RegistrationError(config.registration_error_mm / 1000, self._rng("tracker"))
        self._rasteriser = make_renderer("numba")
        dense = self.subject.dense
        self._refinement = self.subject.refinement(config.scan_vertices)
        # A refined vertex takes the label of one of the dense vertices it lies between.
        parents = self._refinement.matrix
        self._regions = dense.regions[parents.indices[parents.indptr[:-1]]]
        mouth = dense.regions == REGIONS["mouth_interior"]
        field = WaveField.draw((10e-3, 25e-3), self._rng("mouth"))(dense.points)[:, 0]
        threshold = np.quantile(field[mouth], 1 - MOUTH_SHARE) if mouth.any() else 0.0
        self._mouth, self._scannable = mouth, ~mouth | (field > threshold)
        self._teeth = (
            Teeth(template, self.subject.shape(np.zeros(len(head.expression_names))), self._rng("teeth"))
            if lacks_teeth(template)
            else None
        )
        self.studio = Studio(self.subject, self.cameras, self._rasteriser, self._rng) if images else None

    def _rng(self, purpose: str) -> np.random.Generator:
        """Return the generator of one purpose, so that no part's draws shift another's."""
        take = () if purpose in _LASTING else self._take
        return np.random.default_rng([self._seed, self._index, _PURPOSES.index(purpose), *take])

    def __iter__(self) -> Iterator[SimulatedFrame]:
        """Make the frames one after another."""
        return (self.frame(index) for index in range(self.config.frames))

    def frame(self, index: int, *, expression: F64 | None = None, scan_noise_mm: float | None = None) -> SimulatedFrame:
        """Make one frame, by default with the expression performed there and the configured noise.

        Parameters
        ----------
        index : int
        expression : (E,) float64, optional
            Weights to show instead.
        scan_noise_mm : float, optional
        """
        rng = np.random.default_rng([self._seed, self._index, _PURPOSES.index("frame"), index, *self._take])
        shown = self.expressions[index] if expression is None else expression
        surface = self.subject.pose(shown, self.poses[index])
        noise_mm = self.config.scan_noise_mm if scan_noise_mm is None else scan_noise_mm
        scan, truth, region = self._scan(surface, noise_mm / 1000, rng)
        template = self.subject.head.template
        error = self._error(template.vertices, float(self.times_s[index])) @ self.poses[index, :3, :3].T
        images: dict[str, Image] = {}
        masks: dict[str, npt.NDArray[np.bool_]] = {}
        if self.studio is not None:
            noise = np.random.default_rng([self._seed, self._index, _PURPOSES.index("noise"), index, *self._take])
            images, masks = self.studio.pictures(surface, self.teeth(surface), noise)
        # Detectors mark the skin, which the control mesh stands off by up to two millimetres.
        on_skin = self.subject.dense.subdivision.matrix[: len(template.vertices)] @ surface.template_vertices
        return SimulatedFrame(
            scan=scan,
            truth=truth,
            region=region,
            template_vertices=surface.template_vertices,
            registration=surface.template_vertices + error,
            landmarks=detected_landmarks(template, on_skin, self.config.landmark_noise_mm / 1000, rng),
            images=images,
            masks=masks,
        )

    def teeth(self, surface: PosedSurface) -> Part | None:
        """Return the teeth of the posed subject, which no scan holds; none where the head model has its own."""
        if self._teeth is None:
            return None
        return self._teeth.part(surface.template_vertices, surface.head_to_world)

    def _scan(
        self, surface: PosedSurface, noise_m: float, rng: np.random.Generator
    ) -> tuple[Mesh, npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        views = views_of_points(surface.vertices, surface.normals, self.subject.faces, self.cameras, self._rasteriser)
        seen = (views >= min(MIN_VIEWS, len(self.cameras))) & self._scannable
        teeth = self.teeth(surface)
        if teeth is not None and (seen & self._mouth).any():
            # What teeth hide from a camera is not scanned: its picture shows the teeth there.
            both = np.concatenate([surface.vertices, teeth.vertices]), np.concatenate([surface.normals, teeth.normals])
            faces = np.concatenate([self.subject.faces, teeth.faces + len(surface.vertices)])
            behind = views_of_points(*both, faces, self.cameras, self._rasteriser)[: len(views)]
            lost = behind < views
            for _ in range(TEETH_MARGIN_RINGS):
                lost[self.subject.faces[lost[self.subject.faces].any(axis=1)]] = True
            seen &= ~lost
        matrix = self._refinement.matrix
        positions = matrix @ surface.vertices
        active = punch_holes(positions, matrix @ seen.astype(np.float64) > 0.5, rng)
        samples = random_triangulation(self._refinement, positions, active, self.config.scan_vertices, rng)
        points = samples.interpolate(positions)
        normals = samples.interpolate(matrix @ surface.normals)
        noisy = points + noise_along_normal(points, noise_m, rng)[:, None] * normals
        truth = samples.interpolate(matrix @ surface.canonical)
        return self._with_strays(samples, noisy, normals, truth, rng)

    def _with_strays(
        self,
        samples: SurfaceSamples,
        points: F64,
        normals: F64,
        truth: F64,
        rng: np.random.Generator,
    ) -> tuple[Mesh, npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        faces = samples.faces[largest_pieces(samples.faces, len(points), MIN_PIECE)]
        template = self.subject.head.template
        outer = mask_of(self.subject.dense.regions, ("scalp", "neck", "right_ear", "left_ear"))
        hosts = np.flatnonzero((self._refinement.matrix @ outer.astype(np.float64))[samples.corners[:, 0]] > 0.5)
        strays = stray_pieces(points, normals, hosts, rng)
        vertices = np.concatenate([points, strays.vertices])
        canonical = np.concatenate([template.space.normalise(truth), np.full(strays.vertices.shape, np.nan)])
        heaviest = np.take_along_axis(samples.corners, samples.weights.argmax(axis=1)[:, None], axis=1)[:, 0]
        region = np.concatenate([self._regions[heaviest], np.zeros(len(strays.vertices), np.uint8)])
        all_faces = np.concatenate([faces, strays.faces + len(points)])
        # Drop unused samples and shuffle, so that the order says nothing of what is stray.
        used = rng.permutation(np.unique(all_faces))
        renumber = np.full(len(vertices), -1, np.int64)
        renumber[used] = np.arange(len(used))
        scan = Mesh.of(vertices[used], rng.permutation(renumber[all_faces]))
        return scan, canonical[used].astype(np.float32), region[used]


# What a tracker and a landmark detector make of the true template: right but for smooth errors.


class RegistrationError:
    """A smooth vector error over the head that drifts slowly in time.

    Parameters
    ----------
    rms_m : float
        Root mean square length over the vertices, exact in every frame.
    rng : numpy Generator
        Seeded by the subject.
    """

    def __init__(self, rms_m: float, rng: np.random.Generator) -> None:
        self._rms_m = rms_m
        self._field = WaveField.draw(ERROR_WAVELENGTHS_M, rng, waves=16, channels=3)
        self._drift = DRIFT_PER_SECOND * rng.normal(size=16)
        self._shift, self._turn = rng.normal(size=3), rng.normal(size=3)
        self._beat, self._phase = rng.uniform(0.5, 1.5, 2), rng.uniform(0, 2 * np.pi, 2)

    def __call__(self, template_points: F64, time_s: float) -> F64:
        """Return the error at template points (V, 3) metres at a time, (V, 3) float64 metres in template axes."""
        p = template_points - template_points.mean(axis=0)
        swing = 1 + 0.3 * np.sin(self._beat * time_s + self._phase)
        rigid = swing[0] * self._shift + swing[1] * np.cross(self._turn, p) / p.std()
        bent = self._field(template_points, self._drift * time_s)
        error = RIGID_SHARE * rigid / _rms(rigid) + np.sqrt(1 - RIGID_SHARE**2) * bent / _rms(bent)
        return np.asarray(error * (self._rms_m / _rms(error)))


def detected_landmarks(template: HeadTemplate, vertices: F64, noise_m: float, rng: np.random.Generator) -> Landmarks:
    """Return the 68 landmarks of a posed template (V, 3) metres with Gaussian noise per coordinate.

    ``vertices`` are the template's own, where they come to lie on the smooth surface.
    """
    points = template.landmarks(vertices)
    return Landmarks(np.arange(len(points), dtype=np.int64), points + rng.normal(0, noise_m, points.shape))


def _rms(vectors: F64) -> float:
    return float(np.sqrt((vectors**2).sum(axis=1).mean()))
