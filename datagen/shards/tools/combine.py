"""New datasets out of finished ones: merged, or cut down, without rendering or compressing anything again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.digests import canonical_json, sha256_text
from datagen.common.errors import DatasetError, InputError
from datagen.common.names import require_name
from datagen.shards.dataset import Dataset, open_dataset
from datagen.shards.finish import finalise
from datagen.shards.growth import ShardUnit
from datagen.shards.lease import only_writer
from datagen.shards.ledger import list_records, unit_is_complete
from datagen.shards.metadata import is_map
from datagen.shards.pack import ShardPacker
from datagen.shards.plan import DatasetPlan, frames_of, software_versions
from datagen.shards.schema import MAX_FRAME, SPLITS, TEMPLATE, VERDICTS
from datagen.shards.tools.place import check_place, local_place
from datagen.shards.writer import write_packed

COMBINE_VERSION = 2
_ALIKE = ("space", "resolution", "depth_scale", "regions", "faces", "codecs")
_TABLES = ("subject", "sequence", "camera")
KEYS = ("split", "subject", "sequence", "camera", "frame", "verdict", "name")
_NAMED = 5


@dataclass(frozen=True)
class Selection:
    """Conditions that all must hold.

    Attributes
    ----------
    conditions : mapping of key to alternatives
        Of ``split``, ``subject``, ``sequence``, ``camera`` and ``verdict`` each alternative is a name or a pattern with
        ``*`` and ``?``; of ``frame`` a number or ``start:stop:step`` as in Python; of ``name`` a sample or all of a
        frame, ``subject/sequence/frame`` with ``/camera`` or without.
    """

    conditions: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Selection:
        """Read conditions such as ``camera=cam00,cam01``; one key given twice must meet either.

        ``name=@FILE`` takes the names of a file, one a line, such as `datagen browse` marks.

        Raises
        ------
        InputError
            If one has no "=", an unknown key, no alternatives, or is not a range of frames.
        """
        conditions: dict[str, list[str]] = {}
        for text in texts:
            key, equals, value = text.partition("=")
            alternatives = [part.strip() for part in value.split(",") if part.strip()]
            if not equals or key.strip() not in KEYS or not alternatives:
                raise InputError(
                    f"the condition {text!r}", f"KEY=VALUE[,VALUE…] with a key of {', '.join(KEYS)}", "Correct --where"
                )
            if key.strip() == "name" and value.strip().startswith("@"):
                alternatives = _listed(Path(value.strip()[1:]))
            conditions.setdefault(key.strip(), []).extend(alternatives)
        for alternative in conditions.get("frame", ()):
            _frames(alternative)
        for alternative in conditions.get("name", ()):
            _sample_name(alternative)
        return cls({key: tuple(values) for key, values in conditions.items()})

    def to_json(self) -> dict[str, list[str]]:
        """Return the conditions as plain JSON data."""
        return {key: list(values) for key, values in self.conditions.items()}

    def chosen(self, dataset: Dataset, split: str) -> npt.NDArray[np.int64]:
        """Return the numbers of the chosen samples of a split, increasing.

        Raises
        ------
        InputError
            If a name or pattern fits nothing in the whole dataset.
        """
        plan, index = dataset.plan, dataset[split].index
        keep = np.ones(len(index), bool)
        for key, tables in (("subject", plan.subjects), ("sequence", plan.sequences), ("camera", plan.cameras)):
            if key in self.conditions:
                keep &= np.isin(getattr(index, key), self._fitting(key, tables))
        if "split" in self.conditions:
            keep &= bool(set(self._fitting("split", SPLITS)) & {SPLITS.index(split)})
        if "verdict" in self.conditions:
            stored = dataset[split].raw("verdict", 0, len(index))
            keep &= np.isin(stored, self._fitting("verdict", VERDICTS))
        if "frame" in self.conditions:
            fits = np.zeros(len(index), bool)
            for alternative in self.conditions["frame"]:
                start, stop, step = _frames(alternative)
                fits |= (index.frame >= start) & (index.frame < stop) & ((index.frame - start) % step == 0)
            keep &= fits
        if "name" in self.conditions:
            keep &= self._named(dataset, split)
        return np.flatnonzero(keep).astype(np.int64)

    def _named(self, dataset: Dataset, split: str) -> npt.NDArray[np.bool_]:
        """Return which samples of a split are named (N,)."""
        plan, index = dataset.plan, dataset[split].index
        wanted: dict[tuple[int, int, int], list[int]] = {}
        for name in self.conditions["name"]:
            parts = name.split("/")
            tables = zip((parts[0], parts[1], *parts[3:]), (plan.subjects, plan.sequences, plan.cameras), strict=False)
            try:
                numbers = [table.index(part) for part, table in tables]
            except ValueError:
                raise InputError(f"the dataset has no {name}", "names of its samples", "Correct --where") from None
            wanted.setdefault((numbers[0], numbers[1], numbers[2] if len(numbers) > 2 else -1), []).append(
                int(parts[2])
            )
        keep = np.zeros(len(index), bool)
        for (subject, sequence, camera), frames in wanted.items():
            fits = (index.subject == subject) & (index.sequence == sequence) & np.isin(index.frame, frames)
            keep |= fits if camera < 0 else fits & (index.camera == camera)
        return keep

    def _fitting(self, key: str, names: Sequence[str]) -> list[int]:
        found: set[int] = set()
        for pattern in self.conditions[key]:
            fits = {i for i, name in enumerate(names) if fnmatchcase(name, pattern)}
            if not fits:
                shown = ", ".join(name for name in names[:_NAMED] if name) + ("…" if len(names) > _NAMED else "")
                raise InputError(f"no {key} of the dataset fits {pattern!r}", f"one of {shown}", "Correct --where")
            found |= fits
        return sorted(found)


def _listed(path: Path) -> list[str]:
    """Read the names of a file, one a line; no pattern and no comma means anything in them."""
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read ({error})", "names, one a line", "Correct --where name=@FILE"
        ) from None
    if not lines:
        raise InputError(f"{path} holds no names", "subject/sequence/frame/camera, one a line", "Mark samples first")
    return lines


def _sample_name(text: str) -> None:
    parts = text.split("/")
    if not 3 <= len(parts) <= 4 or not all(parts) or not parts[2].isascii() or not parts[2].isdigit():
        expected = "subject/sequence/frame, with /camera or without"
        raise InputError(f"the name {text!r}", expected, "Correct --where name=…")


def _frames(text: str) -> tuple[int, int, int]:
    parts = text.split(":")
    try:
        numbers = [int(part) if part else None for part in parts]
    except ValueError:
        numbers = []
    if not 1 <= len(numbers) <= 3 or (len(numbers) == 1 and numbers[0] is None):
        raise InputError(f"the frames {text!r}", "a number, or start:stop or start:stop:step", "Correct --where")
    start, stop, step = (*numbers, None, None)[:3]
    if len(numbers) == 1:
        stop = (start or 0) + 1
    if any(number is not None and number > MAX_FRAME for number in numbers):
        raise InputError(f"the frames {text!r}", f"numbers up to {MAX_FRAME}", "Correct --where")
    if (start or 0) < 0 or (stop is not None and stop < 0) or (step is not None and step < 1):
        raise InputError(f"the frames {text!r}", "numbers of 0 or more and a step of 1 or more", "Correct --where")
    return start or 0, MAX_FRAME + 1 if stop is None else stop, step or 1


@dataclass(frozen=True)
class Part:
    """What one dataset contributes.

    Attributes
    ----------
    label : str
        Put before the names of its subjects, with a "-"; empty to leave them.
    """

    dataset: Dataset
    label: str = ""
    selection: Selection = field(default_factory=Selection)

    def subject(self, name: str) -> str:
        """Return a subject's name in the new dataset."""
        return f"{self.label}-{name}" if self.label else name


