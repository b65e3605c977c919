"""Motion between two frames of one camera, as scene flow and optical flow, through canonical correspondence.

A pixel of the first frame shows a point of its surface. The point of the second surface with the same canonical
coordinate is the same skin, whatever meshes the two frames have: scene flow is the way between the two, optical flow
that between their images (Vedula et al. 2005). Nothing is estimated from pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.errors import CameraError, MeshError
from datagen.common.open3d_library import load_open3d
from datagen.geometry.camera import Camera
from datagen.geometry.mesh import face_normals
from datagen.render.contract import NEAR_M, Renderer, SurfaceAttributes
from datagen.render.inputs import check_attributes, checked_inputs

# Canonical surfaces of two frames coincide up to the noise of their scans; a counterpart further off is another's.
MAX_DISTANCE_MM = 1.0
# Something that much nearer to the camera hides a point; less is the point's own surface.
HIDING_M = 1e-3


@dataclass(frozen=True)
class Motion:
    """Where the surface points of one image are in another frame, channel first.

    Attributes
    ----------
    scene : (3, H, W) float32
        Scene flow: world metres from the point in the first frame to the same point in the second; 0 where not
        ``matched``.
    optical : (2, H, W) float32
        Optical flow: pixels to the right and downwards from the pixel's centre to the point's place in the second
        image, which may lie outside it; 0 where not ``matched``.
    matched : (H, W) bool
        The pixel has a canonical coordinate, and the second surface, in front of its camera, has a point with the
        same.
    visible : (H, W) bool
        Matched, inside the second image, seen from the front there, and nothing is in front of it.
    """

    scene: npt.NDArray[np.float32]
    optical: npt.NDArray[np.float32]
    matched: npt.NDArray[np.bool_]
    visible: npt.NDArray[np.bool_]

    @property
    def occluded(self) -> npt.NDArray[np.bool_]:
        """Matched, but not seen in the second image, (H, W) bool."""
        return self.matched & ~self.visible


def view_motion(
    first: SurfaceAttributes,
    second: SurfaceAttributes,
    cameras: tuple[Camera, Camera],
    half_extent_m: float,
    renderer: Renderer,
    *,
    max_distance_mm: float = MAX_DISTANCE_MM,
) -> Motion:
    """Return the motion from one frame to another for every pixel of the first image.

    Parameters
    ----------
    first, second : SurfaceAttributes
        The two frames' surfaces, with canonical coordinates of one space.
    cameras : (Camera, Camera)
        Of the two images: one camera, or its crop in each frame.
    half_extent_m : float
        Metres of one canonical unit (:class:`datagen.geometry.space.CanonicalSpace`).
    max_distance_mm : float
        Distance in canonical space beyond which a point has no counterpart.

    Raises
    ------
    datagen.common.errors.MeshError, datagen.common.errors.CameraError
        If a surface or camera is not valid, no triangle of the second surface has canonical coordinates, or
        ``half_extent_m`` or ``max_distance_mm`` is not positive.
    """
    if not (half_extent_m > 0 and max_distance_mm > 0):
        raise CameraError(
            f"motion was asked for with a half extent of {half_extent_m} m and a reach of {max_distance_mm} mm",
            "positive values",
            "Pass the half extent of the canonical space",
        )
    near, far = cameras
    for surface in (first, second):
        check_attributes(surface)
    checked_inputs(second.vertices, second.faces, [far])
    seen = renderer.rasterise(first.vertices, first.faces, [near])[0]
    shown = (seen.face >= 0) & _known(first)[seen.face] & _fronts(first, near.centre)[seen.face]
    face, weights = seen.face[shown], seen.barycentric[shown].astype(np.float64)
    corners = first.faces[face]
    canonical = half_extent_m * np.einsum("qc,qcd->qd", weights, first.canonical[corners].astype(np.float64))
    facing = face_normals(half_extent_m * first.canonical, first.faces)[face]
    here = np.einsum("qc,qcd->qd", weights, first.vertices[corners])
    there, triangle, matched = _counterparts(canonical, facing, second, half_extent_m, max_distance_mm / 1000)
    pixels, z = far.project(there)
    matched &= z > NEAR_M
    inside = ((pixels >= 0) & (pixels < [far.width, far.height])).all(axis=1)
    visible = matched & inside & _fronts(second, far.centre)[triangle]
    visible[visible] = ~_hidden(second, far.centre, there[visible], z[visible])
    centres = np.argwhere(shown)[:, ::-1] + 0.5
    return Motion(
        _spread(there - here, shown, matched),
        _spread(pixels - centres, shown, matched),
        _spread(matched[:, None], shown, matched)[0] > 0,
        _spread(visible[:, None], shown, matched)[0] > 0,
    )


def _known(surface: SurfaceAttributes) -> npt.NDArray[np.bool_]:
    """Say which triangles have a canonical coordinate at every corner, (F,) bool."""
    vertices = np.isfinite(surface.canonical).all(axis=1) & (surface.confidence > 0)
    return np.asarray(vertices[surface.faces].all(axis=1))


def _fronts(surface: SurfaceAttributes, centre: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Say which triangles show their front to a place, (F,) bool."""
    towards = centre - surface.vertices[surface.faces[:, 0]]
    return np.einsum("fd,fd->f", face_normals(surface.vertices, surface.faces), towards) > 0


