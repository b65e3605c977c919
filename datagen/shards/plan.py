"""What a dataset will hold, fixed before the first byte: the plan and its shards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from operator import index
from typing import Any

from datagen.common.digests import canonical_json, sha256_text
from datagen.common.errors import InputError
from datagen.common.names import require_name
from datagen.shards.growth import GroupShards, ShardUnit
from datagen.shards.schema import (
    CODEC_SETS,
    COMPACT,
    DEFAULT_DEPTH_SCALE,
    DEFAULT_IMAGE_ERROR,
    FRAMES,
    MAX_IMAGE_ERROR,
    MAX_RESOLUTION,
    MAX_SIZE,
    SPLITS,
    TEMPLATE,
    ArraySpec,
    arrays_of,
)

# Raise it whenever the same samples would be stored as other bytes; shards of another version are rewritten.
ENCODING_VERSION = 5

_MAPPINGS = ("counts", "frame_counts", "faces", "space", "regions", "epochs", "software")
_TABLES = {"subjects": "a subject", "sequences": "a sequence", "cameras": "a camera"}


def software_versions() -> dict[str, str]:
    """Versions of the packages that decide a dataset's bytes."""
    return {name: _version(name) for name in ("canonface", "numcodecs", "numpy", "zarr")}


@cache
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


