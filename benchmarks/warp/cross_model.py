"""People of ICT's model, moved by a recorded performance, as scans for a warp that fits another model.

ICT's shapes were made from scans of real people and their expressions; nothing of them is in the head model that is
fitted, so this is no simulation by the model's own. A vertex of ICT's topology is one skin point in all frames and
people, which is the truth of correspondence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from benchmarks.warp.hidden import HiddenScan, hide
from datagen.common.arrays import F64, I32, I64
from datagen.common.errors import InputError
from datagen.common.files import read_npz
from datagen.common.open3d_library import load_open3d
from datagen.geometry.mesh import face_cross, normalised
from datagen.geometry.space import MM_PER_M
from datagen.heads.base import HeadModel
from datagen.heads.regions import mask_of
from datagen.heads.registry import load_head
from datagen.sources.frame import Frame, SequenceKey
from datagen.warp.similarity import Similarity

ICT_FILE = Path("ict_facekit") / "ict_facekit.npz"
MOTION_FILE = Path("arkit_motion") / "motion.npz"
MOTION_KEYS = ("weights", "to_ict", "ict_expression_names", "fps")
# Of the recording's 60 a second, so that its three seconds are sixty frames.
EVERY_FRAME = 3
NOISE_MM = 0.15
LANDMARK_NOISE_MM = 0.75
# What annotators marked on the families: eyes, nose and mouth, few on smooth skin.
LANDMARKS = (
    *(8, 17, 21, 22, 26, 27, 30, 31, 33, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47),
    *(48, 50, 51, 52, 54, 57, 62, 66),
)  # fmt: skip
INSIDE_MOUTH = ("mouth_interior",)
# A rig of scanners in front of the face: degrees to the side and up.
VIEWS_DEG = ((0, 0), (45, 0), (-45, 0), (80, 0), (-80, 0), (25, 30), (-25, 30), (25, -30), (-25, -30))
VIEW_DISTANCE_M = 0.8
# Rays start this far off the surface they leave.
OFF_SURFACE_M = 1e-4


@dataclass(frozen=True, eq=False)
class IctPerson:
    """One person of ICT's model.

    Attributes
    ----------
    model : HeadModel
    identity : (I,) float64
    """

    model: HeadModel
    identity: F64

    @classmethod
    def drawn(cls, model: HeadModel, rng: np.random.Generator) -> IctPerson:
        """Draw a person as the model does."""
        return cls(model, rng.normal(size=model.identity_size))

    def scanned(
        self,
        expression: F64,
        rng: np.random.Generator,
        *,
        noise_mm: float = NOISE_MM,
        landmark_noise_mm: float = LANDMARK_NOISE_MM,
        landmarks: Sequence[int] = LANDMARKS,
        motion: Similarity | None = None,
    ) -> HiddenScan:
        """Return what scanners in front of the face see of skin and eyeballs, with hidden topology.

        The hidden topology is the model's: ``order`` holds vertices of its template. See
        :func:`benchmarks.warp.hidden.hide` for what else is given.
        """
        vertices = self.model.vertices(self.identity, expression)
        faces = seen_faces(vertices, self.model)
        used = np.unique(faces).astype(np.int64)
        place = np.zeros(len(vertices), np.int64)
        place[used] = np.arange(len(used))
        marks = self.model.template.landmarks(vertices)
        found = hide(
            vertices[used],
            place[faces],
            {k: marks[k] for k in landmarks},
            rng,
            noise_mm=noise_mm,
            landmark_noise_mm=landmark_noise_mm,
            motion=motion,
        )
        return HiddenScan(found.scan, found.landmarks, used[found.order])


def seen_faces(vertices: F64, model: HeadModel) -> I32:
    """Return the triangles (F, 3) of skin and eyeballs that a rig in front of the face sees.

    A triangle is seen if from one of nine places in front nothing of the head lies before its middle: lids cover
    eyeballs, lips close over each other, and the back of the head is away.
    """
    # Its type stubs are incomplete.
    o3d = load_open3d()
    template = model.template
    candidates = template.faces[~mask_of(template.regions, INSIDE_MOUTH)[template.faces].any(axis=1)]
    middle = vertices[candidates].mean(axis=1)
    normal = normalised(face_cross(vertices, candidates))
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(o3d.core.Tensor(vertices.astype(np.float32)), o3d.core.Tensor(template.faces.astype(np.uint32)))
    seen = np.zeros(len(candidates), bool)
    centre = template.landmarks(vertices)[30]
    for side, up in VIEWS_DEG:
        eye = centre + VIEW_DISTANCE_M * Rotation.from_euler("YX", [side, -up], degrees=True).apply([0.0, 0.0, 1.0])
        asked = np.flatnonzero(~seen)
        start = middle[asked] + OFF_SURFACE_M * normal[asked]
        rays = np.hstack([start, eye - start]).astype(np.float32)
        free = ~scene.test_occlusions(o3d.core.Tensor(rays), tfar=1.0).numpy()
        seen[asked] = free & (np.einsum("nd,nd->n", eye - start, normal[asked]) > 0)
    return candidates[seen]


@dataclass(frozen=True, eq=False)
class CrossModelSequence:
    """A recorded performance by a person of ICT's model.

    Attributes
    ----------
    person : IctPerson
    expressions : (T, E) float64
        Weights of the model's expressions.
    times_s : (T,) float64
    motions : tuple of Similarity
        Rigid, of the head in each frame.
    seed : int
        Of the noise: a frame is the same whichever others are asked for.
    noise_mm, landmark_noise_mm : float
        Standard deviation per coordinate.
    landmarks : tuple of int
        iBUG indices of those given.
    """

    person: IctPerson
    expressions: F64
    times_s: F64
    motions: tuple[Similarity, ...]
    seed: int
    noise_mm: float = NOISE_MM
    landmark_noise_mm: float = LANDMARK_NOISE_MM
    landmarks: tuple[int, ...] = LANDMARKS

    def __len__(self) -> int:
        return len(self.expressions)

    @cached_property
    def vertices(self) -> int:
        """Vertices of the hidden topology."""
        return len(self.person.model.template.vertices)

    def hidden(self, index: int) -> HiddenScan:
        """Return one frame as a scan; ``order`` holds vertices of the model's template."""
        return self.person.scanned(
            self.expressions[index],
            np.random.default_rng([self.seed, index, 1]),
            noise_mm=self.noise_mm,
            landmark_noise_mm=self.landmark_noise_mm,
            landmarks=self.landmarks,
            motion=self.motions[index],
        )

    def frame(self, index: int) -> Frame:
        """Return one frame as a source would, for :func:`datagen.warp.sequence.fit_sequence`."""
        hidden = self.hidden(index)
        key = SequenceKey(f"ict{self.seed}", "performance")
        return Frame(key, index, float(self.times_s[index]), hidden.scan, (), None, hidden.landmarks)


