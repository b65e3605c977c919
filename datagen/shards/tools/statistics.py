"""What a dataset holds: exact statistics (histograms over the stored integers), and where one sample comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.documents import parse_json
from datagen.shards.dataset import Dataset, open_dataset
from datagen.shards.growth import ShardUnit
from datagen.shards.metadata import chunk_path
from datagen.shards.plan import DatasetPlan
from datagen.shards.schema import (
    ARRAYS,
    SPLITS,
    VERDICTS,
    decode_canonical,
    decode_confidence,
    decode_depth,
    decode_normal,
)

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
HISTOGRAM_BINS = 32
_CHANNELS = {
    "image": ("red", "green", "blue"),
    "depth": ("m",),
    "canonical": ("x", "y", "z"),
    "normal": ("x", "y", "z"),
    "confidence": ("all",),
}
_LEVELS = {"image": 256, "depth": 65536, "canonical": 65536, "normal": 256, "confidence": 256}
_NORMAL_OFFSET = 128


def _empty_histograms() -> dict[str, npt.NDArray[np.int64]]:
    return {name: np.zeros((len(channels), _LEVELS[name]), np.int64) for name, channels in _CHANNELS.items()}


@dataclass
class Accumulator:
    """Counts over any number of samples; two of them merge by addition, in any order, with the same result.

    Attributes
    ----------
    histograms : dict of array name to (channels, levels) int64
        Counts of each stored value where it means something: image everywhere, depth and normal on a surface,
        canonical and confidence where confidence is above 0.
    pixels, surface, known : int
        Pixels in all, with a surface, and with a canonical coordinate.
    edges : int
        Pixels that a silhouette or a depth step crosses.
    verdicts : Counter
        Samples of each stored verdict.
    regions, known_regions : (256,) int64
        Pixels of each label, and those with a canonical coordinate.
    cameras, subjects : dict of table index to Counter
        ``samples``, ``pixels``, ``surface`` and ``known`` of each.
    """

    histograms: dict[str, npt.NDArray[np.int64]] = field(default_factory=_empty_histograms)
    pixels: int = 0
    surface: int = 0
    known: int = 0
    edges: int = 0
    samples: int = 0
    verdicts: Counter[int] = field(default_factory=Counter)
    regions: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    known_regions: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    cameras: dict[int, Counter[str]] = field(default_factory=dict)
    subjects: dict[int, Counter[str]] = field(default_factory=dict)

    def add(self, stored: dict[str, npt.NDArray[Any]], camera: int, subject: int) -> None:
        """Count one sample's stored arrays."""
        surface, known = stored["depth"] > 0, stored["confidence"] > 0
        masks = {"depth": surface, "normal": surface, "canonical": known, "confidence": known}
        for name, histogram in self.histograms.items():
            planes = stored[name] if stored[name].ndim == 3 else stored[name][None]
            for channel, plane in enumerate(planes):
                values = plane[masks[name]] if name in masks else plane.ravel()
                codes = values.astype(np.int64) + (_NORMAL_OFFSET if name == "normal" else 0)
                histogram[channel] += np.bincount(codes, minlength=_LEVELS[name])
        self.regions += np.bincount(stored["region"].ravel(), minlength=256)
        self.known_regions += np.bincount(stored["region"][known], minlength=256)
        counts = Counter(
            samples=1,
            pixels=surface.size,
            surface=int(surface.sum()),
            known=int(known.sum()),
            edges=int(np.count_nonzero(stored["edge"])),
        )
        self.verdicts[int(stored["verdict"])] += 1
        self._count(counts)
        self.cameras.setdefault(camera, Counter()).update(counts)
        self.subjects.setdefault(subject, Counter()).update(counts)

    def merge(self, other: Accumulator) -> None:
        """Add another accumulator's counts to this one."""
        for name in self.histograms:
            self.histograms[name] += other.histograms[name]
        self.regions += other.regions
        self.known_regions += other.known_regions
        self.verdicts.update(other.verdicts)
        self._count(
            Counter(
                samples=other.samples,
                pixels=other.pixels,
                surface=other.surface,
                known=other.known,
                edges=other.edges,
            )
        )
        for mine, theirs in ((self.cameras, other.cameras), (self.subjects, other.subjects)):
            for key, counts in theirs.items():
                mine.setdefault(key, Counter()).update(counts)

    def _count(self, counts: Counter[str]) -> None:
        self.samples += counts["samples"]
        self.pixels += counts["pixels"]
        self.surface += counts["surface"]
        self.known += counts["known"]
        self.edges += counts["edges"]

    def summary(self, plan: DatasetPlan) -> dict[str, Any]:
        """Return the statistics as plain JSON data, in metres and unit ranges."""
        labels = {label: name for name, label in plan.regions.items()}
        present = [label for label in range(256) if self.regions[label] or label in labels]
        return {
            "samples": self.samples,
            "pixels": self.pixels,
            "surface_fraction": _ratio(self.surface, self.pixels),
            "known_fraction": _ratio(self.known, self.pixels),
            "edge_fraction": _ratio(self.edges, self.pixels),
            "verdicts": {VERDICTS[i] or "unknown": self.verdicts[i] for i in sorted(self.verdicts)},
            "arrays": {
                name: {
                    channel: _describe(histogram[i], _decoded_levels(name, plan.depth_scale))
                    for i, channel in enumerate(_CHANNELS[name])
                }
                for name, histogram in self.histograms.items()
            },
            "regions": {
                labels.get(label, str(label)): {
                    "pixels": int(self.regions[label]),
                    "fraction": _ratio(int(self.regions[label]), self.pixels),
                    "known_fraction": _ratio(int(self.known_regions[label]), int(self.regions[label])),
                }
                for label in present
            },
            "cameras": {plan.cameras[i]: _coverage(self.cameras[i]) for i in sorted(self.cameras)},
            "subjects": {plan.subjects[i]: _coverage(self.subjects[i]) for i in sorted(self.subjects)},
        }


