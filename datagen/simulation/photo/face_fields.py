"""Where the parts of a face lie on a template: smooth fields that colour is drawn from, finer than region labels."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from datagen.common.arrays import F32, F64
from datagen.common.errors import InputError
from datagen.geometry.camera import Camera, look_at
from datagen.heads.base import HeadTemplate
from datagen.heads.regions import REGIONS
from datagen.render.registry import make_renderer

PIXELS, PIXEL_MM, DISTANCE_MM = 320, 0.16, 4000.0


def lid_edges(
    points_mm: F64, faces: npt.NDArray[np.int32], eyeball: npt.NDArray[np.bool_], marks_mm: F64
) -> tuple[F64, F64]:
    """Return points on the edges of the upper and the lower lids, (K, 3) float64 millimetres.

    Parameters
    ----------
    points_mm : (N, 3) float64
    faces : (F, 3) int32
    eyeball : (N,) bool
        Vertices of the eyeballs.
    marks_mm : (68, 3) float64
        iBUG landmarks; those of the eyes say where to look.
    """
    renderer = make_renderer("numba")
    edges: tuple[list[F64], list[F64]] = ([], [])
    for ids in (slice(36, 42), slice(42, 48)):
        aim = marks_mm[ids].mean(axis=0)
        away = np.array([0.0, 0.0, DISTANCE_MM])
        camera = look_at("lids", aim + away, aim, DISTANCE_MM / PIXEL_MM, PIXELS, PIXELS)
        seen = renderer.rasterise(points_mm, faces, [camera])[0]
        ball = (seen.face >= 0) & eyeball[faces[seen.face].max(axis=2)]
        skin = (seen.face >= 0) & ~ball
        # Row 0 is on top: an upper lid lies one row above the eyeball's pixel.
        upper, lower = np.zeros_like(skin), np.zeros_like(skin)
        upper[:-1] = skin[:-1] & ball[1:]
        lower[1:] = skin[1:] & ball[:-1]
        for found, at in zip(edges, (upper, lower), strict=True):
            found.append(_points(camera, seen.depth, at))
    return np.concatenate(edges[0]), np.concatenate(edges[1])


def _points(camera: Camera, depth: npt.NDArray[np.float32], at: npt.NDArray[np.bool_]) -> F64:
    row, column = np.nonzero(at)
    z = depth[row, column].astype(np.float64)
    x = (column + 0.5 - camera.K[0, 2]) / camera.K[0, 0] * z
    y = (row + 0.5 - camera.K[1, 2]) / camera.K[1, 1] * z
    E = camera.world_to_camera
    return np.asarray((np.stack([x, y, z], axis=1) - E[:3, 3]) @ E[:3, :3])


SKIN, RIGHT_EYE, LEFT_EYE, MOUTH, TEETH, CLOTH = range(6)
# Columns of FaceFields.values. Distances are millimetres on a face of standard size, positive inside.
FIELDS = (
    "lip", "brow_along", "brow_across", "upper_lid", "lower_lid", "hair", "beard", "blood", "oil", "pores", "shadow",
    "thin", "strand_x", "strand_y", "strand_z",
)  # fmt: skip
COLUMN = {name: k for k, name in enumerate(FIELDS)}
# Outer corners of the eyes of the standard face, millimetres: midpoint and distance.
STANDARD_EYES, STANDARD_WIDTH = np.array([0.0, 20.0, 88.0]), 88.8
EYEBALLS = ("right_eyeball", "left_eyeball")
FAR_MM = 60.0
# The hairline around the head: azimuth from the front (degrees), height (mm) above which hair grows.
HAIRLINE = np.array(
    [[0, 93], [14, 94], [28, 93], [40, 85], [47, 70], [52, 52], [58, 36], [65, 22], [70, 4], [73, -9], [77, -9],
     [79, 20], [84, 42], [96, 42], [104, 30], [112, 0], [118, -30], [130, -52], [150, -60], [180, -62]], float
)  # fmt: skip
HAIRLINE_RADIUS_MM = 85.0
CROWN = np.array([0.0, 128.0, -45.0])
# Upper border of a beard: distance from the middle, height.
BEARD_TOP = np.array([[90, 45], [72, 22], [66, -14], [52, -38], [38, -44], [30, -38], [22, -32], [0, -30]], float)
BEARD_BOTTOM_MM = -104.0


@dataclass(frozen=True)
class FaceFields:
    """Fields of a densely sampled template, the same for every subject.

    Attributes
    ----------
    points_mm : (N, 3) float32
        Canonical position on a face of standard size: what patterns are functions of.
    material : (N,) int8
        Skin, eyeballs, inside of the mouth.
    values : (N, len(FIELDS)) float32
    eyes : (2, 4) float64
        Centre and radius of the right and left eyeball, as ``points_mm``; radius 0 where there is none.
    unit_mm : float
        Millimetres of the template per standard millimetre.
    order : (N,) int64
        The vertices along a space-filling curve: drawn in this order, neighbours lie together in memory.
    """

    points_mm: F32
    material: npt.NDArray[np.int8]
    values: F32
    eyes: F64
    unit_mm: float
    order: npt.NDArray[np.int64]


def face_fields(
    template: HeadTemplate,
    points: npt.NDArray[np.floating],
    normals: F64,
    faces: npt.NDArray[np.int32],
    regions: npt.NDArray[np.integer],
) -> FaceFields:
    """Evaluate the fields on samples of a template's surface.

    Parameters
    ----------
    template : HeadTemplate
        Its 68 landmarks say where the parts are.
    points, normals : (N, 3) float
        Template-space metres.
    faces : (F, 3) int32
    regions : (N,) int

    Raises
    ------
    datagen.common.errors.InputError
        If the arrays disagree in length.
    """
    if np.shape(points) != (len(regions), 3) or np.shape(normals) != np.shape(points):
        raise InputError(
            f"points {np.shape(points)}, normals {np.shape(normals)} and regions {np.shape(regions)} disagree",
            "one normal and one label per point",
            "Pass arrays of one sampling",
        )
    marks = template.landmarks()
    scale = STANDARD_WIDTH / float(np.linalg.norm(marks[45] - marks[36]))
    middle = (marks[36] + marks[45]) / 2
    p = (np.asarray(points, np.float64) - middle) * scale + STANDARD_EYES
    marks = (marks - middle) * scale + STANDARD_EYES
    labels = np.asarray(regions)
    soft = _Softened(p, labels)
    values = np.zeros((len(p), len(FIELDS)))
    values[:, COLUMN["lip"]] = _lips(p, marks)
    along, across, tangent = _brows(p, marks)
    values[:, COLUMN["brow_along"]], values[:, COLUMN["brow_across"]] = along, across
    upper, lower = lid_edges(p, faces, np.isin(labels, [REGIONS[name] for name in EYEBALLS]), marks)
    values[:, COLUMN["upper_lid"]], values[:, COLUMN["lower_lid"]] = _away(p, upper), _away(p, lower)
    ears = soft("right_ear") + soft("left_ear")
    values[:, COLUMN["hair"]] = _hairline(p) - 30 * np.clip(2 * ears, 0, 1)
    values[:, COLUMN["beard"]] = _beard(p) * (1 - ears)
    values[:, COLUMN["blood"]] = _blood(p, ears)
    values[:, COLUMN["oil"]] = _oil(p)
    values[:, COLUMN["pores"]] = np.clip(0.2 + 0.8 * _spot(p, (0, -15, 115), (20, 22, 30)) + _oil(p) * 0.6, 0, 1)
    values[:, COLUMN["shadow"]] = _eye_shadow(p)
    values[:, COLUMN["thin"]] = np.clip(1.3 * ears - 0.2, 0, 1)
    values[:, COLUMN["strand_x"] :] = _strand(p, np.asarray(normals), across, along, tangent)
    material = np.zeros(len(p), np.int8)
    eyes = np.zeros((2, 4))
    for k, (name, label) in enumerate(zip(EYEBALLS, (RIGHT_EYE, LEFT_EYE), strict=True)):
        member = labels == REGIONS[name]
        material[member] = label
        if member.sum() >= 4:
            eyes[k] = _sphere(p[member])
    material[labels == REGIONS["mouth_interior"]] = MOUTH
    return FaceFields(p.astype(np.float32), material, values.astype(np.float32), eyes, 1 / scale * 1000, along_curve(p))


def along_curve(points_mm: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """Return the order of points (N, 3) along a Morton curve of 2 mm cells, (N,) int64."""
    cells = ((points_mm - points_mm.min(axis=0)) / 2).astype(np.int64)
    code = np.zeros(len(cells), np.int64)
    for bit in range(10):
        for axis in range(3):
            code |= ((cells[:, axis] >> bit) & 1) << (3 * bit + axis)
    return np.argsort(code, kind="stable")


class _Softened:
    """Share of a region around each point, over about 3 mm."""

    def __init__(self, p: F64, labels: npt.NDArray[np.integer]) -> None:
        self._labels = labels
        self._around = cKDTree(p).query(p, k=min(12, len(p)))[1].reshape(len(p), -1)

    def __call__(self, name: str) -> F64:
        return np.asarray((self._labels == REGIONS[name])[self._around].mean(axis=1))


def _curve(points: F64, closed: bool = False, steps: int = 12) -> F64:
    """Return a Catmull-Rom curve through points, densely sampled."""
    ends = (points[-1:], points[:2]) if closed else (2 * points[:1] - points[1:2], 2 * points[-1:] - points[-2:-1])
    q = np.concatenate([ends[0], points, ends[1]])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    pieces = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        for a, b, c, d in zip(q, q[1:], q[2:], q[3:], strict=False)
    ]
    return np.concatenate([*pieces, points[:1] if closed else points[-1:]])


def _lips(p: F64, marks: F64) -> F64:
    """Return the distance inside the lips' outer border, seen from the front; behind the face it is far outside."""
    outline = _curve(marks[48:60, :2], closed=True)
    distance = cKDTree(outline).query(p[:, :2])[0]
    inside = np.where(_in_polygon(p[:, :2], outline), distance, -distance)
    return np.where(p[:, 2] > marks[48:60, 2].min() - 20, inside, -FAR_MM)


