"""Pictures of meshes and maps without a display: (H, W, 3) uint8 arrays and PNG files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common import scales
from datagen.common.errors import InputError
from datagen.common.files import atomic_write_bytes
from datagen.geometry.camera import Camera, look_at
from datagen.geometry.mesh import vertex_normals
from datagen.heads.regions import REGION_NAMES
from datagen.render.contract import NO_FACE, Fragments, Renderer

Picture = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating]

# Yaw in degrees; positive shows the subject's left side.
VIEWS = {"front": 0.0, "left": 45.0, "right": -45.0}
CAMERA_DISTANCE_M = 2.0  # far enough that perspective does not hide what is compared
# A dark plate in light pages and dark ones: pale errors and bright confidence stand out on it, and no page glares.
BACKGROUND = (46, 46, 46)
INK = (228, 228, 228)
UNKNOWN = (150, 153, 160)
CAPTION_PX = 22
_SUPERSAMPLES = 2
_POINT_RADIUS_PX = 1
_RUNS = 3  # zlib's strategy for runs: half the time for about the same size


@dataclass(frozen=True)
class Rendering:
    """A mesh seen from one camera, with interpolated values.

    Attributes
    ----------
    values : (H, W, C) float32
        NaN where there is no surface, or where a corner's value is unknown.
    light : (H, W) float32
        Headlight shading in [0, 1].
    depth : (H, W) float32
        Planar metres, 0 = none.
    corner : (H, W) int64
        The nearest vertex of the triangle seen, for what cannot be interpolated; -1 = none.
    edge_px : (H, W) float32
        Distance to the nearest triangle edge in pixels of the supersampled grid; infinite off the surface, or if not
        measured.
    camera : Camera
        Of the supersampled grid.
    """

    values: npt.NDArray[np.float32]
    light: npt.NDArray[np.float32]
    depth: npt.NDArray[np.float32]
    corner: npt.NDArray[np.int64]
    edge_px: npt.NDArray[np.float32]
    camera: Camera

    @cached_property
    def shade(self) -> npt.NDArray[np.float32]:
        """What colours are multiplied by, (H, W) float32: the headlight's light, never quite dark."""
        return np.float32(0.30) + np.float32(0.70) * self.light ** np.float32(0.8)


def view_camera(view: str, focus: Floats, size: int) -> Camera:
    """Return a camera in template axes that frames ``focus`` (N, 3) metres in ``size`` × ``size`` pixels.

    Raises
    ------
    InputError
        If the view is not in :data:`VIEWS`.
    """
    if view not in VIEWS:
        raise InputError(f"there is no view {view!r}", f"one of {', '.join(VIEWS)}", "Choose one of these")
    low, high = np.percentile(np.asarray(focus, np.float64), [1, 99], axis=0)
    target, extent = (low + high) / 2, float(np.max(high - low)) * 1.25
    yaw = np.radians(VIEWS[view])
    centre = target + CAMERA_DISTANCE_M * np.array([np.sin(yaw), 0.0, np.cos(yaw)])
    return look_at(view, centre, target, size * CAMERA_DISTANCE_M / extent, size, size)


def render_values(
    vertices: Floats, faces: npt.NDArray[np.integer], values: Floats, camera: Camera, *, edges: bool = False
) -> Rendering:
    """Rasterise values (N, C) on a mesh, or on points where there are no faces, at twice the camera's resolution.

    ``edges`` also measures each pixel's distance to the nearest edge, which a wire drawing needs.
    """
    return render_views(vertices, faces, values, [camera], edges=edges)[0]


def render_views(
    vertices: Floats,
    faces: npt.NDArray[np.integer],
    values: Floats,
    cameras: Sequence[Camera],
    *,
    edges: bool = False,
) -> list[Rendering]:
    """Rasterise values as :func:`render_values` does, from several cameras."""
    fine = [camera.crop(0.0, 0.0, float(camera.width), camera.width * _SUPERSAMPLES) for camera in cameras]
    columns = np.asarray(values, np.float32).reshape(len(vertices), -1)
    if len(faces) == 0:
        return [_splat(np.asarray(vertices, np.float64), columns, camera) for camera in fine]
    normals = vertex_normals(vertices, faces)
    found = _rasteriser().rasterise(vertices, faces, fine)
    return [
        _interpolated(np.asarray(vertices), np.asarray(faces), normals, columns, seen, camera, edges=edges)
        for seen, camera in zip(found, fine, strict=True)
    ]