def unit_stats(dataset: Dataset, unit: ShardUnit) -> Accumulator:
    """Count the samples of one shard, one by one.

    Raises
    ------
    CorruptDatasetError
        If a chunk is damaged.
    """
    accumulator = Accumulator()
    split = dataset[unit.split]
    names = (*_CHANNELS, "region", "edge", "verdict")
    for i in range(unit.start, unit.stop):
        stored = {name: values[0] for name, values in split.read(names, [i], decode=False).items()}
        accumulator.add(stored, int(split.index.camera[i]), int(split.index.subject[i]))
    return accumulator


def stats(path: str | Path, on_shard: Callable[[ShardUnit], None] | None = None) -> dict[str, Any]:
    """Describe a dataset: range, mean, spread and quantiles of every map, and what is covered.

    Parameters
    ----------
    path : str or Path
    on_shard : callable, optional
        Called after each shard, for progress.

    Returns
    -------
    dict
        ``uuid``, ``resolution``, ``half_extent_m``, and under ``splits`` for each split and ``all``: ``samples``,
        ``surface_fraction``, ``known_fraction``, ``arrays`` (array → channel → count, mean, std, min, max,
        quantiles, histogram; depth in metres), ``regions``, ``cameras``, ``subjects``, ``edge_fraction``, ``verdicts``.
        JSON-ready; exact, as it counts stored integers.

    Raises
    ------
    DatasetError
        If there is no dataset.
    CorruptDatasetError
        If a chunk is damaged.
    """
    dataset = open_dataset(path)
    total, splits = Accumulator(), {split: Accumulator() for split in SPLITS}
    for unit in dataset.plan.sample_units:
        counted = unit_stats(dataset, unit)
        splits[unit.split].merge(counted)
        total.merge(counted)
        if on_shard is not None:
            on_shard(unit)
    return {
        "uuid": dataset.uuid,
        "resolution": dataset.resolution,
        "half_extent_m": dataset.half_extent_m,
        "splits": {name: part.summary(dataset.plan) for name, part in {**splits, "all": total}.items()},
    }


