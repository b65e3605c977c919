"""One valid thing of each kind that people give to the product or get from it, to be copied and then mistreated."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from datagen.shards import DatasetPlan, Sample, ShardUnit, finalise, list_records, write_unit
from tests.conftest import TINY_MANIFEST
from tests.support import predict_scene, shard_samples, trainer_scene
from tests.support.breaker.child import command, run

DATASETS = ("dataset.zarr", "other.zarr")


@dataclass(frozen=True)
class Scene:
    """A folder with ``build``, its ``manifest.yaml``, two datasets of the same names, ``ellipsoids.zarr`` for the
    trainer, ``model.pt``, ``photos``, ``masks``, ``cameras.json`` and ``video.mp4``.
    """

    root: Path

    def take(self, sandbox: Path, *names: str) -> list[Path]:
        """Copy things into a sandbox; return where they are."""
        for name in names:
            source, target = self.root / name, sandbox / name
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True)
            else:
                shutil.copy2(source, target)
        return [sandbox / name for name in names]


def make_scene(root: Path, build: Path | None) -> Scene:
    """Make all of it; a finished build of :data:`TINY_MANIFEST` is copied where there is one."""
    manifest = root / "manifest.yaml"
    manifest.write_text(yaml.safe_dump(TINY_MANIFEST))
    if build is not None:
        shutil.copytree(build, root / "build", ignore=shutil.ignore_patterns(".prefect"))
    else:
        made = run(
            command(["datagen", "build", manifest, "--out", root / "build", "--runner", "serial"]), root, limit_s=900
        )
        if made.code:
            raise RuntimeError(f"exit code {made.code}, hung {made.hung}: {made.output}")
    made = run(lambda: _make_files(root), root, limit_s=900)
    if made.code:
        raise RuntimeError(f"exit code {made.code}, hung {made.hung}: {made.output}")
    return Scene(root)


def _make_files(root: Path) -> None:
    """Make what needs no build; in a process of its own, for torch and PyAV start threads."""
    shard_samples.build(root / DATASETS[0])
    _other(root / DATASETS[1])
    trainer_scene.build_scene(root / "ellipsoids.zarr")
    predict_scene.write_learnt_checkpoint(root / "model.pt", steps=2)
    predict_scene.write_photos(root / "photos")
    predict_scene.write_video(root / "video.mp4")
    (root / "masks").mkdir()
    frames = []
    for photo in sorted((root / "photos").iterdir()):
        width, height = Image.open(photo).size
        mask = np.zeros((height, width), np.uint8)
        mask[4:-4, 4:-4] = 255
        Image.fromarray(mask).save(root / "masks" / photo.name)
        K = [[2.6 * width, 0.0, width / 2], [0.0, 2.6 * width, height / 2], [0.0, 0.0, 1.0]]
        pose = np.eye(4).tolist()
        frames.append({"name": photo.stem, "width": width, "height": height, "intrinsics": K, "world_to_camera": pose})
    (root / "cameras.json").write_text(json.dumps({"frames": frames}))


def _other(root: Path) -> None:
    """Write a dataset of the same names, plan and shapes whose every value differs."""
    plan: DatasetPlan = shard_samples.make_plan(manifest='{"name": "other"}')

    def samples(unit: ShardUnit) -> list[Sample]:
        return [
            replace(
                s, image=255 - s.image, depth=s.depth * 0.99, region=np.where(s.region, 3 - s.region, 0).astype("u1")
            )
            for s in shard_samples.unit_samples(unit)
        ]

    for unit in plan.units:
        write_unit(root, plan, unit, f"other-{unit.name}", samples(unit))
    finalise(root, plan, list_records(root))


def digests(folder: Path) -> dict[str, str]:
    """Path to SHA-256 of every regular file below a folder, links not followed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            found[path.relative_to(folder).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found
