"""What a dataset will hold, fixed before the first byte: the plan and its shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from datagen.common.digests import canonical_json, sha256_text
from datagen.common.errors import InputError
from datagen.common.names import require_name
from datagen.shards.schema import (
    CODEC_SETS,
    COMPACT,
    DEFAULT_DEPTH_SCALE,
    DEFAULT_IMAGE_ERROR,
    MAX_IMAGE_ERROR,
    MAX_RESOLUTION,
    SPLITS,
)

# Raise it whenever the same samples would be stored as other bytes; shards of another version are rewritten.
ENCODING_VERSION = 5

_TABLES = {"subjects": "a subject", "sequences": "a sequence", "cameras": "a camera"}


def software_versions() -> dict[str, str]:
    """Versions of the packages that decide a dataset's bytes."""
    versions = {}
    for name in ("canonface", "numcodecs", "numpy", "zarr"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "unknown"
    return versions


@dataclass(frozen=True)
class ShardUnit:
    """One shard of one split, written by one writer: samples ``start`` to ``stop`` (exclusive) of the split."""

    split: str
    index: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Name used in records and messages, as in ``train-00003``."""
        return f"{self.split}-{self.index:05d}"

    @property
    def samples(self) -> int:
        """Number of samples."""
        return self.stop - self.start


def plan_units(counts: Mapping[str, int], samples_per_shard: int) -> list[ShardUnit]:
    """Cut every split into shards, in the order train, val, test.

    Parameters
    ----------
    counts : mapping of split to number of samples
    samples_per_shard : int
        Only the last shard of a split may hold fewer.
    """
    return [
        ShardUnit(split, index, start, min(start + samples_per_shard, counts[split]))
        for split in SPLITS
        if split in counts
        for index, start in enumerate(range(0, counts[split], samples_per_shard))
    ]


@dataclass(frozen=True)
class DatasetPlan:
    """Everything about a dataset but its samples.

    Attributes
    ----------
    resolution : int
        Pixels a side.
    counts : mapping of split to number of samples
    splits : mapping of split to subjects
        A subject is in one split only.
    subjects, sequences, cameras : tuple of str
        String tables; kept sorted and without repeats, so that the order of indices is the order of names.
    space : mapping
        The canonical space as ``CanonicalSpace.to_attrs()`` gives it.
    sources : tuple of mappings
        Each with at least ``name`` and ``licence``.
    regions : mapping of region name to label
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
    manifest: str = ""
    manifest_digest: str = ""
    sources: Sequence[Mapping[str, Any]] = ()
    regions: Mapping[str, int] = field(default_factory=dict)
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
            object.__setattr__(self, table, tuple(sorted(set(getattr(self, table)))))
        object.__setattr__(self, "counts", {split: int(self.counts.get(split, 0)) for split in SPLITS})
        _check_names(self.splits, "splits")
        object.__setattr__(self, "splits", {split: tuple(sorted(set(self.splits.get(split, ())))) for split in SPLITS})
        object.__setattr__(self, "sources", tuple(dict(source) for source in self.sources))
        if self.codecs not in CODEC_SETS:
            raise InputError(f"codecs is {self.codecs!r}", f"one of {', '.join(CODEC_SETS)}", "Set shards.codecs")
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
        if any(count < 0 for count in self.counts.values()):
            raise InputError(
                f"a number of samples is negative: {dict(self.counts)}", "counts of 0 or more", "Correct the counts"
            )
        seen: dict[str, str] = {}
        for split, subjects in self.splits.items():
            for subject in subjects:
                if subject in seen:
                    raise InputError(
                        f"subject {subject} is in {seen[subject]} and in {split}",
                        "each subject in one split, so that test subjects are new to the model",
                        "Change `splits` in the manifest",
                    )
                if subject not in self.subjects:
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
        canonical_json(self.to_json())

    @property
    def units(self) -> list[ShardUnit]:
        """All shards of the plan."""
        return plan_units(self.counts, self.samples_per_shard)

    @property
    def encoding_digest(self) -> str:
        """Digest of what decides the bytes of a shard besides its samples.

        A content key handed to ``write_unit`` must depend on it: a new subject, say, shifts the index of others.
        """
        keys = ("resolution", "samples_per_shard", "depth_scale", "image_error", "codecs", *_TABLES)
        content = {key: self.to_json()[key] for key in keys}
        return sha256_text(canonical_json({"encoding_version": ENCODING_VERSION, **content}))

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain JSON data."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        plain.update({table: list(plain[table]) for table in _TABLES})
        plain["splits"] = {split: list(subjects) for split, subjects in self.splits.items()}
        plain["sources"] = [dict(source) for source in self.sources]
        plain.update({key: dict(plain[key]) for key in ("counts", "space", "regions", "software")})
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


def _check_names(splits: Mapping[str, Any], what: str) -> None:
    unknown = sorted(set(splits) - set(SPLITS))
    if unknown:
        raise InputError(f"unknown {what}: {', '.join(unknown)}", f"only {', '.join(SPLITS)}")