def _decoded_levels(name: str, depth_scale: float) -> npt.NDArray[np.float64]:
    codes = np.arange(_LEVELS[name])
    if name == "depth":
        return decode_depth(codes.astype(np.uint16), depth_scale).astype(np.float64)
    if name == "canonical":
        return decode_canonical(codes.astype(np.uint16)).astype(np.float64)
    if name == "normal":
        return decode_normal((codes - _NORMAL_OFFSET).astype(np.int8)).astype(np.float64)
    if name == "confidence":
        return decode_confidence(codes.astype(np.uint8)).astype(np.float64)
    return codes.astype(np.float64)


def _describe(histogram: npt.NDArray[np.int64], levels: npt.NDArray[np.float64]) -> dict[str, Any]:
    count = int(histogram.sum())
    if not count:
        return {"count": 0, "mean": None, "std": None, "min": None, "max": None, "quantiles": {}, "histogram": {}}
    mean = float(histogram @ levels / count)
    present = np.flatnonzero(histogram)
    cumulative = np.cumsum(histogram)
    low, high = float(levels[present[0]]), float(levels[present[-1]])
    # A single value still needs bins of some width.
    binned, edges = np.histogram(levels, HISTOGRAM_BINS, (low, high if high > low else low + 1), weights=histogram)
    return {
        "count": count,
        "mean": mean,
        "std": float(np.sqrt(histogram @ (levels - mean) ** 2 / count)),
        "min": low,
        "max": high,
        # The smallest stored value that at least this share of the pixels do not exceed.
        "quantiles": {str(q): float(levels[np.searchsorted(cumulative, q * count)]) for q in QUANTILES},
        "histogram": {"edges": edges.tolist(), "counts": np.rint(binned).astype(np.int64).tolist()},
    }


def _coverage(counts: Counter[str]) -> dict[str, Any]:
    return {
        "samples": counts["samples"],
        "surface_fraction": _ratio(counts["surface"], counts["pixels"]),
        "known_fraction": _ratio(counts["known"], counts["pixels"]),
    }


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def own_settings(recipe: str) -> dict[str, dict[str, Any]]:
    """Return the settings of their own that frames of a dataset were made with, by the frames' names."""
    try:
        return dict(parse_json(recipe).get("own_settings", {}))
    except (ValueError, TypeError, AttributeError):
        return {}


def sample_provenance(dataset: Dataset, split: str, i: int) -> dict[str, Any]:
    """Say who, what and when a sample shows, where it is stored and what it was made of.

    Parameters
    ----------
    i : int
        Number of the sample in the split.

    Returns
    -------
    dict
        JSON-ready: dataset, split, sample, shard, position, subject, sequence, camera, frame, time_s, epoch_s, verdict,
        content_key, files, sources, own_settings, manifest_digest, canonical space and software versions.

    Raises
    ------
    IndexError
        If there is no such sample.
    CorruptDatasetError
        If its record is damaged.
    """
    part = dataset[split]
    if not 0 <= i < len(part):
        raise IndexError(f"sample {i} of {len(part)} in {split}")
    plan, tables = dataset.plan, part.index
    shard, position = plan.shards(split).place(i)
    subject, sequence = plan.subjects[tables.subject[i]], plan.sequences[tables.sequence[i]]
    record = dataset.record(split, shard)
    return {
        "dataset": dataset.uuid,
        "split": split,
        "sample": i,
        "shard": shard,
        "position": position,
        "subject": subject,
        "sequence": sequence,
        "camera": plan.cameras[tables.camera[i]],
        "frame": int(tables.frame[i]),
        "time_s": float(tables.time[i]),
        "epoch_s": plan.epochs.get(f"{subject}/{sequence}", 0.0),
        "verdict": VERDICTS[int(part.raw("verdict", i, i + 1)[0])],
        "content_key": record.content_key,
        "files": {name: chunk_path(split, name, shard) for name in ARRAYS},
        "sources": [dict(source) for source in plan.sources],
        "own_settings": own_settings(plan.manifest).get(f"{subject}/{sequence}/{int(tables.frame[i]):06d}", {}),
        "manifest_digest": plan.manifest_digest,
        "space": dict(plan.space),
        "software": dict(plan.software),
    }
