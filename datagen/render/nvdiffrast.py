"""The nvdiffrast backend: its rasteriser decides what is visible, the kernels of nvwarp do the rest on the same GPU.

Optional; nvdiffrast's licence allows research use only. Only the triangle that it saw is taken from it: its float32
barycentrics on a grid of 1/16 pixel would cost several hundredths of a millimetre, so weights and depth are computed
anew from the camera. What is left of that grid is which triangle a pixel at an edge shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import warp as wp

from datagen.common.errors import DependencyError, MeshError
from datagen.geometry.camera import Camera
from datagen.geometry.mesh import Mesh
from datagen.render.contract import NEAR_M
from datagen.render.nvwarp import raster as nvwarp_raster
from datagen.render.nvwarp.renderer import BUDGET_BYTES, NvwarpRenderer, box_corners

# The rasteriser works in tiles of this side.
TILE_PX = 8
# Its two outputs of four floats, its depth and colour, and the triangle as an integer.
RASTER_BYTES_PX = 16 + 16 + 8 + 4
# Clip coordinates in float64 and float32; its triangle records, once over for those it splits; its bins and tiles.
RASTER_BYTES_VERTEX = 32 + 16
RASTER_BYTES_FACE = 2 * 81
RASTER_BYTES_VIEW = 4 * 2**20
# Depth is stored as 32 bits between two planes: the nearer they are to the mesh, the finer it is.
MARGIN = 1e-3
# Triangle numbers beyond this are not whole floats but bit patterns counted from there.
LARGEST_FLOAT_ID = 1 << 24
FLOAT_ID_BITS = 0x4A800000

# Mesh and cameras of one size to the triangle of every pixel: a torch tensor (V, >= H, >= W) int32, -1 for none.
NearestFaces = Callable[[Mesh, Sequence[Camera]], Any]


class NvdiffrastRenderer(NvwarpRenderer):
    """Renders whole rigs on a CUDA device, in chunks of views that fit a budget of memory.

    Parameters
    ----------
    budget_bytes : int
        Device memory for the views of one chunk, nvdiffrast's own buffers included.
    nearest_faces : callable or None
        What stands for nvdiffrast, and on which device it answers; None for nvdiffrast itself.
    device : str or None
        Warp's name of the device; by default torch's current one.

    Raises
    ------
    datagen.common.errors.DependencyError
        If nvdiffrast or a CUDA device is missing.
    """

    name = "nvdiffrast"

    def __init__(
        self,
        *,
        budget_bytes: int = BUDGET_BYTES,
        nearest_faces: NearestFaces | None = None,
        device: str | None = None,
    ) -> None:
        if device is None:
            import torch

            # Before anything else: what stands for nvdiffrast names its own device.
            device = f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cuda"
        self._nearest_faces = nearest_faces or cuda_rasteriser(device)
        super().__init__(device, budget_bytes=budget_bytes)

    def bytes_of_view(self, height: int, width: int, n_vertices: int, n_faces: int) -> int:
        """Return the device memory one view takes while it is rendered, bytes; its edge samples come on top."""
        raster = height * width * RASTER_BYTES_PX + n_vertices * RASTER_BYTES_VERTEX + n_faces * RASTER_BYTES_FACE
        return super().bytes_of_view(height, width, n_vertices, n_faces) + raster + RASTER_BYTES_VIEW

    def _draw(self, rig: Any, mesh: Mesh, cameras: Sequence[Camera]) -> None:
        seen = self._nearest_faces(mesh, cameras)
        if seen.is_cuda:
            import torch

            # torch and Warp queue their work on streams of their own.
            torch.cuda.synchronize(seen.device)
        self._launch(nvwarp_raster.face_camera, tuple(rig.front.shape), rig)
        self._launch(nvwarp_raster.take_over, tuple(rig.keys.shape), rig, wp.from_torch(seen.contiguous()))
        # The tensor is torch's again when this returns.
        wp.synchronize_device(self.device)


def cuda_devices() -> int:
    """Return how many CUDA devices torch sees."""
    import torch

    return int(torch.cuda.device_count())


def cuda_rasteriser(device: str) -> NearestFaces:
    """Return nvdiffrast's rasteriser on a CUDA device, as torch names it.

    Raises
    ------
    datagen.common.errors.DependencyError
        If nvdiffrast or a CUDA device is missing.
    """
    try:
        import nvdiffrast.torch as dr
        import torch

        context = dr.RasterizeCudaContext(device=device)
    except (ImportError, OSError, RuntimeError, AssertionError) as error:
        raise DependencyError(
            f"nvdiffrast cannot start ({error})",
            "nvdiffrast 0.4, a CUDA build of torch and an NVIDIA GPU",
            "Check torch.cuda.is_available(), or set render.backend to nvwarp or numba",
        ) from None

    def nearest_faces(mesh: Mesh, cameras: Sequence[Camera]) -> Any:
        width, height = buffer_size(cameras)
        position = clip_positions(mesh.vertices, cameras, width, height, device)
        triangles = torch.from_numpy(mesh.faces).to(device)
        try:
            with torch.no_grad(), torch.cuda.device(device):
                raster, _ = dr.rasterize(context, position, triangles, resolution=[height, width], grad_db=False)
        except RuntimeError as error:
            raise MeshError(
                f"nvdiffrast could not draw {len(mesh.faces)} triangles in {len(cameras)} views at a time ({error})",
                "a mesh and images within its limits, and free memory on the GPU",
                "Lower the renderer's budget_bytes, or set render.backend to nvwarp",
            ) from None
        return triangle_numbers(raster[..., 3])

    return nearest_faces


def clip_positions(
    vertices: npt.NDArray[np.float64], cameras: Sequence[Camera], width: int, height: int, device: str
) -> Any:
    """Return the clip coordinates of vertices (N, 3) in every view, a torch tensor (V, N, 4) float32.

    Multiplied in float64: world coordinates may lie far from the origin.
    """
    import torch

    corners = box_corners(vertices)
    matrices = np.stack([clip_matrix(c, *depth_range(corners, c), width, height) for c in cameras])
    matrix = torch.from_numpy(matrices).to(device)
    position = torch.from_numpy(vertices).to(device) @ matrix[:, :, :3].transpose(1, 2) + matrix[:, None, :, 3]
    return position.to(torch.float32).contiguous()


def triangle_numbers(channel: Any) -> Any:
    """Return triangles counted from 0, -1 for none, of nvdiffrast's float channel that counts from 1."""
    import torch

    channel = channel.contiguous()
    # As floats these bit patterns are larger than any whole number below them.
    coded = channel.view(torch.int32) - FLOAT_ID_BITS
    return torch.where(channel > LARGEST_FLOAT_ID, coded, channel.to(torch.int32)) - 1


def depth_range(corners: npt.NDArray[np.float64], camera: Camera) -> tuple[float, float]:
    """Return near and far planes, metres, that enclose what of a mesh's box (8, 3) lies ahead of the camera."""
    z = camera.to_camera(corners)[:, 2]
    near = max(NEAR_M, float(z.min()) * (1 - MARGIN))
    return near, max(float(z.max()), near) * (1 + MARGIN)


def clip_matrix(camera: Camera, near: float, far: float, width: int, height: int) -> npt.NDArray[np.float64]:
    """Return the matrix from world metres to OpenGL clip coordinates, (4, 4) float64.

    After the division by w (planar z), x = 2 u / width − 1 and y = 2 v / height − 1, where (u, v) are OpenCV pixels
    with centres at +0.5. OpenGL's row 0 lies at y = −1, so row 0 of the buffer is row 0 of the image without a flip.
    Depth runs from −1 at ``near`` to 1 at ``far``.

    Parameters
    ----------
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