@dataclass(frozen=True, order=True)
class _Row:
    """A sample, or a frame's row, in the order of the new dataset, and where it is now.

    ``camera`` is empty for a frame; ``frame_row`` is the place of a sample's frame in the new frame table as stored.
    """

    subject: str
    sequence: str
    camera: str
    frame: int
    part: int
    number: int
    frame_row: int = -1

    @property
    def name(self) -> str:
        return f"{self.subject}/{self.sequence}"

    @property
    def key(self) -> tuple[str, str, str, int]:
        return self.subject, self.sequence, self.camera, self.frame


def combine(
    parts: Sequence[Part],
    out: Path,
    *,
    samples_per_shard: int | None = None,
    on_shard: Callable[[ShardUnit], None] | None = None,
) -> Dataset:
    """Write the chosen samples of several datasets as one; run again after an interruption, it continues.

    Compressed chunks are copied byte for byte, each after its checksum; tables and index arrays are made anew.

    Parameters
    ----------
    out : Path
        The ``dataset.zarr`` folder to make.
    samples_per_shard : int, optional
        By default that of the first part.
    on_shard : callable, optional
        Called after each shard, for progress.

    Raises
    ------
    DatasetError
        If the parts differ in canonical space, resolution, depth scale or regions, if a subject would be in two
        splits, a sample there twice, or ``out`` holds anything but this dataset.
    CorruptDatasetError
        If a chunk is damaged.
    InputError
        If nothing is chosen.
    StorageError
        If the disk refuses, or another process writes there.
    """
    _check_alike(parts)
    samples = {split: _samples(parts, split) for split in SPLITS}
    if not any(samples.values()):
        raise InputError("no sample is chosen", "at least one", "Loosen --where; `datagen stats` lists names")
    frames = {split: _frames_of(parts, split, chosen) for split, chosen in samples.items()}
    plan = _plan(parts, samples, frames, samples_per_shard)
    rows = _rows(plan, samples, frames)
    store = local_place(out, [part.dataset for part in parts])

    def chosen(unit: ShardUnit) -> Sequence[_Row]:
        return rows[unit.group][unit.start : unit.stop]

    keys = {unit.name: _content_key(parts, plan, unit, chosen(unit)) for unit in plan.units}
    with only_writer(store):
        check_place(store, plan, keys)
        for unit in plan.units:
            if not unit_is_complete(store, unit, keys[unit.name]):
                write_packed(store.root, plan, unit, keys[unit.name], _packed(parts, plan, unit, chosen(unit)))
            if on_shard is not None:
                on_shard(unit)
        return finalise(store.root, plan, list_records(store))


