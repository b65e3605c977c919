"""Where a run's figures go: ``log.jsonl`` and TensorBoard always, Weights & Biases if asked to."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from datagen.common.errors import DependencyError
from trainer.config import TrainConfig
from trainer.run.state import RunLog


class Journal:
    """Records figures by step; a context manager.

    Parameters
    ----------
    run : Path
        Folder of the run.
    step : int
        Where the run goes on: what a killed run recorded beyond is dropped.
    config : TrainConfig

    Raises
    ------
    DependencyError
        If Weights & Biases is asked for and not installed; before anything is written.
    """

    def __init__(self, run: Path, step: int, config: TrainConfig) -> None:
        project = config.fit.wandb
        if project is not None and find_spec("wandb") is None:
            raise DependencyError(
                f"fit.wandb={project}, but the package wandb is not installed",
                "wandb",
                "Install it (pip install wandb), or leave fit.wandb empty: log.jsonl and TensorBoard hold the same",
            )
        self._log = RunLog(run, step)
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)
        self._remote: Any = None
        if project is not None:
            import wandb

            # The folder names the run, so that one that goes on is one curve.
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
        self._log.close()
        self._board.close()
        if self._remote is not None:
            self._remote.finish()

    def record(self, kind: str, step: int, figures: dict[str, float]) -> None:
        """Write the figures of ``train`` or ``val`` at a step."""
        self._log.write(kind, step, figures)
        named = {f"{kind}/{name}": value for name, value in figures.items()}
        for name, value in named.items():
            self._board.add_scalar(name, value, step)
        if self._remote is not None:
            self._remote.log(named, step=step)
