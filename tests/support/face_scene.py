"""A dataset with a frame table whose truth is known: bodies that turn and bend before cameras that follow them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.geometry.camera import Camera, look_at
from datagen.render.contract import SurfaceAttributes, ViewMaps
from datagen.render.maps import render_views
from datagen.render.registry import make_renderer
from datagen.shards import Dataset, DatasetPlan, Sample, finalise, write_unit
from datagen.shards.faces import FrameRow, TemplateContents
from datagen.shards.schema import SPLITS, TEMPLATE
from datagen.shards.writer import write_frames, write_template

HALF_EXTENT_M = 0.15
RESOLUTION = 84
RADII = np.array([0.075, 0.105, 0.09])
PERSONS = {"train": ("ada", "ben"), "val": ("cleo",), "test": ()}
CAMERAS = ("cam0", "cam1")
FRAMES = (3, 4, 9)
FPS = 12.0


@lru_cache(maxsize=1)
def template() -> TemplateContents:
    """An ellipsoid with a ball before its middle, which hides what is behind it from some cameras."""
    import trimesh

    head_ball, front_ball = trimesh.creation.icosphere(3), trimesh.creation.icosphere(2)
    vertices = np.concatenate([head_ball.vertices * RADII, front_ball.vertices * 0.02 + (0, 0, 0.125)])
    faces = np.concatenate([head_ball.faces, front_ball.faces + len(head_ball.vertices)]).astype(np.int32)
    unit = vertices / np.linalg.norm(vertices, axis=1, keepdims=True)
    aims = np.array([[0, 0, 1], [1, 0, 1], [-1, 0, 1], [0, 1, 0.5], [0, -1, 0.5]])
    centres = unit[faces].mean(axis=1)
    region = np.where(np.arange(len(vertices)) < len(head_ball.vertices), 1, 2)
    values: dict[str, Any] = {
        "vertices": vertices.astype(np.float32),
        "faces": faces,
        "region": region.astype(np.uint8),
        "uv": (unit[:, :2] / 2 + 0.5).astype(np.float32),
        "uv_faces": faces,
        "landmark_faces": np.array([np.argmax(centres @ aim) for aim in aims], np.int32),
        "landmark_weights": np.full((len(aims), 3), 1 / 3, np.float32),
        "identity_names": ("size",),
        "expression_names": ("bend", "lean"),
        "mean": np.zeros((0, 3), np.float32),
        "identity_basis": np.zeros((0, len(vertices), 3), np.float32),
        "expression_basis": np.zeros((0, len(vertices), 3), np.float32),
        "head": "ellipsoid",
        "licence": "CC0-1.0",
        "model_digest": "0" * 64,
    }
    return TemplateContents(**values)


def shape(person: str, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices in head axes of a person in a frame, and head_to_world."""
    size = 0.9 + 0.05 * (ord(person[0]) - ord("a"))
    vertices = template().vertices.astype(np.float64) * size
    vertices[:, 0] += 0.008 * np.sin(20 * vertices[:, 1] + frame)
    angle = 0.12 * frame
    pose = np.eye(4)
    pose[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    pose[:3, 3] = 0.01 * frame, 0.2, -0.3
    return vertices, pose


def rig(frame: int) -> list[Camera]:
    """Cameras whose crops follow the head: another principal point in every frame."""
    target = np.array([0.01 * frame, 0.2, -0.3])
    cameras = []
    for k, name in enumerate(CAMERAS):
        centre = target + np.array([0.5 * k - 0.25, 0.03, 0.75])
        camera = look_at(name, centre, target, 2.4 * RESOLUTION, RESOLUTION, RESOLUTION)
        camera.K[:2, 2] += (1.5 * frame - 6, 0.7 * frame)
        cameras.append(camera)
    return cameras


def surface(person: str, frame: int) -> SurfaceAttributes:
    """What is rendered: the person's head in the world, each vertex with its canonical coordinate."""
    vertices, pose = shape(person, frame)
    canonical = (template().vertices / HALF_EXTENT_M).astype(np.float32)
    known = np.ones(len(vertices), np.float32)
    return SurfaceAttributes(
        vertices @ pose[:3, :3].T + pose[:3, 3], template().faces, canonical, known, template().region
    )


def face_row(person: str, frame: int) -> FrameRow:
    """The row of the frame table."""
    vertices, pose = shape(person, frame)
    return FrameRow(
        vertices=vertices.astype(np.float32),
        spread_m=np.linspace(1e-4, 2e-3, len(vertices)).astype(np.float32),
        identity=np.array([0.5], np.float32),
        expression=np.array([0.1 * frame, -0.2], np.float32),
        model_to_head=np.eye(4, dtype=np.float32),
        parameter_rms_mm=0.25,
        head_to_world=pose.astype(np.float32),
        subject=person,
        sequence="turn",
        frame=frame,
        time_s=(frame - FRAMES[0]) / FPS,
        verdict="pass",
    )


Picture = Callable[[ViewMaps], npt.NDArray[np.uint8]]


def normals_as_colours(maps: ViewMaps) -> npt.NDArray[np.uint8]:
    return np.rint((maps.normal + 1) * 127).astype(np.uint8)


def build_faces(
    root: Path,
    contents: TemplateContents | None = None,
    row: Callable[[str, int], FrameRow] = face_row,
    picture: Picture = normals_as_colours,
) -> Dataset:
    """Write the dataset. The second camera lacks the last frame of everybody."""
    contents = contents or template()
    plan = DatasetPlan(
        resolution=RESOLUTION,
        counts={split: len(persons) * (2 * len(FRAMES) - 1) for split, persons in PERSONS.items()},
        frame_counts={split: len(persons) * len(FRAMES) for split, persons in PERSONS.items()},
        splits=PERSONS,
        subjects=[person for persons in PERSONS.values() for person in persons],
        sequences=["turn"],
        cameras=CAMERAS,
        space={
            "head": contents.head,
            "centre": [0.0, 0.0, 0.0],
            "half_extent": HALF_EXTENT_M,
            "identity": "shared",
            "template_digest": "0" * 64,
        },
        faces=contents.to_attrs(),
        regions={"background": 0, "cheeks": 1, "nose": 2},
        samples_per_shard=8,
        clip=2,
    )
    samples = {split: list(_samples(persons, picture)) for split, persons in PERSONS.items()}
    records = []
    for unit in plan.units:
        key = f"key-{unit.name}"
        if unit.group == TEMPLATE:
            records.append(write_template(root, plan, unit, key, contents))
        elif unit.group in SPLITS:
            records.append(write_unit(root, plan, unit, key, samples[unit.split][unit.start : unit.stop]))
        else:
            rows = [row(person, frame) for person in PERSONS[unit.split] for frame in FRAMES]
            records.append(write_frames(root, plan, unit, key, rows[unit.start : unit.stop]))
    return finalise(root, plan, records)


def _samples(persons: tuple[str, ...], picture: Picture) -> Iterator[Sample]:
    for p, person in enumerate(persons):
        for k, name in enumerate(CAMERAS):
            for f, frame in enumerate(FRAMES[: len(FRAMES) - k]):
                camera = rig(frame)[k]
                (maps,) = render_views(surface(person, frame), [camera], make_renderer("numba"), hide_back_faces=True)
                yield Sample(
                    image=picture(maps),
                    depth=maps.depth,
                    canonical=maps.canonical,
                    normal=maps.normal,
                    confidence=np.minimum(maps.confidence, 1),
                    region=maps.region,
                    edge=maps.edge,
                    intrinsics=camera.K.astype(np.float32),
                    world_to_camera=camera.world_to_camera.astype(np.float32),
                    head_to_world=shape(person, frame)[1].astype(np.float32),
                    subject=person,
                    sequence="turn",
                    camera=name,
                    frame=frame,
                    time=(frame - FRAMES[0]) / FPS,
                    verdict="pass",
                    frame_row=p * len(FRAMES) + f,
                )
