"""What the shards of a dataset are to hold: which frames are stored, and which view lies in which shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from datagen.common.digests import sha256_text
from datagen.common.errors import CorruptDatasetError, InputError
from datagen.flows.history import History, Stored, read_history
from datagen.flows.planning import BuildPlan, samples_per_shard
from datagen.flows.quarantine import read_quarantine
from datagen.flows.records import ResultRecord, content_key, read_result_record
from datagen.flows.stage import Unit
from datagen.flows.views import Views
from datagen.flows.worker import shared_contents, shared_head
from datagen.heads.regions import REGIONS
from datagen.layout import BuildLayout
from datagen.manifest import Manifest
from datagen.render.contract import RENDER_VERSION
from datagen.render.registry import resolve_backend
from datagen.shards.growth import GroupShards, ShardUnit
from datagen.shards.ledger import read_record, unit_is_complete
from datagen.shards.plan import ENCODING_VERSION, DatasetPlan, frames_of
from datagen.shards.schema import ARRAYS, SPLITS, TEMPLATE
from datagen.shards.store import LocalStore
from datagen.sources.frame import SequenceKey
from datagen.warp.result import WARP_FILE


@dataclass(frozen=True)
class View:
    """One sample to be rendered: a frame seen by a camera, the verdict on the frame's warp, and its row as stored."""

    key: SequenceKey
    camera: str
    frame: int
    verdict: str
    frame_row: int = -1


IN_QUARANTINE = "in quarantine"
NO_VIEW = "no surface in any image"
NO_DEPTH = "it has no depth map, and samples show the pixels of depth maps (render.surface)"
DEPTH_LEVELS = np.iinfo(ARRAYS["depth"].dtype).max


@dataclass(frozen=True)
class LeftOutCamera:
    """A camera of a sequence that gives no samples of some frames.

    Attributes
    ----------
    frames : int
        How many, of those that are stored or would be.
    wrong : bool
        Whether something contradicts; else it sees nothing of the head, or has no image.
    reason : str
        Of the first of them.
    """

    key: SequenceKey
    camera: str
    frames: int
    wrong: bool
    reason: str

    def __str__(self) -> str:
        frames = "1 frame" if self.frames == 1 else f"{self.frames} frames"
        return f"{self.key} camera {self.camera} ({frames}): {self.reason}"


@dataclass(frozen=True)
class StoredFrames:
    """Which frames the dataset holds.

    Attributes
    ----------
    records : mapping of sequence and frame to ResultRecord
        Of the frames that are stored.
    verdicts : mapping of status to number of frames
    left_out : mapping of reason to number of frames
        A head may be outside every image: :data:`NO_VIEW`.
    cameras : tuple of LeftOutCamera
    waiting : set of sequence and frame
        Without a verdict yet.
    """

    records: Mapping[tuple[SequenceKey, int], ResultRecord]
    verdicts: Mapping[str, int]
    left_out: Mapping[str, int]
    cameras: tuple[LeftOutCamera, ...]
    waiting: frozenset[tuple[SequenceKey, int]]


def accepted_verdicts(manifest: Manifest) -> tuple[str, ...]:
    """Verdicts whose frames may be stored, sorted."""
    return ("pass", "review") if manifest.shards.include_review else ("pass",)


