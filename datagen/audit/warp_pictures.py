"""Pictures of one warp: where it is off, what it made of each point, and how sure it is."""

from __future__ import annotations

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
    "confidence": "Confidence of each scan point",
    "error": "True correspondence error",
}
TILE_PX = 340


def write_warp_pictures(
    folder: Path,
    warp: Warp,
    template: HeadTemplate,
    *,
    true_error_mm: npt.NDArray[np.floating] | None = None,
    thumbnail_px: int = 0,
) -> list[Path]:
    """Write ``residual.png``, ``canonical.png`` and ``confidence.png``, and ``error.png`` where errors are given.

    Parameters
    ----------
    template : HeadTemplate
        The one the warp was made with.
    true_error_mm : (N,) float, optional
        From :func:`datagen.audit.truth.true_error_mm`.
    thumbnail_px : int
        Side of ``thumbnail.png``, the scan from the front, which is also written if this is above 0.

    Returns
    -------
    list of Path
        Of the pictures, without the thumbnail.
    """
    columns = [scan_distance_mm(warp), _known_confidence(warp)]
    if true_error_mm is not None:
        columns.append(np.asarray(true_error_mm, np.float64))
    views = _scan_views(warp, template, np.stack(columns, axis=1))
    if thumbnail_px:
        _, first = _coloured(views[:1], 0, DISTANCE_LIMIT_MM, ERROR)[0]
        pictures.write_png(folder / "thumbnail.png", pictures.shrunk(first, thumbnail_px))
    drawn = (
        _residual_sheet(warp, template, views),
        canonical_picture(warp, template),
        _sheet(views, 1, 1.0, CONFIDENCE, "confidence", open_end=False),
    )
    sheets = dict(zip(WARP_PICTURES, drawn, strict=True))
    if true_error_mm is not None:
        label = "true correspondence error, mm"
        sheets["error.png"] = _sheet(views, 2, TRUE_ERROR_LIMIT_MM, ERROR, label)
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
    scan, focus = in_head_axes(warp, warp.scan_vertices), _focus(warp, template)
    carried = in_head_axes(warp, _landmarks(warp, template))
    ours = _canonical_row("scan", scan, warp.scan_faces, (warp.canonical, warp.region), warp.space, carried, focus)
    return pictures.contact_sheet([*ours, *_template_row(template)], columns=4)


def template_picture(template: HeadTemplate) -> Picture:
    """The template as :func:`canonical_picture` shows it beside a scan."""
    return pictures.contact_sheet(_template_row(template), columns=4)


def _template_row(template: HeadTemplate) -> list[tuple[str, Picture]]:
    vertices, space = template.vertices, template.space
    known = space.normalise(vertices), template.regions
    face = _face_of(vertices, template)
    return _canonical_row("template", vertices, template.faces, known, space, template.landmarks(), face)


def _canonical_row(
    name: str,
    vertices: F64,
    faces: npt.NDArray[np.integer],
    known: tuple[npt.NDArray[np.floating], npt.NDArray[np.integer]],
    space: CanonicalSpace,
    landmarks: F64,
    focus: F64,
) -> list[tuple[str, Picture]]:
    """Four pictures of a mesh, of whose vertices normalised coordinates and regions are known."""
    canonical, region = known
    front = pictures.view_camera("front", focus, TILE_PX)
    seen = pictures.render_values(vertices, faces, np.asarray(canonical, np.float64), front)
    c = seen.values
    regions = pictures.label_colours(np.where(seen.corner >= 0, region[seen.corner], 0))
    plain = np.where(np.isfinite(c[..., :1]), np.float32(0.82), np.float32(np.nan)).repeat(3, axis=-1)
    side = pictures.view_camera("left", focus, TILE_PX)
    turned = pictures.render_values(vertices, faces, np.asarray(canonical, np.float64), side)
    return [
        (f"{name}: landmarks", pictures.paint(seen, plain.astype(np.float32), points=landmarks)),
        (f"{name}: 10 mm grid", pictures.paint(seen, pictures.grid_colours(space.metres(c)))),
        (f"{name}: canonical", pictures.paint(turned, pictures.canonical_colours(turned.values))),
        (f"{name}: regions", pictures.paint(seen, regions)),
    ]


def _known_confidence(warp: Warp) -> F64:
    """Confidence, NaN where there is no counterpart to be sure of."""
    return np.where(np.isfinite(warp.canonical).all(axis=1), warp.confidence, np.nan).astype(np.float64)


def _scan_views(warp: Warp, template: HeadTemplate, values: F64) -> list[tuple[str, Rendering]]:
    """Render values (N, C) on the scan in every view, with titles: once for all pictures that show it."""
    scan, focus = in_head_axes(warp, warp.scan_vertices), _focus(warp, template)
    return [
        (title, pictures.render_values(scan, warp.scan_faces, values, pictures.view_camera(view, focus, TILE_PX)))
        for view, title in VIEW_NAMES.items()
    ]


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


def _residual_sheet(warp: Warp, template: HeadTemplate, views: list[tuple[str, Rendering]]) -> Picture:
    registered = in_head_axes(warp, warp.registered_vertices)
    camera = pictures.view_camera("front", _focus(warp, template), TILE_PX)
    grey = np.full((len(registered), 3), 0.82)
    shown = pictures.render_values(registered, warp.registered_faces, grey, camera, edges=True)
    items = [
        *_coloured(views, 0, DISTANCE_LIMIT_MM, ERROR),
        ("registered template", pictures.paint(shown, shown.values, wire=True)),
    ]
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
