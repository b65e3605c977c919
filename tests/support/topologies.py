"""Topologies as captures bring them along."""

from __future__ import annotations

from pathlib import Path

from datagen.geometry.landmarks import write_landmarks
from datagen.geometry.mesh import Mesh
from datagen.geometry.mesh_io import ply_bytes
from datagen.sources.topology import FOLDER, Topology


def write_topology(root: Path, topology: Topology) -> None:
    """Put a topology where captures under ``root`` find it."""
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{topology.name}.ply").write_bytes(ply_bytes(Mesh.of(topology.vertices, topology.faces)))
    write_landmarks(topology.landmarks, folder / f"{topology.name}.json")
