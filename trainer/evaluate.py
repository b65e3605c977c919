"""Evaluating a checkpoint on a split, next to the baselines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import F64
from datagen.common.console import say
from datagen.common.errors import CheckpointError, InputError
from datagen.common.files import atomic_write_bytes, check_writable, json_ready, staged_folder
from datagen.common.ownership import refuse_strangers, strangers
from datagen.common.progress import Progress
from datagen.shards import Dataset, Split, open_dataset
from trainer.evaluation.baselines import MeanMap, flow_available, mean_map
from trainer.evaluation.canonical import region_labels
from trainer.evaluation.charts import Showcase
from trainer.evaluation.frames import (
    TRUTH_ARRAYS,
    EvaluationOptions,
    SampleTable,
    View,
    instants_of_views,
    pairs_of_subjects,
    runs_of_frames,
    views_of,
)
from trainer.evaluation.gather import Evaluation, Run
from trainer.evaluation.report import REPORT_FILES, Result, write_report
from trainer.evaluation.shape import key_points, landmark_key_points
from trainer.evaluation.speed import measure_speed, speed_metrics
from trainer.inference import Maps, predict_maps
from trainer.run.checkpoint import build_model, pick_device, read_checkpoint

if TYPE_CHECKING:
    import torch

    from trainer.model.joint import JointModel

EVALUATION_FILE = "evaluation.json"
_KEY_POINT_SAMPLES = 64
_SPEED_LENGTHS = (1, 2, 4, 8, 16, 32, 64)


def evaluate(
    checkpoint: Path,
    dataset_path: Path,
    split: str = "val",
    *,
    options: EvaluationOptions | None = None,
    report: Path | None = None,
    device_name: str = "auto",
    speed_seconds: float = 5.0,
) -> Result:
    """Measure a model and the baselines on one split.

    Parameters
    ----------
    checkpoint : Path
        A checkpoint, or a run folder (then its ``best.pt``).
    report : Path, optional
        Folder for ``index.html``, ``evaluation.json``, ``contact_sheet.png`` and, if the run's log is beside the
        checkpoint, ``learning_curve.png``.
    speed_seconds : float
        Time spent on measuring speed and memory against the number of frames; 0 leaves it out.

    Raises
    ------
    CheckpointError, DatasetError, InputError, StorageError
        If the checkpoint or the dataset cannot be used, the one does not fit the other, or the disk refuses.
    """
    if report is not None:
        _check_report(report)
    with Progress(f"evaluate {split}", 0, "samples") as progress:
        progress.begin("reading the model")
        content = read_checkpoint(checkpoint)
        device = pick_device(device_name)
        model, config = build_model(content, device)
        dataset = open_dataset(dataset_path)
        check_fit(content, dataset, model.backbone.patch)
        _check_split(dataset, split)
        options = options or EvaluationOptions()
        progress.begin("averaging the training maps, for comparison")
        session = _Session(model, device, dataset, split, options, options.frames or max(config.data.clip_lengths))
        showcase = Showcase(dataset, split) if report is not None else None
        session.walk(showcase, progress)
        progress.begin("summing up")
        metrics = session.metrics()
        if speed_seconds > 0:
            progress.begin("measuring speed")
            metrics |= session.speed(speed_seconds)
        result = Result(split, session.samples, content.get("step"), metrics, session.evaluation.curves())
        if report is not None and showcase is not None:
            progress.begin("writing the report")
            run_folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
            stored = result.to_json() | {"curves": json_ready(result.curves)}
            with staged_folder(report, replace=False) as folder:
                write_report(folder, result, showcase, run_folder, {"dataset": dataset.url, "device": str(device)})
                atomic_write_bytes(folder / EVALUATION_FILE, (json.dumps(stored, indent=1) + "\n").encode())
    return result


def check_fit(content: dict[str, Any], dataset: Dataset, patch: int) -> None:
    """Refuse a dataset whose coordinates mean something other than those the model learnt.

    Raises
    ------
    CheckpointError
        If the canonical spaces differ, or the resolution is not a multiple of the patch.
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
            f"{dataset.url} holds maps of {dataset.resolution} pixels", f"a multiple of {patch}", "Build it again"
        )


def _check_report(report: Path) -> None:
    """Refuse, before hours of work, a folder that cannot take the report, or files of its names that are not ours."""
    check_writable(report, "--report")
    refuse_strangers(strangers(report, (EVALUATION_FILE, *REPORT_FILES)), "Choose another --report, or move it away")


def _check_split(dataset: Dataset, split: str) -> None:
    if split not in dataset or not len(dataset[split]):
        raise InputError(
            f"split {split!r} of {dataset.url} holds no samples",
            f"one of {', '.join(name for name in dataset if len(dataset[name]))}",
            "Give another --split",
        )


