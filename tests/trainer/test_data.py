"""Batches: resumption, ranks, clips, decoding, tensors. Their order is tested with the stream that makes it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen.common.errors import InputError
from datagen.shards import Dataset
from datagen.shards.store import LocalStore
from tests.support.trainer_scene import build_scene, render
from trainer.config import DataConfig
from trainer.data import ClipReader, Loaded, TrainingLoader, decode, normalise
from trainer.inference import evaluation_clips


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build_scene(tmp_path_factory.mktemp("scene") / "dataset.zarr", frames=5, cameras=3)


def loaded(scene: Dataset, config: DataConfig, count: int, seed: int = 0, **arguments: Any) -> list[Loaded]:
    loader = TrainingLoader(scene, config, seed, torch.device("cpu"), **arguments)
    batches = list(itertools.islice(loader, count))
    loader.close()
    return batches


def assert_same(one: Loaded, other: Loaded) -> None:
    assert one.batch.keys() == other.batch.keys()
    for name, value in one.batch.items():
        assert torch.equal(value, other.batch[name]), name
    assert (one.views, one.seeds, one.state) == (other.views, other.seeds, other.state)


@pytest.mark.parametrize(("workers", "reader"), [(0, "threads"), (2, "threads"), (2, "processes")])
def test_batches_resume_exactly_whoever_reads_them(scene: Dataset, workers: int, reader: str) -> None:
    config = DataConfig(clip_lengths=(1, 2, 3), frames_per_batch=6)
    straight = loaded(scene, config, 14, seed=3)
    assert straight[-1].state["epoch"] >= 2  # 30 samples: two epochs and more
    other = TrainingLoader(
        scene, config.model_copy(update={"workers": workers, "reader": reader}), 3, torch.device("cpu")
    )
    for place in (8, 2):
        other.resume(json.loads(json.dumps(straight[place].state)))
        for got, want in zip(itertools.islice(other, 4), straight[place + 1 :], strict=False):
            assert_same(got, want)
    other.close()


def test_another_seed_gives_other_batches_and_other_augmentation(scene: Dataset) -> None:
    config = DataConfig(clip_lengths=(1,))
    (one,), (other,) = (loaded(scene, config, 1, seed) for seed in (0, 1))
    assert not torch.equal(one.batch["index"], other.batch["index"])
    assert not set(one.seeds) & set(other.seeds)
    assert len(set(one.seeds)) == 8


def test_ranks_share_batches_and_their_clips_keep_their_seeds(scene: Dataset) -> None:
    config = DataConfig(clip_lengths=(1, 2), frames_per_batch=4, drop_last=True)
    parts = [loaded(scene, config, 5, rank=rank, ranks=2) for rank in range(2)]
    again = [loaded(scene, config.model_copy(update={"workers": 1}), 5, rank=rank, ranks=2) for rank in range(2)]
    for rank in range(2):
        for one, other in zip(parts[rank], again[rank], strict=True):
            assert_same(one, other)
    for one, other in zip(*parts, strict=True):
        assert one.state == other.state
        assert one.batch["index"].shape == other.batch["index"].shape
        together = torch.cat([one.batch["index"], other.batch["index"]])
        assert len(together.unique()) == together.numel() == 4
        assert not set(one.seeds) & set(other.seeds)


def test_clips_are_of_one_camera_over_time_or_of_one_instant(scene: Dataset) -> None:
    index = scene["train"].index
    kinds = {False: 0, True: 0}
    for one in loaded(scene, DataConfig(clip_lengths=(3,), frames_per_batch=6), 40):
        for row in one.batch["index"].numpy():
            cameras, frames = set(index.camera[row].tolist()), set(index.frame[row].tolist())
            assert (len(cameras), len(frames)) == ((3, 1) if one.views else (1, 3))
            kinds[one.views] += 1
    assert min(kinds.values()) > 10


def test_impossible_clips_are_an_error_or_left_out(scene: Dataset) -> None:
    cpu = torch.device("cpu")
    with pytest.raises(InputError, match="no clip of"):
        TrainingLoader(scene, DataConfig(clip_lengths=(50,)), 0, cpu)
    assert TrainingLoader(scene, DataConfig(clip_lengths=(1, 50)), 0, cpu).lengths == (1,)
    with pytest.raises(InputError, match="empty"):
        TrainingLoader(scene, DataConfig(), 0, cpu, split="test")


@pytest.mark.parametrize("name", ["image", "depth", "canonical", "normal", "confidence", "region"])
def test_decoding_on_the_device_is_decoding_in_numpy(scene: Dataset, name: str) -> None:
    split = scene["train"]
    want = split.read([name], slice(0, 6))[name].astype(np.float32)
    got = decode(name, torch.from_numpy(split.raw(name, 0, 6)), scene.depth_scale)
    np.testing.assert_array_equal(got.numpy(), want / 255 if name == "image" else want)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), max_size=6), st.integers(1, 5))
def test_evaluation_clips_hold_each_sample_once_within_runs(lengths: list[int], longest: int) -> None:
    runs = np.repeat(np.arange(len(lengths)), lengths)[:, None]
    clips = evaluation_clips(runs, longest)
    assert [int(i) for clip in clips for i in clip] == list(range(sum(lengths)))
    assert all(len(clip) <= longest and len(set(runs[clip, 0].tolist())) == 1 for clip in clips)


def test_tensors_are_the_scene(scene: Dataset) -> None:
    (one,) = loaded(scene, DataConfig(clip_lengths=(2,), frames_per_batch=4), 1)
    batch = one.batch
    assert batch["image"].shape == (2, 2, 3, 28, 28)
    assert all(batch[name].dtype == torch.float32 for name in ("image", "depth", "canonical", "confidence"))
    i = int(batch["index"][1, 0])
    index = scene["train"].index
    truth = render(int(index.subject[i]), int(index.frame[i]), int(index.camera[i]), 3, 28)
    np.testing.assert_allclose(batch["depth"][1, 0], truth["depth"], atol=2e-5)
    np.testing.assert_allclose(
        batch["canonical"][1, 0].numpy() * truth["confidence"], truth["canonical"] * truth["confidence"], atol=7e-5
    )
    # As far off as the dataset stores images by default: one step of 255.
    np.testing.assert_allclose(batch["image"][1, 0] * 255, truth["image"].astype(np.float32), atol=1.001)
    rgb = normalise(batch["image"]) * torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    rgb += torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    np.testing.assert_allclose(rgb, batch["image"], atol=1e-6)


def test_reading_from_memory_or_disk_is_the_same(scene: Dataset) -> None:
    rows = np.array([4, 2, 9])
    for name, values in ClipReader(scene, "train", cache_mb=100).clip(rows).items():
        np.testing.assert_array_equal(values, ClipReader(scene, "train", cache_mb=0).clip(rows)[name])


def test_a_remote_dataset_is_read_through_the_cache(scene: Dataset, tmp_path: Path) -> None:
    class Remote:
        """Reads as a folder does, but is none."""

        def __init__(self, folder: LocalStore) -> None:
            self.url, self.read = "remote://scene", folder.read

    config = DataConfig(clip_lengths=(1,), cache_dir=tmp_path)
    (want,) = loaded(scene, config, 1)
    assert not list(tmp_path.iterdir())  # a local dataset needs no copy
    dataset = Dataset(Remote(LocalStore(scene.path)), scene.attrs)  # type: ignore[arg-type]
    (got,) = loaded(dataset, config, 1)
    assert_same(got, want)
    assert list(tmp_path.iterdir())


def test_scene_canonical_agrees_with_its_depth(tmp_path: Path) -> None:
    """The scene itself: depth unprojected into the head lies on the ellipsoid its canonical coordinates name."""
    maps = render(2, 3, 1, 3, 42)
    mask = maps["depth"] > 0
    v, u = np.nonzero(mask)
    K = maps["intrinsics"].astype(np.float64)
    z = maps["depth"][mask].astype(np.float64)
    points = np.stack([(u + 0.5 - K[0, 2]) / K[0, 0] * z, (v + 0.5 - K[1, 2]) / K[1, 1] * z, z, np.ones_like(z)])
    head = np.linalg.inv(maps["world_to_camera"].astype(np.float64) @ maps["head_to_world"]) @ points
    canonical = maps["canonical"][:, mask].astype(np.float64)
    ratio = head[:3] / canonical
    keep = np.abs(canonical).min(0) > 0.1
    spread = ratio[:, keep].std(1) / ratio[:, keep].mean(1)
    assert spread.max() < 1e-3  # one radius per axis: an ellipsoid, its centre at the head's origin