def _counterparts(
    canonical: npt.NDArray[np.float64],
    facing: npt.NDArray[np.float64],
    second: SurfaceAttributes,
    half_extent_m: float,
    reach_m: float,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return for canonical points (Q, 3) metres the same points of the second surface in the world.

    A closest point that faces the other way belongs to other skin: closed lips touch in canonical space too.

    Returns
    -------
    (Q, 3) float64 world metres, (Q,) int64 triangles, (Q,) bool which of them count.
    """
    kept = np.flatnonzero(_known(second))
    if len(kept) == 0:
        raise MeshError(
            "no triangle of the second frame has canonical coordinates",
            "a warped surface",
            "Look at the verdict of that frame",
        )
    places = half_extent_m * np.nan_to_num(second.canonical.astype(np.float64))
    faces = second.faces[kept]
    scene, origin = _scene(places, faces)
    answer = scene.compute_closest_points(_tensor(canonical - origin))
    found = answer["primitive_ids"].numpy().astype(np.int64)
    uv = answer["primitive_uvs"].numpy().astype(np.float64)
    weights = np.stack([1 - uv.sum(axis=1), uv[:, 0], uv[:, 1]], axis=1)
    closest = np.einsum("qc,qcd->qd", weights, places[faces[found]])
    near = np.linalg.norm(closest - canonical, axis=1) <= reach_m
    alike = np.einsum("qd,qd->q", face_normals(places, faces)[found], facing) > 0
    world = np.einsum("qc,qcd->qd", weights, second.vertices[faces[found]])
    return world, kept[found], near & alike


def _hidden(
    surface: SurfaceAttributes,
    centre: npt.NDArray[np.float64],
    points: npt.NDArray[np.float64],
    z: npt.NDArray[np.float64],
) -> npt.NDArray[np.bool_]:
    """Say for which points (Q, 3), at depth ``z`` (Q,), something is nearer to the camera on the same ray."""
    scene, origin = _scene(surface.vertices, surface.faces)
    rays = (points - centre) / z[:, None]
    starts = centre - origin + NEAR_M * rays
    hits = scene.cast_rays(_tensor(np.hstack([starts, rays])))
    # A ray has one unit of depth per unit of its parameter.
    return np.asarray(hits["t_hit"].numpy() + NEAR_M < z - HIDING_M)


def _scene(vertices: npt.NDArray[np.float64], faces: npt.NDArray[np.integer]) -> tuple[Any, npt.NDArray[np.float64]]:
    """Return an Open3D scene, and the place that its float32 coordinates are relative to."""
    open3d = load_open3d()
    origin = vertices[faces].mean(axis=(0, 1))
    scene = open3d.t.geometry.RaycastingScene()
    scene.add_triangles(_tensor(vertices - origin), open3d.core.Tensor(faces.astype(np.uint32)))
    return scene, origin


def _tensor(values: npt.NDArray[np.floating]) -> Any:
    return load_open3d().core.Tensor(np.ascontiguousarray(values, np.float32))


def _spread(
    values: npt.NDArray[Any], shown: npt.NDArray[np.bool_], matched: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    """Place values (Q, C) of the shown pixels that are matched in a map (C, H, W); zeros elsewhere."""
    out = np.zeros((values.shape[1], *shown.shape), np.float32)
    rows, columns = np.nonzero(shown)
    out[:, rows[matched], columns[matched]] = values[matched].T
    return out
