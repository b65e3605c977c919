"""The frozen plan of a build on the disk: tasks carry its digest and a few numbers, and open what they refer to.

A file of it is named after all that it says, so that no worker ever reads a stale one, and is written before the first
task that refers to it. Whoever planned knows it without the file: what only looks writes nothing.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, Generic, Protocol, TypeVar

from datagen.common.digests import canonical_json
from datagen.common.documents import parse_json
from datagen.common.files import atomic_write_bytes
from datagen.common.ownership import LISTING, is_ours, listed, listing_bytes
from datagen.flows.history import numbers_of, ranges_of
from datagen.flows.planning import BuildPlan
from datagen.flows.row_file import RowFile, write_rows
from datagen.layout import BuildLayout
from datagen.manifest import Manifest, parse_manifest
from datagen.sources.frame import SequenceInfo, SequenceKey

_FORMAT = {"format": "canonface-plan", "version": 1}
_KEPT = 3  # of each kind, in a process
_FRAMES = "frames"
_FILE = re.compile("(?:frames|shards)-([0-9a-f]{24})")

P = TypeVar("P")


class Sequences(Protocol):
    """What tasks ask of a frozen plan."""

    @property
    def manifest(self) -> Manifest:
        """The recipe."""

    def sequence(self, number: int) -> SequenceInfo:
        """Return a sequence by its number, with all of its frames that are built."""

    def whole(self, number: int) -> SequenceInfo:
        """Return a sequence by its number, with all of its frames."""

    def own(self, number: int) -> Mapping[int, str]:
        """Return the settings of their own that frames of a sequence have."""


class _Planned:
    """A plan as the one who made it has it."""

    def __init__(self, plan: BuildPlan) -> None:
        self._plan = plan

    @property
    def manifest(self) -> Manifest:
        return self._plan.manifest

    def sequence(self, number: int) -> SequenceInfo:
        return self._plan.sequences[number]

    def whole(self, number: int) -> SequenceInfo:
        return self._plan.whole_sequences[number]

    def own(self, number: int) -> Mapping[int, str]:
        return self._plan.own.get(str(self._plan.sequences[number].key), {})


class _Frozen:
    """A plan as it lies in its file."""

    def __init__(self, file: RowFile) -> None:
        self._file = file

    @cached_property
    def manifest(self) -> Manifest:
        return parse_manifest(dict(parse_json(self._file.head)["manifest"]), "the plan of a build")

    def build_plan(self) -> BuildPlan:
        """Return the plan as a build has it, the splits as they were decided."""
        told = parse_json(self._file.head)
        splits = {str(split): tuple(subjects) for split, subjects in told["splits"].items()}
        earlier = {subject: split for split, subjects in splits.items() for subject in subjects}
        numbers = range(len(self._file))
        sequences, chosen = tuple(map(self.sequence, numbers)), dict(told.get("chosen", {}))
        own = {
            str(info.key): found for info, number in zip(sequences, numbers, strict=True) if (found := self.own(number))
        }
        whole = tuple(map(self.whole, numbers)) if chosen else ()
        return BuildPlan(
            self.manifest, sequences, splits, earlier, int(told["of_frames"]), own=own, whole=whole, chosen=chosen
        )

    def sequence(self, number: int) -> SequenceInfo:
        return self._row(number)[0]

    def whole(self, number: int) -> SequenceInfo:
        info, more = self._row(number)
        return replace(info, frames=numbers_of(more["whole"])) if "whole" in more else info

    def own(self, number: int) -> Mapping[int, str]:
        found: dict[int, str] = {}
        for text, ranges in self._row(number)[1].get("own", {}).items():
            found |= dict.fromkeys(numbers_of(ranges), text)
        return found

    def _row(self, number: int) -> tuple[SequenceInfo, dict[str, Any]]:
        """Return a sequence, and what is told of few."""
        row = parse_json(self._file.row(number))
        subject, sequence, frames, cameras, registration, epoch_s, gated, bare = row[:8]
        key = SequenceKey(subject, sequence)
        info = SequenceInfo(key, numbers_of(frames), cameras, registration, epoch_s, gated, bare)
        return info, row[8] if len(row) > 8 else {}


class PlanCache(Generic[P]):
    """The latest few plans that this process knows, by build folder and digest."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[Path, str], P] = OrderedDict()
        self._lock = Lock()

    def put(self, root: Path, digest: str, plan: P) -> None:
        """Remember a plan."""
        with self._lock:
            self._known[root, digest] = plan
            self._known.move_to_end((root, digest))
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)

    def get(self, root: Path, digest: str) -> P | None:
        """Return a plan, None if it is not known."""
        with self._lock:
            found = self._known.get((root, digest))
            if found is not None:
                self._known.move_to_end((root, digest))
            return found

    def opened(self, root: Path, digest: str, read: Callable[[RowFile], P], kind: str) -> P:
        """Return a plan, which is read from its file unless it is known.

        Raises
        ------
        InputError
            If it is not there, or damaged.
        """
        found = self.get(root, digest)
        if found is None:
            found = read(RowFile(BuildLayout(root).plan / f"{kind}-{digest}"))
            self.put(root, digest, found)
        return found


