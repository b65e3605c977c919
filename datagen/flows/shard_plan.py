"""What the shards of a dataset are to hold: which view lies in which shard, and what each shard is made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.digests import canonical_json, sha256_text
from datagen.common.errors import CorruptDatasetError, InputError
from datagen.flows.history import History, Stored, ranges_of, read_history
from datagen.flows.planning import BuildPlan, samples_per_shard
from datagen.flows.state_index import StateIndex, open_index
from datagen.flows.stored_frames import StoredFrames, StoredPart, accepted_verdicts, asked_for, stored_frames
from datagen.flows.worker import shared_contents, shared_head
from datagen.heads.regions import REGIONS
from datagen.layout import BuildLayout
from datagen.manifest import Manifest
from datagen.render.contract import RENDER_VERSION
from datagen.render.registry import resolve_backend
from datagen.shards.growth import GroupShards, ShardUnit
from datagen.shards.ledger import read_record
from datagen.shards.plan import ENCODING_VERSION, DatasetPlan, frames_of
from datagen.shards.schema import SPLITS, TEMPLATE
from datagen.shards.store import LocalStore
from datagen.sources.frame import SequenceKey

_DIGITS = 24  # of a digest, in tasks and names
_RULES = 1  # raise it when the same views give another key
_TOGETHER = 256  # shards in a group of the index
_I32 = npt.NDArray[np.int32]
_I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class View:
    """One sample to be rendered: a frame seen by a camera, the verdict on the frame's warp, and its row as stored."""

    key: SequenceKey
    camera: str
    frame: int
    verdict: str
    frame_row: int = -1


@dataclass(frozen=True)
class FrameRows:
    """The stored frames, one after another, as columns.

    Attributes
    ----------
    parts : tuple of StoredPart
        In the order of the dataset's tables.
    first : (P + 1,) int64
        Place of each part's first frame in the columns.
    rows : (N,) int64
        Row of each frame in the frame table of its split, as stored.
    """

    parts: tuple[StoredPart, ...]
    first: _I64
    rows: _I64

    @cached_property
    def part_of(self) -> _I32:
        """The part of each frame."""
        return np.repeat(np.arange(len(self.parts), dtype=np.int32), np.diff(self.first))

    def runs(self, places: _I64, cameras: npt.NDArray[Any]) -> Iterator[tuple[int, int, list[int], list[int]]]:
        """Yield of frames seen by cameras, by their places, runs of one part and camera.

        Each is the part's number, the camera, and of each of its frames the place in the part and the row.
        """
        parts = self.part_of[places]
        inside, rows = (places - self.first[parts]).tolist(), self.rows[places].tolist()
        changes = np.flatnonzero((np.diff(parts) != 0) | (np.diff(cameras) != 0)) + 1
        for begin, end in pairwise([0, *changes.tolist(), len(places)] if len(places) else ()):
            yield int(parts[begin]), int(cameras[begin]), inside[begin:end], rows[begin:end]

    def at(self, places: _I64) -> Iterator[tuple[StoredPart, int, int]]:
        """Yield of frames, by their places, the part, the place in it and the row."""
        parts = self.part_of[places]
        inside = (places - self.first[parts]).tolist()
        for part, place, row in zip(parts.tolist(), inside, self.rows[places].tolist(), strict=True):
            yield self.parts[part], place, row


@dataclass(frozen=True)
class SplitRows:
    """What one split holds, in the order in which it is stored.

    Attributes
    ----------
    frames : (M,) int64
        Place of each row's frame among all stored frames: of the frame table.
    views : (V,) int64
        The same of the samples.
    cameras : (V,) int32
        Number of each sample's camera.
    """

    frames: _I64
    views: _I64
    cameras: _I32


@dataclass(frozen=True)
class PlannedShard:
    """One shard of the splits; its views are told when they are asked for.

    Attributes
    ----------
    content_key : str
    """

    shard: ShardUnit
    content_key: str
    rows: FrameRows
    split: SplitRows
    cameras: Sequence[str]

    @property
    def views(self) -> tuple[View, ...]:
        """The views, in the order they are stored."""
        return tuple(_views(self.rows, self.split, self.cameras, self.shard))


