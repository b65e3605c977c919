"""What the report shows: samples spread over the split, and the runs that went best and worst."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from datagen.shards import Dataset
from trainer.evaluation.frames import View
from trainer.evaluation.gather import Run

_ROWS = 6
_RUNS = 3


@dataclass(frozen=True)
class ShownView:
    """A sample kept for the contact sheet."""

    name: str
    view: View


@dataclass(frozen=True)
class ShownRun:
    """A run kept for its tracks: only what is drawn of it."""

    name: str
    run: Run


class Showcase:
    """Keeps a few views and runs as they pass.

    Parameters
    ----------
    dataset : Dataset
    split : str
    """

    def __init__(self, dataset: Dataset, split: str) -> None:
        self._split = dataset[split]
        self.half_extent_m = dataset.half_extent_m
        self.views: list[ShownView] = []
        self.best: list[ShownRun] = []
        self.worst: list[ShownRun] = []
        places = np.linspace(0, len(self._split) - 1, _ROWS).round().astype(int)
        self._chosen = set(places.tolist())

    def offer(self, run: Run) -> None:
        """Look at a run that was measured."""
        for index, view in zip(run.indices.tolist(), run.views, strict=True):
            if index in self._chosen:
                self.views.append(ShownView(self._name(index), view))
        if math.isnan(run.score_px):
            return
        last = len(run.tracks["true"]) - 1
        ends = Run(
            run.indices[[0, last]],
            [run.views[0], run.views[last]],
            [],
            {name: places[[0, last]] for name, places in run.tracks.items()},
            run.visible[[0, last]],
            run.score_px,
        )
        shown = ShownRun(f"{self._name(int(run.indices[0]))}, {last + 1} frames", ends)
        self.best = sorted([*self.best, shown], key=lambda s: s.run.score_px)[:_RUNS]
        self.worst = sorted([*self.worst, shown], key=lambda s: -s.run.score_px)[:_RUNS]

    def _name(self, index: int) -> str:
        sample = self._split.sample(index)
        return f"#{index} {sample.subject}/{sample.sequence}/{sample.camera} frame {sample.frame}"
