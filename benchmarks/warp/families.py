"""Families: real faces that their authors registered to one topology, and the part of them that counts."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy.interpolate import RBFInterpolator
from scipy.spatial import cKDTree

from benchmarks.warp.cross_model import ICT_FILE
from benchmarks.warp.hidden import HiddenScan, hide
from datagen.common.arrays import F64, I64, Bools
from datagen.common.documents import read_json
from datagen.common.errors import InputError
from datagen.common.files import read_npz
from datagen.geometry.edges import boundary_vertices
from datagen.geometry.mesh import vertex_normals
from datagen.geometry.space import MM_PER_M
from datagen.warp.similarity import fit_similarity
from datagen.warp.surface import Surface

FOLDER = "families"
LANDMARK_FILE = "landmarks.json"
NOISE_MM = 0.1
TEMPLATE_KEYS = (
    "neutral",
    "faces",
    "faces_quad",
    "face_vertex_range",
    "face_quad_range",
    "narrow_face_vertex_range",
    "landmarks68",
)
# A mesh's vertex is of the face if it comes this near to the template's, facing the same way.
NEAR_FACE_M = 8e-3
LEAST_AGREEMENT = 0.5
RIGHT_EYE, LEFT_EYE = range(36, 42), range(42, 48)
EYES, MOUTH, NOSE, BROWS = range(36, 48), range(48, 68), range(27, 36), range(17, 27)
NEAR_FEATURE_M, NEAR_NOSE_M = 12e-3, 14e-3
FEATURES, SMOOTH = ("eyes", "nose", "mouth"), ("forehead", "cheeks")
PARTS = (*FEATURES, *SMOOTH)


@dataclass(frozen=True, eq=False)
class FaceTemplate:
    """ICT's neutral skin of face, ears and front of scalp: the peers' template, and what tells the face on a mesh.

    Attributes
    ----------
    vertices : (V, 3) float64
        Metres.
    faces : (F, 3) int64
    marks : (68,) int64
        Vertex of each iBUG landmark.
    narrow : (V,) bool
        The face proper.
    """

    vertices: F64
    faces: I64
    marks: I64
    narrow: Bools

    @classmethod
    def read(cls, root: Path) -> FaceTemplate:
        """Read it from the folder that contains ``ict_facekit/``; InputError if it is not there."""
        data = read_npz(
            root / ICT_FILE,
            TEMPLATE_KEYS,
            expected=f"the ICT-FaceKit shapes, which judge where a face is, at {ICT_FILE}",
            fix="Give the folder that holds ict_facekit/; docs/heads.md says where the file comes from",
        )
        count = int(data["face_vertex_range"][1])
        faces = data["faces"][data["faces_quad"] < data["face_quad_range"][1]].astype(np.int64)
        narrow = np.arange(count) < int(data["narrow_face_vertex_range"][1])
        return cls(data["neutral"][:count].astype(np.float64), faces, data["landmarks68"].astype(np.int64), narrow)

    def at(self, indices: range | list[int]) -> F64:
        """Return some landmarks, (L, 3) metres."""
        return self.vertices[self.marks[list(indices)]]

    def vertex_marks(self) -> dict[int, tuple[I64, F64]]:
        """Return the landmarks as points on triangles, which here are vertices."""
        return {index: (vertex[None], np.ones(1)) for index, vertex in enumerate(self.marks)}

    @cached_property
    def surface(self) -> Surface:
        """The template as a surface."""
        return Surface(self.vertices, self.faces)


@dataclass(frozen=True, eq=False)
class FaceRegion:
    """The vertices of a topology that count.

    Attributes
    ----------
    face : (N,) bool
    parts : dict of part name to (N,) bool
        See :data:`PARTS`; they share no vertex.
    placed : (N, 3) float64
        Where each vertex lies on the face template, metres.
    """

    face: Bools
    parts: dict[str, Bools]
    placed: F64

    def padded(self, count: int) -> FaceRegion:
        """Return the region of a topology of ``count`` vertices whose first are these."""
        more = count - len(self.face)
        return FaceRegion(
            np.pad(self.face, (0, more)),
            {name: np.pad(mask, (0, more)) for name, mask in self.parts.items()},
            np.pad(self.placed, ((0, more), (0, 0)), constant_values=np.nan),
        )


@dataclass(frozen=True, eq=False)
class Family:
    """Meshes of one topology: the same vertex is the same skin point.

    Attributes
    ----------
    name : str
    vertices : (K, N, 3) float64
        Metres.
    faces : (F, 3) int64
    marks : iBUG index to (vertices, weights)
        Landmarks as points on triangles.
    """

    name: str
    vertices: F64
    faces: I64
    marks: Mapping[int, tuple[I64, F64]]

    def landmarks(self, shape: F64) -> dict[int, F64]:
        """Return the landmarks on vertices (N, 3)."""
        return {index: weights @ shape[corners] for index, (corners, weights) in self.marks.items()}

    @cached_property
    def mean(self) -> F64:
        """Mean shape (N, 3), each mesh moved rigidly onto the first."""
        first = self.vertices[0]
        return np.mean([fit_similarity(v, first, with_scale=False).apply(v) for v in self.vertices], axis=0)

    def limited(self, count: int | None) -> Family:
        """Return at most ``count`` of the meshes, evenly spread."""
        if count is None or count >= len(self.vertices):
            return self
        pick = np.linspace(0, len(self.vertices) - 1, count).round().astype(int)
        return Family(self.name, self.vertices[pick], self.faces, self.marks)

    def hidden(self, k: int, seed: int, landmark_noise_mm: float = 0.0) -> HiddenScan:
        """Return one mesh as an anonymous scan; mesh and motion are the same for each noise of the landmarks."""
        rng = np.random.default_rng([seed, zlib.crc32(self.name.encode()), k])
        shape = self.vertices[k]
        return hide(
            shape, self.faces, self.landmarks(shape), rng, noise_mm=NOISE_MM, landmark_noise_mm=landmark_noise_mm
        )


def read_families(root: Path) -> list[Family]:
    """Read every family of ``root/families`` that has landmarks.

    Raises
    ------
    InputError
        If the folder or its ``landmarks.json`` is missing, or a file is not what it should be.
    """
    folder = root / FOLDER
    path = folder / LANDMARK_FILE
    if not path.is_file():
        raise InputError(
            f"{path} does not exist",
            "families of registered faces (NAME.npz) and their landmarks",
            f"Give the folder that holds {FOLDER}/",
        )
    table = read_json(path)
    entries = table.get("families") if isinstance(table, dict) else None
    if not isinstance(entries, dict):
        raise InputError(f"{path} lacks `families`", "an object of family name → landmarks", "Copy the file again")
    found = [_read_family(folder / f"{name}.npz", entries[name]) for name in sorted(entries)]
    return [family for family in found if family is not None]


def _read_family(path: Path, entry: Any) -> Family | None:
    if not path.is_file():
        return None
    data = read_npz(path, ("vertices", "faces"), expected="vertices (K, N, 3) in mm and faces", fix="Copy it again")
    vertices, faces = data["vertices"].astype(np.float64) / MM_PER_M, data["faces"].astype(np.int64)
    try:
        marks = {
            int(index): (np.array(point["vertices"], np.int64), np.array(point["weights"], np.float64))
            for index, point in entry["points"].items()
        }
        usable = (
            vertices.ndim == 3 and len(vertices) > 1 and all(v.max() < vertices.shape[1] for v, _ in marks.values())
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        usable = False
    if not usable:
        raise InputError(
            f"{path} and its landmarks do not fit each other",
            "two or more meshes of one topology, and for each landmark `vertices` and `weights`",
            f"Copy {path.name} and {LANDMARK_FILE} from one place",
        )
    return Family(path.stem, vertices, faces, marks)


def face_region(family: Family, template: FaceTemplate) -> FaceRegion:
    """Tell the face of a topology and its parts, without any registration: the same for every method.

    The mean shape is bent onto the template by a thin-plate spline through the landmarks. Its face are the vertices
    that then lie within 8 mm of the template's face, away from borders, facing the same way, and not in the opening of
    the eyes, where a scan has eyeballs and the template holes.
    """
    marks = family.landmarks(family.mean)
    indices = sorted(marks)
    source, target = np.array([marks[i] for i in indices]), template.at(indices)
    moved = fit_similarity(source, target)
    bend = RBFInterpolator(
        moved.apply(source), target - moved.apply(source), smoothing=1e-4, kernel="thin_plate_spline"
    )
    bent = moved.apply(family.mean)
    bent = bent + bend(bent)
    foot = template.surface.closest(bent)
    corners = template.faces[foot.face]
    on_border = (foot.barycentric * template.surface.border[corners]).sum(axis=1)
    agreement = np.einsum("nd,nd->n", foot.normal, vertex_normals(bent, family.faces))
    face = template.narrow[corners].all(axis=1) & (on_border < 0.999) & (agreement > LEAST_AGREEMENT)
    face &= np.linalg.norm(bent - foot.position, axis=1) < NEAR_FACE_M
    face &= ~boundary_vertices(family.faces, len(bent))
    face &= ~within(bent, template.at(RIGHT_EYE)) & ~within(bent, template.at(LEFT_EYE))
    return FaceRegion(
        face, {name: mask & face for name, mask in parts_of(foot.position, template).items()}, foot.position
    )


def parts_of(placed: F64, template: FaceTemplate) -> dict[str, Bools]:
    """Return the part of the face (N,) bool that points (N, 3) on the template belong to, by the nearest landmarks."""

    def near(indices: range, distance_m: float) -> Bools:
        return np.asarray(cKDTree(template.at(indices)).query(placed)[0] < distance_m)

    eyes = near(EYES, NEAR_FEATURE_M)
    mouth = near(MOUTH, NEAR_FEATURE_M) & ~eyes
    nose = near(NOSE, NEAR_NOSE_M) & ~eyes & ~mouth
    rest = ~(eyes | mouth | nose)
    high = placed[:, 1] > template.at(BROWS)[:, 1].min()
    return {"eyes": eyes, "nose": nose, "mouth": mouth, "forehead": rest & high, "cheeks": rest & ~high}


def within(points: F64, polygon: F64) -> Bools:
    """Return whether points (N, 3) lie in a convex polygon (P, 3), seen from the front; (N,) bool."""
    edge = np.roll(polygon, -1, axis=0) - polygon
    ahead = points[:, None] - polygon
    side = edge[:, 0] * ahead[..., 1] - edge[:, 1] * ahead[..., 0]
    return np.asarray((side < 0).all(axis=1) | (side > 0).all(axis=1))
