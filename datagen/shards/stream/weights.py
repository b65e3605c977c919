"""What a stream asks of samples before it reads them: cheap statistics, filters and weights."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError
from datagen.common.files import atomic_write_bytes, npz_bytes, read_npz
from datagen.shards.dataset import Split
from datagen.shards.schema import CONFIDENCE_LEVELS, VERDICTS
from datagen.shards.stream.config import StreamConfig

_LABELS = 256
_READERS = 4
_VERSION = 1


@dataclass(frozen=True)
class SampleStatistics:
    """A few numbers of each sample.

    Attributes
    ----------
    confidence : (N,) float32
        Mean where a canonical coordinate is known; 0 where none is.
    coverage : (N,) float32
        Share of the pixels whose canonical coordinate is known.
    regions : (N, 256) float32
        Share of the labelled pixels that carry each label; column 0 is 0.
    """

    confidence: npt.NDArray[np.float32]
    coverage: npt.NDArray[np.float32]
    regions: npt.NDArray[np.float32]


def sample_statistics(split: Split, folder: Path | None = None) -> SampleStatistics:
    """Look at every sample of a split once: its confidence and region maps, no others.

    Parameters
    ----------
    folder : Path, optional
        Where the result is kept for the next time, under the dataset's uuid; a result found there is used.
    """
    kept = None if folder is None else Path(folder) / f"{split.dataset.uuid}-{split.name}-v{_VERSION}.npz"
    if kept is not None and (found := _load(kept, len(split))) is not None:
        return found
    pixels = split.dataset.resolution**2

    def look(i: int) -> tuple[float, float, npt.NDArray[np.float32]]:
        stored = split.raw("confidence", i, i + 1)
        known = int(np.count_nonzero(stored))
        confidence = int(stored.sum(dtype=np.int64)) / (CONFIDENCE_LEVELS * known) if known else 0.0
        labels = np.bincount(split.raw("region", i, i + 1).ravel(), minlength=_LABELS).astype(np.float32)
        labels[0] = 0
        return confidence, known / pixels, labels / max(float(labels.sum()), 1.0)

    with ThreadPoolExecutor(_READERS) as pool:
        rows = list(pool.map(look, range(len(split))))
    result = SampleStatistics(
        np.array([r[0] for r in rows], np.float32),
        np.array([r[1] for r in rows], np.float32),
        np.array([r[2] for r in rows], np.float32).reshape(len(rows), _LABELS),
    )
    if kept is not None:
        atomic_write_bytes(kept, npz_bytes(vars(result), compress=False))
    return result


def _load(path: Path, samples: int) -> SampleStatistics | None:
    names = [field.name for field in fields(SampleStatistics)]
    try:
        found = SampleStatistics(**read_npz(path, names, expected="statistics of samples", fix="Remove it"))
    except InputError:  # missing, or left damaged: it is made again
        return None
    return found if found.regions.shape == (samples, _LABELS) else None


def chosen(split: Split, config: StreamConfig, statistics: SampleStatistics | None) -> npt.NDArray[np.bool_]:
    """Return which samples pass the filters, (N,) bool.

    Raises
    ------
    InputError
        If a subject is unknown.
    """
    plan, index = split.dataset.plan, split.index
    keep = np.ones(len(split), bool)
    if config.subjects:
        _check_known(config.subjects, plan.subjects, "subject")
        keep &= np.isin(index.subject, [plan.subjects.index(name) for name in config.subjects])
    if config.verdicts:
        recorded = split.raw("verdict", 0, len(split))
        keep &= np.isin(recorded, [VERDICTS.index(name) for name in config.verdicts])
    if statistics is not None:
        keep &= statistics.confidence >= config.min_confidence
        keep &= statistics.coverage >= config.min_coverage
    return keep


def weights(split: Split, config: StreamConfig, statistics: SampleStatistics | None) -> npt.NDArray[np.float64]:
    """Return how often each sample is to be read, relative to the others, (N,) float64.

    Raises
    ------
    InputError
        If a subject or region is unknown.
    """
    plan = split.dataset.plan
    result = np.ones(len(split))
    if config.subject_weights:
        _check_known(config.subject_weights, plan.subjects, "subject")
        of_subject = np.array([config.subject_weights.get(name, 1.0) for name in plan.subjects])
        result *= of_subject[split.index.subject]
    if config.region_weights and statistics is not None:
        _check_known(config.region_weights, plan.regions, "region")
        of_label = np.ones(_LABELS)
        for name, weight in config.region_weights.items():
            of_label[plan.regions[name]] = weight
        labelled = statistics.regions.sum(axis=1) > 0
        result *= np.where(labelled, statistics.regions @ of_label, 1.0)
    return result


def _check_known(names: Any, table: Any, what: str) -> None:
    unknown = sorted(set(names) - set(table))
    if unknown:
        raise InputError(
            f"there is no {what} {unknown[0]!r} in the dataset",
            f"one of {', '.join(map(str, table))}",
            f"Correct the {what}",
        )
