"""Reading a stream: every reader gives the same bytes, resuming is exact, damage and slow stores are dealt with."""

from __future__ import annotations

import gc
import itertools
import json
import logging
import mmap
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datagen.common.errors import CorruptDatasetError, DatasetError, InputError, MissingObjectError, StorageError
from datagen.shards import Dataset, ShardStream, StreamConfig, open_dataset
from datagen.shards.chunks import index_bytes, parse_index
from datagen.shards.metadata import chunk_path
from datagen.shards.store import LocalStore, Store
from datagen.shards.stream.buffers import Buffers
from datagen.shards.stream.mix import StreamMix
from tests.support.shard_remote import remote
from tests.support.shard_samples import build, flip, make_plan

CONFIG = StreamConfig(lengths=(1, 2), frames_per_batch=6, view_ratio=0.5, seed=4)
ARRAYS = ("image", "canonical", "depth", "frame", "intrinsics")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("stream") / "dataset.zarr")


@pytest.fixture(scope="module")
def dataset(root: Path) -> Dataset:
    return open_dataset(root)


def contents(stream: ShardStream) -> list[tuple[np.ndarray, dict[str, np.ndarray]]]:
    return [(batch.samples, batch.arrays) for batch in stream]


@pytest.fixture(scope="module")
def expected(dataset: Dataset) -> list[tuple[np.ndarray, dict[str, np.ndarray]]]:
    with ShardStream(dataset, "train", CONFIG, arrays=ARRAYS) as stream:
        return contents(stream)


def test_batches_hold_what_the_split_holds(dataset: Dataset, expected: list) -> None:
    assert sorted(np.concatenate([samples.ravel() for samples, _ in expected]).tolist()) == list(range(72))
    for samples, arrays in expected:
        stored = dataset["train"].read(ARRAYS, samples.ravel(), decode=False)
        assert tuple(arrays) == ARRAYS
        for name in ARRAYS:
            assert arrays[name].dtype == stored[name].dtype
            assert arrays[name].flags.c_contiguous
            np.testing.assert_array_equal(arrays[name].reshape(stored[name].shape), stored[name])


@pytest.mark.parametrize(("workers", "kind"), [(1, "threads"), (3, "threads"), (2, "processes")])
def test_workers_change_nothing(dataset: Dataset, expected: list, workers: int, kind: str) -> None:
    with ShardStream(dataset, "train", CONFIG, arrays=ARRAYS, workers=workers, reader_kind=kind) as stream:
        got = contents(stream)
        assert stream.state_dict()["epoch"] == 1
    for (samples, arrays), (want, stored) in zip(got, expected, strict=True):
        np.testing.assert_array_equal(samples, want)
        for name in ARRAYS:
            np.testing.assert_array_equal(arrays[name], stored[name])


def test_resume_after_a_change_of_workers_and_ranks_is_exact(dataset: Dataset, expected: list) -> None:
    flat = np.concatenate([samples.ravel() for samples, _ in expected])
    first = ShardStream(dataset, "train", CONFIG, workers=2)
    read = [batch.samples for _, batch in zip(range(5), first, strict=False)]
    state = json.loads(json.dumps(first.state_dict()))  # read ahead, but handed out five
    first.close()
    resumed = [ShardStream(dataset, "train", CONFIG, rank=r, ranks=3, workers=r) for r in range(3)]
    parts = []
    for stream in resumed:
        stream.load_state_dict(state)
        parts.append(list(stream))
        stream.close()
    for batches in zip(*parts, strict=True):
        whole = np.empty((sum(map(len, batches)), batches[0].samples.shape[1]), np.int64)
        for batch in batches:
            whole[batch.rows] = batch.samples
            for name in ("image", "depth"):
                raw = dataset["train"].read([name], batch.samples.ravel(), decode=False)[name]
                np.testing.assert_array_equal(batch.arrays[name].reshape(raw.shape), raw)
        read.append(whole)
    np.testing.assert_array_equal(np.concatenate([r.ravel() for r in read]), flat)


