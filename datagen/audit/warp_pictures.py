"""Pictures of one warp: where it is off, what it made of each point, and how sure it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen.audit import pictures
from datagen.audit.pictures import Picture
from datagen.geometry.space import MM_PER_M
from datagen.heads.base import HeadTemplate
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.warp.result import Warp

VIEW_NAMES = {"front": "front", "left": "left three-quarter", "right": "right three-quarter"}
TILE_PX = 340
RESIDUAL_LIMIT_MM = 2.0
ERROR_LIMIT_MM = 4.0

Floats = npt.NDArray[np.float64]


def write_warp_pictures(
    folder: Path,
    warp: Warp,
    template: HeadTemplate,
    *,
    true_error_mm: npt.NDArray[np.floating] | None = None,
) -> list[Path]:
    """Write ``residual.png``, ``canonical.png`` and ``confidence.png``, and ``error.png`` where errors are given.

    Parameters
    ----------
    folder : Path
    warp : Warp
    template : HeadTemplate
        The one the warp was made with.
    true_error_mm : (N,) float, optional
        From :func:`datagen.audit.truth.true_error_mm`.

    Raises
    ------
    datagen.errors.StorageError
        If the disk refuses.
    """
    sheets = {
        "residual.png": residual_picture(warp, template),
        "canonical.png": canonical_picture(warp, template),
        "confidence.png": confidence_picture(warp, template),
    }
    if true_error_mm is not None:
        sheets["error.png"] = error_picture(warp, template, true_error_mm)
    return [pictures.write_png(folder / name, sheet) for name, sheet in sheets.items()]


def scan_distance_mm(warp: Warp, index: npt.NDArray[np.integer] | None = None) -> Floats:
    """Distance of scan vertices (all, or those of ``index`` (Q,)) to the registered template, (Q,) float64 mm."""
    from datagen.warp.surface import Surface

    points = warp.scan_vertices if index is None else warp.scan_vertices[index]
    closest = Surface(warp.registered_vertices, warp.registered_faces).closest(points)
    return np.linalg.norm(points - closest.position, axis=1) * MM_PER_M


def residual_picture(warp: Warp, template: HeadTemplate) -> Picture:
    """Scan coloured by its distance to the registered template, beside that template and its wires."""
    distance = scan_distance_mm(warp)
    scan, focus = _in_head_axes(warp, warp.scan_vertices), _focus(warp, template)
    items = _coloured_views(scan, warp, distance, RESIDUAL_LIMIT_MM, "YlOrRd", focus)
    registered = _in_head_axes(warp, warp.registered_vertices)
    camera = pictures.view_camera("front", focus, TILE_PX)
    grey = np.full((len(registered), 3), 0.82)
    shown = pictures.render_values(registered, warp.registered_faces, grey, camera)
    items.append(("registered template", pictures.paint(shown, shown.values, wire=True)))
    sheet = pictures.contact_sheet(items, columns=4)
    label = "scan to registered template, mm"
    return pictures.stack(sheet, pictures.colour_bar("YlOrRd", 0, RESIDUAL_LIMIT_MM, label, 3 * TILE_PX))


def canonical_picture(warp: Warp, template: HeadTemplate) -> Picture:
    """Scan and template coloured alike by canonical coordinate: position, a 10 mm grid, and regions.

    The 68 landmarks are drawn on both, carried by the registered mesh on the scan. Where the warp is right, each
    colour, line and mark lies on the same feature on both sides.
    """
    rows: list[tuple[str, Picture]] = []
    scan, focus = _in_head_axes(warp, warp.scan_vertices), _focus(warp, template)
    carried = _in_head_axes(warp, _landmarks(warp, template))
    sides = (
        ("scan", scan, warp.scan_faces, warp.canonical, warp.region, carried, focus),
        (
            "template",
            template.vertices,
            template.faces,
            warp.space.normalise(template.vertices),
            template.regions,
            template.landmarks(),
            _face_of(template.vertices, template),
        ),
    )
    for name, vertices, faces, canonical, region, landmarks, shown_part in sides:
        front = pictures.view_camera("front", shown_part, TILE_PX)
        values = np.concatenate([np.asarray(canonical, np.float64), np.asarray(region, np.float64)[:, None]], axis=1)
        seen = pictures.render_values(vertices, faces, values, front)
        c = seen.values[..., :3]
        # Interpolated labels mean nothing; the pixels between two regions are left grey.
        label = np.where(np.isfinite(seen.values[..., 3]), seen.values[..., 3], 0)
        whole = np.abs(label - np.rint(label)) < 1e-3
        regions = pictures.label_colours(np.where(whole, np.rint(label), 0).astype(np.int64))
        plain = np.where(np.isfinite(c[..., :1]), np.float32(0.82), np.float32(np.nan)).repeat(3, axis=-1)
        side = pictures.view_camera("left", shown_part, TILE_PX)
        turned = pictures.render_values(vertices, faces, np.asarray(canonical, np.float64), side)
        rows += [
            (f"{name}: landmarks", pictures.paint(seen, plain.astype(np.float32), points=landmarks)),
            (f"{name}: 10 mm grid", pictures.paint(seen, pictures.grid_colours(warp.space.metres(c)))),
            (f"{name}: canonical", pictures.paint(turned, pictures.canonical_colours(turned.values))),
            (f"{name}: regions", pictures.paint(seen, regions)),
        ]
    return pictures.contact_sheet(rows, columns=4)


def confidence_picture(warp: Warp, template: HeadTemplate) -> Picture:
    """Scan coloured by confidence; grey where it has no counterpart."""
    known = np.where(np.isfinite(warp.canonical).all(axis=1), warp.confidence, np.nan)
    scan, focus = _in_head_axes(warp, warp.scan_vertices), _focus(warp, template)
    sheet = pictures.contact_sheet(_coloured_views(scan, warp, known, 1.0, "viridis", focus), columns=3)
    return pictures.stack(sheet, pictures.colour_bar("viridis", 0, 1, "confidence", 2 * TILE_PX))


def error_picture(warp: Warp, template: HeadTemplate, true_error_mm: npt.NDArray[np.floating]) -> Picture:
    """Scan coloured by its true correspondence error; grey where that is unknown."""
    scan, focus = _in_head_axes(warp, warp.scan_vertices), _focus(warp, template)
    sheet = pictures.contact_sheet(
        _coloured_views(scan, warp, true_error_mm, ERROR_LIMIT_MM, "YlOrRd", focus), columns=3
    )
    label = "true correspondence error, mm"
    return pictures.stack(sheet, pictures.colour_bar("YlOrRd", 0, ERROR_LIMIT_MM, label, 2 * TILE_PX))


def _coloured_views(
    scan: Floats, warp: Warp, values: npt.NDArray[np.floating], limit: float, colours: str, focus: Floats
) -> list[tuple[str, Picture]]:
    items = []
    for view, title in VIEW_NAMES.items():
        camera = pictures.view_camera(view, focus, TILE_PX)
        seen = pictures.render_values(scan, warp.scan_faces, np.asarray(values, np.float64), camera)
        items.append((title, pictures.paint(seen, pictures.colour_map(seen.values[..., 0], 0, limit, colours))))
    return items


def _in_head_axes(warp: Warp, points: npt.NDArray[np.floating]) -> Floats:
    """Undo the head's pose, so that every picture shows the face upright and from the same side."""
    R, t = warp.head_to_world[:3, :3], warp.head_to_world[:3, 3]
    return np.asarray((np.asarray(points, np.float64) - t) @ R)


