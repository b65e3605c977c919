"""Captures, stages and results of next to nothing, in which only orchestration takes time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from datagen.common.digests import digest_bytes
from datagen.flows import build as build_module
from datagen.flows import shard_plan, status
from datagen.flows.planning import BuildPlan
from datagen.flows.records import ResultRecord, store_result, write_result_record
from datagen.flows.stage import Stage, StageStatus, Unit
from datagen.flows.stages.faces import FacesReference, FacesStage, FacesUnit
from datagen.flows.stages.finish import ReportStage, ReportUnit, VerifyStage, VerifyUnit
from datagen.flows.stages.person import NONE, Person, PersonStage
from datagen.flows.stages.render import RenderReference, RenderStage, RenderUnit
from datagen.flows.stages.warp import WarpReference, WarpStage, WarpUnit
from datagen.flows.views import Views
from datagen.geometry.camera import Camera
from datagen.layout import BuildLayout
from datagen.manifest import Manifest, parse_manifest
from datagen.shards import DatasetPlan, Sample, VerifyReport
from datagen.shards.faces import FrameRow, TemplateContents
from datagen.shards.schema import TEMPLATE
from datagen.shards.writer import write_frames, write_template, write_unit
from datagen.sources.camera_entry import CameraEntry
from datagen.sources.capture_file import CAPTURE_FILE, CAPTURE_FORMAT, CAPTURE_VERSION, CaptureFile, capture_file_bytes
from datagen.warp.result import VERDICT_FILE, WARP_FILE

RESOLUTION = 14  # the least that a recipe takes
SAMPLES_PER_SHARD = 1024
MOST_LINKS = 30_000  # to one file: file systems have their limits
FILES = {WARP_FILE: b"no warp\n", VERDICT_FILE: b"no verdict\n"}
SCAN, IMAGES = "scans/{frame:06d}.ply", "images/{camera}/{frame:06d}.png"
_VERTICES = 3


def nothing_manifest(captures: Path) -> Manifest:
    """Return the recipe of a build of such captures."""
    return parse_manifest(
        {
            "name": "nothing",
            "source": {"kind": "folder", "root": str(captures)},
            "render": {"resolution": RESOLUTION, "backend": "numba"},
            "shards": {"samples_per_shard": SAMPLES_PER_SHARD, "codecs": "standard"},
            "splits": {"val": 1, "test": 0},
        }
    )


def camera_names(cameras: int) -> tuple[str, ...]:
    """Names of the cameras of every capture."""
    return tuple(f"cam{number:02d}" for number in range(cameras))


def write_captures(root: Path, frames: int, per_sequence: int, cameras: int, *, whole: bool) -> None:
    """Write captures whose files are links to one of a few bytes; those of frames only where ``whole``."""
    linked = _Links(root / ".bytes")
    for number, first in enumerate(range(0, frames, per_sequence)):
        folder = root / f"s{number:06d}" / "take"
        numbers = list(range(min(per_sequence, frames - first)))
        folder.mkdir(parents=True)
        (folder / CAPTURE_FILE).write_bytes(_capture(numbers, cameras))
        if not whole:
            continue
        names = [SCAN.format(frame=frame) for frame in numbers]
        names += [IMAGES.format(camera=name, frame=frame) for name in camera_names(cameras) for frame in numbers]
        for place in {os.path.dirname(name) for name in names}:
            (folder / place).mkdir(parents=True)
        for name in names:
            linked.link(folder / name)


class _Links:
    """Files of a few bytes, most of which are the same one."""

    def __init__(self, folder: Path, data: bytes = b"nothing\n") -> None:
        self._folder, self._data, self._count = folder, data, 0
        folder.mkdir(parents=True)

    def link(self, path: Path) -> None:
        number, used = divmod(self._count, MOST_LINKS)
        first = self._folder / f"{number}"
        if not used:
            first.write_bytes(self._data)
        os.link(first, path)
        self._count += 1


def _capture(frames: list[int], cameras: int) -> bytes:
    eye = np.eye(4)
    eye[2, 3] = 1
    entries = {
        name: CameraEntry(K=[[100, 0, 32], [0, 100, 32], [0, 0, 1]], world_to_camera=eye.tolist(), width=64, height=64)
        for name in camera_names(cameras)
    }
    return capture_file_bytes(
        CaptureFile(
            format=CAPTURE_FORMAT,
            version=CAPTURE_VERSION,
            unit="m",
            fps=24,
            frames=frames,
            pixel_center=0.5,
            cameras=entries,
            scan=SCAN,
            images=IMAGES,
        )
    )


def write_persons(plan: BuildPlan, layout: BuildLayout) -> None:
    """Write that no sequence has a person: what warps are planned from."""
    for info in plan.sequences:
        store_result(layout.person(info.key), ResultRecord("nobody", "", NONE, (), {}), {})


def write_results(plan: BuildPlan, layout: BuildLayout) -> None:
    """Write a result of every frame, of no input, as fast as a disk takes them: what shards are planned from."""
    files = {name: digest_bytes(data) for name, data in FILES.items()}
    links = {name: _Links(layout.root / f".bytes-{name}", data) for name, data in FILES.items()}
    for info in plan.sequences:
        names = camera_names(info.cameras)
        for frame in info.frames:
            folder = layout.frame_warp(info.key, frame)
            folder.mkdir(parents=True)
            key = digest_bytes(f"{info.key} {frame}".encode()).sha256
            record = ResultRecord(key, key, "pass", names, files, Views(farthest_m=dict.fromkeys(names, 1.0)))
            write_result_record(folder, record)
            for name, link in links.items():
                link.link(folder / name)


class NothingPerson(PersonStage):
    """Learns nobody."""

    def make(self, unit: Person) -> int:
        """Store that there is no person."""
        if self.finished(unit):
            return 0
        unit = unit.unit
        key = unit.key(unit.inputs(), unit.head().template)
        store_result(unit.folder, ResultRecord(key, "", NONE, (), {}), {}, root=unit.root)
        return 1


class NothingWarp(WarpStage):
    """Warps nothing."""

    def make(self, unit: WarpUnit | WarpReference) -> int:
        """Store the smallest results of frames that are not finished."""
        if self.finished(unit):
            return 0
        computed, unit = 0, unit.unit
        for state in unit.states():
            if state.record is None:
                names = camera_names(unit.sequence.cameras)
                views = Views(farthest_m=dict.fromkeys(names, 1.0))
                record = ResultRecord(state.key, state.input_digest, "pass", names, {}, views)
                store_result(state.folder, record, FILES, root=unit.root)
                computed += 1
        return computed


class NothingRender(RenderStage):
    """Renders nothing."""

    def make(self, unit: RenderUnit | RenderReference) -> int:
        """Write a shard of empty samples."""
        if self.finished(unit):
            return 0
        unit = unit.unit
        unit.checked(write_unit(unit.layout.dataset, unit.dataset, unit.shard, unit.content_key, _samples(unit)))
        return unit.shard.samples


class NothingFaces(FacesStage):
    """Stores faces of three vertices."""

    def make(self, unit: FacesUnit | FacesReference) -> int:
        """Write a shard of a frame table, or the template."""
        if self.finished(unit):
            return 0
        unit = unit.unit
        root, dataset = unit.layout.dataset, unit.dataset
        if unit.shard.group == TEMPLATE:
            record = write_template(root, dataset, unit.shard, unit.content_key, small_contents())
        else:
            record = write_frames(root, dataset, unit.shard, unit.content_key, _rows(unit))
        unit.checked(record)
        return len(unit.frames)


class NothingReport(ReportStage):
    """Reports nothing."""

    def make(self, unit: ReportUnit) -> int:
        """Write an empty page."""
        if self.finished(unit):
            return 0
        unit.layout.report.mkdir(exist_ok=True)
        unit.layout.report_page.write_text("")
        unit.layout.report_key.write_text(f"{unit.key}\n")
        return 1


@dataclass(frozen=True)
class NothingUnit(Unit):
    """One task of no work."""

    number: int

    @property
    def name(self) -> str:
        """Its number."""
        return str(self.number)


class TasksStage(Stage[NothingUnit, int]):
    """So many tasks of no work: what is left is what it costs to carry them."""

    name = "warp"
    counts = "tasks"
    doing = "doing nothing of"
    tasks = 0

    def plan(self, plan: BuildPlan, layout: BuildLayout) -> list[NothingUnit]:
        """Return the tasks."""
        return [_a_unit(plan, layout, number) for number in range(self.tasks)]

    def finished(self, unit: NothingUnit) -> bool:
        """Never."""
        del unit
        return False

    def make(self, unit: NothingUnit) -> int:
        """Do nothing."""
        del unit
        return 1

    def status(self, plan: BuildPlan, layout: BuildLayout) -> StageStatus:
        """All is still to be done."""
        del plan, layout
        return self._status(self.tasks, [str(number) for number in range(self.tasks)], "")


def _a_unit(plan: BuildPlan, layout: BuildLayout, number: int) -> NothingUnit:
    return NothingUnit(layout.root, plan.manifest, number)


class NoneStage(TasksStage):
    """A stage without tasks, which a build's result asks for."""

    name = "render"


