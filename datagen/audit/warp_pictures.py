"""Pictures of one warp: where it is off, what it made of each point, and how sure it is."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen.audit import pictures
from datagen.audit.pictures import Picture, Rendering
from datagen.common.arrays import F64
from datagen.common.scales import CONFIDENCE, DISTANCE_LIMIT_MM, ERROR, TRUE_ERROR_LIMIT_MM
from datagen.geometry.space import MM_PER_M, CanonicalSpace
from datagen.heads.base import HeadTemplate
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.warp.result import Warp

VIEW_NAMES = {"front": "front", "left": "left three-quarter", "right": "right three-quarter"}
WARP_PICTURES = ("residual.png", "canonical.png", "confidence.png")
PICTURE_TITLES = {
    "residual": "Distance of the scan to the registered template",
    "canonical": "Scan above, template below: each line, colour and mark belongs on the same feature of both",
    "photos": "Registered template over the photographs: outlines belong on lips, lids, nose and brows (crosses: its "
    "landmarks; rings: those given)",
    "confidence": "Confidence of each scan point",
    "error": "True correspondence error",
}
TILE_PX = 340
# Columns of the values that scans are rendered with (canonical coordinates come last), and views of VIEW_NAMES.
_DISTANCE, _CONFIDENCE, _ERROR = 0, 1, 2
_FRONT, _LEFT = 0, 1


def write_warp_pictures(
    folder: Path,
    warp: Warp,
    template: HeadTemplate,
    *,
    true_error_mm: npt.NDArray[np.floating] | None = None,
    distance_mm: F64 | None = None,
    thumbnail_px: int = 0,
) -> list[Path]:
    """Write ``residual.png``, ``canonical.png`` and ``confidence.png``, and ``error.png`` where errors are given.

    Parameters
    ----------
    template : HeadTemplate
        The one the warp was made with.
    true_error_mm : (N,) float, optional
        From :func:`datagen.audit.truth.true_error_mm`.
    distance_mm : (N,) float64, optional
        From :func:`scan_distance_mm`, where it is known already.
    thumbnail_px : int
        Side of ``thumbnail.png``, the scan from the front, which is also written if this is above 0.

    Returns
    -------
    list of Path
        Of the pictures, without the thumbnail.
    """
    distance_mm = scan_distance_mm(warp) if distance_mm is None else distance_mm
    error = np.full(len(warp.scan_vertices), np.nan) if true_error_mm is None else true_error_mm
    values = np.column_stack([distance_mm, _known_confidence(warp), error, warp.canonical])
    views = _scan_views(warp, template, values)
    residual = _coloured(views, _DISTANCE, DISTANCE_LIMIT_MM, ERROR)
    if thumbnail_px:
        pictures.write_png(folder / "thumbnail.png", pictures.shrunk(residual[0][1], thumbnail_px))
    drawn = (
        _residual_sheet(warp, template, residual),
        _canonical_sheet(warp, template, [seen for _, seen in views]),
        _sheet(views, _CONFIDENCE, 1.0, CONFIDENCE, "confidence", open_end=False),
    )
    sheets = dict(zip(WARP_PICTURES, drawn, strict=True))
    if true_error_mm is not None:
        label = "true correspondence error, mm"
        sheets["error.png"] = _sheet(views, _ERROR, TRUE_ERROR_LIMIT_MM, ERROR, label)
    return [pictures.write_png(folder / name, sheet) for name, sheet in sheets.items()]


def scan_distance_mm(warp: Warp, index: npt.NDArray[np.integer] | None = None) -> F64:
    """Distance of scan vertices (all, or those of ``index`` (Q,)) to the registered template, (Q,) float64 mm."""
    from datagen.warp.surface import Surface

    points = warp.scan_vertices if index is None else warp.scan_vertices[index]
    closest = Surface(warp.registered_vertices, warp.registered_faces).closest(points)
    return np.linalg.norm(points - closest.position, axis=1) * MM_PER_M


def canonical_picture(warp: Warp, template: HeadTemplate) -> Picture:
    """Scan and template coloured alike by canonical coordinate: position, a 10 mm grid, and regions.

    The 68 landmarks are drawn on both, carried by the registered mesh on the scan. Where the warp is right, each
    colour, line and mark lies on the same feature on both sides.
    """
    views = _scan_views(warp, template, np.asarray(warp.canonical, np.float64))
    return _canonical_sheet(warp, template, [seen for _, seen in views])


def _canonical_sheet(warp: Warp, template: HeadTemplate, views: list[Rendering]) -> Picture:
    carried = in_head_axes(warp, _landmarks(warp, template))
    ours = _canonical_row("scan", views[_FRONT], views[_LEFT], warp.region, warp.space, carried)
    return pictures.contact_sheet([*ours, *_template_row(template)], columns=4)


def template_picture(template: HeadTemplate) -> Picture:
    """The template as :func:`canonical_picture` shows it beside a scan."""
    return pictures.contact_sheet(_template_row(template), columns=4)


@lru_cache(maxsize=2)
def _template_row(template: HeadTemplate) -> tuple[tuple[str, Picture], ...]:
    """The same below every scan of a report, so drawn once."""
    vertices, space = template.vertices, template.space
    cameras = [pictures.view_camera(view, _face_of(vertices, template), TILE_PX) for view in ("front", "left")]
    front, left = pictures.render_views(vertices, template.faces, space.normalise(vertices), cameras)
    return tuple(_canonical_row("template", front, left, template.regions, space, template.landmarks()))


def _canonical_row(
    name: str,
    front: Rendering,
    left: Rendering,
    region: npt.NDArray[np.integer],
    space: CanonicalSpace,
    landmarks: F64,
) -> list[tuple[str, Picture]]:
    """Four pictures of a mesh that was rendered with its normalised coordinates as the last columns."""
    c, turned = front.values[..., -3:], left.values[..., -3:]
    regions = pictures.label_colours(np.where(front.corner >= 0, region[front.corner], 0))
    plain = np.where(np.isfinite(c[..., :1]), np.float32(0.82), np.float32(np.nan)).repeat(3, axis=-1)
    return [
        (f"{name}: landmarks", pictures.paint(front, plain.astype(np.float32), points=landmarks)),
        (f"{name}: 10 mm grid", pictures.paint(front, pictures.grid_colours(space.metres(c)))),
        (f"{name}: canonical", pictures.paint(left, pictures.canonical_colours(turned))),
        (f"{name}: regions", pictures.paint(front, regions)),
    ]


def _known_confidence(warp: Warp) -> F64:
    """Confidence, NaN where there is no counterpart to be sure of."""
    return np.where(np.isfinite(warp.canonical).all(axis=1), warp.confidence, np.nan).astype(np.float64)


def _scan_views(warp: Warp, template: HeadTemplate, values: F64) -> list[tuple[str, Rendering]]:
    """Render values (N, C) on the scan in every view, with titles: once for all pictures that show it."""
    scan, focus = in_head_axes(warp, warp.scan_vertices), _focus(warp, template)
    cameras = [pictures.view_camera(view, focus, TILE_PX) for view in VIEW_NAMES]
    return list(zip(VIEW_NAMES.values(), pictures.render_views(scan, warp.scan_faces, values, cameras), strict=True))


def _coloured(views: list[tuple[str, Rendering]], column: int, limit: float, colours: str) -> list[tuple[str, Picture]]:
    return [
        (title, pictures.paint(seen, pictures.colour_map(seen.values[..., column], 0, limit, colours)))
        for title, seen in views
    ]


def _sheet(
    views: list[tuple[str, Rendering]], column: int, limit: float, colours: str, label: str, *, open_end: bool = True
) -> Picture:
    sheet = pictures.contact_sheet(_coloured(views, column, limit, colours), columns=3)
    return pictures.stack(sheet, pictures.colour_bar(colours, 0, limit, label, 2 * TILE_PX, open_end=open_end))


def _residual_sheet(warp: Warp, template: HeadTemplate, residual: list[tuple[str, Picture]]) -> Picture:
    registered = in_head_axes(warp, warp.registered_vertices)
    camera = pictures.view_camera("front", _focus(warp, template), TILE_PX)
    grey = np.full((len(registered), 3), 0.82)
    shown = pictures.render_values(registered, warp.registered_faces, grey, camera, edges=True)
    items = [*residual, ("registered template", pictures.paint(shown, shown.values, wire=True))]
    label = "scan to registered template, mm"
    bar = pictures.colour_bar(ERROR, 0, DISTANCE_LIMIT_MM, label, 3 * TILE_PX)
    return pictures.stack(pictures.contact_sheet(items, columns=4), bar)


def in_head_axes(warp: Warp, points: npt.NDArray[np.floating]) -> F64:
    """Undo the head's pose, so that every picture shows the face upright and from the same side."""
    R, t = warp.head_to_world[:3, :3], warp.head_to_world[:3, 3]
    return np.asarray((np.asarray(points, np.float64) - t) @ R)