def test_resume_within_a_batch(dataset: Dataset, expected: list) -> None:
    stream = ShardStream(dataset, "train", CONFIG)
    stream.load_state_dict(stream.state_dict() | {"position": 1})
    first = next(iter(stream))
    np.testing.assert_array_equal(first.samples, expected[0][0][1:])


def test_epochs_follow_each_other_and_states_of_other_orders_are_refused(dataset: Dataset) -> None:
    stream = ShardStream(dataset, "train", CONFIG, workers=1)
    batches = stream.forever()
    first = [next(batches) for _ in range(len(stream.order(0)) + 2)]
    assert [b.epoch for b in first[-3:]] == [0, 1, 1]
    other = ShardStream(dataset, "train", StreamConfig(seed=9))
    with pytest.raises(InputError, match="another order"):
        other.load_state_dict(stream.state_dict())
    with pytest.raises(InputError, match="names clip 1000"):
        stream.load_state_dict(stream.state_dict() | {"position": 1000})
    stream.close()


def test_memory_is_used_again_but_never_beneath_a_batch_that_is_kept(dataset: Dataset, expected: list) -> None:
    with ShardStream(dataset, "train", CONFIG, arrays=ARRAYS, workers=2) as stream:
        for _ in range(4):
            for _ in stream:
                pass
        assert stream._buffers.made <= 2 * 2 + 2
        stream.load_state_dict(stream.state_dict() | {"epoch": 0, "position": 0})
        kept = [batch.arrays["image"] for batch in stream]
    for image, (_, arrays) in zip(kept, expected, strict=True):
        np.testing.assert_array_equal(image, arrays["image"])


@pytest.mark.parametrize("shared", [False, True])
def test_blocks_are_whole_pages_pinned_once_and_unpinned_when_they_go(shared: bool) -> None:
    pinned: list[tuple[int, int]] = []
    freed: list[int] = []

    def pin(memory: np.ndarray) -> Callable[[], None]:
        address = memory.ctypes.data
        pinned.append((address, memory.nbytes))
        return lambda: freed.append(address)

    buffers = Buffers(shared=shared, pin=pin)
    lent = [buffers.lend(5000) for _ in range(3)]
    assert all(address % mmap.PAGESIZE == 0 and nbytes % mmap.PAGESIZE == 0 for address, nbytes in pinned)
    pages = sorted(page for address, nbytes in pinned for page in range(address, address + nbytes, mmap.PAGESIZE))
    assert len(pages) == len(set(pages))  # none shared: locking one block must not touch another
    view = lent[0][1][10:20]
    lent.clear()
    gc.collect()
    buffers.lend(5000)
    assert len(pinned) == 3  # two had come back
    assert not freed
    del buffers, view
    gc.collect()
    assert sorted(freed) == sorted(address for address, _ in pinned)


