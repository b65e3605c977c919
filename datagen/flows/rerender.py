"""Rendering stored samples once more from their warps, to see that the dataset still follows from its build."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from datagen.common.blas import use_one_blas_thread
from datagen.common.errors import InputError
from datagen.flows.choice import choice_of
from datagen.flows.folder_plan import plan_in
from datagen.flows.shard_plan import plan_shards
from datagen.flows.stages.render import RenderStage, RenderUnit, ShardSamples
from datagen.layout import BuildLayout
from datagen.render.registry import check_backend
from datagen.shards import Dataset, open_dataset
from datagen.shards.encode import Row, encode_samples
from datagen.shards.ledger import read_record
from datagen.shards.schema import ARRAYS
from datagen.shards.store import LocalStore


@dataclass(frozen=True)
class RenderedAgain:
    """How a stored sample compares with one rendered again.

    Attributes
    ----------
    sample : int
        Number in its split.
    name : str
        Subject, sequence, camera and frame.
    differing : mapping of array name to share of values that differ
        Empty if all are the same.
    largest : mapping of array name to largest difference, in stored steps
    reason : str
        Why they could not be compared; empty if they were.
    """

    split: str
    sample: int
    name: str
    differing: dict[str, float]
    largest: dict[str, float]
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Whether every value is the same."""
        return not self.differing and not self.reason

    def __str__(self) -> str:
        parts = [f"{n}: {share:.2%} of values, by up to {self.largest[n]:g}" for n, share in self.differing.items()]
        return f"{self.split}, sample {self.sample} ({self.name}) rendered again: {self.reason or '; '.join(parts)}"

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON data."""
        return {**vars(self), "ok": self.ok}


def render_again(
    root: Path, count: int, seed: int = 0, on_sample: Callable[[int], None] | None = None
) -> list[RenderedAgain]:
    """Render random samples of a build again and compare them array by array with what is stored.

    Parameters
    ----------
    root : Path
        The build folder, with its warps and, where simulated, its captures.
    count : int
        Samples; all if there are fewer.
    on_sample : callable, optional
        Called with how many are done, for progress.

    Raises
    ------
    InputError
        If captures or warps are gone or no longer give the shards that are stored.
    """
    use_one_blas_thread()
    layout = BuildLayout(root.resolve())
    manifest = layout.read_manifest()
    dataset = open_dataset(layout.dataset)
    check_backend(manifest.render.backend)
    plan = plan_in(layout, manifest, choice_of(dataset.plan.manifest))
    shards = plan_shards(plan, layout)
    if shards.dataset.counts != dataset.plan.counts:
        raise InputError(
            f"the warps of {root} give {dict(shards.dataset.counts)} samples, stored are {dict(dataset.plan.counts)}",
            "a dataset made of these warps",
            "Run `datagen build` again",
        )
    tasks = RenderStage().plan(plan, layout)
    places = [(task, position) for task in tasks for position in range(task.shard.samples)]
    chosen = np.random.default_rng(seed).choice(len(places), min(count, len(places)), replace=False)
    results = []
    for i in sorted(chosen):
        task, position = places[i]
        results.append(_compare(dataset, task.unit, position))
        if on_sample is not None:
            on_sample(len(results))
    return results


def _compare(dataset: Dataset, unit: RenderUnit, position: int) -> RenderedAgain:
    shard, view = unit.shard, unit.views[position]
    number = shard.start + position
    name = f"{view.key}/{view.camera}/{view.frame:06d}"
    record = read_record(LocalStore(dataset.path), shard)
    if record.content_key != unit.content_key:
        reason = "its shard was made of other warps, settings or with another renderer than now"
        return RenderedAgain(shard.split, number, name, {}, {}, reason)
    alone = replace(unit, shard=replace(shard, start=number, stop=number + 1), views=(view,))
    (row,) = encode_samples(unit.dataset, alone.shard, ShardSamples(alone))
    differing, largest = _differences(dataset, shard.split, number, row)
    return RenderedAgain(shard.split, number, name, differing, largest)


def _differences(dataset: Dataset, split: str, number: int, row: Row) -> tuple[dict[str, float], dict[str, float]]:
    differing, largest = {}, {}
    for name, spec in ARRAYS.items():
        stored = dataset[split].raw(name, number, number + 1)[0]
        again = np.asarray(row[name]).astype(spec.dtype)
        wrong = stored != again
        if wrong.any():
            differing[name] = float(np.mean(wrong))
            difference = np.abs(stored.astype(np.float64) - again.astype(np.float64))
            # Regions are labels: their difference says nothing.
            largest[name] = 1.0 if name == "region" else float(difference.max())
    return differing, largest
