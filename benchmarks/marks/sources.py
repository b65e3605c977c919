"""Faces whose 68 landmarks somebody else marked: two families of people, a raw scan, a head model's own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datagen.common.arrays import F64
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import Mesh
from datagen.geometry.mesh_io import read_mesh
from datagen.heads.base import HeadModel
from datagen.heads.ict import FILE
from datagen.heads.regions import mask_of
from datagen.heads.registry import load_head

FAMILIES = ("facefuns", "multiface")
MM = 1e-3


@dataclass(frozen=True, eq=False)
class Person:
    """A face in its file's frame, metres, with what was marked on it."""

    mesh: Mesh
    landmarks: Landmarks


@dataclass(frozen=True, eq=False)
class Source:
    """People marked by one hand."""

    name: str
    people: tuple[Person, ...]


def read_sources(root: Path) -> tuple[Source, ...]:
    """Read the two families, the raw scan and ICT's own marks from ``root``."""
    families = tuple(_family(root / "families", name) for name in FAMILIES)
    return (*families, _james(root / "scans" / "menpo_james"), _kit(load_head("ict", root), root / FILE))


def _family(root: Path, name: str) -> Source:
    table = json.loads((root / "landmarks.json").read_text())["families"][name]["points"]
    with np.load(root / f"{name}.npz", allow_pickle=False) as z:
        shapes, faces = z["vertices"].astype(np.float64) * MM, z["faces"].astype(np.int32)
    indices = np.array(sorted(int(i) for i in table))
    corners = np.array([table[str(i)]["vertices"] for i in indices])
    weights = np.array([table[str(i)]["weights"] for i in indices])

    def marks(shape: F64) -> Landmarks:
        return Landmarks(indices, np.einsum("lc,lcd->ld", weights, shape[corners]))

    return Source(name, tuple(Person(Mesh(shape, faces), marks(shape)) for shape in shapes))


def _james(root: Path) -> Source:
    mesh = read_mesh(root / "james.obj", "mm")
    table = json.loads((root / "landmarks.json").read_text())
    points = np.array(table["points"], np.float64)[table["ibug68_order"]] * MM
    return Source("james", (Person(mesh, Landmarks(np.arange(68), points)),))


def _kit(head: HeadModel, path: Path) -> Source:
    """Return the neutral face of ICT-FaceKit with the kit's own landmarks, the jaw's from its true jawline."""
    template = head.template
    with np.load(path, allow_pickle=False) as data:
        marks = data["landmarks68"].astype(np.int64)
        neutral = data["neutral"].astype(np.float64)
        right, left = (data[f"jawline_{side}"].astype(np.int64) for side in ("right", "left"))
    marks[0:8] = right[np.argsort(-neutral[right, 1])]
    marks[9:17] = left[np.argsort(neutral[left, 1])]
    inside = mask_of(template.regions, ("mouth_interior",))
    faces = template.faces[~inside[template.faces].any(axis=1)]
    used, renumbered = np.unique(faces, return_inverse=True)
    mesh = Mesh(template.vertices[used], renumbered.reshape(faces.shape).astype(np.int32))
    return Source(template.name, (Person(mesh, Landmarks(np.arange(68), neutral[marks])),))
