"""A head with a checkered texture, and its texture frame coloured by region."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from datagen.audit.pictures import Picture, label_colours, paint, render_values
from datagen.common.arrays import F64
from datagen.geometry.camera import Camera, look_at
from datagen.heads.base import HeadTemplate
from datagen.heads.unwrap import unwrap

PIXELS = 400
CHECKS = 64
TURNS_DEG = (0.0, 60.0, 180.0)
AWAY_M, FRAME_M = 1.2, 0.29
PAGE_M = 50.0


def texture_picture(template: HeadTemplate, suffix: str) -> bytes:
    """Return the picture's file, as PNG for ``.png`` and as WebP for any other suffix."""
    laid = unwrap(template)
    of_uv = np.zeros(len(laid.uv), np.int64)
    of_uv[laid.faces.ravel()] = template.faces.ravel()
    points, colours = template.vertices[of_uv], label_colours(template.regions[of_uv])
    tiles = [_checkered(points, laid.faces, laid.uv, colours, _turned(turn)) for turn in TURNS_DEG]
    flat = np.column_stack([laid.uv - 0.5, np.zeros(len(laid.uv))])
    page = look_at("page", [0.0, 0.0, PAGE_M], [0.0, 0.0, 0.0], PIXELS * PAGE_M, PIXELS, PIXELS)
    drawn = render_values(flat, laid.faces, colours, page, edges=True)
    tiles.append(paint(drawn, drawn.values, wire=True))
    content = io.BytesIO()
    picture = Image.fromarray(np.concatenate(tiles, axis=1))
    picture.save(content, "PNG" if suffix == ".png" else "WEBP", quality=80)
    return content.getvalue()


def _turned(turn_deg: float) -> Camera:
    turn = np.radians(turn_deg)
    centre = np.array([np.sin(turn), 0.0, np.cos(turn)]) * AWAY_M
    target = np.array([0.0, 0.02, 0.0])
    return look_at("view", centre + target, target, PIXELS * AWAY_M / FRAME_M, PIXELS, PIXELS)


def _checkered(
    points: F64, faces: npt.NDArray[np.int32], uv: F64, colours: npt.NDArray[np.float32], camera: Camera
) -> Picture:
    drawn = render_values(points, faces, np.column_stack([uv, colours]), camera)
    dark = np.floor(drawn.values[..., :2] * CHECKS).sum(axis=-1) % 2 == 1
    return paint(drawn, np.where(dark[..., None], drawn.values[..., 2:], np.float32(0.95)).astype(np.float32))