def _in_polygon(xy: F64, outline: F64) -> npt.NDArray[np.bool_]:
    """Even-odd rule for points (N, 2) and a closed outline (M, 2)."""
    inside = np.zeros(len(xy), bool)
    near = np.flatnonzero(((xy > outline.min(axis=0)) & (xy < outline.max(axis=0))).all(axis=1))
    x, y = xy[near, 0], xy[near, 1]
    odd = np.zeros(len(near), bool)
    for (ax, ay), (bx, by) in itertools.pairwise(outline):
        if ay != by:
            odd ^= ((ay > y) != (by > y)) & (x < ax + (bx - ax) * (y - ay) / (by - ay))
    inside[near] = odd
    return inside


def _brows(p: F64, marks: F64) -> tuple[F64, F64, F64]:
    """Return the place along a brow (0 inner end, 1 tail), the height over its middle line, and its direction."""
    along, across, tangent = np.zeros(len(p)), np.full(len(p), np.inf), np.zeros((len(p), 3))
    for ids in ((21, 20, 19, 18, 17), (22, 23, 24, 25, 26)):
        line = _curve(marks[list(ids)] + np.array([0.0, 1.0, 0.0]), steps=20)
        found = cKDTree(line).query(p)
        distance, nearest = np.asarray(found[0]), np.asarray(found[1])
        better = distance < np.abs(across)
        direction = np.gradient(line, axis=0)
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        away = p - line[nearest]
        past = (away * direction[nearest]).sum(axis=1)
        u = nearest / (len(line) - 1) + np.where((nearest == 0) | (nearest == len(line) - 1), past / 45, 0)
        v = np.where(away[:, 1] >= 0, distance, -distance)
        along[better], across[better] = u[better], v[better]
        tangent[better] = direction[nearest[better]]
    return along, np.clip(across, -FAR_MM, FAR_MM), tangent


