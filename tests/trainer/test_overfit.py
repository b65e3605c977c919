"""A network that cannot learn one batch by heart has a fault somewhere between the maps and the weights."""

from __future__ import annotations

from pathlib import Path

from tests.support.trainer_scene import build_scene
from trainer.config import load_config
from trainer.evaluate import evaluate
from trainer.fit import fit

ONE_BATCH = ("data.clip_lengths=[4]", "data.view_ratio=0", "augment.photometric=0")
LONG = ("fit.steps=400", "fit.learning_rate=6e-3", "fit.warmup_steps=20", "decoder.output_stride=1")
ON_CPU = ("fit.device=cpu", "fit.threads=1")


def test_one_batch_is_learnt_by_heart(tmp_path: Path) -> None:
    dataset = tmp_path / "dataset.zarr"
    build_scene(dataset, subjects={"train": 1}, frames=4, cameras=1)
    fit(dataset, tmp_path / "run", load_config("tiny", (*ONE_BATCH, *LONG, *ON_CPU)))
    figures = evaluate(tmp_path / "run", dataset, "train", speed_seconds=0).metrics
    assert figures["canonical_mean_mm"] < 1
    assert figures["depth_mean_mm"] < 1