@dataclass(frozen=True)
class PlannedFaces:
    """One shard of a frame table, or the template."""

    shard: ShardUnit
    content_key: str
    rows: FrameRows
    split: SplitRows

    @property
    def frames(self) -> tuple[Stored, ...]:
        """The frames, in the order they are stored; empty for the template."""
        if self.shard.group == TEMPLATE:
            return ()
        found = self.rows.at(self.split.frames[self.shard.start : self.shard.stop])
        return tuple((part.key, part.frames[place]) for part, place, _ in found)


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

    @cached_property
    def digest(self) -> str:
        """Digest of all that tasks are told of it."""
        keys = [(each.shard.name, each.content_key) for each in self.shards]
        keys += [(each.shard.name, each.content_key) for each in self.faces]
        return sha256_text(canonical_json({"dataset": self.dataset.to_json(), "keys": keys}))[:_DIGITS]


def plan_shards(plan: BuildPlan, layout: BuildLayout) -> ShardPlan:
    """Cut the views of the stored frames into shards, once every frame is warped.

    What earlier runs stored keeps its place, as long as it is stored still; what is new begins new shards.

    Raises
    ------
    InputError
        If a frame is not warped yet, or none is fit to be stored.
    """
    index = open_index(layout.root)
    if index is None:
        return _plan_shards(plan, layout)
    return index.remembered("shards", asked_for(plan, layout), lambda: _plan_shards(plan, layout))


def history_of(plan: BuildPlan, layout: BuildLayout) -> History:
    """Return what earlier runs of a build stored: nothing that counts, where a dataset of some frames is to be tried.

    Raises
    ------
    InputError
        As :func:`datagen.flows.history.read_history`.
    """
    return History() if plan.chosen else read_history(layout)


def _plan_shards(plan: BuildPlan, layout: BuildLayout) -> ShardPlan:
    manifest, frames = plan.manifest, stored_frames(plan, layout)
    if frames.waiting:
        sequence = min(frames.waiting, key=str)
        raise InputError(
            f"frame {frames.waiting[sequence][0]} of {sequence} has no warp",
            "a warp of every frame",
            "Run `datagen build` again",
        )
    if not frames.parts:
        first = f"; {frames.cameras[0]}" if frames.cameras else ""
        raise InputError(
            f"none of {plan.frames} frames can be stored "
            f"({', '.join(f'{count} {status}' for status, count in sorted(frames.verdicts.items()))}{first})",
            f"a frame with the verdict {' or '.join(accepted_verdicts(manifest))}, and a camera with an image of it",
            f"`datagen explain {layout.root} --failed` says why; correct the captures and build again",
        )
    asked = {part.key: part.frames for part in frames.parts}
    history = history_of(plan, layout).grown_by(asked, frames.camera_names(), plan.split_of)
    ordered, splits, steps = _rows(plan, frames.parts, history)
    dataset = _dataset_plan(plan, frames, splits, steps, history)
    for split, listed in splits.items():
        places = dataset.shards(frames_of(split)).stored(np.arange(len(listed.frames)))
        ordered.rows[listed.frames] = places
    key = _ShardKeys(manifest, dataset, ordered, open_index(layout.root))
    shards: list[PlannedShard] = []
    faces: list[PlannedFaces] = []
    for shard in dataset.units:
        listed = splits.get(shard.split, _NO_ROWS)
        if shard.group in SPLITS:
            shards.append(PlannedShard(shard, key.of_views(shard, listed), ordered, listed, dataset.cameras))
        else:
            faces.append(PlannedFaces(shard, key.of_faces(shard, listed), ordered, listed))
    return ShardPlan(dataset, tuple(shards), tuple(faces), frames, history)


_NO_ROWS = SplitRows(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int32))