class NoVerify(VerifyStage):
    """Ends a build of tasks alone."""

    def plan(self, plan: BuildPlan, layout: BuildLayout) -> list[VerifyUnit]:
        """Return one, of nothing."""
        space = {"half_extent": 0.15}
        nothing = DatasetPlan(RESOLUTION, {}, {}, (), (), (), space)
        return [VerifyUnit(layout.root, plan.manifest, nothing, {}, 0, ())]

    def make(self, unit: VerifyUnit) -> VerifyReport:
        """Say that all is well."""
        counts = dict.fromkeys(("shards", "samples", "files", "bytes"), 0)
        return VerifyReport(str(unit.root), "", "quick", counts, ())


def whole_stages() -> tuple[Stage[Any, Any], ...]:
    """Every stage of a build, each doing next to nothing."""
    return (NothingPerson(), NothingWarp(), NothingRender(), NothingFaces(), VerifyStage(), NothingReport())


def task_stages(tasks: int) -> tuple[Stage[Any, Any], ...]:
    """A build of so many tasks of no work."""
    stage = TasksStage()
    stage.tasks = tasks
    return (stage, NoneStage(), NoVerify())


@contextmanager
def instead(stages: Sequence[Stage[Any, Any]]) -> Iterator[None]:
    """Have builds of this process go through other stages, and store faces of three vertices."""
    with (
        patch.object(build_module, "STAGES", tuple(stages)),
        patch.object(status, "STAGES", tuple(stages)),
        patch.object(shard_plan, "shared_contents", lambda *_: small_contents()),
    ):
        yield


