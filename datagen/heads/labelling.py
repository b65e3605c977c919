"""Region labels of any head template, from its 68 landmarks and what its parts are.

Widths below are shares of the template's own inter-ocular distance, so they fit any head.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from datagen.common.arrays import F64, Bools
from datagen.heads.regions import REGIONS

Pair = tuple[Bools, Bools]

# Shares of the distance between the outer eye corners (about 90 mm).
EYE_MARGIN = 0.13
BROW_HALF_WIDTH = 0.055
ALA_MARGIN = 0.05
NOSE_RISE = 0.06  # the nose begins this far above its root, landmark 27
LIP_MARGIN = 0.012
EAR_INSET, EAR_GAP, EAR_DEPTH, EAR_RISE, EAR_FALL = 0.1, 0.05, 0.5, 0.12, 0.06
JAW_MARGIN = 0.04
HAIRLINE = 0.85  # of the distance between brows and nose base, above the brows
JAW_RIGHT, JAW_LEFT = 0, 16


def inside_polygon(points: F64, polygon: F64) -> Bools:
    """Return whether each of ``points`` (N, 2) lies inside the simple ``polygon`` (K, 2): even-odd rule."""
    x, y = points[:, 0, None], points[:, 1, None]
    a, b = polygon, np.roll(polygon, -1, axis=0)
    crosses = (a[:, 1] > y) != (b[:, 1] > y)
    rise = np.where(a[:, 1] == b[:, 1], 1.0, b[:, 1] - a[:, 1])
    at = a[:, 0] + (y - a[:, 1]) / rise * (b[:, 0] - a[:, 0])
    return np.asarray((crosses & (x < at)).sum(axis=1) % 2 == 1)


def distance_to_line(points: F64, line: F64, closed: bool = False) -> tuple[F64, F64]:
    """Return the distance of ``points`` (N, D) to the polyline ``line`` (K, D), (N,), and the nearest points (N, D)."""
    a = line if closed else line[:-1]
    b = np.roll(line, -1, axis=0) if closed else line[1:]
    d = b - a
    t = np.einsum("nkd,kd->nk", points[:, None] - a, d) / np.maximum((d**2).sum(axis=1), 1e-18)
    nearest = a + np.clip(t, 0, 1)[..., None] * d
    gap = np.linalg.norm(points[:, None] - nearest, axis=2)
    best = gap.argmin(axis=1)
    rows = np.arange(len(points))
    return gap[rows, best], nearest[rows, best]


def ears_from_landmarks(vertices: F64, landmarks: F64) -> Pair:
    """Return the right and left ear (V,) bool: what stands out beside the head behind the jaw's upper end."""
    unit = np.linalg.norm(landmarks[36] - landmarks[45])
    masks = []
    for sign, line in ((-1.0, landmarks[2::-1]), (1.0, landmarks[14:17])):
        # Head width and depth in front of the ear, at each vertex's own height.
        width, depth = (np.interp(vertices[:, 1], line[:, 1], line[:, k]) for k in (0, 2))
        out = sign * vertices[:, 0] > sign * width - EAR_INSET * unit
        behind = (vertices[:, 2] < depth - EAR_GAP * unit) & (vertices[:, 2] > depth - EAR_DEPTH * unit)
        top, bottom = line[:, 1].max() + EAR_RISE * unit, line[:, 1].min() - EAR_FALL * unit
        level = (vertices[:, 1] < top) & (vertices[:, 1] > bottom)
        masks.append(out & behind & level)
    return masks[0], masks[1]


