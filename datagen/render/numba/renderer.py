"""The CPU default: compiled by numba, multi-threaded over views and bands of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.blas import available_cpus
from datagen.geometry.camera import Camera
from datagen.render.contract import MAPS, NEAR_M, Fragments, SurfaceAttributes, ViewMaps
from datagen.render.inputs import checked_inputs, pixel_matrix, view_matrices
from datagen.render.numba.edges import MeshEdges, Projection, mark_edges, view_contours
from datagen.render.numba.maps_kernel import packed_surface, resolve_view
from datagen.render.numba.mesh_order import OrderedMesh, arrange
from datagen.render.numba.raster_kernel import draw, project, resolve_fragments

# A band keeps 9 bytes a pixel besides the maps: small ones stay in the cache, and a large image costs little memory.
BAND_PIXELS = 2**20
HUGE_PAGE, CACHE_LINE = 2**21, 64
# Bands per thread where one view is shared, so that an empty band does not leave a thread idle.
BANDS_PER_THREAD = 3


@dataclass(frozen=True)
class _View:
    """A view as all its bands need it.

    Attributes
    ----------
    rows : int
        Of a band.
    order : (T,) int32
        Triangles, band after band; see :func:`datagen.render.numba.mesh_order.arrange`.
    start : (2 B + 1,) int64
    segments : (M, 7) float64
        Contours; none if only fragments are asked for.
    """

    index: int
    camera: Camera
    seen: Projection
    rows: int
    order: npt.NDArray[np.int32]
    start: npt.NDArray[np.int64]
    segments: npt.NDArray[np.float64]

    def triangles(self, band: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Return the fronts and the backs that matter to a band."""
        first, middle, last = self.start[2 * band : 2 * band + 3]
        return self.order[first:middle], self.order[middle:last]


