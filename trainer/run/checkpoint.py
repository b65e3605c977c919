"""Checkpoints: everything a run needs to resume, and a model needs to be used elsewhere."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, BinaryIO

from datagen.common.documents import parse_json
from datagen.common.errors import CanonfaceError, CheckpointError, InputError, ManifestError, StorageError
from datagen.common.files import atomic_write
from datagen.common.ownership import check_output_file
from trainer.config import RunConfig, TrainConfig, parse_config, parse_run_config
from trainer.run.folder import BEST, LAST, STATE, RunState

if TYPE_CHECKING:
    import torch
    from torch import nn

    from trainer.model.joint import DepthUnit, JointModel

FORMAT = "canonface-checkpoint"
FORMAT_VERSION = 2


def save_checkpoint(
    path: Path, content: dict[str, Any], write: Callable[[Path, Callable[[BinaryIO], object]], None] = atomic_write
) -> None:
    """Write a checkpoint: under a temporary name, fsynced, then renamed, so a reader finds the old or the new one.

    Parameters
    ----------
    content : dict
        See :func:`model_content`; other keys (optimiser, step, ...) as the caller likes. Tensors and plain data only.
    write : callable
        Puts what a function writes at a path: :func:`datagen.common.files.atomic_write`, or its like.

    Raises
    ------
    StorageError
        If the disk is full or refuses; the old checkpoint is untouched.
    """
    import torch

    whole = {"format": FORMAT, "format_version": FORMAT_VERSION, **content}
    try:
        write(path, lambda file: torch.save(whole, file))
    except RuntimeError as error:  # torch reports a full disk as a RuntimeError of its file writer
        raise StorageError(
            f"writing {path} failed: {error}", "a writable folder with space", "Free space, then resume"
        ) from None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; no code in it is run.

    Raises
    ------
    CheckpointError
        If it is missing, truncated, damaged, not one of ours, or of another version.
    """
    import torch

    path = checkpoint_file(path)
    if not path.is_file():
        given = path.parent if path.name == BEST and path.parent.is_dir() else path
        what = "holds no best.pt" if kind_of(given) == "a folder" else f"is {kind_of(given)}"
        raise CheckpointError(
            f"checkpoint {given} {'does not exist' if kind_of(given) == 'nothing' else what}",
            "the folder of a run of `trainer fit`, or its best.pt or last.pt",
            "Check the path, and the order of the arguments",
        )
    try:
        # torch does not verify the checksums it wrote: damaged weights would pass for sound ones.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"{damaged} is damaged")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged zip or pickle raises many kinds of error; all mean the same
        raise CheckpointError(
            f"checkpoint {path} cannot be read ({why_unreadable(error)})",
            "a complete file written by `trainer fit`",
            "Take another checkpoint of the run, or fit again",
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is not a canonface checkpoint", "a file written by `trainer fit`", "Give its best.pt or last.pt"
        )
    if content.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"checkpoint {path} is of version {content.get('format_version')}",
            f"version {FORMAT_VERSION}",
            "Use the version of canonface that wrote it, or fit again",
        )
    return content


def kind_of(path: Path) -> str:
    """Say what lies at a path, for messages: a dataset, a run, a checkpoint, a folder, a file, or nothing."""
    if (path / "zarr.json").exists() or (path / "dataset.zarr").is_dir():
        return "a dataset"
    if (path / LAST).exists() or (path / BEST).exists():
        return "a run of `trainer fit`"
    if path.is_dir():
        return "a folder"
    if not path.exists():
        return "nothing"
    if not path.is_file():
        return "a pipe or a device"
    return "a checkpoint" if path.suffix in {".pt", ".pth"} and zipfile.is_zipfile(path) else "a file"


def checkpoint_file(path: Path) -> Path:
    """Return the checkpoint that is meant: ``best.pt`` of a run folder, else the file itself."""
    return path / BEST if path.is_dir() else path


def why_unreadable(error: Exception) -> str:
    """Say in a line why a file of tensors cannot be read."""
    if isinstance(error, UnpicklingError):
        return "it is damaged, or holds more than tensors and plain data, which could be code"
    return str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__


def read_last(run: Path, kind: type[RunConfig] = TrainConfig) -> tuple[RunState, dict[str, Any]] | tuple[None, None]:
    """Return how far the run in a folder has come, and its ``last.pt``; None twice if no run was begun there.

    ``last.pt`` is what counts: a kill may have come before the state file was written, or someone removed it.

    Raises
    ------
    CheckpointError
        If ``last.pt`` cannot be resumed from, or is missing beside other files of a run.
    """
    left = [name for name in (STATE, BEST) if (run / name).exists()]
    if not (run / LAST).exists():
        if left:
            raise CheckpointError(
                f"{run} holds {' and '.join(left)}, but no {LAST} to resume from",
                "the whole folder of a run, or a new one",
                f"Put {LAST} back, or choose another --out; nothing was changed",
            )
        return None, None
    content = read_checkpoint(run / LAST)
    try:
        config = parse_run_config(kind, parse_json(content["config"]), f"the configuration in {run / LAST}")
        state = RunState(
            step=content["step"],
            steps=config.fit.steps,
            config_digest=config.digest,
            dataset_uuid=content["dataset"]["uuid"],
            best_step=content["best_step"],
            best_metrics=content["best_figures"],
            seconds=content.get("seconds", 0.0),
        )
    except (KeyError, TypeError, ValueError, ManifestError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error).splitlines()[0][:200]
        raise CheckpointError(
            f"{run / LAST} cannot be resumed from ({reason})",
            f"the {LAST} this run wrote",
            "Put that back, use the version of canonface that began the run, or choose another --out",
        ) from None
    return state, content