def stored_frames(plan: BuildPlan, layout: BuildLayout) -> StoredFrames:
    """Choose the frames that are stored: with a verdict that is accepted, and a camera that sees a surface."""
    accepted = accepted_verdicts(plan.manifest)
    records: dict[tuple[SequenceKey, int], ResultRecord] = {}
    verdicts: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    cameras: dict[tuple[SequenceKey, str], LeftOutCamera] = {}
    waiting = set()
    limit = DEPTH_LEVELS * plan.manifest.shards.depth_scale
    given_up = read_quarantine(layout, plan.manifest).frames
    for sequence in plan.sequences:
        for frame in sequence.frames:
            if (sequence.key, frame) in given_up:
                left_out[IN_QUARANTINE] += 1
                continue
            record = read_result_record(layout.frame_warp(sequence.key, frame))
            if record is None:
                waiting.add((sequence.key, frame))
                continue
            verdicts[record.status] += 1
            if record.status not in accepted:
                left_out[f"verdict {record.status}"] += 1
                continue
            views = _with_depth_maps(_within_depth(record.views, limit), record, plan.manifest)
            for wrong, reasons in ((True, views.wrong), (False, views.blind)):
                for camera, reason in reasons.items():
                    first = cameras.get((sequence.key, camera), LeftOutCamera(sequence.key, camera, 0, wrong, reason))
                    # What is wrong with one frame counts for more than that the head is outside in another.
                    kept = first if first.wrong or not wrong else replace(first, wrong=True, reason=reason)
                    cameras[sequence.key, camera] = replace(kept, frames=first.frames + 1)
            stored = tuple(c for c in record.cameras if c not in views.wrong and c not in views.blind)
            if stored:
                records[sequence.key, frame] = replace(record, cameras=stored)
            else:
                left_out[NO_VIEW] += 1
    return StoredFrames(records, dict(verdicts), dict(left_out), tuple(cameras.values()), frozenset(waiting))


def _within_depth(views: Views, limit_m: float) -> Views:
    """Add the cameras that see the scan farther away than depth can be stored: found late, it would end a build."""
    far = {
        camera: f"around the head the scan reaches {depth:.2f} m from it. Depth is stored up to {limit_m:.2f} m. Raise "
        f"shards.depth_scale in the manifest to {1.01 * depth / DEPTH_LEVELS:.1g} or more."
        for camera, depth in views.farthest_m.items()
        if depth >= limit_m
    }
    return replace(views, wrong={**far, **views.wrong})


def _with_depth_maps(views: Views, record: ResultRecord, manifest: Manifest) -> Views:
    """Add the cameras that have no depth map, where samples show their pixels."""
    if manifest.render.shown(fused=views.fused) != "measured":
        return views
    return replace(views, blind={**{c: NO_DEPTH for c in record.cameras if c not in views.measured}, **views.blind})


@dataclass(frozen=True)
class ShardWork(Unit):
    """One shard to be written, of whatever group.

    Attributes
    ----------
    dataset : DatasetPlan
    shard : ShardUnit
    content_key : str
    """

    dataset: DatasetPlan
    shard: ShardUnit
    content_key: str

    @property
    def name(self) -> str:
        """The shard's."""
        return f"shard {self.shard.name}"

    @property
    def complete(self) -> bool:
        """Whether the shard is whole, and of what its content key stands for."""
        return unit_is_complete(self.layout.dataset, self.shard, self.content_key)


@dataclass(frozen=True)
class PlannedShard:
    """One shard of the splits.

    Attributes
    ----------
    views : tuple of View
        In the order they are stored.
    """

    shard: ShardUnit
    content_key: str
    views: tuple[View, ...]


@dataclass(frozen=True)
class PlannedFaces:
    """One shard of a frame table, or the template.

    Attributes
    ----------
    frames : tuple of (sequence, frame)
        In the order they are stored; empty for the template.
    """

    shard: ShardUnit
    content_key: str
    frames: tuple[Stored, ...]


@dataclass(frozen=True)
class ShardPlan:
    """What a dataset is to hold.

    Attributes
    ----------
    dataset : DatasetPlan
    shards : tuple of PlannedShard
    faces : tuple of PlannedFaces
    frames : StoredFrames
    history : History
        Of the build, with what this plan adds.
    """

    dataset: DatasetPlan
    shards: tuple[PlannedShard, ...]
    faces: tuple[PlannedFaces, ...]
    frames: StoredFrames
    history: History


