"""What a head model lacks and a picture of a person has: teeth, and clothes on the shoulders."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import F64
from datagen.geometry.edges import unique_edges
from datagen.geometry.mesh import normalised, vertex_normals
from datagen.heads.base import HeadTemplate
from datagen.heads.labelling import components, rigid_align
from datagen.heads.regions import REGIONS
from datagen.simulation.photo.face_fields import CLOTH, TEETH
from datagen.simulation.photo.shading import Part

# Mesiodistal widths and crown heights from the middle outwards, millimetres (Wheeler's dental anatomy, rounded).
UPPER_WIDTHS, UPPER_HEIGHTS = (8.5, 6.7, 7.6, 7.0, 6.8, 10.0), (10.3, 9.0, 9.8, 8.5, 7.6, 7.0)
LOWER_WIDTHS, LOWER_HEIGHTS = (5.3, 5.8, 6.9, 7.0, 7.1, 11.0), (8.8, 9.2, 10.0, 8.6, 8.0, 7.2)
STEP_MM = 0.6
ARCH_HALF_WIDTH_MM, ARCH_DEPTH_MM = 28.0, 40.0
# From the line where the lips meet: how far behind, and where the edges of the front teeth lie at rest.
BEHIND_LIPS_MM, UPPER_EDGE_MM, LOWER_EDGE_MM, OVERJET_MM = 7.5, -2.0, -1.2, 2.4
MOST_MOUTH_PIECES = 2


class Teeth:
    """Two rows of teeth placed behind a person's lips; the lower one follows the jaw.

    Parameters
    ----------
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


COLUMNS, ROWS, WALL_ROWS = 96, 16, 5
# Half width and depth of the shoulders, their middle behind the head's, heights where slope turns into side; metres
# in template axes below the border of the neck's middle.
SHOULDER_HALF_WIDTH, SHOULDER_HALF_DEPTH, SHOULDER_BACK = 0.205, 0.105, 0.045
SIDE_DROP, FRONT_DROP, BACK_DROP, WALL_M = 0.062, 0.085, 0.07, 0.16
# Share of the head's own motion that the shoulders follow.
FOLLOW = 0.6


class Shirt:
    """Shoulders in a crew neck that grow out of the border of the neck.

    Parameters
    ----------
    rng : numpy Generator
        Draws the build.
    """

    def __init__(self, template: HeadTemplate, rng: np.random.Generator) -> None:
        self._rim = neck_border(template)
        self._wide = SHOULDER_HALF_WIDTH * float(rng.uniform(0.88, 1.1))
        self._fold = rng.uniform(0, 2 * np.pi, 4)
        k = np.arange(COLUMNS)
        rings = ROWS + WALL_ROWS
        corner = (np.arange(rings - 1)[:, None] * COLUMNS + k).ravel()
        right = (np.arange(rings - 1)[:, None] * COLUMNS + (k + 1) % COLUMNS).ravel()
        self._faces = np.concatenate(
            [np.stack([corner, corner + COLUMNS, right], 1), np.stack([right, corner + COLUMNS, right + COLUMNS], 1)]
        ).astype(np.int32)

    def part(self, template_vertices: F64, rest: F64, head_to_world: F64) -> Part | None:
        """Return the shirt around a posed neck; nothing if the head model has no open neck.

        Parameters
        ----------
        template_vertices : (V, 3) float64
            Posed, world metres.
        rest : (V, 3) float64
            The person's neutral template, template metres.
        head_to_world : (4, 4) float64
        """
        if len(self._rim) < 8:
            return None
        posed, still = template_vertices[self._rim], rest[self._rim]
        middle = still.mean(axis=0)
        # The body moves less than the head: where the head would be without its turn.
        centre = np.array([0.0, middle[1], middle[2]])
        anchor = centre + FOLLOW * head_to_world[:3, 3] + (1 - FOLLOW) * (posed - still).mean(axis=0)
        angle = np.arctan2(still[:, 0], still[:, 2] - middle[2])
        order = np.argsort(angle)
        turn = np.linspace(-np.pi, np.pi, COLUMNS, endpoint=False)
        around = np.concatenate([angle[order] - 2 * np.pi, angle[order], angle[order] + 2 * np.pi])
        ring = np.stack([np.interp(turn, around, np.tile(posed[order, k], 3)) for k in range(3)], axis=1)
        side, ahead = np.sin(turn), np.cos(turn)
        end_drop = SIDE_DROP * side**2 + np.where(ahead > 0, FRONT_DROP, BACK_DROP) * ahead**2
        # A superellipse: shoulders are squarer than an ellipse.
        round_ = (np.abs(side) ** 2.6 + np.abs(ahead) ** 2.6) ** (-1 / 2.6)
        end = anchor + np.stack(
            [
                self._wide * side * round_,
                -end_drop,
                SHOULDER_HALF_DEPTH * ahead * round_ - SHOULDER_BACK,
            ],
            axis=1,
        )
        rows, lengths = [ring - 0.004 * normalised(ring - posed.mean(axis=0))], [np.zeros(COLUMNS)]
        for t in np.linspace(0, 1, ROWS - 1):
            drop = 0.30 * t**0.5 + 0.25 * t + 0.45 * t**3.5
            flat = ring + (end - ring) * t
            flat[:, 1] = ring[:, 1] + (end[:, 1] - ring[:, 1]) * drop
            flat[:, 1] += 0.003 * np.sin(3 * turn + 5 * t + self._fold[0]) * t * (1 - t) * 4
            # A collar stands off the neck a little.
            flat += (0.004 * np.exp(-t / 0.05))[..., None] * np.stack([side, 0 * side + 0.3, ahead], axis=1)
            rows.append(flat)
            lengths.append(lengths[-1] + np.linalg.norm(flat - rows[-2], axis=1))
        for k in range(1, WALL_ROWS + 1):
            rows.append(end - np.array([0.0, WALL_M * k / WALL_ROWS, 0.0]))
            lengths.append(lengths[-1] + WALL_M / WALL_ROWS)
        vertices = np.concatenate(rows)
        arc = np.tile(turn * 0.1, len(rows))
        places = np.stack([1000 * arc, vertices[:, 1] * 1000, 1000 * np.concatenate(lengths)], axis=1)
        return Part(
            vertices=vertices,
            normals=normalised(vertex_normals(vertices, self._faces)),
            faces=self._faces,
            places=places.astype(np.float32),
            material=CLOTH,
            behind=True,
        )


def neck_border(template: HeadTemplate) -> npt.NDArray[np.int64]:
    """Return the vertices on the open border of the neck, (R,) int64; empty where the neck is not open."""
    edges, counts = unique_edges(template.faces)
    ends = np.unique(edges[counts == 1])
    return np.asarray(ends[template.regions[ends] == REGIONS["neck"]], np.int64)
