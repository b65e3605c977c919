"""Topologies that registrations come in: a known head model's, or one that the captures bring with them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError, LandmarkError
from datagen.common.names import checked_name
from datagen.geometry.landmarks import Landmarks, declared_unit, read_landmarks, validate_landmarks
from datagen.geometry.mesh import Mesh, check_metric_scale, validate_mesh
from datagen.geometry.mesh_io import read_mesh
from datagen.heads.base import HeadTemplate
from datagen.heads.registry import HEADS

FOLDER = "topologies"
MESH_SUFFIXES = (".ply", ".obj", ".npz")
# A landmark marked on a mesh lies on it; one far away belongs to another mesh, pose or unit.
MAX_LANDMARK_DISTANCE_M = 0.01
_SEE = "See docs/capture-format.md, Registrations in a topology of your own"


@dataclass(frozen=True, eq=False)
class Topology:
    """The neutral face of one topology, with landmarks: all that a bridge to another topology needs.

    Attributes
    ----------
    name : str
    vertices : (V, 3) float64
        Metres, in any pose: all that counts is the surface.
    faces : (F, 3) int32
        Counter-clockwise from outside.
    landmarks : Landmarks
        On the neutral face.
    regions : (V,) uint8 or None
        Labels, where the topology is that of a known head model.
    """

    name: str
    vertices: npt.NDArray[np.float64]
    faces: npt.NDArray[np.int32]
    landmarks: Landmarks
    regions: npt.NDArray[np.uint8] | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 over name, vertices and landmarks (rounded to 0.1 µm), faces and regions."""
        sha = hashlib.sha256(self.name.encode() + b"\0")
        for points in (self.vertices, self.landmarks.points):
            sha.update(np.round(points * 1e7).astype("<i8").tobytes())
        sha.update(self.landmarks.indices.astype("<i8").tobytes())
        sha.update(self.faces.astype("<i4").tobytes())
        sha.update(b"" if self.regions is None else self.regions.tobytes())
        return sha.hexdigest()


def topology_of(template: HeadTemplate) -> Topology:
    """Return the topology of a known head model, with all 68 landmarks."""
    points = template.landmarks()
    landmarks = Landmarks(np.arange(len(points), dtype=np.int64), points)
    return Topology(template.name, template.vertices, template.faces, landmarks, template.regions)


def checked_topology_name(name: str) -> str:
    """Return ``name`` if it can name a topology that captures bring with them.

    Raises
    ------
    ValueError
        If it cannot be part of a file's name, or belongs to a head model.
    """
    checked_name(name)
    if name in HEADS:
        raise ValueError(f"{name!r} is a head model: name it with `head` instead of `topology`")
    return name


def topology_files(root: Path, name: str) -> tuple[Path, Path]:
    """Return neutral mesh and landmark file of a topology under a capture root.

    Raises
    ------
    InputError
        If either is missing.
    """
    folder = root / FOLDER
    candidates = [folder / f"{name}{suffix}" for suffix in MESH_SUFFIXES]
    mesh = next((path for path in candidates if path.is_file()), None)
    if mesh is None:
        known = sorted({path.stem for path in folder.glob("*") if path.suffix in MESH_SUFFIXES})
        raise InputError(
            f"there is no neutral mesh of the topology {name!r}" + (f", only of {', '.join(known)}" if known else ""),
            " or ".join(str(path) for path in candidates),
            _SEE,
        )
    landmarks = folder / f"{name}.json"
    if not landmarks.is_file():
        raise InputError(f"the topology {name!r} has no landmarks", str(landmarks), _SEE)
    return mesh, landmarks


def read_topology(name: str, mesh: Path, landmarks: Path) -> Topology:
    """Read a topology from its neutral mesh and landmarks; the landmark file states the unit of both.

    Raises
    ------
    MeshError, LandmarkError
        If a file is missing, broken or in the wrong unit, or the landmarks do not lie on the mesh.
    """
    from scipy.spatial import cKDTree

    neutral = read_mesh(mesh, declared_unit(landmarks))
    validate_mesh(neutral, str(mesh))
    check_metric_scale(neutral.vertices, str(mesh))
    marks = validate_landmarks(read_landmarks(landmarks), str(landmarks))
    distance = np.asarray(cKDTree(_surface_samples(neutral)).query(marks.points)[0])
    if distance.max() > MAX_LANDMARK_DISTANCE_M:
        worst = int(np.argmax(distance))
        raise LandmarkError(
            f"landmark {marks.indices[worst]} of {landmarks} lies {distance[worst] * 1000:.0f} mm from {mesh}",
            f"landmarks on the neutral mesh, at most {MAX_LANDMARK_DISTANCE_M * 1000:g} mm away",
            "Mark them on this very mesh; the landmark file's unit is taken for the mesh too",
        )
    return Topology(name, neutral.vertices, neutral.faces, marks)


def _surface_samples(mesh: Mesh) -> npt.NDArray[np.float64]:
    """Vertices and centroids: near enough to every point of a surface to tell one mesh from another."""
    return np.concatenate([mesh.vertices, mesh.vertices[mesh.faces].mean(axis=1)])
