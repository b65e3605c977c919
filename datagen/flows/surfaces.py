"""What samples show of a frame: its scan, the pixels of its depth maps, or the registered template.

A new kind of surface is a function here and an entry of :data:`SURFACES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import F64
from datagen.common.errors import InputError
from datagen.flows.framing import surface_of
from datagen.geometry.camera import Camera
from datagen.geometry.mesh import Mesh
from datagen.heads.base import HeadTemplate
from datagen.manifest import WarpConfig
from datagen.render.contract import Renderer, SurfaceAttributes, ViewMaps
from datagen.render.discs import disc_radii, discs
from datagen.render.maps import render_views
from datagen.render.measured import measured_maps, see_measured
from datagen.sources.depth_maps import DepthMap
from datagen.warp.carry import Carrier
from datagen.warp.result import Warp
from datagen.warp.surface import PointSurface, Surface

# A measured pixel further from the scan, which was made of all of them, is an outlier, or nothing of the head.
MOST_OFF_SCAN_M = 5e-3
# The registered template is shown where a scan was this near, or its place is known so well (RMS of three coordinates).
NEAR_SCAN_M = 3e-3
KNOWN_SPREAD_M = 2e-3


@dataclass(frozen=True)
class ShownFrame:
    """A warped frame whose views are to be made.

    Attributes
    ----------
    warp : Warp
    template : HeadTemplate
    config : WarpConfig
        That the warp was made with.
    renderer : Renderer
    depths : mapping of camera name to a reader
    normals : (N, 3) float64 or None
        Of a point cloud that was measured with them.
    """

    warp: Warp
    template: HeadTemplate
    config: WarpConfig
    renderer: Renderer
    depths: Mapping[str, Callable[[], DepthMap]] = field(default_factory=dict)
    normals: F64 | None = None

    @cached_property
    def carrier(self) -> Carrier:
        """What carries points of this frame."""
        return Carrier(self.warp, self.template, self.config)

    @cached_property
    def scan(self) -> Surface:
        """The scan, for closest points and their normals."""
        warp = self.warp
        if len(warp.scan_faces):
            return Surface(warp.scan_vertices, warp.scan_faces)
        return PointSurface(warp.scan_vertices, warp.registered_vertices.mean(axis=0), self.normals)


Views = Sequence[tuple[str, Camera]]


def scan_views(shown: ShownFrame, views: Views) -> list[ViewMaps]:
    """Render the frame's own scan; a point cloud as discs."""
    cameras = [camera for _, camera in views]
    return render_views(scan_surface(shown), cameras, shown.renderer, hide_back_faces=True)


def scan_surface(shown: ShownFrame) -> SurfaceAttributes:
    """Return the scan with its canonical attributes, as triangles whatever it was."""
    warp = shown.warp
    if len(warp.scan_faces):
        return surface_of(warp)
    points, normals = warp.scan_vertices, _outwards(shown)
    mesh, point_of = discs(points, normals, disc_radii(points))
    mesh = Mesh.of(_bent(shown.carrier.registered, points, mesh.vertices, point_of), mesh.faces)
    carried = shown.carrier(mesh.vertices, normals[point_of])
    # A point without a counterpart has a disc without one.
    known = np.asarray(np.isfinite(warp.canonical[point_of]).all(axis=1))
    return SurfaceAttributes(
        mesh.vertices,
        mesh.faces,
        np.where(known[:, None], carried.canonical, np.float32(np.nan)),
        np.where(known, carried.confidence, np.float32(0)),
        np.where(known, carried.region, np.uint8(0)),
    )


def measured_views(shown: ShownFrame, views: Views) -> list[ViewMaps]:
    """Carry the pixels of the depth maps themselves."""
    return [_measured_view(shown, name, camera) for name, camera in views]


def registered_views(shown: ShownFrame, views: Views) -> list[ViewMaps]:
    """Render the registered template, where the scan or its neighbours say where it is."""
    warp = shown.warp
    vertices, faces = warp.registered_vertices, warp.registered_faces
    carried = shown.carrier(vertices, shown.carrier.registered.normals)
    seen = np.linalg.norm(shown.scan.closest(vertices).position - vertices, axis=1) <= NEAR_SCAN_M
    kept = seen | (warp.spread_m <= KNOWN_SPREAD_M)
    surface = SurfaceAttributes(
        vertices,
        faces[kept[faces].all(axis=1)].astype(np.int32),
        carried.canonical,
        carried.confidence,
        carried.region,
    )
    return render_views(surface, [camera for _, camera in views], shown.renderer, hide_back_faces=True)


SURFACES: dict[str, Callable[[ShownFrame, Views], list[ViewMaps]]] = {
    "scan": scan_views,
    "measured": measured_views,
    "registration": registered_views,
}


def _measured_view(shown: ShownFrame, name: str, camera: Camera) -> ViewMaps:
    if name not in shown.depths:
        raise InputError(
            f"camera {name} has no depth map any more", "the captures that were warped", "Run `datagen build` again"
        )
    found = shown.depths[name]()
    view = see_measured(found.depth, found.camera, camera)
    hit = shown.scan.closest(view.points)
    near = np.linalg.norm(hit.position - view.points, axis=1) <= MOST_OFF_SCAN_M
    view, normals = view.keep(near), hit.normal[near]
    carried = shown.carrier(view.points, normals)
    return measured_maps(view, normals, carried.canonical, carried.confidence, carried.region)


def _bent(
    registered: Surface,
    points: npt.NDArray[np.float64],
    corners: npt.NDArray[np.float64],
    point_of: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """Return discs' corners (M, 3) as high over the registered template as their points are.

    Flat discs stand out of a face that is round, and the one that stands out farthest would be seen.
    """
    foot, own = registered.closest(corners), registered.closest(points)
    height = np.einsum("nd,nd->n", points - own.position, own.normal)[point_of]
    rise = height - np.einsum("nd,nd->n", corners - foot.position, foot.normal)
    # Where the template is far away, or ends, it says nothing of the surface.
    near = (np.abs(height) < NEAR_SCAN_M) & (np.abs(rise) < NEAR_SCAN_M) & ~foot.on_border
    return corners + np.where(near, rise, 0.0)[:, None] * foot.normal


def _outwards(shown: ShownFrame) -> F64:
    """Return the normals of a cloud's points, on the side that the registered template's show."""
    normals = shown.scan.normals
    foot = shown.carrier.registered.closest(shown.scan.vertices)
    return normals * np.where(np.einsum("nd,nd->n", normals, foot.normal) < 0, -1.0, 1.0)[:, None]