def _face_of(vertices: F64, template: HeadTemplate) -> F64:
    return vertices[mask_of(template.regions, FACE_REGIONS)]


def _focus(warp: Warp, template: HeadTemplate) -> F64:
    """What the pictures frame: the registered face where its vertices are known, else all of the mesh."""
    coarse = known_template_vertices(warp, template)
    return (
        in_head_axes(warp, warp.registered_vertices)
        if coarse is None
        else _face_of(in_head_axes(warp, coarse), template)
    )


def _landmarks(warp: Warp, template: HeadTemplate) -> F64:
    """The template's landmarks on the registered mesh, in the scan's frame; none if its topology is another."""
    coarse = known_template_vertices(warp, template)
    return np.zeros((0, 3)) if coarse is None else template.landmarks(coarse)


def known_template_vertices(warp: Warp, template: HeadTemplate) -> F64 | None:
    """The registered place of the template's own vertices, None if the registered mesh has another topology.

    A subdivided mesh (four times the faces at each level) keeps the coarse vertices in front.
    """
    n, f = len(template.vertices), len(template.faces)
    levels = np.log2(max(len(warp.registered_faces), 1) / f) / 2
    if len(warp.registered_vertices) < n or abs(levels - round(levels)) > 1e-9 or levels < 0:
        return None
    return warp.registered_vertices[:n]
