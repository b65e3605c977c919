"""The public split: simulated people, of whom every vertex is known in every frame."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from datagen.common.errors import InputError
from datagen.common.files import staged_folder
from datagen.heads.contents import template_contents
from datagen.heads.regions import REGIONS
from datagen.heads.registry import load_head
from datagen.manifest import Manifest, load_manifest
from datagen.simulation.capture import SimulatedCapture
from datagen.simulation.plan import SEQUENCE_NAME, plan_sequences
from datagen.sources.registry import SimulatedSource
from trainer.evaluation.track.shot import Shot, Topology

RECIPE = Path(__file__).resolve().parents[2] / "manifests" / "track.yaml"


def split(recipe: Path, changes: tuple[str, ...] = ()) -> tuple[Manifest, SimulatedSource]:
    """Read a recipe of simulated people.

    Raises
    ------
    InputError
        If its captures are not simulated.
    """
    manifest = load_manifest(recipe, changes)
    if not isinstance(manifest.source, SimulatedSource):
        raise InputError(
            f"{recipe} is a recipe of {manifest.source.kind} captures", "simulated ones", "Pass a dataset instead"
        )
    return manifest, manifest.source


def simulated_shots(recipe: Path = RECIPE, changes: tuple[str, ...] = ()) -> Iterator[Shot]:
    """Yield the shots of a recipe; no picture is made, and no scan.

    Raises
    ------
    ManifestError, InputError
        If the recipe cannot be read, or is not of simulated people.
    """
    manifest, source = split(recipe, changes)
    head = load_head(source.head, source.root)
    topology = Topology.of(template_contents(head, 0), REGIONS)
    count = len(head.template.vertices)
    for plan in plan_sequences(source, manifest.seed):
        capture = SimulatedCapture(source, manifest.seed, plan.subject, head, images=False)
        # A model's own vertices hang off the smooth skin; those of a dataset lie on it, and so does the truth.
        on_skin = capture.subject.dense.subdivision.matrix[:count]
        pairs = zip(capture.expressions, capture.poses, strict=True)
        vertices = np.stack([on_skin @ capture.subject.pose(shown, pose).template_vertices for shown, pose in pairs])
        for camera in capture.cameras:
            T = len(vertices)
            yield Shot(
                plan.key.subject,
                SEQUENCE_NAME,
                camera.name,
                np.arange(T),
                vertices,
                np.broadcast_to(camera.K, (T, 3, 3)),
                np.broadcast_to(camera.world_to_camera, (T, 4, 4)),
                (camera.height, camera.width),
                topology,
            )


def write_pictures(
    out: Path, recipe: Path = RECIPE, changes: tuple[str, ...] = (), done: Callable[[str], None] = lambda _: None
) -> int:
    """Write what trackers get: ``subject/sequence/camera/images/000000.png`` and so on, and ``cameras.json`` beside.

    For those without a detector, ``subject/sequence/boxes.json`` has the true box of the face in each picture: left,
    top, right, bottom.

    Returns
    -------
    The number of pictures.

    Raises
    ------
    ManifestError, InputError, StorageError
        As :func:`simulated_shots`, or if the folder cannot be written.
    """
    manifest, source = split(recipe, changes)
    head = load_head(source.head, source.root)
    topology = Topology.of(template_contents(head, 0), REGIONS)
    written = 0
    with staged_folder(out, replace=False) as staging:
        for plan in plan_sequences(source, manifest.seed):
            capture = SimulatedCapture(source, manifest.seed, plan.subject, head)
            for camera in capture.cameras:
                place = staging / plan.key.subject / SEQUENCE_NAME / camera.name
                (place / "images").mkdir(parents=True)
                entry = {
                    "width": camera.width,
                    "height": camera.height,
                    "intrinsics": camera.K.tolist(),
                    "world_to_camera": np.asarray(camera.world_to_camera).tolist(),
                }
                (place / "cameras.json").write_text(json.dumps({"frames": [entry]}, indent=1) + "\n")
            sequence = staging / plan.key.subject / SEQUENCE_NAME
            on_skin = capture.subject.dense.subdivision.matrix[: len(head.template.vertices)]
            boxes: dict[str, list[float]] = {}
            for index in range(source.frames):
                frame = capture.frame(index)
                face = (on_skin @ frame.template_vertices)[topology.is_face]
                for camera in capture.cameras:
                    picture = f"{camera.name}/images/{index:06d}.png"
                    Image.fromarray(frame.images[camera.name]).save(sequence / picture)
                    at = camera.project(face)[0]
                    boxes[picture] = np.concatenate([at.min(0), at.max(0)]).round(2).tolist()
                    written += 1
            (sequence / "boxes.json").write_text(json.dumps(boxes, indent=1) + "\n")
            done(plan.key.subject)
    return written
