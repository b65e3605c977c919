"""An analytic scene for the trainer's tests: textured ellipsoids that turn before pinhole cameras, exact maps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from datagen.shards import Dataset, DatasetPlan, Sample, finalise, write_unit

HALF_EXTENT_M = 0.12
DISTANCE_M = 0.8
SPACE = {"head": "ellipsoid", "centre": [0.0, 0.0, 0.0], "half_extent": HALF_EXTENT_M}


def _rotation_y(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def _colour(unit: np.ndarray, tint: np.ndarray) -> np.ndarray:
    """Colour of points (N, 3) on the unit sphere: a face-like pattern that says where on the head one is."""
    x, y, z = unit.T
    base = 0.5 + np.stack([0.25 * x + 0.1 * np.sin(9 * y), 0.25 * y + 0.1 * np.sin(9 * x), 0.25 * z], -1)
    for cx, cy in ((-0.35, 0.3), (0.35, 0.3), (0.0, -0.45)):
        near = (x - cx) ** 2 + (y - cy) ** 2 < 0.03
        base[near & (z > 0)] = 0.05
    return np.clip(base * tint, 0, 1)


def render(
    subject: int, frame: int, camera: int, cameras: int, resolution: int, arc_deg: float = 50.0
) -> dict[str, np.ndarray]:
    """Render one view: every map of a sample, analytically."""
    rng = np.random.default_rng([7, subject])
    radii = np.array([0.075, 0.105, 0.09]) * rng.uniform(0.9, 1.1, 3)
    tint = rng.uniform(0.8, 1.2, 3)
    phase = rng.uniform(0, 2 * np.pi)
    angle = np.radians(np.linspace(-arc_deg, arc_deg, cameras)[camera] if cameras > 1 else 0.0)
    # Camera axes: x right, y down, z forward; the head faces +z with y up.
    camera_from_world = np.diag([1.0, -1.0, -1.0]) @ _rotation_y(-angle)
    head_to_world = np.eye(4)
    head_to_world[:3, :3] = _rotation_y(0.3 * np.sin(phase + 0.7 * frame))
    head_to_world[:3, 3] = 0.01 * np.array([np.sin(phase + frame), np.cos(phase + 0.5 * frame), np.sin(0.3 * frame)])
    world_to_camera = np.eye(4)
    world_to_camera[:3, :3] = camera_from_world
    world_to_camera[2, 3] = DISTANCE_M
    focal = 2.6 * resolution
    K = np.array([[focal, 0, resolution / 2], [0, focal, resolution / 2], [0, 0, 1]])

    head_to_camera = world_to_camera @ head_to_world
    R, t = head_to_camera[:3, :3], head_to_camera[:3, 3]
    centres = np.arange(resolution) + 0.5
    u, v = np.meshgrid(centres, centres)
    rays = np.stack([(u - K[0, 2]) / focal, (v - K[1, 2]) / focal, np.ones_like(u)], -1).reshape(-1, 3)
    # Ray p = s·ray meets |Rᵀ(p − t) / radii| = 1; the ray's z is 1, so s is the planar depth.
    direction, origin = (rays @ R) / radii, (-t @ R) / radii
    a, b, c = (direction**2).sum(-1), direction @ origin, origin @ origin - 1
    discriminant = b**2 - a * c
    hit = discriminant > 0
    depth = np.where(hit, (-b - np.sqrt(np.maximum(discriminant, 0))) / a, 0)
    on_unit = direction * depth[:, None] + origin
    mean_radii = np.array([0.075, 0.105, 0.09])
    canonical = np.where(hit[:, None], on_unit * mean_radii / HALF_EXTENT_M, 0)
    normals = (on_unit / radii) @ R.T
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)
    background = np.stack([0.3 + 0.2 * u / resolution, 0.3 + 0 * u, 0.5 - 0.2 * v / resolution], -1).reshape(-1, 3)
    shading = 0.6 + 0.4 * np.clip(-normals[:, 2:], 0, 1)
    image = np.where(hit[:, None], _colour(on_unit, tint) * shading, background)

    def planes(values: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(values.reshape(resolution, resolution, -1).transpose(2, 0, 1))

    mask = hit.reshape(resolution, resolution)
    return {
        "image": np.rint(planes(image) * 255).astype(np.uint8),
        "depth": depth.reshape(resolution, resolution).astype(np.float32),
        "canonical": planes(canonical).astype(np.float32),
        "normal": np.where(mask, planes(normals), 0).astype(np.float32),
        "confidence": mask.astype(np.float32),
        "region": mask.astype(np.uint8),
        "edge": np.zeros_like(mask),
        "intrinsics": K.astype(np.float32),
        "world_to_camera": world_to_camera.astype(np.float32),
        "head_to_world": head_to_world.astype(np.float32),
    }


def build_scene(
    root: Path,
    *,
    resolution: int = 28,
    subjects: dict[str, int] | None = None,
    frames: int = 4,
    cameras: int = 2,
) -> Dataset:
    """Write a dataset of ellipsoids; ``subjects`` counts them per split."""
    subjects = subjects or {"train": 2, "val": 1}
    names: dict[str, list[str]] = {}
    for split, count in subjects.items():
        first = sum(len(n) for n in names.values())
        names[split] = [f"s{first + k:02d}" for k in range(count)]
    plan = DatasetPlan(
        resolution=resolution,
        counts={split: len(n) * frames * cameras for split, n in names.items()},
        splits=names,
        subjects=[name for n in names.values() for name in n],
        sequences=["turn"],
        cameras=[f"cam{k}" for k in range(cameras)],
        space=SPACE,
        regions={"head": 1},
        samples_per_shard=16,
        clip=4,
    )
    records = []
    for unit in plan.units:
        samples = list(_samples(names[unit.split], frames, cameras, resolution))[unit.start : unit.stop]
        records.append(write_unit(root, plan, unit, plan.encoding_digest, samples))
    return finalise(root, plan, records)


def _samples(names: list[str], frames: int, cameras: int, resolution: int) -> Iterator[Sample]:
    for name in names:
        for camera in range(cameras):
            for frame in range(frames):
                maps = render(int(name[1:]), frame, camera, cameras, resolution)
                yield Sample(
                    **maps,
                    subject=name,
                    sequence="turn",
                    camera=f"cam{camera}",
                    frame=frame,
                    time=frame / 12,
                )