def _rows(
    plan: BuildPlan, parts: Sequence[StoredPart], history: History
) -> tuple[FrameRows, dict[str, SplitRows], tuple[Mapping[str, int], ...]]:
    """Put frames and views in order: return all frames, what each split holds of them, and what each step added."""
    subject, sequence, camera = (
        {name: i for i, name in enumerate(names)} for names in (history.subjects, history.sequences, history.cameras)
    )
    split_of, steps_of = plan.split_of, history.steps_of()
    ordered = tuple(sorted(parts, key=lambda part: (subject[part.key.subject], sequence[part.key.sequence])))
    first = np.cumsum([0, *(len(part.frames) for part in ordered)], dtype=np.int64)
    frames: dict[tuple[int, str], list[_I64]] = {}
    views: dict[tuple[int, str], list[tuple[_I64, _I32]]] = {}
    for part, start in zip(ordered, first.tolist(), strict=False):
        split = split_of[part.key.subject]
        for step, places in _by_step(part, steps_of[str(part.key)]):
            frames.setdefault((step, split), []).append(start + places)
            views.setdefault((step, split), []).extend(_seen(part, places, start, camera))
    numbers = range(len(history.steps))
    splits = {
        split: SplitRows(
            _joined([each for step in numbers for each in frames.get((step, split), ())], np.int64),
            _joined([each for step in numbers for each, _ in views.get((step, split), ())], np.int64),
            _joined([each for step in numbers for _, each in views.get((step, split), ())], np.int32),
        )
        for split in SPLITS
    }
    steps = [
        {
            group: count
            for split in SPLITS
            for group, count in (
                (split, sum(len(each) for each, _ in views.get((step, split), ()))),
                (frames_of(split), sum(map(len, frames.get((step, split), ())))),
            )
        }
        for step in numbers
    ]
    # A step of which nothing is stored any more is none.
    kept = tuple(step for step in steps if any(step.values()))
    return FrameRows(ordered, first, np.full(int(first[-1]), -1, np.int64)), splits, kept


def _joined(columns: Sequence[npt.NDArray[Any]], dtype: type[np.integer[Any]]) -> npt.NDArray[Any]:
    return np.concatenate(columns).astype(dtype, copy=False) if columns else np.zeros(0, dtype)


def _by_step(part: StoredPart, steps: Sequence[tuple[int, Sequence[int]]]) -> Iterator[tuple[int, _I64]]:
    """Yield the steps that added frames of a part, and these frames' places in it."""
    if len(steps) == 1:
        yield steps[0][0], np.arange(len(part.frames), dtype=np.int64)
        return
    step_of = {frame: step for step, frames in steps for frame in frames}
    own = np.array([step_of[frame] for frame in part.frames])
    for step in np.unique(own).tolist():
        yield step, np.flatnonzero(own == step)


def _seen(part: StoredPart, places: _I64, start: int, number_of: Mapping[str, int]) -> Iterator[tuple[_I64, _I32]]:
    """Yield the views of some frames: a clip is one camera over time, so the camera comes before the frame."""
    rigs = {part.cameras[place] for place in places.tolist()}
    for name in sorted({name for rig in rigs for name in rig}, key=lambda name: number_of[name]):
        seen = places if len(rigs) == 1 else places[[name in part.cameras[place] for place in places.tolist()]]
        yield start + seen, np.full(len(seen), number_of[name], np.int32)


def _views(rows: FrameRows, split: SplitRows, cameras: Sequence[str], shard: ShardUnit) -> Iterator[View]:
    where = slice(shard.start, shard.stop)
    for (part, at, row), camera in zip(rows.at(split.views[where]), split.cameras[where].tolist(), strict=True):
        yield View(part.key, cameras[camera], part.frames[at], part.statuses[at], row)


