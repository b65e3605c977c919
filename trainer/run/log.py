"""What a run logs by step: ``log.jsonl`` and TensorBoard always, Weights & Biases if asked to."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import nullcontext, suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from datagen.common.digests import digest_file
from datagen.common.documents import parse_json
from datagen.common.errors import DependencyError, StorageError
from datagen.common.files import json_ready, name_as_ours, write_owned
from datagen.common.ownership import listed, refuse_strangers
from trainer.config import RunConfig
from trainer.run.folder import BOARD, LOG

_BEGINNING = b'{"kind": "'  # of every record


class Journal:
    """Records metrics by step; a context manager.

    Parameters
    ----------
    run : Path
        Folder of the run.
    step : int
        Where the run resumes: what a killed run recorded after that is dropped.

    Raises
    ------
    DependencyError
        If Weights & Biases is asked for and not installed; before anything is written.
    """

    def __init__(self, run: Path, step: int, config: RunConfig) -> None:
        from torch.utils.tensorboard import SummaryWriter

        project = config.fit.wandb
        if project is not None and find_spec("wandb") is None:
            raise DependencyError(
                f"fit.wandb={project}, but the package wandb is not installed",
                "wandb",
                "Install it (pip install wandb), or leave fit.wandb empty: log.jsonl and TensorBoard hold the same",
            )
        path = run / LOG
        refuse_strangers(own_log_or_path(run))
        kept = [record for record in read_log(run) if record["step"] <= step] if step else []
        text = "".join(json.dumps(record) + "\n" for record in kept).encode()
        write_owned(path, lambda file: file.write(text), known=[digest_file(path)] if path.is_file() else [])
        try:
            self._file = path.open("a")
        except OSError as error:
            raise StorageError(
                f"{path} cannot be written: {error}", "a writable folder", "Choose another --out"
            ) from None
        self._run, self._there = run, set((run / BOARD).glob("*"))
        self._board = SummaryWriter(str(run / BOARD), purge_step=step + 1)
        self._remote: Any = None
        if project is not None:
            import wandb

            # The folder names the run, so that one that is resumed is one curve.
            self._remote = wandb.init(
                project=project,
                id=f"{run.name}-{config.digest[:8]}",
                resume="allow",
                config=config.model_dump(mode="json"),
            )

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._board.close()
        # Both were appended to: from here on they are ours as they are. A disk that refused something already said so.
        with nullcontext() if kind is None else suppress(StorageError):
            name_as_ours(self._run, [self._run / LOG, *(set((self._run / BOARD).glob("*")) - self._there)])
        if self._remote is not None:
            self._remote.finish()

    def record(self, kind: str, step: int, metrics: dict[str, float]) -> None:
        """Write the metrics of ``train`` or ``val`` at a step: a JSON object a line, flushed at once."""
        try:
            self._file.write(json.dumps(json_ready({"kind": kind, "step": step, **metrics})) + "\n")
            self._file.flush()
        except OSError as error:
            raise StorageError(f"{self._file.name} cannot be written: {error}", "space", "Free some, resume") from None
        named = {f"{kind}/{name}": value for name, value in metrics.items()}
        for name, value in named.items():
            self._board.add_scalar(name, value, step)
        if self._remote is not None:
            self._remote.log(named, step=step)


def own_log_or_path(run: Path) -> list[Path]:
    """Return nothing if a run's log may be rewritten, else its path.

    It may if it begins with what the run's listing names, and goes on with records alone, the last of which a kill may
    have cut.
    """
    path = run / LOG
    if not os.path.lexists(path):
        return []
    if path.is_symlink() or not path.is_file():
        return [path]
    data = path.read_bytes()
    for digest in (listed(run) or {}).get(LOG, ()):
        begun, rest = data[: digest.bytes], data[digest.bytes :]
        if hashlib.sha256(begun).hexdigest() != digest.sha256:
            continue
        *lines, cut = rest.split(b"\n")
        if all(_record(line) is not None for line in lines) and (
            cut.startswith(_BEGINNING) or _BEGINNING.startswith(cut)
        ):
            return []
    return [path]


def _record(line: str | bytes) -> dict[str, Any] | None:
    """Return what a line of the log says; None if it is no record."""
    try:
        record = parse_json(line)
    except ValueError:
        return None
    is_one = isinstance(record, dict) and isinstance(record.get("step"), int) and "kind" in record
    return record if is_one else None


def read_log(run: Path) -> list[dict[str, Any]]:
    """Read the log of a run, leaving out what is not a record (a kill may cut a line); a missing file is empty."""
    try:
        lines = (run / LOG).read_text(errors="replace").splitlines()
    except OSError:
        return []
    records = []
    for line in lines:
        record = _record(line)
        if record is not None:
            records.append(record)
    return records
