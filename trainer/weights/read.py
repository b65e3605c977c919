"""Reading the tensors of a checkpoint: safetensors or torch files, folders of them, and the hub."""

from __future__ import annotations

import argparse
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from datagen.common.documents import read_json
from datagen.common.errors import CheckpointError
from datagen.common.names import checked_name
from trainer.run.checkpoint import why_unreadable

# In the order they are looked for in a folder or on the hub.
USUAL_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "checkpoint.pt",
    "best.pt",
    "pytorch_model.bin",
    "model.pt",
)
_NESTED = ("model", "state_dict", "model_state_dict")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def read_tensors(source: str, cache: Path | None = None) -> dict[str, torch.Tensor]:
    """Read all tensors of a checkpoint onto the CPU; no code in it is run.

    Parameters
    ----------
    source : str
        A file, a folder that holds one under a usual name, or an id of the hub (owner/name), downloaded once.
    cache : Path, optional
        Folder for downloads; by default the hub's own.

    Raises
    ------
    CheckpointError
        If it does not exist, cannot be downloaded, is truncated, or holds no tensors.
    """
    path = _find(source, cache)
    tensors = _read_parts(path, source, cache) if path.suffix == ".json" else _read_file(path)
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors", "the weights of a network", "Check that it is a checkpoint")
    return tensors


def _find(source: str, cache: Path | None) -> Path:
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        for name in USUAL_NAMES:
            if (path / name).is_file():
                return path / name
        raise CheckpointError(f"{path} holds no weights", f"one of {', '.join(USUAL_NAMES)}", "Give the file itself")
    if not _HUB_ID.fullmatch(source):
        raise CheckpointError(
            f"weights {source} do not exist", "a file, a folder, or an id of the hub (owner/name)", "Check the path"
        )
    for name in USUAL_NAMES:
        found = _from_hub(source, name, cache)
        if found is not None:
            return found
    raise CheckpointError(
        f"weights {source}: neither a local file or folder, nor found on the hub (or the hub cannot be reached)",
        f"one of {', '.join(USUAL_NAMES)} there",
        "Check the name and the connection, or download the file and give its path",
    )


def _from_hub(repository: str, name: str, cache: Path | None) -> Path | None:
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(
            repository,
            name,
            cache_dir=None if cache is None else str(cache),
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
    except OSError as error:
        raise CheckpointError(
            f"weights {repository} cannot be downloaded from the hub: {str(error).strip().splitlines()[0][:200]}",
            "a repository you may read",
            "Check the name and your access, or download the file and give its path",
        ) from None
    return None if found is None else Path(found)


def _read_parts(index: Path, source: str, cache: Path | None) -> dict[str, torch.Tensor]:
    """Read the files an index names, which lie beside it."""
    try:
        files = sorted({checked_name(name) for name in read_json(index)["weight_map"].values()})
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise CheckpointError(f"{index} is not an index of weights", "a weight_map", "Download it again") from None
    tensors: dict[str, torch.Tensor] = {}
    for name in files:
        path = index.parent / name
        if not path.is_file():
            path = (_from_hub(source, name, cache) if _HUB_ID.fullmatch(source) else None) or path
        if not path.is_file():
            raise CheckpointError(
                f"{index} names {name}, which is missing", "all files of the checkpoint", "Download it too"
            )
        tensors |= _read_file(path)
    return tensors


def _read_file(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            # Training scripts keep their arguments beside the weights: a plain container, harmless to read.
            with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of pickles it may not read: then it raises
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises many kinds of error; all mean the same
        raise CheckpointError(
            f"weights {path} cannot be read ({why_unreadable(error)})",
            "a complete safetensors or torch file",
            "Download it again",
        ) from None
    for name in _NESTED:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}", "named tensors", "Give another file")
    return {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
