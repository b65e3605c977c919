"""A training run beside the data it learnt from: its curves, and the frames it is worst at.

A run's files are read as they are documented (docs/trainer.md): nothing of the trainer is imported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datagen.common.documents import parse_json, read_json
from datagen.common.errors import InputError

STATE, LOG, WORST = "state.json", "log.jsonl", "worst_samples.json"
# Of a curve: what a chart can show.
MOST_POINTS = 400


@dataclass(frozen=True)
class Training:
    """What a run says of itself.

    Attributes
    ----------
    run : str
        Name of its folder.
    step, steps : int
        Done and planned.
    uuid : str
        Of the dataset it learns from.
    curves : dict of str to list of (step, value)
        Of the training loss, and of the canonical error of held-out samples in millimetres.
    worst : list of dict
        Samples of the last validation, the worst first: ``name`` (``subject/sequence/frame/camera``), ``kind`` (train
        or val), ``step``, ``canonical_mm`` and, of held-out ones, ``depth_mm``.
    """

    run: str
    step: int
    steps: int
    uuid: str
    curves: dict[str, list[tuple[int, float]]]
    worst: list[dict[str, Any]]


def read_training(run: Path, uuid: str | None = None) -> Training:
    """Read the folder of a run of `trainer fit`.

    Parameters
    ----------
    uuid : str, optional
        Of the dataset that it must have learnt from.

    Raises
    ------
    InputError
        If it is none, cannot be read, or learnt from another dataset.
    """
    try:
        state = read_json(run / STATE)
        step, steps, learnt = int(state["step"]), int(state["steps"]), str(state["dataset_uuid"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{run} is not the folder of a run of `trainer fit` ({error})", f"a folder with {STATE}", "Check --training"
        ) from None
    if uuid is not None and learnt != uuid:
        raise InputError(
            f"the run {run} learnt from dataset {learnt}, this build's is {uuid}",
            "a run on this build's dataset",
            "Name the build it learnt from, or leave out --training",
        )
    return Training(run.resolve().name, step, steps, learnt, _curves(run), _worst(run))


def _curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    wanted = {"train": ("loss", "training loss"), "val": ("canonical_mean_mm", "canonical error, held out, mm")}
    found: dict[str, list[tuple[int, float]]] = {title: [] for _, title in wanted.values()}
    try:
        lines = (run / LOG).read_text(errors="replace").splitlines()
    except OSError:
        return {}
    for line in lines:
        try:
            record = parse_json(line)
            name, title = wanted[record["kind"]]
            point = int(record["step"]), float(record[name])
        except (ValueError, KeyError, TypeError):
            continue  # a kill may cut a line, and what is undefined is null
        if math.isfinite(point[1]):
            found[title].append(point)
    return {title: points[:: -(-len(points) // MOST_POINTS)] for title, points in found.items() if points}


def _worst(run: Path) -> list[dict[str, Any]]:
    """Return the samples of the last record of each kind, the worst first."""
    try:
        records = {record["kind"]: record for record in read_json(run / WORST)["records"]}
        rows = [
            {
                "name": str(sample["name"]),
                "kind": str(kind),
                "step": int(record["step"]),
                "canonical_mm": float(sample["canonical_mm"]),
                "depth_mm": float(sample["depth_mm"]) if sample.get("depth_mm") is not None else None,
            }
            for kind, record in records.items()
            for sample in record["samples"]
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return sorted(rows, key=lambda row: -float(row["canonical_mm"]))


def rows_of_frames(training: Training, frames: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return the worst samples with the place of their frame in the report's table; -1 where it has none."""
    return [{**row, "at": frames.get(row["name"].rpartition("/")[0], -1)} for row in training.worst]


def errors_by_frame(worst: Sequence[Mapping[str, Any]]) -> dict[str, list[list[Any]]]:
    """Return by frame what its card says: camera, kind of sample, error in millimetres, step."""
    found: dict[str, list[list[Any]]] = {}
    for row in worst:
        frame, _, camera = row["name"].rpartition("/")
        found.setdefault(frame, []).append([camera, row["kind"], round(row["canonical_mm"], 2), row["step"]])
    return found
