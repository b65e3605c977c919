"""Teeth for head models without any: seen in pictures and in the way of cameras, in no scan and no map."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from datagen.geometry.mesh import normalised, vertex_normals
from datagen.heads.base import HeadTemplate
from datagen.heads.parts import components, rigid_align
from datagen.heads.regions import REGIONS
from datagen.render.images.face_fields import TEETH
from datagen.render.images.shading import Part

F64 = npt.NDArray[np.float64]

# Mesiodistal widths and crown heights from the middle outwards, millimetres (Wheeler's dental anatomy, rounded).
UPPER_WIDTHS, UPPER_HEIGHTS = (8.5, 6.7, 7.6, 7.0, 6.8, 10.0), (10.3, 9.0, 9.8, 8.5, 7.6, 7.0)
LOWER_WIDTHS, LOWER_HEIGHTS = (5.3, 5.8, 6.9, 7.0, 7.1, 11.0), (8.8, 9.2, 10.0, 8.6, 8.0, 7.2)
STEP_MM, GUM_MM = 0.6, 9.0
ARCH_HALF_WIDTH_MM, ARCH_DEPTH_MM = 28.0, 40.0
# From the line where the lips meet: how far behind, and where the edges of the front teeth lie at rest.
BEHIND_LIPS_MM, UPPER_EDGE_MM, LOWER_EDGE_MM, OVERJET_MM = 7.5, -2.0, -1.2, 2.4
MOST_MOUTH_PIECES = 2


class Teeth:
    """Two rows of teeth placed behind a person's lips; the lower one follows the jaw.

    Parameters
    ----------
    template : HeadTemplate
    rest : (V, 3) float64
        The person's neutral template, template metres.
    rng : numpy Generator
        Draws how even they are.
    """

    def __init__(self, template: HeadTemplate, rest: F64, rng: np.random.Generator) -> None:
        marks = template.landmarks(rest)
        self._rest, self._jaw = rest, np.flatnonzero(template.regions == REGIONS["chin"])
        middle = marks[[61, 62, 63, 65, 66, 67]].mean(axis=0)
        size = float(np.linalg.norm(marks[54] - marks[48])) / 0.0478
        uneven = rng.normal(0, 0.35, (2, 2, 6))
        upper = _row(UPPER_WIDTHS, UPPER_HEIGHTS, uneven[0], OVERJET_MM, up=1.0)
        lower = _row(LOWER_WIDTHS, LOWER_HEIGHTS, uneven[1], 0.0, up=-1.0)
        base = middle + size * 1e-3 * np.array([0, 0, -BEHIND_LIPS_MM - OVERJET_MM])
        self._upper = base + size * 1e-3 * (upper[0] + np.array([0, UPPER_EDGE_MM, 0]))
        self._lower = base + size * 1e-3 * (lower[0] + np.array([0, LOWER_EDGE_MM, 0]))
        self._faces = np.concatenate([upper[2], lower[2] + len(upper[0])]).astype(np.int32)
        self._places = np.concatenate([upper[1], lower[1]]).astype(np.float32)

    def part(self, template_vertices: F64, head_to_world: F64) -> Part:
        """Return the teeth of a posed template (V, 3) float64 world metres; the pose (4, 4) is the head's."""
        template_shape = (template_vertices - head_to_world[:3, 3]) @ head_to_world[:3, :3]
        R, t = rigid_align(self._rest[self._jaw], template_shape[self._jaw])
        local = np.concatenate([self._upper, self._lower @ R.T + t])
        vertices = local @ head_to_world[:3, :3].T + head_to_world[:3, 3]
        normals = normalised(vertex_normals(vertices, self._faces))
        return Part(vertices, normals, self._faces, self._places, TEETH, behind=False)


def lacks_teeth(template: HeadTemplate) -> bool:
    """Return whether a template's mouth holds no more than its lining and a tongue."""
    mouth = template.regions == REGIONS["mouth_interior"]
    part = components(template.faces, len(template.vertices))
    return bool(mouth.any()) and len(np.unique(part[mouth])) <= MOST_MOUTH_PIECES


def _row(
    widths: tuple[float, ...], heights: tuple[float, ...], uneven: F64, forward: float, *, up: float
) -> tuple[F64, F64, npt.NDArray[np.int64]]:
    """Return one row: vertices (mm; x left, y up from the front edge, z forward from the arch's front), places, faces.

    ``up`` is 1 for upper teeth, whose gums are above them, and -1 for lower ones.
    """
    ends = np.cumsum(widths)
    arc = np.arange(-ends[-1] + STEP_MM, ends[-1], STEP_MM)
    tooth = np.minimum(np.searchsorted(ends, np.abs(arc)), len(widths) - 1)
    start = np.r_[0, ends][tooth]
    across = 2 * (np.abs(arc) - start) / np.array(widths)[tooth] - 1  # -1 to 1 over a tooth
    side = (arc > 0).astype(int)
    height = np.array(heights)[tooth] + 0.5 * uneven[side, tooth]
    # The arch: half an ellipse, walked along its length.
    angle = np.linspace(-np.pi / 2, np.pi / 2, 721)
    curve = np.stack([ARCH_HALF_WIDTH_MM * np.sin(angle), ARCH_DEPTH_MM * (np.cos(angle) - 1)], axis=1)
    walked = np.r_[0, np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))]
    walked -= walked[360]
    x, z = np.interp(arc, walked, curve[:, 0]), np.interp(arc, walked, curve[:, 1])
    slope = np.gradient(np.stack([x, z], axis=1), axis=0)
    outward = np.stack([-slope[:, 1], slope[:, 0]], axis=1)
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    edge = 0.9 * np.abs(across) ** 5 + 0.25 * uneven[side, tooth] + 0.012 * (np.abs(arc) / 4) ** 2
    groove = -1.5 * np.abs(across) ** 6
    gum_line = height - 1.2 * np.abs(across) ** 2  # papillae reach down between teeth
    columns, rows = [], []
    # From the back of the edge over the edge to the gum: share of the crown, depth inwards.
    for share, inward in ((0.25, 6.0), (0.0, 3.0), (0.0, 1.0), (0.08, 0.35), (0.35, 0.0), (0.7, 0.0), (0.93, 0.35),
                          (1.03, 0.1), (1.5, 0.6), (2.0, 2.5)):  # fmt: skip
        along = edge + share * (gum_line - edge)
        depth = forward - inward + groove * (1 if share < 0.95 else 0.3)
        columns.append(np.stack([x + outward[:, 0] * depth, up * along, z + outward[:, 1] * depth], axis=1))
        rows.append(np.stack([arc, gum_line - along, np.full(len(arc), share)], axis=1))
    n = len(arc)
    corner = (np.arange(len(columns) - 1)[:, None] * n + np.arange(n - 1)).ravel()
    quads = np.stack([corner, corner + 1, corner + n + 1, corner + n], axis=1)
    if up < 0:
        quads = quads[:, ::-1]
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    return np.concatenate(columns), np.concatenate(rows), faces
