"""Datasets in object stores: pushed, resumed, verified, read; every fault ends in all of it or nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from datagen.common.errors import CorruptDatasetError, DatasetError, StorageError
from datagen.shards import open_dataset, sample_provenance, stats, verify_dataset
from datagen.shards.store import ObjectStore, open_store
from datagen.shards.tools.publish import publish
from tests.support.shard_samples import build, flip, make_plan, tree

PLAN = {"counts": {"train": 9}, "samples_per_shard": 4}


pytestmark = pytest.mark.usefixtures("without_fsync")


@pytest.fixture(scope="module")
def local(without_fsync: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("local") / "dataset.zarr", make_plan(**PLAN))


def remote_tree(url: str) -> dict[str, bytes]:
    store = open_store(url)
    return {key: store.read(key) for key in store.list()}


def test_a_pushed_dataset_is_the_same_bytes_and_reads_as_the_local_one(local: Path, s3_url: str) -> None:
    report = publish(local, s3_url)
    assert remote_tree(s3_url) == tree(local)
    assert report.kept == 0
    here, there = open_dataset(local), open_dataset(s3_url)
    assert there.uuid == here.uuid == report.uuid
    for i in (0, 7, 8):
        assert np.array_equal(there["train"].sample(i).canonical, here["train"].sample(i).canonical)
    assert verify_dataset(s3_url).ok
    assert stats(s3_url)["splits"] == stats(local)["splits"]
    assert sample_provenance(there, "train", 6)["content_key"] == "key-train-00001"


def test_zarrs_own_object_store_reads_what_was_pushed(local: Path, s3_url: str, s3_endpoint: str) -> None:
    obstore = pytest.importorskip("obstore")
    publish(local, s3_url)
    bucket, _, prefix = s3_url.removeprefix("s3://").partition("/")
    options = {"prefix": prefix, "endpoint": s3_endpoint, "client_options": {"allow_http": True}}
    store = zarr.storage.ObjectStore(obstore.store.S3Store(bucket, **options), read_only=True)
    stored = zarr.open_array(store, path="train/depth", mode="r")[...]
    assert np.array_equal(stored, open_dataset(local)["train"].raw("depth", 0, 9))


def test_pushing_again_sends_nothing(local: Path, s3_url: str) -> None:
    first = publish(local, s3_url)
    again = publish(local, s3_url)
    assert again.sent == 0
    assert again.kept == first.sent - 1  # the root document is compared, not counted


def test_a_push_broken_at_any_write_is_never_open_and_goes_on(
    local: Path, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = publish(local, s3_url + "/whole").sent
    write = ObjectStore.write
    for stop in (1, 2, 19, total, total + 1):  # the first write is the journal's
        url, count = f"{s3_url}/broken-{stop}", 0

        def failing(self: ObjectStore, key: str, data: bytes, stop: int = stop) -> None:
            nonlocal count
            count += 1
            if count == stop:
                raise StorageError(f"writing {key} failed: the store is gone", "a store that answers", "")
            write(self, key, data)

        with monkeypatch.context() as patch:
            patch.setattr(ObjectStore, "write", failing)
            with pytest.raises(StorageError, match="the store is gone"):
                publish(local, url, at_once=1)
        with pytest.raises(DatasetError, match=r"not finished|is not a dataset"):
            open_dataset(url)
        report = publish(local, url)
        assert report.sent + report.kept == total
        assert report.kept >= stop - 2
        assert remote_tree(url) == tree(local)


def test_a_store_that_keeps_other_bytes_is_noticed(local: Path, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write = ObjectStore.write

    def flipping(self: ObjectStore, key: str, data: bytes) -> None:
        write(self, key, data[:-1] + bytes([data[-1] ^ 1]) if key == "train/depth/c.1.0.0" else data)

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "write", flipping)
        with pytest.raises(StorageError, match=r"train/depth/c\.1\.0\.0 is not what was sent"):
            publish(local, s3_url)
    publish(local, s3_url)
    assert remote_tree(s3_url) == tree(local)


def test_damage_in_the_store_is_named_and_mended_by_pushing_again(local: Path, s3_url: str) -> None:
    publish(local, s3_url)
    store = open_store(s3_url)
    data = bytearray(store.read("train/canonical/c.2.0.0.0"))
    data[40] ^= 1
    store.write("train/canonical/c.2.0.0.0", bytes(data))
    report = verify_dataset(s3_url, "digests")
    assert {(p.split, p.shard) for p in report.problems} == {("train", 2)}
    with pytest.raises(CorruptDatasetError, match=r"array canonical, shard 2, sample 8"):
        open_dataset(s3_url)["train"].sample(8)
    store.delete("train/canonical/c.2.0.0.0")
    assert "is missing" in str(verify_dataset(s3_url, "quick").problems[0])
    publish(local, s3_url)
    assert remote_tree(s3_url) == tree(local)


def test_a_damaged_source_is_not_sent(local: Path, tmp_path: Path, s3_url: str) -> None:
    copy = Path(shutil.copytree(local, tmp_path / "dataset.zarr"))
    flip(copy / "train/image/c.2.0.0.0", 100)
    with pytest.raises(CorruptDatasetError, match=r"train/image/c\.2\.0\.0\.0 is damaged"):
        publish(copy, s3_url)
    assert not open_store(s3_url).exists("records/train-00002.json")


def test_other_content_is_never_overwritten_unasked(local: Path, tmp_path: Path, s3_url: str) -> None:
    other = build(tmp_path / "other", make_plan(**{**PLAN, "counts": {"train": 16}, "manifest": "{}"}))
    publish(other, s3_url)
    with pytest.raises(DatasetError, match="holds dataset"):
        publish(local, s3_url)
    assert remote_tree(s3_url) == tree(other)
    assert publish(local, s3_url, replace=True).removed > 0
    assert remote_tree(s3_url) == tree(local)
    store = open_store(s3_url + "/foreign")
    store.write("notes.txt", b"of the user")
    for replace in (False, True):
        with pytest.raises(DatasetError, match=r"notes\.txt, which belongs to no dataset"):
            publish(local, s3_url + "/foreign", replace=replace)
    store = open_store(s3_url + "/zarr")
    store.write("zarr.json", json.dumps({"zarr_format": 3, "attributes": {}}).encode())
    for replace in (False, True):
        with pytest.raises(DatasetError, match="holds something else"):
            publish(local, s3_url + "/zarr", replace=replace)


def test_a_folder_may_be_the_target(local: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    publish(local, copy)
    assert tree(copy) == tree(local)
    (copy / "train/depth/c.0.0.0").unlink()
    (copy / "train/image/c.0.0.0.0").unlink()
    (copy / "records/train-00000.json").unlink()
    assert publish(local, copy).sent == 3
    assert tree(copy) == tree(local)


@pytest.mark.parametrize("record", [True, False])
def test_other_bytes_in_the_place_of_ours_are_named_and_stay(local: Path, tmp_path: Path, record: bool) -> None:
    copy = tmp_path / "copy"
    publish(local, copy)
    (copy / "train/image/c.0.0.0.0").write_bytes(b"a photo")
    if not record:
        (copy / "records/train-00000.json").unlink()
    before = tree(copy)
    for replace in (False, True):
        with pytest.raises(
            DatasetError, match=r"holds train/image/c\.0\.0\.0\.0, whose bytes are not those of its record"
        ):
            publish(local, copy, replace=replace)
    assert tree(copy) == before
    (copy / "train/image/c.0.0.0.0").unlink()
    publish(local, copy)
    assert tree(copy) == tree(local)
