"""What every backend checks and converts before it rasterises: mesh, attributes and cameras."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from datagen.common.errors import CameraError, MeshError
from datagen.geometry.camera import Camera, validate_camera
from datagen.geometry.mesh import Mesh, validate_mesh
from datagen.render.contract import SurfaceAttributes

# A thousand kilometres: float32 maps overflow far beyond, and no capture stage is near.
FARTHEST_M = 1e6
# Fixed-point screen coordinates (numba) and GPU viewports both end here.
MAX_IMAGE_PX = 8192
# Maps and datasets hold regions as 8 bits.
LAST_REGION = 255
CONFIDENCE_ROUNDING = 1e-3


def checked_inputs(
    vertices: npt.NDArray[np.floating], faces: npt.NDArray[np.integer], cameras: Sequence[Camera]
) -> Mesh:
    """Return the mesh in the contract's dtypes, contiguous, after checking it and the cameras.

    Parameters
    ----------
    vertices : (N, 3) float
        World metres.
    faces : (F, 3) int

    Raises
    ------
    datagen.common.errors.MeshError
        If the arrays have other shapes, a vertex is not finite or absurdly far, there is no triangle, or an index is
        out of range.
    datagen.common.errors.CameraError
        If a camera is not a pinhole camera, absurdly far, or larger than :data:`MAX_IMAGE_PX` pixels a side.
    """
    v, f = np.asarray(vertices), np.asarray(faces)
    shapes = v.ndim == f.ndim == 2 and v.shape[1] == f.shape[1] == 3
    if not shapes or v.dtype.kind not in "fiu" or f.dtype.kind not in "iu":
        raise MeshError(
            f"the mesh to render has vertices of shape {v.shape} and type {v.dtype}, and faces of shape {f.shape} and "
            f"type {f.dtype}",
            "vertices (N, 3) of real numbers and faces (F, 3) of integers",
            "Triangulate the mesh, and pass vertices before faces",
        )
    if len(f) and (int(f.min()) < 0 or int(f.max()) >= len(v)):
        # Checked before the cast to int32, which could wrap a wrong index into range.
        raise MeshError(
            f"the mesh to render has face indices from {int(f.min())} to {int(f.max())}",
            f"indices from 0 to {len(v) - 1}",
            "Check whether the faces belong to another vertex list or count from 1",
        )
    mesh = validate_mesh(Mesh.of(v, f), "the mesh to render")
    if (farthest := max(float(mesh.vertices.max()), -float(mesh.vertices.min()))) > FARTHEST_M:
        raise MeshError(
            f"the mesh to render has coordinates up to {farthest:.4g} m",
            f"at most {FARTHEST_M:g} m",
            "Check the unit, and replace placeholders of missing points",
        )
    for camera in cameras:
        validate_camera(camera)
        if (away := float(np.abs(camera.world_to_camera[:3, 3]).max())) > FARTHEST_M:
            raise CameraError(
                f"camera {camera.name} has a translation of {away:.4g} m",
                f"at most {FARTHEST_M:g} m",
                "Check the unit of the extrinsics",
            )
        if max(camera.width, camera.height) > MAX_IMAGE_PX:
            raise CameraError(
                f"camera {camera.name} has size {camera.width}×{camera.height}",
                f"at most {MAX_IMAGE_PX} pixels a side",
                "Render a crop (datagen.render.crop), or scale the camera down",
            )
    return mesh


def check_attributes(surface: SurfaceAttributes) -> None:
    """Refuse a surface whose attributes do not have one value per vertex."""
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
            "Renumber the regions",
        )
    # NaN means unknown, and passes.
    sure = float(np.fmax.reduce(np.asarray(surface.confidence, np.float64), initial=0.0))
    if sure > 1 + CONFIDENCE_ROUNDING:
        raise MeshError(
            f"the surface to render has confidence up to {sure:g}",
            "values from 0 to 1, or NaN where it is unknown",
            "Divide percentages by 100; replace infinite values",
        )


def pixel_matrix(camera: Camera) -> npt.NDArray[np.float64]:
    """Return K [R | t], (3, 4) float64."""
    return np.ascontiguousarray(camera.K @ camera.world_to_camera[:3], np.float64)


def view_matrices(camera: Camera) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the rotation from world to camera axes, and the matrix from homogeneous pixels to world directions."""
    rotation = np.ascontiguousarray(camera.world_to_camera[:3, :3], np.float64)
    return rotation, np.ascontiguousarray(rotation.T @ np.linalg.inv(camera.K))
