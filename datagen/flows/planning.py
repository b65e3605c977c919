"""What a manifest asks for, before anything is computed: captures, frames, and which subjects are held out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from datagen.common.errors import InputError
from datagen.flows.history import History
from datagen.flows.splits import assign_splits, describe_splits
from datagen.manifest import Manifest
from datagen.render.registry import RENDERERS, resolve_backend
from datagen.shards.growth import ShardUnit
from datagen.shards.plan import plan_units
from datagen.sources.frame import SequenceInfo

_DIGITS = 24  # of a digest, in tasks and names


@dataclass(frozen=True)
class BuildPlan:
    """A manifest, and the captures and splits it comes to.

    Attributes
    ----------
    manifest : Manifest
    sequences : tuple of SequenceInfo
        Ordered by subject, then sequence.
    splits : mapping of split to subjects
    earlier : mapping of subject to split
        What earlier runs of this build decided; these stay.
    of_frames : int
        Frames that the captures have, of which the recipe may take some.
    own : mapping of ``subject/sequence`` to frames to text
        Settings of their own that frames have; see :mod:`datagen.flows.own_settings`.
    whole : tuple of SequenceInfo
        Where only some frames are built, the same sequences with all of their frames; empty otherwise.
    chosen : mapping
        Which these frames are, and of how many; empty if it is all.
    """

    manifest: Manifest
    sequences: tuple[SequenceInfo, ...]
    splits: Mapping[str, tuple[str, ...]]
    earlier: Mapping[str, str] = field(default_factory=dict)
    of_frames: int = 0
    own: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    whole: tuple[SequenceInfo, ...] = ()
    chosen: Mapping[str, Any] = field(default_factory=dict)

    @property
    def whole_sequences(self) -> tuple[SequenceInfo, ...]:
        """The sequences with all of their frames: a person is learnt from these, whichever of them are built."""
        return self.whole or self.sequences

    @property
    def selected(self) -> dict[str, tuple[int, ...]]:
        """The frames of each sequence where the recipe chooses; empty if it takes all."""
        if not self.manifest.source.selection:
            return {}
        return {str(sequence.key): sequence.frames for sequence in self.sequences}

    @cached_property
    def digest(self) -> str:
        """Digest of the recipe and of all that it asks for: what tasks refer to."""
        told = hashlib.sha256(self.manifest.text().encode())
        for info in self.sequences:
            told.update(repr(info).encode())
        told.update(repr(sorted(self.splits.items())).encode())
        if self.own:
            told.update(repr(sorted((name, sorted(frames.items())) for name, frames in self.own.items())).encode())
        if self.chosen:
            told.update(repr((sorted(self.chosen.items()), self.whole)).encode())
        return told.hexdigest()[:_DIGITS]

    @cached_property
    def split_of(self) -> dict[str, str]:
        """The split of every subject."""
        return {subject: split for split, subjects in self.splits.items() for subject in subjects}

    @property
    def split_policy(self) -> str:
        """How the splits were decided, in a line."""
        return describe_splits(dict(self.splits), self.manifest.splits, self.earlier)

    @property
    def frames(self) -> int:
        """Number of frames."""
        return sum(len(sequence.frames) for sequence in self.sequences)

    def views(self) -> dict[str, int]:
        """Views per split: the samples there will be if every frame passes."""
        counts = dict.fromkeys(self.splits, 0)
        for sequence in self.sequences:
            counts[self.split_of[sequence.key.subject]] += len(sequence.frames) * sequence.cameras
        return counts

    def units(self) -> list[ShardUnit]:
        """The shards there will be if every frame passes."""
        return plan_units(self.views(), samples_per_shard(self.manifest))


def samples_per_shard(manifest: Manifest) -> int:
    """Samples in one shard: the manifest's number, rounded up to whole clips."""
    clip = manifest.shards.clip
    return -(-manifest.shards.samples_per_shard // clip) * clip


def settle(manifest: Manifest, earlier: Mapping[str, Any] | None = None) -> Manifest:
    """Return the manifest a build is made from, with ``render.backend: auto`` resolved once for all of its runs.

    Parameters
    ----------
    manifest : Manifest
    earlier : mapping, optional
        The recipe of an earlier run of the build: what ``auto`` meant then it means still, whatever this machine has.
    """
    if manifest.render.backend != "auto":
        return manifest
    before = ((earlier or {}).get("render") or {}).get("backend")
    backend = before if before in RENDERERS else resolve_backend("auto")
    return manifest.model_copy(update={"render": manifest.render.model_copy(update={"backend": backend})})


def plan_build(
    manifest: Manifest,
    earlier: Mapping[str, str] | None = None,
    frozen: Mapping[str, tuple[int, ...]] | None = None,
) -> BuildPlan:
    """Work out which captures a manifest means and how their subjects are split.

    Parameters
    ----------
    manifest : Manifest
    earlier : mapping of subject to split, optional
        What earlier runs of this build decided: these subjects stay where they are.
    frozen : mapping of ``subject/sequence`` to frames, optional
        Which frames earlier runs chose, where the recipe does not take all of them.

    Raises
    ------
    InputError
        If the source has no captures or cannot be read.
    ManifestError
        If the splits do not fit the subjects, or would move one that an earlier run put elsewhere.
    """
    source = manifest.source
    sequences = sorted(source.sequences(manifest.seed), key=lambda info: (info.key.subject, info.key.sequence))
    if not sequences:
        raise InputError(
            f"no captures in {getattr(source, 'root', 'the source')}",
            "at least one <subject>/<sequence> folder",
            "See docs/capture-format.md",
        )
    of_all = sum(len(sequence.frames) for sequence in sequences)
    sequences = list(source.chosen(sequences, frozen or {}))
    subjects = [sequence.key.subject for sequence in sequences]
    splits = assign_splits(subjects, manifest.splits, earlier, seed=manifest.seed)
    return BuildPlan(manifest, tuple(sequences), splits, dict(earlier or {}), of_all)


def plan_grown(manifest: Manifest, history: History) -> BuildPlan:
    """As :func:`plan_build`, with what earlier runs of the build decided."""
    return plan_build(manifest, history.splits, history.frozen(manifest.source.selection))


def chunks(sequences: Sequence[SequenceInfo], frames_per_chunk: int) -> list[SequenceInfo]:
    """Cut long sequences, so that one task takes seconds to minutes."""
    return [
        replace(sequence, frames=sequence.frames[start : start + frames_per_chunk])
        for sequence in sequences
        for start in range(0, len(sequence.frames), frames_per_chunk)
    ]
