"""Small synthetic samples and plans for the tests of the dataset format."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np

from datagen.shards import DatasetPlan, Sample, ShardUnit, finalise, unit_is_complete, write_unit

RESOLUTION = 28
SUBJECTS = {"train": ("ada", "ben", "cleo"), "val": ("dan",), "test": ()}
SEQUENCES = ("neutral", "smile")
CAMERAS = ("cam00", "cam01", "cam02")
FRAMES = (0, 1, 2, 5)


def make_sample(subject: str, sequence: str, camera: str, frame: int, resolution: int = RESOLUTION) -> Sample:
    """A sphere in front of a camera, different for each name."""
    rng = np.random.default_rng([*f"{subject}{sequence}{camera}".encode(), frame])
    y, x = (np.mgrid[:resolution, :resolution] + 0.5 - resolution / 2) / (resolution / 2)
    inside = x**2 + y**2 < 0.8
    z = np.sqrt(np.maximum(1 - x**2 - y**2, 0))
    normal = np.where(inside, np.stack([x, y, -z]), 0).astype(np.float32)
    known = inside & (y > -0.6)
    confidence = np.where(known, rng.uniform(0.05, 1), 0).astype(np.float32)
    canonical = np.where(known, np.stack([x, -y, z]) * rng.uniform(0.7, 1), 0).astype(np.float32)
    intrinsics = np.array([[40, 0, 14], [0, 40, 14], [0, 0, 1]], np.float32)
    world_to_camera = np.eye(4, dtype=np.float32)
    world_to_camera[:3, 3] = rng.normal(size=3)
    return Sample(
        image=rng.integers(0, 256, (3, resolution, resolution)).astype(np.uint8),
        depth=np.where(inside, 1 - 0.1 * z + rng.uniform(0, 0.05), 0).astype(np.float32),
        canonical=canonical,
        normal=normal,
        confidence=confidence,
        region=np.where(inside, 1 + (x > 0), 0).astype(np.uint8),
        edge=inside & (x**2 + y**2 > 0.7),
        intrinsics=intrinsics,
        world_to_camera=world_to_camera,
        head_to_world=np.eye(4, dtype=np.float32),
        subject=subject,
        sequence=sequence,
        camera=camera,
        frame=frame,
        time=frame / 12,
        verdict="review" if frame == 1 else "pass",
    )


def sample_keys(split: str) -> list[tuple[str, str, str, int]]:
    """Keys of a split's samples, in order."""
    return list(product(SUBJECTS[split], SEQUENCES, CAMERAS, FRAMES))


def make_plan(**changes: object) -> DatasetPlan:
    """A plan of 72 training and 24 validation samples, 16 a shard: the last shards are not full."""
    arguments: dict[str, object] = {
        "resolution": RESOLUTION,
        "counts": {split: len(sample_keys(split)) for split in SUBJECTS},
        "splits": SUBJECTS,
        "subjects": [name for names in SUBJECTS.values() for name in names],
        "sequences": SEQUENCES,
        "cameras": CAMERAS,
        "space": {
            "head": "anny",
            "centre": [0.0, 0.0, 0.0],
            "half_extent": 0.15,
            "identity": "shared",
            "template_digest": "t",
        },
        "manifest": '{"name": "tiny"}',
        "manifest_digest": "d",
        "sources": [{"name": "simulated", "licence": "CC0-1.0"}],
        "regions": {"background": 0, "cheeks": 1, "forehead": 2},
        "samples_per_shard": 16,
        "clip": 4,
        **changes,
    }
    return DatasetPlan(**arguments)


def unit_samples(unit: ShardUnit) -> list[Sample]:
    """The samples of one shard."""
    return [make_sample(*key) for key in sample_keys(unit.split)[unit.start : unit.stop]]


def build(root: Path, plan: DatasetPlan | None = None) -> Path:
    """Write what is missing and finalise, as a build does."""
    plan = plan or make_plan()
    for unit in plan.units:
        if not unit_is_complete(root, unit, f"key-{unit.name}"):
            write_unit(root, plan, unit, f"key-{unit.name}", unit_samples(unit))
    from datagen.shards import list_records

    finalise(root, plan, list_records(root))
    return root


def tree(root: Path) -> dict[str, bytes]:
    """Every file of a folder with its bytes."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def flip(path: Path, position: int) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(bytes(data))
