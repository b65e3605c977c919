"""A shirt for simulated subjects: seen below the head in pictures, in no scan and no map."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from datagen.geometry.mesh import normalised, unique_edges, vertex_normals
from datagen.heads.base import HeadTemplate
from datagen.heads.regions import REGIONS
from datagen.render.images.face_fields import CLOTH
from datagen.render.images.shading import Part

F64 = npt.NDArray[np.float64]

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
    template : HeadTemplate
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
