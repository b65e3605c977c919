"""Batches: order, resumption, clips, augmentation, tensors."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer_scene import build_scene, render

from datagen.shards import Dataset, InputError
from trainer.augment import augment_clip, mirror_clip
from trainer.config import DataConfig
from trainer.data import ClipReader, TrainingBatches, training_loader
from trainer.order import BatchOrder, evaluation_clips


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build_scene(tmp_path_factory.mktemp("scene") / "dataset.zarr", frames=5, cameras=3)


def test_order_depends_on_seed_and_step_alone(scene: Dataset) -> None:
    config = DataConfig(clip_lengths=(1, 2, 3), frames_per_batch=6)
    forwards = BatchOrder(scene["train"], config, seed=3)
    batches = [forwards.batch(step) for step in range(40)]
    resumed = BatchOrder(scene["train"], config, seed=3)
    for step in (39, 17, 0, 25):  # any step, with nothing read before it
        np.testing.assert_array_equal(resumed.batch(step), batches[step])
    other = BatchOrder(scene["train"], config, seed=4)
    assert any(
        other.batch(k).shape != batches[k].shape or not np.array_equal(other.batch(k), batches[k]) for k in range(3)
    )


def test_clips_are_of_one_camera_over_time_or_of_one_instant(scene: Dataset) -> None:
    index = scene["train"].index
    kinds = {"time": 0, "views": 0}
    order = BatchOrder(scene["train"], DataConfig(clip_lengths=(3,), frames_per_batch=6), seed=0)
    for step in range(40):
        rows = order.batch(step)
        assert rows.shape == (2, 3)
        for row in rows:
            assert len(set(index.subject[row].tolist())) == 1
            if len(set(index.camera[row].tolist())) == 1:
                np.testing.assert_array_equal(np.diff(index.frame[row]), 1)
                kinds["time"] += 1
            else:
                assert len(set(index.frame[row].tolist())) == 1
                assert len(set(index.camera[row].tolist())) == 3
                kinds["views"] += 1
    assert min(kinds.values()) > 10


@pytest.mark.parametrize(("ratio", "cameras"), [(0.0, 1), (1.0, 2)])
def test_view_ratio_is_obeyed(scene: Dataset, ratio: float, cameras: int) -> None:
    config = DataConfig(clip_lengths=(2,), frames_per_batch=4, view_ratio=ratio)
    order = BatchOrder(scene["train"], config, seed=0)
    for step in range(10):
        for row in order.batch(step):
            assert len(set(scene["train"].index.camera[row].tolist())) == cameras


def test_stride_spreads_frames(scene: Dataset) -> None:
    order = BatchOrder(scene["train"], DataConfig(clip_lengths=(2,), view_ratio=0, stride=3), seed=0)
    for row in order.batch(0):
        assert np.diff(scene["train"].index.frame[row]).tolist() == [3]


def test_single_frames_cover_the_split_in_an_epoch(scene: Dataset) -> None:
    order = BatchOrder(scene["train"], DataConfig(clip_lengths=(1,), frames_per_batch=5), seed=0)
    seen = np.concatenate([batch.ravel() for batch in order.epoch(0)])
    assert sorted(seen.tolist()) == list(range(len(scene["train"])))
    assert not np.array_equal(seen, np.concatenate([batch.ravel() for batch in order.epoch(1)]))


def test_clips_that_cannot_be_are_an_error_or_left_out(scene: Dataset) -> None:
    with pytest.raises(InputError, match="no clip of"):
        BatchOrder(scene["train"], DataConfig(clip_lengths=(50,)), seed=0)
    assert BatchOrder(scene["train"], DataConfig(clip_lengths=(1, 50)), seed=0).lengths == (1,)
    with pytest.raises(InputError, match="empty"):
        BatchOrder(scene["test"], DataConfig(), seed=0)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), max_size=6), st.integers(1, 5))
def test_evaluation_clips_hold_each_sample_once_within_runs(lengths: list[int], longest: int) -> None:
    runs = np.repeat(np.arange(len(lengths)), lengths)[:, None]
    clips = evaluation_clips(runs, longest)
    assert [int(i) for clip in clips for i in clip] == list(range(sum(lengths)))
    assert all(len(clip) <= longest and len(set(runs[clip, 0].tolist())) == 1 for clip in clips)


def test_tensors_are_the_scene(scene: Dataset) -> None:
    config = DataConfig(clip_lengths=(2,), frames_per_batch=4, augment=0)
    batches = TrainingBatches(scene.path, config, seed=0)
    batch = batches[0]
    assert batch["image"].shape == (2, 2, 3, 28, 28)
    assert all(batch[name].dtype == torch.float32 for name in ("image", "depth", "canonical", "confidence"))
    i = int(batch["index"][1, 0])
    index = scene["train"].index
    truth = render(int(index.subject[i]), int(index.frame[i]), int(index.camera[i]), 3, 28)
    np.testing.assert_allclose(batch["depth"][1, 0], truth["depth"], atol=2e-5)
    np.testing.assert_allclose(
        batch["canonical"][1, 0].numpy() * truth["confidence"], truth["canonical"] * truth["confidence"], atol=7e-5
    )
    rgb = batch["image"][1, 0].numpy() * np.array([0.229, 0.224, 0.225])[:, None, None]
    rgb += np.array([0.485, 0.456, 0.406])[:, None, None]
    np.testing.assert_allclose(rgb * 255, truth["image"], atol=1.001)


def test_reading_from_memory_or_disk_is_the_same(scene: Dataset) -> None:
    rows = np.array([4, 2, 9])
    for name, values in ClipReader(scene, "train", cache_mb=100).clip(rows).items():
        np.testing.assert_array_equal(values, ClipReader(scene, "train", cache_mb=0).clip(rows)[name])


def test_batches_pickle_as_a_path(scene: Dataset) -> None:
    batches = TrainingBatches(scene.path, DataConfig(), seed=1)
    first = batches[5]
    text = pickle.dumps(batches)
    assert len(text) < 2000
    torch.testing.assert_close(pickle.loads(text)[5], first)


def test_loader_resumes_at_a_step_with_workers(scene: Dataset) -> None:
    batches = TrainingBatches(scene.path, DataConfig(clip_lengths=(1, 2), frames_per_batch=2), seed=1)
    expected = [batches[step] for step in range(3, 6)]
    for got, want in zip(training_loader(batches, 3, 6, workers=2), expected, strict=True):
        torch.testing.assert_close(got, want)


def test_augmentation_is_one_change_for_the_clip() -> None:
    frame = np.random.default_rng(0).uniform(0.2, 0.8, (1, 3, 8, 8)).astype(np.float32)
    clip = np.repeat(frame, 3, 0)
    out = augment_clip(clip, 1.0, np.random.default_rng(5))
    assert np.abs(out - clip).max() > 0.02
    assert out.min() >= 0
    assert out.max() <= 1
    np.testing.assert_allclose(out[0], out[1], atol=0.2)  # they differ by noise (σ ≤ 0.02) alone
    assert np.abs(out[0] - out[1]).mean() < 0.03
    np.testing.assert_array_equal(augment_clip(clip, 0.0, np.random.default_rng(5)), clip)


def test_mirror_twice_is_nothing_and_negates_x() -> None:
    maps = render(0, 1, 0, 2, 28)
    names = ("image", "depth", "canonical", "confidence", "intrinsics")
    clip = tuple(maps[name][None].astype(np.float32) for name in names)
    once = mirror_clip(*clip)
    np.testing.assert_array_equal(once[2][0, 0], -maps["canonical"][0, :, ::-1])
    np.testing.assert_array_equal(once[2][0, 1], maps["canonical"][1, :, ::-1])
    for twice, original in zip(mirror_clip(*once), clip, strict=True):
        np.testing.assert_allclose(twice, original)


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
