"""The local cache of a remote dataset: it answers, keeps its limit, and heals."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from datagen.common.errors import CorruptDatasetError, InputError
from datagen.shards import ShardStream, StreamConfig, open_dataset
from datagen.shards.cache import CachedStore, cached
from tests.support.shard_remote import remote
from tests.support.shard_samples import build, flip

CONFIG = StreamConfig(lengths=(1, 2), frames_per_batch=6, view_ratio=0.5, seed=4)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("cache") / "dataset.zarr")


def files_of(folder: Path) -> dict[str, int]:
    sizes = {}
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # renamed or removed by a reader just now
            sizes[path.name] = path.stat().st_size
    return sizes


def test_cache_answers_again_and_keeps_its_limit(root: Path, tmp_path: Path) -> None:
    opened, store = remote(root)
    dataset = cached(opened, tmp_path, 10**9)
    with ShardStream(dataset, "train", CONFIG, workers=2) as stream:
        first = list(stream)
        reads = store.reads
        stream.load_state_dict(stream.state_dict() | {"epoch": 0})
        for one, again in zip(first, list(stream), strict=True):
            np.testing.assert_array_equal(one.arrays["image"], again.arrays["image"])
    assert store.reads == reads
    assert all(dataset.uuid in name for name in files_of(tmp_path))
    total = sum(files_of(tmp_path).values())

    small = tmp_path / "small"
    limit = total // 3
    dataset = cached(opened, small, limit)
    with ShardStream(dataset, "train", CONFIG, workers=2) as stream:
        for _ in stream:
            assert sum(files_of(small).values()) <= limit * (1 + 1 / 16)
    assert isinstance(dataset.store, CachedStore)
    assert sum(files_of(small).values()) > limit // 4


def test_cache_forgets_the_least_recently_used(root: Path, tmp_path: Path) -> None:
    _, store = remote(root)
    sizes = [len(store.read(f"train/frame/c.{k}")) + 4 for k in range(5)]
    kept = CachedStore(store, tmp_path, "u", sum(sizes[:3]) + sizes[3] // 2)
    for k in range(3):
        kept.read(f"train/frame/c.{k}")
        os.utime(next(p for p in tmp_path.iterdir() if f"c.{k}@" in p.name), (k, k))
    kept.read("train/frame/c.0")  # used just now: 1 is the oldest
    kept.read("train/frame/c.3")
    names = " ".join(files_of(tmp_path))
    assert "c.0@" in names
    assert "c.3@" in names
    assert "c.1@" not in names
    assert not [name for name in files_of(tmp_path) if name.endswith(".part")]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_cache_heals_files_a_crash_left(root: Path, tmp_path: Path, damage: str) -> None:
    _, store = remote(root)
    kept = CachedStore(store, tmp_path, "u", 10**6)
    want = kept.read("train/frame/c.0")
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    if damage == "flipped":
        flip(path, 3)
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"")
    assert kept.read("train/frame/c.0") == want
    assert path.read_bytes() == content


def test_cache_forgets_what_was_not_as_written(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, store = remote(root)
    split = cached(opened, tmp_path, 10**9)["train"]
    want = open_dataset(root)["train"].raw("image", 16, 20)
    true = store.read
    swapped = {"train/image/c.1.0.0.0": "train/image/c.2.0.0.0", "records/train-00001.json": "records/train-00002.json"}
    for key, other in swapped.items():
        monkeypatch.setattr(store, "read", lambda k, *r, a=key, b=other: true(b if k == a else k, *r))
        fresh = cached(opened, tmp_path, 10**9)["train"]
        with pytest.raises(CorruptDatasetError, match="shard 1"):
            fresh.raw("image", 16, 20)
        monkeypatch.setattr(store, "read", true)
        for one in (fresh, split):
            np.testing.assert_array_equal(one.raw("image", 16, 20), want)
            for path in tmp_path.glob("*-train-image-c.1*"):
                path.unlink()
        for path in tmp_path.glob("*-records-train-00001*"):
            path.unlink()


def test_cache_that_cannot_be_written_costs_speed_not_the_run(root: Path, tmp_path: Path) -> None:
    _, store = remote(root)
    kept = CachedStore(store, tmp_path / "cache", "u", 10**6)
    (tmp_path / "cache").rmdir()
    assert kept.read("train/frame/c.0") == store.read("train/frame/c.0")
    with pytest.raises(InputError, match="a cache of 0 bytes"):
        CachedStore(store, tmp_path, "u", 0)
