"""What a run logs by step: ``log.jsonl`` and TensorBoard always, Weights & Biases if asked to."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from datagen.common.documents import parse_json
from datagen.common.errors import DependencyError, StorageError
from datagen.common.files import atomic_write_bytes, json_ready
from trainer.config import TrainConfig
from trainer.run.folder import LOG


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

    def __init__(self, run: Path, step: int, config: TrainConfig) -> None:
        from torch.utils.tensorboard import SummaryWriter

        project = config.fit.wandb
        if project is not None and find_spec("wandb") is None:
            raise DependencyError(
                f"fit.wandb={project}, but the package wandb is not installed",
                "wandb",
                "Install it (pip install wandb), or leave fit.wandb empty: log.jsonl and TensorBoard hold the same",
            )
        path = run / LOG
        kept = [record for record in read_log(run) if record["step"] <= step] if step else []
        atomic_write_bytes(path, "".join(json.dumps(record) + "\n" for record in kept).encode())
        try:
            self._file = path.open("a")
        except OSError as error:
            raise StorageError(
                f"{path} cannot be written: {error}", "a writable folder", "Choose another --out"
            ) from None
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)
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


def read_log(run: Path) -> list[dict[str, Any]]:
    """Read the log of a run, leaving out what is not a record (a kill may cut a line); a missing file is empty."""
    try:
        lines = (run / LOG).read_text(errors="replace").splitlines()
    except OSError:
        return []
    records = []
    for line in lines:
        try:
            record = parse_json(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int) and "kind" in record:
            records.append(record)
    return records
