"""What is known of a detector's points: where they lie on a template, how they usually err, and how much.

Learnt from people whose shape is known, by ``python -m benchmarks detector --learn``; see docs/evidence.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.spatial import cKDTree

from datagen.common.arrays import F64, I64
from datagen.common.errors import InputError
from datagen.common.files import npz_bytes, read_npz
from datagen.geometry.mesh import face_cross, normalised
from datagen.geometry.subdivide import loop_subdivision
from datagen.heads.base import HeadTemplate
from datagen.heads.regions import INTERIOR_REGIONS, mask_of
from datagen.warp.template import subdivision_levels

FOLDER = "data"
# Within so much of a point the surface tells which way it looks.
AROUND_M = 8e-3
REACH = 3.0
LENGTHS = ("shift_m", "lean_to_m", "modes_m", "common_m", "alone_m")
NUMBERS = ("lean_from", "cosines", "growth", "turns_deg", "turn_growth", "together")
ARRAYS = ("points", "faces", "barycentric", *LENGTHS, *NUMBERS)
TEXTS = ("template", "detector")


@dataclass(frozen=True, eq=False)
class ViewOfFace:
    """How a camera sees a face, under weak perspective.

    Attributes
    ----------
    rotation : (3, 3) float64
        Template axes to x right, y down, z away from the viewer.
    px_per_m : float
        Of the picture, at the face.
    """

    rotation: F64
    px_per_m: float

    @property
    def towards(self) -> F64:
        """Direction to the viewer (3,) in template axes."""
        return np.asarray(-self.rotation[2])

    @property
    def turned_deg(self) -> float:
        """Angle between the way the face looks and the direction to the viewer."""
        return float(np.degrees(np.arccos(np.clip(self.towards[2], -1, 1))))

    @property
    def roll(self) -> F64:
        """Rotation (2, 2) in the picture, from one in which the face is upright."""
        up = self.rotation[:2, 1]
        sine, cosine = np.array([up[0], -up[1]]) / max(float(np.linalg.norm(up)), 1e-9)
        return np.array([[cosine, -sine], [sine, cosine]])


def view_terms(towards: F64) -> F64:
    """Return what shifts depend on, (..., 6), of directions (..., 3) to the viewer in template axes."""
    x, y = towards[..., 0], towards[..., 1]
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)


@dataclass(frozen=True, eq=False)
class DetectorModel:
    """A detector's points on one template.

    Attributes
    ----------
    template, detector : str
        Digest of the template; name and version of the detector.
    points : (P,) int64
        Which of the detector's points are known, increasing.
    faces : (P,) int64
    barycentric : (P, 3) float64
        Where they lie on the template.
    shift_m : (P, 6, 2) float64
        How far from there the detector sees them, metres at the face, to the right and down in a picture in which the
        face is upright: coefficients of :func:`view_terms`.
    lean_from, lean_to_m : (R, P, 3) float64
        How far the detector leans towards its own idea of a face, whose shape is seen by several pictures: for each
        row of the first, its product with the deviation from the mean face (in metres) is a number of about N(0, 1), by
        which the second, a displacement in template axes, counts.
    modes_m : (K, P, 3) float64
        How else its idea of a face differs from person to person: displacements in template axes, each times a factor
        from N(0, 1) which all pictures of an instant share.
    common_m : (P,) float64
        Standard deviation along each axis of what differs besides, and is still the same in all pictures of an instant.
    alone_m : (P,) float64
        The same of what differs from picture to picture, of points that look into the camera.
    cosines, growth : (B,) float64
        By which factor the latter grows as a point turns away: at increasing cosines between its normal and the
        direction to the camera, between which it is interpolated. Points below the first are not believed.
    turns_deg, turn_growth : (T,) float64
        By which it grows as the whole face turns away.
    together : (2,) float64
        How many points of a picture err together: in common, and alone.
    """

    template: str
    detector: str
    points: I64
    faces: I64
    barycentric: F64
    shift_m: F64
    lean_from: F64
    lean_to_m: F64
    modes_m: F64
    common_m: F64
    alone_m: F64
    cosines: F64
    growth: F64
    turns_deg: F64
    turn_growth: F64
    together: F64

    def seen_shift_m(self, view: ViewOfFace) -> F64:
        """Return how far from their places the points are seen, (P, 2) metres at the face, right and down."""
        return np.asarray(np.einsum("t,ptd->pd", view_terms(view.towards), self.shift_m) @ view.roll.T)

    def lean_m(self, deviation_m: F64) -> F64:
        """Return the displacement (P, 3) in template axes of a face that deviates so (P, 3) from the mean face."""
        return np.asarray(np.tensordot(np.einsum("rpd,pd->r", self.lean_from, deviation_m), self.lean_to_m, 1))

    def alone_growth(self, view: ViewOfFace, normal: F64) -> F64:
        """Return by which factor (P,) what differs from picture to picture is larger than of a frontal view."""
        of_face = np.interp(view.turned_deg, self.turns_deg, self.turn_growth)
        return np.asarray(np.interp(normal @ view.towards, self.cosines, self.growth) * of_face)

    def places(self, template: HeadTemplate) -> tuple[F64, F64]:
        """Return places and normals of the points, see :func:`places`."""
        return places(template, self.faces, self.barycentric)


def places(template: HeadTemplate, faces: I64, barycentric: F64) -> tuple[F64, F64]:
    """Return points (P, 3) of a neutral template's smooth surface, metres, and which way the face looks there (P, 3).

    These unit normals are of the surface around a point, so that folds of lids and lips do not count.
    """
    smooth = smooth_template(template)
    at = np.einsum("pc,pcd->pd", barycentric, smooth[template.faces[faces]])
    return at, surrounding_normals(template, at)


def surrounding_normals(template: HeadTemplate, at: F64) -> F64:
    """Return the mean normal (Q, 3) of a neutral template's skin around points (Q, 3) metres."""
    smooth = smooth_template(template)
    skin = template.faces[~mask_of(template.regions, INTERIOR_REGIONS)[template.faces].any(axis=1)]
    centres = cKDTree(smooth[skin].mean(axis=1))
    near = cKDTree(at).sparse_distance_matrix(centres, REACH * AROUND_M, output_type="coo_matrix")
    weight = sp.csr_matrix((np.exp(-0.5 * (near.data / AROUND_M) ** 2), (near.row, near.col)), shape=near.shape)
    # Areas of a fold's two sides cancel.
    total = weight @ face_cross(smooth, skin)
    return np.asarray(normalised(total))


