"""A shot whose truth is analytic: an ellipsoid with the regions of a face, which turns and bends before a camera."""

from __future__ import annotations

import numpy as np
import trimesh

from datagen.shards.meshes import MaterialPoints
from tests.support.evaluation_scene import LABELS, _regions, turn, world_camera
from trainer.evaluation.canonical import region_labels
from trainer.evaluation.track.shot import Shot, Topology

RADII = np.array([0.075, 0.105, 0.09])
KEYS = np.array([(-0.6, 0.35), (-0.2, 0.35), (0.2, 0.35), (0.6, 0.35), (0, -0.2), (-0.4, -0.55), (0.4, -0.55)])


def topology(detail: int = 4) -> tuple[Topology, np.ndarray]:
    """Return the topology of an ellipsoid and its vertices on the unit sphere."""
    ball = trimesh.creation.icosphere(detail)
    unit, faces = np.asarray(ball.vertices), np.asarray(ball.faces)
    label = _regions(unit).astype(np.uint8)
    depth = np.sqrt(1 - (KEYS**2).sum(1))
    nearest = [int(np.argmin(np.linalg.norm(unit - point, axis=1))) for point in np.column_stack([KEYS, depth])]
    at = [np.argwhere(faces == vertex)[0] for vertex in nearest]
    on = MaterialPoints(np.array([face for face, _ in at]), np.eye(3)[[corner for _, corner in at]])
    front = unit[:, 2] > 0
    face = front & (label != LABELS["right_ear"])
    return Topology(faces, label, region_labels(LABELS), face, np.ones(len(unit), bool), on), unit


def shot(frames: int = 8, size: int = 84, *, step_deg: float = 2.0, bend_m: float = 0.004, detail: int = 4) -> Shot:
    """Return a shot of a head that turns by ``step_deg`` a frame while its lower half wanders sideways."""
    parts, unit = topology(detail)
    vertices = []
    for t in range(frames):
        head = unit * RADII
        head[:, 0] += bend_m * np.sin(t) * (unit[:, 1] < 0) * unit[:, 1]
        vertices.append(head @ turn(1, step_deg * t).T)
    K = np.array([[2.6 * size, 0, size / 2], [0, 2.6 * size, size / 2], [0, 0, 1]])
    return Shot(
        "ada", "turn", "cam0", np.arange(frames) + 3, np.stack(vertices), np.repeat(K[None], frames, 0),
        np.repeat(world_camera()[None], frames, 0), (size, size), parts,
    )  # fmt: skip