def _interpolated(
    vertices: Floats,
    faces: npt.NDArray[np.integer],
    normals: npt.NDArray[np.float64],
    columns: npt.NDArray[np.float32],
    fragments: Fragments,
    camera: Camera,
    *,
    edges: bool,
) -> Rendering:
    shape, size = fragments.face.shape, fragments.face.size
    hit = np.flatnonzero(fragments.face.ravel() != NO_FACE)
    # `take` is several times faster than an index here.
    triangle = faces.take(fragments.face.ravel().take(hit), axis=0)
    weights = fragments.barycentric.reshape(-1, 3).take(hit, axis=0).astype(np.float32)
    # A scan's winding may be either way, so both sides are lit. Interpolating the cosine itself is smooth enough.
    facing = np.abs(normals @ camera.world_to_camera[2, :3]).astype(np.float32)
    every = np.column_stack([columns, facing])
    shaded = np.zeros((len(hit), every.shape[1]), np.float32)
    for k in range(3):
        shaded += weights[:, k, None] * every.take(triangle[:, k], axis=0)
    out = np.full((size, columns.shape[1]), np.nan, np.float32)
    light, corner = np.zeros(size, np.float32), np.full(size, -1, np.int64)
    out[hit], light[hit] = shaded[:, :-1], shaded[:, -1]
    corner[hit] = triangle[np.arange(len(hit)), weights.argmax(axis=1)]
    edge = np.full(size, np.inf, np.float32)
    if edges:
        edge[hit] = _edge_distance_px(camera.project(vertices)[0][triangle], weights)
    out = out.reshape(*shape, -1)
    return Rendering(out, light.reshape(shape), fragments.depth, corner.reshape(shape), edge.reshape(shape), camera)


def paint(
    rendering: Rendering,
    colours: npt.NDArray[np.float32],
    *,
    wire: bool = False,
    points: Floats | None = None,
) -> Picture:
    """Light per-pixel colours and shrink them to the camera's resolution.

    Parameters
    ----------
    colours : (H, W, 3) float32 in [0, 1]
        On the supersampled grid; NaN is painted grey.
    wire : bool
        Draw triangle edges.
    points : (L, 3) float, optional
        Marks in the mesh's axes, drawn where the surface does not hide them.
    """
    image = np.empty((*rendering.depth.shape, 3), np.float32)
    image[:] = np.array(BACKGROUND, np.float32) / 255
    surface = np.flatnonzero(rendering.depth > 0)
    lit = np.asarray(colours, np.float32).reshape(-1, 3).take(surface, axis=0)
    # A sum over three columns finds NaN many times faster than a reduction over a short axis.
    lit[~np.isfinite(lit[:, 0] + lit[:, 1] + lit[:, 2])] = np.array(UNKNOWN, np.float32) / 255
    shade = rendering.shade.ravel().take(surface)
    if wire:
        shade = shade * np.where(rendering.edge_px.ravel().take(surface) < 0.7, np.float32(0.72), np.float32(1))
    lit *= shade[:, None]
    image.reshape(-1, 3)[surface] = lit
    if points is not None:
        _mark(image, rendering, np.asarray(points, np.float64))
    n = _SUPERSAMPLES
    small = sum(image[i::n, j::n] for i in range(n) for j in range(n)) / np.float32(n * n)
    return np.rint(np.clip(small, 0, 1) * 255).astype(np.uint8)


def colour_map(values: Floats, low: float, high: float, name: str = scales.ERROR) -> npt.NDArray[np.float32]:
    """Colour values (...) with one of Matplotlib's maps, (..., 3) float32 in [0, 1]; NaN stays NaN."""
    v = np.asarray(values)
    colours = _colours_of(name)
    known = np.isfinite(v)
    scaled = np.clip((v - low) / max(high - low, 1e-12), 0, 1)
    # As Matplotlib does it: of N colours, each for an equal share of the range.
    count = len(colours) - 1
    level = np.minimum(np.where(known, scaled, 0) * count, count - 1).astype(np.intp)
    return colours.take(np.where(known, level, count), axis=0)


@cache
def _colours_of(name: str) -> npt.NDArray[np.float32]:
    """Return the colours of a map (N, 3), and NaN after them."""
    from matplotlib import colormaps

    found = colormaps[name](np.arange(colormaps[name].N))[:, :3]
    return np.concatenate([found, np.full((1, 3), np.nan)]).astype(np.float32)


def canonical_colours(canonical: Floats) -> npt.NDArray[np.float32]:
    """Colour canonical coordinates (..., 3) as ``(c + 1) / 2``, (..., 3) float32; NaN stays NaN."""
    return np.clip((np.asarray(canonical, np.float32) + 1) / 2, 0, 1)