def merge(sources: Sequence[str | Path], out: Path, labels: Sequence[str] = (), **options: Any) -> Dataset:
    """Write all samples of several datasets as one; see :func:`combine`."""
    if labels and len(labels) != len(sources):
        raise InputError(
            f"{len(labels)} labels for {len(sources)} datasets", "one label each", "Name one label for each dataset"
        )
    for label in labels:
        if label:
            require_name(label, "a label")
    names = labels or [""] * len(sources)
    return combine([Part(open_dataset(s), label) for s, label in zip(sources, names, strict=True)], out, **options)


def subset(source: str | Path, out: Path, selection: Selection, **options: Any) -> Dataset:
    """Write the chosen samples of a dataset as another; see :func:`combine`."""
    return combine([Part(open_dataset(source), selection=selection)], out, **options)


def _check_alike(parts: Sequence[Part]) -> None:
    first = parts[0].dataset
    for part in parts[1:]:
        for name in _ALIKE:
            mine, theirs = getattr(first.plan, name), getattr(part.dataset.plan, name)
            if mine != theirs:
                raise DatasetError(
                    f"{first.url} and {part.dataset.url} differ in {name}: {_shown(mine, theirs)}",
                    f"datasets with the same {name}",
                    "Build them from one manifest's canonical, render and shards sections",
                )


def _shown(mine: Any, theirs: Any) -> str:
    if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
        keys = [key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)]
        return ", ".join(f"{key} {mine.get(key)!r} and {theirs.get(key)!r}" for key in keys[:3])
    return f"{mine!r} and {theirs!r}"


def _samples(parts: Sequence[Part], split: str) -> list[_Row]:
    found: list[_Row] = []
    for number, part in enumerate(parts):
        plan, index = part.dataset.plan, part.dataset[split].index
        for i in part.selection.chosen(part.dataset, split):
            names = (plan.subjects[index.subject[i]], plan.sequences[index.sequence[i]], plan.cameras[index.camera[i]])
            found.append(_Row(part.subject(names[0]), *names[1:], int(index.frame[i]), number, int(i)))
    found.sort()
    for before, after in pairwise(found):
        if before.key == after.key:
            urls = " and ".join(parts[s.part].dataset.url for s in (before, after))
            raise DatasetError(
                f"the sample {'/'.join(map(str, after.key))} is in {urls}",
                "each sample once",
                "If they show different people, tell their subjects apart with --labels",
            )
    return found


def _frames_of(parts: Sequence[Part], split: str, samples: Sequence[_Row]) -> list[_Row]:
    """Return the rows of the frame tables that samples name, in the order of the new one."""
    if not parts[0].dataset.plan.faces:
        return []
    found: dict[tuple[str, str, int], _Row] = {}
    for sample in samples:
        row = int(parts[sample.part].dataset[split].index.frame_row[sample.number])
        key = (sample.subject, sample.sequence, sample.frame)
        # Two datasets may each hold some cameras of a frame: its row is taken from the first of them.
        found.setdefault(key, _Row(sample.subject, sample.sequence, "", sample.frame, sample.part, row))
    return sorted(found.values())


def _rows(
    plan: DatasetPlan, samples: Mapping[str, list[_Row]], frames: Mapping[str, list[_Row]]
) -> dict[str, list[_Row]]:
    """Return the rows of every group, each sample with the place of its frame."""
    if not plan.faces:
        return dict(samples)
    rows: dict[str, list[_Row]] = {TEMPLATE: [_Row("", "", "", 0, 0, 0)]}
    for split, chosen in samples.items():
        group = frames_of(split)
        places = plan.shards(group).stored(np.arange(len(frames[split]))).tolist()
        place_of = {(f.subject, f.sequence, f.frame): place for f, place in zip(frames[split], places, strict=True)}
        rows[split] = [replace(s, frame_row=place_of[s.subject, s.sequence, s.frame]) for s in chosen]
        rows[group] = frames[split]
    return rows


