"""Ground-truth maps of a surface with canonical attributes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from datagen.errors import MeshError
from datagen.geometry.camera import Camera
from datagen.geometry.mesh import vertex_normals
from datagen.render.maps_kernel import interpolate_view
from datagen.render.protocol import Fragments, Rasteriser, SurfaceAttributes, ViewMaps


def render_views(surface: SurfaceAttributes, cameras: Sequence[Camera], rasteriser: Rasteriser) -> list[ViewMaps]:
    """Render depth, canonical coordinates, normals, regions and confidence into every camera.

    A triangle with an unknown corner (NaN canonical coordinate, or confidence 0) has depth and a normal, but no
    canonical coordinate, region or confidence. Nothing is blended across triangles.

    Parameters
    ----------
    surface : SurfaceAttributes
    cameras : sequence of Camera
    rasteriser : Rasteriser
        From :func:`datagen.render.backends.make_rasteriser`.

    Returns
    -------
    list of ViewMaps
        One per camera, in order.

    Raises
    ------
    datagen.errors.MeshError
        If the mesh is empty, not finite or inconsistent, or an attribute does not have one value per vertex.
    datagen.errors.CameraError
        If a camera is not valid.
    """
    _check_attributes(surface)
    fragments = rasteriser.rasterise(surface.vertices, surface.faces, cameras)
    normals = vertex_normals(surface.vertices, surface.faces)
    return [_view_maps(surface, normals, camera, seen) for camera, seen in zip(cameras, fragments, strict=True)]


def _view_maps(
    surface: SurfaceAttributes, normals: npt.NDArray[np.float64], camera: Camera, seen: Fragments
) -> ViewMaps:
    canonical, normal, region, confidence, mask = interpolate_view(
        seen.face,
        seen.barycentric,
        np.ascontiguousarray(camera.to_camera(surface.vertices)),
        np.ascontiguousarray(normals @ camera.world_to_camera[:3, :3].T),
        np.ascontiguousarray(surface.faces, np.int32),
        np.ascontiguousarray(surface.canonical, np.float32),
        np.ascontiguousarray(surface.confidence, np.float32),
        np.ascontiguousarray(surface.region, np.uint8),
    )
    return ViewMaps(seen.depth, canonical, normal, region, confidence, mask)


def _check_attributes(surface: SurfaceAttributes) -> None:
    n = len(surface.vertices)
    shapes = {
        "canonical": (np.shape(surface.canonical), (n, 3)),
        "confidence": (np.shape(surface.confidence), (n,)),
        "region": (np.shape(surface.region), (n,)),
    }
    for name, (found, expected) in shapes.items():
        if found != expected:
            raise MeshError(
                f"the surface to render has {name} of shape {found}",
                f"{expected}, one per vertex",
                "Check that the attributes belong to this mesh",
            )
