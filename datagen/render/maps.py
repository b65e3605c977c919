"""Ground-truth maps of a surface with canonical attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.geometry.camera import Camera
from datagen.render.contract import Fragments, Renderer, SurfaceAttributes, ViewMaps
from datagen.render.inputs import check_attributes, view_matrices
from datagen.render.numba.edges import MeshEdges, Projection, padded_edge_map
from datagen.render.numba.maps_kernel import interpolate_view, packed_surface


def render_views(
    surface: SurfaceAttributes, cameras: Sequence[Camera], renderer: Renderer, *, hide_back_faces: bool = False
) -> list[ViewMaps]:
    """Render depth, canonical coordinates, normals, regions and confidence into every camera.

    A triangle with an unknown corner (NaN canonical coordinate, or confidence 0) has depth and a normal, but no
    canonical coordinate, region or confidence. Nothing is blended across triangles.

    Parameters
    ----------
    renderer : Renderer
        From :func:`datagen.render.registry.make_renderer`.
    hide_back_faces : bool
        Where the nearest surface shows its back, the pixel holds no surface. Right for scans: there the camera looks
        through a hole at the inside of the head, while the image shows skin.

    Returns
    -------
    list of ViewMaps
        One per camera, in order.

    Raises
    ------
    datagen.common.errors.MeshError
        If the mesh is empty, not finite or inconsistent, or an attribute does not have one value per vertex.
    datagen.common.errors.CameraError
        If a camera is not valid.
    """
    check_attributes(surface)
    return renderer.render(surface, cameras, hide_back_faces=hide_back_faces)


def maps_from_fragments(
    surface: SurfaceAttributes,
    cameras: Sequence[Camera],
    fragments: Sequence[Fragments],
    *,
    hide_back_faces: bool = False,
) -> list[ViewMaps]:
    """Interpolate the maps of views that were rasterised: ``render`` of backends that do no more than that.

    Parameters
    ----------
    fragments : sequence of Fragments
        One per camera, in order, of the same mesh.
    hide_back_faces : bool
        As :func:`render_views`.
    """
    vertices = np.ascontiguousarray(surface.vertices, np.float64)
    faces = np.ascontiguousarray(surface.faces, np.int32)
    table = packed_surface(surface)
    edges = MeshEdges.of(vertices, faces)
    views = []
    for camera, seen in zip(cameras, fragments, strict=True):
        projection = Projection.of(vertices, faces, camera)
        edge = padded_edge_map(edges, faces, projection, camera)
        maps = empty_maps(camera)
        depth = seen.depth.copy()
        interpolate_view(
            seen.face,
            seen.barycentric,
            hide_back_faces,
            faces,
            projection.front,
            table,
            *view_matrices(camera),
            edge,
            depth,
            maps,
        )
        canonical, normal, region, confidence, mask = maps
        views.append(ViewMaps(depth, canonical, normal, region, confidence, mask, edge[1:-1].astype(bool)))
    return views


def empty_maps(camera: Camera) -> tuple[npt.NDArray[Any], ...]:
    """Return canonical, normal, region, confidence and mask of a view without a surface."""
    shape = camera.height, camera.width
    return (
        np.zeros((3, *shape), np.float32),
        np.zeros((3, *shape), np.float32),
        np.zeros(shape, np.uint8),
        np.zeros(shape, np.float32),
        np.zeros(shape, np.bool_),
    )
