"""Measuring an alignment network on people it has not learnt from."""

from __future__ import annotations

from pathlib import Path

from datagen.shards import open_dataset
from trainer.align.calibration import calibrate
from trainer.align.measure import measure_split
from trainer.align.store import read_aligner
from trainer.run.checkpoint import pick_device
from trainer.run.pictures import SplitMetrics, spread_samples


class AlignResult(SplitMetrics):
    """What was measured; docs/align.md has every figure."""

    def text(self) -> str:
        """Return it for people."""
        m = self.metrics
        path = ", ".join(f"{m[name]:.2f}" for name in sorted(m) if name.startswith("nme_percent_"))
        lines = [
            self.heading,
            f"distance of the face's vertices, of the face's size    {m['nme_percent']:.2f} %",
            f"  after each iteration, the start first                {path}",
            f"  seen, hidden                                         "
            f"{m['visible_nme_percent']:.2f}, {m['hidden_nme_percent']:.2f} %",
            f"r² / 2σ², 1 where σ is right                           {m['surprise']:.2f}",
            f"rank correlation of σ and error                        {m['sigma_rank_correlation']:.2f}",
            f"σ of hidden over seen vertices                         {m['hidden_sigma_ratio']:.2f}",
        ]
        return "\n".join(lines)


def evaluate_align(
    checkpoint: Path, dataset_path: Path | str, split: str, *, limit: int | None = None, device_name: str = "auto"
) -> AlignResult:
    """Measure a network on a split.

    σ is taken with the temperature of the validation people; of a network that has none, as it is.

    Parameters
    ----------
    limit : int, optional
        Most samples, evenly spread.

    Raises
    ------
    CheckpointError, DatasetError, InputError, StorageError
        If one of them cannot be used, or the network aligns another template.
    """
    aligner = read_aligner(checkpoint, pick_device(device_name))
    dataset = open_dataset(dataset_path)
    dataset.require_faces()
    aligner.check_fits(dataset)
    chosen = spread_samples(dataset, split, limit)
    measured = measure_split(aligner.model, dataset, split, aligner.space, chosen)
    given = aligner.calibration
    metrics = measured.metrics(given.temperature if given else 1.0)
    own = {f"own_{name}": value for name, value in calibrate(measured).to_dict().items()}
    return AlignResult(split, len(chosen), aligner.step, metrics | own | (given.to_dict() if given else {}))