class _Session:
    """A model being measured on one split."""

    def __init__(
        self,
        model: JointModel,
        device: torch.device,
        dataset: Dataset,
        split: str,
        options: EvaluationOptions,
        frames: int,
    ) -> None:
        self._model, self._device = model, device
        self._dataset, self._split, self._name = dataset, dataset[split], split
        self._options, self._frames = options, frames
        self._half_extent_m = dataset.half_extent_m
        learnt = dataset["train"]
        if not len(learnt):
            say(f"no training split: the mean map is that of {split} itself", to=sys.stderr)
            learnt = self._split
        self._mean = self._mean_in_metres(mean_map(learnt))
        labels = dict(dataset.attrs.get("regions", {}))
        with_flow = flow_available()
        if not with_flow:
            say("OpenCV is not installed (extra `flow`): optical flow is left out", to=sys.stderr)
        self.evaluation = Evaluation(
            options, region_labels(labels), self._key_points(learnt, labels), dataset.resolution, with_flow
        )
        self.samples = 0
        self._predicting_s = 0.0
        self._predicted = 0

    def walk(self, showcase: Showcase | None, progress: Progress) -> None:
        """Measure all runs of frames, instants and pairs of subjects."""
        index = self._split.index
        table = SampleTable(index.subject, index.sequence, index.camera, index.frame)
        options = self._options
        rng = np.random.default_rng([options.seed, 0])
        runs = runs_of_frames(table, options.limit)
        instants = instants_of_views(table, self._frames, options.instants, rng)
        # In a personal space the same skin has another coordinate on everyone: people cannot be compared.
        shared = self._dataset.attrs.get("space", {}).get("identity") != "personal"
        pairs = pairs_of_subjects(table, options.subject_pairs if shared else 0, rng)
        total = sum(len(run) for run in runs)
        surfaces = np.zeros(total, bool)
        surfaces[np.unique(np.linspace(0, total - 1, min(options.geometry_views, total)).round().astype(int))] = True
        progress.expect(total + sum(len(group) for group in instants) + 2 * len(pairs))
        progress.begin("predicting and measuring")
        for indices in runs:
            run = Run(indices, *self._views(indices, self._frames))
            self.evaluation.add_run(run, surfaces[self.samples : self.samples + len(indices)])
            self.samples += len(indices)
            if showcase is not None:
                showcase.offer(run)
            progress.advance(len(indices))
        for group in instants:
            self.evaluation.add_views(*self._views(group, self._frames))
            progress.advance(len(group))
        for pair in pairs:
            (a, b), (mean_a, mean_b) = self._views(np.array(pair, np.int64), 1)
            self.evaluation.add_subjects(a, b, mean_a, mean_b)
            progress.advance(2)

    def metrics(self) -> dict[str, Any]:
        """Return every metric, the pace of the walk among them."""
        return self.evaluation.metrics() | {"speed_frames_per_s": self._predicted / max(self._predicting_s, 1e-9)}

    def speed(self, seconds: float) -> dict[str, float]:
        """Return frames per second and memory against the number of frames predicted together."""
        one = self._split.read(("image", "intrinsics"), [0])

        def predict(frames: int) -> Maps:
            images, intrinsics = (np.repeat(one[name], frames, axis=0) for name in ("image", "intrinsics"))
            return predict_maps(self._model, images, intrinsics)

        return speed_metrics(measure_speed(predict, _SPEED_LENGTHS, self._device, seconds))

    def _views(self, indices: npt.NDArray[np.int64], frames: int) -> tuple[list[View], list[View]]:
        """Read samples and predict them, ``frames`` together; the model's views and the mean map's."""
        maps = self._split.read(TRUTH_ARRAYS, indices)
        start = time.perf_counter()
        p = predict_maps(self._model, maps["image"], maps["intrinsics"], frames)
        self._predicting_s += time.perf_counter() - start
        self._predicted += len(indices)
        views = views_of(maps, p, self._dataset)
        return views, [View(view.truth, self._mean.depth_m, self._mean.canonical) for view in views]

    def _mean_in_metres(self, mean: MeanMap) -> MeanMap:
        return MeanMap(mean.depth_m, mean.canonical * np.float32(self._half_extent_m))

    def _key_points(self, split: Split, labels: Mapping[str, int]) -> F64 | None:
        marked = landmark_key_points(self._dataset)
        if marked is not None:
            return marked
        count = min(len(split), _KEY_POINT_SAMPLES)
        chosen = np.unique(np.linspace(0, len(split) - 1, count).round().astype(int))
        maps = split.read(("canonical", "confidence", "region"), chosen)
        known = maps["confidence"] > 0
        points = maps["canonical"].transpose(0, 2, 3, 1)[known] * self._half_extent_m
        return key_points(points, maps["region"][known], labels)
