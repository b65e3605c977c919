"""One run of the rendering benchmark: backends side by side on the same heads and cameras."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from benchmarks.render.bounds import cold_write_s, map_bytes, stage_shares, warm_write_s
from benchmarks.render.device import DeviceRenderer, device_figures
from benchmarks.render.heads import arc_of_cameras, random_heads
from benchmarks.render.parity import ParityFigures, compare_maps
from datagen.common.blas import available_cpus
from datagen.geometry.camera import Camera
from datagen.heads.base import HeadModel
from datagen.render.contract import Renderer, SurfaceAttributes
from datagen.render.registry import make_renderer

# Tens of seconds a view: these see one view of each head, once.
SLOW_PEERS = ("pytorch3d",)
PEERS = ("numba", "nvwarp", "nvdiffrast", "open3d", "pytorch3d")


@dataclass(frozen=True)
class RenderPlan:
    """What is measured.

    Attributes
    ----------
    backend : str
        Of :func:`datagen.render.registry.make_renderer`.
    against : tuple of str
        Of :data:`PEERS`.
    heads, views, repeats : int
    faces : int
        Triangles of a head.
    resolution : int
        Pixels a side.
    threads : int
        Of the numba backend, and of the plain writes it is compared with.
    seed : int
    """

    backend: str
    against: tuple[str, ...]
    heads: int = 4
    views: int = 8
    repeats: int = 5
    faces: int = 52_000
    resolution: int = 504
    threads: int = 0
    seed: int = 5


@dataclass(frozen=True)
class RenderResult:
    """What one run measured.

    Attributes
    ----------
    plan : RenderPlan
    faces : int
        Triangles of the median head.
    figures : dict of str to float
        Flat; ratios are of times in this run.
    backends : dict of backend to figures
        views_per_s, ms_per_view, megapixels_per_s; cpu_ms_per_view is processor time of all threads, which other
        work on the machine disturbs less.
    stages : dict of stage to share
        Of the time of one view on one thread, from its triangles to its stored integers.
    threads : dict of thread count to views_per_s
    parity : dict of backend to ParityFigures
        Against the reference, open3d; empty without it.
    """

    plan: RenderPlan
    faces: int
    figures: dict[str, float]
    backends: dict[str, dict[str, float]]
    stages: dict[str, float]
    threads: dict[int, float]
    parity: dict[str, ParityFigures]


@dataclass
class _Clock:
    """Seconds per view of everything that is timed, one list entry per head and repeat."""

    seconds: dict[str, list[list[float]]] = field(default_factory=dict)

    def add(self, name: str, head: int, seconds: float) -> None:
        heads = self.seconds.setdefault(name, [])
        while len(heads) <= head:
            heads.append([])
        heads[head].append(seconds)

    def per_view(self, name: str) -> float:
        """Return the median over heads of the median over repeats."""
        return median(median(times) for times in self.seconds[name] if times)


def run_render_bench(
    plan: RenderPlan, head: HeadModel, progress: Callable[[str], None] = lambda _line: None
) -> RenderResult:
    """Render random heads with a backend and its peers, in turns, and compare times and maps.

    Every repeat renders every head with every backend one after the other, so that a disturbance of the machine
    meets all of them.

    Parameters
    ----------
    plan : RenderPlan
    head : HeadModel
    progress : callable
        Called with a line now and then.

    Raises
    ------
    datagen.common.errors.DependencyError
        If a backend or peer is missing; before anything is measured.
    """
    threads = plan.threads or available_cpus()
    own = make_renderer(plan.backend, threads=threads)
    renderers: dict[str, Renderer] = {own.name: own}
    for name in plan.against:
        renderers.setdefault(name, _peer(name, threads))
    progress(f"{plan.heads} heads of about {plan.faces} faces, {plan.views} views of {plan.resolution}² pixels")
    surfaces = random_heads(head, plan.heads, plan.faces, plan.seed)
    cameras = arc_of_cameras(plan.views, plan.resolution)
    clock = _Clock()
    for name, renderer in renderers.items():
        if name not in SLOW_PEERS:
            renderer.render(surfaces[0], cameras)  # compiles, and fills caches
    foreground = 0
    for repeat in range(plan.repeats):
        for i, surface in enumerate(surfaces):
            for name, renderer in renderers.items():
                slow = name in SLOW_PEERS
                if slow and repeat:
                    continue
                seen = cameras[len(cameras) // 2 :][:1] if slow else cameras
                started, cpu_started = time.perf_counter(), time.process_time()
                maps = renderer.render(surface, seen)
                clock.add(f"{name} cpu", i, (time.process_time() - cpu_started) / len(seen))
                clock.add(name, i, (time.perf_counter() - started) / len(seen))
                if name == own.name:
                    clock.add("write", i, cold_write_s(maps, threads) / len(seen))
                    clock.add("write_warm", i, warm_write_s(maps, threads) / len(seen))
                    foreground += sum(int((m.depth > 0).sum()) for m in maps) if repeat == 0 else 0
        progress(f"repeat {repeat + 1} of {plan.repeats}: {clock.per_view(own.name) * 1e3:.2f} ms a view")
    parity = _parity(renderers, surfaces, cameras, head.template.space.half_extent)
    scaling = _scaling(surfaces[0], cameras, plan.repeats) if own.name == "numba" else {}
    stages = stage_shares(surfaces[0], cameras, plan.repeats) if own.name == "numba" else {}
    backends = {
        name: {**_speed(clock.per_view(name), plan.resolution), "cpu_ms_per_view": clock.per_view(f"{name} cpu") * 1e3}
        for name in renderers
    }
    share = foreground / (plan.heads * plan.views * plan.resolution**2)
    figures = {
        **backends[own.name],
        **{f"ratio_{n}": clock.per_view(n) / clock.per_view(own.name) for n in renderers if n != own.name},
        "ratio_write_bound": clock.per_view(own.name) / clock.per_view("write"),
        "ratio_write_warm": clock.per_view(own.name) / clock.per_view("write_warm"),
        "write_gb_per_s": map_bytes(plan.resolution) / clock.per_view("write") / 1e9,
        "foreground_share": share,
        "threads": threads if own.name == "numba" else float("nan"),
    }
    if own.name in parity:
        found = parity[own.name]
        names = ("missed_share", "other_share", "depth_p99_mm", "canonical_p99_mm", "normal_p99_deg")
        figures |= {f"parity_{name}": found.to_dict()[name] for name in names}
        figures["parity_edge_differ_share"] = found.edge_differ / max(found.edge, 1)
    if isinstance(own, DeviceRenderer):
        figures |= device_figures(own, surfaces, cameras, plan.repeats)
    faces = int(np.median([len(surface.faces) for surface in surfaces]))
    return RenderResult(plan, faces, figures, backends, stages, scaling, parity)


def _peer(name: str, threads: int) -> Renderer:
    if name == "pytorch3d":
        from benchmarks.render.peers import Pytorch3DRenderer

        return Pytorch3DRenderer()
    return make_renderer(name, threads=threads)


def _speed(seconds: float, resolution: int) -> dict[str, float]:
    return {
        "views_per_s": 1 / seconds,
        "ms_per_view": seconds * 1e3,
        "megapixels_per_s": resolution**2 / seconds / 1e6,
    }


def _parity(
    renderers: dict[str, Renderer], surfaces: Sequence[SurfaceAttributes], cameras: Sequence[Camera], half_extent: float
) -> dict[str, ParityFigures]:
    """Compare every backend with the reference, Open3D's ray casting, where that takes part."""
    reference = renderers.get("open3d")
    tested = {name: r for name, r in renderers.items() if name != "open3d" and name not in SLOW_PEERS}
    if reference is None or not tested:
        return {}
    collected: dict[str, list[Any]] = {name: [] for name in ("open3d", *tested)}
    for surface in surfaces:
        for name in collected:
            renderer = renderers[name]
            faces = [seen.face for seen in renderer.rasterise(surface.vertices, surface.faces, cameras)]
            collected[name] += list(zip(renderer.render(surface, cameras), faces, strict=True))
    true_maps, true_faces = zip(*collected["open3d"], strict=True)
    figures = {}
    for name in tested:
        maps, faces_seen = zip(*collected[name], strict=True)
        figures[name] = compare_maps(maps, true_maps, faces_seen, true_faces, half_extent)
    return figures


def _scaling(surface: SurfaceAttributes, cameras: Sequence[Camera], repeats: int) -> dict[int, float]:
    """Return views per second of the numba backend by number of threads."""
    counts = sorted({1, *(2**k for k in range(1, 10) if 2**k <= available_cpus()), available_cpus()})
    renderers = {count: make_renderer("numba", threads=count) for count in counts}
    clock = _Clock()
    for _ in range(repeats):
        for count, renderer in renderers.items():
            started = time.perf_counter()
            renderer.render(surface, cameras)
            clock.add(str(count), 0, (time.perf_counter() - started) / len(cameras))
    return {count: 1 / clock.per_view(str(count)) for count in counts}
