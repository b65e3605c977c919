"""Measuring a parameter head on people it has not learnt from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datagen.common.errors import InputError
from datagen.common.files import json_ready
from datagen.shards import open_dataset
from trainer.attributes.data import skin_labels
from trainer.attributes.measure import JUDGED, measure_split
from trainer.attributes.store import read_head
from trainer.run.checkpoint import pick_device


@dataclass(frozen=True)
class AttributesResult:
    """What was measured.

    Attributes
    ----------
    metrics : dict
        The figures of docs/attributes.md.
    """

    split: str
    samples: int
    step: int | None
    metrics: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        found: dict[str, Any] = json_ready(
            {"split": self.split, "samples": self.samples, "step": self.step, "figures": self.metrics}
        )
        return found

    def text(self) -> str:
        """Return it for people."""
        m = self.metrics
        lines = [
            f"{self.samples} pictures of {self.split}, step {self.step}",
            f"face's vertices, laid on the true ones rigidly      {m['vertices_mm']:.2f} mm, "
            f"{m['vertices_ratio_mean']:.2f} of the mean face's {m['mean_head_vertices_mm']:.2f}",
            f"face at rest, alike, RMS                            {m['neutral_rms_mm']:.2f} mm",
            f"landmarks, of the face's size                       {m['nme_percent']:.2f} %, "
            f"{m['nme_ratio_mean']:.2f} of the mean places' {m['mean_nme_percent']:.2f}",
            f"rotation, distance                                  {m['turn_degrees']:.1f}°, "
            f"{m['distance_percent']:.1f} %",
            f"vertices rightly said to be seen or hidden          {m['visible_percent']:.0f} %",
            "r² / σ², 1 where σ is right                         "
            + ", ".join(f"{name} {m[f'surprise_{name}']:.2f}" for name in JUDGED),
        ]
        return "\n".join(lines)


def evaluate_attributes(
    checkpoint: Path, dataset_path: Path | str, split: str, *, limit: int | None = None, device_name: str = "auto"
) -> AttributesResult:
    """Measure a network on a split; σ is taken with the temperatures of the validation people, where there were any.

    Parameters
    ----------
    limit : int, optional
        Most samples, evenly spread.

    Raises
    ------
    CheckpointError, DatasetError, InputError, StorageError
        If one of them cannot be used, or the network tells parameters of another template.
    """
    head = read_head(checkpoint, pick_device(device_name))
    dataset = open_dataset(dataset_path)
    dataset.require_faces()
    head.check_fits(dataset)
    count = len(dataset[split])
    if not count:
        raise InputError(
            f"split {split!r} of {dataset.url} holds no samples",
            f"one of {', '.join(name for name in dataset if len(dataset[name]))}",
            "Give another --split",
        )
    chosen = np.unique(np.linspace(0, count - 1, min(limit or count, count)).round().astype(np.int64))
    measured = measure_split(head.model, dataset, split, head.face, skin_labels(dataset), chosen)
    return AttributesResult(split, len(chosen), head.step, measured.metrics(head.mean_places, head.temperatures))
