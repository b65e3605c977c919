"""Single frames first: what a network learns of one picture comes before what several tell together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from datagen.common.errors import InputError
from trainer.data import Loaded, TrainingLoader


class SinglesFirst:
    """Batches of one loader, then those of another, as one order that can be resumed.

    Of equally many frames single ones teach most, because a batch shows most people and places; what clips add is
    learnt by a network that reads a single picture well already.

    Parameters
    ----------
    singles, clips : TrainingLoader
    batches : int
        How many are taken of the first.
    """

    def __init__(self, singles: TrainingLoader, clips: TrainingLoader, batches: int) -> None:
        self._singles, self._clips, self._left = singles, clips, batches

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths of clips that the split has, of both."""
        return tuple(sorted({*self._singles.lengths, *self._clips.lengths}))

    @property
    def state(self) -> dict[str, Any]:
        """Where both stand."""
        return {"singles_left": self._left, "singles": self._singles.state, "clips": self._clips.state}

    def resume(self, state: dict[str, Any]) -> None:
        """Resume where a run stood; InputError if the state belongs to another order."""
        if not {"singles_left", "singles", "clips"} <= state.keys():
            raise InputError(
                "the state belongs to a run without single frames first",
                "the same configuration",
                "Set data.singles=0, or begin a new run",
            )
        self._left = int(state["singles_left"])
        self._singles.resume(state["singles"])
        self._clips.resume(state["clips"])

    def close(self) -> None:
        """Stop the readers of both."""
        self._singles.close()
        self._clips.close()

    def __iter__(self) -> Iterator[Loaded]:
        waiting = self._clips.state
        for loaded in islice(self._singles, self._left):
            self._left -= 1
            state = {"singles_left": self._left, "singles": loaded.state, "clips": waiting}
            yield replace(loaded, state=state)
        done = self._singles.state
        self._singles.close()
        for loaded in self._clips:
            yield replace(loaded, state={"singles_left": 0, "singles": done, "clips": loaded.state})