def _face_of(vertices: Floats, template: HeadTemplate) -> Floats:
    return vertices[mask_of(template.regions, FACE_REGIONS)]


def _focus(warp: Warp, template: HeadTemplate) -> Floats:
    """What the pictures frame: the registered face where its vertices are known, else all of the mesh."""
    coarse = _template_vertices(warp, template)
    return (
        _in_head_axes(warp, warp.registered_vertices)
        if coarse is None
        else _face_of(_in_head_axes(warp, coarse), template)
    )


def _landmarks(warp: Warp, template: HeadTemplate) -> Floats:
    """The template's landmarks on the registered mesh, in the scan's frame; none if its topology is another."""
    coarse = _template_vertices(warp, template)
    return np.zeros((0, 3)) if coarse is None else template.landmarks(coarse)


def _template_vertices(warp: Warp, template: HeadTemplate) -> Floats | None:
    """The registered place of the template's own vertices, None if the registered mesh has another topology.

    A subdivided mesh (four times the faces at each level) keeps the coarse vertices in front.
    """
    n, f = len(template.vertices), len(template.faces)
    levels = np.log2(max(len(warp.registered_faces), 1) / f) / 2
    if len(warp.registered_vertices) < n or abs(levels - round(levels)) > 1e-9 or levels < 0:
        return None
    return warp.registered_vertices[:n]
