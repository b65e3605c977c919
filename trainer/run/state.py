"""What a run folder says about itself, readable without torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from datagen.common.errors import CheckpointError, ManifestError, StorageError
from datagen.common.files import atomic_write_bytes, json_ready
from trainer.config import TrainConfig, changed_keys, parse_config

LAST, BEST, STATE, LOG, CONFIG = "last.pt", "best.pt", "state.json", "log.jsonl", "config.json"


@dataclass(frozen=True)
class RunState:
    """How far a run has come.

    Attributes
    ----------
    step, steps : int
        Steps done and planned.
    config_digest, dataset_uuid : str
    best_step : int or None
        The step ``best.pt`` was saved at.
    best_figures : dict
        Its validation figures, None where nothing was measured; empty without a validation split.
    """

    step: int
    steps: int
    config_digest: str
    dataset_uuid: str
    best_step: int | None
    best_figures: dict[str, float | None]

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.steps

    def write(self, run: Path) -> None:
        """Replace the state file of a run folder atomically."""
        atomic_write_bytes(
            run / STATE, (json.dumps(json_ready(asdict(self)), indent=1, sort_keys=True) + "\n").encode()
        )


def read_state(run: Path) -> RunState | None:
    """Read the state of a run folder; None if no run was begun there.

    Raises
    ------
    CheckpointError
        If the file is damaged.
    """
    try:
        return TypeAdapter(RunState).validate_json((run / STATE).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is damaged"
        raise CheckpointError(
            f"{run / STATE} cannot be read: {reason}",
            "the state of a run",
            f"Remove this file: {LAST} beside it holds the same",
        ) from None


def check_same_run(run: Path, state: RunState, config: TrainConfig, dataset_uuid: str) -> None:
    """Refuse to go on with a run under another configuration or on another dataset.

    Raises
    ------
    CheckpointError
        Naming the keys that differ.
    """
    if state.config_digest != config.digest:
        try:
            keys = changed_keys(parse_config(json.loads((run / CONFIG).read_text())), config)
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


class RunLog:
    """``log.jsonl`` of a run: one JSON object a line, flushed at once.

    Parameters
    ----------
    run : Path
    resume_step : int
        Lines of later steps, which a killed run left, are dropped.
    """

    def __init__(self, run: Path, resume_step: int) -> None:
        path = run / LOG
        kept = [record for record in read_log(run) if record["step"] <= resume_step] if resume_step else []
        atomic_write_bytes(path, "".join(json.dumps(record) + "\n" for record in kept).encode())
        try:
            self._file = path.open("a")
        except OSError as error:
            raise StorageError(
                f"{path} cannot be written: {error}", "a writable folder", "Choose another --out"
            ) from None

    def write(self, kind: str, step: int, figures: dict[str, Any]) -> None:
        """Append a record."""
        try:
            self._file.write(json.dumps(json_ready({"kind": kind, "step": step, **figures})) + "\n")
            self._file.flush()
        except OSError as error:
            raise StorageError(f"{self._file.name} cannot be written: {error}", "space", "Free some, resume") from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_log(run: Path) -> list[dict[str, Any]]:
    """Read the log of a run; lines that are no records, as a kill leaves one, are left out; a missing file is empty."""
    try:
        lines = (run / LOG).read_text(errors="replace").splitlines()
    except OSError:
        return []
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int) and "kind" in record:
            records.append(record)
    return records