@contextmanager
def without_fsync() -> Iterator[None]:
    """Have nothing made durable: what is measured afterwards is not how fast a disk is."""
    with patch.object(os, "fsync", lambda _: None):
        yield


def small_contents() -> TemplateContents:
    """A template of one triangle."""
    vertices = np.eye(3, dtype=np.float32) * 0.05
    triangle = np.arange(3, dtype=np.int32)[None]
    none = np.zeros((0, _VERTICES, 3), np.float32)
    return TemplateContents(
        vertices=vertices,
        faces=triangle,
        region=np.ones(_VERTICES, np.uint8),
        uv=np.zeros((_VERTICES, 2), np.float32),
        uv_faces=triangle,
        landmark_faces=np.zeros(1, np.int32),
        landmark_weights=np.full((1, 3), 1 / 3, np.float32),
        identity_names=(),
        expression_names=(),
        mean=np.zeros((0, 3), np.float32),
        identity_basis=none,
        expression_basis=none,
        head="anny",
        licence="CC0-1.0",
        model_digest="0" * 64,
    )


def _rows(unit: FacesUnit) -> Iterator[FrameRow]:
    eye, empty = np.eye(4, dtype=np.float32), np.zeros(0, np.float32)
    contents = small_contents()
    for key, index in unit.frames:
        spread = np.zeros(_VERTICES, np.float32)
        yield FrameRow(
            vertices=contents.vertices,
            spread_m=spread,
            identity=empty,
            expression=empty,
            model_to_head=eye,
            parameter_rms_mm=float("nan"),
            head_to_world=eye,
            subject=key.subject,
            sequence=key.sequence,
            frame=index,
            time_s=index / 24,
            verdict="pass",
        )


def _samples(unit: RenderUnit) -> Iterator[Sample]:
    shape = (RESOLUTION, RESOLUTION)
    maps = np.zeros((3, *shape), np.float32)
    camera = Camera("cam00", np.array([[10, 0, 7], [0, 10, 7], [0, 0, 1.0]]), np.eye(4), *shape)
    for view in unit.views:
        yield Sample(
            image=np.zeros((3, *shape), np.uint8),
            depth=np.zeros(shape, np.float32),
            canonical=maps,
            normal=maps,
            confidence=np.zeros(shape, np.float32),
            region=np.zeros(shape, np.uint8),
            edge=np.zeros(shape, np.bool_),
            intrinsics=camera.K.astype(np.float32),
            world_to_camera=np.eye(4, dtype=np.float32),
            head_to_world=np.eye(4, dtype=np.float32),
            subject=view.key.subject,
            sequence=view.key.sequence,
            camera=view.camera,
            frame=view.frame,
            time=view.frame / 24,
            verdict=view.verdict,
            frame_row=view.frame_row,
        )
