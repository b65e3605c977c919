"""Checkpoints: everything a run needs to go on, and a model needs to be used elsewhere."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datagen.shards import CheckpointError, ManifestError, StorageError
from trainer.config import TrainConfig, parse_config
from trainer.depth_unit import DepthUnit
from trainer.run_state import BEST

if TYPE_CHECKING:
    import torch

    from trainer.model.joint import JointModel

FORMAT = "canonface-checkpoint"
FORMAT_VERSION = 2


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint: under a temporary name, fsynced, then renamed, so a reader finds the old or the new one.

    Parameters
    ----------
    path : Path
    content : dict
        See :func:`model_content`; other keys (optimiser, step, ...) as the caller likes. Tensors and plain data only.

    Raises
    ------
    StorageError
        If the disk is full or refuses; the old checkpoint is untouched.
    """
    import torch

    temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            torch.save({"format": FORMAT, "format_version": FORMAT_VERSION, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError of its file writer
        raise StorageError(
            f"checkpoint {path} cannot be written: {error}", "a writable folder with space", "Free space, then resume"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; no code in it is run.

    Raises
    ------
    CheckpointError
        If it is missing, truncated, no checkpoint of ours, or of a newer version.
    """
    import torch

    path = path / BEST if path.is_dir() else path
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist", "the best.pt or last.pt of a run", "Check the path")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged zip or pickle ends in many kinds of error; all mean the same
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"checkpoint {path} cannot be read ({reason})",
            "a complete file written by `trainer fit`",
            "Take another checkpoint of the run, or fit again",
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is no canonface checkpoint", "a file written by `trainer fit`", "Give its best.pt or last.pt"
        )
    if content.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"checkpoint {path} is of version {content.get('format_version')}",
            f"version {FORMAT_VERSION}",
            "Use the version of canonface that wrote it, or fit again",
        )
    return content


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
        If parts are missing or the weights do not fit the configuration.
    """
    from trainer.model.joint import JointModel

    try:
        config = parse_config(json.loads(content["config"]), "the checkpoint's configuration")
        unit = DepthUnit(**content["depth_unit"])
        model = JointModel(config, int(content["dataset"]["resolution"]), unit)
        model.load_state_dict(content["model"])
    except (KeyError, TypeError, ValueError, RuntimeError, ManifestError) as error:
        reason = str(error).splitlines()[0][:200]
        raise CheckpointError(
            f"the checkpoint does not fit this version of the model ({reason})",
            "weights and configuration that belong together",
            "Use the version of canonface that wrote it, or fit again",
        ) from None
    return model.to(device).eval(), config


def pick_device(wish: str) -> torch.device:
    """Return the device of a wish: "auto", "cpu" or "cuda".

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
