"""The picture of a bridge: a topology's neutral face and the canonical template, marked alike."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from datagen.audit import pictures
from datagen.audit.pictures import Picture
from datagen.common.arrays import F64
from datagen.common.scales import ERROR
from datagen.geometry.space import MM_PER_M
from datagen.geometry.subdivide import loop_subdivision
from datagen.heads.base import HeadTemplate
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.sources.topology import Topology
from datagen.warp.bridge import Bridge
from datagen.warp.similarity import fit_similarity
from datagen.warp.surface import Surface

TILE_PX = 340
DISTANCE_LIMIT_MM = 3.0


def bridge_picture(bridge: Bridge, topology: Topology) -> Picture:
    """Draw source and template with the same grid, regions and landmarks, and the template laid on the source.

    Where the bridge is right, each line, colour and mark lies on the same feature of both faces. Grey is what has no
    counterpart.

    Parameters
    ----------
    topology : Topology
        Its source.
    """
    template, faces = bridge.template, topology.faces
    face = mask_of(template.regions, FACE_REGIONS)
    # The neutral face may be in any pose; pictures show it upright, from the front and at its own size.
    motion = fit_similarity(bridge.neutral[bridge.valid], template.vertices[bridge.valid], with_scale=False)
    on_surface = _smooth(template, bridge.neutral)
    source, laid = motion.apply(topology.vertices), motion.apply(on_surface)
    canonical = bridge.canonical.astype(np.float64)
    grey = np.full((len(source), 3), 0.82)
    source_camera = pictures.view_camera("front", laid[face], TILE_PX)
    template_camera = pictures.view_camera("front", template.vertices[face], TILE_PX)

    plain = pictures.render_values(source, faces, grey, source_camera, edges=True)
    on_source = pictures.render_values(source, faces, canonical, source_camera)
    on_template = pictures.render_values(
        template.vertices, template.faces, template.space.normalise(template.vertices), template_camera
    )
    wires = pictures.render_values(
        laid, template.faces, _distance_mm(bridge, on_surface, topology)[:, None], source_camera, edges=True
    )
    known = np.where(bridge.valid, template.regions, 0)
    regions = {
        "source": pictures.label_colours(_at(on_source.corner, bridge.region)),
        "template": pictures.label_colours(_at(on_template.corner, template.regions)),
        "laid": pictures.label_colours(_at(wires.corner, known)),
    }
    space, name = template.space, bridge.source
    distance = pictures.colour_map(wires.values[..., 0], 0, DISTANCE_LIMIT_MM)
    items = [
        (f"{name}: its landmarks", pictures.paint(plain, plain.values, points=motion.apply(topology.landmarks.points))),
        (f"{name}: 10 mm grid", pictures.paint(on_source, pictures.grid_colours(space.metres(on_source.values)))),
        (
            f"{template.name}: 10 mm grid",
            pictures.paint(on_template, pictures.grid_colours(space.metres(on_template.values))),
        ),
        (
            f"{template.name} laid on {name}",
            pictures.paint(wires, distance, wire=True, points=template.landmarks(laid)),
        ),
        (f"{name}: regions", pictures.paint(on_source, regions["source"])),
        (f"{template.name}: regions", pictures.paint(on_template, regions["template"])),
        (f"{template.name} laid on {name}: regions", pictures.paint(wires, regions["laid"], wire=True)),
        (f"{name}: its own triangles", pictures.paint(plain, plain.values, wire=True)),
    ]
    label = f"{template.name} laid on {name} to {name}, mm; grey: no counterpart"
    bar = pictures.colour_bar(ERROR, 0, DISTANCE_LIMIT_MM, label, 3 * TILE_PX)
    return pictures.stack(pictures.contact_sheet(items, columns=4), bar)


def _at(corner: npt.NDArray[np.int64], labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.where(corner >= 0, labels[corner], 0).astype(np.uint8)


def _smooth(template: HeadTemplate, vertices: F64) -> F64:
    """Return where template vertices (V, 3) lie on the surface that is subdivided from them."""
    n = len(vertices)
    return np.asarray(loop_subdivision(template.faces, n).matrix[:n] @ vertices)


def _distance_mm(bridge: Bridge, laid: F64, topology: Topology) -> F64:
    """Distance of the laid template's vertices to the source's surface, (V,) mm; NaN without a counterpart."""
    closest = Surface(topology.vertices, topology.faces).closest(laid)
    distance = np.linalg.norm(closest.position - laid, axis=1) * MM_PER_M
    return np.where(bridge.valid, distance, np.nan)