def _away(p: F64, edge: F64) -> F64:
    """Return the distance from a curve given by points; far where there is none."""
    return np.minimum(cKDTree(edge).query(p)[0], FAR_MM) if len(edge) else np.full(len(p), FAR_MM)


def _hairline(p: F64) -> F64:
    """Return the distance above the hairline, positive where hair grows."""
    azimuth = np.rad2deg(np.arctan2(np.abs(p[:, 0]), p[:, 2]))
    line = np.stack([np.deg2rad(HAIRLINE[:, 0]) * HAIRLINE_RADIUS_MM, HAIRLINE[:, 1]], axis=1)
    line = _curve(line, steps=30)
    place = np.stack([np.deg2rad(azimuth) * HAIRLINE_RADIUS_MM, p[:, 1]], axis=1)
    distance = cKDTree(line).query(place)[0]
    height = np.interp(azimuth, HAIRLINE[:, 0], HAIRLINE[:, 1])
    return np.where(p[:, 1] > height, distance, -distance)


def _beard(p: F64) -> F64:
    """Return how densely a beard grows, 0 to 1."""
    top = np.interp(np.abs(p[:, 0]), BEARD_TOP[::-1, 0], BEARD_TOP[::-1, 1])
    azimuth = np.rad2deg(np.arctan2(np.abs(p[:, 0]), p[:, 2]))
    below = 1 / (1 + np.exp((p[:, 1] - top) / 2.5))
    above = 1 / (1 + np.exp((BEARD_BOTTOM_MM - p[:, 1]) / 5))
    front = 1 / (1 + np.exp((azimuth - 82) / 2.5))
    # Sparse below the corners of the lower lip.
    bare = 0.7 * np.clip(_spot(p, (14, -68, 105), (6, 6, 25)) + _spot(p, (-14, -68, 105), (6, 6, 25)), 0, 1)
    return np.asarray(below * above * front * (1 - bare))


