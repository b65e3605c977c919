"""Light that reaches each vertex: shadows of lamps, occlusion of the surroundings, diffusion under the skin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from datagen.common.arrays import F32, F64
from datagen.common.compiled import compiled
from datagen.geometry.camera import Camera
from datagen.geometry.edges import unique_edges
from datagen.geometry.mesh import normalised
from datagen.render.contract import Renderer
from datagen.simulation.photo.light import Light, harmonics

# Seen from this many radii away a perspective camera is near enough to a distant light.
DISTANCE_RADII = 12.0


class ShadowMaps:
    """Depth maps of the blockers seen from directions."""

    def __init__(
        self, centre: F64, radius: float, blockers: tuple[F64, npt.NDArray[np.int32]], renderer: Renderer
    ) -> None:
        self._centre, self._radius, self._blockers, self._renderer = centre, radius, blockers, renderer

    def __call__(self, ways: F64, resolution: int) -> list[tuple[F64, F32]]:
        cameras = [distant_camera(self._centre, way, self._radius, resolution) for way in ways]
        seen = self._renderer.rasterise(*self._blockers, cameras)
        return [
            (np.ascontiguousarray(camera.K @ camera.world_to_camera[:3]), fragments.depth)
            for camera, fragments in zip(cameras, seen, strict=True)
        ]


def golden_spiral(n: int) -> npt.NDArray[np.float64]:
    """Return ``n`` nearly even unit vectors, (n, 3) float64 (Fibonacci lattice)."""
    i = np.arange(n) + 0.5
    y, angle = 1 - 2 * i / n, np.pi * (3 - np.sqrt(5)) * i
    r = np.sqrt(1 - y * y)
    return np.stack([r * np.cos(angle), y, r * np.sin(angle)], axis=1)


def distant_camera(
    centre: npt.NDArray[np.float64], direction: npt.NDArray[np.float64], radius: float, resolution: int
) -> Camera:
    forward = -direction
    helper = np.array([1.0, 0, 0]) if abs(forward[0]) < 0.7 else np.array([0, 1.0, 0])
    right = normalised(np.cross(forward, helper))
    R = np.stack([right, np.cross(forward, right), forward])
    E = np.eye(4)
    E[:3, :3], E[:3, 3] = R, -R @ (centre + direction * radius * DISTANCE_RADII)
    focal = 0.48 * resolution * (DISTANCE_RADII - 1)
    K = np.array([[focal, 0, resolution / 2], [0, focal, resolution / 2], [0, 0, 1.0]])
    return Camera("occlusion", K, E, resolution, resolution)


SURROUNDINGS = 18
SURROUNDINGS_PIXELS, LAMP_PIXELS = 112, 224
KEY_SAMPLES, OTHER_SAMPLES = 8, 3
# A point is lifted this many pixels of a depth map off the surface before it is compared with the map.
LIFT_PIXELS = 1.1
# Albedo for the light that hollows of skin throw back at themselves (Jimenez et al. 2016, multi-bounce occlusion).
BOUNCE_ALBEDO = np.array([0.55, 0.33, 0.25])
# How far light wanders under skin per channel, millimetres (after d'Eon & Luebke 2007: red far, blue hardly).
DIFFUSION_MM = (2.4, 1.1, 0.6)
# Share of the light on the far side of an ear that comes through.
TRANSLUCENCY = np.array([0.30, 0.055, 0.03])
EAR_M = 5e-3


@dataclass(frozen=True)
class Illumination:
    """Light at each vertex.

    Attributes
    ----------
    irradiance : (N, 3) float32
        Over π, shadows and diffusion included.
    vector : (N, 3) float32
        Mean direction of what arrives, weighted by it: how irradiance changes as the normal turns.
    open : (N,) float32
        Share of the surroundings that is seen.
    lamps : (N, L) float32
        Share of each lamp that is seen.
    """

    irradiance: F32
    vector: F32
    open: F32
    lamps: F32


def illuminate(
    vertices: F64,
    normals: F64,
    blockers: tuple[F64, npt.NDArray[np.int32]],
    light: Light,
    renderer: Renderer,
    *,
    coarse: npt.NDArray[np.int32] | None = None,
    sphere: tuple[F64, float] | None = None,
    spread: Diffusion | None = None,
    thin: F32 | None = None,
) -> Illumination:
    """Compute the light that reaches points of a surface through what stands in its way.

    Parameters
    ----------
    vertices, normals : (N, 3) float64
        World metres; unit normals.
    blockers : (B, 3) float64, (F, 3) int32
        Mesh that casts the shadows.
    coarse : (G, 3) int32, optional
        Fewer triangles over the same vertices that will do for the surroundings.
    renderer : Renderer
        Draws the depth maps seen from the light.
    sphere : (3,) float64, float
        Ball that matters; around the vertices if not given. Blockers outside it cast no shadow.
    spread : Diffusion, optional
        Of light under the skin, over the first of the vertices.
    thin : (N,) float32, optional
        Where light comes through from behind.
    """
    v, n = np.ascontiguousarray(vertices, np.float64), np.ascontiguousarray(normals, np.float64)
    centre, radius = sphere or _ball(v)
    count = len(v)
    ways = golden_spiral(SURROUNDINGS)
    radiance = np.maximum(harmonics(ways) @ _radiance(light.irradiance), 0.0) + 1e-6
    seen, total, vector = np.zeros((count, 3)), np.zeros((count, 3)), np.zeros((count, 3))
    open_, open_total = np.zeros(count), np.zeros(count)
    lift = LIFT_PIXELS * 2 * radius / SURROUNDINGS_PIXELS
    maps = ShadowMaps(centre, radius, blockers, renderer)
    around = maps if coarse is None else ShadowMaps(centre, radius, (blockers[0], coarse), renderer)
    for way, colour, (projection, depth) in zip(ways, radiance, around(ways, SURROUNDINGS_PIXELS), strict=True):
        _gather_sky(v, n, lift, way, projection, depth, colour, seen, total, vector, open_, open_total)
    open_ = np.divide(open_, open_total, out=np.ones(count), where=open_total > 0)
    unshadowed = np.maximum(harmonics(n) @ light.irradiance, 0.0)
    bounced = _with_bounces(open_) / np.maximum(open_, 1e-3)[:, None]
    irradiance = unshadowed * np.divide(seen, total, out=np.ones_like(seen), where=total > 0) * bounced
    vector *= (unshadowed.mean(axis=1) / np.maximum(total.mean(axis=1), 1e-9))[:, None]
    lamps = np.zeros((count, len(light.lamps)))
    lift = LIFT_PIXELS * 2 * radius / LAMP_PIXELS
    behind = np.flatnonzero(thin > 0.05) if thin is not None else np.zeros(0, np.int64)
    through = np.zeros((len(behind), 3))
    back = np.ascontiguousarray(v[behind] - EAR_M * n[behind]), np.ascontiguousarray(-n[behind])
    for k, lamp in enumerate(light.lamps):
        samples = lamp.samples(KEY_SAMPLES if k == 0 else OTHER_SAMPLES)
        colour = lamp.colour / len(samples)
        for way, (projection, depth) in zip(samples, maps(samples, LAMP_PIXELS), strict=True):
            _gather_lamp(v, n, lift, way, projection, depth, colour, irradiance, vector, lamps[:, k])
            if len(behind):
                idle = np.zeros(len(behind)), np.zeros((len(behind), 3))
                _gather_lamp(*back, lift, way, projection, depth, colour, through, idle[1], idle[0])
        lamps[:, k] /= len(samples)
    if len(behind) and thin is not None:
        irradiance[behind] += through * TRANSLUCENCY * thin[behind, None]
    if spread is not None:
        irradiance[: spread.count] = spread(irradiance[: spread.count])
    return Illumination(
        irradiance.astype(np.float32), vector.astype(np.float32), open_.astype(np.float32), lamps.astype(np.float32)
    )


class Diffusion:
    """Diffusion of irradiance over a surface, wider in red than in blue (in the manner of d'Eon & Luebke 2007).

    Parameters
    ----------
    points_mm : (N, 3) float
        Where the vertices lie at rest.
    faces : (F, 3) int
    active : (N,) bool
        Vertices that spread light: skin.
    """

    STEP_MM = 0.55

    def __init__(
        self, points_mm: npt.NDArray[np.floating], faces: npt.NDArray[np.integer], active: npt.NDArray[np.bool_]
    ) -> None:
        n = self.count = len(points_mm)
        edges = unique_edges(faces)[0]
        edges = edges[active[edges].all(axis=1)]
        length2 = ((points_mm[edges[:, 0]] - points_mm[edges[:, 1]]) ** 2).sum(axis=1)
        # Neighbours' shares such that one step has the variance of STEP_MM along each axis, where edges allow it.
        degree = np.bincount(edges.ravel(), minlength=n)
        share = np.minimum(4 * self.STEP_MM**2 / np.maximum(length2, 1e-6), 1.0)
        share = share / np.maximum(degree[edges].max(axis=1), 1) * 0.9
        i, j = edges[:, 0], edges[:, 1]
        off = sp.coo_matrix((np.r_[share, share], (np.r_[i, j], np.r_[j, i])), shape=(n, n)).tocsr()
        stay = 1 - np.asarray(off.sum(axis=1)).ravel()
        self._matrix = (off + sp.diags(stay)).tocsr()
        self._steps = [max(0, round((mm**2) / (2 * self.STEP_MM**2))) for mm in DIFFUSION_MM]

    def __call__(self, irradiance: F64) -> F64:
        """Return the spread irradiance (N, 3)."""
        out = irradiance.copy()
        done = 0
        # All channels walk together as far as the shortest goes, then the rest continue.
        for channel in np.argsort(self._steps):
            later = [k for k in range(3) if self._steps[k] >= self._steps[channel]]
            for _ in range(self._steps[channel] - done):
                out[:, later] = self._matrix @ out[:, later]
            done = max(done, self._steps[channel])
        return out


def _radiance(irradiance: F64) -> F64:
    """Undo the cosine lobe: radiance coefficients from irradiance over π."""
    lobe = np.array([1.0, 2 / 3, 2 / 3, 2 / 3, 0.25, 0.25, 0.25, 0.25, 0.25])
    return np.asarray(irradiance / lobe[:, None])


def _with_bounces(seen: F64) -> F64:
    a, b, c = 2.0404 * BOUNCE_ALBEDO - 0.3324, -4.7951 * BOUNCE_ALBEDO + 0.6417, 2.7552 * BOUNCE_ALBEDO + 0.6903
    x = seen[:, None]
    return np.asarray(np.maximum(x, ((x * a + b) * x + c) * x))


def _ball(v: F64) -> tuple[F64, float]:
    centre = (v.min(axis=0) + v.max(axis=0)) / 2
    return centre, float(np.linalg.norm(v - centre, axis=1).max()) or 1.0


@compiled
def _visible(x, y, z, projection, depth):  # type: ignore[no-untyped-def]
    """Return how much of a point the map's camera sees: the nearest four map pixels, weighted by nearness."""
    height, width = depth.shape
    w = projection[2, 0] * x + projection[2, 1] * y + projection[2, 2] * z + projection[2, 3]
    u = (projection[0, 0] * x + projection[0, 1] * y + projection[0, 2] * z + projection[0, 3]) / w - 0.5
    v = (projection[1, 0] * x + projection[1, 1] * y + projection[1, 2] * z + projection[1, 3]) / w - 0.5
    column, row = int(np.floor(u)), int(np.floor(v))
    if column < 0 or row < 0 or column + 1 >= width or row + 1 >= height:
        return 1.0
    # Compared first, then blended (Reeves et al. 1987): a mean depth across a silhouette belongs to neither surface.
    fu, fv = u - column, v - row
    lit = 0.0
    d = depth[row, column]
    if d == 0 or w < d:
        lit += (1 - fu) * (1 - fv)
    d = depth[row, column + 1]
    if d == 0 or w < d:
        lit += fu * (1 - fv)
    d = depth[row + 1, column]
    if d == 0 or w < d:
        lit += (1 - fu) * fv
    d = depth[row + 1, column + 1]
    if d == 0 or w < d:
        lit += fu * fv
    return lit


@compiled
def _gather_sky(v, n, lift, way, projection, depth, colour, seen, total, vector, open_, open_total):  # type: ignore[no-untyped-def]
    mean = (colour[0] + colour[1] + colour[2]) / 3
    for i in range(len(v)):
        facing = n[i, 0] * way[0] + n[i, 1] * way[1] + n[i, 2] * way[2]
        if facing <= 0:
            continue
        lit = _visible(v[i, 0] + lift * n[i, 0], v[i, 1] + lift * n[i, 1], v[i, 2] + lift * n[i, 2], projection, depth)
        open_[i] += facing * lit
        open_total[i] += facing
        for k in range(3):
            total[i, k] += colour[k] * facing
            seen[i, k] += colour[k] * facing * lit
            vector[i, k] += mean * lit * way[k]


@compiled
def _gather_lamp(v, n, lift, way, projection, depth, colour, irradiance, vector, share):  # type: ignore[no-untyped-def]
    mean = (colour[0] + colour[1] + colour[2]) / 3
    for i in range(len(v)):
        facing = n[i, 0] * way[0] + n[i, 1] * way[1] + n[i, 2] * way[2]
        if facing <= -0.15:
            continue
        lit = _visible(v[i, 0] + lift * n[i, 0], v[i, 1] + lift * n[i, 1], v[i, 2] + lift * n[i, 2], projection, depth)
        share[i] += lit
        if facing <= 0:
            continue
        for k in range(3):
            irradiance[i, k] += colour[k] * facing * lit
            vector[i, k] += mean * lit * way[k]
