"""How a build grew: what each of its runs added, in which order, and which split every subject is in.

A dataset's tables of names and its shards only ever grow, and no subject changes its split. So what was decided once is
kept in the build folder, and what is new comes after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from datagen.common.digests import canonical_json, sha256_text
from datagen.common.documents import parse_json, read_json
from datagen.common.errors import CorruptDatasetError, DatasetError, InputError
from datagen.common.files import write_owned_bytes
from datagen.layout import BuildLayout
from datagen.shards.dataset import open_dataset
from datagen.shards.plan import frames_of
from datagen.shards.schema import SPLITS
from datagen.sources.frame import SequenceKey

_FORMAT = "canonface-history"
_VERSION = 2

Stored = tuple[SequenceKey, int]  # a sequence's frame


@dataclass(frozen=True)
class History:
    """What the runs of a build decided; empty before the first.

    Attributes
    ----------
    subjects, sequences, cameras : tuple of str
        Names in the order in which they came, those of one run sorted.
    splits : mapping of subject to split
    steps : tuple of mappings of ``subject/sequence`` to frames
        What each run added to the dataset.
    selected : mapping of ``subject/sequence`` to frames
        Which frames were chosen, where the recipe takes some of them.
    selected_by : str
        How, in the words of the recipe's source.
    """

    subjects: tuple[str, ...] = ()
    sequences: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()
    splits: Mapping[str, str] = field(default_factory=dict)
    steps: tuple[Mapping[str, tuple[int, ...]], ...] = ()
    selected: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    selected_by: str = ""

    def frozen(self, selection: str) -> Mapping[str, tuple[int, ...]]:
        """Return the frames that were chosen in this way, by sequence; those chosen in another are chosen anew."""
        return self.selected if selection and selection == self.selected_by else {}

    def grown(self, frames: Iterable[Stored], cameras: Iterable[str], splits: Mapping[str, str]) -> History:
        """Return this history with what is new: frames that it does not hold are a step, new names come last.

        Parameters
        ----------
        frames : iterable of (sequence, frame)
            All that the dataset is to hold.
        cameras : iterable of str
            Those that see them.
        splits : mapping of subject to split
            Of all subjects of the build.
        """
        asked: dict[SequenceKey, list[int]] = {}
        for key, frame in frames:
            asked.setdefault(key, []).append(frame)
        return self.grown_by(asked, cameras, splits)

    def grown_by(
        self, asked: Mapping[SequenceKey, Sequence[int]], cameras: Iterable[str], splits: Mapping[str, str]
    ) -> History:
        """As :meth:`grown`, of the frames of each sequence: of a million, pairs would take seconds."""
        steps_of = self.steps_of()
        keys = sorted(asked, key=lambda key: (key.subject, key.sequence))
        step = {}
        for key in keys:
            fresh = set(asked[key]).difference(*(listed for _, listed in steps_of.get(str(key), ())))
            if fresh:
                step[str(key)] = tuple(sorted(fresh))
        return replace(
            self,
            subjects=_appended(self.subjects, (key.subject for key in keys)),
            sequences=_appended(self.sequences, (key.sequence for key in keys)),
            cameras=_appended(self.cameras, cameras),
            splits={**self.splits, **splits},
            steps=(*self.steps, step) if step else self.steps,
        )

    def steps_of(self) -> dict[str, list[tuple[int, tuple[int, ...]]]]:
        """Return by ``subject/sequence`` the numbers of the steps that added frames of it, each with these frames."""
        found: dict[str, list[tuple[int, tuple[int, ...]]]] = {}
        for number, step in enumerate(self.steps):
            for name, listed in step.items():
                found.setdefault(name, []).append((number, listed))
        return found

    def to_bytes(self) -> bytes:
        """Return the text of the history, which digests itself."""
        content: dict[str, Any] = {
            "format": _FORMAT,
            "version": _VERSION,
            "subjects": list(self.subjects),
            "sequences": list(self.sequences),
            "cameras": list(self.cameras),
            "splits": dict(self.splits),
            "steps": [{name: ranges_of(listed) for name, listed in step.items()} for step in self.steps],
        }
        if self.selected:
            frames = {name: ranges_of(listed) for name, listed in self.selected.items()}
            content["selected"] = {"by": self.selected_by, "frames": frames}
        return (canonical_json({**content, "digest": sha256_text(canonical_json(content))}) + "\n").encode()

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> History:
        """Read what :meth:`to_bytes` gave; ValueError for anything else."""
        try:
            if (content["format"], content["version"]) != (_FORMAT, _VERSION):
                raise ValueError(f"it is of version {content['version']!r:.20}")
            # Before ranges are written out: a digit that was changed may make one of any length.
            plain = {key: value for key, value in content.items() if key != "digest"}
            if content.get("digest") != sha256_text(canonical_json(plain)):
                raise ValueError("its digest is of other content")
            tables = {name: tuple(map(str, content[name])) for name in ("subjects", "sequences", "cameras")}
            steps = tuple({str(name): numbers_of(ranges) for name, ranges in step.items()} for step in content["steps"])
            chosen = content.get("selected", {"by": "", "frames": {}})
            selected = {str(name): numbers_of(ranges) for name, ranges in chosen["frames"].items()}
            history = cls(
                **tables, splits=dict(content["splits"]), steps=steps, selected=selected, selected_by=str(chosen["by"])
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None
        if not set(history.splits.values()) <= set(SPLITS):
            raise ValueError("it names a split that there is not")
        return history

    @classmethod
    def of_dataset(cls, path: Path) -> History:
        """Return what a finished dataset tells of its build: all but those of whom it holds nothing.

        Empty if there is none. Of a damaged one the splits and the names are taken, which its root document has.
        """
        try:
            dataset = open_dataset(path)
        except DatasetError:
            return cls()
        plan = dataset.plan
        if is_partial(plan.manifest):
            # It was tried; nothing is decided by it.
            return cls()
        splits = {subject: split for split, subjects in plan.splits.items() for subject in subjects}
        told = cls(tuple(plan.subjects), tuple(plan.sequences), tuple(plan.cameras), splits)
        steps: list[dict[str, list[int]]] = [{} for _ in plan.steps]
        try:
            for split in SPLITS if plan.faces else ():
                table = dataset[split].frames
                rows = zip(table.subject.tolist(), table.sequence.tolist(), table.frame.tolist(), strict=True)
                for listed, step in zip(steps, plan.steps, strict=True):
                    for subject, sequence, frame in islice(rows, step[frames_of(split)]):
                        listed.setdefault(f"{plan.subjects[subject]}/{plan.sequences[sequence]}", []).append(frame)
        except CorruptDatasetError:
            return told
        return replace(told, steps=tuple({n: tuple(f) for n, f in sorted(step.items())} for step in steps if step))


def is_partial(recipe: str) -> bool:
    """Whether a dataset's recipe says that it holds chosen frames only, of the build that it is to try."""
    try:
        return "partial" in parse_json(recipe)
    except (ValueError, TypeError):
        return False


