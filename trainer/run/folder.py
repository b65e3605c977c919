"""A run's folder: its files, how far it has come (readable without torch), and its one process at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from datagen.common.documents import read_json
from datagen.common.errors import CheckpointError, InputError, ManifestError
from datagen.common.files import folder_lock, is_temporary, json_ready, make_folders, storage_errors, write_owned_bytes
from trainer.config import RunConfig, changed_keys, parse_run_config

LAST, BEST, STATE, LOG, CONFIG = "last.pt", "best.pt", "state.json", "log.jsonl", "config.json"
TRACE, BOARD = "trace.json", "tensorboard"
HELD_OUT, CURVE, WORST = "held_out.png", "learning_curve.png", "worst_samples.json"


@dataclass(frozen=True)
class RunState:
    """How far a run has come.

    Attributes
    ----------
    step, steps : int
        Steps done and planned.
    best_step : int or None
        The step ``best.pt`` was saved at.
    best_metrics : dict
        Its validation metrics, None where nothing was measured; empty without a validation split.
    seconds : float
        Time spent on these steps, in all calls; 0 in runs of before.
    """

    step: int
    steps: int
    config_digest: str
    dataset_uuid: str
    best_step: int | None
    # The name in the file is that of runs long since written.
    best_metrics: Annotated[dict[str, float | None], Field(alias="best_figures")]
    seconds: float = 0.0

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.steps

    def write(self, run: Path) -> None:
        """Replace the state file of a run folder atomically."""
        content = json_ready(TypeAdapter(RunState).dump_python(self, by_alias=True))
        write_owned_bytes(run / STATE, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


def read_state(run: Path) -> RunState | None:
    """Read the state of a run folder; None if no run was begun there.

    Raises
    ------
    CheckpointError
        If the file is damaged.
    """
    try:
        return TypeAdapter(RunState).validate_python(read_json(run / STATE))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is damaged"
        raise CheckpointError(
            f"{run / STATE} cannot be read: {reason}",
            "the state of a run",
            f"Remove this file: {LAST} beside it holds the same",
        ) from None


def check_same_run(run: Path, state: RunState, config: RunConfig, dataset_uuid: str) -> None:
    """Refuse to resume a run under another configuration or on another dataset.

    Raises
    ------
    CheckpointError
        Naming the keys that differ.
    """
    if state.config_digest != config.digest:
        try:
            keys = changed_keys(parse_run_config(type(config), read_json(run / CONFIG)), config)
        except (OSError, ValueError, ManifestError):
            keys = []
        raise CheckpointError(
            f"{run} was begun with another configuration: {'; '.join(keys) or 'its config.json does not say which'}",
            "the configuration the run was begun with",
            "Give that one, or another --out for a new run",
        )
    if state.dataset_uuid != dataset_uuid:
        raise CheckpointError(
            f"{run} was begun on dataset {state.dataset_uuid}, this one is {dataset_uuid}",
            "the same dataset",
            "Give that one, or another --out for a new run",
        )


@contextmanager
def locked_run_folder(run: Path, *, is_main: bool = True) -> Iterator[None]:
    """Keep other runs out of a folder, and remove what a killed one left half-written there.

    The lock is on the folder itself and goes with the process, however it ends. A folder made here in which nothing
    was written is removed again.

    Parameters
    ----------
    run : Path
        Made if it does not exist.
    is_main : bool
        Whether this process writes the run's files; the others leave the folder alone.

    Raises
    ------
    InputError
        If another process is fitting there.
    StorageError
        If the folder cannot be made or read.
    """
    if not is_main:
        yield
        return
    run = run.absolute()
    with storage_errors(f"opening the run's folder {run}"):
        made = list(takewhile(lambda folder: not folder.exists(), (run, *run.parents)))
        make_folders(run)
    with folder_lock(run, lambda _: _busy(run)):
        try:
            with storage_errors(f"clearing the run's folder {run}"):
                for path in run.iterdir():
                    if is_temporary(path.name) and path.is_file():
                        path.unlink(missing_ok=True)
            yield
        finally:
            with suppress(OSError):  # not empty: something was written
                for empty in made:
                    empty.rmdir()


def _busy(run: Path) -> InputError:
    return InputError(
        f"another process is fitting in {run}", "one at a time", "Wait until it ends, or choose another --out"
    )