class NumbaRenderer:
    """Visibility and maps on the CPU; deterministic, watertight, the same bytes for any number of threads.

    Parameters
    ----------
    threads : int or None
        By default one per available core. The compiled code holds no lock, so callers that already run several
        threads should pass 1.
    """

    name = "numba"

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads or available_cpus()

    def rasterise(
        self, vertices: npt.NDArray[np.floating], faces: npt.NDArray[np.integer], cameras: Sequence[Camera]
    ) -> list[Fragments]:
        """Rasterise a mesh (vertices (N, 3) world metres, faces (F, 3)) into every camera."""
        mesh = OrderedMesh.of(checked_inputs(vertices, faces, cameras))
        views = []
        for camera in cameras:
            shape = camera.height, camera.width
            views.append(
                Fragments(np.empty(shape, np.int32), np.empty((*shape, 3), np.float32), np.empty(shape, np.float32))
            )

        def finish(view: _View, band: int, keys: npt.NDArray[np.int64]) -> None:
            out, seen = views[view.index], view.seen
            resolve_fragments(
                keys,
                band * view.rows,
                mesh.faces,
                mesh.places,
                seen.homogeneous,
                seen.screen,
                seen.inverse_z,
                out.face,
                out.barycentric,
                out.depth,
            )

        self._run(mesh, cameras, None, finish)
        return views

    def render(
        self, surface: SurfaceAttributes, cameras: Sequence[Camera], *, hide_back_faces: bool = False
    ) -> list[ViewMaps]:
        """Render all maps of a surface into every camera."""
        mesh = OrderedMesh.of(checked_inputs(surface.vertices, surface.faces, cameras))
        table = packed_surface(
            SurfaceAttributes(
                mesh.vertices,
                mesh.faces,
                mesh.sorted(surface.canonical),
                mesh.sorted(surface.confidence),
                mesh.sorted(surface.region),
            )
        )
        edges = MeshEdges.of(mesh.vertices, mesh.faces)
        matrices = [view_matrices(camera) for camera in cameras]
        views = [_room(camera) for camera in cameras]

        def finish(view: _View, band: int, keys: npt.NDArray[np.int64]) -> None:
            out, seen, top = views[view.index], view.seen, band * view.rows
            edge = np.empty((len(keys) + 2, view.camera.width), np.uint8)
            mark_edges(
                view.segments,
                *view.triangles(band),
                mesh.faces,
                seen.homogeneous,
                seen.screen,
                seen.inverse_z,
                NEAR_M,
                top - 1,
                view.camera.height,
                edge,
            )
            resolve_view(
                keys,
                top,
                hide_back_faces,
                mesh.faces,
                mesh.places,
                seen.homogeneous,
                seen.screen,
                seen.inverse_z,
                seen.front,
                table,
                *matrices[view.index],
                edge,
                out.depth,
                (out.canonical, out.normal, out.region, out.confidence, out.mask),
                out.edge.view(np.uint8),
            )

        self._run(mesh, cameras, edges, finish)
        return views

    def _run(
        self,
        mesh: OrderedMesh,
        cameras: Sequence[Camera],
        edges: MeshEdges | None,
        finish: Callable[[_View, int, npt.NDArray[np.int64]], None],
    ) -> None:
        """Draw every view band by band, and hand each band's keys to ``finish``."""
        shared = self._threads > 1 and len(cameras) < 2 * self._threads
        least = self._threads * BANDS_PER_THREAD if shared else 1

        def one_band(view: _View, band: int) -> None:
            camera, seen, top = view.camera, view.seen, band * view.rows
            keys = np.zeros((min(view.rows, camera.height - top), camera.width), np.int64)
            draw(
                *view.triangles(band),
                mesh.faces,
                mesh.ids,
                seen.homogeneous,
                seen.screen,
                seen.inverse_z,
                NEAR_M,
                top,
                keys,
            )
            finish(view, band, keys)

        def one_view(index: int) -> None:
            view = _prepared(index, cameras[index], mesh, edges, least)
            for band in range(len(view.start) // 2):
                one_band(view, band)

        with _Workers(self._threads) as workers:
            if not shared:
                workers.each(one_view, [(index,) for index in range(len(cameras))])
                return
            # Too few views to keep every thread busy: the threads share their bands.
            views = [_prepared(i, camera, mesh, edges, least) for i, camera in enumerate(cameras)]
            workers.each(one_band, [(view, band) for view in views for band in range(len(view.start) // 2)])


def _prepared(index: int, camera: Camera, mesh: OrderedMesh, edges: MeshEdges | None, least: int) -> _View:
    """Project a mesh, and cut the image into bands: at least that many where it has the rows."""
    n = len(mesh.vertices)
    seen = Projection.empty(n, len(mesh.faces))
    project(mesh.vertices, pixel_matrix(camera), NEAR_M, 0, n, seen.homogeneous, seen.screen, seen.inverse_z)
    rows = min(-(-camera.height // least), max(1, BAND_PIXELS // camera.width))
    order, start = arrange(
        mesh.faces, seen.homogeneous, seen.screen, NEAR_M, rows, camera.height, camera.width, seen.front
    )
    segments = np.empty((0, 7)) if edges is None else view_contours(edges, seen)
    return _View(index, camera, seen, rows, order, start, segments)


class _Workers:
    """Threads that share a list of tasks; with one thread, the caller's own."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def each(self, work: Callable[..., None], tasks: Sequence[tuple[Any, ...]]) -> None:
        """Call ``work`` with every task; the first error ends the wait and is raised."""
        if self._pool is None or len(tasks) < 2:
            for task in tasks:
                work(*task)
            return
        for future in [self._pool.submit(work, *task) for task in tasks]:
            future.result()


def _room(camera: Camera) -> ViewMaps:
    """Return maps to be written, in one block of memory of their own.

    Fresh memory costs more than all the rest of a view where the system hands it out in small pages; NumPy asks for
    huge ones where an array holds any, so the block is aligned to theirs and as long as some.
    """
    pixels = camera.height * camera.width
    total = sum(_padded(planes * pixels * np.dtype(kind).itemsize) for planes, kind in MAPS.values())
    memory = np.empty(-(-total // HUGE_PAGE) * HUGE_PAGE + HUGE_PAGE if total >= HUGE_PAGE else total, np.uint8)
    start = -memory.ctypes.data % HUGE_PAGE if total >= HUGE_PAGE else 0
    maps = {}
    for name, (planes, kind) in MAPS.items():
        size = planes * pixels * np.dtype(kind).itemsize
        shape = (camera.height, camera.width) if planes == 1 else (planes, camera.height, camera.width)
        maps[name] = memory[start : start + size].view(kind).reshape(shape)
        start += _padded(size)
    return ViewMaps(**maps)


def _padded(size: int) -> int:
    """Round up, so that every map begins at the start of a cache line."""
    return -(-size // CACHE_LINE) * CACHE_LINE
