"""The coarse-to-fine deformation of the template onto a scan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.spatial import cKDTree

from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import vertex_normals
from datagen.warp.correspond import BackCheck, Gate, find_targets
from datagen.warp.dense import PointTargets, refine
from datagen.warp.similarity import fit_similarity
from datagen.warp.surface import Surface
from datagen.warp.template import WarpTemplate

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Stage:
    """One step of the coarse-to-fine schedule.

    Attributes
    ----------
    fine : bool
        On the subdivided template.
    wavelength_m : float
        Shorter displacements are suppressed.
    rounds : int
    gate : Gate
    landmark_weight : float
        Of one landmark, in units of a target's weight.
    hold : float
        Of the start within the tangent plane, in the same units.
    """

    fine: bool
    wavelength_m: float
    rounds: int
    gate: Gate
    landmark_weight: float
    hold: float


# The start is the most probable shape already: what is left are short waves, and little to gain along the surface.
FROM_REGISTRATION = (
    Stage(False, 0.05, 2, Gate(0.008, 0.6, 0.0015), 1.0, 0.1),
    Stage(True, 0.03, 2, Gate(0.006, 0.7, 0.001), 0.5, 0.1),
    Stage(True, 0.015, 2, Gate(0.005, 0.7, 0.001), 0.1, 0.1),
)
# A model leaves the detail of a real face further off, and differently inclined, than a tracker does.
FROM_LANDMARKS = (
    Stage(False, 0.25, 2, Gate(0.040, 0.3, 0.030), 10.0, 0.001),
    Stage(False, 0.12, 3, Gate(0.025, 0.3, 0.015), 8.0, 0.001),
    Stage(False, 0.06, 4, Gate(0.015, 0.3, 0.0075), 4.0, 0.001),
    Stage(True, 0.03, 2, Gate(0.008, 0.3, 0.004), 1.0, 0.03),
    Stage(True, 0.015, 2, Gate(0.006, 0.3, 0.0025), 0.2, 0.03),
)


@dataclass(frozen=True)
class Start:
    """Where the dense stages begin.

    Attributes
    ----------
    vertices : (V, 3) float64
        Template topology in the scan's frame, metres.
    schedule : tuple of Stage
    rotate : bool
        The start may be far off, so its detail must be free to turn.
    spread_m : (M,) float64
        Standard deviation of each fine vertex's position, as far as the start's own model knows it.
    """

    vertices: FloatArray
    schedule: tuple[Stage, ...]
    rotate: bool
    spread_m: FloatArray


def deform(
    template: WarpTemplate, surface: Surface, start: Start, landmarks: Landmarks | None
) -> tuple[FloatArray, FloatArray]:
    """Bend the template onto a scan, from long wavelengths to short ones.

    Parameters
    ----------
    template : WarpTemplate
    surface : Surface
        The scan.
    start : Start
    landmarks : Landmarks or None
        In the scan's frame.

    Returns
    -------
    registered : (M, 3) float64
        Fine template vertices in the scan's frame, metres.
    anchored : (M,) float64
        Weight of each vertex's last target in [0, 1]; 0 where the position was only interpolated.
    """
    reference = template.subdivide @ start.vertices
    current = reference.copy()
    anchored = np.zeros(len(reference))
    for stage in start.schedule:
        level = template.fine if stage.fine else template.coarse
        # Template vertices come first among the fine ones, so the coarse skin is a prefix of the fine skin.
        skin = template.skin if stage.fine else template.coarse_skin
        points = _landmark_targets(template, landmarks, stage.landmark_weight, len(skin))
        for _ in range(stage.rounds):
            vertices = current[skin]
            back = BackCheck(cKDTree(current), template.regions, template.canonical_m)
            normals = vertex_normals(vertices, level.faces)
            targets = find_targets(
                surface, vertices, normals, level.regions, level.rest, level.attract, back, stage.gate
            )
            moved = refine(
                level,
                reference[skin],
                vertices,
                targets,
                stage.wavelength_m,
                points,
                hold=stage.hold,
                rotate=start.rotate,
            )
            if stage.fine:
                current[skin] = moved
                anchored[skin] = targets.weight
            else:
                current[template.skin] = reference[template.skin] + template.coarse_to_fine @ (moved - reference[skin])
                current[skin] = moved
            _carry_satellites(template, reference, current)
    return current, anchored


def _landmark_targets(
    template: WarpTemplate, landmarks: Landmarks | None, weight: float, n_skin: int
) -> PointTargets | None:
    if landmarks is None or weight <= 0:
        return None
    operator = template.landmark_matrix(landmarks.indices)[:, template.coarse_skin]
    padding = sp.csr_matrix((operator.shape[0], n_skin - operator.shape[1]))
    return PointTargets(sp.hstack([operator, padding]).tocsr(), landmarks.points, weight)


def _carry_satellites(template: WarpTemplate, reference: FloatArray, current: FloatArray) -> None:
    for satellite in template.satellites:
        motion = fit_similarity(reference[satellite.neighbours], current[satellite.neighbours], with_scale=False)
        current[satellite.vertices] = motion.apply(reference[satellite.vertices])