@lru_cache(maxsize=4)
def smooth_template(template: HeadTemplate) -> F64:
    """Return where a template's own vertices come to lie on its smooth surface, (V, 3) metres."""
    return on_smooth_surface(template, template.vertices)


def on_smooth_surface(template: HeadTemplate, vertices: F64) -> F64:
    """Return the vertices (V, 3) of the smooth surface that ``vertices`` (V, 3) control."""
    return np.asarray(_smoothing(template) @ vertices)


@lru_cache(maxsize=4)
def _smoothing(template: HeadTemplate) -> sp.csr_matrix:
    count = len(template.vertices)
    return loop_subdivision(template.faces, count, subdivision_levels(template, None)).matrix[:count]


def is_known(head: str) -> bool:
    """Whether anything was learnt for a head model."""
    return _stored(head).is_file()


def _stored(head: str) -> Traversable:
    return files("datagen.evidence") / FOLDER / f"{head}_face_mesh.npz"


def detector_model(template: HeadTemplate) -> DetectorModel:
    """Return what was learnt for a template.

    Raises
    ------
    InputError
        If nothing was, or the template has changed since.
    """
    stored = _stored(template.name)
    fix = "Choose a head that is known, or learn this one: python -m benchmarks detector --learn"
    if not stored.is_file():
        raise InputError(f"where a face detector's points lie on {template.name!r} is not known", "anny", fix)
    model = read_detector_model(Path(str(stored)))
    if model.template != template.digest:
        raise InputError(
            f"where a face detector's points lie was learnt for another template ({model.template[:12]})",
            f"that of {template.name!r} ({template.digest[:12]})",
            fix,
        )
    return model


def detector_model_bytes(model: DetectorModel) -> bytes:
    """Return the content of a model's file; half precision, far below what is known, for all but the places."""
    arrays: dict[str, npt.NDArray[np.generic]] = {name: np.asarray(getattr(model, name)) for name in ARRAYS}
    for name, array in arrays.items():
        if array.dtype.kind == "f":
            arrays[name] = array.astype(np.float32 if name == "barycentric" else np.float16)
        else:
            arrays[name] = array.astype(np.int32)
    # In millimetres: half precision has few small numbers.
    for name in LENGTHS:
        arrays[name] = (np.asarray(getattr(model, name)) * 1e3).astype(np.float16)
    texts = {name: np.frombuffer(getattr(model, name).encode(), np.uint8) for name in TEXTS}
    return npz_bytes({**arrays, **texts})


def read_detector_model(path: Path) -> DetectorModel:
    """Read a model's file.

    Raises
    ------
    InputError
        If it is missing or broken.
    """
    fix = "Learn it again: python -m benchmarks detector --learn"
    found = read_npz(path, (*ARRAYS, *TEXTS), expected="where a detector's points lie on a template", fix=fix)
    template, detector = (found[name].tobytes().decode() for name in TEXTS)
    points, faces = (found[name].astype(np.int64) for name in ("points", "faces"))
    barycentric = found["barycentric"].astype(np.float64)
    lengths = {name: found[name].astype(np.float64) * 1e-3 for name in LENGTHS}
    numbers = {name: found[name].astype(np.float64) for name in NUMBERS}
    return DetectorModel(template, detector, points, faces, barycentric, **lengths, **numbers)
