"""Evaluating a checkpoint on a split, next to the mean-map baseline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.shards import CheckpointError, Dataset, InputError, open_dataset
from trainer.baseline import MeanMap, mean_map
from trainer.checkpoint import build_model, pick_device, read_checkpoint
from trainer.data import ClipReader, describe_sample
from trainer.inference import PredictedMaps, predict_split, split_clips
from trainer.metrics import MM_PER_M, MapMetrics
from trainer.pictures import Panel, canonical_colours, masked, write_grid, write_learning_curve
from trainer.progress import Progress
from trainer.run_state import read_log

_SHEET_ROWS = 6


@dataclass(frozen=True)
class _Shown:
    """A sample kept for the contact sheet."""

    name: str
    truth: dict[str, npt.NDArray[Any]]
    depth_m: npt.NDArray[np.float32]
    canonical: npt.NDArray[np.float32]


def evaluate(
    checkpoint: Path,
    dataset_path: Path,
    split: str = "val",
    *,
    frames: int | None = None,
    report: Path | None = None,
    device_name: str = "auto",
) -> dict[str, Any]:
    """Measure a model and the baseline on one split.

    Parameters
    ----------
    checkpoint : Path
        A checkpoint, or a run folder (then its ``best.pt``).
    dataset_path : Path
    split : str
    frames : int, optional
        Frames predicted together; the longest training clip by default.
    report : Path, optional
        Folder for ``contact_sheet.png`` and, if the run's log is beside the checkpoint, ``learning_curve.png``.
    device_name : str

    Returns
    -------
    dict
        The figures of docs/metrics.md, flat; the baseline's under ``baseline_…``; ``split``, ``samples``, ``step``.

    Raises
    ------
    CheckpointError, DatasetError, InputError
        If the checkpoint or the dataset cannot be used, or the one does not fit the other.
    """
    content = read_checkpoint(checkpoint)
    device = pick_device(device_name)
    model, config = build_model(content, device)
    dataset = open_dataset(dataset_path)
    check_fit(content, dataset, model.backbone.patch)
    if split not in dataset or not len(dataset[split]):
        raise InputError(
            f"split {split!r} of {dataset.path} holds no samples",
            f"one of {', '.join(name for name in dataset if len(dataset[name]))}",
            "Give another --split",
        )
    reader = ClipReader(dataset, split)
    baseline = mean_map(dataset["train"])
    metrics, trivial = MapMetrics(dataset.half_extent_m), MapMetrics(dataset.half_extent_m)
    clips = split_clips(reader.split, frames or max(config.data.clip_lengths))
    shown: list[_Shown] = []
    chosen = set(np.linspace(0, len(reader.split) - 1, _SHEET_ROWS).round().astype(int).tolist())
    with Progress(f"evaluate {split}", len(reader.split)) as progress:
        for indices, truth, maps in predict_split(model, reader, clips, device):
            for k, index in enumerate(indices.tolist()):
                real = {name: values[k] for name, values in truth.items()}
                _add(metrics, maps.depth_m[k], maps.canonical[k], real)
                _add_baseline(trivial, baseline, real)
                if index in chosen and report is not None:
                    shown.append(_keep(reader, index, real, maps, k))
            progress.update(metrics.samples)
    figures: dict[str, Any] = {"split": split, "samples": metrics.samples, "step": content.get("step")}
    figures |= metrics.figures()
    base_figures = trivial.figures()
    figures |= {f"baseline_{name}": value for name, value in base_figures.items()}
    if report is not None:
        heading = (
            f"{split}: canonical {figures['canonical_mean_mm']:.1f} mm (mean map "
            f"{figures['baseline_canonical_mean_mm']:.1f}), depth {figures['depth_mean_mm']:.1f} mm "
            f"({figures['baseline_depth_mean_mm']:.1f})"
        )
        write_grid(report / "contact_sheet.png", [_row(s, dataset.half_extent_m) for s in shown], heading)
        records = read_log(checkpoint if checkpoint.is_dir() else checkpoint.parent)
        if records:
            write_learning_curve(report / "learning_curve.png", records, base_figures)
    return figures


def check_fit(content: dict[str, Any], dataset: Dataset, patch: int) -> None:
    """Refuse a dataset whose coordinates mean something else than those the model learnt.

    Raises
    ------
    CheckpointError
        If the canonical spaces differ, or the resolution is no multiple of the patch.
    """
    learnt, space = content["dataset"]["space"], dataset.attrs.get("space", {})
    differing = [key for key in space if learnt.get(key) != space[key]]
    if differing:
        raise CheckpointError(
            f"the model learnt another canonical space: {', '.join(sorted(differing))} differ",
            f"a dataset with {', '.join(f'{key} {learnt.get(key)}' for key in sorted(differing))}",
            "Evaluate on a dataset with the same canonical space",
        )
    if dataset.resolution % patch:
        raise CheckpointError(
            f"{dataset.path} holds maps of {dataset.resolution} pixels", f"a multiple of {patch}", "Build it again"
        )


def _add(
    metrics: MapMetrics,
    depth_m: npt.NDArray[np.float32],
    canonical: npt.NDArray[np.float32],
    real: dict[str, npt.NDArray[Any]],
) -> None:
    metrics.add(depth_m, canonical, real["depth"], real["canonical"], real["confidence"])


def _add_baseline(metrics: MapMetrics, baseline: MeanMap, real: dict[str, npt.NDArray[Any]]) -> None:
    if baseline.depth_m.shape != real["depth"].shape:
        raise InputError("training and evaluated maps differ in size", "one resolution", "Build the dataset again")
    _add(metrics, baseline.depth_m, baseline.canonical, real)


def _keep(reader: ClipReader, index: int, real: dict[str, npt.NDArray[Any]], maps: PredictedMaps, k: int) -> _Shown:
    return _Shown(describe_sample(reader.split, index), real, maps.depth_m[k], maps.canonical[k])


def _row(s: _Shown, half_extent_m: float) -> list[Panel]:
    surface, known = s.truth["depth"] > 0, s.truth["confidence"] > 0
    true_mm = s.truth["depth"] * MM_PER_M
    limits = (float(true_mm[surface].min()), float(true_mm[surface].max())) if surface.any() else (0.0, 1.0)
    depth_error = masked(np.abs(s.depth_m - s.truth["depth"]) * MM_PER_M, surface)
    offset = np.linalg.norm(s.canonical - s.truth["canonical"], axis=0)
    canonical_error = masked(offset * half_extent_m * MM_PER_M, known)
    return [
        Panel(s.truth["image"].transpose(1, 2, 0), "image"),
        Panel(masked(true_mm, surface), "depth, truth", "mm", limits, "viridis_r"),
        Panel(masked(s.depth_m * MM_PER_M, surface), "depth, predicted", "mm", limits, "viridis_r"),
        Panel(depth_error, "depth error", "mm", (0.0, 20.0), "magma"),
        Panel(canonical_colours(s.truth["canonical"], known), "canonical, truth"),
        Panel(canonical_colours(s.canonical, known), "canonical, predicted"),
        Panel(canonical_error, "canonical error", "mm", (0.0, 20.0), "magma"),
    ]