def cross_model_sequence(
    root: Path,
    frames: int = 60,
    seed: int = 0,
    *,
    every: int = EVERY_FRAME,
    noise_mm: float = NOISE_MM,
    landmark_noise_mm: float = LANDMARK_NOISE_MM,
    landmarks: tuple[int, ...] = LANDMARKS,
    model: HeadModel | None = None,
) -> CrossModelSequence:
    """Draw a person of ICT's model and let them perform the recording.

    Parameters
    ----------
    root : Path
        The folder that holds ``ict_facekit/`` and ``arkit_motion/``.
    frames : int
        At most as many as the recording has.
    seed : int
        Of the person, the head's motion and the noise.
    every : int
        Rows of the recording from one frame to the next, at 60 a second.
    model : HeadModel, optional
        ICT's, if it is loaded already.

    Raises
    ------
    InputError
        If a file is missing or is not what it should be.
    """
    model = load_head("ict", root) if model is None else model
    expressions, fps = read_motion(root, model)
    expressions = expressions[::every][:frames]
    rng = np.random.default_rng([seed, 0])
    person = IctPerson.drawn(model, rng)
    times_s = np.arange(len(expressions)) * every / fps
    motions = head_motions(times_s, rng)
    return CrossModelSequence(
        person, expressions, times_s, motions, seed, noise_mm, landmark_noise_mm, tuple(landmarks)
    )


def read_motion(root: Path, model: HeadModel) -> tuple[F64, float]:
    """Return the recording's weights of the model's expressions (T, E) float64 in [0, 1], and its frames a second.

    Raises
    ------
    InputError
        If the file is missing, cannot be read, or drives other expressions than the model's.
    """
    path = root / MOTION_FILE
    data = read_npz(
        path,
        MOTION_KEYS,
        expected=f"a recorded performance with the arrays {', '.join(MOTION_KEYS)}",
        fix=f"Give the folder that holds {MOTION_FILE}",
    )
    names = [str(name) for name in data["ict_expression_names"]]
    unknown = sorted(set(names) - set(model.expression_names))
    if unknown:
        raise InputError(
            f"{path} drives expressions that the model lacks: {', '.join(unknown)}",
            "the model's own names",
            "Take both files from one place",
        )
    driven = np.clip(data["weights"].astype(np.float64) @ data["to_ict"].astype(np.float64), 0, 1)
    weights = np.zeros((len(driven), len(model.expression_names)))
    weights[:, [model.expression_names.index(name) for name in names]] = driven
    return weights, float(data["fps"])


def head_motions(times_s: F64, rng: np.random.Generator) -> tuple[Similarity, ...]:
    """Return a calm rigid motion of a head somewhere in a room: up to 12 degrees and 2 cm about its mean."""
    home, place = Rotation.random(random_state=rng), rng.uniform(-0.3, 0.3, 3)
    rate_hz, phase = rng.uniform(0.2, 0.6, 6), rng.uniform(0, 2 * np.pi, 6)
    swing = np.sin(2 * np.pi * rate_hz * times_s[:, None] + phase)
    turns = home * Rotation.from_euler("YXZ", swing[:, :3] * [12, 8, 5], degrees=True)
    return tuple(
        Similarity(1.0, turn.as_matrix(), place + 20 / MM_PER_M * move)
        for turn, move in zip(turns, swing[:, 3:], strict=True)
    )


def spread_over(count: int, wanted: int) -> I64:
    """Return ``wanted`` of ``count`` frame numbers, evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(wanted, count)).round().astype(np.int64))