def test_filters_and_weights_by_content(dataset: Dataset, tmp_path: Path) -> None:
    split = dataset["train"]
    confidence = split.read(["confidence"], slice(None))["confidence"]
    mean = confidence.sum((1, 2)) / np.maximum((confidence > 0).sum((1, 2)), 1)
    limit = float(np.median(mean)) + 1e-6
    config = StreamConfig(min_confidence=limit, subjects=("ada", "ben"))
    stream = ShardStream(dataset, "train", config, statistics_folder=tmp_path)
    wanted = np.flatnonzero((mean >= limit) & np.isin(split.index.subject, [0, 1]))
    assert sorted(stream.order(0).sequence().tolist()) == wanted.tolist()
    (kept,) = tmp_path.iterdir()
    before = kept.stat().st_mtime_ns
    np.testing.assert_array_equal(
        ShardStream(dataset, "train", config, statistics_folder=tmp_path).order(0).sequence(),
        stream.order(0).sequence(),
    )
    assert kept.stat().st_mtime_ns == before
    kept.write_bytes(b"damaged")
    assert len(ShardStream(dataset, "train", config, statistics_folder=tmp_path).order(0).sequence()) == len(wanted)

    review = ShardStream(dataset, "train", StreamConfig(verdicts=("review",)))
    assert set(split.index.frame[review.order(0).sequence()].tolist()) == {1}
    heavy = ShardStream(dataset, "train", StreamConfig(region_weights={"cheeks": 0.0, "forehead": 2.0}))
    region = split.raw("region", 0, 72)
    shares = (region == 2).sum((1, 2)) / (region > 0).sum((1, 2))
    np.testing.assert_allclose(heavy.inputs.weight, 2 * shares, rtol=1e-5)
    for changes, message in (
        ({"subjects": ("zoe",)}, "no subject 'zoe'"),
        ({"region_weights": {"beard": 2.0}}, "no region 'beard'"),
        ({"min_coverage": 1.0}, "filters leave no sample"),
    ):
        with pytest.raises(InputError, match=message):
            ShardStream(dataset, "train", StreamConfig(**changes))