def _plan(
    parts: Sequence[Part],
    samples: Mapping[str, list[_Row]],
    frames: Mapping[str, list[_Row]],
    per_shard: int | None,
) -> DatasetPlan:
    first = parts[0].dataset.plan
    subjects = {split: sorted({sample.subject for sample in chosen}) for split, chosen in samples.items()}
    owner: dict[str, str] = {}
    for split, names in subjects.items():
        for name in names:
            if name in owner:
                raise DatasetError(
                    f"subject {name} would be in {owner[name]} and in {split}",
                    "each subject in one split, so that test subjects are new to the model",
                    "Leave one of them out with `datagen subset --where`, or tell them apart with --labels",
                )
            owner[name] = split
    everything = [sample for chosen in samples.values() for sample in chosen]
    recipe = canonical_json(
        {
            "combined": [
                {
                    "label": part.label,
                    "manifest": part.dataset.plan.manifest,
                    "uuid": part.dataset.uuid,
                    "where": part.selection.to_json(),
                }
                for part in parts
            ]
        }
    )
    sources = {canonical_json(source): source for part in parts for source in part.dataset.plan.sources}
    # Whatever else a plan says, those after the first part agree with it, or it is the first's to say.
    return replace(
        first,
        counts={split: len(chosen) for split, chosen in samples.items()},
        frame_counts={split: len(chosen) for split, chosen in frames.items()},
        steps=(),
        splits=subjects,
        subjects=sorted(owner),
        sequences=sorted({sample.sequence for sample in everything}),
        cameras=sorted({sample.camera for sample in everything}),
        manifest=recipe,
        manifest_digest=sha256_text(recipe),
        sources=[sources[text] for text in sorted(sources)],
        epochs=_epochs(parts, everything),
        samples_per_shard=per_shard or first.samples_per_shard,
        image_error=max(part.dataset.plan.image_error for part in parts),
        software=software_versions(),
    )


def _epochs(parts: Sequence[Part], samples: Sequence[_Row]) -> dict[str, float]:
    """Return the epochs of the sequences; one that two parts hold must have begun at the same moment in both."""
    first: dict[str, tuple[float, int]] = {}
    for name, part, epoch in sorted({(s.name, s.part, _epoch(parts[s.part], s)) for s in samples}):
        known, other = first.setdefault(name, (epoch, part))
        if known != epoch:
            raise DatasetError(
                f"{parts[other].dataset.url} and {parts[part].dataset.url} differ in the epoch of {name}: "
                f"{known!r} and {epoch!r} s",
                "one beginning of a sequence, from which all of its times are counted",
                "If they show different people, tell their subjects apart with --labels",
            )
    return {name: epoch for name, (epoch, _) in first.items()}


def _epoch(part: Part, sample: _Row) -> float:
    subject = sample.subject.removeprefix(f"{part.label}-") if part.label else sample.subject
    return part.dataset.plan.epochs.get(f"{subject}/{sample.sequence}", 0.0)


def _content_key(parts: Sequence[Part], plan: DatasetPlan, unit: ShardUnit, chosen: Sequence[_Row]) -> str:
    content = {
        "combine_version": COMBINE_VERSION,
        "encoding": plan.encoding_digest,
        "rows": [
            [parts[row.part].dataset.uuid, unit.group, row.number, row.frame_row, *_numbers(plan, row).values()]
            for row in chosen
        ],
    }
    return sha256_text(canonical_json(content))


def _numbers(plan: DatasetPlan, row: _Row) -> dict[str, int]:
    """Return the numbers of a row's names in the tables of the new dataset."""
    return {name: plan.numbers[name][value] for name in _TABLES if (value := getattr(row, name))}


def _packed(parts: Sequence[Part], plan: DatasetPlan, unit: ShardUnit, chosen: Sequence[_Row]) -> ShardPacker:
    packer, arrays = ShardPacker(plan, unit), plan.arrays(unit.group)
    small = [name for name, spec in arrays.items() if not is_map(spec)]
    maps = [name for name in arrays if name not in small]
    for new in chosen:
        dataset = parts[new.part].dataset
        values: dict[str, Any] = {name: dataset.small_of(unit.group, name)[new.number] for name in small}
        values.update({name: number for name, number in _numbers(plan, new).items() if name in values})
        if "frame_row" in values:
            values["frame_row"] = new.frame_row
        packer.add_packed(values, {name: dataset.reader.chunk(unit.group, name, new.number) for name in maps})
    return packer
