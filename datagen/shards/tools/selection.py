"""Which samples of a dataset are meant: conditions on names, frames and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError
from datagen.shards.dataset import Dataset
from datagen.shards.schema import SPLITS, VERDICTS

KEYS = ("split", "subject", "sequence", "camera", "frame", "verdict")
_NAMED = 5


@dataclass(frozen=True)
class Selection:
    """Conditions that all must hold.

    Attributes
    ----------
    conditions : mapping of key to alternatives
        Of ``split``, ``subject``, ``sequence``, ``camera`` and ``verdict`` each alternative is a name or a pattern with
        ``*`` and ``?``; of ``frame`` a number or ``start:stop:step`` as in Python.
    """

    conditions: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Selection:
        """Read conditions such as ``camera=cam00,cam01``; one key given twice must meet either.

        Raises
        ------
        InputError
            If one has no "=", an unknown key, no alternatives, or is no range of frames.
        """
        conditions: dict[str, list[str]] = {}
        for text in texts:
            key, equals, value = text.partition("=")
            alternatives = [part.strip() for part in value.split(",") if part.strip()]
            if not equals or key.strip() not in KEYS or not alternatives:
                raise InputError(
                    f"the condition {text!r}", f"KEY=VALUE[,VALUE…] with a key of {', '.join(KEYS)}", "Correct --where"
                )
            conditions.setdefault(key.strip(), []).extend(alternatives)
        for alternative in conditions.get("frame", ()):
            _frames(alternative)
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
        return np.flatnonzero(keep).astype(np.int64)

    def _fitting(self, key: str, names: Sequence[str]) -> list[int]:
        found: set[int] = set()
        for pattern in self.conditions[key]:
            fits = {i for i, name in enumerate(names) if fnmatchcase(name, pattern)}
            if not fits:
                shown = ", ".join(name for name in names[:_NAMED] if name) + ("…" if len(names) > _NAMED else "")
                raise InputError(f"no {key} of the dataset fits {pattern!r}", f"one of {shown}", "Correct --where")
            found |= fits
        return sorted(found)


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
    if (start or 0) < 0 or (stop is not None and stop < 0) or (step is not None and step < 1):
        raise InputError(f"the frames {text!r}", "numbers of 0 or more and a step of 1 or more", "Correct --where")
    return start or 0, np.iinfo(np.int32).max if stop is None else stop, step or 1
