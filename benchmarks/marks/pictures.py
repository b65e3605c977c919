"""A face in shaded clay with its 68 landmarks, seen from the front and from both sides."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy.spatial.transform import Rotation

from benchmarks.marks.sources import Source
from datagen.common.arrays import F64
from datagen.common.files import atomic_write_bytes
from datagen.common.open3d_library import load_open3d
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import Mesh, vertex_normals
from datagen.heads.base import HeadModel
from datagen.heads.landmarks import COUNT
from datagen.warp.similarity import fit_similarity

PIXELS = 560
FRAME_M = 0.23
TURNS_DEG = (0.0, -35.0, 35.0)
VISIBLE_M = 4e-3
# Of the picture, from the landmarks' mean.
MIDDLE = np.array([0.0, 0.0, -0.03])
LIGHT = (0.3, 0.5, 0.8)
MARK, HIDDEN = (200, 30, 30), (150, 150, 160)


def view_axes(turn_deg: float) -> F64:
    """Return the rotation (3, 3) from template axes to a viewer who looks along -z, the head turned about +y."""
    return np.asarray(Rotation.from_euler("y", turn_deg, degrees=True).as_matrix())


def clay(
    mesh: Mesh,
    points: F64,
    turn_deg: float,
    *,
    centre: F64,
    frame_m: float = FRAME_M,
    light: tuple[float, float, float] = LIGHT,
) -> Image.Image:
    """Draw a mesh in template axes, and points (L, 3) with their numbers; ``centre`` (3,) is the picture's middle."""
    o3d = load_open3d()
    R = view_axes(turn_deg)
    vertices, at = (mesh.vertices - centre) @ R.T, (points - centre) @ R.T
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(o3d.core.Tensor(vertices.astype(np.float32)), o3d.core.Tensor(mesh.faces.astype(np.uint32)))
    step = frame_m / PIXELS
    x = (np.arange(PIXELS) + 0.5) * step - frame_m / 2
    grid = np.stack(np.meshgrid(x, -x), axis=-1).reshape(-1, 2)
    rays = np.column_stack([grid, np.full(len(grid), 1.0), np.tile([0.0, 0.0, -1.0], (len(grid), 1))])
    answer = scene.cast_rays(o3d.core.Tensor(rays.astype(np.float32)))
    distance, face = answer["t_hit"].numpy(), answer["primitive_ids"].numpy().astype(np.int64)
    hit = np.isfinite(distance)
    uv = answer["primitive_uvs"].numpy()[hit]
    weights = np.column_stack([1 - uv.sum(axis=1), uv])
    normals = np.einsum("nc,ncd->nd", weights, vertex_normals(vertices, mesh.faces)[mesh.faces[face[hit]]])
    colour = np.full((len(grid), 3), 255.0)
    towards = np.array(light) / np.linalg.norm(light)
    colour[hit] = (70 + 150 * np.clip(normals @ towards, 0, 1))[:, None] * np.array([1.0, 0.97, 0.93])
    image = Image.fromarray(colour.reshape(PIXELS, PIXELS, 3).clip(0, 255).astype(np.uint8))
    depth = np.where(hit, 1.0 - distance, -np.inf).reshape(PIXELS, PIXELS)
    draw = ImageDraw.Draw(image)
    for index, point in enumerate(at):
        if np.isfinite(point).all():
            column, row = (point[0] + frame_m / 2) / step, (frame_m / 2 - point[1]) / step
            shown = _visible(depth, row, column, point[2])
            draw.ellipse((column - 2.5, row - 2.5, column + 2.5, row + 2.5), fill=MARK if shown else HIDDEN)
            draw.text((column + 3, row - 9), str(index), fill=(20, 20, 90) if shown else HIDDEN)
    return image


def _visible(depth: npt.NDArray[np.floating], row: float, column: float, z: float) -> bool:
    r, c = int(row), int(column)
    inside = 0 <= r < depth.shape[0] and 0 <= c < depth.shape[1]
    return inside and depth[r, c] - z < VISIBLE_M


def sheet(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Put pictures of one size beside and below each other."""
    width, height = rows[0][0].size
    whole = Image.new("RGB", (width * max(len(row) for row in rows), height * len(rows)), "white")
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            whole.paste(image, (c * width, r * height))
    return whole


def face_picture(mesh: Mesh, landmarks: Landmarks, axes: F64) -> list[Image.Image]:
    """Draw a face from all sides, brought upright by its landmarks and those of a template, ``axes`` (68, 3)."""
    fit = fit_similarity(landmarks.points, axes[landmarks.indices])
    R, centre = fit.rotation, landmarks.points.mean(axis=0)
    turned = Mesh((mesh.vertices - centre) @ R.T, mesh.faces)
    points = np.full((COUNT, 3), np.nan)
    points[landmarks.indices] = (landmarks.points - centre) @ R.T
    return [clay(turned, points, turn, centre=MIDDLE) for turn in TURNS_DEG]


def write_picture(path: Path, heads: Sequence[HeadModel], sources: Sequence[Source]) -> None:
    """Write the heads with their landmarks, and below them one face of each source with what hands marked."""
    axes = heads[0].template.landmarks()
    rows = []
    for template in (head.template for head in heads):
        marks = Landmarks(np.arange(COUNT), template.landmarks())
        rows.append(face_picture(Mesh(template.vertices, template.faces), marks, axes))
    for source in sources:
        rows.append(face_picture(source.people[0].mesh, source.people[0].landmarks, axes))
    buffer = io.BytesIO()
    sheet(rows).save(buffer, "PNG", optimize=True)
    atomic_write_bytes(path, buffer.getvalue())