def _appended(names: Sequence[str], more: Iterable[str]) -> tuple[str, ...]:
    return (*names, *sorted(set(more) - set(names)))


def numbers_of(ranges: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """Undo :func:`ranges_of`."""
    return tuple(frame for first, last in ranges for frame in range(first, last + 1))


def ranges_of(frames: Sequence[int]) -> list[list[int]]:
    """Return increasing numbers as pairs of the first and the last of each run: what is beyond the last may not fit."""
    ranges: list[list[int]] = []
    for frame in frames:
        if ranges and ranges[-1][1] == frame - 1:
            ranges[-1][1] = frame
        else:
            ranges.append([frame, frame])
    return ranges


def read_history(layout: BuildLayout) -> History:
    """Return the history of a build: what its finished dataset tells if the file is lost, empty if that is not there.

    Raises
    ------
    InputError
        If it is damaged: without it, subjects could change their split.
    """
    try:
        return History.from_json(read_json(layout.history))
    except FileNotFoundError:
        return History.of_dataset(layout.dataset)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{layout.history} cannot be used ({error})",
            "the history that a build wrote",
            "Restore it from a backup, or remove it: then it is made again of the finished dataset. Where there is "
            "none, splits and the order of samples are decided anew, and shards are written again",
        ) from None


def keep_selection(layout: BuildLayout, selected: Mapping[str, tuple[int, ...]], selected_by: str) -> None:
    """Write down which frames a build takes, before anything is made of them; nothing where it takes all.

    Raises
    ------
    datagen.common.errors.CanonfaceError
        If the history is damaged, or the disk refuses.
    """
    history = read_history(layout)
    if selected and (dict(history.selected), history.selected_by) != (dict(selected), selected_by):
        fresh = replace(history, selected=dict(selected), selected_by=selected_by)
        write_owned_bytes(layout.history, fresh.to_bytes())
