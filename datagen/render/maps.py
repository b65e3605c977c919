"""Ground-truth maps of a surface with canonical attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.errors import MeshError
from datagen.geometry.camera import Camera
from datagen.render.contract import Fragments, Renderer, SurfaceAttributes, ViewMaps
from datagen.render.edges import MeshEdges, Projection, padded_edge_map
from datagen.render.numba.maps_kernel import interpolate_view, pack_surface

# Maps and datasets hold regions as 8 bits.
LAST_REGION = 255
CONFIDENCE_ROUNDING = 1e-3


def render_views(
    surface: SurfaceAttributes, cameras: Sequence[Camera], renderer: Renderer, *, hide_back_faces: bool = False
) -> list[ViewMaps]:
    """Render depth, canonical coordinates, normals, regions and confidence into every camera.

    A triangle with an unknown corner (NaN canonical coordinate, or confidence 0) has depth and a normal, but no
    canonical coordinate, region or confidence. Nothing is blended across triangles.

    Parameters
    ----------
    surface : SurfaceAttributes
    cameras : sequence of Camera
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
    surface : SurfaceAttributes
    cameras : sequence of Camera
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


def packed_surface(surface: SurfaceAttributes) -> tuple[npt.NDArray[Any], ...]:
    """Return the tables of a surface that all its views share, as ``maps_kernel.resolve_view`` takes them."""
    tables = pack_surface(
        np.ascontiguousarray(surface.vertices, np.float64),
        np.ascontiguousarray(surface.faces, np.int32),
        np.ascontiguousarray(surface.canonical, np.float32),
        np.ascontiguousarray(surface.confidence, np.float32),
    )
    return *tables, np.ascontiguousarray(surface.region, np.uint8)


def view_matrices(camera: Camera) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the rotation from world to camera axes, and the matrix from homogeneous pixels to world directions."""
    rotation = np.ascontiguousarray(camera.world_to_camera[:3, :3], np.float64)
    return rotation, np.ascontiguousarray(rotation.T @ np.linalg.inv(camera.K))


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


def check_attributes(surface: SurfaceAttributes) -> None:
    """Refuse a surface whose attributes do not have one value per vertex.

    Raises
    ------
    datagen.common.errors.MeshError
    """
    n = len(surface.vertices)
    expected = {"canonical": ((n, 3), "fiu"), "confidence": ((n,), "fiu"), "region": ((n,), "iu")}
    for name, (shape, kinds) in expected.items():
        values = np.asarray(getattr(surface, name))
        if values.shape != shape or values.dtype.kind not in kinds:
            raise MeshError(
                f"the surface to render has {name} of shape {values.shape} and type {values.dtype}",
                f"{'integers' if kinds == 'iu' else 'real numbers'} of shape {shape}, one per vertex",
                "Check that the attributes belong to this mesh",
            )
    low, high = int(np.min(surface.region, initial=0)), int(np.max(surface.region, initial=0))
    if low < 0 or high > LAST_REGION:
        raise MeshError(
            f"the surface to render has regions from {low} to {high}",
            f"labels from 0 to {LAST_REGION}",
            "Number the regions anew",
        )
    # NaN means unknown, and passes.
    sure = float(np.fmax.reduce(np.asarray(surface.confidence, np.float64), initial=0.0))
    if sure > 1 + CONFIDENCE_ROUNDING:
        raise MeshError(
            f"the surface to render has confidence up to {sure:g}",
            "values from 0 to 1, or NaN where it is unknown",
            "Divide percentages by 100; replace infinite values",
        )