def label_regions(
    vertices: F64,
    landmarks: F64,
    *,
    opening: F64,
    faces: npt.NDArray[np.integer],
    eyeballs: Pair,
    interior: Bools,
    ears: Pair | None = None,
) -> npt.NDArray[np.uint8]:
    """Label every vertex of a template.

    Parameters
    ----------
    vertices : (V, 3) float64
        Metres, template axes, mouth closed.
    landmarks : (68, 3) float64
        iBUG order.
    opening : (V,) float64
        How far down each vertex moves when the jaw opens; only this tells touching lips apart.
    faces : (F, 3) int
    eyeballs : pair of (V,) bool
        Right and left.
    interior : (V,) bool
        Tongue, teeth, gums and mouth cavity.
    ears : pair of (V,) bool, optional
        Right and left; by default found from the landmarks.

    Returns
    -------
    (V,) uint8
        Labels of :data:`~datagen.heads.regions.REGIONS`, none 0.
    """
    p, xy = landmarks, vertices[:, :2]
    unit = float(np.linalg.norm(p[36] - p[45]))
    labels = np.full(len(vertices), REGIONS["cheeks"], np.uint8)
    front = vertices[:, 2] > p[[JAW_RIGHT, JAW_LEFT], 2].mean()

    below = _below_jaw(vertices, p, JAW_MARGIN * unit)
    lobe = p[[2, 14], 1].mean()
    brow_y, base_y = p[17:27, 1].mean(), p[33, 1]
    behind = vertices[:, 2] < p[[JAW_RIGHT, JAW_LEFT], 2].mean() - 0.02 * unit
    # Across the temples the face ends where the brow's outer end would meet the hair.
    temple = np.abs(vertices[:, 0]) > np.abs(p[[17, 26], 0]).mean() + 0.15 * unit
    over = vertices[:, 1] > np.interp(np.abs(vertices[:, 0]), *_brow_line(p))
    labels[over] = REGIONS["forehead"]
    hair = vertices[:, 1] > brow_y + HAIRLINE * (brow_y - base_y)
    labels[hair | (over & temple) | (behind & (vertices[:, 1] > lobe))] = REGIONS["scalp"]
    labels[below & (vertices[:, 1] <= lobe)] = REGIONS["neck"]

    chin = front & ~below & (vertices[:, 1] < p[57, 1])
    chin &= np.abs(vertices[:, 0] - p[8, 0]) < 0.5 * np.ptp(p[[48, 54], 0])
    labels[chin] = REGIONS["chin"]
    glabella = (vertices[:, 1] > p[27, 1] + NOSE_RISE * unit) & (
        np.abs(vertices[:, 0] - p[27, 0]) < np.abs(p[[21, 22], 0] - p[27, 0]).mean()
    )
    labels[front & glabella & ~hair] = REGIONS["forehead"]
    labels[front & inside_polygon(xy, _nose_outline(p, unit))] = REGIONS["nose"]

    for name, corners, brow in (
        ("right_eye", slice(36, 42), slice(17, 22)),
        ("left_eye", slice(42, 48), slice(22, 27)),
    ):
        outline = p[corners, :2]
        near = distance_to_line(xy, outline, closed=True)[0] < EYE_MARGIN * unit
        inner = np.abs(vertices[:, 0] - p[27, 0]) > 0.5 * np.abs(p[[39, 42], 0] - p[27, 0]).mean()
        # The socket's skin reaches up to the brow.
        socket = np.concatenate([p[brow, :2], outline[[3, 0]]])
        reach = near | inside_polygon(xy, outline) | inside_polygon(xy, socket)
        labels[front & inner & reach] = REGIONS[name]
    for line in (p[17:22], p[22:27]):
        labels[front & (distance_to_line(xy, line[:, :2])[0] < BROW_HALF_WIDTH * unit)] = REGIONS["brows"]
    _label_lips(labels, vertices, p, opening, faces, unit)

    for masks, names in (
        (ears or ears_from_landmarks(vertices, p), ("right_ear", "left_ear")),
        (eyeballs, ("right_eyeball", "left_eyeball")),
    ):
        for mask, name in zip(masks, names, strict=True):
            labels[mask] = REGIONS[name]
    labels[interior] = REGIONS["mouth_interior"]
    return labels


def _brow_line(p: F64) -> tuple[F64, F64]:
    x = np.abs(np.concatenate([p[17:22], p[22:27]])[:, 0])
    order = np.argsort(x)
    return x[order], np.concatenate([p[17:22], p[22:27]])[order, 1]


def _below_jaw(vertices: F64, p: F64, margin: float) -> Bools:
    """Whether a vertex lies under or behind the jaw's contour."""
    _, nearest = distance_to_line(vertices, p[:17])
    return np.asarray((vertices - nearest) @ np.array([0.0, -0.78, -0.62]) > margin)


def _nose_outline(p: F64, unit: float) -> F64:
    """Polygon (K, 2) around the nose in the frontal plane: bridge, wings, base."""
    ala = ALA_MARGIN * unit
    half = 0.5 * np.abs(p[[39, 42], 0] - p[27, 0]).mean()
    tip = p[30, 1]
    base = p[33, 1] - 0.02 * unit
    # Some schemes mark the nostrils' inner rim: the wings reach at least as wide as the inner eye corners.
    wing = max(np.abs(p[[31, 35], 0] - p[33, 0]).mean() + 1.3 * ala, 2.2 * half)
    root = p[27, 1] + NOSE_RISE * unit
    right = [[p[27, 0] - half, root], [p[33, 0] - 0.85 * wing, tip + 0.08 * unit], [p[33, 0] - wing, tip]]
    right += [[p[33, 0] - 0.95 * wing, base], [p[33, 0], base - 0.01 * unit]]
    left = [[2 * p[33, 0] - x, y] for x, y in reversed(right[:-1])]
    return np.array(right + left)


