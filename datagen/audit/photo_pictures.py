"""The registered template over the photographs of its frame: where it lies wrongly, or a camera does, one sees it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from datagen.audit import pictures
from datagen.audit.pictures import Picture
from datagen.audit.warp_pictures import known_template_vertices
from datagen.common.arrays import F64, Bools
from datagen.common.errors import CanonfaceError
from datagen.geometry.camera import Camera
from datagen.geometry.mesh import vertex_normals
from datagen.heads.base import HeadTemplate
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.sources.frame import Frame
from datagen.warp.result import Warp

MOST_CAMERAS = 8
TILE_PX = 340
_AROUND = 1.35  # of the face's box
_FACING = 0.15  # cosine from which a vertex faces a camera
_FINER = 2
_PARTS = ("brows", "right_eye", "left_eye", "nose", "upper_lip", "lower_lip", "right_ear", "left_ear")
# Told apart by colour-blind readers too, and seen on any skin.
_OUTLINE, _OURS, _GIVEN = (255, 214, 10), (255, 214, 10), (0, 190, 255)


def photo_picture(frame: Frame, warp: Warp, template: HeadTemplate) -> Picture | None:
    """Draw the outlines of the registered template's parts, and landmarks, over each photograph.

    Crosses are where the template has its landmarks, rings those that were given.

    Parameters
    ----------
    frame : Frame
        With cameras and their images; of more than :data:`MOST_CAMERAS`, evenly spread ones are shown.

    Returns
    -------
    Picture or None
        None without a photograph that shows the head, or where the registered mesh has another topology.
    """
    vertices = known_template_vertices(warp, template)
    cameras = [camera for camera in frame.cameras if camera.name in frame.images]
    if vertices is None or not cameras:
        return None
    spread = np.unique(np.linspace(0, len(cameras) - 1, min(len(cameras), MOST_CAMERAS)).round().astype(int))
    given = np.zeros((0, 3)) if frame.landmarks is None else frame.landmarks.points
    tiles = []
    for camera in (cameras[k] for k in spread):
        try:
            photo = frame.images[camera.name]()
        except (CanonfaceError, OSError):
            continue
        tile = _tile(photo, camera, vertices, template, given)
        if tile is not None:
            tiles.append((camera.name, tile))
    return pictures.contact_sheet(tiles, columns=4) if tiles else None


def _tile(
    photo: npt.NDArray[np.uint8], camera: Camera, vertices: F64, template: HeadTemplate, given: F64
) -> Picture | None:
    pixels, depth = camera.project(vertices)
    face = pixels[mask_of(template.regions, FACE_REGIONS) & (depth > 0)]
    if not len(face):
        return None
    low, high = face.min(axis=0), face.max(axis=0)
    side, middle = float((high - low).max()) * _AROUND, (low + high) / 2
    corner = middle - side / 2
    if side < 1 or (corner + side <= 0).any() or (corner >= (photo.shape[1], photo.shape[0])).any():
        return None
    size = TILE_PX * _FINER
    box = (*corner, *(corner + side))
    tile = Image.fromarray(photo).transform((size, size), Image.Transform.EXTENT, box, Image.Resampling.BILINEAR)
    draw, scale = ImageDraw.Draw(tile), size / side

    def at(points: F64) -> F64:
        return (points - corner) * scale

    seen, places = _facing(vertices, template, camera), at(pixels)
    for a, b in _outlines(template):
        if seen[a] and seen[b]:
            draw.line([*places[a], *places[b]], fill=_OUTLINE, width=_FINER)
    marks, _ = camera.project(template.landmarks(vertices))
    carriers = template.faces[template.landmark_faces].ravel()
    shown = seen[carriers].reshape(-1, 3).all(axis=1)
    for x, y in at(marks)[shown]:
        draw.line([x - 6, y - 6, x + 6, y + 6], fill=_OURS, width=_FINER)
        draw.line([x - 6, y + 6, x + 6, y - 6], fill=_OURS, width=_FINER)
    if len(given):
        for x, y in at(camera.project(given)[0]):
            draw.ellipse([x - 8, y - 8, x + 8, y + 8], outline=_GIVEN, width=_FINER)
    return np.asarray(tile.resize((TILE_PX, TILE_PX), Image.Resampling.BOX))


def _facing(vertices: F64, template: HeadTemplate, camera: Camera) -> Bools:
    """Return which vertices (V,) face a camera; what other parts hide is not asked."""
    centre = -camera.world_to_camera[:3, :3].T @ camera.world_to_camera[:3, 3]
    towards = centre - vertices
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    facing: Bools = (vertex_normals(vertices, template.faces) * towards).sum(axis=1) > _FACING
    return facing


@lru_cache(maxsize=4)
def _outlines(template: HeadTemplate) -> tuple[tuple[int, int], ...]:
    """Edges of the outlines of parts: those of one triangle, of all that lie in the part as a whole."""
    found: list[tuple[int, int]] = []
    for part in _PARTS:
        faces = template.faces[mask_of(template.regions, (part,))[template.faces].all(axis=1)]
        edges = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
        own, times = np.unique(edges, axis=0, return_counts=True)
        found += [(a, b) for a, b in own[times == 1].tolist()]
    return tuple(found)
