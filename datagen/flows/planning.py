"""What a manifest asks for, before anything is computed: captures, frames, and which subjects are held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from datagen.common.errors import InputError, ManifestError
from datagen.manifest import Manifest, SplitConfig
from datagen.render.registry import RENDERERS, resolve_backend
from datagen.shards.growth import ShardUnit
from datagen.shards.plan import plan_units
from datagen.sources.frame import SequenceInfo


def assign_splits(subjects: Sequence[str], config: SplitConfig) -> dict[str, tuple[str, ...]]:
    """Divide subjects into ``train``, ``val`` and ``test``.

    A number k takes subjects from the end of the order: the last ones for ``test``, those before them for ``val``.
    Named subjects are taken out first.

    Parameters
    ----------
    subjects : sequence of str
        In any order; they are sorted.
    config : SplitConfig

    Raises
    ------
    ManifestError
        If a name is unknown or in both, a number is negative, or no subject is left for training.
    """
    rest = sorted(set(subjects))
    chosen: dict[str, tuple[str, ...]] = {}
    for split, wanted in (("test", config.test), ("val", config.val)):
        if isinstance(wanted, int):
            continue
        unknown = sorted(set(wanted) - set(rest))
        if unknown:
            taken = sorted(set(unknown) & set(chosen.get("test", ())))
            raise ManifestError(
                f"splits.{split} names {', '.join(unknown)}"
                + (f", of which {', '.join(taken)} are in splits.test too" if taken else ""),
                f"names among {', '.join(rest) or 'no subjects'}",
                "Correct splits in the manifest, or give a number of subjects",
            )
        chosen[split] = tuple(sorted(set(wanted)))
        rest = [subject for subject in rest if subject not in wanted]
    for split, wanted in (("test", config.test), ("val", config.val)):
        if not isinstance(wanted, int):
            continue
        if wanted < 0:
            raise ManifestError(f"splits.{split} is {wanted}", "0 or more subjects, or a list of names")
        count = min(wanted, len(rest))
        if count < wanted:
            rest = []
            break
        chosen[split] = tuple(rest[len(rest) - count :])
        rest = rest[: len(rest) - count]
    if not rest:
        raise ManifestError(
            f"no subject is left for training: {len(set(subjects))} subjects, "
            f"splits.val = {config.val!r}, splits.test = {config.test!r}",
            "at least one subject more than are held out",
            "Add subjects or hold out fewer (0 is allowed)",
        )
    return {"train": tuple(rest), "val": chosen["val"], "test": chosen["test"]}


@dataclass(frozen=True)
class BuildPlan:
    """A manifest, and the captures and splits it comes to.

    Attributes
    ----------
    manifest : Manifest
    sequences : tuple of SequenceInfo
        Ordered by subject, then sequence.
    splits : mapping of split to subjects
    """

    manifest: Manifest
    sequences: tuple[SequenceInfo, ...]
    splits: Mapping[str, tuple[str, ...]]

    @property
    def split_of(self) -> dict[str, str]:
        """The split of every subject."""
        return {subject: split for split, subjects in self.splits.items() for subject in subjects}

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


def plan_build(manifest: Manifest) -> BuildPlan:
    """Work out which captures a manifest means and how their subjects are split.

    Raises
    ------
    InputError
        If the source has no captures or cannot be read.
    ManifestError
        If the splits do not fit the subjects.
    """
    source = manifest.source
    sequences = sorted(source.sequences(manifest.seed), key=lambda info: (info.key.subject, info.key.sequence))
    if not sequences:
        raise InputError(
            f"no captures in {getattr(source, 'root', 'the source')}",
            "at least one <subject>/<sequence> folder",
            "See docs/capture-format.md",
        )
    splits = assign_splits([sequence.key.subject for sequence in sequences], manifest.splits)
    return BuildPlan(manifest, tuple(sequences), splits)


def chunks(sequences: Sequence[SequenceInfo], frames_per_chunk: int) -> list[SequenceInfo]:
    """Cut long sequences, so that one task takes seconds to minutes."""
    return [
        replace(sequence, frames=sequence.frames[start : start + frames_per_chunk])
        for sequence in sequences
        for start in range(0, len(sequence.frames), frames_per_chunk)
    ]
