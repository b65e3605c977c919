"""Which samples a run is worst at, by validation: a small file that the report of the data reads beside its frames."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from datagen.common.documents import read_json
from datagen.common.files import json_ready, write_owned_bytes
from trainer.run.folder import WORST

MOST_SAMPLES = 24
# Of each kind: the file stays small however long a run is.
MOST_RECORDS = 8
Kind = Literal["train", "val"]


class WorstLog:
    """Notes errors of samples, and writes those that are largest.

    Parameters
    ----------
    run : Path
        Folder of the run; records that are there are kept, but for those after the step it resumes from.
    step : int
    """

    def __init__(self, run: Path, step: int) -> None:
        self._path = run / WORST
        self._noted: dict[Kind, dict[int, dict[str, float]]] = {"train": {}, "val": {}}
        self._records = [record for record in _records(self._path) if record["step"] <= step]

    def note(self, kind: Kind, errors: Mapping[int, Mapping[str, float]]) -> None:
        """Take note of samples' errors, by number and name; of one seen again, the last count."""
        self._noted[kind] |= {index: dict(values) for index, values in errors.items()}

    def write(self, step: int, names: Mapping[Kind, Callable[[int], str]]) -> None:
        """Write the worst samples noted since the last call, named ``subject/sequence/frame/camera``."""
        for kind, name in names.items():
            noted, self._noted[kind] = self._noted[kind], {}
            known = {i: v for i, v in noted.items() if math.isfinite(v["canonical_mm"])}
            worst = sorted(known, key=lambda i: (-known[i]["canonical_mm"], i))[:MOST_SAMPLES]
            if worst:
                samples = [{"name": name(i), "sample": i, **json_ready(known[i])} for i in worst]
                self._records.append({"kind": kind, "step": step, "of": len(known), "samples": samples})
        kept = [r for kind in names for r in [r for r in self._records if r["kind"] == kind][-MOST_RECORDS:]]
        self._records = sorted(kept, key=lambda record: record["step"])
        write_owned_bytes(self._path, (json.dumps({"records": self._records}, indent=1) + "\n").encode())


def _records(path: Path) -> list[dict[str, Any]]:
    """Return what the file of a run that is resumed holds; nothing of one that cannot be read."""
    try:
        records = read_json(path)["records"]
        return [record for record in records if record["kind"] in ("train", "val") and int(record["step"]) >= 0]
    except (OSError, ValueError, KeyError, TypeError):
        return []
