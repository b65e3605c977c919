"""The CPU default: compiled by numba, multi-threaded over views and bands of rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.geometry.camera import Camera
from datagen.geometry.mesh import Mesh
from datagen.render.backends.inputs import NEAR_M, checked_inputs
from datagen.render.backends.numba_kernels import draw, project, resolve_fragments
from datagen.render.edges import MeshEdges, Projection, pixel_matrix
from datagen.render.edges_kernel import mark_edges
from datagen.render.maps import packed_surface, view_matrices
from datagen.render.maps_kernel import resolve_view
from datagen.render.protocol import Fragments, SurfaceAttributes, ViewMaps

# A band keeps 9 bytes a pixel besides the maps: small ones stay in the cache, and a large image costs little memory.
BAND_PIXELS = 2**20
# Bands per thread where one view is shared, so that an empty band does not leave a thread idle.
BANDS_PER_THREAD = 3


@dataclass(frozen=True)
class _Band:
    """Rows ``top`` to ``bottom`` of view ``view``."""

    view: int
    top: int
    bottom: int


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
        self._threads = threads or _available_cores()

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
        views = []
        for camera in cameras:
            shape = camera.height, camera.width
            views.append(
                Fragments(np.empty(shape, np.int32), np.empty((*shape, 3), np.float32), np.empty(shape, np.float32))
            )

        def finish(band: _Band, seen: Projection, keys: npt.NDArray[np.int64]) -> None:
            view = views[band.view]
            resolve_fragments(
                keys,
                band.top,
                mesh.faces,
                seen.homogeneous,
                seen.screen,
                seen.inverse_z,
                view.face,
                view.barycentric,
                view.depth,
            )

        self._run(mesh, cameras, finish)
        return views

    def render(
        self, surface: SurfaceAttributes, cameras: Sequence[Camera], *, hide_back_faces: bool = False
    ) -> list[ViewMaps]:
        """Render all maps of a surface into every camera.

        Raises
        ------
        datagen.errors.MeshError, datagen.errors.CameraError
            As :func:`datagen.render.backends.inputs.checked_inputs`.
        """
        mesh = checked_inputs(surface.vertices, surface.faces, cameras)
        table = packed_surface(surface)
        edges = MeshEdges.of(mesh.vertices, mesh.faces)
        matrices = [view_matrices(camera) for camera in cameras]
        views = [_room(camera) for camera in cameras]

        def finish(band: _Band, seen: Projection, keys: npt.NDArray[np.int64]) -> None:
            view, camera = views[band.view], cameras[band.view]
            edge = np.empty((len(keys) + 2, camera.width), np.uint8)
            mark_edges(
                edges.ends,
                edges.sides,
                mesh.faces,
                seen.homogeneous,
                seen.screen,
                seen.inverse_z,
                seen.front,
                NEAR_M,
                hide_back_faces,
                band.top - 1,
                camera.height,
                edge,
            )
            resolve_view(
                keys,
                band.top,
                hide_back_faces,
                mesh.faces,
                seen.homogeneous,
                seen.screen,
                seen.inverse_z,
                seen.front,
                table,
                *matrices[band.view],
                edge,
                view.depth,
                (view.canonical, view.normal, view.region, view.confidence, view.mask),
                view.edge,
            )

        self._run(mesh, cameras, finish)
        return views

    def _run(
        self,
        mesh: Mesh,
        cameras: Sequence[Camera],
        finish: Callable[[_Band, Projection, npt.NDArray[np.int64]], None],
    ) -> None:
        """Draw every view band by band, and hand each band's keys to ``finish``."""
        n, m = len(mesh.vertices), len(mesh.faces)

        def place(camera: Camera, seen: Projection, start: int, stop: int) -> None:
            project(
                mesh.vertices,
                pixel_matrix(camera),
                NEAR_M,
                start,
                stop,
                seen.homogeneous,
                seen.screen,
                seen.inverse_z,
            )

        def one_band(band: _Band, seen: Projection) -> None:
            keys = np.zeros((band.bottom - band.top, cameras[band.view].width), np.int64)
            draw(mesh.faces, seen.homogeneous, seen.screen, seen.inverse_z, NEAR_M, band.top, keys, seen.front)
            finish(band, seen, keys)

        def one_view(view: int) -> None:
            seen = Projection.empty(n, m)
            place(cameras[view], seen, 0, n)
            for band in _bands(view, cameras[view], 1):
                one_band(band, seen)

        with _Workers(self._threads) as workers:
            if self._threads == 1 or len(cameras) >= 2 * self._threads:
                workers.each(one_view, [(view,) for view in range(len(cameras))])
                return
            # Too few views to keep every thread busy: they share the vertices, then the bands, of all of them. The
            # bands of a view find the same fronts, so it does not matter which of them writes last.
            projections = [Projection.empty(n, m) for _ in cameras]
            parts = np.linspace(0, n, self._threads + 1).astype(int)
            workers.each(
                place,
                [
                    (camera, seen, int(start), int(stop))
                    for camera, seen in zip(cameras, projections, strict=True)
                    for start, stop in pairwise(parts)
                ],
            )
            workers.each(
                one_band,
                [
                    (band, projections[view])
                    for view, camera in enumerate(cameras)
                    for band in _bands(view, camera, self._threads * BANDS_PER_THREAD)
                ],
            )


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


def _bands(view: int, camera: Camera, least: int) -> Iterator[_Band]:
    """Cut an image into bands of rows: at least that many where it has the rows, none above :data:`BAND_PIXELS`."""
    rows = min(-(-camera.height // least), max(1, BAND_PIXELS // camera.width))
    for top in range(0, camera.height, rows):
        yield _Band(view, top, min(top + rows, camera.height))


def _room(camera: Camera) -> ViewMaps:
    """Return maps to be written."""
    shape = camera.height, camera.width
    return ViewMaps(
        depth=np.empty(shape, np.float32),
        canonical=np.empty((3, *shape), np.float32),
        normal=np.empty((3, *shape), np.float32),
        region=np.empty(shape, np.uint8),
        confidence=np.empty(shape, np.float32),
        mask=np.empty(shape, np.bool_),
        edge=np.empty(shape, np.bool_),
    )


def _available_cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows
        return os.cpu_count() or 1