_PLANS: PlanCache[Sequences] = PlanCache()


def _head(plan: BuildPlan) -> bytes:
    told = {
        "manifest": plan.manifest.model_dump(mode="json"),
        "of_frames": plan.of_frames,
        "splits": {split: list(subjects) for split, subjects in plan.splits.items()},
    }
    if plan.chosen:
        told["chosen"] = dict(plan.chosen)
    return canonical_json({**_FORMAT, **told}).encode()


def _rows(plan: BuildPlan) -> Iterator[bytes]:
    for info, whole in zip(plan.sequences, plan.whole_sequences, strict=True):
        row: list[Any] = [info.key.subject, info.key.sequence, ranges_of(info.frames), info.cameras, info.registration]
        row += [info.epoch_s, info.gated, info.bare]
        more: dict[str, Any] = {"whole": ranges_of(whole.frames)} if whole.frames != info.frames else {}
        own = plan.own.get(str(info.key), {})
        if own:
            texts = sorted(set(own.values()))
            more["own"] = {t: ranges_of(sorted(frame for frame, text in own.items() if text == t)) for t in texts}
        yield json.dumps([*row, more] if more else row, separators=(",", ":")).encode()


def refer(plan: BuildPlan, layout: BuildLayout) -> str:
    """Return the digest by which tasks refer to a plan, which this process knows from now on."""
    digest = plan.digest
    if not isinstance(_PLANS.get(layout.root, digest), _Planned):
        _PLANS.put(layout.root, digest, _Planned(plan))
    return digest


def freeze(plan: BuildPlan, layout: BuildLayout) -> Path:
    """Write a plan where tasks of other processes find it, unless it is there.

    Raises
    ------
    StorageError
        If a file that is not ours is in the way, or the disk refuses.
    """
    path = layout.plan / f"{_FRAMES}-{refer(plan, layout)}"
    if not is_kept(path):
        write_rows(path, _head(plan), _rows(plan))
    return path


def open_plan(root: Path, digest: str) -> Sequences:
    """Return the plan that a task refers to, opened once in this process.

    Raises
    ------
    InputError
        If it is not there, or damaged.
    """
    return _PLANS.opened(root, digest, _Frozen, _FRAMES)


def prune(layout: BuildLayout, digests: Collection[str]) -> None:
    """Remove what earlier plans left, once no task refers to it any more; only what the listing names.

    Parameters
    ----------
    digests : collection of str
        Of the plans that stay.

    Raises
    ------
    OSError
        If the disk refuses.
    """
    named = listed(layout.plan) or {}
    stale = [
        name
        for name, known in named.items()
        if (found := _FILE.fullmatch(name)) and found[1] not in digests and is_ours(layout.plan / name, known)
    ]
    for name in stale:
        (layout.plan / name).unlink(missing_ok=True)
    if stale:
        kept = {name: known for name, known in named.items() if name not in stale}
        atomic_write_bytes(layout.plan / LISTING, listing_bytes(kept))


def is_kept(path: Path) -> bool:
    """Whether a file of the plan is there, as far as its length tells: its name says the rest."""
    digests = (listed(path.parent) or {}).get(path.name, ()) if path.parent.is_dir() else ()
    return path.is_file() and bool(digests) and is_ours(path, digests, look=False)


def read_plan(layout: BuildLayout, digest: str) -> BuildPlan:
    """Return a frozen plan as a build has it, without a look at the captures.

    Raises
    ------
    InputError
        If it is not there, or damaged.
    """
    return _Frozen(RowFile(layout.plan / f"{_FRAMES}-{digest}")).build_plan()