def plan_shards(plan: BuildPlan, layout: BuildLayout) -> ShardPlan:
    """Cut the views of the stored frames into shards, once every frame is warped.

    What earlier runs stored keeps its place, as long as it is stored still; what is new begins new shards.

    Raises
    ------
    InputError
        If a frame is not warped yet, or none is fit to be stored.
    """
    manifest, frames = plan.manifest, stored_frames(plan, layout)
    if frames.waiting:
        sequence, frame = min(frames.waiting, key=str)
        raise InputError(
            f"frame {frame} of {sequence} has no warp", "a warp of every frame", "Run `datagen build` again"
        )
    if not frames.records:
        first = f"; {frames.cameras[0]}" if frames.cameras else ""
        raise InputError(
            f"none of {plan.frames} frames can be stored "
            f"({', '.join(f'{count} {status}' for status, count in sorted(frames.verdicts.items()))}{first})",
            f"a frame with the verdict {' or '.join(accepted_verdicts(manifest))}, and a camera with an image of it",
            f"`datagen explain {layout.root} --failed` says why; correct the captures and build again",
        )
    history = read_history(layout).grown(
        frames.records, {camera for record in frames.records.values() for camera in record.cameras}, plan.split_of
    )
    rows = _rows(plan, frames.records, history)
    dataset = _dataset_plan(plan, rows, history)
    row_of = {
        stored: place
        for split in SPLITS
        for stored, place in zip(
            rows.frames[split],
            dataset.shards(frames_of(split)).stored(np.arange(len(rows.frames[split]))).tolist(),
            strict=True,
        )
    }
    shards, faces = [], []
    for shard in dataset.units:
        if shard.group in SPLITS:
            listed = rows.views[shard.split][shard.start : shard.stop]
            views = tuple(replace(view, frame_row=row_of[view.key, view.frame]) for view in listed)
            shards.append(PlannedShard(shard, _shard_key(manifest, dataset, views, frames.records), views))
        else:
            stored = () if shard.group == TEMPLATE else tuple(rows.frames[shard.split][shard.start : shard.stop])
            faces.append(PlannedFaces(shard, _faces_key(dataset, stored, frames.records), stored))
    return ShardPlan(dataset, tuple(shards), tuple(faces), frames, history)


@dataclass(frozen=True)
class _Rows:
    """What the splits and their frame tables hold, in order, and how much of it each step added."""

    views: Mapping[str, list[View]]
    frames: Mapping[str, list[Stored]]
    steps: tuple[Mapping[str, int], ...]


def _rows(plan: BuildPlan, records: Mapping[Stored, ResultRecord], history: History) -> _Rows:
    subject, sequence, camera = (
        {name: i for i, name in enumerate(names)} for names in (history.subjects, history.sequences, history.cameras)
    )
    views: dict[str, list[View]] = {split: [] for split in SPLITS}
    frames: dict[str, list[Stored]] = {split: [] for split in SPLITS}
    step_of, split_of, steps = history.step_of(), plan.split_of, []
    by_step: list[list[Stored]] = [[] for _ in history.steps]
    for stored in records:
        by_step[step_of[stored]].append(stored)
    for listed in by_step:
        begun = {split: (len(views[split]), len(frames[split])) for split in SPLITS}
        seen = [
            View(key, name, frame, records[key, frame].status)
            for key, frame in listed
            for name in records[key, frame].cameras
        ]
        # A clip is one camera over time, so the camera comes before the frame.
        for view in sorted(
            seen, key=lambda v: (subject[v.key.subject], sequence[v.key.sequence], camera[v.camera], v.frame)
        ):
            views[split_of[view.key.subject]].append(view)
        for key, frame in sorted(listed, key=lambda s: (subject[s[0].subject], sequence[s[0].sequence], s[1])):
            frames[split_of[key.subject]].append((key, frame))
        steps.append(
            {
                group: count
                for split in SPLITS
                for group, count in (
                    (split, len(views[split]) - begun[split][0]),
                    (frames_of(split), len(frames[split]) - begun[split][1]),
                )
            }
        )
    # A step of which nothing is stored any more is none.
    return _Rows(views, frames, tuple(step for step in steps if any(step.values())))


