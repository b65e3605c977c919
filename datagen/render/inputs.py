"""What every backend checks and converts before it rasterises."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from datagen.common.errors import CameraError, MeshError
from datagen.geometry.camera import Camera, validate_camera
from datagen.geometry.mesh import Mesh, validate_mesh

# Nothing nearer than this is imaged: one millimetre in front of the optical centre.
NEAR_M = 1e-3
# A thousand kilometres: float32 maps overflow far beyond, and no capture stage is near.
FARTHEST_M = 1e6
# Fixed-point screen coordinates (numba) and GPU viewports both end here.
MAX_IMAGE_PX = 8192


def checked_inputs(
    vertices: npt.NDArray[np.floating], faces: npt.NDArray[np.integer], cameras: Sequence[Camera]
) -> Mesh:
    """Return the mesh in the contract's dtypes, contiguous, after checking it and the cameras.

    Parameters
    ----------
    vertices : (N, 3) float
        World metres.
    faces : (F, 3) int
    cameras : sequence of Camera

    Raises
    ------
    datagen.common.errors.MeshError
        If the arrays have other shapes, a vertex is not finite or absurdly far, there is no triangle, or an index is
        out of range.
    datagen.common.errors.CameraError
        If a camera is no pinhole camera, absurdly far, or larger than :data:`MAX_IMAGE_PX` pixels a side.
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
