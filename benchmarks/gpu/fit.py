"""A short fit in a folder that is thrown away: ``python -m benchmarks.gpu.fit DATASET --set …`` prints figures."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from trainer.config import load_config
from trainer.fit import fit
from trainer.run.log import read_log


def main() -> None:
    """Fit, and print the loss of the first and the last step that were logged."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--config", default="tiny")
    parser.add_argument("--set", dest="changes", action="append", default=[])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="canonface-gpu-") as folder:
        state = fit(given.dataset, Path(folder) / "run", load_config(given.config, given.changes))
        losses = [record["loss"] for record in read_log(Path(folder) / "run") if "loss" in record]
    figures = (
        {"steps": state.step, "loss_first": losses[0], "loss_last": losses[-1]} if losses else {"steps": state.step}
    )
    print(json.dumps({"figures": figures}))


if __name__ == "__main__":
    main()
