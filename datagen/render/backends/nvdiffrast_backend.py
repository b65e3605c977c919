"""The CUDA backend: nvdiffrast, whole rigs per call. Optional; its licence allows research use only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.errors import DependencyError
from datagen.geometry.camera import Camera
from datagen.geometry.mesh import Mesh
from datagen.render.backends.inputs import NEAR_M, checked_inputs
from datagen.render.maps import maps_from_fragments
from datagen.render.protocol import Fragments, SurfaceAttributes, ViewMaps

# Far beyond any capture stage; planar z is interpolated as an attribute, so its value costs no precision there.
FAR_M = 20.0
# One 32-view batch of 504² fragments takes about 0.5 GB on the device.
VIEWS_PER_CALL = 32
# The CUDA rasteriser of nvdiffrast wants sizes in multiples of 8.
TILE_PX = 8


def clip_matrix(camera: Camera, near: float, far: float, width: int, height: int) -> npt.NDArray[np.float64]:
    """Return the matrix from world metres to OpenGL clip coordinates, (4, 4) float64.

    After the division by w (planar z), x = 2 u / width − 1 and y = 2 v / height − 1, where (u, v) are OpenCV pixels
    with centres at +0.5. OpenGL's row 0 lies at y = −1, so row 0 of the buffer is row 0 of the image without a flip.
    Depth runs from −1 at ``near`` to 1 at ``far``.

    Parameters
    ----------
    camera : Camera
    near, far : float
        Metres.
    width, height : int
        Of the buffer, which may be larger than the camera's image.
    """
    K = camera.K
    projection = np.zeros((4, 4))
    projection[0, :3] = 2 / width * K[0] - K[2]
    projection[1, :3] = 2 / height * K[1] - K[2]
    projection[2, 2], projection[2, 3] = (far + near) / (far - near), -2 * far * near / (far - near)
    projection[3, :3] = K[2]
    return projection @ camera.world_to_camera


def buffer_size(cameras: Sequence[Camera]) -> tuple[int, int]:
    """Return the (width, height) that holds every camera's image, rounded up to the rasteriser's tiles."""
    width, height = max(camera.width for camera in cameras), max(camera.height for camera in cameras)
    return -(-width // TILE_PX) * TILE_PX, -(-height // TILE_PX) * TILE_PX


def chunks(cameras: Sequence[Camera], size: int = VIEWS_PER_CALL) -> Iterator[Sequence[Camera]]:
    """Split a rig into batches of at most ``size`` views, in order."""
    for start in range(0, len(cameras), size):
        yield cameras[start : start + size]


class NvdiffrastRenderer:
    """Rasterises a batch of cameras per call on the current CUDA device.

    nvdiffrast snaps vertices to 1/16 pixel: silhouettes and depth agree with the CPU backends less closely than
    those agree with each other.

    Raises
    ------
    datagen.errors.DependencyError
        If nvdiffrast or a CUDA device is missing.
    """

    name = "nvdiffrast"

    def __init__(self) -> None:
        try:
            import nvdiffrast.torch as dr
            import torch

            self._context = dr.RasterizeCudaContext()
        except (ImportError, OSError, RuntimeError, AssertionError) as error:
            raise DependencyError(
                f"nvdiffrast cannot start ({error})",
                "nvdiffrast 0.4, a CUDA build of torch and an NVIDIA GPU",
                "Check torch.cuda.is_available(), or set render.backend to numba",
            ) from None
        self._dr: Any = dr
        self._torch: Any = torch

    def rasterise(
        self, vertices: npt.NDArray[np.floating], faces: npt.NDArray[np.integer], cameras: Sequence[Camera]
    ) -> list[Fragments]:
        """Rasterise a mesh (vertices (N, 3) world metres, faces (F, 3)) into every camera.

        Raises
        ------
        datagen.errors.MeshError, datagen.errors.CameraError
            As :func:`datagen.render.backends.inputs.checked_inputs`.
        """
        mesh = checked_inputs(vertices, faces, cameras)
        return [fragments for batch in chunks(cameras) for fragments in self._batch(mesh, batch)]

    def render(
        self, surface: SurfaceAttributes, cameras: Sequence[Camera], *, hide_back_faces: bool = False
    ) -> list[ViewMaps]:
        """Render all maps of a surface into every camera.

        Raises
        ------
        datagen.errors.MeshError, datagen.errors.CameraError
            As :func:`datagen.render.backends.inputs.checked_inputs`.
        """
        fragments = self.rasterise(surface.vertices, surface.faces, cameras)
        return maps_from_fragments(surface, cameras, fragments, hide_back_faces=hide_back_faces)

    def _batch(self, mesh: Mesh, cameras: Sequence[Camera]) -> list[Fragments]:
        torch, dr = self._torch, self._dr
        width, height = buffer_size(cameras)
        homogeneous = np.concatenate([mesh.vertices, np.ones((len(mesh.vertices), 1))], axis=1)
        # Multiplied in float64 on the host: world coordinates may lie far from the origin.
        clip = np.stack([homogeneous @ clip_matrix(c, NEAR_M, FAR_M, width, height).T for c in cameras])
        position = torch.from_numpy(clip.astype(np.float32)).cuda()
        triangles = torch.from_numpy(mesh.faces).cuda()
        with torch.no_grad():
            raster, _ = dr.rasterize(self._context, position, triangles, resolution=[height, width], grad_db=False)
            depth, _ = dr.interpolate(position[..., 3:].contiguous(), raster, triangles)
        raster, depth = raster.cpu().numpy(), depth[..., 0].cpu().numpy()
        return [_fragments(raster[i], depth[i], camera) for i, camera in enumerate(cameras)]


def _fragments(raster: npt.NDArray[np.float32], depth: npt.NDArray[np.float32], camera: Camera) -> Fragments:
    raster, depth = raster[: camera.height, : camera.width], depth[: camera.height, : camera.width]
    # Triangle ids count from 1, and the first two channels weight corners 0 and 1.
    face = raster[..., 3].astype(np.int32) - 1
    hit = face >= 0
    first, second = raster[..., 0], raster[..., 1]
    barycentric = np.stack([first, second, 1 - first - second], axis=-1)
    return Fragments(
        face,
        np.where(hit[..., None], barycentric, 0).astype(np.float32),
        np.where(hit, depth, 0).astype(np.float32),
    )
