"""The NVIDIA Warp backend: whole rigs per launch on CUDA, and the very same kernels on the CPU."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import warp as wp

from datagen.common.errors import DependencyError
from datagen.geometry.camera import Camera
from datagen.geometry.mesh import Mesh
from datagen.render.contract import GUARD_PX, MAPS, NEAR_M, Fragments, SurfaceAttributes, ViewMaps
from datagen.render.inputs import checked_inputs, view_matrices
from datagen.render.nvwarp import edges as nvwarp_edges
from datagen.render.nvwarp import maps as nvwarp_maps
from datagen.render.nvwarp import mesh as nvwarp_mesh
from datagen.render.nvwarp import raster as nvwarp_raster
from datagen.render.nvwarp import screen as nvwarp_screen


class Buffers:
    """Named flat arrays on one device that only ever grow.

    An array handed out is valid until the same name is asked for again.

    Parameters
    ----------
    device : str
        A Warp device, such as ``cuda:0`` or ``cpu``.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self._flat: dict[str, Any] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return an array of this shape and Warp type; its contents are whatever was there."""
        size = int(np.prod(shape))
        flat = self._flat.get(name)
        if flat is None or flat.dtype != dtype or flat.size < size:
            # The old one goes first, so that the two never share the device.
            self._flat.pop(name, None)
            flat = self._flat[name] = wp.empty(max(size, 1), dtype=dtype, device=self.device)
        return flat[:size].reshape(shape) if size else wp.empty(shape, dtype=dtype, device=self.device)

    def put(self, name: str, values: npt.NDArray[Any], dtype: Any, shape: tuple[int, ...] | None = None) -> Any:
        """Return an array with these values, copied to the device."""
        source = wp.array(np.ascontiguousarray(values), dtype=dtype, device="cpu", copy=False)
        target = self.take(name, shape or source.shape, dtype)
        wp.copy(target, source.reshape(target.shape))
        return target

    @property
    def bytes(self) -> int:
        """Bytes held on the device."""
        return sum(flat.capacity for flat in self._flat.values())


# Device memory for the views of one launch; a single view larger than this is still rendered, alone.
BUDGET_BYTES = 512 * 2**20
MAP_BYTES_PX = sum(planes * np.dtype(kind).itemsize for planes, kind in MAPS.values())
# The key of the nearest triangle, and the first edge sample.
BYTES_PX = MAP_BYTES_PX + 8 + 4
# Snapped coordinates (2 × int32) and 1/z.
BYTES_VERTEX = 16
# Edge samples a view gets at first, of 45 bytes each; where more are found there is room for them from then on.
SAMPLES_VIEW = 8192
# Blocks of large triangles: what does not fit is drawn where it is found.
QUEUE_SLOTS = 1 << 18
GROUPS = 4096
LANES = 64
# Of a key, for the triangle; leaves the depth the precision of a float32, so that rounding does not decide a tie.
FACE_BITS = 29
# A launch counts its threads in 31 bits.
MOST_THREADS = 2**31 - 1

MAP_TYPES = {
    name: ((planes,) if planes > 1 else (), wp.dtype_from_numpy(np.dtype(kind)))
    for name, (planes, kind) in MAPS.items()
}
SAMPLE_TYPES = {
    "following": wp.int32,
    "place": wp.vec3i,
    "x": wp.int32,
    "y": wp.int32,
    "inverse_z": wp.float64,
    "best": wp.uint64,
}


@dataclass(frozen=True)
class DeviceMaps:
    """Maps of some views, still on the device; valid until the renderer is asked for more.

    Attributes
    ----------
    views : list of int
        Which of the cameras these are, in the order of the arrays' first axis.
    arrays : dict of str to warp.array
        Those of :class:`datagen.render.contract.ViewMaps` with a leading axis of views. They speak DLPack.
    """

    views: list[int]
    arrays: dict[str, Any]

    def torch(self) -> dict[str, Any]:
        """Return the arrays as torch tensors on the same memory, once the device has finished them."""
        wp.synchronize_device(self.arrays["depth"].device)
        return {name: wp.to_torch(array) for name, array in self.arrays.items()}


def cuda_devices() -> int:
    """Return how many CUDA devices Warp sees."""
    wp.config.log_level = wp.LOG_ERROR
    return int(wp.get_cuda_device_count())


class NvwarpRenderer:
    """Renders all views of a chunk with a handful of launches; deterministic, watertight as the numba backend.

    Parameters
    ----------
    device : str or None
        A Warp device such as ``cuda:0`` or ``cpu``; by default the first CUDA device, else the CPU, on which Warp runs
        one thread after the other (numba is faster there).
    budget_bytes : int
        Device memory for the views of one launch; what a mesh needs comes on top.
    lanes : int or None
        Threads that share one block of a large triangle, by default 64 on CUDA and 1 on the CPU.

    Raises
    ------
    datagen.common.errors.DependencyError
        If there is no such device.
    """

    name = "nvwarp"

    def __init__(
        self, device: str | None = None, *, budget_bytes: int = BUDGET_BYTES, lanes: int | None = None
    ) -> None:
        wp.config.log_level = wp.LOG_ERROR
        try:
            found = wp.get_device(device or ("cuda:0" if wp.is_cuda_available() else "cpu"))
        except (ValueError, RuntimeError) as error:
            raise DependencyError(
                f"NVIDIA Warp has no device {device!r} ({error})",
                f"one of {', '.join(str(d) for d in wp.get_devices())}",
                "Check nvidia-smi, or render with device cpu or the numba backend",
            ) from None
        self.device = str(found)
        self.on_cpu = bool(found.is_cpu)
        self.budget_bytes = budget_bytes
        self._lanes = lanes or (1 if self.on_cpu else LANES)
        self._buffers = Buffers(self.device)
        self._sample_room = 0
        self._any_cut = False
        # Buffers are shared between calls, and Warp's CPU device has no atomics: one call at a time.
        self._lock = threading.RLock()

    def bytes_of_view(self, height: int, width: int, n_vertices: int, n_faces: int) -> int:
        """Return the device memory one view takes while it is rendered, bytes; its edge samples come on top."""
        return height * width * BYTES_PX + n_vertices * BYTES_VERTEX + n_faces

    @property
    def held_bytes(self) -> int:
        """Device memory held between calls."""
        return self._buffers.bytes

    def rasterise(
        self, vertices: npt.NDArray[np.floating], faces: npt.NDArray[np.integer], cameras: Sequence[Camera]
    ) -> list[Fragments]:
        """Rasterise a mesh (vertices (N, 3) world metres, faces (F, 3)) into every camera."""
        mesh = checked_inputs(vertices, faces, cameras)
        done: dict[int, Fragments] = {}
        with self._lock:
            for views in self._chunks(mesh, cameras):
                rig = self._visible(mesh, [cameras[i] for i in views])
                size = tuple(rig.keys.shape)
                face = self._buffers.take("face", size, wp.int32)
                barycentric = self._buffers.take("barycentric", (*size, 3), wp.float32)
                depth = self._buffers.take("depth", size, wp.float32)
                self._launch(nvwarp_maps.fragments, size, rig, face, barycentric, depth)
                host = [self._to_host(array) for array in (face, barycentric, depth)]
                done |= {view: Fragments(*(array[i] for array in host)) for i, view in enumerate(views)}
        return [done[i] for i in range(len(cameras))]

    def render(
        self, surface: SurfaceAttributes, cameras: Sequence[Camera], *, hide_back_faces: bool = False
    ) -> list[ViewMaps]:
        """Render all maps of a surface into every camera; :func:`datagen.render.maps.render_views` checks first."""
        done: dict[int, ViewMaps] = {}
        for chunk in self.render_on_device(surface, cameras, hide_back_faces=hide_back_faces):
            host = {name: self._to_host(array) for name, array in chunk.arrays.items()}
            done |= {
                view: ViewMaps(**{name: array[i] for name, array in host.items()}) for i, view in enumerate(chunk.views)
            }
        return [done[i] for i in range(len(cameras))]

    def render_on_device(
        self, surface: SurfaceAttributes, cameras: Sequence[Camera], *, hide_back_faces: bool = False
    ) -> Iterator[DeviceMaps]:
        """Yield the maps of some views at a time and leave them on the device.

        Launches are not waited for: synchronise (``warp.synchronize_device``) before taking times.

        Parameters
        ----------
        cameras : sequence of Camera
            Views of one size are rendered together, so chunks may come in another order.
        hide_back_faces : bool
            As :func:`datagen.render.maps.render_views`.
        """
        mesh = checked_inputs(surface.vertices, surface.faces, cameras)
        with self._lock:
            normals, edges = self._prepared(mesh)
            for views in self._chunks(mesh, cameras):
                chunk = [cameras[i] for i in views]
                rig = self._visible(mesh, chunk)
                size = tuple(rig.keys.shape)
                maps = nvwarp_maps.Maps()
                for name, (channels, dtype) in MAP_TYPES.items():
                    setattr(maps, name, self._buffers.take(name, (size[0], *channels, *size[1:]), dtype))
                attributes = self._attributes(surface, chunk, normals, hide_back_faces)
                self._mark_edges(rig, edges, maps.edge)
                self._launch(nvwarp_maps.resolve, size, rig, attributes, maps)
                yield DeviceMaps(views, {name: getattr(maps, name) for name in MAP_TYPES})

    def _chunks(self, mesh: Mesh, cameras: Sequence[Camera]) -> Iterator[list[int]]:
        """Yield indices of cameras of one size that fit the budget together, at least one."""
        by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i, camera in enumerate(cameras):
            by_size[camera.height, camera.width].append(i)
        for (height, width), views in by_size.items():
            threads = max(height * width, len(mesh.vertices), 3 * len(mesh.faces))
            need = self.bytes_of_view(height, width, len(mesh.vertices), len(mesh.faces))
            step = max(1, min(self.budget_bytes // need, MOST_THREADS // threads))
            for start in range(0, len(views), step):
                yield views[start : start + step]

    def _visible(self, mesh: Mesh, cameras: Sequence[Camera]) -> Any:
        """Return the rig of some views with the nearest triangle's key in every pixel."""
        take, put = self._buffers.take, self._buffers.put
        n_views, n_vertices, n_faces = len(cameras), len(mesh.vertices), len(mesh.faces)
        rig = nvwarp_screen.Rig()
        rig.vertices = put("vertices", mesh.vertices, wp.float64)
        rig.faces = put("faces", mesh.faces, wp.int32)
        rig.projection = put("projection", np.stack([c.K @ c.world_to_camera[:3] for c in cameras]), wp.float64)
        rig.screen = take("screen", (n_views, n_vertices, 2), wp.int32)
        rig.inverse_z = take("inverse_z", (n_views, n_vertices), wp.float64)
        corners = box_corners(mesh.vertices)
        cut = np.array([may_be_cut(corners, camera) for camera in cameras])
        rig.cut = put("cut", cut, wp.bool)
        self._any_cut = bool(cut.any())
        rig.keys = take("keys", (n_views, cameras[0].height, cameras[0].width), wp.uint64)
        rig.face_bits = max(FACE_BITS, (n_faces - 1).bit_length())
        rig.near = NEAR_M
        rig.front = take("front", (n_views, n_faces), wp.bool)
        self._launch(nvwarp_raster.project, (n_views, n_vertices), rig)
        self._draw(rig, mesh, cameras)
        return rig

    def _draw(self, rig: Any, mesh: Mesh, cameras: Sequence[Camera]) -> None:  # noqa: ARG002 - other rasterisers do
        """Write ``rig.keys`` and ``rig.front``."""
        n_views, n_faces = rig.front.shape
        queue, queued, groups = rig_queue(self._buffers, self.on_cpu)
        rig.keys.fill_(nvwarp_raster.EMPTY)
        passes = [(nvwarp_raster.rasterise, nvwarp_raster.rasterise_blocks)]
        if self._any_cut:
            passes.append((nvwarp_raster.rasterise_cut, nvwarp_raster.rasterise_cut_blocks))
        for small, blocks in passes:
            queued.zero_()
            self._launch(small, (n_views, n_faces), rig, queue, queued)
            self._launch(blocks, (groups, self._lanes), rig, queue, queued, groups, self._lanes)

    def _prepared(self, mesh: Mesh) -> tuple[Any, Any]:
        """Return unit vertex normals (N, 3), summed in a fixed order, and the mesh's edges."""
        take = self._buffers.take
        n_vertices, n_corners = len(mesh.vertices), 3 * len(mesh.faces)
        vertices = self._buffers.put("vertices", mesh.vertices, wp.float64)
        faces = self._buffers.put("faces", mesh.faces, wp.int32)
        # The sorts want as much room again.
        keys, corners = (take(name, (2 * n_corners,), wp.int32) for name in ("corner keys", "corners"))
        starts, normals = take("corner starts", (n_vertices,), wp.int32), take("normals", (n_vertices, 3), wp.float64)
        self._launch(nvwarp_mesh.corner_keys, (n_corners,), faces, keys, corners)
        wp.utils.radix_sort_pairs(keys, corners, n_corners)
        starts.fill_(-1)
        self._launch(nvwarp_mesh.run_starts, (n_corners,), keys, starts)
        self._launch(nvwarp_mesh.vertex_normals, (n_vertices,), vertices, faces, keys, corners, starts, normals)
        return normals, self._edges(vertices, faces)

    def _edges(self, vertices: Any, faces: Any) -> Any:
        """Return the edges of a mesh; border vertices at the same place count as one, as to a surface they are."""
        take = self._buffers.take
        n_vertices, n_corners = vertices.shape[0], 3 * faces.shape[0]
        edges = nvwarp_edges.Edges()
        edges.codes, edges.sides = take("edges", (2 * n_corners,), wp.int64), take("sides", (2 * n_corners,), wp.int32)
        edges.count = n_corners
        joined, found = take("joined", (n_vertices,), wp.int32), take("found", (1,), wp.int32)
        border, codes = take("border", (n_vertices,), wp.bool), take("places", (2 * n_vertices,), wp.int64)
        order = take("order of places", (2 * n_vertices,), wp.int32)
        self._launch(nvwarp_mesh.number, (n_vertices,), joined)
        self._sort_edges(faces, joined, edges)
        border.zero_()
        found.zero_()
        self._launch(nvwarp_mesh.mark_border, (n_corners,), edges.codes, n_corners, border)
        self._launch(nvwarp_mesh.place_codes, (n_vertices,), vertices, border, codes)
        self._launch(nvwarp_mesh.number, (n_vertices,), order)
        wp.utils.radix_sort_pairs(codes, order, n_vertices)
        self._launch(nvwarp_mesh.join, (n_vertices,), vertices, codes, order, joined, found)
        if int(found.numpy()[0]):
            self._sort_edges(faces, joined, edges)
        return edges

    def _sort_edges(self, faces: Any, joined: Any, edges: Any) -> None:
        self._launch(nvwarp_mesh.edge_codes, (faces.shape[0],), faces, joined, edges.codes, edges.sides)
        wp.utils.radix_sort_pairs(edges.codes, edges.sides, edges.count)

    def _mark_edges(self, rig: Any, edges: Any, edge: Any) -> None:
        """Write the edge map of the views in ``rig``."""
        take = self._buffers.take
        n_views, n_faces = rig.front.shape
        samples = nvwarp_edges.Samples()
        samples.count = take("sample count", (1,), wp.int32)
        samples.head = take("sample heads", tuple(rig.keys.shape), wp.int32)
        edge.zero_()
        room = max(n_views * SAMPLES_VIEW, self._sample_room)
        while True:
            for name, dtype in SAMPLE_TYPES.items():
                setattr(samples, name, take(f"sample {name}", (room,), dtype))
            samples.count.zero_()
            samples.head.fill_(-1)
            self._launch(nvwarp_edges.trace, (n_views, 3 * n_faces), rig, edges, samples)
            # The only wait for the device: how many there are decides the launches that follow.
            found = int(samples.count.numpy()[0])
            if found <= room:
                break
            room = self._sample_room = found + found // 4
        if found == 0:
            return
        queue, queued, groups = rig_queue(self._buffers, self.on_cpu)
        queued.zero_()
        self._launch(nvwarp_edges.cover, (n_views, n_faces), rig, samples, queue, queued)
        self._launch(nvwarp_edges.cover_blocks, (groups, self._lanes), rig, samples, queue, queued, groups, self._lanes)
        self._launch(nvwarp_edges.mark, (found,), samples, edge)

    def _attributes(
        self, surface: SurfaceAttributes, cameras: Sequence[Camera], normals: Any, hide_back_faces: bool
    ) -> Any:
        put = self._buffers.put
        attributes = nvwarp_maps.Attributes()
        attributes.normals = normals
        attributes.canonical = put("canonical of vertices", np.asarray(surface.canonical, np.float32), wp.float32)
        attributes.confidence = put("confidence of vertices", np.asarray(surface.confidence, np.float32), wp.float32)
        attributes.region = put("region of vertices", np.asarray(surface.region, np.uint8), wp.uint8)
        rotations, rays = zip(*(view_matrices(camera) for camera in cameras), strict=True)
        attributes.rotation = put("rotation", np.stack(rotations), wp.mat33d)
        attributes.rays = put("rays", np.stack(rays), wp.mat33d)
        attributes.hide_back_faces = hide_back_faces
        return attributes

    def _launch(self, kernel: Any, size: tuple[int, ...], *inputs: Any) -> None:
        wp.launch(kernel, dim=size, inputs=list(inputs), device=self.device)

    def _to_host(self, array: Any) -> npt.NDArray[Any]:
        # On the CPU Warp's array is the buffer itself, which the next call overwrites.
        host: npt.NDArray[Any] = array.numpy()
        return host.copy() if self.on_cpu else host