def _label_lips(
    labels: npt.NDArray[np.uint8],
    vertices: F64,
    p: F64,
    opening: F64,
    faces: npt.NDArray[np.integer],
    unit: float,
) -> None:
    """Label the vermilion: within the outer contour, each lip by whether the jaw carries it."""
    outline = p[48:60]
    xy = vertices[:, :2]
    close = distance_to_line(xy, outline[:, :2], closed=True)[0] < LIP_MARGIN * unit
    near_z = vertices[:, 2] > outline[:, 2].min() - 0.12 * unit
    lips = near_z & (inside_polygon(xy, outline[:, :2]) | close)
    # The share of the jaw's motion that separates the lips falls off towards the corners.
    corner = 0.5 * (opening_at(vertices, opening, p[48]) + opening_at(vertices, opening, p[54]))
    lower = opening > np.maximum(corner, 0.25 * opening_at(vertices, opening, p[57]))
    labels[lips & lower] = REGIONS["lower_lip"]
    labels[lips & ~lower] = REGIONS["upper_lip"]
    # At the commissures the lips are one surface: a ring of cheek keeps them apart.
    corners = labels[faces]
    mixed = (corners == REGIONS["upper_lip"]).any(axis=1) & (corners == REGIONS["lower_lip"]).any(axis=1)
    labels[np.unique(faces[mixed])] = REGIONS["cheeks"]


def opening_at(vertices: F64, opening: F64, point: F64) -> float:
    """Return how far the vertex nearest to ``point`` moves down with the jaw."""
    return float(opening[np.linalg.norm(vertices - point, axis=1).argmin()])


# Parts of a head, and other small questions that several head models ask of their meshes.


def components(faces: npt.NDArray[np.integer], vertex_count: int) -> npt.NDArray[np.int64]:
    """Return the connected component of each vertex, (V,) int64."""
    i, j = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    graph = coo_matrix((np.ones(len(i), np.int8), (i, j)), (vertex_count, vertex_count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def rigid_align(
    source: npt.NDArray[np.float64], target: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the rotation (3, 3) and translation (3,) that take ``source`` (N, 3) nearest to ``target`` (N, 3).

    Kabsch (1976), by SVD of the covariance.
    """
    a, b = source.mean(axis=0), target.mean(axis=0)
    U, _, Vt = np.linalg.svd((source - a).T @ (target - b))
    flip = np.array([1.0, 1.0, np.sign(np.linalg.det(U @ Vt))])
    R = (U * flip @ Vt).T
    return R, b - R @ a


def compact(
    keep: npt.NDArray[np.bool_], faces: npt.NDArray[np.integer]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Keep the faces ``keep`` (F,) and the vertices they use.

    Returns
    -------
    vertices : (V',) int64
        Old index of each kept vertex, increasing.
    faces : (F', 3) int32
        Renumbered.
    """
    kept = faces[keep]
    used, renumbered = np.unique(kept, return_inverse=True)
    return used.astype(np.int64), renumbered.reshape(kept.shape).astype(np.int32)


def split_parts(
    vertices: npt.NDArray[np.float64], faces: npt.NDArray[np.integer], landmarks: npt.NDArray[np.float64]
) -> tuple[tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]], npt.NDArray[np.bool_]]:
    """Tell eyeballs and mouth parts from the skin, which is the largest connected component.

    Parameters
    ----------
    vertices : (V, 3) float64
    faces : (F, 3) int
    landmarks : (68, 3) float64
        iBUG order.

    Returns
    -------
    eyeballs : pair of (V,) bool
        Right and left: components whose centre lies within an eye's width of the lids' centre.
    interior : (V,) bool
        All other components.
    """
    part = components(faces, len(vertices))
    sizes = np.bincount(part)
    centres = np.stack([np.bincount(part, vertices[:, k]) for k in range(3)], axis=1) / sizes[:, None]
    apart = np.arange(len(sizes)) != sizes.argmax()
    width = np.linalg.norm(landmarks[36] - landmarks[39])
    eyes = [
        apart & (np.linalg.norm(centres - landmarks[corners].mean(axis=0), axis=1) < width)
        for corners in (slice(36, 42), slice(42, 48))
    ]
    return (eyes[0][part], eyes[1][part]), (apart & ~eyes[0] & ~eyes[1])[part]