def _spot(p: F64, centre: tuple[float, float, float], width: tuple[float, float, float]) -> F64:
    return np.asarray(np.exp(-0.5 * (((p - np.array(centre)) / np.array(width)) ** 2).sum(axis=1)))


def _both(p: F64, centre: tuple[float, float, float], width: tuple[float, float, float]) -> F64:
    mirrored = (-centre[0], centre[1], centre[2])
    return _spot(p, centre, width) + _spot(p, mirrored, width)


def _blood(p: F64, ears: F64) -> F64:
    """Return how much more blood shows than elsewhere: nose, cheeks, ears, lids, chin, knuckles of the face."""
    return np.asarray(
        0.75 * _spot(p, (0, -20, 120), (13, 10, 14))
        + 0.45 * _both(p, (13, -24, 106), (6, 7, 8))
        + 0.5 * _both(p, (43, -12, 88), (16, 13, 22))
        + 0.25 * _spot(p, (0, -80, 104), (15, 10, 18))
        + 0.3 * _both(p, (31, 26, 95), (14, 6, 10))
        + 0.35 * _both(p, (17, 16, 94), (5, 5, 6))
        + 0.15 * _spot(p, (0, 50, 104), (20, 12, 20))
        + 0.28 * ears
    )


def _oil(p: F64) -> F64:
    """Return where skin is oily: forehead, nose, chin."""
    return np.clip(
        0.8 * _spot(p, (0, 65, 100), (34, 22, 25))
        + 1.0 * _spot(p, (0, -8, 118), (10, 20, 16))
        + 0.35 * _both(p, (38, 0, 92), (14, 10, 18))
        + 0.5 * _spot(p, (0, -82, 102), (12, 9, 16)),
        0,
        1,
    )


def _eye_shadow(p: F64) -> F64:
    """Return the darker skin around eyes: below them, and on the lids."""
    return np.clip(
        0.8 * _both(p, (27, 9, 93), (11, 5, 9))
        + 0.6 * _both(p, (31, 28, 95), (15, 6, 10))
        + 0.7 * _both(p, (17, 18, 94), (5, 7, 6)),
        0,
        1,
    )


def _strand(p: F64, normals: F64, across: F64, along: F64, tangent: F64) -> F64:
    """Return the direction hair lies in, (N, 3) unit: from the crown over the scalp, along brows, down in beards."""
    away = p - CROWN
    away /= np.linalg.norm(away, axis=1, keepdims=True) + 1e-9
    scalp = away + np.array([0.0, -0.35, 0.15])
    down = np.array([0.0, -1.0, 0.1]) + 0.35 * np.sign(p[:, :1]) * np.array([1.0, 0, 0])
    brow_near = (np.abs(across) < 14)[:, None]
    rise = np.deg2rad(np.interp(along, [0, 0.2, 0.6, 1.0], [70, 45, 15, -5]))[:, None]
    lean = (-np.clip(across / 6, -1, 1) * 0.5)[:, None]
    brow = tangent * np.cos(rise) + np.array([0.0, 1, 0]) * (np.sin(rise) + lean)
    strand = np.where(brow_near, brow, np.where((p[:, 1] > 10)[:, None] | (p[:, 2:] < 0), scalp, down))
    strand -= (strand * normals).sum(axis=1, keepdims=True) * normals
    return np.asarray(strand / (np.linalg.norm(strand, axis=1, keepdims=True) + 1e-9))


def _sphere(points: F64) -> F64:
    """Return centre and radius (4,) of the least-squares sphere."""
    A = np.column_stack([2 * points, np.ones(len(points))])
    solution = np.linalg.lstsq(A, (points**2).sum(axis=1), rcond=None)[0]
    centre = solution[:3]
    return np.array([*centre, np.sqrt(max(solution[3] + centre @ centre, 0.0))])