def test_a_damaged_sample_is_named_and_fatal_or_skipped(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import shutil

    copy = tmp_path / "dataset.zarr"
    shutil.copytree(root, copy)
    damaged = 21
    path = copy / chunk_path("train", "depth", 1)
    content, tail = path.read_bytes(), index_bytes(16)
    offset, length = parse_index(content[-tail:], 16, len(content) - tail).of(damaged - 16)
    flip(path, offset + length // 2)
    dataset = open_dataset(copy)
    for workers in (0, 2):
        with (
            ShardStream(dataset, "train", CONFIG, workers=workers) as stream,
            pytest.raises(CorruptDatasetError, match=r"array depth, shard 1, sample 21.*on_corrupt='skip'"),
        ):
            list(stream)
    with (
        caplog.at_level(logging.WARNING),
        ShardStream(dataset, "train", CONFIG, on_corrupt="skip", workers=2) as stream,
    ):
        batches = list(stream)
    assert set(stream.damaged) == {damaged}
    assert "sample 21" in caplog.text
    read = np.concatenate([b.samples.ravel() for b in batches])
    assert damaged not in read
    assert len(read) == 72  # another clip of the batch takes the place
    for batch in batches:
        stored = dataset["train"].read(["image"], batch.samples.ravel(), decode=False)["image"]
        np.testing.assert_array_equal(batch.arrays["image"].reshape(stored.shape), stored)
    # With nothing to take its place, skipping is not possible.
    with pytest.raises(CorruptDatasetError, match="sample 21"):
        list(ShardStream(dataset, "train", StreamConfig(frames_per_batch=1), on_corrupt="skip"))


def test_what_a_store_refuses_in_the_end_is_an_error(root: Path, expected: list) -> None:
    dataset, store = remote(root, refuse=1)
    with pytest.raises(StorageError, match="busy"):
        next(iter(ShardStream(dataset, "train", CONFIG)))
    assert store.refuse == 0
    with ShardStream(dataset, "train", CONFIG, arrays=ARRAYS) as stream:
        np.testing.assert_array_equal(contents(stream)[0][1]["image"], expected[0][1]["image"])


def test_a_store_that_hangs_does_not_hang_the_run(root: Path) -> None:
    dataset, store = remote(root)
    stream = ShardStream(dataset, "train", CONFIG, workers=1, stall_s=0.2)
    store.wait_s = 0.5
    started = time.monotonic()
    with pytest.raises(StorageError, match=r"no batch came from remote://dataset.zarr within 0.2 s"):
        next(iter(stream))
    assert time.monotonic() - started < 2
    store.wait_s = 0.0
    stream.close()


def test_a_missing_file_is_named_and_not_asked_for_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, store = remote(root)
    dataset["train"].raw("image", 16, 17)
    asked: list[str] = []

    def read(key: str, *rest: int) -> bytes:
        asked.append(key)
        if key == "train/depth/c.1.0.0":
            raise MissingObjectError("gone")
        return store.inner.read(key, *rest)

    monkeypatch.setattr(store, "read", read)
    with pytest.raises(CorruptDatasetError, match=r"sample 16 \(train/depth/c\.1\.0\.0\): the file is missing"):
        dataset["train"].raw("depth", 16, 17)
    assert asked == ["train/depth/c.1.0.0", "zarr.json"]  # the root document tells whether it is still this dataset


def test_threads_share_a_reader(root: Path) -> None:
    split = open_dataset(root)["train"]
    want = split.raw("image", 0, 72)
    wrong: list[int] = []

    def read(seed: int) -> None:
        for i in np.random.default_rng(seed).permutation(72):
            if not np.array_equal(split.raw("image", int(i), int(i) + 1)[0], want[i]):
                wrong.append(int(i))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_stream_reads_an_object_store(root: Path, s3_url: str, expected: list) -> None:
    from datagen.shards.store import open_store

    store: Store = open_store(s3_url)
    local = LocalStore(root)
    for key in local.list():
        if not key.startswith("val/"):
            store.write(key, local.read(key))
    with ShardStream(open_dataset(s3_url), "train", CONFIG, arrays=ARRAYS, workers=2) as stream:
        for _, (batch, (samples, arrays)) in zip(range(4), zip(stream, expected, strict=False), strict=False):
            np.testing.assert_array_equal(batch.samples, samples)
            for name in ARRAYS:
                np.testing.assert_array_equal(batch.arrays[name], arrays[name])


def test_arguments_are_checked(dataset: Dataset) -> None:
    for arguments, message in (
        ({"rank": 2, "ranks": 2}, "rank 2 of 2"),
        ({"arrays": ("depth", "flow")}, "arrays depth, flow"),
        ({"workers": -1}, "-1 workers"),
    ):
        with pytest.raises(InputError, match=message):
            ShardStream(dataset, "train", CONFIG, **arguments)
    with pytest.raises(InputError, match="split 'training'"):
        ShardStream(dataset, "training")
    with pytest.raises(InputError, match="split is empty"):
        ShardStream(dataset, "test")


def test_datasets_are_mixed_by_weight_and_go_on_exactly(dataset: Dataset) -> None:
    def mixed() -> StreamMix:
        streams = [ShardStream(dataset, split, replace(CONFIG, seed=k)) for k, split in enumerate(("train", "val"))]
        return StreamMix(streams, (3, 1))

    mix = mixed()
    batches = mix.forever()
    seen = [(turn, batch.samples.tolist()) for turn, batch in itertools.islice(batches, 21)]
    for n in range(1, 22):
        assert abs(sum(turn == 0 for turn, _ in seen[:n]) - 0.75 * n) <= 1
    state = json.loads(json.dumps(mix.state_dict()))
    after = [(turn, batch.samples.tolist()) for turn, batch in itertools.islice(batches, 9)]
    again = mixed()
    again.load_state_dict(state)
    assert [(turn, batch.samples.tolist()) for turn, batch in itertools.islice(again.forever(), 9)] == after
    with pytest.raises(InputError, match="state is of 0 streams"):
        again.load_state_dict({})


def test_different_canonical_spaces_are_not_mixed(dataset: Dataset, tmp_path: Path) -> None:
    space = dict(dataset.plan.space) | {"half_extent": 0.2}
    other = open_dataset(build(tmp_path / "dataset.zarr", make_plan(space=space)))
    streams = [ShardStream(one, "train") for one in (dataset, other)]
    with pytest.raises(DatasetError, match=r"different canonical spaces: half_extent \(0.15 and 0.2\)"):
        StreamMix(streams, (1, 1))
    with pytest.raises(InputError, match="one weight above 0"):
        StreamMix(streams[:1], (0,))
