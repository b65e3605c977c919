"""Agreement and speed of the rendering backends on the same heads and cameras.

Run: ``python benchmarks/bench_render.py [--heads 4] [--views 8] [--size 512] [--repeats 5] [--json FILE]``

Agreement is measured against Open3D's ray casting. Times are the least of the repeats, one view at a time on one
thread for numba; Open3D uses every core it finds, so its processor time is given as well.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import trimesh

from datagen.geometry.camera import Camera, look_at
from datagen.heads.registry import load_head
from datagen.render.backends import make_renderer
from datagen.render.backends.numba_backend import NumbaRenderer
from datagen.render.maps import render_views
from datagen.render.protocol import Renderer, SurfaceAttributes

SUBDIVISIONS = 1


@dataclass
class Differences:
    """What was found in all views together; lists hold one array per view."""

    foreground: int = 0
    missed: int = 0
    other_triangle: int = 0
    depth_mm: list[npt.NDArray[np.float64]] | None = None
    canonical_mm: list[npt.NDArray[np.float64]] | None = None
    normal_deg: list[npt.NDArray[np.float64]] | None = None

    def __post_init__(self) -> None:
        self.depth_mm, self.canonical_mm, self.normal_deg = [], [], []

    def summary(self) -> dict[str, Any]:
        """Return shares of the foreground, and median, 99th percentile and largest difference."""
        figures: dict[str, Any] = {
            "foreground_pixels": self.foreground,
            "hit_mismatch_share": self.missed / self.foreground,
            "other_triangle_share": self.other_triangle / self.foreground,
        }
        for name in ("depth_mm", "canonical_mm", "normal_deg"):
            values = np.concatenate(getattr(self, name))
            figures[name] = {
                "p50": float(np.percentile(values, 50)),
                "p99": float(np.percentile(values, 99)),
                "max": float(values.max()),
            }
        return figures


def random_heads(count: int, seed: int = 0) -> tuple[list[SurfaceAttributes], float]:
    """Return posed Anny heads with true canonical coordinates, and the half extent of their space in metres."""
    head = load_head("anny")
    template, rng = head.template, np.random.default_rng(seed)
    surfaces = []
    for _ in range(count):
        expression = rng.uniform(0, 0.5, len(head.expression_names)) * (
            rng.uniform(size=len(head.expression_names)) < 0.15
        )
        packed = np.hstack([head.vertices(rng.normal(size=head.identity_size), expression), template.vertices])
        faces = template.faces
        for _ in range(SUBDIVISIONS):
            packed, faces = trimesh.remesh.subdivide(packed, faces)
        n = len(packed)
        surfaces.append(
            SurfaceAttributes(
                np.ascontiguousarray(packed[:, :3]),
                faces.astype(np.int32),
                template.space.normalise(packed[:, 3:]).astype(np.float32),
                np.ones(n, np.float32),
                np.ones(n, np.uint8),
            )
        )
    return surfaces, template.space.half_extent


def rig(views: int, size: int) -> list[Camera]:
    """Return cameras on an arc of 240 degrees, the head filling most of each image."""
    azimuths = np.radians(np.linspace(-120, 120, views))
    return [
        look_at(f"cam{i:02d}", [0.8 * np.sin(a), 0.1, 0.8 * np.cos(a)], [0, 0, 0], 2.3 * size, size, size)
        for i, a in enumerate(azimuths)
    ]


def compare(
    surfaces: list[SurfaceAttributes],
    cameras: list[Camera],
    half_extent: float,
    tested: Renderer,
    reference: Renderer,
) -> Differences:
    """Collect the differences of two backends over all heads and cameras."""
    found = Differences()
    for surface in surfaces:
        seen = [b.rasterise(surface.vertices, surface.faces, cameras) for b in (tested, reference)]
        maps = [render_views(surface, cameras, b) for b in (tested, reference)]
        for a, b, ma, mb in zip(*seen, *maps, strict=True):
            hit_a, hit_b = a.face >= 0, b.face >= 0
            same = hit_a & (a.face == b.face)
            found.foreground += int(hit_b.sum())
            found.missed += int((hit_a != hit_b).sum())
            found.other_triangle += int((hit_a & hit_b & ~same).sum())
            found.depth_mm.append(np.abs(a.depth.astype(np.float64) - b.depth)[same] * 1e3)
            gap = np.linalg.norm(ma.canonical.astype(np.float64) - mb.canonical, axis=0)
            found.canonical_mm.append(gap[same] * half_extent * 1e3)
            cosine = (ma.normal.astype(np.float64) * mb.normal).sum(axis=0)[same]
            found.normal_deg.append(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    return found


def least_ms(work: Any, repeats: int) -> dict[str, float]:
    """Return the least wall and processor time of ``work`` in milliseconds, after one warm-up."""
    work()
    wall, processor = [], []
    for _ in range(repeats):
        w, p = time.perf_counter(), time.process_time()
        work()
        wall.append((time.perf_counter() - w) * 1e3)
        processor.append((time.process_time() - p) * 1e3)
    return {"wall_ms": min(wall), "processor_ms": min(processor)}


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    surfaces, half_extent = random_heads(arguments.heads)
    cameras = rig(arguments.views, arguments.size)
    numba, open3d = NumbaRenderer(threads=1), make_renderer("open3d")
    result: dict[str, Any] = {
        "heads": arguments.heads,
        "faces": len(surfaces[0].faces),
        "views": arguments.views,
        "size": arguments.size,
        "agreement": compare(surfaces, cameras, half_extent, numba, open3d).summary(),
        "speed": {},
    }
    s = surfaces[0]
    for backend in (numba, open3d):
        result["speed"][backend.name] = {
            "one_view": least_ms(lambda b=backend: b.rasterise(s.vertices, s.faces, cameras[:1]), arguments.repeats),
            "rig": least_ms(lambda b=backend: b.rasterise(s.vertices, s.faces, cameras), arguments.repeats),
            "rig_maps": least_ms(lambda b=backend: render_views(s, cameras, b), arguments.repeats),
        }
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