def check_output(out: Path, source: Path, kept: Iterable[str] = (BEST, LAST), *, overwrite: bool) -> None:
    """Refuse to write a file where there is something, or, whatever was said, over what it is made from.

    Parameters
    ----------
    source : Path
        A file, or a folder.
    kept : iterable of str
        Names in the source's folder that are not written over either.
    overwrite : bool
        As for :func:`datagen.common.ownership.check_output_file`.
    """
    if out.is_dir():
        raise InputError(f"--out {out} is a folder", "a file", "Give a file name")
    folder = source if source.is_dir() else source.parent
    if out.exists() and any(path.exists() and out.samefile(path) for path in (source, *(folder / n for n in kept))):
        raise InputError(f"--out {out} would overwrite what it is made from", "another file", "Choose another --out")
    check_output_file(out, overwrite=overwrite)


def model_content(model: JointModel, config: TrainConfig, dataset: dict[str, Any]) -> dict[str, Any]:
    """Return what rebuilds a model: weights, configuration, sizes, depth unit and what it learnt from."""
    return {
        "config": config.text(),
        "depth_unit": model.depth_unit.to_dict(),
        "dataset": dataset,
        "model": model.state_dict(),
    }


def build_model(content: dict[str, Any], device: torch.device) -> tuple[JointModel, TrainConfig]:
    """Rebuild the model of a checkpoint, in evaluation mode.

    Raises
    ------
    CheckpointError
        If parts are missing, the weights do not fit the configuration, or numbers are not finite.
    """
    from trainer.model.joint import DepthUnit, JointModel

    if "task" in content:
        raise CheckpointError(
            f"the checkpoint is of `trainer {content['task']} fit`", "one of `trainer fit`", "Give another checkpoint"
        )
    with rebuilding("the checkpoint"):
        config = parse_config(parse_json(content["config"]), "the checkpoint's configuration")
        unit = DepthUnit(**content["depth_unit"])
        _check_learnt_from(unit, content["dataset"])
        model = JointModel(config, content["dataset"]["resolution"], unit)
        model.load_state_dict(content["model"])
    check_finite(model, "the checkpoint")
    return model.to(device).eval(), config


@contextmanager
def rebuilding(what: str) -> Iterator[None]:
    """Turn what goes wrong while a network is rebuilt from a checkpoint into CheckpointError."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, CanonfaceError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error).splitlines()[0][:200]
        raise CheckpointError(
            f"{what} does not fit this version of the network ({reason})",
            "weights and configuration that belong together",
            "Use the version of canonface that wrote it, or fit again",
        ) from None


def check_finite(model: nn.Module, what: str) -> None:
    """Refuse weights that are NaN or infinite; CheckpointError."""
    undefined = [name for name, value in model.state_dict().items() if not value.isfinite().all()]
    if undefined:
        raise CheckpointError(
            f"{what} holds weights that are not finite: {', '.join(undefined[:3])}"
            f"{f' and {len(undefined) - 3} more' if len(undefined) > 3 else ''}",
            "finite weights",
            "Take another checkpoint of the run",
        )


def read_task(path: Path, task: str, what: str) -> dict[str, Any]:
    """Read a checkpoint of another kind of network than the joint model.

    Parameters
    ----------
    task : str
        The program that fits it: ``trainer TASK fit``.
    what : str
        It is to be, such as "an alignment network".

    Raises
    ------
    CheckpointError
        If it is of something else, missing or damaged.
    """
    content = read_checkpoint(path)
    if content.get("task") != task:
        raise CheckpointError(
            f"{path} is not of {what}", f"the folder of a run of `trainer {task} fit`", "Check the path"
        )
    return content


def _check_learnt_from(unit: DepthUnit, dataset: dict[str, Any]) -> None:
    """Raise ValueError where a number could not have come from a dataset."""
    numbers = {
        "depth unit": unit.unit,
        "its spread": unit.spread,
        "its focal length": unit.focal_over_width,
        "resolution": dataset["resolution"],
        "half_extent_m": dataset["half_extent_m"],
    }
    for name, value in numbers.items():
        if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
            raise ValueError(f"{name} is {value!r}")
    if not isinstance(dataset["space"], dict):
        raise ValueError(f"the canonical space is {dataset['space']!r}")


def pick_device(wish: str) -> torch.device:
    """Return the device that "auto", "cpu" or "cuda" asks for.

    Raises
    ------
    CheckpointError
        If CUDA is asked for and there is none.
    """
    import torch

    if wish == "cuda" and not torch.cuda.is_available():
        raise CheckpointError(
            "there is no CUDA device", "an NVIDIA GPU and its driver", "Choose the device cpu or auto"
        )
    return torch.device("cuda" if wish != "cpu" and torch.cuda.is_available() else "cpu")
