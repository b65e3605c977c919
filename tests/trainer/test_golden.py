"""A short run whose losses are written down: what changes the numbers of training shows here first.

After a change that is meant to change them, write them anew: ``python -m tests.trainer.test_golden``.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from tests.support.trainer_scene import build_scene
from trainer.config import load_config
from trainer.fit import fit
from trainer.run.log import read_log

GOLDEN = Path(__file__).parent / "golden" / "losses.json"
OPTIONS = (
    *("fit.device=cpu", "fit.threads=1", "fit.steps=40", "fit.val_every=40", "fit.ema=0.9"),
    *("heads.ray=true", "heads.camera=true", "loss.normal=0.5", "loss.consistency=1", "loss.point=0.5"),
    *("augment.background=0.3", "augment.occlusion=0.3", "augment.crop=0.1"),
)
# Between processors the order of sums differs, and forty steps let the difference grow.
RELATIVE = 0.02
_TIMED = ("frames_per_second", "stall_share")


def curve(folder: Path) -> list[dict[str, float]]:
    """Run and return what the log says of every tenth step, and the validation at the end."""
    build_scene(folder / "dataset.zarr", subjects={"train": 4, "val": 1}, frames=4, cameras=4)
    fit(folder / "dataset.zarr", folder / "run", load_config("tiny", OPTIONS))
    return [{key: value for key, value in entry.items() if key not in _TIMED} for entry in read_log(folder / "run")]


def test_losses_are_those_written_down(tmp_path: Path) -> None:
    golden, found = json.loads(GOLDEN.read_text()), curve(tmp_path)
    assert [(entry["kind"], entry["step"]) for entry in found] == [(e["kind"], e["step"]) for e in golden]
    for entry, expected in zip(found, golden, strict=True):
        assert entry.keys() == expected.keys()
        for name, value in expected.items():
            if name != "kind":
                assert entry[name] == pytest.approx(value, rel=RELATIVE, abs=1e-4), (name, expected["step"])
    train = [entry["loss"] for entry in found if entry["kind"] == "train"]
    assert train[-1] < 0.8 * train[0]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        GOLDEN.write_text(json.dumps(curve(Path(scratch)), indent=1) + "\n")