def _dataset_plan(
    plan: BuildPlan,
    frames: StoredFrames,
    splits: Mapping[str, SplitRows],
    steps: tuple[Mapping[str, int], ...],
    history: History,
) -> DatasetPlan:
    manifest, recipe = plan.manifest, _recipe(plan, frames)
    keys = {part.key for part in frames.parts}
    present = {key.subject for key in keys}
    head = shared_head(manifest.canonical.head, manifest.head_root)
    contents = shared_contents(manifest.canonical.head, manifest.head_root, manifest.warp.subdivisions)
    return DatasetPlan(
        resolution=manifest.render.resolution,
        counts={split: len(listed.views) for split, listed in splits.items()},
        frame_counts={split: len(listed.frames) for split, listed in splits.items()},
        steps=steps,
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


def _recipe(plan: BuildPlan, frames: StoredFrames) -> str:
    """Return the recipe as the dataset keeps it, with what does not follow from it alone."""
    text = plan.manifest.recipe()
    if not frames.own and not plan.chosen:
        return text
    more: dict[str, Any] = {"own_settings": frames.own} if frames.own else {}
    if plan.chosen:
        more["partial"] = {**plan.chosen, "frames": plan.frames}
    return canonical_json({**json.loads(text), **more})


def expected_shards(plan: BuildPlan, layout: BuildLayout, frames: StoredFrames, *, faces: bool) -> list[ShardUnit]:
    """Return the shards that there will be if all frames without a verdict pass: of the splits, or of what has faces.

    No head is loaded, no input read.
    """
    listed: list[tuple[SequenceKey, tuple[int, ...], Sequence[int]]] = [
        (part.key, part.frames, [len(names) for names in part.cameras]) for part in frames.parts
    ]
    rig_of = {info.key: info.cameras for info in plan.sequences}
    listed += [(key, waiting, [rig_of[key]] * len(waiting)) for key, waiting in frames.waiting.items()]
    stored = ((key, frame) for key, numbers, _ in listed for frame in numbers)
    history = history_of(plan, layout).grown(stored, (), plan.split_of)
    steps_of, split_of = history.steps_of(), plan.split_of
    counts = {split: [0] * len(history.steps) for split in SPLITS}
    for key, numbers, cameras in listed:
        of_split, steps = counts[split_of[key.subject]], steps_of[str(key)]
        step_of = {frame: step for step, added in steps for frame in added} if len(steps) > 1 else {}
        for frame, views in zip(numbers, cameras, strict=True):
            of_split[step_of.get(frame, steps[0][0])] += 1 if faces else views
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


class _ShardKeys:
    """Content keys of shards: of all that decides their bytes."""

    def __init__(self, manifest: Manifest, dataset: DatasetPlan, rows: FrameRows, index: StateIndex | None) -> None:
        self._rows, self._dataset, self._index = rows, dataset, index
        self._latest: tuple[int, list[str]] = (-1, [])
        self._parts: dict[int, bytes] = {}
        self._shared = {
            "algorithm": RENDER_VERSION,
            "backend": resolve_backend(manifest.render.backend),
            "encoding": dataset.encoding_digest,
            "render": manifest.render.model_dump(mode="json"),
            "seed": manifest.seed,
            "template": dataset.space["template_digest"],
        }

    def of_views(self, shard: ShardUnit, split: SplitRows) -> str:
        """Return the key of a shard of samples."""
        where = slice(shard.start, shard.stop)
        places, cameras = split.views[where], split.cameras[where]
        return self._known(shard, places, cameras, lambda: self._key_of_views(places, cameras))

    def of_faces(self, shard: ShardUnit, split: SplitRows) -> str:
        """Return the key of a shard of a frame table, or of the template."""
        places = split.frames[shard.start : shard.stop] if shard.group != TEMPLATE else _NO_ROWS.frames
        return self._known(shard, places, _NO_ROWS.cameras, lambda: self._key_of_faces(places))

    def _known(self, shard: ShardUnit, places: _I64, cameras: _I32, make: Callable[[], str]) -> str:
        """Return a key that was made of the very same before; of a million frames, making all takes ten seconds."""
        if self._index is None:
            return make()
        told = self._told(places, cameras)
        group, name = f"shard keys/{shard.group}/{shard.index // _TOGETHER}", str(shard.index)
        seen = self._index.get(group, name)
        known, _, key = seen.told.partition(" ") if seen is not None else ("", "", "")
        if known != told:
            key = make()
            self._index.note(group, name, f"{told} {key}")
        return key

    def _told(self, places: _I64, cameras: _I32) -> str:
        """Return a digest of all that a key is made of."""
        rows = self._rows
        parts = rows.part_of[places]
        numbers, order = np.unique(parts, return_inverse=True)
        told = hashlib.sha256(self._told_of_all)
        for number in numbers.tolist():
            told.update(self._part(number))
        columns = (order, places - rows.first[parts], rows.rows[places], cameras)
        for column in columns:
            told.update(len(column).to_bytes(8, "little") + column.astype("<i8").tobytes())
        return told.hexdigest()

    @cached_property
    def _told_of_all(self) -> bytes:
        return canonical_json({"rules": _RULES, "cameras": list(self._dataset.cameras), **self._shared}).encode()

    def _part(self, number: int) -> bytes:
        """Return a digest of all that is told of a part."""
        known = self._parts.get(number)
        if known is None:
            part, numbers = self._rows.parts[number], self._dataset.numbers
            key = part.key
            named = [key.subject, key.sequence, numbers["subject"][key.subject], numbers["sequence"][key.sequence]]
            statuses = part.statuses if len(set(part.statuses)) > 1 else part.statuses[:1]
            columns = [ranges_of(part.frames), statuses, part.warps.kept, part.inputs.kept]
            known = self._parts[number] = hashlib.sha256(json.dumps([named, columns]).encode()).digest()
        return known

    def _key_of_views(self, places: _I64, cameras: _I32) -> str:
        rows, numbers = self._rows, self._dataset.numbers
        samples: list[str] = []
        for number, camera, inside, stored in rows.runs(places, cameras):
            key = rows.parts[number].key
            names = (key.subject, key.sequence, self._dataset.cameras[camera])
            # What is stored of names are numbers, which depend on what the build held before.
            of_names = f"{numbers['subject'][key.subject]},\n   {numbers['sequence'][key.sequence]},\n   {camera}"
            head = "".join(f"{_quoted(name)},\n   " for name in names)
            frames = self._frames(number)
            samples += [
                f"{head}{frames[place]},\n   {of_names},\n   {row}" for place, row in zip(inside, stored, strict=True)
            ]
        return _key_of_rows(self._shared, "samples", samples)

    def _key_of_faces(self, places: _I64) -> str:
        rows, numbers, listed = self._rows, self._dataset.numbers, list[str]()
        for number, _, inside, _ in rows.runs(places, np.zeros_like(places)):
            key = rows.parts[number].key
            of_names = f"{numbers['subject'][key.subject]},\n   {numbers['sequence'][key.sequence]}"
            head, frames = _quoted(str(key)), self._frames(number)
            listed += [f"{head},\n   {frames[place]},\n   {of_names}" for place in inside]
        shared = {name: self._shared[name] for name in ("encoding", "template")}
        return _key_of_rows(shared, "rows", listed)

    def _frames(self, number: int) -> list[str]:
        """Return what keys hold of each frame of a part; parts are asked for one after another."""
        if self._latest[0] != number:
            part = self._rows.parts[number]
            columns = zip(part.frames, part.statuses, part.warps, part.inputs, strict=True)
            self._latest = (
                number,
                [
                    f"{frame},\n   {_quoted(status)},\n   {_quoted(warp)},\n   {_quoted(read)}"
                    for frame, status, warp, read in columns
                ],
            )
        return self._latest[1]


_quoted = json.encoder.encode_basestring_ascii
_HERE = "<rows>"


def _key_of_rows(shared: Mapping[str, Any], name: str, rows: Sequence[str]) -> str:
    """Return the content key of ``shared`` with a list of rows, each a list of values as the lines of its JSON.

    Python writes indented JSON ten times as slowly as it joins these lines, and there are millions of them.
    """
    text = canonical_json({**shared, name: _HERE})
    listed = "\n  ],\n  [\n   ".join(rows)
    return sha256_text(text.replace(_quoted(_HERE), f"[\n  [\n   {listed}\n  ]\n ]" if rows else "[]", 1))
