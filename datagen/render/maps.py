"""Ground-truth maps of a surface with canonical attributes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from datagen.errors import MeshError
from datagen.geometry.camera import Camera
from datagen.geometry.mesh import face_cross, vertex_normals
from datagen.render.maps_kernel import interpolate_view
from datagen.render.protocol import NO_FACE, Fragments, Renderer, SurfaceAttributes, ViewMaps

DEPTH_STEP_M = 0.01


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
        From :func:`datagen.render.backends.make_renderer`.
    hide_back_faces : bool
        Where the nearest surface shows its back, the pixel holds no surface. Right for scans: there the camera looks
        through a hole at the inside of the head, while the image shows skin.

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
    if hide_back_faces:
        fragments = [without_back_faces(f, surface, camera) for f, camera in zip(fragments, cameras, strict=True)]
    normals = vertex_normals(surface.vertices, surface.faces)
    return [_view_maps(surface, normals, camera, seen) for camera, seen in zip(cameras, fragments, strict=True)]


def without_back_faces(seen: Fragments, surface: SurfaceAttributes, camera: Camera) -> Fragments:
    """Return the fragments of one view with every pixel emptied that shows the back of a triangle."""
    first = surface.vertices[surface.faces[:, 0]]
    behind = np.einsum("fd,fd->f", face_cross(surface.vertices, surface.faces), camera.centre - first) <= 0
    hidden = (seen.face != NO_FACE) & behind[seen.face]
    return Fragments(
        np.where(hidden, np.int32(NO_FACE), seen.face),
        np.where(hidden[..., None], np.float32(0), seen.barycentric),
        np.where(hidden, np.float32(0), seen.depth),
    )


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
    return ViewMaps(seen.depth, canonical, normal, region, confidence, mask, _steps(seen.depth))


def _steps(depth: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    found = np.zeros(depth.shape, bool)
    for axis in (0, 1):
        a, b = np.moveaxis(depth, axis, 0)[:-1], np.moveaxis(depth, axis, 0)[1:]
        step = ((a > 0) != (b > 0)) | (np.abs(a - b) > DEPTH_STEP_M)
        np.moveaxis(found, axis, 0)[:-1] |= step
        np.moveaxis(found, axis, 0)[1:] |= step
    return found


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