def grid_colours(canonical_m: Floats, spacing_mm: float = 10.0, line_mm: float = 0.6) -> npt.NDArray[np.float32]:
    """Colour template-space metres (..., 3) by a grid of x and y lines, so that a shift of a millimetre shows.

    Every fifth line is drawn in a stronger colour; both run through the template's origin of axes.
    """
    flat = np.asarray(canonical_m, np.float64)
    colours = np.full((*flat.shape[:-1], 3), np.nan, np.float32)
    known = np.isfinite(flat[..., 0] + flat[..., 1])
    mm = flat[known][:, :2] * 1000
    line = np.rint(mm / spacing_mm)
    near = np.abs(mm - line * spacing_mm) < line_mm / 2 * np.where(line % 5 == 0, 1.8, 1.0)
    drawn = np.full((len(mm), 3), 0.90, np.float32)
    drawn[near[:, 1]] = (0.85, 0.25, 0.20)
    drawn[near[:, 0]] = (0.10, 0.35, 0.75)
    colours[known] = drawn
    return colours


def label_colours(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
    """Colour region labels (...), (..., 3) float32 in [0, 1]; label 0 is NaN."""
    which = np.asarray(labels)
    colours = _colours_of("tab20")
    return colours[np.where(which == 0, len(colours) - 1, which % (len(colours) - 1))]


def colour_bar(name: str, low: float, high: float, label: str, width: int, *, open_end: bool = True) -> Picture:
    """Draw a horizontal colour bar with its end values, (34, width, 3); an open end stands for all beyond it."""
    ramp = np.linspace(low, high, max(width - 40, 1))
    bar = np.full((34, width, 3), BACKGROUND, np.uint8)
    bar[2:14, 20 : 20 + len(ramp)] = np.rint(colour_map(ramp, low, high, name) * 255).astype(np.uint8)
    canvas = _Canvas(bar)
    for x, text, anchor in (
        (20, f"{low:.4g}", "la"),
        (width // 2, label, "ma"),
        (width - 20, f"≥ {high:.4g}" if open_end else f"{high:.4g}", "ra"),
    ):
        canvas.text((x, 16), text, fill=INK, font=_font(11), anchor=anchor)
    return np.asarray(canvas.picture)


def text_strip(text: str, width: int) -> Picture:
    """Return a line of text as high as a colour bar, (34, width, 3), shortened in the middle if it is too long."""
    strip = np.full((34, width, 3), BACKGROUND, np.uint8)
    font, kept = _font(11), len(text)
    shown = text
    while font.getlength(shown) > width - 8 and kept > 8:
        kept -= 1
        shown = f"{text[: kept // 2]}…{text[len(text) - kept // 2 :]}"
    canvas = _Canvas(strip)
    canvas.text((width // 2, 8), shown, fill=INK, font=font, anchor="ma")
    return np.asarray(canvas.picture)


def region_legend(labels: npt.NDArray[np.integer], width: int) -> Picture:
    """Return the names of regions, each beside its colour, in as many lines as they need, (H, width, 3)."""
    known = [int(label) for label in labels if label > 0 and int(label) in REGION_NAMES]
    names = [(label, REGION_NAMES[label].replace("_", " ")) for label in known]
    font, places, x, y = _font(12), [], 12, 6
    for label, name in names:
        long = 22 + int(font.getlength(name)) + 18
        if x + long > width and x > 12:
            x, y = 12, y + 22
        places.append((x, y, label, name))
        x += long
    strip = np.full((y + 26, width, 3), BACKGROUND, np.uint8)
    for x, y, label, _ in places:
        colour = label_colours(np.array([label]))[0]
        strip[y + 2 : y + 14, x : x + 14] = np.rint(colour * 255).astype(np.uint8)
    canvas = _Canvas(strip)
    for x, y, _, name in places:
        canvas.text((x + 20, y), name, fill=INK, font=font, anchor="la")
    return np.asarray(canvas.picture)


def contact_sheet(items: Sequence[tuple[str, Picture]], columns: int = 4, gap: int = 6) -> Picture:
    """Lay out titled pictures in rows, each centred in a tile as large as the largest.

    Raises
    ------
    InputError
        If there are no pictures.
    """
    if not items:
        raise InputError("a contact sheet was asked for without pictures", "at least one", "Pass pictures")
    columns = min(columns, len(items))
    height = max(picture.shape[0] for _, picture in items) + CAPTION_PX
    width = max(picture.shape[1] for _, picture in items)
    rows = -(-len(items) // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), BACKGROUND, np.uint8)
    places = []
    for i, (title, picture) in enumerate(items):
        top = gap + (i // columns) * (height + gap)
        left = gap + (i % columns) * (width + gap)
        h, w = picture.shape[:2]
        x = left + (width - w) // 2
        sheet[top + CAPTION_PX : top + CAPTION_PX + h, x : x + w] = picture
        places.append((left + width // 2, top + 3, title))
    canvas = _Canvas(sheet)
    for x, y, title in places:
        canvas.text((x, y), title, fill=INK, font=_font(13), anchor="ma")
    return np.asarray(canvas.picture)


def stack(*pictures: Picture) -> Picture:
    """Put pictures below each other, centred."""
    width = max(picture.shape[1] for picture in pictures)
    rows = []
    for picture in pictures:
        row = np.full((picture.shape[0], width, 3), BACKGROUND, np.uint8)
        left = (width - picture.shape[1]) // 2
        row[:, left : left + picture.shape[1]] = picture
        rows.append(row)
    return np.concatenate(rows)


def shrunk(picture: Picture, side_px: int) -> Picture:
    """Return a picture made smaller, ``side_px`` × ``side_px``, smoothly."""
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize((side_px, side_px), Image.Resampling.LANCZOS))


def write_png(path: Path, picture: Picture) -> Path:
    """Write a picture atomically; return its path."""
    atomic_write_bytes(path, png_bytes(picture))
    return path


def png_bytes(picture: Picture) -> bytes:
    """Return a picture as a PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "PNG", compress_level=1, compress_type=_RUNS)
    return buffer.getvalue()


@cache
def _rasteriser() -> Renderer:
    from datagen.render.registry import make_renderer

    return make_renderer("numba")


def _edge_distance_px(corners: Floats, weights: Floats) -> npt.NDArray[np.float32]:
    """Distance (P,) in pixels of points with barycentric ``weights`` (P, 3) to the edges of triangles (P, 3, 2)."""
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    ab, ac = b - a, c - a
    doubled_area = np.abs(ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0])
    opposite = np.stack([np.linalg.norm(side, axis=1) for side in (c - b, ac, ab)], axis=1)
    heights = doubled_area[:, None] / np.maximum(opposite, 1e-9)
    return (np.asarray(weights) * heights).min(axis=1).astype(np.float32)


def _splat(points: npt.NDArray[np.float64], columns: npt.NDArray[np.float32], camera: Camera) -> Rendering:
    """Draw points as small squares, the nearest on top."""
    pixels, z = camera.project(points)
    shape = (camera.height, camera.width)
    depth = np.full(shape, np.inf)
    owner = np.full(shape, -1, np.int64)
    order = np.argsort(-z)
    order = order[z[order] > 0]
    column, row = np.floor(pixels[order]).astype(np.int64).T
    r = _POINT_RADIUS_PX * _SUPERSAMPLES
    for dy in range(-r, r + 1):
        for dx in range(-r, r + 1):
            y, x = row + dy, column + dx
            inside = (y >= 0) & (y < shape[0]) & (x >= 0) & (x < shape[1])
            y, x, index = y[inside], x[inside], order[inside]
            nearer = z[index] < depth[y, x]
            # Later entries win in a fancy assignment, and the order runs from far to near.
            owner[y[nearer], x[nearer]] = index[nearer]
            depth[y[nearer], x[nearer]] = z[index[nearer]]
    hit = owner >= 0
    values = np.full((*shape, columns.shape[1]), np.nan, np.float32)
    values[hit] = columns[owner[hit]]
    flat = np.where(hit, np.float32(0.9), np.float32(0))
    near = np.where(hit, depth, 0).astype(np.float32)
    return Rendering(values, flat, near, owner, np.full(shape, np.inf, np.float32), camera)


def _mark(image: npt.NDArray[np.floating], rendering: Rendering, points: npt.NDArray[np.float64]) -> None:
    """Draw round marks at points the surface does not hide."""
    pixels, z = rendering.camera.project(points)
    height, width = rendering.depth.shape
    radius = 2.2 * _SUPERSAMPLES
    for (x, y), distance in zip(pixels, z, strict=True):
        if not (0 <= x < width and 0 <= y < height):
            continue
        front = rendering.depth[int(y), int(x)]
        if 0 < front < distance - 0.01:
            continue
        reach = int(radius) + 2
        rows = np.arange(max(int(y) - reach, 0), min(int(y) + reach + 1, height))
        columns = np.arange(max(int(x) - reach, 0), min(int(x) + reach + 1, width))
        away = np.hypot(rows[:, None] + 0.5 - y, columns[None] + 0.5 - x)
        patch = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        patch[away <= radius] = (1.0, 1.0, 1.0)
        patch[away <= radius * 0.62] = (0.05, 0.05, 0.05)


class _Canvas:
    """A Pillow image with its drawing pen."""

    def __init__(self, picture: Picture) -> None:
        from PIL import Image, ImageDraw

        self.picture = Image.fromarray(picture)
        self.text = ImageDraw.Draw(self.picture).text


@cache
def _font(size: int) -> Any:
    from matplotlib import font_manager
    from PIL import ImageFont

    # Pillow's own font lacks mathematical signs; Matplotlib always brings DejaVu.
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)
