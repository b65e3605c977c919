"""Single frames first, then clips: what comes when, and that a run resumes to the same batches."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch

from datagen.common.errors import InputError
from datagen.shards import Dataset, open_dataset
from tests.support.trainer_scene import build_scene
from trainer.config import DataConfig, load_config
from trainer.curriculum import SinglesFirst
from trainer.data import Loaded, TrainingLoader
from trainer.fit import fit
from trainer.run.checkpoint import read_checkpoint
from trainer.run.folder import LAST

CLIPS = DataConfig(clip_lengths=(4,), frames_per_batch=4)
SINGLES = CLIPS.model_copy(update={"clip_lengths": (1,)})


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("scene") / "dataset.zarr"
    build_scene(root, subjects={"train": 2, "val": 1}, frames=4, cameras=4)
    return open_dataset(root)


def loader(scene: Dataset, batches: int) -> SinglesFirst:
    return SinglesFirst(*(TrainingLoader(scene, c, 0, torch.device("cpu")) for c in (SINGLES, CLIPS)), batches)


def taken(given: SinglesFirst, count: int) -> list[Loaded]:
    found = list(itertools.islice(given, count))
    given.close()
    return found


def test_single_frames_come_first_and_the_order_resumes_anywhere(scene: Dataset) -> None:
    straight = taken(loader(scene, 11), 16)  # 8 batches an epoch
    assert [one.batch["image"].shape[1] for one in straight] == [1] * 11 + [4] * 5
    assert loader(scene, 11).lengths == (1, 4)
    for place in (3, 9, 10, 12):
        other = loader(scene, 11)
        other.resume(json.loads(json.dumps(straight[place].state)))
        for got, want in zip(taken(other, 3), straight[place + 1 :], strict=False):
            assert torch.equal(got.batch["index"], want.batch["index"])
            assert (got.seeds, got.state) == (want.seeds, want.state)


def test_the_state_of_another_kind_of_run_is_refused(scene: Dataset) -> None:
    given = loader(scene, 2)
    with pytest.raises(InputError, match="without single frames first"):
        given.resume(TrainingLoader(scene, CLIPS, 0, torch.device("cpu")).state)


def test_a_stopped_run_ends_in_the_same_bits(scene: Dataset, tmp_path: Path) -> None:
    common = ["fit.device=cpu", "fit.threads=1", "fit.steps=6", "data.singles=0.5", "fit.accumulate=2"]
    common += ["data.clip_lengths=[1, 2]", "data.frames_per_batch=4"]
    fit(scene.url, tmp_path / "straight", load_config("tiny", common))
    for _ in range(3):
        fit(scene.url, tmp_path / "stopped", load_config("tiny", [*common, "fit.max_minutes=1e-6"]))
    fit(scene.url, tmp_path / "stopped", load_config("tiny", common))
    one, other = (read_checkpoint(tmp_path / name / LAST) for name in ("straight", "stopped"))
    assert one["stream"]["singles_left"] == 0
    assert all(torch.equal(value, other["model"][key]) for key, value in one["model"].items())