def _dataset_plan(plan: BuildPlan, rows: _Rows, history: History) -> DatasetPlan:
    manifest, recipe = plan.manifest, plan.manifest.recipe()
    keys = {key for listed in rows.frames.values() for key, _ in listed}
    present = {key.subject for key in keys}
    head = shared_head(manifest.canonical.head, manifest.head_root)
    contents = shared_contents(manifest.canonical.head, manifest.head_root, manifest.warp.subdivisions)
    return DatasetPlan(
        resolution=manifest.render.resolution,
        counts={split: len(listed) for split, listed in rows.views.items()},
        frame_counts={split: len(listed) for split, listed in rows.frames.items()},
        steps=rows.steps,
        faces=contents.to_attrs(),
        splits={split: [s for s in subjects if s in present] for split, subjects in plan.splits.items()},
        subjects=history.subjects,
        sequences=history.sequences,
        cameras=history.cameras,
        space=head.template.space.to_attrs(),
        manifest=recipe,
        manifest_digest=sha256_text(recipe),
        sources=[manifest.source.origin],
        regions=REGIONS,
        epochs={str(sequence.key): sequence.epoch_s for sequence in plan.sequences if sequence.key in keys},
        samples_per_shard=samples_per_shard(manifest),
        clip=manifest.shards.clip,
        depth_scale=manifest.shards.depth_scale,
        image_error=manifest.shards.image_error,
        codecs=manifest.shards.codecs,
    )


def expected_shards(plan: BuildPlan, layout: BuildLayout, frames: StoredFrames, *, faces: bool) -> list[ShardUnit]:
    """Return the shards that there will be if all frames without a verdict pass: of the splits, or of what has faces.

    No head is loaded, no input read.
    """
    cameras = {
        **{(info.key, frame): info.cameras for info in plan.sequences for frame in info.frames},
        **{stored: len(record.cameras) for stored, record in frames.records.items()},
    }
    listed = {*frames.records, *frames.waiting}
    history = read_history(layout).grown(listed, (), plan.split_of)
    step_of, split_of = history.step_of(), plan.split_of
    counts = {split: [0] * len(history.steps) for split in SPLITS}
    for stored in listed:
        counts[split_of[stored[0].subject]][step_of[stored]] += 1 if faces else cameras[stored]
    units = [
        unit
        for split in SPLITS
        for unit in GroupShards(
            frames_of(split) if faces else split, samples_per_shard(plan.manifest), tuple(counts[split])
        ).units()
    ]
    return [*units, ShardUnit(TEMPLATE, 0, 0, 1)] if faces and units else units


def missing_shards(store: LocalStore, shards: list[ShardUnit]) -> tuple[list[str], int]:
    """Return the names of the shards that are not there as far as their records tell, and how many are of old."""
    missing, stale = [], 0
    for shard in shards:
        try:
            stored = read_record(store, shard)
            if stored.samples == shard.samples and stored.algorithm == ENCODING_VERSION:
                continue
            stale += 1
        except CorruptDatasetError:
            pass
        missing.append(shard.name)
    return missing, stale


def _shard_key(
    manifest: Manifest, dataset: DatasetPlan, views: tuple[View, ...], records: Mapping[Stored, ResultRecord]
) -> str:
    samples, numbers = [], dataset.numbers
    for view in views:
        record = records[view.key, view.frame]
        samples.append(
            [
                view.key.subject,
                view.key.sequence,
                view.camera,
                view.frame,
                view.verdict,
                record.files[WARP_FILE].sha256,
                record.input_digest,
                # What is stored of names are numbers, which depend on what the build held before.
                numbers["subject"][view.key.subject],
                numbers["sequence"][view.key.sequence],
                numbers["camera"][view.camera],
                view.frame_row,
            ]
        )
    return content_key(
        {
            "algorithm": RENDER_VERSION,
            "backend": resolve_backend(manifest.render.backend),
            "encoding": dataset.encoding_digest,
            "render": manifest.render.model_dump(mode="json"),
            "samples": samples,
            "seed": manifest.seed,
            "template": dataset.space["template_digest"],
        }
    )


def _faces_key(dataset: DatasetPlan, frames: tuple[Stored, ...], records: Mapping[Stored, ResultRecord]) -> str:
    numbers = dataset.numbers
    rows = [
        [
            str(key),
            frame,
            records[key, frame].status,
            records[key, frame].files[WARP_FILE].sha256,
            records[key, frame].input_digest,
            numbers["subject"][key.subject],
            numbers["sequence"][key.sequence],
        ]
        for key, frame in frames
    ]
    return content_key(
        {"encoding": dataset.encoding_digest, "rows": rows, "template": dataset.space["template_digest"]}
    )
