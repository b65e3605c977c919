"""Measuring a parameter head on people it has not learnt from."""

from __future__ import annotations

from pathlib import Path

from datagen.shards import open_dataset
from trainer.attributes.data import skin_labels
from trainer.attributes.measure import JUDGED, measure_split
from trainer.attributes.store import read_head
from trainer.run.checkpoint import pick_device
from trainer.run.pictures import SplitMetrics, spread_samples


class AttributesResult(SplitMetrics):
    """What was measured; docs/attributes.md has every figure."""

    def text(self) -> str:
        """Return it for people."""
        m = self.metrics
        lines = [
            self.heading,
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
    chosen = spread_samples(dataset, split, limit)
    measured = measure_split(head.model, dataset, split, head.face, skin_labels(dataset), chosen)
    return AttributesResult(split, len(chosen), head.step, measured.metrics(head.mean_places, head.temperatures))
