"""One simulated person in a studio, and in another take before one camera: pictures and exact meshes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datagen.common.arrays import F64
from datagen.common.progress import Progress
from datagen.heads.base import HeadModel
from datagen.heads.contents import template_contents
from datagen.heads.regions import REGIONS
from datagen.heads.registry import HEADS, load_head
from datagen.render.contract import SurfaceAttributes
from datagen.render.maps import render_views
from datagen.render.registry import make_renderer
from datagen.shards import Dataset, DatasetPlan, Sample, finalise, open_dataset, write_unit
from datagen.shards.faces import FrameRow
from datagen.shards.schema import SPLITS, TEMPLATE
from datagen.shards.writer import write_frames, write_template
from datagen.simulation.capture import SimulatedCapture
from datagen.sources.registry import SimulatedSource

SEQUENCE = "performance"
_SPREAD_M = 1e-5  # meshes are exact but for their quantisation


@dataclass(frozen=True)
class Take:
    """One recording of the person.

    Attributes
    ----------
    take : int
        Another one has other lamps, motion, backdrop, cameras.
    frames, cameras : int
    fps : float
    """

    take: int
    frames: int
    cameras: int
    fps: float


def film(root: Path, take: Take, *, seed: int, resolution: int) -> Dataset:
    """Write a recording as a dataset of whole frames; one that is there is opened.

    Samples are the cameras' own pictures; rows of the frame table have the vertices on the skin, exact.
    """
    if (root / "zarr.json").is_file():
        return open_dataset(root)
    head = load_head("anny")
    source = SimulatedSource(
        kind="simulated",
        subjects=1,
        frames=take.frames,
        fps=take.fps,
        cameras=take.cameras,
        image_size=resolution,
        take=take.take,
    )
    capture = SimulatedCapture(source, seed, 0, head)
    contents = template_contents(head, 0)
    plan = DatasetPlan(
        resolution=resolution,
        counts={"train": take.frames * take.cameras},
        frame_counts={"train": take.frames},
        faces=contents.to_attrs(),
        splits={"train": ["s000"]},
        subjects=["s000"],
        sequences=[SEQUENCE],
        cameras=[camera.name for camera in capture.cameras],
        space=head.template.space.to_attrs(),
        sources=[{"name": "simulated anny", "licence": HEADS["anny"].licence}],
        regions=REGIONS,
        samples_per_shard=64,
        clip=1,
    )
    samples, rows = _filmed(capture, head, take, seed)
    records = []
    for unit in plan.units:
        if unit.group in SPLITS:
            records.append(write_unit(root, plan, unit, unit.name, samples[unit.start : unit.stop]))
        elif unit.group == TEMPLATE:
            records.append(write_template(root, plan, unit, unit.name, contents))
        else:
            records.append(write_frames(root, plan, unit, unit.name, rows[unit.start : unit.stop]))
    return finalise(root, plan, records)


def _filmed(capture: SimulatedCapture, head: HeadModel, take: Take, seed: int) -> tuple[list[Sample], list[FrameRow]]:
    """Return samples in stored order, camera by camera, and rows."""
    assert capture.studio is not None
    renderer, dense = make_renderer("numba"), capture.subject.dense
    on_skin = dense.subdivision.matrix[: len(head.template.vertices)]
    canonical = head.template.space.normalise(dense.points).astype(np.float32)
    known = np.ones(len(canonical), np.float32)
    by_camera: list[list[Sample]] = [[] for _ in capture.cameras]
    rows = []
    with Progress(f"film take {take.take}", take.frames, "frames") as progress:
        for index in range(take.frames):
            pose: F64 = capture.poses[index]
            surface = capture.subject.pose(capture.expressions[index], pose)
            noise = np.random.default_rng([seed, take.take, index])
            images, masks = capture.studio.pictures(surface, capture.teeth(surface), noise)
            shown = SurfaceAttributes(surface.vertices, capture.subject.faces, canonical, known, dense.regions)
            maps = render_views(shown, list(capture.cameras), renderer, hide_back_faces=True)
            time_s = float(capture.times_s[index])
            for k, (camera, seen) in enumerate(zip(capture.cameras, maps, strict=True)):
                by_camera[k].append(
                    Sample(
                        image=np.ascontiguousarray(images[camera.name].transpose(2, 0, 1)),
                        depth=seen.depth,
                        canonical=seen.canonical,
                        normal=seen.normal,
                        confidence=np.minimum(seen.confidence, 1),
                        region=seen.region,
                        edge=seen.edge,
                        intrinsics=camera.K.astype(np.float32),
                        world_to_camera=camera.world_to_camera.astype(np.float32),
                        head_to_world=pose.astype(np.float32),
                        subject="s000",
                        sequence=SEQUENCE,
                        camera=camera.name,
                        frame=index,
                        time=time_s,
                        mask=np.where(masks[camera.name], 255, 0).astype(np.uint8),
                        frame_row=index,
                    )
                )
            vertices = (on_skin @ surface.template_vertices - pose[:3, 3]) @ pose[:3, :3]
            rows.append(
                FrameRow(
                    vertices=vertices.astype(np.float32),
                    spread_m=np.full(len(vertices), _SPREAD_M, np.float32),
                    identity=np.asarray(capture.subject.identity, np.float32),
                    expression=np.asarray(capture.expressions[index], np.float32),
                    model_to_head=np.eye(4, dtype=np.float32),
                    parameter_rms_mm=0.0,
                    head_to_world=pose.astype(np.float32),
                    subject="s000",
                    sequence=SEQUENCE,
                    frame=index,
                    time_s=time_s,
                    verdict="pass",
                )
            )
            progress.update(index + 1)
    return [sample for samples in by_camera for sample in samples], rows