def rig_queue(buffers: Buffers, on_cpu: bool) -> tuple[Any, Any, int]:
    """Return the queue of blocks of large triangles, its counter, and how many groups of threads empty it."""
    return (
        buffers.take("queue", (QUEUE_SLOTS,), wp.vec4i),
        buffers.take("queued", (1,), wp.int64),
        1 if on_cpu else GROUPS,
    )


def box_corners(vertices: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the corners (8, 3) of the box around vertices (N, 3)."""
    ends = np.stack([vertices.min(axis=0), vertices.max(axis=0)])
    return np.stack(np.meshgrid(*ends.T), axis=-1).reshape(8, 3)


def may_be_cut(corners: npt.NDArray[np.float64], camera: Camera) -> bool:
    """Return whether a vertex could lie before the near plane or beyond the guard band.

    Decided on the host from the corners (8, 3) of the mesh's box, so that the kernels that clip are not launched where
    nothing needs them: a box ahead of the camera is projected into the hull of its projected corners.
    """
    h = camera.to_camera(corners) @ camera.K.T
    # Half the band and twice the distance: rounding decides nothing.
    return bool((h[:, 2] <= 2 * NEAR_M).any() or (np.abs(h[:, :2]) > GUARD_PX / 2 * h[:, 2:]).any())
