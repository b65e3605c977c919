"""Evaluating a checkpoint on a split, next to the baselines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import F64, I64
from datagen.common.console import say
from datagen.common.errors import CheckpointError, InputError
from datagen.common.files import atomic_write_bytes, check_writable, json_ready, staged_folder
from datagen.common.ownership import refuse_strangers, strangers
from datagen.common.progress import Progress
from datagen.shards import Dataset, Split, open_dataset
from trainer import __version__
from trainer.config import TrainConfig
from trainer.evaluation.baselines import MeanMap, flow_available, mean_map
from trainer.evaluation.canonical import region_labels
from trainer.evaluation.charts import Showcase
from trainer.evaluation.comparison import COMPARISON_FILES, Compared, names_of, write_comparison
from trainer.evaluation.frames import (
    TRUTH_ARRAYS,
    EvaluationOptions,
    SampleTable,
    Space,
    View,
    instants_of_views,
    pairs_of_subjects,
    runs_of_frames,
    views_of,
)
from trainer.evaluation.gather import Evaluation, Run
from trainer.evaluation.predicted import StoredPredictions
from trainer.evaluation.report import REPORT_FILES, Result, write_report
from trainer.evaluation.shape import key_points, landmark_key_points
from trainer.evaluation.speed import measure_speed, speed_metrics
from trainer.evaluation.worst import WorstSamples, frame_links
from trainer.inference import Maps, filled_split, predict_maps
from trainer.run.checkpoint import build_model, checkpoint_file, pick_device, read_checkpoint

if TYPE_CHECKING:
    import torch

    from trainer.model.joint import JointModel

EVALUATION_FILE = "evaluation.json"
_KEY_POINT_SAMPLES = 64
_CAMERAS = 8  # of an instant, compared where nothing is predicted together
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
        filled_split(dataset, split)
        options = options or EvaluationOptions()
        source = _ModelViews(model, device, dataset)
        run_folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
        facts = _model_facts(checkpoint, content, config) | _data_facts(dataset) | {"device": str(device)}
        frames = options.frames or max(config.data.clip_lengths)
        session = _Session(source, dataset, split, options, frames, progress)
        return session.finish(
            content.get("step"),
            report,
            run_folder,
            facts,
            lambda: source.speed(dataset[split], speed_seconds) if speed_seconds > 0 else {},
        )


def evaluate_predictions(
    folder: Path,
    dataset_path: Path,
    split: str = "val",
    *,
    own_space: bool = False,
    options: EvaluationOptions | None = None,
    report: Path | None = None,
) -> Result:
    """Measure what any program predicted of a split's samples, beside the baselines.

    Parameters
    ----------
    folder : Path
        See :class:`trainer.evaluation.predicted.StoredPredictions`.
    own_space : bool
        Their canonical maps are of another space than the dataset's: what compares coordinates with true ones is left
        out.
    report : Path, optional
        As for :func:`evaluate`; only of maps in the dataset's own space.

    Raises
    ------
    DatasetError, InputError, StorageError
        If predictions or the dataset cannot be used, or the disk refuses.
    """
    if report is not None:
        _check_report(report)
    with Progress(f"evaluate {split}", 0, "samples") as progress:
        progress.begin("looking for predictions")
        dataset = open_dataset(dataset_path)
        filled_split(dataset, split)
        stored = StoredPredictions(folder, dataset, split, own_space=own_space)
        if report is not None and stored.space != "shared":
            raise InputError(
                "--report of predictions without canonical maps in the dataset's space", "figures only", "Leave it out"
            )
        options = options or EvaluationOptions()
        session = _Session(stored, dataset, split, options, options.frames or _CAMERAS, progress)
        return session.finish(None, report, folder, {"predictions": str(folder)} | _data_facts(dataset), dict)


def evaluate_several(
    checkpoints: Sequence[Path],
    dataset_path: Path,
    split: str = "val",
    *,
    options: EvaluationOptions | None = None,
    report: Path | None = None,
    device_name: str = "auto",
    speed_seconds: float = 5.0,
) -> list[Compared]:
    """Measure several models on the same samples of one split; parameters and errors as for :func:`evaluate`.

    Parameters
    ----------
    report : Path, optional
        Folder for a page that compares them, and beside it a folder of each with its own report.
    """
    if report is not None:
        check_writable(report, "--report")
        refuse_strangers(strangers(report, COMPARISON_FILES), "Choose another --report, or move it away")
    found = []
    for name, checkpoint in zip(names_of(checkpoints), checkpoints, strict=True):
        own = None if report is None else report / name
        result = evaluate(
            checkpoint,
            dataset_path,
            split,
            options=options,
            report=own,
            device_name=device_name,
            speed_seconds=speed_seconds,
        )
        found.append(Compared(name, result, result.facts))
    if report is not None:
        with staged_folder(report, replace=False, names=COMPARISON_FILES) as folder:
            write_comparison(folder, found)
    return found


def _model_facts(checkpoint: Path, content: Mapping[str, Any], config: TrainConfig) -> dict[str, str]:
    """Say which model it is: what it is called, how far it was fitted, when its file was written, what it learnt."""
    written = datetime.fromtimestamp(checkpoint_file(checkpoint).stat().st_mtime, UTC)
    learnt = content.get("dataset") or {}
    return {
        "model": config.name,
        "checkpoint": str(checkpoint),
        "step": str(content.get("step", "–")),
        "checkpoint written": f"{written:%Y-%m-%d %H:%M} UTC",
        # Weights that were converted do not say.
        "learnt from": f"{learnt['uuid']}, {learnt['resolution']} pixels" if "uuid" in learnt else "–",
    }


def _data_facts(dataset: Dataset) -> dict[str, str]:
    """Say what was measured on, when and by which version."""
    return {
        "dataset": dataset.url,
        "dataset id": dataset.uuid,
        "measured": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC by canonface {__version__}",
    }


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


class _Views(Protocol):
    """What says something of samples: a model, or files.

    Attributes
    ----------
    samples : (N,) int64 or None
        Those it can say something of; None for all.
    space : Space
        Of its canonical maps.
    """

    @property
    def samples(self) -> I64 | None: ...
    @property
    def space(self) -> Space: ...

    def views(self, maps: Mapping[str, npt.NDArray[Any]], indices: I64, frames: int, /) -> list[View]:
        """Return what it says of samples, ``frames`` of them seen together, beside their truth ``maps``."""


class _ModelViews:
    """A model that predicts samples as they are asked for."""

    samples = None
    space: Space = "shared"

    def __init__(self, model: JointModel, device: torch.device, dataset: Dataset) -> None:
        self._model, self._device, self._dataset = model, device, dataset
        self._predicting_s = 0.0
        self._predicted = 0

    def views(self, maps: Mapping[str, npt.NDArray[Any]], indices: I64, frames: int) -> list[View]:
        """Predict samples, ``frames`` together."""
        start = time.perf_counter()
        p = predict_maps(self._model, maps["image"], maps["intrinsics"], frames)
        self._predicting_s += time.perf_counter() - start
        self._predicted += len(indices)
        return views_of(maps, p, self._dataset)

    def pace(self) -> dict[str, float]:
        """Return frames per second so far."""
        return {"speed_frames_per_s": self._predicted / max(self._predicting_s, 1e-9)}

    def speed(self, split: Split, seconds: float) -> dict[str, float]:
        """Return frames per second and memory against the number of frames predicted together."""
        one = split.read(("image", "intrinsics"), [0])

        def predict(frames: int) -> Maps:
            images, intrinsics = (np.repeat(one[name], frames, axis=0) for name in ("image", "intrinsics"))
            return predict_maps(self._model, images, intrinsics)

        return speed_metrics(measure_speed(predict, _SPEED_LENGTHS, self._device, seconds))


class _Session:
    """A method being measured on one split."""

    def __init__(
        self,
        source: _Views,
        dataset: Dataset,
        split: str,
        options: EvaluationOptions,
        frames: int,
        progress: Progress,
    ) -> None:
        progress.begin("averaging the training maps, for comparison")
        self._source, self._progress = source, progress
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
        keys = self._key_points(learnt, labels)
        self.evaluation = Evaluation(options, region_labels(labels), keys, dataset.resolution, with_flow, source.space)
        self._worst = WorstSamples(region_labels(labels))
        self.samples = 0

    def finish(
        self,
        step: int | None,
        report: Path | None,
        run_folder: Path,
        facts: Mapping[str, str],
        speed: Callable[[], dict[str, float]],
    ) -> Result:
        """Measure everything and write the report, if one is wanted."""
        progress = self._progress
        showcase = Showcase(self._dataset, self._name) if report is not None else None
        self.walk(showcase, progress)
        progress.begin("summing up")
        metrics: dict[str, Any] = self.evaluation.metrics()
        if isinstance(self._source, _ModelViews):
            metrics |= self._source.pace()
            progress.begin("measuring speed")
        metrics |= speed()
        result = Result(self._name, self.samples, step, metrics, self.evaluation.curves(), dict(facts))
        if report is not None and showcase is not None:
            progress.begin("writing the report")
            stored = result.to_json() | {"curves": json_ready(result.curves)}
            with staged_folder(report, replace=False) as folder:
                link = frame_links(self._dataset, report)
                write_report(folder, result, showcase, self._worst, run_folder, facts, link)
                atomic_write_bytes(folder / EVALUATION_FILE, (json.dumps(stored, indent=1) + "\n").encode())
        return result

    def walk(self, showcase: Showcase | None, progress: Progress) -> None:
        """Measure all runs of frames, instants and pairs of subjects."""
        index = self._split.index
        chosen = np.arange(len(self._split)) if self._source.samples is None else self._source.samples
        table = SampleTable(*(of[chosen] for of in (index.subject, index.sequence, index.camera, index.frame)))
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
            run = Run(chosen[indices], *self._views(chosen[indices], self._frames))
            self.evaluation.add_run(run, surfaces[self.samples : self.samples + len(indices)])
            self.samples += len(indices)
            if showcase is not None:
                showcase.offer(run)
                self._worst.offer(run)
            progress.advance(len(indices))
        for group in instants:
            self.evaluation.add_views(*self._views(chosen[group], self._frames))
            progress.advance(len(group))
        for pair in pairs:
            (a, b), (mean_a, mean_b) = self._views(chosen[np.array(pair, np.int64)], 1)
            self.evaluation.add_subjects(a, b, mean_a, mean_b)
            progress.advance(2)

    def _views(self, indices: I64, frames: int) -> tuple[list[View], list[View]]:
        """Read samples and what is said of them, ``frames`` together; the method's views and the mean map's."""
        maps = self._split.read(TRUTH_ARRAYS, indices)
        views = self._source.views(maps, indices, frames)
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