@dataclass(frozen=True)
class DatasetPlan:
    """Everything about a dataset but its samples.

    Attributes
    ----------
    resolution : int
        Pixels a side.
    counts : mapping of split to number of samples
    frame_counts : mapping of split to number of rows of its frame table
        0 where ``faces`` is empty.
    steps : tuple of mappings of group to number of rows
        What each run that added something added, in their order; a group is a split or the frame table of one. A step
        begins a new shard, so that no shard ever changes. One step that holds everything, unless given.
    splits : mapping of split to subjects
        A subject is in one split only.
    subjects, sequences, cameras : tuple of str
        String tables, without repeats. A build only ever appends to them, the new names of each step sorted.
    faces : mapping
        What the frame table and the template hold, as :meth:`datagen.shards.faces.TemplateContents.to_attrs` gives
        it; empty if the dataset has neither.
    space : mapping
        The canonical space as ``CanonicalSpace.to_attrs()`` gives it.
    sources : tuple of mappings
        Each with at least ``name`` and ``licence``.
    regions : mapping of region name to label
    epochs : mapping of "subject/sequence" to float
        What the capture's clock showed at the sequence's first frame, in seconds: unix time, or whatever it counts; 0
        where nobody knows, as for those that are not named.
    samples_per_shard : int
        A multiple of ``clip``.
    clip : int
        Samples of the usual training clip.
    depth_scale : float
        Metres per stored depth step.
    image_error : int
        Steps of 255 by which a stored image value may differ from what was handed in; 0 to 2.
    codecs : ``compact`` or ``standard``
        Whether maps are predicted before they are compressed, or stored with codecs of Zarr's specification alone.
    software : mapping of package to version
        Recorded, but no part of the dataset's identity.

    Raises
    ------
    InputError
        If parts contradict each other.
    """

    resolution: int
    counts: Mapping[str, int]
    splits: Mapping[str, Sequence[str]]
    subjects: Sequence[str]
    sequences: Sequence[str]
    cameras: Sequence[str]
    space: Mapping[str, Any]
    frame_counts: Mapping[str, int] = field(default_factory=dict)
    steps: Sequence[Mapping[str, int]] = ()
    faces: Mapping[str, Any] = field(default_factory=dict)
    manifest: str = ""
    manifest_digest: str = ""
    sources: Sequence[Mapping[str, Any]] = ()
    regions: Mapping[str, int] = field(default_factory=dict)
    epochs: Mapping[str, float] = field(default_factory=dict)
    samples_per_shard: int = 64
    clip: int = 4
    depth_scale: float = DEFAULT_DEPTH_SCALE
    image_error: int = DEFAULT_IMAGE_ERROR
    codecs: str = COMPACT
    software: Mapping[str, str] = field(default_factory=software_versions)

    def __post_init__(self) -> None:
        for table, what in _TABLES.items():
            for name in getattr(self, table):
                require_name(name, f"{what} of the dataset")
            object.__setattr__(self, table, tuple(dict.fromkeys(getattr(self, table))))
        for name in ("counts", "frame_counts"):
            _check_names(getattr(self, name), name)
            object.__setattr__(self, name, {split: index(getattr(self, name).get(split, 0)) for split in SPLITS})
        totals = {**self.counts, **{frames_of(split): count for split, count in self.frame_counts.items()}}
        steps = self.steps or (totals,)
        for step in steps:
            _check_names(step, "groups of a step", tuple(totals))
        added = tuple({group: index(step.get(group, 0)) for group in totals} for step in steps)
        object.__setattr__(self, "steps", added)
        _check_names(self.splits, "splits")
        object.__setattr__(self, "splits", {split: tuple(sorted(set(self.splits.get(split, ())))) for split in SPLITS})
        object.__setattr__(self, "sources", tuple(dict(source) for source in self.sources))
        if self.codecs not in CODEC_SETS:
            raise InputError(f"codecs is {self.codecs!r}", f"one of {', '.join(CODEC_SETS)}", "Set shards.codecs")
        object.__setattr__(self, "epochs", {name: _seconds(name, value) for name, value in self.epochs.items()})
        self._check()

    def _check(self) -> None:
        for name, kind in (("resolution", int), ("samples_per_shard", int), ("clip", int), ("depth_scale", float)):
            value = getattr(self, name)
            if not isinstance(value, kind) or not value > 0:
                raise InputError(f"{name} is {value!r}", f"a positive {kind.__name__}", f"Set {name} in the manifest")
        if self.resolution > MAX_RESOLUTION:
            raise InputError(f"resolution is {self.resolution}", f"at most {MAX_RESOLUTION}", "Set it in the manifest")
        if not isinstance(self.image_error, int) or not 0 <= self.image_error <= MAX_IMAGE_ERROR:
            raise InputError(f"image_error is {self.image_error!r}", f"a whole number from 0 to {MAX_IMAGE_ERROR}")
        if self.samples_per_shard % self.clip:
            raise InputError(
                f"shards of {self.samples_per_shard} samples cut clips of {self.clip} apart",
                "samples_per_shard to be a multiple of clip",
                f"Use {-(-self.samples_per_shard // self.clip) * self.clip} samples per shard",
            )
        self._check_counts()
        seen: dict[str, str] = {}
        known = frozenset(self.subjects)
        for split, subjects in self.splits.items():
            for subject in subjects:
                if subject in seen:
                    raise InputError(
                        f"subject {subject} is in {seen[subject]} and in {split}",
                        "each subject in one split, so that test subjects are new to the model",
                        "Change `splits` in the manifest",
                    )
                if subject not in known:
                    raise InputError(
                        f"subject {subject} of {split} is not in the subject table", "every subject there", "Add it"
                    )
                seen[subject] = split
        if not isinstance(self.space.get("half_extent"), float):
            raise InputError(
                f"the canonical space {dict(self.space)} has no half_extent in metres",
                "what CanonicalSpace.to_attrs() gives",
            )
        if any(not 0 <= int(label) <= 255 for label in self.regions.values()):
            raise InputError("a region label does not fit uint8", "labels from 0 to 255", "Renumber the regions")
        self._check_epochs()
        canonical_json(self.to_json())

    def _check_epochs(self) -> None:
        subjects, sequences = frozenset(self.subjects), frozenset(self.sequences)
        for name in self.epochs:
            subject, _, sequence = name.partition("/")
            if subject not in subjects or sequence not in sequences:
                raise InputError(
                    f"the sequence {name!r} of epochs is not in the tables", "subject/sequence of the dataset"
                )

    def _check_counts(self) -> None:
        for counts in (self.counts, self.frame_counts, *self.steps):
            if any(count < 0 for count in counts.values()):
                raise InputError(f"a count is negative: {dict(counts)}", "counts of 0 or more", "Correct the counts")
        for split in SPLITS:
            for group, count in ((split, self.counts[split]), (frames_of(split), self.frame_counts[split])):
                if sum(step[group] for step in self.steps) != count:
                    raise InputError(f"the steps of {group} do not add up to {count}", "what each step added")
        sizes = self.faces.get("sizes", {})
        if any(type(size) is not int or not 0 <= size <= MAX_SIZE for size in sizes.values()):
            raise InputError(f"the sizes of the template are {dict(sizes)}", f"numbers from 0 to {MAX_SIZE}")
        if any(self.frame_counts.values()) and not self.faces:
            raise InputError("there are rows of frames, but no template to read them by", "the template's contents")

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """The groups that hold shards: the splits, and with faces their frame tables and the template."""
        if not self.faces:
            return SPLITS
        return (*SPLITS, *(frames_of(split) for split in SPLITS), TEMPLATE)

    @cached_property
    def units(self) -> tuple[ShardUnit, ...]:
        """All shards, group by group."""
        return tuple(unit for group in self.groups for unit in self.shards(group).units())

    @cached_property
    def sample_units(self) -> tuple[ShardUnit, ...]:
        """The shards of the splits."""
        return tuple(unit for unit in self.units if unit.group in SPLITS)

    def shards(self, group: str) -> GroupShards:
        """Return how the rows of a group lie in shards."""
        return self._shards[group]

    @cached_property
    def _shards(self) -> dict[str, GroupShards]:
        return {
            group: GroupShards(
                group, self.samples_per_shard, (1,) if group == TEMPLATE else tuple(step[group] for step in self.steps)
            )
            for group in self.groups
        }

    @cached_property
    def _arrays(self) -> dict[str, dict[str, ArraySpec]]:
        sizes = self.sizes
        return {
            group: {name: spec for name, spec in arrays_of(group).items() if all(sizes.get(n, 1) for n in spec.shape)}
            for group in self.groups
        }

    def arrays(self, group: str) -> Mapping[str, ArraySpec]:
        """Return the arrays of a group by name; those of a head model without parameters, say, are left out."""
        return self._arrays[group]

    @cached_property
    def numbers(self) -> dict[str, dict[str, int]]:
        """The number of every subject, sequence and camera by its name."""
        tables = {"subject": self.subjects, "sequence": self.sequences, "camera": self.cameras}
        return {key: {name: i for i, name in enumerate(names)} for key, names in tables.items()}

    @cached_property
    def sizes(self) -> dict[int | str, int]:
        """What the letters in the shapes of arrays stand for."""
        return {"H": self.resolution, "W": self.resolution, **self.faces.get("sizes", {})}

    def row_shape(self, group: str, name: str) -> tuple[int, ...]:
        """Return the shape of one row of an array."""
        return self.arrays(group)[name].sample_shape(self.sizes)

    @property
    def encoding_digest(self) -> str:
        """Digest of what decides the bytes of a shard besides its samples.

        A content key handed to ``write_unit`` must depend on it, and on the index of every name in the shard.
        """
        keys = ("resolution", "samples_per_shard", "depth_scale", "image_error", "codecs", "faces")
        content = {key: self.to_json()[key] for key in keys}
        return sha256_text(canonical_json({"encoding_version": ENCODING_VERSION, **content}))

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain JSON data."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        plain.update({table: list(plain[table]) for table in _TABLES})
        plain["splits"] = {split: list(subjects) for split, subjects in self.splits.items()}
        plain["sources"] = [dict(source) for source in self.sources]
        plain["steps"] = [dict(step) for step in self.steps]
        plain.update({key: dict(plain[key]) for key in _MAPPINGS})
        return plain

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> DatasetPlan:
        """Read what :meth:`to_json` gave; other keys are ignored.

        Raises
        ------
        InputError
            If a key is missing or parts contradict each other.
        """
        known = {f.name for f in fields(cls)}
        try:
            return cls(**{key: value for key, value in content.items() if key in known})
        except (TypeError, AttributeError, ValueError) as error:
            raise InputError(
                f"the dataset plan is incomplete: {error}", "the JSON that DatasetPlan.to_json gives"
            ) from None


def plan_units(counts: Mapping[str, int], samples_per_shard: int) -> list[ShardUnit]:
    """Cut every split into shards, in the order train, val, test.

    Parameters
    ----------
    counts : mapping of split to number of samples
    samples_per_shard : int
        Only the last shard of a split may hold fewer.
    """
    shards = [GroupShards(split, samples_per_shard, (counts[split],)) for split in SPLITS if split in counts]
    return [unit for of_split in shards for unit in of_split.units()]


def frames_of(split: str) -> str:
    """Return the group of a split's frame table."""
    return f"{split}/{FRAMES}"


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"the epoch of {name!r} is {value!r}", "seconds")
    return float(value)


def _check_names(found: Mapping[str, Any], what: str, known: Sequence[str] = SPLITS) -> None:
    unknown = sorted(set(found) - set(known))
    if unknown:
        raise InputError(f"unknown {what}: {', '.join(unknown)}", f"only {', '.join(known)}")
